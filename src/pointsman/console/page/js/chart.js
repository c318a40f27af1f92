// Graphs of how numbers have gone, and the same numbers as a table.
import { html, signal, useEffect, useRef, useState } from "./lib.js";
import { get } from "./api.js";
import { clock, count, minute, ms, percent, rate, share } from "./format.js";
import { Card, Failed, Loading, Tabs, hue } from "./parts.js";

const SPANS = [["5m", "5 minutes"], ["1d", "1 day"]];
const WORDS = { "5m": "last 5 minutes", "1d": "last day" };
const ASK_EACH_S = { "5m": 2, "1d": 60 };
const HEIGHT = 136; // as .chart svg has it
const LEFT = 48;
const TOP = 16;
const BOTTOM = 20;
const TABLE_ROWS = 30;

/** The place on the axis of times at which the pointer is, in all charts; null for none. */
const pointed = signal(null);

/**
 * A card with the charts of an endpoint, its backends beside each other, or those of a backend.
 *
 * endpoint, backends: names; the backends in the order of their hues. Or: backend: a name.
 */
export const Charts = ({ endpoint, backends = [], backend }) => {
  const [span, setSpan] = useState("5m");
  const beside = backend ? [backend] : backends.length > 1 ? backends.slice(0, 6) : [];
  const asked = [...(endpoint ? [{ endpoint }] : []), ...beside.map((name) => (endpoint ? { endpoint, backend: name } : { backend: name }))];
  const { series, error, again } = useSeries(asked, span);
  const id = endpoint ? "endpoint-charts" : "backend-charts";
  const spans = html`<${Tabs} id=${id} label="Span" items=${SPANS} current=${span} onSelect=${setSpan} />`;
  return html`<${Card} title="Charts" actions=${spans}>
    <div id="${id}-panel" role="tabpanel" aria-labelledby="${id}-${span}">
      ${error && !series ? html`<${Failed} error=${error} again=${again} />` : !series ? html`<${Loading} what="charts" lines=${5} />` : html`<div class="multiples ${endpoint ? "four" : ""}">
        ${plan({ endpoint, beside }).map((one) => html`<${Chart} key=${one.title + span} ...${one} series=${series} span=${span} />`)}
      </div>`}
    </div>
  <//>`;
};

/** Of what is counted: means have a digit more. */
const whole = (value) => (Number.isInteger(value) ? count(value) : rate(value));

/** How a round value on an axis is written, where that is not as in the text beside it. */
const ON_AXIS = new Map([[rate, whole], [percent, share]]);

/** Which charts there are. A line: [which of the series, its column, label, hue]. */
function plan({ endpoint, beside }) {
  const first = endpoint ? 1 : 0; // series 0 is the endpoint's
  const each = (column) => beside.map((name, i) => [i + first, column, name, i]);
  const several = beside.length > 1;
  return [
    { title: "Requests", unit: "per second", text: rate, zero: true, lines: several ? each("per_second") : [[0, "per_second", "requests", 0]] },
    { title: "Errors", unit: "share of requests", text: percent, zero: true, least: 0.01, lines: several ? each("error_share") : [[0, "error_share", "errors", 0]] },
    several
      ? { title: "Latency p99", unit: "ms", text: ms, lines: each("p99_ms") }
      : { title: "Latency", unit: "ms", text: ms, lines: [[0, "p50_ms", "p50", 0], [0, "p99_ms", "p99", 1]] },
    { title: "Queued", unit: "requests", text: whole, zero: true, least: 4, lines: [[0, "queued", "queued", 0]] },
    ...(endpoint ? [] : [
      { title: "Batch size", unit: "requests", text: rate, least: 2, lines: [[0, "batch_size", "mean", 0]] },
      { title: "Replicas", unit: "ready", text: whole, zero: true, least: 2, lines: [[0, "replicas", "replicas", 0]] },
    ]),
  ];
}

/** The series asked for, kept up to date while they are seen: `{series: [{times, columns}], error, again}`. */
function useSeries(asked, span) {
  const [state, setState] = useState({});
  const [turn, setTurn] = useState(0);
  const key = JSON.stringify([asked, span]);
  useEffect(() => {
    const control = new AbortController();
    let timer;
    const ask = async () => {
      try {
        if (!document.hidden) {
          const found = await Promise.all(asked.map((query) => rowsOf({ ...query, span }, control.signal)));
          setState({ key, series: aligned(found) });
        }
      } catch (error) {
        if (control.signal.aborted) return;
        setState((before) => ({ ...before, error }));
      }
      timer = setTimeout(ask, 1000 * ASK_EACH_S[span]);
    };
    ask();
    return () => (control.abort(), clearTimeout(timer));
  }, [key, turn]);
  return { ...(state.key === key ? state : { error: state.error }), again: () => (setState({}), setTurn((n) => n + 1)) };
}

/** Where so many endpoints are split that their parts are not kept, a part is the backend as a whole. */
const rowsOf = (query, signal) =>
  get("/series", query, signal).catch((error) => {
    if (error.status !== 422 || !query.endpoint || !query.backend) throw error;
    return get("/series", { ...query, endpoint: "" }, signal);
  });

/** Series on one axis of times, up to the last that is known of all. */
function aligned(found) {
  const { step_s: step, rows } = found[0];
  const ends = found.map((one) => Math.round(one.end / step));
  const end = Math.min(...ends);
  const times = rows.map((_, i) => (end - (rows.length - 1 - i)) * step);
  return found.map((one, n) => {
    const columns = {};
    one.names.forEach((name, place) => {
      const values = one.rows.map((row) => row[place]);
      columns[name] = [...Array(ends[n] - end).fill(null), ...values].slice(0, values.length);
    });
    return { times, columns };
  });
}

const Chart = ({ title, unit, text, lines, series, span, zero, least = 0 }) => {
  const [width, setWidth] = useState(360);
  const frame = useRef();
  useEffect(() => {
    const resized = new ResizeObserver(([{ contentRect }]) => setWidth(Math.max(120, Math.round(contentRect.width))));
    resized.observe(frame.current);
    return () => resized.disconnect();
  }, []);
  const { times } = series[0];
  const columns = lines.map(([which, column]) => known(series[which]?.columns[column] ?? [], zero));
  const place = pointed.value ?? times.length - 1;
  const values = columns.map((column) => text(column[place]));
  const labels = lines.map(([, , label]) => label);
  const [usual, peak] = highest(columns.flat());
  const ticks = scale(Math.max(least, usual));
  const top = ticks[ticks.length - 1];
  const x = (i) => LEFT + (i / (times.length - 1)) * (width - LEFT - 1);
  const y = (value) => TOP + (1 - Math.min(1, value / top)) * (HEIGHT - TOP - BOTTOM);
  const point = ({ clientX, currentTarget }) => {
    const at = (clientX - currentTarget.getBoundingClientRect().left - LEFT) / (width - LEFT - 1);
    pointed.value = Math.max(0, Math.min(times.length - 1, Math.round(at * (times.length - 1))));
  };
  return html`<figure class="chart" ref=${frame}>
    <figcaption><h3>${title} <small>${unit}</small></h3>
      <span class="legend values">${labels.map((label, i) => html`<span key=${label} title=${label}>${labels.length > 1 && html`<i class="dot ${hue(lines[i][3])}" aria-hidden="true" /><bdi>${label}</bdi> `}<b class="num">${values[i]}</b></span>`)}</span>
    </figcaption>
    <svg width=${width} height=${HEIGHT} role="img" aria-label="${title}, ${unit}, ${WORDS[span]}: ${labels.map((label, i) => `${label} ${values[i]}`).join(", ")}" onPointerMove=${point} onPointerLeave=${() => (pointed.value = null)}>
      ${ticks.map((tick) => html`<g key=${tick}><line class="grid" x1=${LEFT} x2=${width} y1=${y(tick)} y2=${y(tick)} /><text x=${LEFT - 6} y=${y(tick) + 4} text-anchor="end">${(ON_AXIS.get(text) ?? text)(tick)}</text></g>`)}
      ${moments(times, width).map((i) => html`<text key=${times[i]} x=${x(i)} y=${HEIGHT - 4} text-anchor="middle">${minute(times[i])}</text>`)}
      ${columns.map((column, n) => html`<path key=${labels[n]} class="line ${hue(lines[n][3])} dash${n}" d=${path(column, x, y)} />`)}
      ${peak > top && html`<text x=${width} y="10" text-anchor="end">↑ up to ${text(peak)}</text>`}
      ${pointed.value != null && html`<line class="pointed" x1=${x(place)} x2=${x(place)} y1=${TOP} y2=${HEIGHT - BOTTOM} /><text x=${Math.min(width - 26, Math.max(LEFT + 26, x(place)))} y="10" text-anchor="middle">${clock(times[place])}</text>`}
    </svg>
    <${AsTable} title=${title} unit=${unit} heads=${labels} data=${[times, ...columns]} text=${text} />
  </figure>`;
};

/** What a chart must reach up to, and the highest value: one that is far above nearly all others would flatten them. */
function highest(values) {
  const sorted = values.filter((value) => value != null).sort((a, b) => a - b);
  const peak = sorted[sorted.length - 1] ?? 0;
  const most = sorted[Math.floor(sorted.length * 0.97)] ?? 0;
  return [most > 0 && peak > 5 * most ? 2 * most : peak, peak];
}

/** Round values from 0 to what is above the highest, three to five of them. */
function scale(highest) {
  const rough = (highest || 1) / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((n) => n * power >= rough) * power;
  return Array.from({ length: Math.ceil((highest || 1) / step - 1e-9) + 1 }, (_, i) => i * step);
}

/** Places of times on the axis: whole minutes, or hours of a day. */
function moments(times, width) {
  const day = times[1] - times[0] > 1;
  const each = (day ? 3 : 1) * (day ? 3600 : 60) * (width < 300 ? 2 : 1);
  const shift = new Date(times[0] * 1000).getTimezoneOffset() * 60;
  return times.flatMap((time, i) => ((time - shift) % each === 0 && i > 4 && (1 - i / times.length) * (width - LEFT) > 16 ? [i] : []));
}

/** A line through the values; a value without a neighbour is a point. */
function path(values, x, y) {
  let text = "";
  values.forEach((value, i) => {
    if (value == null) return;
    const start = values[i - 1] == null;
    text += `${start ? "M" : "L"}${x(i).toFixed(1)} ${y(value).toFixed(1)}`;
    if (start && values[i + 1] == null) text += "h0.1";
  });
  return text;
}

/** Where nothing is known of what counts from zero, after the first that is, it was idle. */
function known(values, zero) {
  const first = zero ? values.findIndex((value) => value != null) : -1;
  return first < 0 ? values : values.map((value, i) => (i > first ? (value ?? 0) : value));
}

const AsTable = ({ title, unit, heads, data, text }) => {
  const [open, setOpen] = useState(false);
  const every = Math.ceil(data[0].length / TABLE_ROWS);
  const rows = [];
  for (let i = data[0].length - 1; open && i >= 0; i -= every) rows.push(i);
  return html`<details class="details" onToggle=${(e) => setOpen(e.target.open)}><summary>As a table</summary>
    ${open && html`<div class="frame short" tabindex="0" role="region" aria-label="${title} as a table"><table class="table plain">
      <thead><tr><th scope="col">Time</th>${heads.map((head) => html`<th key=${head} scope="col" class="right">${head} <small>${unit}</small></th>`)}</tr></thead>
      <tbody>${rows.map((i) => html`<tr key=${data[0][i]}><td><time>${clock(data[0][i])}</time></td>${heads.map((head, n) => html`<td key=${head} class="right">${text(data[n + 1][i])}</td>`)}</tr>`)}</tbody>
    </table></div>`}
  </details>`;
};
