// All endpoints and backends at a glance.
import { html } from "./lib.js";
import { count, ms, percent, rate, share, some } from "./format.js";
import { backendNumbers, backendOf, find, numbersOf, own, status } from "./state.js";
import { BackendLink, Button, Card, DataTable, Empty, EndpointLink, Heading, Mark, Num, ShareBar, StateBadge } from "./parts.js";
import { Going } from "./going.js";

/** Where an error rate is shown as bad. */
const MANY_ERRORS = 0.01;

const figures = (of) => [
  { key: "rate", head: "Req/s", num: true, width: "w2", sort: (row) => of(row.name).per_second, cell: (row) => html`<${Num}>${rate(of(row.name).per_second)}<//>` },
  { key: "errors", head: "Errors", num: true, width: "w2", sort: (row) => of(row.name).error_share, cell: (row) => html`<${Num} kind=${of(row.name).error_share > MANY_ERRORS ? "bad" : ""}>${percent(of(row.name).error_share)}<//>` },
  { key: "p50", head: "p50 ms", num: true, wide: true, width: "w2", sort: (row) => of(row.name).p50_ms, cell: (row) => html`<${Num}>${ms(of(row.name).p50_ms)}<//>` },
  { key: "p99", head: "p99 ms", num: true, width: "w2", sort: (row) => of(row.name).p99_ms, cell: (row) => html`<${Num}>${ms(of(row.name).p99_ms)}<//>` },
  { key: "queued", head: "Queued", num: true, wide: true, width: "w2", sort: (row) => of(row.name).queued, cell: (row) => html`<${Num}>${count(of(row.name).queued ?? 0)}<//>` },
];

const ENDPOINTS = [
  {
    key: "name", head: "Endpoint", sort: (row) => row.name,
    cell: (row) => html`<div class="two"><span class="lead"><${Mark} ...${worst(row)} /><${EndpointLink} name=${row.name} /></span>
      <small class="name" title=${row.route}>${row.route ? html`<bdi>${row.route}</bdi>` : "by handle only"}</small>
      <span class="narrow"><${ShareBar} weights=${row.traffic} labels=${false} /></span></div>`,
  },
  { key: "traffic", head: "Traffic", width: "w6", wide: true, cell: (row) => html`<${ShareBar} weights=${row.traffic} />` },
  ...figures(numbersOf),
  {
    key: "shadow", head: html`<span class="apart">Shadow</span>`, wide: true, width: "w4",
    cell: (row) => html`<span class="name dim apart">${Object.entries(row.shadows).map(([name, part]) => `${name} ${share(part)}`).join(", ") || "–"}</span>`,
  },
];

const few = (row) => (row.replicas_running < row.replicas_wanted ? "warn" : "");

const BACKENDS = [
  { key: "name", head: "Backend", sort: (row) => row.name, cell: (row) => html`<div class="two"><${BackendLink} name=${row.name} /><span class="narrow"><${StateBadge} state=${row.state} /> <${Num} kind=${few(row)}>${row.replicas_running}/${row.replicas_wanted}<//></span></div>` },
  { key: "state", head: "State", width: "w4", wide: true, sort: (row) => row.state, cell: (row) => html`<${StateBadge} state=${row.state} title=${row.failure?.text} />` },
  {
    key: "replicas", head: "Replicas", num: true, wide: true, width: "w2", sort: (row) => row.replicas_running,
    cell: (row) => html`<${Num} kind=${few(row)}>${row.replicas_running}/${row.replicas_wanted}<//>`,
  },
  ...figures(backendNumbers),
  { key: "batch", head: "Batch", num: true, wide: true, width: "w2", sort: (row) => backendNumbers(row.name).batch_size, cell: (row) => html`<${Num}>${rate(backendNumbers(row.name).batch_size)}<//>` },
];

/** The worst of what an endpoint's backends are, as a mark. */
function worst({ traffic, rollout }) {
  const states = Object.keys(traffic).map((name) => [name, backendOf(name)]);
  const bad = states.filter(([, b]) => b && ["UNHEALTHY", "DEPLOY_FAILED"].includes(b.state));
  if (bad.length) return { kind: bad.some(([, b]) => !b.replicas_running) ? "bad" : "warn", word: `unhealthy: ${bad.map(([name]) => name).join(", ")}` };
  if (rollout) return { kind: "busy", word: "rollout" };
  if (states.some(([, b]) => b && ["UPDATING", "SCALING"].includes(b.state))) return { kind: "busy", word: "changing" };
  return { kind: "ok", word: "ok" };
}

const listed = (objects) => Object.keys(objects).sort().map((name) => ({ name, ...objects[name] }));

export const OverviewPage = () => {
  const { endpoints, backends, rollouts } = status.value;
  const sought = find.value.trim().toLowerCase();
  const fits = (...texts) => !sought || texts.some((text) => text?.toLowerCase().includes(sought));
  const lines = listed(endpoints).map((one) => ({ ...one, rollout: own(rollouts, one.name) }));
  const shownEndpoints = lines.filter((one) => fits(one.name, one.route, ...Object.keys(one.traffic)));
  const shownBackends = listed(backends).filter((one) => fits(one.name));
  if (sought && !shownEndpoints.length && !shownBackends.length)
    return html`<${Heading} title="Overview" /><${Card}><${Empty} title=${`Nothing here is called “${find.value.trim()}”`}>
      <${Button} onClick=${() => (find.value = "")}>Show everything<//><//><//>`;
  return html`<${Heading} title="Overview" />
    <${Going} />
    ${(shownEndpoints.length > 0 || !sought) && html`<${Card} title="Endpoints" actions=${html`<small>${counted(shownEndpoints, lines, "endpoint")}</small>`}>
      <${DataTable} label="Endpoints" columns=${ENDPOINTS} rows=${shownEndpoints} rowKey=${(row) => row.name} sorted="name" kind="tall" empty=${html`<${Empty} title="No endpoints yet">An endpoint gives a backend a route. Make one with <code>pointsman deploy</code>, a configuration file, or <code>client.create_endpoint</code>.<//>`} />
    <//>`}
    ${(shownBackends.length > 0 || !sought) && html`<${Card} title="Backends" actions=${html`<small>${counted(shownBackends, Object.keys(backends), "backend")}</small>`}>
      <${DataTable} label="Backends" columns=${BACKENDS} rows=${shownBackends} rowKey=${(row) => row.name} sorted="name" empty=${html`<${Empty} title="No backends yet">A backend is a model with its settings and replicas.<//>`} />
    <//>`}`;
};

const counted = (shown, all, noun) => (shown.length < all.length ? `${count(shown.length)} of ${some(all.length, noun)}` : some(all.length, noun));
