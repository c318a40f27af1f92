// The configuration of a backend, and a form for it: only what is changed is sent, and only if nobody else was first.
import { html, useState } from "./lib.js";
import { at, call } from "./api.js";
import { may, say } from "./state.js";
import { some } from "./format.js";
import { Button, Card, Details, Failed, Notice, useAction } from "./parts.js";

const MAIN = "num_replicas max_batch_size batch_wait_timeout target_latency_ms max_concurrent_queries max_queued_queries idle_timeout_s".split(" ");
const SCALING = "min_replicas max_replicas target_ongoing_requests target_latency_ms downscale_delay_s".split(" ");
const unit = (name) => (/_ms$/.test(name) ? "ms" : /_(s|timeout)$/.test(name) ? "s" : "");
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

/** A value as text, and back: numbers, lists and so on as JSON, words as they are, nothing for null. */
const shown = (value, tabs) => (value == null ? "" : typeof value === "string" ? value : JSON.stringify(value, null, tabs));
function read(text, json) {
  const said = text.trim();
  if (said === "") return null;
  try {
    return JSON.parse(said);
  } catch (error) {
    if (json || /^[[{"]/.test(said)) throw error;
    return said;
  }
}

/** The fields in groups: `[title, [[path, value], ...]]`. */
function grouped(config) {
  const pick = (from, names, before = "") => names.map((name) => [before + name, from[name] ?? null]);
  const names = Object.keys(config).filter((name) => name !== "autoscaling" && name !== "user_config");
  const scaling = config.autoscaling;
  return [
    ["", pick(config, names.filter((name) => MAIN.includes(name)))],
    ["autoscaling", scaling ? pick(scaling, SCALING, "autoscaling.") : []],
    ["More", [...pick(scaling ?? {}, Object.keys(scaling ?? {}).filter((name) => !SCALING.includes(name)), "autoscaling."), ...pick(config, names.filter((name) => !MAIN.includes(name)))]],
  ].filter(([, fields]) => fields.length);
}

/** What to send for what was typed: `[changes, wrong]`; wrong: the paths of what cannot be read. */
function changesOf(typed, config) {
  const changes = {};
  const wrong = [];
  for (const [path, text] of Object.entries(typed)) {
    const [name, inner] = path.split(".");
    const now = inner ? config[name]?.[inner] : config[name];
    try {
      const value = read(text, name === "user_config");
      if (same(value, now ?? null)) continue;
      changes[name] = inner ? { ...(changes[name] ?? config[name]), [inner]: value ?? undefined } : value; // left out: the default
    } catch {
      wrong.push(path);
    }
  }
  if (config.autoscaling && "num_replicas" in changes) changes.autoscaling = null; // a fixed number ends it
  return [changes, wrong];
}

export const ConfigCard = ({ name, config, version, reload, hidden }) => {
  const [edit, setEdit] = useState(null); // {version, config, typed}: what there was when it began, and what was typed
  const apply = useAction((body, seen) => call("PATCH", at`/backends/${name}/config`, { body, version: seen }));
  const now = edit?.config ?? config;
  const [changes, wrong] = changesOf(edit?.typed ?? {}, now);
  const number = Object.keys(changes).length;
  const moved = edit && !apply.busy && edit.version !== version;
  const run = async (event) => {
    event.preventDefault();
    const done = await apply.run(changes, edit.version);
    reload();
    if (done) setEdit(null), say(`The configuration of ${name} is changed`);
  };
  const input = (path, value) => {
    const onInput = (e) => setEdit({ ...edit, typed: { ...edit.typed, [path]: e.target.value } });
    const given = { "aria-label": path, value: edit.typed[path] ?? shown(value, path === "user_config" ? 2 : 0), onInput, "aria-invalid": wrong.includes(path) ? "true" : null };
    if (path === "user_config") return html`<textarea class="mono" rows="5" spellcheck=${false} ...${given} />`;
    return typeof value === "boolean" ? html`<select ...${given}><option>true</option><option>false</option></select>` : html`<input type="text" autocomplete="off" spellcheck=${false} placeholder="–" ...${given} />`;
  };
  const rows = (fields, title) => html`<dl class="settings">${fields.map(([path, value]) => html`<div key=${path} class=${path in (edit?.typed ?? {}) ? "touched" : ""}>
    <dt class="mono" title=${path}>${path.replace(/^experimental_/, "").replace(/^autoscaling\./, title === "autoscaling" ? "" : "$&")}</dt>
    <dd class=${edit ? "field" : "num"}>${edit ? input(path, value) : shown(value) || "–"}</dd><dd><small>${unit(path)}</small></dd></div>`)}</dl>`;
  return html`<${Card} title="Configuration" actions=${may("operate") && !edit && html`<${Button} onClick=${() => (apply.clear(), setEdit({ version, config, typed: {} }))}>Edit<//>`}>
    <form class="pad stack" onSubmit=${run}>
      ${grouped(now).map(([title, fields]) => (title === "More" ? html`<${Details} summary="${fields.length} more">${rows(fields)}<//>` : html`<div>${title && html`<h3>${title}</h3>`}${rows(fields, title)}</div>`))}
      ${hidden && html`<p class="dim">user_config is set, and cannot be shown as JSON.</p>`}
      ${"user_config" in now && html`<div class="field"><h3>user_config</h3>${edit ? input("user_config", now.user_config) : html`<pre class="code" tabindex="0">${shown(now.user_config, 2) || "–"}</pre>`}</div>`}
      ${moved && html`<${Notice} kind="warn" title="Somebody has changed it meanwhile" action=${html`<${Button} kind="small" onClick=${() => (apply.clear(), setEdit({ ...edit, version, config }))}>Show that<//>`}><p>${apply.error?.status === 412 ? `${apply.error.message}. ` : ""}What you have typed is kept.</p><//>`}
      ${wrong.length > 0 && html`<p class="error" role="alert">${wrong.join(", ")}: this is no JSON.</p>`}
      ${apply.error && !(moved && apply.error.status === 412) && html`<${Failed} error=${apply.error} />`}
      ${edit && html`<div class="actions"><${Button} kind="primary" type="submit" busy=${apply.busy} disabled=${!number || wrong.length > 0}>Apply<//>
        <${Button} onClick=${() => setEdit(null)}>Cancel<//><span class="dim" role="status">${number ? `${some(number, "field")} changed; ${changes.autoscaling === null ? "autoscaling ends" : "no replica restarts"}` : "Nothing changed yet"}</span></div>`}
    </form><//>`;
};
