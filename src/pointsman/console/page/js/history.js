// What has been changed in the instance, when and by whom.
import { html, useState } from "./lib.js";
import { call } from "./api.js";
import { some, words } from "./format.js";
import { own, status, to } from "./state.js";
import { Card, DataTable, Empty, Failed, Field, Heading, Name, Time, Waiting, useCall } from "./parts.js";

/** A link to the page of an object, as `endpoint/rank`, while there is one. */
const ObjectLink = ({ object }) => {
  const [kind, ...rest] = object.split("/");
  const name = rest.join("/");
  const there = own(status.value[`${kind}s`], name);
  const gone = !there && (kind === "endpoint" || kind === "backend");
  return html`<span class="two"><${Name} name=${name || object} href=${there ? to(kind, name) : null} /><small>${name ? kind : ""}${gone ? ", deleted" : ""}</small></span>`;
};

const COLUMNS = [
  { key: "time", head: "Time", width: "w3", cell: (row) => html`<${Time} at=${row.time} />` },
  { key: "object", head: "Object", width: "w5", sort: (row) => row.object, cell: (row) => html`<${ObjectLink} object=${row.object} />` },
  { key: "change", head: "Change", cell: (row) => html`<span class="clamp" title=${row.change}><bdi>${words(row.change)}</bdi></span>` },
  { key: "by", head: "By", wide: true, width: "w5", sort: (row) => row.by, cell: (row) => html`<span class="two"><${Name} name=${row.by} />${row.owner && html`<small class="name">file of ${row.owner}</small>`}</span>` },
  { key: "version", head: "Version", num: true, wide: true, width: "w2", sort: (row) => row.version, cell: (row) => row.version },
];

export const HistoryPage = ({ query }) => {
  const [sought, setSought] = useState("");
  const object = query.object ?? "";
  const { data, error, reload } = useCall((signal) => call("GET", "/history", { query: { object }, signal }), [object, status.value.version]);
  const fits = (row) => [row.object, row.change, row.by, row.owner].some((text) => text?.toLowerCase().includes(sought.trim().toLowerCase()));
  const rows = (data ?? []).filter(fits).reverse();
  return html`<${Heading} title="History" aside=${object && html`<span class="dim">of <bdi>${object}</bdi> · <a href=${to("history")}>of everything</a></span>`} />
    ${error && data && html`<${Failed} error=${error} again=${reload} />`}
    <${Card} title="Changes" actions=${html`<${Field} hidden label="Filter changes" type="search" placeholder="Filter" value=${sought} onInput=${(e) => setSought(e.target.value)} />`}>
      ${!data ? html`<${Waiting} what="the history" lines=${6} error=${error} again=${reload} />` : html`<${DataTable} label="Changes" columns=${COLUMNS} rows=${rows} rowKey=${(row) => `${row.version} ${row.object} ${row.change}`} kind="tall"
        empty=${html`<${Empty} title=${sought ? "No change fits" : "Nothing was changed yet"}>${sought ? `None of ${some(data.length, "change")} has “${sought.trim()}”.` : "Each change of a backend or endpoint is kept here."}<//>`} />`}
    <//>`;
};
