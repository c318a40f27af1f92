// An endpoint's shadows beside what users get: errors, times, what was dropped, and how the answers differ.
import { at, get } from "./api.js";
import { count, percent, rate, share as shown, some } from "./format.js";
import { html, useEffect, useSignal } from "./lib.js";
import { BackendLink, Badge, Button, Card, Empty, Failed, Num } from "./parts.js";
import { setTraffic } from "./policy.js";
import { Cells, HEADS, Percent } from "./slider.js";
import { may, numbersOf, own, status } from "./state.js";

const EVERY_MS = 5000;
const DROPPED = "Drops/s";

export function Shadows({ policy }) {
  const { shadows } = policy.now.value;
  const problem = useSignal(null);
  const seen = numbersOf(policy.name);
  const steer = may("operate");
  const set = async (tag, share) => {
    const { [tag]: _, ...others } = shadows;
    const was = own(shadows, tag);
    const text = `shadow ${tag} ${was === undefined ? "gets" : `${shown(was)} →`} ${share ? shown(share) : "no copies"}`;
    problem.value = null;
    await setTraffic(policy, { shadows: share ? { ...shadows, [tag]: share } : others }, text).catch((error) => (problem.value = error));
  };
  return html`<${Card} kind="shadows" title="Shadows" actions=${steer && html`<${Adding} shadows=${shadows} set=${set} />`}>
    ${problem.value && html`<${Failed} error=${problem.value} />`}
    ${Object.keys(shadows).length === 0
      ? html`<${Empty} title="No backend gets copies">A shadow answers copies of calls. Users never see its answers.<//>`
      : html`<table class="table lines" aria-label="Shadows">
        <thead><tr><th>Backend</th><th class="right">Copied</th>${[...HEADS, DROPPED].map((head) => html`<th class="right">${head}</th>`)}${steer && html`<th class="end"><span class="unseen">Remove</span></th>`}</tr></thead>
        <tbody>
          <tr class="base"><th scope="row">What users get</th><td class="right" data-head="Copied">–</td><${Cells} of=${seen} /><td class="right" data-head=${DROPPED}>–</td>${steer && html`<td class="end" />`}</tr>
          ${Object.entries(shadows).map(([tag, share]) => html`<${Shadow} key=${tag} policy=${policy} tag=${tag} share=${share} seen=${own(seen.shadows, tag)} set=${steer && set} />`)}
        </tbody>
      </table>`}
  <//>`;
}

function Shadow({ policy, tag, share, seen, set }) {
  const report = useReport(policy, tag).value;
  return html`<tr>
      <th scope="row"><${BackendLink} name=${tag} /></th>
      <td class="right" data-head="Copied">${set
        ? html`<${Percent} label=${`Percent copied to ${tag}`} share=${share} onShare=${(value) => value !== share && set(tag, value)} />`
        : shown(share)}</td>
      <${Cells} of=${seen} />
      <td class="right" data-head=${DROPPED}><${Num}>${rate(seen?.dropped_per_second ?? 0)}<//></td>
      ${set && html`<td class="right end"><${Button} kind="quiet" aria-label=${`Remove shadow ${tag}`} title="No more copies" onClick=${() => set(tag, 0)}>✕<//></td>`}
    </tr>
    ${report && html`<tr class="under"><td colspan=${set ? 8 : 7}><${Report} report=${report} /></td></tr>`}`;
}

/** What came of comparing; null where the shadow is not compared. */
function useReport(policy, tag) {
  const report = useSignal(null);
  useEffect(() => {
    const control = new AbortController();
    let timer;
    const read = async () => {
      try {
        if (!document.hidden) report.value = await get(policy.path + at`/shadows/${tag}`, {}, control.signal);
      } catch (error) {
        if ([400, 404, 422].includes(error.status)) return; // it is not compared
      }
      if (!control.signal.aborted) timer = setTimeout(read, EVERY_MS);
    };
    read();
    return () => (control.abort(), clearTimeout(timer));
  }, [policy.name, tag, policy.now.value.version]);
  return report;
}

function Report({ report }) {
  const { pairs, mismatched, mismatch_rate: of, above_noise: above, noise, by_kind, uncompared } = report;
  if (!pairs) return html`<span class="hint">Answers are compared; there are none yet.</span>`;
  const ratio = report.latency.median_ratio.value;
  const sure = above?.tripped;
  const [kind, word] = sure ? ["bad", "differs"] : mismatched ? ["warn", "differs at times"] : ["ok", "answers alike"];
  const parts = (title, counts) => Object.keys(counts).length > 0 && ` ${title}: ${Object.entries(counts).map(([what, n]) => `${what} ${count(n)}`).join(", ")}.`;
  return html`<${Badge} kind=${kind}>${word}<//>${" "}
    <span class="num">${mismatched
      ? `${percent(of.value)} of ${some(pairs, "answer")} differ (for sure between ${percent(of.low)} and ${percent(of.high)})`
      : `All ${some(pairs, "answer")} match, at most ${percent(of.high)} do not`}${mismatched > 0 && above && (sure ? ": more than noise" : ": not surely more than noise")}.
    ${noise && ` What users get differs from itself in ${percent(noise.rate)}.`}
    ${ratio != null && ` Median time × ${rate(ratio)}.`}</span>
    <p class="hint">${parts("Differences", by_kind)}${parts("Not compared", uncompared)}</p>`;
}

function Adding({ shadows, set }) {
  const free = Object.keys(status.value.backends).filter((tag) => !Object.hasOwn(shadows, tag));
  const add = (event) => {
    const tag = event.target.value;
    event.target.value = "";
    set(tag, 0.1);
  };
  return html`<select aria-label="Copy calls to a backend" disabled=${!free.length} onChange=${add}>
    <option value="">Copy 10% of calls to…</option>
    ${free.map((tag) => html`<option key=${tag} value=${tag}>${tag}</option>`)}
  </select>`;
}
