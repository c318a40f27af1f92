// A backend: how it does, its replicas, how many there shall be and why, why it failed, how it is configured.
import { html, useState } from "./lib.js";
import { at, call } from "./api.js";
import { backendNumbers, backendOf, may, say, scalingOf, status, to } from "./state.js";
import { count, ms, percent, rate, share, some, span } from "./format.js";
import { Button, Card, Confirm, DataTable, EndpointLink, Facts, Failed, Field, Heading, Empty, Name, Notice, Num, StateBadge, Time, Waiting, useAction, useCall } from "./parts.js";
import { Charts } from "./chart.js";
import { Failures, Trouble } from "./failures.js";
import { ConfigCard } from "./backendconfig.js";

const MOST = 12;

/** Where a backend's calls come from: shares of endpoints, and shadows. */
const Serves = ({ name }) => {
  const found = Object.entries(status.value.endpoints).flatMap(([endpoint, one]) => [
    ...(Object.hasOwn(one.traffic, name) ? [[endpoint, `${share(one.traffic[name])} of`]] : []),
    ...(Object.hasOwn(one.shadows, name) ? [[endpoint, `shadow, ${share(one.shadows[name])} of`]] : []),
  ]);
  if (!found.length) return html`<p class="dim">No endpoint sends it traffic. An endpoint's page gives it a share.</p>`;
  return html`<p class="serves"><span class="dim">Serves</span>${found.slice(0, MOST).map(([endpoint, how], i) => html`<span key=${i}>${how} <${EndpointLink} name=${endpoint} /></span>`)}
    ${found.length > MOST && html`<span class="dim">and ${count(found.length - MOST)} more</span>`}</p>`;
};

const Figures = ({ name }) => {
  const now = backendNumbers(name);
  const batch = now.batch_size == null ? null : now.batch_size.toFixed(1);
  const items = [["Requests", rate(now.per_second), "/s"], ["Errors", percent(now.error_share), "", now.error_share > 0.01 ? "bad" : ""],
    ["p50", ms(now.p50_ms), "ms"], ["p99", ms(now.p99_ms), "ms"], ["Batch", batch ?? "–", "mean"],
    ["Queued", count(now.queued), "", now.queued ? "warn" : ""]];
  return html`<dl class="figures auto">${items.map(([noun, value, unit, kind]) => html`<div key=${noun}><dt>${noun}</dt><dd><${Num} kind=${kind ?? ""}>${value}<//> <small>${unit}</small></dd></div>`)}</dl>`;
};

const COLUMNS = [
  { key: "tag", head: "Replica", cell: (r) => html`<${Name} name=${r.tag} mono />`, sort: (r) => r.tag },
  { key: "pid", head: "Process", width: "w2", wide: true, cell: (r) => r.pid ?? "–" },
  { key: "state", head: "State", width: "w3", cell: (r) => html`<${StateBadge} state=${r.state} />`, sort: (r) => r.state },
  { key: "gpus", head: "GPUs", width: "w2", wide: true, cell: (r) => r.gpus.join(", ") || "–" },
  { key: "remark", head: "Remark", wide: true, cell: (r) => html`<p class="prose">${r.remark || "–"}</p>` },
  { key: "log", head: html`<span class="unseen">Log</span>`, num: true, width: "w1", cell: (r) => html`<a href=${to("logs", "", { process: r.tag })} aria-label="Log of ${r.tag}">Log</a>` },
];

const Replicas = ({ one }) => html`<${Card} title="Replicas" actions=${html`<span class="dim">${one.replicas_running} of ${one.replicas_wanted} ready</span>`}>
  <${DataTable} label="Replicas" columns=${one.replicas.some((r) => r.gpus.length) ? COLUMNS : COLUMNS.filter((c) => c.key !== "gpus")} rows=${one.replicas} rowKey=${(r) => r.tag}
    empty=${html`<${Empty} title="No replicas">${one.state === "IDLE" ? "It is unloaded until a call comes, or somebody wakes it." : one.failure ? "Starts have failed; the next is tried by itself." : "None has been started."}<//>`} />
<//>`;

const FOR = [{ value: 600, label: "10 minutes" }, { value: 3600, label: "1 hour" }, { value: 28800, label: "8 hours" }];

const Hold = ({ name, scaling }) => {
  const [number, setNumber] = useState(String(scaling.wanted));
  const [seconds, setSeconds] = useState("600");
  const hold = useAction(() => call("PUT", at`/backends/${name}/hold`, { body: { replicas: Number(number), for_s: Number(seconds) } }));
  const run = async (event) => (event.preventDefault(), (await hold.run()) && say(`${name} is held at ${number}`));
  return html`<form class="inline" onSubmit=${run}>
    <${Field} label="Hold at" type="number" min=${scaling.min} max=${scaling.max} required value=${number} onInput=${(e) => setNumber(e.target.value)} />
    <${Field} label="For" options=${FOR} value=${seconds} onChange=${(e) => setSeconds(e.target.value)} />
    <${Button} type="submit" busy=${hold.busy}>Hold<//>
  </form>${hold.error && html`<${Failed} error=${hold.error} />`}`;
};

const DECISIONS = [
  { key: "time", head: "Time", width: "w3", cell: (d) => html`<${Time} at=${d.time} />` },
  { key: "n", head: "Replicas", num: true, width: "w2", cell: (d) => `${d.from} → ${d.to}` },
  { key: "reason", head: "Reason", width: "w2", wide: true, cell: (d) => d.reason },
  { key: "text", head: "Because", cell: (d) => html`<p class="prose">${d.text}</p>` },
];

const Scaling = ({ name, held }) => {
  const s = scalingOf(name);
  const [all, setAll] = useState(false);
  const free = useAction(() => call("DELETE", at`/backends/${name}/hold`));
  const decisions = [...s.decisions].reverse();
  return html`<${Card} title="Number of replicas"><div class="pad stack">
    <dl class="figures flat"><div><dt>Wanted</dt><dd><${Num}>${s.wanted}<//> <small>of ${s.min} to ${s.max}</small></dd></div>
      <div><dt>Demand</dt><dd><${Num}>${rate(s.demand)}<//> <small>calls at a time</small></dd></div>
      <div><dt>Arrivals</dt><dd><${Num}>${rate(s.arrivals_per_second)}<//> <small>/s</small></dd></div>
      <div><dt>A start takes</dt><dd><${Num}>${s.start_s == null ? "–" : s.start_s.toFixed(1)}<//> <small>s</small></dd></div></dl>
    ${s.hold_s != null && html`<${Notice} title="Held at ${s.wanted} for ${span(s.hold_s)} more." action=${may("operate") && html`<${Button} kind="small" busy=${free.busy} onClick=${free.run}>Release<//>`}>It follows the calls again after that.<//>`}
    ${free.error && html`<${Failed} error=${free.error} />`}
    ${s.blocked && html`<${Notice} kind="warn" title="It cannot have what it wants.">${s.blocked.text}<//>`}
    ${s.remark && html`<${Notice} kind="warn">${s.remark}<//>`}
    ${s.ready_in_s > 0 && html`<${Notice}>The first replica is expected in ${span(s.ready_in_s)}.<//>`}
    ${held && may("operate") && html`<${Hold} name=${name} scaling=${s} />`}</div>
    <${DataTable} label="Decisions" columns=${DECISIONS} rows=${all ? decisions : decisions.slice(0, 5)} rowKey=${(d) => d.time + d.to}
      empty=${html`<p class="pad dim">Nothing has been decided yet: the number is as created.</p>`} />
    ${decisions.length > 5 && html`<div class="foot"><${Button} kind="quiet" onClick=${() => setAll(!all)}>${all ? "Show fewer" : `Show all ${decisions.length} decisions`}<//></div>`}
  <//>`;
};

/** Load it, or have it unloaded. */
const Load = ({ name, one }) => {
  const [asking, setAsking] = useState(false);
  const wake = useAction(() => call("POST", at`/backends/${name}/wake`));
  const unload = useAction(() => call("POST", at`/backends/${name}/unload`));
  const down = one.replicas_wanted === 0;
  if (!may("operate") || !(down || one.autoscaling?.min === 0)) return null;
  const error = wake.error || unload.error;
  return html`${down
      ? html`<${Button} kind="primary" busy=${wake.busy} onClick=${wake.run}>Wake<//>`
      : html`<${Button} busy=${unload.busy} onClick=${() => setAsking(true)}>Unload<//>`}
    ${error && html`<span class="error" role="alert">${error.message}</span>`}
    <${Confirm} open=${asking} title="Unload ${name}?" yes="Unload" onNo=${() => setAsking(false)} onYes=${() => (setAsking(false), unload.run())}>
      <p>Replicas finish their calls and end. The next call loads it again, and waits for that.</p><//>`;
};

const Code = ({ one }) => {
  const env = one.environment;
  const mono = (text) => text && html`<span class="mono"><bdi>${text}</bdi></span>`;
  return html`<${Card} title="Code"><${Facts} items=${[["Code", mono(one.code)], ["Version", mono(one.version)], ["Commit", one.commit && html`<span class="mono" title=${one.commit}>${one.commit.replace(/^(\w{12})\w*/, "$1")}</span>`], ["Digest", mono(one.digest)],
    ["Since", html`<${Time} at=${one.since} />`], ["Python", mono(env?.version)],
    ["Environment", env && html`<span class="mono" title=${env.python}>${env.kind === "caller" ? "" : `${env.kind} `}${env.name}</span>`]]} /><//>`;
};

const Changes = ({ object }) => {
  const { data, error, reload } = useCall((signal) => call("GET", "/history", { query: { object }, signal }), [object, status.value.version]);
  return html`<${Card} title="Changes" actions=${html`<a href=${to("history", "", { object })}>All</a>`}>${!data ? html`<${Waiting} what="changes" error=${error} again=${reload} />`
    : html`<ol class="rows">${data.slice(-5).reverse().map((one, i) => html`<li key=${i}><div class="line"><${Time} at=${one.time} /><bdi class="dim wrap">${one.by}</bdi></div><p class="wrap">${one.change}</p></li>`)}</ol>`}<//>`;
};

export const BackendPage = ({ name }) => {
  const one = backendOf(name);
  const asked = useCall((signal) => (one ? call("GET", at`/backends/${name}`, { signal }) : Promise.resolve({})), [name, status.value.version, one?.failure?.failures, one?.replicas.map((each) => each.tag).join()]);
  if (!one) return html`<${Heading} title=${name} /><${Empty} title="There is no such backend">It may have been deleted. <a href=${to("history")}>The history</a> says when, and by whom.<//>`;
  const { data, error } = asked;
  return html`<${Heading} title=${name} aside=${html`<${StateBadge} state=${one.state} /><span class="dim">${one.replicas_running} of ${some(one.replicas_wanted, "replica")}</span>
      <${Load} name=${name} one=${one} />`}><bdi>${name}</bdi><//>
    <${Serves} name=${name} />
    <${Trouble} name=${name} one=${one} />
    <${Figures} name=${name} />
    <${Charts} backend=${name} />
    <${Replicas} one=${one} />
    ${one.autoscaling && html`<${Scaling} name=${name} held=${data?.config.autoscaling} />`}
    <div class="columns">
      ${data ? html`<${ConfigCard} name=${name} config=${data.config} hidden=${data.user_config_shown === false} version=${asked.version} reload=${asked.reload} />`
        : html`<${Card} title="Configuration"><${Waiting} what="the configuration" lines=${6} error=${error} again=${asked.reload} /><//>`}
      <div class="stack"><${Card} title="Failures">${data ? html`<${Failures} list=${data.failures ?? []} name=${name} />` : html`<${Waiting} what="failures" error=${error} />`}<//>
        <${Code} one=${one} /><${Changes} object=${`backend/${name}`} /></div>
    </div>`;
};
