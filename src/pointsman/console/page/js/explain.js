// Who answers a key, and why; by the policy in force or any kept one. And the keys that are pinned to a backend.
import { get } from "./api.js";
import { count, share, some } from "./format.js";
import { html, useEffect, useSignal } from "./lib.js";
import { Button, Card, Details, Failed, Field, Name, useAction } from "./parts.js";
import { pin } from "./policy.js";
import { may, own, status } from "./state.js";

const AFTER_MS = 200;
const MOST_SHOWN = 100;
const WHY = {
  pin: "the key is pinned to it",
  policy: "your own policy says so",
  "shard key": "it drew the smallest number",
  weight: "calls without a key are drawn by share",
};

export function Explain({ policy }) {
  const key = useSignal("");
  const version = useSignal("");
  const found = useExplained(policy, key, version);
  const { all, error } = found.value;
  const now = policy.now.value;
  const older = policy.history.value.filter((one) => one.version !== now.version).map((one) => ({ value: one.version, label: `version ${one.version}` }));
  return html`<${Card} kind="explain" title="Explain">
    <div class="line fields">
      <${Field} label="Key" maxlength="256" placeholder="such as user-42" value=${key} onInput=${(event) => (key.value = event.target.value)} />
      <${Field} label="Compare with" options=${[{ value: "", label: "no other version" }, ...older.reverse()]} value=${version} onChange=${(event) => (version.value = event.target.value)} />
    </div>
    <div role="status" class="explained">
      ${error && html`<${Failed} error=${error} />`}
      ${all?.map((one, at) => html`<${Answer} key=${at} answer=${one} now=${at === 0} />`)}
      ${!found.value.all && !error && html`<p class="hint">Says which backend answers calls with a key. ${now.shard_key && html`HTTP requests carry theirs in the ${now.shard_key.replace(":", " ")}.`}</p>`}
    </div>
    <${Pins} policy=${policy} />
  <//>`;
}

function useExplained(policy, key, version) {
  const found = useSignal({});
  const now = policy.now.value.version;
  useEffect(() => {
    if (!key.value) return void (found.value = {});
    const control = new AbortController();
    const ask = (which) => get(`${policy.path}/explain`, { key: key.value, version: which }, control.signal);
    const timer = setTimeout(() => {
      const asked = version.value ? [ask(), ask(version.value)] : [ask()];
      Promise.all(asked).then((all) => (found.value = { all }), (error) => control.signal.aborted || (found.value = { error }));
    }, AFTER_MS);
    return () => (control.abort(), clearTimeout(timer));
  }, [key.value, version.value, now]);
  return found;
}

function Answer({ answer, now }) {
  const drawn = Object.entries(answer.numbers ?? {}).sort((a, b) => a[1] - b[1]);
  return html`<div><p class="answer">${now ? "Now" : `In version ${answer.policy_version}`}: <b><bdi>${answer.backend ?? "any of them"}</bdi></b>, because ${WHY[answer.why] ?? answer.why}.</p>
    ${drawn.length > 0 && html`<table class="table lines" aria-label="Numbers drawn">
      <thead><tr><th>Backend</th><th class="right">Share</th><th class="right">Number drawn</th></tr></thead>
      <tbody>${drawn.map(([tag, number], at) => html`<tr key=${tag}><th scope="row"><${Name} name=${tag} />${at === 0 && " ✓"}</th>
        <td class="right num" data-head="Share">${share(own(answer.weights, tag) ?? 0)}</td><td class="right num" data-head="Number drawn">${number.toFixed(3)}</td></tr>`)}</tbody>
    </table>`}</div>`;
}

function Pins({ policy }) {
  const pins = Object.entries(policy.now.value.pins ?? {});
  const steer = may("operate");
  const send = useAction((keys, backend) => pin(policy, keys, backend).then(() => true));
  if (!pins.length && !steer) return null;
  return html`<${Details} summary=${pins.length ? some(pins.length, "pinned key") : "Pin keys to a backend"}>
    ${send.error && html`<${Failed} error=${send.error} />`}
    ${pins.length > 0 && html`<table class="table lines" aria-label="Pinned keys">
      <thead><tr><th>Key</th><th>Always goes to</th>${steer && html`<th><span class="unseen">Unpin</span></th>`}</tr></thead>
      <tbody>${pins.slice(0, MOST_SHOWN).map(([key, tag]) => html`<tr key=${key}><th scope="row"><${Name} name=${key} mono /></th><td data-head="Goes to"><${Name} name=${tag} /></td>
        ${steer && html`<td class="right"><${Button} kind="quiet" aria-label=${`Unpin ${key}`} title="Let shares decide again" busy=${send.busy} onClick=${() => send.run([key])}>✕<//></td>`}</tr>`)}</tbody>
    </table>`}
    ${pins.length > MOST_SHOWN && html`<p class="hint">and ${count(pins.length - MOST_SHOWN)} more</p>`}
    ${steer && html`<${Pinning} send=${send} />`}
  <//>`;
}

function Pinning({ send }) {
  const keys = useSignal("");
  const tag = useSignal("");
  const submit = async (event) => {
    event.preventDefault();
    const given = keys.value.split(",").map((key) => key.trim()).filter(Boolean);
    if (given.length && tag.value && (await send.run(given, tag.value))) keys.value = "";
  };
  return html`<form class="line fields" onSubmit=${submit}>
    <${Field} label="Keys, with commas between" value=${keys} onInput=${(event) => (keys.value = event.target.value)} />
    <${Field} label="Backend" options=${["", ...Object.keys(status.value.backends)]} value=${tag} onChange=${(event) => (tag.value = event.target.value)} />
    <${Button} type="submit" busy=${send.busy} disabled=${!keys.value.trim() || !tag.value}>Pin<//>
  </form>`;
}
