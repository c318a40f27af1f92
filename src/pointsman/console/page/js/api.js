// Speaks with the console: calls of the API with the user's token, and the live stream.
import { batch } from "./lib.js";
import { connection, me, numbers, signOut, status, token } from "./state.js";

const BASE = new URL("api/v1", document.baseURI).href;

/** The API did not do it. `status` is 0 where the console was not reached; `detail` is for the user. */
export class Problem extends Error {
  constructor(status, title, detail, body = {}) {
    super(detail || title);
    Object.assign(this, { name: "Problem", status, title, detail, body });
  }
}

/** A path of the API: at`/endpoints/${name}/traffic`. Names are encoded. */
export const at = (parts, ...names) => String.raw({ raw: parts }, ...names.map(encodeURIComponent));

/**
 * Call the API.
 *
 * @param {string} method GET, PUT, POST, PATCH or DELETE
 * @param {string} path below /api/v1; see `at`
 * @param {{query?, body?, type?, version?, signal?}} options body: sent as JSON, or as text of the media type `type`.
 *   version: of the object as the user saw it; the change is refused with 412 where it has moved on.
 * @returns {Promise<{data, version, status}>} version: of the object, for a change of it
 * @throws {Problem}
 */
export async function call(method, path, { query, body, type, version, signal } = {}) {
  const headers = { authorization: `Bearer ${token.value}` };
  if (method !== "GET") headers["idempotency-key"] = id();
  if (body !== undefined) headers["content-type"] = type ?? "application/json";
  if (version != null) headers["if-match"] = `"${version}"`;
  const url = BASE + path + search(query);
  let answer = await reach(url, { method, headers, signal, body: body === undefined || type ? body : JSON.stringify(body) });
  while (answer.status === 202 && answer.headers.get("location")) {
    await new Promise((done) => setTimeout(done, 1000)); // a slow change: ask how it goes
    const where = answer.headers.get("location"); // as the console sees it: a proxy may put something before
    answer = await reach(BASE + where.slice(where.indexOf("/operations/")), { headers: { authorization: headers.authorization }, signal });
  }
  const etag = answer.headers.get("etag");
  return { data: await read(answer), version: etag && Number(etag.replace(/\D/g, "")), status: answer.status };
}

/** `call("GET", ...)`, its data alone. */
export const get = async (path, query, signal) => (await call("GET", path, { query, signal })).data;

function search(query) {
  const given = Object.entries(query ?? {}).filter(([, value]) => value != null && value !== "");
  return given.length ? "?" + new URLSearchParams(given) : "";
}

// Only pages of this machine or over TLS may use crypto.randomUUID.
const id = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");

async function reach(url, options) {
  let answer;
  try {
    answer = await fetch(url, { cache: "no-store", credentials: "omit", redirect: "error", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "No answer", "The console cannot be reached.");
  }
  if (answer.ok) return answer;
  const body = (await read(answer)) || {};
  const problem = new Problem(answer.status, body.title || answer.statusText, body.detail || "", body);
  if (answer.status === 401 && options.headers.authorization === `Bearer ${token.value}`) signOut(problem.detail || "The token is no longer valid.");
  throw problem;
}

async function read(answer) {
  const text = await answer.text();
  return text && /json/.test(answer.headers.get("content-type")) ? JSON.parse(text) : text;
}

// The live stream. EventSource can send no token, so that the events are read from a fetch.

const SILENCE_MS = 6000; // the stream has numbers each second
const PATIENCE_MS = 60000; // without a controller there may be none
const OPENING_MS = 15000;
const HIDDEN_MS = 4000;
const RETRY_MS = 1000;
let current = null;

/** Follow the stream while somebody is signed in and the tab is seen. Called once. */
export function follow() {
  let hidden;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hidden);
    if (document.hidden) hidden = setTimeout(pause, HIDDEN_MS);
    else resume();
  });
  token.subscribe(() => (pause(), resume()));
}

function pause() {
  current?.abort();
  current = null;
  if (token.value) connection.value = "paused";
}

async function resume() {
  if (current || !token.value || document.hidden) return;
  const mine = (current = new AbortController());
  if (connection.value === "paused") connection.value = "connecting";
  while (!mine.signal.aborted) {
    try {
      me.value = await get("/me", {}, AbortSignal.any([mine.signal, AbortSignal.timeout(OPENING_MS)])); // another console may know him otherwise
      await stream(mine.signal);
    } catch (error) {
      if (mine.signal.aborted) return;
      connection.value = error.status === 503 ? "away" : "lost";
    }
    if (!mine.signal.aborted) await new Promise((done) => setTimeout(done, RETRY_MS));
  }
}

async function stream(signal) {
  const silent = new AbortController();
  const both = AbortSignal.any([signal, silent.signal]);
  let watch = setTimeout(() => silent.abort(), OPENING_MS); // no word comes of a connection that died while asleep
  const take = taking();
  let text = "";
  try {
    const answer = await reach(`${BASE}/live`, { headers: { authorization: `Bearer ${token.value}` }, signal: both });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      clearTimeout(watch);
      watch = setTimeout(() => silent.abort(), connection.value === "live" ? SILENCE_MS : PATIENCE_MS);
      const { done, value } = await reader.read();
      if (done) break;
      text += value;
      const events = text.split("\n\n");
      text = events.pop();
      events.forEach(take);
    }
  } finally {
    clearTimeout(watch);
  }
  connection.value = "lost"; // it has ended
}

/** What has moved of rollouts and autoscaling is sent once, and holds until it moves again. */
function moved(fresh) {
  for (const part of ["rollouts", "autoscaling"]) fresh[part] = { ...numbers.value?.[part], ...fresh[part] };
  return fresh;
}

function taking() {
  let away = false;
  return (event) => {
    let kind = "";
    let data = "";
    for (const line of event.split("\n")) {
      if (line.startsWith("event:")) kind = line.slice(6).trim();
      else if (line.startsWith("data:")) data += line.slice(5);
    }
    if (kind === "away" || kind === "back") away = kind === "away";
    else if (kind === "state") batch(() => {
      status.value = JSON.parse(data);
      if (numbers.value) numbers.value = { ...numbers.value, rollouts: {}, autoscaling: {} };
    });
    else if (kind === "numbers") numbers.value = moved(JSON.parse(data));
    else return; // a comment that keeps the connection open
    connection.value = away ? "away" : "live";
  };
}
