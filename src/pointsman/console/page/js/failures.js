// Why a backend's replicas failed: what the status says of it, and the last ones with their tracebacks.
import { html } from "./lib.js";
import { to } from "./state.js";
import { Details, Name, Notice, Time } from "./parts.js";
import { some } from "./format.js";

const words = (reason) => reason.replace(/_/g, " ");

const Trace = ({ text, open, summary = "Traceback" }) =>
  text && html`<${Details} summary=${summary} open=${open}><pre class="code" tabindex="0">${text}</pre><//>`;

/** What is wrong with a backend now. one: of the status. named: whether it says of which. */
export const Trouble = ({ name, one, named }) => {
  const { failure, replicas_running: up, state } = one;
  if (!failure) return null;
  const back = state === "DEPLOY_FAILED";
  const title = (failure.failures ? `${some(failure.failures, "failure")}: ` : "") + words(failure.reason);
  const what = back ? "the last change was taken back" : title;
  return html`<${Notice} kind=${up ? "warn" : "bad"} title=${named ? `${name}: ${what}` : what[0].toUpperCase() + what.slice(1)}
      action=${html`<a class="button small" href=${to("logs", "", { backend: name })}>Logs</a>`}>
    <p>${back ? `${title}. ` : ""}${failure.text}</p>
    <${Trace} text=${failure.traceback} />
  <//>`;
};

/** Failures, newest first, with how often in a row each was the same. */
function runs(list) {
  const found = [];
  for (const one of [...list].reverse()) {
    const last = found.at(-1);
    if (last?.reason === one.reason && last.text === one.text) last.times++;
    else found.push({ ...one, times: 1 });
  }
  return found;
}

/** The last failures. list: as the API has them. */
export const Failures = ({ list, name }) =>
  list.length
    ? html`<ol class="rows">${runs(list).map((one, i) => html`<li key=${one.time + i}>
        <div class="line"><${Time} at=${one.time} /><b>${words(one.reason)}</b>${one.times > 1 && html`<span class="dim">${one.times} times in a row</span>`}
          <a class="dim" href=${to("logs", "", { process: one.replica })} title="Its log"><${Name} name=${one.replica} mono /></a></div>
        <p class="wrap">${one.text}</p>
        <${Trace} text=${one.traceback} />
      </li>`)}</ol>`
    : html`<p class="pad dim">None. Starts that fail, and replicas that die or do not answer, are listed here.</p>`;
