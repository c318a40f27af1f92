// The configuration file of what runs, and how a file differs from that. The page never applies one: code goes its own way.
import { html, useRef, useState } from "./lib.js";
import { call } from "./api.js";
import { status } from "./state.js";
import { share, some } from "./format.js";
import { Badge, Button, Card, Failed, Heading, Notice, Time, Waiting, useAction, useCall } from "./parts.js";

const KINDS = { create: "ok", update: "info", replace: "warn", delete: "bad" };
const NOTES = { update: "no replica restarts", replace: "rolling, no request is lost" };

/** A value of a configuration in one line. */
export function shown(field, value) {
  if (value == null || value === "" || (typeof value === "object" && !Object.keys(value).length)) return "–";
  if ((field === "traffic" || field === "shadows") && typeof value === "object")
    return Object.entries(value).map(([name, part]) => `${name} ${share(part)}`).join(", ");
  return typeof value === "string" ? value : JSON.stringify(value);
}

const Value = ({ field, value }) => html`<code class="value" title=${shown(field, value)}><bdi>${shown(field, value)}</bdi></code>`;

const Change = ({ one }) => html`<li>
    <div class="line"><${Badge} kind=${KINDS[one.action]}>${one.action}<//><b><bdi>${one.object}</bdi></b><span class="dim">${one.object.startsWith("backend/") && NOTES[one.action]}</span></div>
    ${one.fields.length > 0 && html`<dl class="diff">${one.fields.map((f) => html`<div key=${f.field}><dt class="mono">${f.field}</dt>
      <dd>${one.action !== "create" && html`<del class=${f.from == null ? "none" : ""}><${Value} field=${f.field} value=${f.from} /></del><span class="dim" aria-label="becomes"> → </span>`}<ins><${Value} field=${f.field} value=${f.to} /></ins></dd></div>`)}</dl>`}
  </li>`;

const Conflict = ({ one }) => html`<li>
  <div class="line"><${Badge} kind="bad">conflict<//><b><bdi>${one.object}</bdi></b><span class="mono">${one.field}</span></div>
  <p class="wrap">The file has <${Value} field=${one.field} value=${one.file} />; in force is <${Value} field=${one.field} value=${one.live} />${one.by && html`, set by <bdi>${one.by}</bdi> at <${Time} at=${one.time} />`}</p>
</li>`;

const Drift = ({ found, name }) => {
  const { changes, conflicts, others } = found;
  const unloaded = found.loaded === false && "Its code was not loaded: code of the same name counts as the same.";
  if (!changes.length && !conflicts.length)
    return html`<${Notice} kind="ok" title="No difference"><p>What runs is what <bdi>${name === "FILE" ? "the file" : name}</bdi> wants (version ${found.version}). ${unloaded}</p><//>`;
  const parts = [changes.length && some(changes.length, "difference"), conflicts.length && some(conflicts.length, "conflict")];
  return html`<p role="status">${parts.filter(Boolean).join(" and ")} between <bdi>${name === "FILE" ? "the file" : name}</bdi> and what runs (version ${found.version}). ${unloaded} To apply it: <code>pointsman apply ${name}${others.length ? " --adopt" : ""}</code></p>
    ${others.length > 0 && html`<p class="dim wrap">Made by others than this file, which would take it over: ${others.join(", ")}</p>`}
    <ul class="rows boxed">${conflicts.map((one, i) => html`<${Conflict} key=${"c" + i} one=${one} />`)}${changes.map((one) => html`<${Change} key=${one.object} one=${one} />`)}</ul>`;
};

const Problems = ({ error }) => {
  const list = error.body?.problems;
  if (!list?.length) return html`<${Failed} error=${error} />`;
  return html`<${Notice} kind="bad" title="The file has ${some(list.length, "problem")}"><ul class="plain">
    ${list.map((one, i) => html`<li key=${i} class="wrap">${one.line ? html`<b>line ${one.line}:</b> ` : ""}${one.text ?? one.message ?? String(one)}</li>`)}</ul><//>`;
};

const TYPES = { json: "application/json", toml: "application/toml", yaml: "application/yaml" };

const Compare = () => {
  const [text, setText] = useState("");
  const [name, setName] = useState("");
  const pick = useRef();
  const diff = useAction(async () => {
    const suffix = /\.(json|toml)$/i.exec(name)?.[1].toLowerCase() ?? (/^\s*\{/.test(text) ? "json" : "yaml");
    const ask = async (adopt) => (await call("POST", "/config/diff", { query: { adopt, load: false }, body: text, type: TYPES[suffix] })).data;
    const found = await ask();
    const others = found.conflicts.filter((one) => one.field === "owner").map((one) => one.object);
    return { name: name || "FILE", others, ...(others.length ? await ask("true") : found) }; // its differences are what is sought
  });
  const [found, setFound] = useState(null);
  const run = async () => setFound(await diff.run());
  const take = async (file) => file && (setText(await file.text()), setName(file.name), setFound(null), diff.clear());
  const drop = (event) => (event.preventDefault(), take(event.dataTransfer.files[0]));
  return html`<${Card} title="Compare a file" actions=${html`<${Button} onClick=${() => pick.current.click()}>Pick a file<//>`}><div class="pad stack">
    <input ref=${pick} type="file" accept=".yaml,.yml,.toml,.json" hidden onChange=${(e) => (take(e.target.files[0]), (e.target.value = ""))} />
    <div class="field" onDragOver=${(e) => e.preventDefault()} onDrop=${drop}>
      <label for="file">${name ? html`<bdi>${name}</bdi>` : "Configuration file"}</label>
      <textarea id="file" class="mono" rows="10" spellcheck=${false} aria-describedby="file-hint" value=${text} onInput=${(e) => (setText(e.target.value), setFound(null))} />
      <p class="hint" id="file-hint">Paste or drop YAML, TOML or JSON. It is only compared: nothing is applied.</p>
    </div>
    <div><${Button} kind="primary" busy=${diff.busy} disabled=${!text.trim()} onClick=${run}>Compare<//></div>
    ${diff.error && html`<${Problems} error=${diff.error} />`}
    ${found && html`<${Drift} found=${found} name=${found.name} />`}
  </div><//>`;
};

/** The file of what runs, and what no file can have. */
async function present(signal) {
  const ask = (partial) => call("GET", "/config", { query: { format: "yaml", partial }, signal });
  try {
    return { data: { text: (await ask()).data } };
  } catch (error) {
    if (!error.body?.left_out) throw error;
    return { data: { text: (await ask("true")).data, leftOut: error.body.left_out } };
  }
}

/** Reasons, with the names that each is of. */
function byReason(leftOut) {
  const found = new Map();
  for (const [name, why] of Object.entries(leftOut)) found.set(why, [...(found.get(why) ?? []), name]);
  return [...found];
}

const Present = () => {
  const asked = useCall(present, [status.value.version]);
  const copy = useAction((text) => navigator.clipboard.writeText(text).then(() => true));
  const [copied, setCopied] = useState(false);
  const { data, error } = asked;
  if (!data) return html`<${Card} title="What runs"><${Waiting} what="the configuration" lines=${8} error=${error} again=${asked.reload} /><//>`;
  const { text, leftOut } = data;
  const save = () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/yaml" }));
    link.download = `${status.value.name || "pointsman"}.yaml`;
    link.click();
    URL.revokeObjectURL(link.href);
  };
  return html`<${Card} title="What runs" actions=${html`<span class="dim wide">version ${status.value.version}</span>
      ${navigator.clipboard && html`<${Button} onClick=${async () => setCopied(await copy.run(text))}>${copied ? "Copied" : "Copy"}<//>`}<${Button} onClick=${save}>Download<//>`}>
    ${leftOut && html`<div class="pad"><${Notice} kind="warn" title="A file cannot hold all of it"><p>Left out:</p><ul class="plain">${byReason(leftOut).map(([why, names]) => html`<li key=${why}>${names.map((name, i) => html`${i > 0 && ", "}<b><bdi>${name}</bdi></b>`)}: ${why}</li>`)}</ul><//></div>`}
    <pre class="code" tabindex="0" role="region" aria-label="What runs, as a file">${text}</pre><//>`;
};

export const ConfigPage = () => html`<${Heading} title="Configuration" /><div class="columns"><${Present} /><${Compare} /></div>`;
