// An endpoint's traffic policy: what is in force, what was, a draft of the next one, and changes with Undo.
// Kept by name for as long as the page lives, so that a draft outlives a look at another screen.
import { at, call, get } from "./api.js";
import { signal } from "./lib.js";

export const UNDO_MS = 30_000;

const kept = new Map();

/**
 * `now`: what GET traffic returns, until then what the status has of it, without a version; `history`: oldest first;
 * `draft`: see slider.js; `done`: the last change made here. endpoint: of the status.
 */
export function policyOf(name, endpoint) {
  if (!kept.has(name)) {
    const seen = { weights: endpoint.traffic, shadows: endpoint.shadows, policy: "weighted", pins: {} };
    const [now, history, draft, done, problem] = [seen, [], null, null, null].map((value) => signal(value));
    kept.set(name, { name, path: at`/endpoints/${name}`, now, history, draft, done, problem });
  }
  return kept.get(name);
}

/** A draft that was begun before the version was known is of this one, if that has the split which was seen. */
function adopt({ draft: { value: draft }, now: { value: now } }) {
  if (draft && !draft.version && JSON.stringify(draft.live) === JSON.stringify(now.weights)) draft.version = now.version;
}

/** Read again what is in force. */
export async function refresh(policy) {
  const ask = async (path, into) => (into.value = await get(policy.path + path));
  try {
    await Promise.all([ask("/traffic", policy.now).then(() => adopt(policy)), ask("/history", policy.history)]);
    policy.problem.value = null;
  } catch (problem) {
    policy.problem.value = problem;
  }
}

/**
 * Send a change that holds only where the policy is still `version`, and keep for a while how to undo it. The policy is
 * read again in any case, so that a conflict can be shown.
 *
 * @throws {Problem}
 */
async function change(policy, method, path, body, text, version = policy.now.value.version) {
  try {
    await call(method, policy.path + path, { body, version });
  } finally {
    await refresh(policy);
  }
  const after = policy.now.value.version;
  policy.done.value = after === version ? null : { text, before: version, after, until: Date.now() + UNDO_MS };
}

/** @param body `{weights, shadows}`, either may miss */
export const setTraffic = (policy, body, text, version) => change(policy, "PUT", "/traffic", body, text, version);

export const rollBack = (policy, version, text = `rolled back to version ${version}`, from = undefined) =>
  change(policy, "POST", "/rollback", { version }, text, from);

export const undo = (policy, { before, after }) => rollBack(policy, before, `undone, as in version ${before} again`, after);

/** Pin keys to a backend, or let weights decide again. */
export async function pin(policy, keys, backend) {
  const how = backend ? ["PUT", { keys, backend }] : ["DELETE", { keys }];
  try {
    await call(how[0], `${policy.path}/pins`, { body: how[1] });
  } finally {
    await refresh(policy);
  }
}
