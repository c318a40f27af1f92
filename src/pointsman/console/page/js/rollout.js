// The newest rollout of an endpoint: its steps, its gates as bars towards their limits, why it went back, and controls.
import { call } from "./api.js";
import { count, ms, percent, rate, share, some, words } from "./format.js";
import { html, useSignal } from "./lib.js";
import { BackendLink, Badge, Button, Card, Confirm, Details, Failed, Notice, Time, useAction } from "./parts.js";
import { refresh } from "./policy.js";
import { may, rolloutOf } from "./state.js";

const ANSWER_MS = 3000; // for which an answer of the API counts more than the stream
const KINDS = { running: "busy", paused: "warn", inconclusive: "warn", promoted: "ok", rolled_back: "bad", aborted: "off", superseded: "off" };
const minutes = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
const MARKS = { done: "✓", now: "●", next: "○", left: "✕" };

export function RolloutCard({ policy }) {
  const answer = useSignal(null);
  const { until = 0, rollout = null } = answer.value ?? {};
  const shown = until > Date.now() ? rollout : rolloutOf(policy.name);
  if (!shown) return null;
  const { id, plan, state, ended, reason, began, by, exposed } = shown;
  const told = html`<p class="hint">Begun <${Time} at=${began} relative /> by <bdi>${by}</bdi>${ended && html`, ended <${Time} at=${ended} relative />`}. ${some(exposed, "request")} answered by <bdi>${plan.to}</bdi> in all steps.</p>`;
  return html`<${Card} kind="rollout" title=${`Rollout ${id}`} actions=${!ended && may("operate") && html`<${Controls} policy=${policy} rollout=${shown} answer=${answer} />`}>
    <div class="line"><${Badge} kind=${KINDS[state]}>${state.replace("_", " ")}<//> <span class="to">to</span> <${BackendLink} name=${plan.to} /><${Steps} rollout=${shown} /></div>
    ${reason && html`<${Notice} kind=${KINDS[state] === "busy" ? "info" : KINDS[state]}>${words(reason)}<//>`}
    ${!ended && html`<${Progress} rollout=${shown} />`}
    ${ended && state !== "rolled_back" ? html`<${Details} summary="Gates"><${Gates} rollout=${shown} /><//>` : html`<${Gates} rollout=${shown} />`}
    ${told}
  <//>`;
}

function Controls({ policy, rollout, answer }) {
  const asked = useSignal("");
  const { plan, state } = rollout;
  const order = useAction(async (verb) => {
    asked.value = "";
    const { data } = await call("POST", `${policy.path}/rollout/${verb}`);
    answer.value = { rollout: data, until: Date.now() + ANSWER_MS };
    await refresh(policy);
  });
  const button = (verb, text, act = () => order.run(verb)) => html`<${Button} busy=${order.busy} onClick=${act}>${text}<//>`;
  const ask = (verb) => () => (asked.value = verb);
  return html`${state === "running" ? button("pause", "Pause") : button("resume", "Resume")}
    ${button("promote", "Promote…", ask("promote"))} ${button("abort", "Abort…", ask("abort"))}
    ${order.error && html`<${Failed} error=${order.error} />`}
    <${Confirm} open=${asked.value === "promote"} title="Promote now?" yes="Promote" kind="primary" onYes=${() => order.run("promote")} onNo=${ask("")}>
      <p><bdi>${plan.to}</bdi> gets ${share(plan.steps.at(-1))} of the traffic at once, whatever the gates say.</p><//>
    <${Confirm} open=${asked.value === "abort"} title="Abort the rollout?" yes="Abort rollout" onYes=${() => order.run("abort")} onNo=${ask("")}>
      <p>The weights from before the rollout are restored.</p><//>`;
}

function Steps({ rollout }) {
  const { plan, step, state, ended } = rollout;
  const how = (at) => (at < step || state === "promoted" ? "done" : at > step ? "next" : ended ? "left" : "now");
  return html`<ol class="steps" aria-label="Steps">
    ${plan.steps.map((weight, at) => html`<li key=${at} class=${how(at)} aria-current=${how(at) === "now" ? "step" : null}><span aria-hidden="true">${MARKS[how(at)]}</span> ${share(weight)}</li>`)}
  </ol>`;
}

function Progress({ rollout }) {
  const { plan, held_s, samples, waits_for } = rollout;
  const parts = [
    ["Held, min:s", held_s, plan.hold_s, minutes],
    ["Requests", samples.canary, plan.min_samples, count],
  ];
  return html`<dl class="progress">
      ${parts.map(([name, now, of, text]) => html`<div key=${name}><dt>${name}</dt><dd><${Meter} full=${of ? now / of : 1} /> <span class="num">${text(now)} of ${text(of)}</span></dd></div>`)}
    </dl>
    ${waits_for && html`<p class="hint">This step still waits for ${waits_for}.</p>`}`;
}

function Gates({ rollout }) {
  const gates = Object.entries(rollout.gates);
  return gates.length > 0 && html`<table class="table lines gates" aria-label="Gates">
    <thead><tr><th>Gate</th><th class="right">New</th><th class="right">Others</th><th>Evidence of harm, towards its limit</th></tr></thead>
    <tbody>${gates.map(([name, gate]) => html`<${Gate} key=${name} name=${name} gate=${gate} plan=${rollout.plan} />`)}</tbody>
  </table>`;
}

function Gate({ name, gate, plan }) {
  const { tripped, e, needed, unit, value, baseline } = gate;
  const full = tripped ? 1 : e > 1 && needed > 1 ? Math.log(e) / Math.log(needed) : 0;
  return html`<tr>
    <th scope="row">${gateName(name, plan)}</th>
    <td class="right num" data-head="New">${valueOf(value, unit)}</td>
    <td class="right num" data-head="Others">${valueOf(baseline, unit)}</td>
    <td class="evidence"><div><${Meter} full=${full} kind=${tripped ? "bad" : full >= 0.5 ? "warn" : ""} />
      <span class="num ${tripped ? "bad" : ""}">${tripped ? "✕ tripped" : ""} ${unit ? `${rough(e)} of ${rough(needed)}` : tripped ? "" : "nothing seen"}</span></div></td>
  </tr>`;
}

/** With the percentile that is watched, such as `latency p99`. */
function gateName(name, plan) {
  const [kind, detail] = name.split(/\.(.*)/);
  if (kind !== "latency") return html`${kind.replace("_", " ")}${detail && html` <bdi>${detail}</bdi>`}`;
  return `latency ${detail || Object.keys(plan.gates.latency ?? {}).filter((key) => key !== "burst_s").join(" ")}`;
}

function valueOf(value, unit) {
  if (value == null) return "–";
  return unit === "rate" ? percent(value) : unit === "seconds" ? `${ms(1000 * value)} ms` : rough(value);
}

/** About three digits; huge numbers as powers of ten. */
const rough = (value) => (value >= 1e6 ? value.toExponential(0).replace("+", "") : rate(value));

/** A bar that is filled to a share; what it says stands in text beside it. */
export function Meter({ full, kind = "" }) {
  return html`<span class="meter" aria-hidden="true"><span class=${kind} style=${{ width: `${Math.min(100, Math.max(full > 0 ? 1 : 0, 100 * full))}%` }} /></span>`;
}
