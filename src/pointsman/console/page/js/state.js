// What the page knows: filled by api.js, read by all components. A component that reads `x.value` is drawn again when x
// changes.
import { signal, computed, effect } from "./lib.js";

const KEY = "pointsman.token";

/** Whether a text can be sent as a token: no token has spaces, or letters with accents. */
const fits = (text) => /^[\x21-\x7e]+$/.test(text);

function kept() {
  try {
    const { token, until } = JSON.parse(sessionStorage.getItem(KEY));
    return until > Date.now() && fits(token) ? token : "";
  } catch {
    return ""; // none kept
  }
}

/** The user's token, kept by this tab for 12 hours; empty where nobody is signed in. */
export const token = signal(kept());
/** Why somebody was signed out, for the form; empty for no reason. */
export const signedOut = signal("");
/** `{name, role}`; null before it is known. */
export const me = signal(null);
/** As `pointsman status --json`; null before it is known. */
export const status = signal(null);
/** The last event `numbers` of the stream; see numbersOf and backendNumbers. */
export const numbers = signal(null);
/** `connecting`, `live`, `away` (no controller), `lost` (no console), `paused` (the tab is hidden). */
export const connection = signal("connecting");
/** Whether what is shown may be old. */
export const stale = computed(() => connection.value === "away" || connection.value === "lost");
/** `{page, name, query}` from the part of the address behind `#/`. */
export const route = signal(routeOf(location.hash));
/** What is sought in the field "Find". */
export const find = signal("");
/** `system`, `light` or `dark`. */
export const theme = signal(document.documentElement.dataset.theme || "system");
/** The last thing that screen readers are told. */
export const said = signal("");

const ROLES = ["view", "operate", "deploy"];
/** Whether the user may make changes of a role: what is not allowed is not shown. The API checks it in any case. */
export const may = (role) => ROLES.indexOf(me.value?.role) >= ROLES.indexOf(role) && !me.value?.read_only;

export function signIn(value) {
  if (!fits(value)) return signOut("This is no token: it has characters that no token has.");
  sessionStorage.setItem(KEY, JSON.stringify({ token: value, until: Date.now() + 12 * 3600e3 }));
  signedOut.value = "";
  me.value = null;
  token.value = value;
}

addEventListener("token", () => signIn(kept())); // of first.js

export function signOut(why = "") {
  sessionStorage.removeItem(KEY);
  signedOut.value = why;
  token.value = "";
  me.value = status.value = numbers.value = null;
}

/** Tell screen readers. */
export function say(text) {
  said.value = "";
  setTimeout(() => (said.value = text), 50);
}

// Routes: #/ #/endpoint/E #/backend/B #/history #/logs?backend=B #/config

function routeOf(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const [page, name = ""] = path.split("/").map(decode);
  return { page: page || "overview", name, query: Object.fromEntries(new URLSearchParams(query)) };
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** What a map by names has for one. All objects have a `constructor`, which is no backend. */
export const own = (map, name) => (map && Object.hasOwn(map, name) ? map[name] : undefined);

/** The address of a page: `to("endpoint", "rank")`, `to("logs", "", {backend: "v1"})`. */
export function to(page, name = "", query = {}) {
  const asked = new URLSearchParams(query).toString();
  const path = page === "overview" ? "" : encodeURIComponent(page) + (name ? "/" + encodeURIComponent(name) : "");
  return `#/${path}${asked ? "?" + asked : ""}`;
}

addEventListener("hashchange", () => (route.value = routeOf(location.hash)));

effect(() => {
  const root = document.documentElement;
  if (theme.value === "system") {
    delete root.dataset.theme;
    localStorage.removeItem("pointsman.theme");
  } else {
    root.dataset.theme = theme.value;
    localStorage.setItem("pointsman.theme", theme.value);
  }
});

/** What the status has of a backend; undefined where there is none of that name. */
export const backendOf = (name) => own(status.value?.backends, name);

// Numbers: an endpoint or backend that is left out of the event is idle.

const IDLE = { per_second: 0, error_share: null, p50_ms: null, p99_ms: null, queued: 0, backends: {}, shadows: {} };

/** Numbers of an endpoint: `{per_second, error_share, p50_ms, p99_ms, queued, backends, shadows}`. */
export const numbersOf = (endpoint) => own(numbers.value?.endpoints, endpoint) ?? IDLE;
/** Numbers of a backend, over all endpoints: those above, and batch_size, processing, replicas. */
export const backendNumbers = (backend) => own(numbers.value?.backends, backend) ?? IDLE;

/** What the status had of an endpoint's rollout or a backend's autoscaling, as it has moved since; null for none. */
export const rolloutOf = (endpoint) => own(numbers.value?.rollouts, endpoint) ?? own(status.value?.rollouts, endpoint) ?? null;
export const scalingOf = (backend) => own(numbers.value?.autoscaling, backend) ?? backendOf(backend)?.autoscaling ?? null;
