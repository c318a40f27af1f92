// The last traffic policies of an endpoint, and the way back to one; and for a while, the way back from a change.
import { words } from "./format.js";
import { html, useEffect, useSignal } from "./lib.js";
import { Badge, Button, Card, Failed, Loading, Notice, ShareBar, Time, useAction } from "./parts.js";
import { rollBack, undo } from "./policy.js";
import { differences } from "./slider.js";
import { may } from "./state.js";

const FIRST = 8;

export function Policies({ policy }) {
  const all = useSignal(false);
  const back = useAction((version) => rollBack(policy, version));
  const changes = policy.history.value;
  const newest = changes.map((change, at) => ({ ...change, text: whatChanged(changes[at - 1], change) })).reverse();
  const seen = all.value ? newest : newest.slice(0, FIRST);
  const steer = may("operate");
  const order = [...new Set([policy.now.value, ...newest].flatMap((one) => Object.keys(one.weights)))];
  if (!changes.length) return html`<${Card} title="History"><${Loading} what="the history" /><//>`;
  return html`<${Card} kind="policies" title="History">
    ${back.error && html`<${Failed} error=${back.error} />`}
    <table class="table lines" aria-label="History of the traffic">
      <thead><tr><th>Version</th><th>When</th><th>Split</th><th>Change</th><th>By</th>${steer && html`<th><span class="unseen">Roll back</span></th>`}</tr></thead>
      <tbody>${seen.map((change, at) => html`<tr key=${change.version}>
        <th scope="row" class="num">${change.version}</th>
        <td class="num" data-head="When"><${Time} at=${change.time} /></td>
        <td data-head="Split"><${ShareBar} weights=${change.weights} order=${order} /></td>
        <td data-head="Change">${change.text}</td>
        <td data-head="By"><span class="name" title=${change.by}><bdi>${change.by}</bdi></span></td>
        ${steer && html`<td class="right">${at === 0 ? html`<${Badge} kind="ok">in force<//>` : html`<${Button} kind="quiet" aria-label=${`Roll back to version ${change.version}`} busy=${back.busy} onClick=${() => back.run(change.version)}>Roll back<span class="wide"> to version ${change.version}</span><//>`}</td>`}
      </tr>`)}</tbody>
    </table>
    ${newest.length > FIRST && html`<${Button} kind="quiet" aria-expanded=${String(all.value)} onClick=${() => (all.value = !all.value)}>${all.value ? "Show fewer" : `Show all ${newest.length}`}<//>`}
  <//>`;
}

function whatChanged(before, { weights, shadows, change }) {
  const told = words(change.replaceAll("_", " "));
  const shadowed = before && differences(before.shadows, shadows);
  const moved = before && [differences(before.weights, weights), shadowed && `shadow ${shadowed}`].filter(Boolean).join(", ");
  return html`${told}${moved && html`<small>${moved}</small>`}`;
}

/** The last change made here, for as long as it can be undone by one press. */
export function Done({ policy }) {
  const done = policy.done.value;
  return done && done.after === policy.now.value.version && html`<${Undo} key=${done.until} policy=${policy} done=${done} />`;
}

function Undo({ policy, done }) {
  const left = useSignal(done.until - Date.now());
  const back = useAction(() => undo(policy, done));
  useEffect(() => {
    const timer = setInterval(() => {
      left.value = done.until - Date.now();
      if (left.value <= 0 && policy.done.value === done) policy.done.value = null;
    }, 500);
    return () => clearInterval(timer);
  }, [done]);
  const action = html`<div class="actions"><${Button} busy=${back.busy} onClick=${back.run}>Undo<//><span class="num" aria-hidden="true">${Math.max(0, Math.ceil(left.value / 1000))} s</span></div>`;
  return html`<div class="toast"><${Notice} kind=${back.error ? "bad" : "ok"} title=${back.error ? "Not undone." : `Version ${done.after} is in force:`} action=${action}><bdi>${back.error?.message ?? done.text}</bdi><//></div>`;
}
