// The split of an endpoint's traffic, and a draft of another: sliders change only the draft, which "Apply" sends.
import { call } from "./api.js";
import { ago, count, ms, percent, rate, share as shown } from "./format.js";
import { html, useEffect, useSignal } from "./lib.js";
import { BackendLink, Button, Card, Notice, Num, StateBadge, hue } from "./parts.js";
import { setTraffic } from "./policy.js";
import { backendOf, may, numbers, numbersOf, own, say, status } from "./state.js";

const STEPS = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 };
const PREVIEW_AFTER_MS = 150;
const MOST_FLOWS = 6;
const SAME = 5e-7;

const sum = (of, tags) => tags.reduce((total, tag) => total + (own(of, tag) ?? 0), 0);
const round = (share, digits) => Number(share.toFixed(digits));

/** Percent as they are typed, without what floating point adds: `95`, `33.33`. */
export const typed = (share) => String(round(100 * share, 2));
/** What was typed as a share of 0 to 1, or NaN. */
export const parsed = (text) => Number.parseFloat((text ?? "").replace(",", ".")) / 100;

// A draft: `version` of the policy that it was begun from, if that is known yet, `live` its weights, `weights` wanted
// instead; and `base`, what they were before the backend that is `moving` began to: the others keep the proportions of
// these.

/** `weights` with `share` for `tag`; the others shrink or grow in proportion (if all are 0: as in `live`). */
export function give(weights, tag, share, live) {
  const others = Object.keys(weights).filter((one) => one !== tag);
  const by = [weights, live].find((one) => sum(one, others) > 0);
  const next = { ...weights, [tag]: others.length ? share : 1 };
  for (const one of others) {
    next[one] = (1 - share) * (by ? (own(by, one) ?? 0) / sum(by, others) : 1 / others.length);
  }
  return next;
}

/** Weights of six digits whose sum is 1; what is more than 0 stays so. */
export function exact(weights) {
  const tags = Object.keys(weights);
  const rounded = Object.fromEntries(tags.map((tag) => [tag, round(weights[tag], 6) || Number(weights[tag].toPrecision(6))]));
  const largest = tags.reduce((most, tag) => (rounded[tag] > rounded[most] ? tag : most), tags[0]);
  rounded[largest] = round(rounded[largest] + 1 - sum(rounded, tags), 12);
  return rounded;
}

/** How two splits differ, such as `v1 95% → 90%, v2 5% → 10%`; empty if they do not. */
export function differences(from, to) {
  return [...new Set([...Object.keys(from), ...Object.keys(to)])]
    .filter((tag) => Math.abs((own(from, tag) ?? 0) - (own(to, tag) ?? 0)) > SAME || Object.hasOwn(from, tag) !== Object.hasOwn(to, tag))
    .map((tag) => `${tag} ${Object.hasOwn(from, tag) ? `${shown(from[tag])} →` : "gets"} ${Object.hasOwn(to, tag) ? shown(to[tag]) : "left out"}`)
    .join(", ");
}

function begun(policy) {
  const { version, weights } = policy.now.value;
  return policy.draft.value ?? { version, live: weights, weights, base: weights, moving: null };
}

function settle(policy, draft) {
  policy.draft.value = differences(draft.live, draft.weights) || draft.moving ? draft : null;
}

function move(policy, tag, share) {
  const draft = begun(policy);
  const base = draft.moving === tag ? draft.base : draft.weights;
  const weights = give(base, tag, Math.min(1, Math.max(0, round(share, 4))), draft.live);
  settle(policy, { ...draft, base, weights, moving: tag });
}

function put(policy, tag) {
  const draft = begun(policy);
  const { [tag]: _, ...others } = draft.weights;
  settle(policy, { ...draft, weights: !Object.hasOwn(draft.weights, tag) ? { ...others, [tag]: 0 } : others, moving: null });
}

export function Split({ policy }) {
  const now = policy.now.value;
  const weights = policy.draft.value?.weights ?? now.weights;
  const tags = Object.keys(weights);
  const steer = may("operate");
  const row = (tag, at) =>
    html`<${Row} key=${tag} policy=${policy} tag=${tag} at=${at} share=${weights[tag]} alone=${tags.length === 1} steer=${steer} />`;
  return html`<${Card} kind="split" title="Traffic" actions=${steer && html`<${Adding} policy=${policy} weights=${weights} />`}>
    ${now.policy !== "weighted" && html`<${Notice}>Your policy <code>${now.policy}</code> chooses; shares are what it is told.<//>`}
    <table class="table lines" aria-label="Split of the traffic">
      <thead><tr><th>Backend</th><th>Share</th><th class="right">Ready</th>${HEADS.map((head) => html`<th class="right">${head}</th>`)}</tr></thead>
      <tbody>${tags.map(row)}</tbody>
    </table>
    ${steer && html`<${Outcome} policy=${policy} alone=${tags.length === 1} />`}
  <//>`;
}

export const HEADS = ["Req/s", "Errors", "p50 ms", "p99 ms"];

/** Cells of numbers, in the order of HEADS. */
export const Cells = ({ of }) =>
  [rate(of?.per_second ?? (numbers.value && 0)), percent(of?.error_share), ms(of?.p50_ms), ms(of?.p99_ms)].map(
    (text, at) => html`<td class="right" data-head=${HEADS[at]}><${Num} kind=${at === 1 && of?.error_share > 0.01 ? "bad" : ""}>${text}<//></td>`,
  );

function Row({ policy, tag, at, share, alone, steer }) {
  const backend = backendOf(tag);
  const draft = policy.draft.value;
  const was = own(draft?.live, tag);
  const changed = draft && (was === undefined || Math.abs(was - share) > SAME);
  const few = backend && backend.replicas_running < backend.replicas_wanted;
  return html`<tr class=${changed ? "changed" : ""}>
    <th scope="row"><i class="dot ${hue(at)}" aria-hidden="true" /><${BackendLink} name=${tag} />${backend && backend.state !== "RUNNING" && html` <${StateBadge} state=${backend.state} />`}</th>
    <td class="share"><div>
      ${steer
        ? html`<${Slider} policy=${policy} tag=${tag} at=${at} share=${share} alone=${alone} />`
        : html`<span class="meter" aria-hidden="true"><span class=${hue(at)} style=${{ width: `${100 * share}%` }} /></span><span class="num">${shown(share)}</span>`}
      <span class="was">${changed ? (was === undefined ? "new" : `was ${shown(was)}`) : ""}
        ${steer && !alone && share === 0 && html`<${Button} kind="quiet" aria-label=${`Leave out ${tag}`} title="Leave it out of the split" onClick=${() => put(policy, tag)}>✕<//>`}</span>
    </div></td>
    <td class="right" data-head="Ready"><${Num} kind=${few ? "bad" : ""}>${backend ? `${count(backend.replicas_running)}/${count(backend.replicas_wanted)}` : "–"}<//></td>
    <${Cells} of=${own(numbersOf(policy.name).backends, tag)} />
  </tr>`;
}

function Slider({ policy, tag, at, share, alone }) {
  const pressed = (event) => {
    const step = STEPS[event.key];
    if (!step) return;
    event.preventDefault();
    move(policy, tag, share + (event.shiftKey ? step / 10 : step) / 100);
  };
  return html`<input type="range" class="slider ${hue(at)}" min="0" max="100" step="any" disabled=${alone}
      title=${alone ? "The only backend: add another to share its traffic" : "Arrow keys: 1%, with Shift 0.1%"}
      aria-label=${`Share of ${tag}`} aria-valuetext=${shown(share)} value=${100 * share} style=${{ "--at": `${100 * share}%` }}
      onKeyDown=${pressed} onInput=${(event) => move(policy, tag, Math.round(event.target.value) / 100)} />
    <${Percent} label=${`Percent for ${tag}`} share=${share} disabled=${alone} onShare=${(value) => move(policy, tag, value)} />`;
}

/** A field for a share in percent; what is typed counts once the field is left, or Enter is pressed. */
export function Percent({ label, share, disabled, onShare }) {
  const text = useSignal(null);
  const done = () => {
    const value = parsed(text.value);
    const isOther = text.value !== typed(share);
    text.value = null;
    if (isOther && value >= 0 && value <= 1) onShare(value);
  };
  return html`<span class="percent"><input type="text" inputmode="decimal" autocomplete="off" disabled=${disabled} aria-label=${label}
    value=${text.value ?? typed(share)} onInput=${(event) => (text.value = event.target.value)} onChange=${done} onBlur=${done} onKeyDown=${(event) => event.key === "Escape" && (text.value = null)} />%</span>`;
}

/** Put the focus on a slider, once it is drawn. */
const focusOn = (tag) => requestAnimationFrame(() => document.querySelector(`[aria-label="${CSS.escape(`Share of ${tag}`)}"]`)?.focus());

function Adding({ policy, weights }) {
  const free = Object.keys(status.value.backends).filter((tag) => !Object.hasOwn(weights, tag));
  const add = (event) => {
    const tag = event.target.value;
    event.target.value = "";
    put(policy, tag);
    focusOn(tag);
  };
  return html`<select aria-label="Add a backend to the split" disabled=${!free.length} onChange=${add}>
    <option value="">${free.length ? "Add backend…" : "No other backend"}</option>
    ${free.map((tag) => html`<option key=${tag} value=${tag}>${tag}</option>`)}
  </select>`;
}

/** Below the sliders: what the draft would do, or how to begin one. */
function Outcome({ policy, alone }) {
  const draft = policy.draft.value;
  if (draft) return html`<${Draft} policy=${policy} draft=${draft} />`;
  return html`<p class="outcome hint">${alone ? "It gets all traffic. Add a backend to share it: a new one begins with 0%." : "Move a slider, or press arrow keys on it: nothing changes until you apply it."}</p>`;
}

function Draft({ policy, draft }) {
  const preview = usePreview(policy, draft);
  const refused = useSignal(null);
  const busy = useSignal(false);
  const same = !differences(draft.live, draft.weights);
  const cancel = () => {
    policy.draft.value = null;
    focusOn(draft.moving);
  };
  const apply = async () => {
    busy.value = true;
    refused.value = null;
    try {
      await setTraffic(policy, { weights: exact(draft.weights) }, differences(draft.live, draft.weights), draft.version);
      policy.draft.value = null;
      focusOn(draft.moving);
    } catch (problem) {
      refused.value = problem;
      busy.value = false;
    }
  };
  return html`<div class="outcome drafting">
    <div class="line"><div class=${preview.value.busy ? "old" : ""} role="status"><b>Preview:</b> ${same ? "as it is now" : html`<${Flows} preview=${preview.value} />`}</div>
      <div class="actions"><${Button} kind="primary" busy=${busy.value} disabled=${same || !draft.version} onClick=${apply}>Apply<//><${Button} onClick=${cancel}>Cancel<//></div></div>
    <${Warnings} texts=${preview.value.data?.warnings ?? []} />
    <${Conflict} policy=${policy} draft=${draft} refused=${refused} cancel=${cancel} />
  </div>`;
}

const Warnings = ({ texts }) =>
  texts.length > 0 && html`<ul class="warnings">${texts.map((text) => html`<li key=${text}><span aria-hidden="true">▲</span> ${text}</li>`)}</ul>`;

/** Somebody else was faster, or the API refused it. The draft is kept. */
function Conflict({ policy, draft, refused, cancel }) {
  const { version, weights } = policy.now.value;
  if (version === draft.version) return refused.value && html`<${Notice} kind="bad" title="Not applied.">${refused.value.message}<//>`;
  const last = policy.history.value.at(-1);
  const goOn = () => {
    refused.value = null;
    policy.draft.value = { ...draft, version, live: weights, base: draft.weights, moving: null };
    say(`Your draft now starts from version ${version}`);
  };
  const action = html`<div class="actions"><${Button} onClick=${goOn}>Go on from version ${version}<//><${Button} onClick=${cancel}>Discard draft<//></div>`;
  return html`<${Notice} kind=${refused.value ? "bad" : "warn"} title=${refused.value ? "Not applied: it was changed meanwhile." : "Changed meanwhile."} action=${action}>
    Version ${version} by <bdi>${last?.by ?? "someone"}</bdi>${last ? `, ${ago(last.time)}` : ""}: ${differences(draft.live, weights) || "the same split"}. Your draft is kept.
  <//>`;
}

function Flows({ preview }) {
  const { data, error } = preview;
  if (error) return html`cannot be had: ${error.message}`;
  if (!data) return "…";
  const flows = data.flows.filter((flow) => flow.share > 0).sort((a, b) => b.share - a.share);
  if (!flows.length) return "no keys move";
  const way = ({ from, to }) => html`<bdi>${from}</bdi> → <bdi>${to}</bdi>`;
  if (flows.length === 1) return html`<span>${percent(data.moves)} of keys move ${way(flows[0])}</span>`;
  return html`<span>${percent(data.moves)} of keys move: ${flows.slice(0, MOST_FLOWS).map((flow, at) => html`${at > 0 && ", "}${way(flow)} ${percent(flow.share)}`)}${flows.length > MOST_FLOWS && `, and ${flows.length - MOST_FLOWS} more ways`}</span>`;
}

/** What the API says that a draft would do: `{data, error, busy}`; the last answer stays until the next one is there. */
function usePreview(policy, draft) {
  const preview = useSignal({ busy: true });
  const wanted = JSON.stringify(exact(draft.weights));
  useEffect(() => {
    const control = new AbortController();
    preview.value = { ...preview.value, busy: true };
    const timer = setTimeout(() => {
      const asked = call("POST", `${policy.path}/traffic/preview`, { body: { weights: JSON.parse(wanted) }, signal: control.signal });
      asked.then(({ data }) => (preview.value = { data }), (error) => control.signal.aborted || (preview.value = { error }));
    }, PREVIEW_AFTER_MS);
    return () => {
      control.abort();
      clearTimeout(timer);
    };
  }, [wanted, policy.now.value.version]);
  return preview;
}
