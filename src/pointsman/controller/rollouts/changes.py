"""Rollouts in the desired state: started, moved, ended, and what becomes of them when others change things. Pure.

Each step is a traffic policy of its own, with a new version: requests are counted by that, so evidence of other
policies cannot get in.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pointsman.controller.endpoints import with_endpoint
from pointsman.controller.history import CONTROLLER, noted, recorded
from pointsman.controller.marks import ENDPOINT, marked
from pointsman.controller.rollouts.gates import too_slow
from pointsman.controller.rollouts.judge import Verdict
from pointsman.controller.rollouts.options import MISMATCH, checked
from pointsman.controller.rollouts.words import after, percent, so_far
from pointsman.controller.state import (
    Arms,
    Desired,
    Pairs,
    Rollout,
    check_surface,
    check_usable,
    find_endpoint,
    rollout_of,
)
from pointsman.model import EndpointSpec
from pointsman.model.evidence import Tally
from pointsman.model.rollout import (
    ABORTED,
    ENDED,
    PAUSED,
    PROMOTED,
    ROLLED_BACK,
    RUNNING,
    SUPERSEDED,
)
from pointsman.wire.rollouts import ABORT, PAUSE, PROMOTE, RESUME, VERBS, ControlRollout, RolloutCommand, StartRollout

KEPT_ROLLOUTS = 20
"""So many are kept after their end."""

KEPT_POLICIES = 4
"""Of so many policies of a rollout late requests count."""


def apply(state: Desired, command: RolloutCommand, now: str) -> tuple[Desired, str]:
    """Carry out a command; see :func:`pointsman.controller.desired.apply`.

    Raises:
        ValueError: it cannot be carried out; nothing has changed.
    """
    if isinstance(command, StartRollout):
        return _started(state, command, now), too_slow(checked(command.plan))
    return _controlled(state, command, now)


def settled(state: Desired, rollout: Rollout, verdict: Verdict, now: str) -> Desired:
    """The state after a rollout was judged.

    Args:
        rollout: with what it was judged by.
        verdict: what is to become of it.
        now: ISO 8601 in UTC.

    Returns:
        The state, of a new version if anybody but the rollout itself has to know of it.
    """
    if verdict.advances:
        step = msgspec.structs.replace(rollout, step=rollout.step + 1, held_s=0.0, samples=(0, 0))
        return _routed(state, step, _step_words(step), CONTROLLER, now)
    if verdict.state == rollout.state:
        return _with(state, msgspec.structs.replace(rollout, reason=verdict.reason))
    if verdict.state == ROLLED_BACK:
        return _went_back(state, rollout, ROLLED_BACK, verdict.reason, CONTROLLER, now)
    return _now(state, rollout, verdict.state, verdict.reason, CONTROLLER, now)


def followed(old: Desired, new: Desired, *, by: str, now: str, by_hand: str = "") -> Desired:
    """The new state with what its change means for the rollouts in it (RO10).

    Args:
        by: who made the change.
        by_hand: the endpoint whose traffic somebody has set, even if to what it was before.
    """
    for rollout in old.rollouts.values():
        if rollout.is_live and new.rollouts.get(str(rollout.id)) is rollout:
            version = max(new.version, old.version + 1)  # that of the change: who made it waits for that
            new = _after_change(new, version, rollout, by=by, now=now, by_hand=by_hand == rollout.plan.endpoint)
    return new


def weights_at(former: Mapping[str, float], to: str, weight: float) -> dict[str, float]:
    """The weights at a step: ``to`` has its own, and the others share the rest as before (RO3)."""
    others = sum(share for tag, share in former.items() if tag != to)
    shared = {tag: share / others * (1 - weight) for tag, share in former.items() if tag != to}
    return {**shared, to: weight}


def _started(state: Desired, command: StartRollout, now: str) -> Desired:
    plan = checked(command.plan)
    endpoint = find_endpoint(state, plan.endpoint)
    there = rollout_of(state, plan.endpoint)
    if there is not None and there.is_live:
        raise ValueError(
            f"rollout {there.id} of endpoint {plan.endpoint!r} to {there.plan.to!r} is {there.state}; abort or promote"
            " it before another is started"
        )
    if endpoint.policy.custom is not None:
        raise ValueError(
            f"endpoint {plan.endpoint!r} has the custom policy {endpoint.policy.custom.path!r}, and a rollout moves"
            " weights; set traffic without it first"
        )
    check_usable(state, plan.to)
    check_surface(state, endpoint, plan.to)
    former = endpoint.policy.weights
    if not any(share for tag, share in former.items() if tag != plan.to):
        raise ValueError(f"backend {plan.to!r} has all traffic of endpoint {plan.endpoint!r} already")
    if MISMATCH in plan.gates:
        _check_compared(endpoint, plan.to)
    rollout = Rollout(
        id=max(map(int, state.rollouts), default=0) + 1,
        plan=plan,
        former=former,
        former_policy=endpoint.policy.version,
        policies=(),
        codes=_codes(state, {plan.to, *(tag for tag, share in former.items() if share)}),
        by=command.by,
        began=now,
    )
    return _routed(state, rollout, _step_words(rollout), command.by, now)


def _check_compared(endpoint: EndpointSpec, to: str) -> None:
    """Raise ValueError if there is nothing to judge mismatches by."""
    comparison = endpoint.policy.compared.get(to)
    if comparison is None:
        raise ValueError(
            f"gate {MISMATCH!r} needs {to!r} to be a shadow of endpoint {endpoint.name!r} whose answers are compared"
        )
    if not comparison.noise:
        raise ValueError(
            f"gate {MISMATCH!r} needs to know how often the answers of endpoint {endpoint.name!r} differ by themselves;"
            f" compare those of shadow {to!r} with noise above 0"
        )


def _controlled(state: Desired, command: ControlRollout, now: str) -> tuple[Desired, str]:
    if command.verb not in VERBS:
        raise ValueError(f"a rollout knows no {command.verb!r}; it knows {', '.join(VERBS)}")
    rollout, by = find_rollout(state, command.endpoint), command.by
    if not rollout.is_live:
        raise ValueError(f"rollout {rollout.id} of endpoint {command.endpoint!r} has ended: {rollout.reason}")
    who = f" by {by}" if by else ""
    if command.verb == PAUSE:
        if rollout.state == PAUSED:
            return state, f"rollout {rollout.id} is paused already: {rollout.reason}"
        return _now(state, rollout, PAUSED, f"paused {so_far(rollout)}{who}", by, now), ""
    if command.verb == RESUME:
        if rollout.state == RUNNING:
            return state, f"rollout {rollout.id} is running already"
        return _resumed(state, rollout, by, now), ""
    if command.verb == ABORT:
        return _went_back(state, rollout, ABORTED, f"aborted {so_far(rollout)}{who}", by, now), ""
    assert command.verb == PROMOTE
    last = rollout.plan.steps[-1]
    reason = f"promoted from {percent(rollout.weight)} to {percent(last)} {after(rollout)}{who}"
    promoted = msgspec.structs.replace(rollout, step=len(rollout.plan.steps) - 1)
    return _ended(state, promoted, PROMOTED, reason, weights_at(rollout.former, rollout.plan.to, last), by, now), ""


def find_rollout(state: Desired, endpoint: str) -> Rollout:
    """The newest rollout of an endpoint.

    Raises:
        ValueError: it does not exist, or has had none.
    """
    rollout = rollout_of(state, endpoint)
    if rollout is None:
        find_endpoint(state, endpoint)
        raise ValueError(f"endpoint {endpoint!r} has had no rollout, or {KEPT_ROLLOUTS} others have ended since")
    return rollout


def _resumed(state: Desired, rollout: Rollout, by: str, now: str) -> Desired:
    """It goes on. With other code its evidence is forgotten: the policy is new, so only new requests count."""
    late = rollout.held_s >= rollout.plan.patience * rollout.plan.hold_s
    held = 0.0 if late else rollout.held_s  # one that was inconclusive has its time once more
    resumed = msgspec.structs.replace(rollout, held_s=held)
    words = f"resumed at {percent(rollout.weight)}"
    if not rollout.forgets:
        return _now(state, resumed, RUNNING, "", by, now, words=words)
    for tag in rollout.codes:
        if tag in state.fallbacks:
            raise ValueError(f"backend {tag!r} is still being changed; resume the rollout once that has come up")
    anew = msgspec.structs.replace(
        rollout,
        policies=(),
        codes=_codes(state, rollout.codes),
        state=RUNNING,
        held_s=0.0,
        samples=(0, 0),
        gates={},
        counted=None,
        totals=Arms(),
        pairs=Pairs(),
        metrics={},
        known=Tally(),
        former_policy=0,
        forgets=False,
        reason="",
    )
    return _routed(state, anew, f"{words}, without the evidence from before", by, now)


def _after_change(state: Desired, version: int, rollout: Rollout, *, by: str, now: str, by_hand: bool) -> Desired:
    endpoint = state.endpoints.get(rollout.plan.endpoint)
    who = by or "someone"
    if endpoint is None:
        reason = f"superseded {so_far(rollout)}: {who} has deleted the endpoint"
        return _at(version, state, rollout, SUPERSEDED, reason, by, now)
    policy = endpoint.policy
    expected = weights_at(rollout.former, rollout.plan.to, rollout.weight)
    if by_hand or policy.weights != expected or policy.custom is not None:
        reason = f"superseded {so_far(rollout)}: {who} has set traffic"
        return _at(version, state, rollout, SUPERSEDED, reason, by, now)
    changed = [tag for tag, version in rollout.codes.items() if _code(state, tag) != version]
    if changed:
        reason = f"paused {so_far(rollout)}: backend {changed[0]!r} got new code from {who}"
        # Also of one that is paused: what it had before is told by the evidence.
        forgetful = msgspec.structs.replace(rollout, forgets=True, codes=_codes(state, rollout.codes))
        return _at(version, state, forgetful, PAUSED, reason, by, now)
    if policy.version != rollout.policies[-1]:  # such as by another shadow
        versions = (*rollout.policies, policy.version)[-KEPT_POLICIES:]
        return _with(state, msgspec.structs.replace(rollout, policies=versions))
    return state


# --- how each of them changes the state ---------------------------------------------------------------------------


def _routed(state: Desired, rollout: Rollout, words: str, by: str, now: str) -> Desired:
    """The state in which a rollout's step has its weights, under a policy of its own."""
    weights = weights_at(rollout.former, rollout.plan.to, rollout.weight)
    new = _with_weights(state, rollout, weights, words, by, now)
    version = new.endpoints[rollout.plan.endpoint].policy.version
    return _with(new, msgspec.structs.replace(rollout, policies=(*rollout.policies, version)[-KEPT_POLICIES:]))


def _went_back(state: Desired, rollout: Rollout, how: str, reason: str, by: str, now: str) -> Desired:
    return _ended(state, rollout, how, reason, rollout.former, by, now)


def _ended(
    state: Desired, rollout: Rollout, how: str, reason: str, weights: Mapping[str, float], by: str, now: str
) -> Desired:
    """The state in which a rollout has ended, with these weights."""
    new = _with_weights(state, rollout, weights, reason, by, now)
    return _with(new, msgspec.structs.replace(rollout, state=how, reason=reason, ended=now))


def _now(state: Desired, rollout: Rollout, how: str, reason: str, by: str, now: str, words: str = "") -> Desired:
    """The state in which a rollout is in another state, and traffic is as it was; ``words`` are for the history."""
    return _at(state.version + 1, state, rollout, how, reason, by, now, words)


def _at(
    version: int, state: Desired, rollout: Rollout, how: str, reason: str, by: str, now: str, words: str = ""
) -> Desired:
    """The same as a part of the change that made this version of the state."""
    ended = now if how in ENDED else ""
    new = msgspec.structs.replace(state, version=version)
    new = _with(new, msgspec.structs.replace(rollout, state=how, reason=reason, ended=ended))
    text = f"rollout {rollout.id}: {words or reason}"
    return noted(new, ENDPOINT + rollout.plan.endpoint, text, by=by, now=now)


def _with_weights(
    state: Desired, rollout: Rollout, weights: Mapping[str, float], words: str, by: str, now: str
) -> Desired:
    endpoint = state.endpoints[rollout.plan.endpoint]
    policy = msgspec.structs.replace(endpoint.policy, version=state.version + 1, weights=dict(weights))
    changed = msgspec.structs.replace(endpoint, policy=policy)
    new = with_endpoint(state, changed, now=now, change=f"rollout {rollout.id}: {words}", by=by)
    return marked(state, recorded(state, new, by=by, now=now), by=by, now=now)


def _with(state: Desired, rollout: Rollout) -> Desired:
    """The state with a rollout as it is now. Of those that have ended the oldest are forgotten."""
    if not rollout.is_live:
        rollout = msgspec.structs.replace(rollout, counted=None)
    rollouts = {**state.rollouts, str(rollout.id): rollout}
    ended = sorted((one.id for one in rollouts.values() if not one.is_live), reverse=True)
    for number in ended[KEPT_ROLLOUTS:]:
        del rollouts[str(number)]
    return msgspec.structs.replace(state, rollouts=rollouts)


def _step_words(rollout: Rollout) -> str:
    return f"step {rollout.step + 1} of {len(rollout.plan.steps)}"


def _codes(state: Desired, tags: set[str] | Mapping[str, int]) -> dict[str, int]:
    return {tag: _code(state, tag) for tag in sorted(tags)}


def _code(state: Desired, tag: str) -> int:
    """The version of a backend's code; 0 if it does not exist any more."""
    spec = state.backends.get(tag)
    return spec.version if spec is not None else 0
