// What is under way in the instance, and what went wrong: rollouts, applies, backends in trouble. On top of the overview.
import { html } from "./lib.js";
import { rolloutOf, status, to } from "./state.js";
import { share, span } from "./format.js";
import { BackendLink, Badge, Card, EndpointLink, Time } from "./parts.js";

const LATELY_S = 3600;
const MOST = 20;
const STATES = { running: "busy", paused: "warn", inconclusive: "warn", rolled_back: "bad" };
const lately = (time) => Date.now() - Date.parse(time) < LATELY_S * 1000;

const row = (key, kind, word, what, why, aside) => html`<li key=${key} class="going">
  <${Badge} kind=${kind}>${word}<//><div class="what">${what}</div><div class="why" title=${why}>${why}</div><div class="aside">${aside}</div></li>`;

const Rollout = ({ name, one }) => {
  const { plan, state, step } = one;
  const at = `step ${step + 1} of ${plan.steps.length}`;
  const why = state === "running" ? one.waits_for && `waits for ${one.waits_for}` : one.reason;
  return row("r" + name, STATES[state], state === "rolled_back" ? "went back" : `rollout ${state}`,
    html`<${BackendLink} name=${plan.to} /><span class="dim"> at </span><${EndpointLink} name=${name} />`, why || "",
    one.ended ? html`<${Time} at=${one.ended} relative />` : html`<b>${share(one.weight)}</b> <span class="dim">${at}, ${span(one.held_s)}</span>`);
};

export const Going = () => {
  const { apply, rollouts, backends } = status.value;
  const shown = Object.keys(rollouts).map((name) => [name, rolloutOf(name)]).filter(([, one]) => !one.ended || (one.state === "rolled_back" && lately(one.ended)));
  const failing = Object.entries(backends).filter(([, one]) => one.failure);
  if (!apply && !shown.length && !failing.length) return null;
  return html`<${Card} title="Now" actions=${failing.length > MOST && html`<small>${failing.length} backends fail; ${MOST} are shown</small>`}><ul class="rows">
    ${apply && row("a", "busy", "apply", html`<bdi>${apply.owner}</bdi>`, `by ${apply.by}`, html`<${Time} at=${apply.since} relative />`)}
    ${shown.slice(0, MOST).map(([name, one]) => Rollout({ name, one }))}
    ${failing.slice(0, MOST).map(([name, one]) => row("b" + name, one.replicas_running ? "warn" : "bad", one.state === "DEPLOY_FAILED" ? "taken back" : "failing",
      html`<${BackendLink} name=${name} />`, one.failure.text,
      html`<a href=${to("logs", "", { backend: name })}>Logs</a>`))}
  </ul><//>`;
};
