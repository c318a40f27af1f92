// An endpoint: how it does, who answers it, and the controls to change that.
import { html, useEffect } from "./lib.js";
import { Charts } from "./chart.js";
import { Explain } from "./explain.js";
import { Trouble } from "./failures.js";
import { Empty, Failed, Heading, Name, Num } from "./parts.js";
import { Done, Policies } from "./policies.js";
import { policyOf, refresh } from "./policy.js";
import { RolloutCard } from "./rollout.js";
import { Shadows } from "./shadows.js";
import { Split } from "./slider.js";
import { count, ms, percent, rate } from "./format.js";
import { backendOf, numbersOf, own, stale, status } from "./state.js";

export function EndpointPage({ name }) {
  const endpoint = own(status.value.endpoints, name);
  if (!endpoint) return html`<${Heading} title=${name} /><${Empty} title="There is no such endpoint"><a href="#/">To the overview</a><//>`;
  return html`<${Endpoint} name=${name} endpoint=${endpoint} />`;
}

function Endpoint({ name, endpoint }) {
  const policy = policyOf(name, endpoint);
  const again = () => refresh(policy);
  useEffect(() => {
    if (!stale.value) again();
  }, [JSON.stringify([endpoint.traffic, endpoint.shadows]), stale.value]);
  return html`<div class="endpoint">
    <${Heading} title=${name} aside=${html`<${Route} endpoint=${endpoint} />`}><${Name} name=${name} /><//>
    <${Figures} of=${numbersOf(name)} />
    ${policy.problem.value && html`<${Failed} error=${policy.problem.value} again=${again} />`}
    <${Split} policy=${policy} /><${Done} policy=${policy} /><${Troubles} tags=${[...Object.keys(endpoint.traffic), ...Object.keys(endpoint.shadows)]} />
    <${RolloutCard} policy=${policy} /><${Charts} endpoint=${name} backends=${Object.keys(endpoint.traffic)} />
    <${Shadows} policy=${policy} /><${Explain} policy=${policy} /><${Policies} policy=${policy} />
  </div>`;
}

const Troubles = ({ tags }) =>
  [...new Set(tags)].filter((tag) => backendOf(tag)?.failure).map((tag) => html`<${Trouble} key=${tag} name=${tag} one=${backendOf(tag)} named />`);

const Route = ({ endpoint }) =>
  endpoint.route
    ? html`<span class="route"><span class="methods">${endpoint.methods.join(" ")}</span> <${Name} name=${endpoint.route} mono /></span>`
    : html`<span class="hint">by handle only</span>`;

function Figures({ of }) {
  const figures = [
    ["Requests", rate(of.per_second), "/s"],
    ["Errors", percent(of.error_share), ""],
    ["p50", ms(of.p50_ms), "ms"],
    ["p99", ms(of.p99_ms), "ms"],
    ["Queued", count(of.queued), ""],
  ];
  return html`<dl class="figures">${figures.map(([name, text, unit]) => html`<div key=${name}><dt>${name}</dt>
    <dd><${Num} kind=${name === "Errors" && of.error_share > 0.01 ? "bad" : ""}>${text}<//> <small>${unit}</small></dd></div>`)}</dl>`;
}
