// What all pages are made of.
import { html, useEffect, useId, useLayoutEffect, useRef, useState } from "./lib.js";
import { ago, clock, share } from "./format.js";
import { stale, status, to } from "./state.js";

const SYMBOLS = { ok: "●", warn: "▲", bad: "✕", busy: "◐", off: "○", info: "◆" };
const STATES = {
  RUNNING: "ok", READY: "ok", SCALING: "busy", UPDATING: "busy", LAUNCHED: "busy", STARTING: "busy", LEAVING: "busy",
  DRAINING: "busy", STOPPING: "busy", IDLE: "off", UNHEALTHY: "bad", DEPLOY_FAILED: "warn",
};

/** A state in a word, by colour and symbol. kind: ok, warn, bad, busy, off, info. */
export const Badge = ({ kind = "info", title, children }) =>
  html`<span class="badge ${kind}" title=${title}><span aria-hidden="true">${SYMBOLS[kind]}</span> ${children}</span>`;

/** The same as a symbol alone; the word is its title, and read out. */
export const Mark = ({ kind, word }) => html`<span class="mark ${kind}" title=${word}><span aria-hidden="true">${SYMBOLS[kind]}</span><span class="unseen">${word}</span></span>`;

/** The badge of a state of the status, as RUNNING. */
export const StateBadge = ({ state, title }) =>
  html`<${Badge} kind=${STATES[state] ?? "info"} title=${title}>${String(state).toLowerCase().replace(/_/g, " ")}<//>`;

/** A name of a user: its own direction, cut by its column, whole in the title. href makes it a link. */
export const Name = ({ name, href, mono }) => {
  const inner = html`<bdi>${name}</bdi>`;
  const style = `name${mono ? " mono" : ""}`;
  return href ? html`<a class=${style} href=${href} title=${name}>${inner}</a>` : html`<span class=${style} title=${name}>${inner}</span>`;
};

export const EndpointLink = ({ name }) => html`<${Name} name=${name} href=${to("endpoint", name)} />`;
export const BackendLink = ({ name }) => html`<${Name} name=${name} href=${to("backend", name)} />`;

/** A time of day; the whole of it in the title. */
export const Time = ({ at, relative }) =>
  html`<time datetime=${at} title=${at}>${relative ? ago(at) : clock(at)}</time>`;

/** A number that moves: dimmed while it may be old. */
export const Num = ({ children, kind = "" }) => html`<span class="num ${kind} ${stale.value ? "old" : ""}">${children}</span>`;

/** Colour of a backend in bars and charts: by its place among those of the endpoint. */
export const hue = (index) => `s${index % 6}`;

const MOST_LABELS = 3;

/**
 * How traffic is split: a bar, and the shares as text, of many backends the largest. weights: backend -> 0..1; order: of
 * backends, for their colours.
 */
export const ShareBar = ({ weights, labels = true, order = Object.keys(weights) }) => {
  const parts = Object.entries(weights);
  const many = parts.length > MOST_LABELS + 1;
  const labelled = many ? [...parts].sort((a, b) => b[1] - a[1]).slice(0, MOST_LABELS) : parts;
  const colour = (name) => hue(order.indexOf(name));
  return html`<span class="shares">
    <span class="bar" aria-hidden="true">
      ${parts.map(([name, value]) => value > 0 && html`<span key=${name} class=${colour(name)} style=${{ width: `${value * 100}%` }} />`)}
    </span>
    ${labels && html`<span class="legend">
      ${labelled.map(([name, value]) => html`<span key=${name} title="${name} ${share(value)}"><i class="dot ${colour(name)}" aria-hidden="true" /><bdi>${name}</bdi> <b>${share(value)}</b></span>`)}${many && html`<span class="rest">+${parts.length - MOST_LABELS}</span>`}
    </span>`}
  </span>`;
};

const refuse = (event) => event.preventDefault();

/**
 * kind: primary (one on a screen), danger, quiet; none for a usual one. busy: it runs, and cannot be pressed; it is not
 * `disabled` then, which would take the focus from it.
 */
export const Button = ({ kind = "", busy, children, onClick, ...more }) =>
  html`<button type="button" class="button ${kind}" aria-busy=${busy ? "true" : null} aria-disabled=${busy ? "true" : null} onClick=${busy ? refuse : onClick} ...${more}>${children}</button>`;

/** A field with its label. `error` and `hint` are read out with it. Other properties are the input's. */
export const Field = ({ label, hint, error, hidden, options, ...more }) => {
  const id = useId();
  const about = hint || error ? `${id}-about` : null;
  const input = { id, "aria-describedby": about, "aria-invalid": error ? "true" : null, ...more };
  return html`<div class="field">
    <label for=${id} class=${hidden ? "unseen" : ""}>${label}</label>
    ${options
      ? html`<select ...${input}>${options.map((o) => html`<option key=${o.value ?? o} value=${o.value ?? o}>${o.label ?? o}</option>`)}</select>`
      : html`<input type="text" autocomplete="off" spellcheck=${false} ...${input} />`}
    ${about && html`<p id=${about} class=${error ? "error" : "hint"}>${error || hint}</p>`}
  </div>`;
};

/** Something to be noticed. kind: info, ok, warn, bad. It is read out where it is bad. action: a button. */
export const Notice = ({ kind = "info", title, action, children }) =>
  html`<div class="notice ${kind}" role=${kind === "bad" ? "alert" : "status"}>
    <span class="mark" aria-hidden="true">${SYMBOLS[kind]}</span>
    <div>${title && html`<strong>${title}</strong>`} ${children}</div>
    ${action}
  </div>`;

// What HTTP calls otherwise.
const REFUSALS = { 403: "Not allowed", 404: "Not there", 409: "Not possible now", 412: "Changed meanwhile", 413: "Too large", 422: "Refused", 503: "No controller" };

/** What a Problem of the API says. */
export const Failed = ({ error, again }) =>
  html`<${Notice} kind="bad" title=${REFUSALS[error.status] || error.title || "It failed"} action=${again && html`<${Button} onClick=${again}>Try again<//>`}><p>${error.message}</p><//>`;

/** Where there is nothing yet, and what would change that. */
export const Empty = ({ title, children }) => html`<div class="empty"><strong>${title}</strong>${children && html`<p>${children}</p>`}</div>`;

/** Lines in place of what is on its way: seen only when that takes a while. */
export const Loading = ({ what = "", lines = 3 }) =>
  html`<div class="loading" role="status"><span class="unseen">Loading ${what}</span>${Array.from({ length: lines }, (_, i) => html`<span key=${i} aria-hidden="true" />`)}</div>`;

/** Instead of what is on its way, or could not be had. */
export const Waiting = ({ what, lines, error, again }) =>
  error ? html`<div class="pad"><${Failed} error=${error} again=${again} /></div>` : html`<${Loading} what=${what} lines=${lines} />`;

/** Folded text. */
export const Details = ({ summary, open, children }) =>
  html`<details class="details" open=${open}><summary>${summary}</summary><div>${children}</div></details>`;

/** A part of a page with a head. actions: buttons at its right. */
export const Card = ({ title, actions, children, kind = "" }) =>
  html`<section class="card ${kind}" aria-label=${title}>
    ${title && html`<header><h2>${title}</h2><div class="actions">${actions}</div></header>`}
    ${children}
  </section>`;

let opened = false;

/** The head of a page: its one h1, which gets the focus when another page is opened, unless somebody types. */
export const Heading = ({ children, title, aside }) => {
  const head = useRef();
  useEffect(() => {
    document.title = `${title} · ${status.value?.name || "Pointsman"}`;
    if (opened && !document.activeElement.matches("input, select, textarea")) head.current.focus({ preventScroll: true });
    opened = true;
  }, [title]);
  return html`<div class="heading"><h1 ref=${head} tabindex="-1">${children ?? title}</h1>${aside}</div>`;
};

/** Pairs of a noun and a value. items: [[noun, value], ...]; those without a value are left out. */
export const Facts = ({ items }) =>
  html`<dl class="facts">${items.filter(([, value]) => value != null && value !== "").map(([noun, value]) => html`<div key=${noun}><dt>${noun}</dt><dd>${value}</dd></div>`)}</dl>`;

/** Tabs. items: [[key, label], ...]; its panel is drawn by the caller with role="tabpanel" and the id `${id}-panel`. */
export const Tabs = ({ id, items, current, onSelect, label }) => {
  const move = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const place = items.findIndex(([key]) => key === current);
    onSelect(items[(place + step + items.length) % items.length][0]);
    event.currentTarget.children[(place + step + items.length) % items.length].focus();
    event.preventDefault();
  };
  return html`<div class="tabs" role="tablist" aria-label=${label} onKeyDown=${move}>
    ${items.map(([key, text]) => html`<button key=${key} type="button" role="tab" id="${id}-${key}" aria-controls="${id}-panel" aria-selected=${String(key === current)} tabindex=${key === current ? 0 : -1} onClick=${() => onSelect(key)}>${text}</button>`)}
  </div>`;
};

/** A question before something that is hard to take back. Shown while `open`; Esc is "Cancel". */
export const Confirm = ({ open, title, yes, kind = "danger", onYes, onNo, children }) => {
  const dialog = useRef();
  useEffect(() => {
    if (open && !dialog.current.open) dialog.current.showModal();
    if (!open && dialog.current.open) dialog.current.close();
  }, [open]);
  const id = useId();
  return html`<dialog ref=${dialog} class="confirm" aria-labelledby=${id} onCancel=${(e) => (e.preventDefault(), onNo())}>
    <h2 id=${id}>${title}</h2>
    ${open && children}
    <div class="actions"><${Button} onClick=${onNo}>Cancel<//><${Button} kind=${kind} onClick=${onYes}>${yes}<//></div>
  </dialog>`;
};

/**
 * A table that draws only the rows that are seen.
 *
 * columns: [{key, head, num?, cell(row), sort?(row), wide?, width?}]; num: right-aligned; wide: left out on small
 * screens; width: a class w1..w6. kind: tall, for rows of two lines. rowKey(row): its key. empty: shown where there are no rows. sorted: key of the column
 * by which it is sorted at first. All rows are of one height.
 */
export const DataTable = ({ label, columns, rows, rowKey, empty, kind = "", sorted = "" }) => {
  const [order, setOrder] = useState({ key: sorted, down: false });
  const [top, setTop] = useState(0);
  const [height, setHeight] = useState(45);
  const frame = useRef();
  const first = useRef();
  const shown = arrange(rows, columns, order);
  useLayoutEffect(() => {
    const measured = first.current?.getBoundingClientRect().height;
    if (measured && Math.abs(measured - height) > 1) setHeight(measured);
  });
  if (!rows.length) return empty ?? null;
  const many = rows.length > 60;
  const start = many ? Math.max(0, Math.floor(top / height) - 4) : 0;
  const end = many ? start + Math.ceil((frame.current?.clientHeight ?? 600) / height) + 8 : shown.length;
  const sortBy = (key) => setOrder({ key, down: order.key === key ? !order.down : Boolean(columns.find((c) => c.key === key).num) });
  const gap = (rows) => rows > 0 && html`<tr aria-hidden="true" class="gap"><td colspan=${columns.length} style=${{ height: `${rows * height}px` }} /></tr>`;
  return html`<div class="frame ${many ? "many" : ""}" ref=${frame} tabindex=${many ? 0 : null} role=${many ? "region" : null} aria-label=${many ? label : null} onScroll=${(e) => many && setTop(e.currentTarget.scrollTop)}>
    <table class="table ${kind}" aria-label=${label} aria-rowcount=${rows.length + 1}>
      <thead><tr>
        ${columns.map((c) => html`<th key=${c.key} scope="col" class="${kindOf(c)} ${c.width ?? ""}" aria-sort=${order.key === c.key ? (order.down ? "descending" : "ascending") : null}>
          ${c.sort ? html`<button type="button" onClick=${() => sortBy(c.key)}>${c.head}${order.key === c.key && html`<span aria-hidden="true"> ${order.down ? "↓" : "↑"}</span>`}</button>` : c.head}
        </th>`)}
      </tr></thead>
      <tbody>
        ${gap(start)}
        ${shown.slice(start, end).map((row, i) => html`<tr key=${rowKey(row)} ref=${i ? null : first} aria-rowindex=${start + i + 2}>${columns.map((c) => html`<td key=${c.key} class="${kindOf(c)} ${c.width ?? ""}">${c.cell(row)}</td>`)}</tr>`)}
        ${gap(shown.length - end)}
      </tbody>
    </table>
  </div>`;
};

const kindOf = (column) => `${column.num ? "right" : ""} ${column.wide ? "wide" : ""}`;

const BY_NAME = new Intl.Collator("en", { numeric: true });

function arrange(rows, columns, { key, down }) {
  const by = columns.find((column) => column.key === key)?.sort;
  if (!by) return rows;
  const sign = down ? -1 : 1;
  return rows
    .map((row) => [by(row), row])
    .sort(([a], [b]) => sign * (typeof a === "string" ? BY_NAME.compare(a, b) : (a ?? -1) - (b ?? -1)))
    .map(([, row]) => row);
}

/**
 * Something of the API for a component: `{data, version, error, loading, reload}`. Asked again whenever one of `deps`
 * changes; what was there is shown meanwhile.
 *
 * ask(signal): as `(signal) => call("GET", "/history", {signal})`.
 */
export function useCall(ask, deps) {
  const [state, setState] = useState({ loading: true });
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const control = new AbortController();
    setState((before) => ({ ...before, loading: true }));
    ask(control.signal).then(
      ({ data, version }) => setState({ data, version, loading: false }),
      (error) => control.signal.aborted || setState((before) => ({ ...before, error, loading: false })),
    );
    return () => control.abort();
  }, [...deps, turn]);
  return { ...state, reload: () => setTurn((n) => n + 1) };
}

/** A change by the API: `{run, busy, error, clear}`. run(...) gives what `act` gives, or null where it failed. */
export function useAction(act) {
  const [state, setState] = useState({ busy: false, error: null });
  const run = async (...given) => {
    setState({ busy: true, error: null });
    try {
      const done = await act(...given);
      setState({ busy: false, error: null });
      return done;
    } catch (error) {
      setState({ busy: false, error });
      return null;
    }
  };
  return { ...state, run, clear: () => setState({ busy: false, error: null }) };
}
