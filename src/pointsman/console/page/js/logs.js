// What the processes of the instance have logged and printed, of all of them in order of time.
import { html, useEffect, useLayoutEffect, useRef, useState } from "./lib.js";
import { get } from "./api.js";
import { status, to } from "./state.js";
import { count, some } from "./format.js";
import { Button, Empty, Failed, Field, Heading, Loading, Name } from "./parts.js";

const KEPT = 1000;
const EVERY_MS = 1000;
// Shown as text: what would move the cursor, colour or turn around what follows.
const HIDDEN = /[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069]/g;
const plain = (text) => text.replace(HIDDEN, (c) => (c < "\u0100" ? "\\x" : "\\u") + c.charCodeAt(0).toString(16).padStart(c < "\u0100" ? 2 : 4, "0"));

let counter = 0;
const numbered = (lines) => lines.map((one) => ({ ...one, id: ++counter, line: plain(one.line) }));

const backendOf = (process) => (process?.includes("#") ? process.replace(/#[^#]*$/, "") : undefined);

/** What can be chosen: all, the processes beside replicas, backends, and the replicas of the one that is chosen. */
function choices({ backend, process }) {
  const all = status.value.backends;
  const open = backend ?? backendOf(process);
  const found = [["", "All processes"], ["process=controller", "controller"], ["process=ingress", "ingress"], ...Object.keys(all).sort().flatMap((name) =>
    [["backend=" + name, name], ...(name === open ? all[name].replicas.map(({ tag }) => ["process=" + tag, `\u2003${tag}`]) : [])])];
  const now = process ? "process=" + process : backend ? "backend=" + backend : "";
  if (!found.some(([value]) => value === now)) found.push([now, process ?? backend]); // it has ended
  return [now, found.map(([value, label]) => ({ value, label }))];
}

/** The lines for `query`, and those that come while `live`. */
function useLines(query, live) {
  const [state, setState] = useState({ lines: null, held: 0 });
  const key = JSON.stringify(query);
  useEffect(() => setState({ lines: null, held: 0 }), [key]);
  const next = useRef({});
  useEffect(() => {
    const control = new AbortController();
    let timer;
    if (next.current.key !== key) next.current = { key };
    const ask = async () => {
      try {
        const after = next.current.after;
        const { process, ...rest } = query;
        const backend = backendOf(process) ?? rest.backend;
        const got = document.hidden ? { lines: [], next: after } : await get("/logs", { ...rest, backend, after, lines: after ? 200 : 500 }, control.signal);
        next.current.after = got.next;
        const fresh = numbered(process ? got.lines.filter((one) => one.process === process) : got.lines);
        setState((was) => {
          if (was.lines && after && !fresh.length && !got.held_back && !was.error) return was;
          return { lines: (after ? was.lines ?? [] : []).concat(fresh).slice(-KEPT), held: was.held + (got.held_back ?? 0), nodes: got.nodes ?? was.nodes };
        });
      } catch (error) {
        if (control.signal.aborted) return;
        setState((was) => ({ ...was, error }));
      }
      if (live && !control.signal.aborted) timer = setTimeout(ask, EVERY_MS);
    };
    if (live || next.current.after === undefined) ask();
    return () => (control.abort(), clearTimeout(timer));
  }, [key, live]);
  return state;
}

export const LogsPage = ({ query }) => {
  const [live, setLive] = useState(true);
  const [typed, setTyped] = useState(query);
  const { lines, held, error, nodes } = useLines(query, live);
  const elsewhere = nodes?.length ? (status.value.metrics ?? []).filter(({ node }) => node && !nodes.some((begin) => node.startsWith(begin))) : [];
  const list = useRef();
  const end = useRef(true);
  useLayoutEffect(() => {
    if (list.current && end.current) list.current.scrollTop = list.current.scrollHeight;
  }, [lines]);
  const set = (name) => (event) => setTyped({ ...typed, [name]: event.target.value });
  const open = (sought) => (location.hash = to("logs", "", Object.fromEntries(Object.entries(sought).filter(([, value]) => value))));
  const choose = ({ target: { value } }) => {
    const [kind, name] = /^([a-z]+)=(.*)/s.exec(value)?.slice(1) ?? ["backend", ""];
    open({ text: typed.text, request_id: typed.request_id, [kind]: name });
  };
  useEffect(() => setTyped(query), [JSON.stringify(query)]);
  const [chosen, options] = choices(query);
  return html`<${Heading} title="Logs" aside=${html`<${Button} onClick=${() => setLive(!live)}>${live ? "Pause" : "Follow"}<//>`} />
    <form class="filters" onSubmit=${(event) => (event.preventDefault(), open(typed))}>
      <${Field} label="Process" options=${options} value=${chosen} onChange=${choose} />
      <${Field} label="Text" type="search" value=${typed.text ?? ""} onInput=${set("text")} />
      <${Field} label="Request id" type="search" value=${typed.request_id ?? ""} onInput=${set("request_id")} />
      <button class="button" type="submit">Search</button>
    </form>
    ${error && html`<${Failed} error=${error} />`}
    <section class="card" aria-label="Lines">
      ${!lines ? !error && html`<${Loading} what="logs" lines=${8} />`
        : lines.length
          ? html`<ol class="log" ref=${list} tabindex="0" aria-label="Lines, oldest first" onScroll=${({ currentTarget: l }) => (end.current = l.scrollHeight - l.scrollTop - l.clientHeight < 40)}>
              ${lines.map((one, i) => html`<li key=${one.id} class=${one.level}><${Name} name=${/^\s/.test(one.line) && lines[i - 1]?.process === one.process ? "" : one.process} /><code>${one.line}</code></li>`)}
            </ol>`
          : html`<${Empty} title="No lines">${Object.keys(query).length ? "Nothing that was logged fits this search." : "Nothing has been logged yet."}<//>`}
      <footer class="foot dim"><span>${some(lines?.length ?? 0, "line")}${live ? ", following" : ""}</span>
        ${held > 0 && html`<span>▲ held back ${count(held)}: at most 200 lines are shown a second; all are in <code>pointsman logs</code></span>`}
        ${elsewhere.length > 0 && html`<span title=${elsewhere.map(({ node }) => node).join("\n")}>○ without ${some(elsewhere.length, "node")} on other machines: <code>pointsman logs</code> there has theirs</span>`}</footer>
    </section>`;
};
