// The bar on top of each page: the instance, how it is, the pages, and who looks.
import { html, useEffect, useRef } from "./lib.js";
import { connection, find, me, numbers, own, route, signOut, stale, status, theme, to } from "./state.js";
import { percent, rate, some } from "./format.js";
import { Badge, Button, Num } from "./parts.js";

const PAGES = [["overview", "Overview"], ["history", "History"], ["logs", "Logs"], ["config", "Config"]];
const THEMES = {
  system: ["M2 3h12v8H2zM6 14h4M8 11v3", "as the system"],
  light: ["M8 5a3 3 0 100 6 3 3 0 000-6M8 1v1.5M8 13.5V15M1 8h1.5M13.5 8H15M3 3l1 1M12 12l1 1M3 13l1-1M12 4l1-1", "light"],
  dark: ["M13 9.5A5.5 5.5 0 116.5 3 4.5 4.5 0 0013 9.5z", "dark"],
};

/** How the instance is: `[kind, word, backends that are the reason]`. */
function health({ backends }) {
  const of = (...states) => Object.keys(backends).filter((name) => states.includes(backends[name].state));
  const bad = of("UNHEALTHY", "DEPLOY_FAILED");
  const down = bad.filter((name) => !backends[name].replicas_running);
  if (down.length) return ["bad", "failing", down];
  if (bad.length) return ["warn", "degraded", bad];
  const busy = of("UPDATING", "SCALING");
  return busy.length ? ["busy", "changing", busy] : ["ok", "ok", []];
}

const State = () => {
  const now = connection.value;
  if (now === "away") return html`<${Badge} kind="warn">no controller<//>`;
  if (now === "lost") return html`<${Badge} kind="bad">no connection<//>`;
  if (!status.value) return html`<${Badge} kind="busy">connecting<//>`;
  const [kind, word, why] = health(status.value);
  const badge = html`<${Badge} kind=${kind} title=${why.join(", ")}>${word}<//>`;
  return why.length ? html`<a href=${why.length > 1 ? "#/" : to("backend", why[0])}>${badge}</a>` : badge;
};

/** Requests a second and the share of errors, of all endpoints. */
function totals() {
  let calls = 0;
  let errors = 0;
  for (const one of Object.values(numbers.value?.endpoints ?? {})) {
    calls += one.per_second ?? 0;
    errors += (one.per_second ?? 0) * (one.error_share ?? 0);
  }
  return { calls, errors: calls ? errors / calls : null };
}

const Totals = () => {
  if (!status.value) return null;
  const { calls, errors } = totals();
  return html`<span class="totals">
    <span>${some(Object.keys(status.value.endpoints).length, "endpoint")}</span>
    <span><${Num}>${rate(calls)}<//> req/s</span>
    <span><${Num} kind=${errors > 0.01 ? "bad" : ""}>${percent(errors)}<//> errors</span>
  </span>`;
};

const Find = () => {
  const field = useRef();
  useEffect(() => {
    const key = (event) => {
      if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.closest("input, textarea, select")) return;
      event.preventDefault();
      field.current.focus();
      field.current.select();
    };
    addEventListener("keydown", key);
    return () => removeEventListener("keydown", key);
  }, []);
  const type = (event) => {
    find.value = event.target.value;
    if (route.value.page !== "overview") location.hash = to("overview");
  };
  const open = () => {
    const named = ["endpoint", "backend"].find((kind) => own(status.value?.[`${kind}s`], find.value.trim()));
    const first = named ? to(named, find.value.trim()) : document.querySelector("main td a")?.hash;
    if (!first) return;
    field.current.blur();
    find.value = "";
    location.hash = first;
  };
  const press = (event) => {
    if (event.key === "Escape") find.value = "";
    if (event.key === "Enter") open();
  };
  return html`<label class="find"><span class="unseen">Find endpoints and backends</span>
    <input ref=${field} type="search" placeholder="Find" value=${find} onInput=${type} onKeyDown=${press} autocomplete="off" spellcheck=${false} />
    <kbd aria-hidden="true">/</kbd></label>`;
};

const Theme = () => {
  const [icon, word] = THEMES[theme.value];
  const next = { system: "light", light: "dark", dark: "system" }[theme.value];
  return html`<${Button} kind="quiet icon" aria-label="Theme: ${word}" title="Theme: ${word}" onClick=${() => (theme.value = next)}><svg width="16" height="16" aria-hidden="true"><path d=${icon} /></svg><//>`;
};

const Who = () =>
  me.value &&
  html`<span class="who"><span class="unseen">Signed in as</span><span class="name" title=${me.value.name}><bdi>${me.value.name}</bdi></span><span>: ${me.value.role}${me.value.read_only ? ", read only" : ""}</span>
    <${Button} kind="quiet" onClick=${() => signOut()}>Sign out<//></span>`;

const Banner = () => {
  if (!stale.value) return null;
  const text =
    connection.value === "away"
      ? "The controller does not answer. Requests are served as before; changes wait until it is back. Numbers are the last ones known."
      : "The console does not answer. Numbers are the last ones known. Trying again.";
  return html`<div class="banner" role="alert">${text}</div>`;
};

export const Header = () => html`<header class="top">
    <div class="row">
      <a class="instance" href="#/"><img src="icon.svg" alt="" width="20" height="20" /><bdi>${status.value?.name || "Pointsman"}</bdi></a>
      <${State} /><${Totals} />
      <span class="space" />
      <${Find} /><${Theme} /><${Who} />
    </div>
    <nav aria-label="Pages">
      ${PAGES.map(([page, label]) => html`<a key=${page} href=${to(page)} aria-current=${route.value.page === page ? "page" : null}>${label}</a>`)}
    </nav>
  </header>
  <${Banner} />`;
