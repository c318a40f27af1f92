"""What a look at a backend sees, of the state and of what routers have counted. Pure; the time is an argument."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

import msgspec

from pointsman.controller.observed import Observed
from pointsman.controller.replicas import Phase, Replica
from pointsman.controller.scaling.following import decided, follows_calls
from pointsman.controller.scaling.found import Looked
from pointsman.controller.state import Desired
from pointsman.model import ASGI, BackendSpec, Scale
from pointsman.model.evidence import Evidence, Tally
from pointsman.model.scaling import BOUNDS, Autoscaling, Demand
from pointsman.policy.scaling.context import PolicyContext, context
from pointsman.policy.scaling.seen import Seen, Verdict
from pointsman.stats.latency import quantile_bucket, upper_edge

QUANTILE = 0.99
OVER_S = 30.0
"""Over so many seconds latencies are measured."""
LEARNED = 0.5
"""What the newest start counts of what is learned of starts."""
MATTERS = 0.05
"""A learned time that has changed by less than this part is not stored."""


class Step(NamedTuple):
    """What a new traffic policy means for the calls of a backend; see :class:`~pointsman.policy.scaling.seen.Seen`."""

    share: float = 1.0
    gains: float = 0.0


NO_STEP = Step()


def slots_of(spec: BackendSpec) -> int:
    """Calls that one replica runs at once."""
    config, traits = spec.config, spec.traits
    size = config.max_batch_size or 1
    if traits.batches or size > 1:
        return size * config.max_concurrent_batches
    return 1 if traits.one_at_a_time or traits.mixed else config.query_limit


def runs_on_a_loop(spec: BackendSpec) -> bool:
    """Whether a replica runs calls beside one another on an event loop."""
    return spec.traits.surface == ASGI or slots_of(spec) == spec.config.query_limit > 1


def seen_of(
    spec: BackendSpec,
    scale: Scale,
    observed: Observed,
    *,
    demand: Demand,
    wanted: int,
    silent: bool = False,
    p99_s: float | None = None,
    step: Step = NO_STEP,
    policy_wants: float | None = None,
) -> Seen:
    """What the rule is told of an autoscaled backend.

    Args:
        wanted: replicas decided at the last look.
    """
    autoscaling = spec.config.autoscaling
    assert autoscaling is not None
    least, most = autoscaling.bounds(observed.default_max)
    mine = [replica for replica in observed.of(spec.tag) if replica.is_current and not replica.killed]
    ready = [replica for replica in mine if replica.phase is Phase.READY]
    return Seen(
        demand=demand,
        wanted=wanted,
        ready=len(ready),
        starting=len(mine) - len(ready),
        slots=slots_of(spec),
        min_replicas=least,
        max_replicas=most,
        is_async=runs_on_a_loop(spec),
        start_s=scale.start_s,
        p99_s=p99_s,
        blocked=max(map(_blocked_share, ready), default=0.0),
        silent=silent,
        share=step.share,
        gains=step.gains,
        policy_wants=policy_wants,
    )


def sleeps(autoscaling: Autoscaling, wanted: int, looked: Looked) -> bool:
    """Whether a backend has no replicas and no calls, so that the rule need not be asked: of many models most sleep."""
    calls = looked.demand.waiting + looked.demand.running
    by_itself = autoscaling.season_s is None and autoscaling.policy is None and not autoscaling.min_replicas
    return not wanted and not calls and by_itself and looked.is_quiet


def tags_of(spec: BackendSpec, observed: Observed) -> tuple[str, ...]:
    """The tags of a backend's replicas that take calls."""
    mine = (r for r in observed.of(spec.tag) if r.phase is Phase.READY and r.is_current and not r.killed)
    return tuple(replica.tag for replica in mine)


def own_policies(desired: Desired) -> frozenset[str]:
    """The backends that users' own rules decide about."""
    autoscaled = ((tag, spec.config.autoscaling) for tag, spec in desired.backends.items())
    return frozenset(tag for tag, one in autoscaled if one is not None and one.policy is not None)


def told(
    spec: BackendSpec, seen: Seen, verdict: Verdict, observed: Observed, now: float, time: str, *, instance: str
) -> PolicyContext:
    """What a user's own rule is told after a look. Its times are of the day, in seconds since 1970.

    Args:
        now: on the controller's clock.
        time: of the day.
        instance: the name of the instance.
    """
    autoscaling, epoch = spec.config.autoscaling, datetime.fromisoformat(time).timestamp() - now
    assert autoscaling is not None
    replicas = tags_of(spec, observed)
    about = context(seen, autoscaling, now, verdict, tag=spec.tag, instance=instance, replicas=replicas)
    up, down = about.last_scale_up_time, about.last_scale_down_time
    return msgspec.structs.replace(
        about,
        current_time=now + epoch,
        last_scale_up_time=up + epoch if up is not None else None,
        last_scale_down_time=down + epoch if down is not None else None,
    )


def latencies_of(newest: Evidence, earlier: Evidence, tags: Iterable[str]) -> dict[str, float]:
    """Within how many seconds 99 of 100 calls of each backend were answered between two readings; those without calls
    are left out."""
    found: dict[str, Tally] = {tag: Tally() for tag in tags}
    for key, tally in newest.tallies.items():
        if key.backend in found:
            before = earlier.tallies.get(key)
            found[key.backend] = found[key.backend].plus(tally.since(before) if before is not None else tally)
    return {tag: upper_edge(quantile_bucket(one.latencies, QUANTILE)) for tag, one in found.items() if one.latencies}


def learned(scale: Scale, started_s: Iterable[float]) -> float | None:
    """Seconds that a start takes, after some more have been seen; what was known before if that is about the same."""
    known = scale.start_s
    for seconds in started_s:
        known = seconds if known is None else known + LEARNED * (seconds - known)
    if known is None or scale.start_s is None:
        return known
    return known if abs(known - scale.start_s) > MATTERS * scale.start_s else scale.start_s


def let_go(scale: Scale, spec: BackendSpec, default_max: int, time: str) -> Scale:
    """What is remembered once a number is not fixed any more. Where decisions are only shown, nothing else would bring
    back one that had been fixed below the smallest."""
    scale, autoscaling = msgspec.structs.replace(scale, hold=None), spec.config.autoscaling
    if autoscaling is None or not autoscaling.dry_run:
        return scale
    least, _ = autoscaling.bounds(default_max)
    return decided(scale, max(scale.wanted, least), BOUNDS, f"min_replicas is {least}", time)


def counted(desired: Desired) -> frozenset[str]:
    """The backends whose calls routers count: those whose number of replicas follows them, and those that share an
    endpoint with one of these, so that it is known what a change of traffic brings."""
    following = {tag for tag, spec in desired.backends.items() if follows_calls(spec.config)}
    if not following:
        return frozenset()
    beside: set[str] = set()
    for endpoint in desired.endpoints.values():
        used = endpoint.policy.weights.keys() | endpoint.policy.shadows.keys()
        if used & following:
            beside |= used
    return frozenset(following | (beside & desired.backends.keys()))


def _blocked_share(replica: Replica) -> float:
    return replica.health.answer.blocked_share if replica.health.answer is not None else 0.0


class Rate(NamedTuple):
    """What was counted of a backend's calls over the last seconds: calls at a time, and how many came."""

    demand: float = 0.0
    arrivals: int = 0


Rates = Mapping[str, Rate]
"""By backend."""
ENOUGH = 30
"""So many calls say what a larger share of them will cost. Of fewer, those of the other backends say more."""


def steps(before: Desired, after: Desired, rates: Rates) -> dict[str, Step]:
    """What new traffic policies mean for the calls of each backend that they concern (AS10).

    Args:
        before: the state of the last look.
        rates: of each backend up to now.
    """
    changed = [
        name
        for name, endpoint in after.endpoints.items()
        if name in before.endpoints and endpoint.policy is not before.endpoints[name].policy
    ]
    # Where user code chooses nobody knows how.
    changed = [name for name in changed if _loads(before, name) and _loads(after, name)]
    changed = [name for name in changed if _loads(before, name) != _loads(after, name)]
    old, new = dict.fromkeys(rates, 0.0), dict.fromkeys(rates, 0.0)
    if not changed:
        return {}
    for name in before.endpoints:
        total = _demand_of(before, name, rates)
        loads = _loads(before, name)
        later = _loads(after, name) if name in changed else loads
        for tag in loads.keys() | later.keys():
            old[tag] = old.get(tag, 0.0) + total * loads.get(tag, 0.0)
            new[tag] = new.get(tag, 0.0) + total * later.get(tag, 0.0)
    concerned = {tag for name in changed for tag in _loads(before, name).keys() | _loads(after, name).keys()}
    return {tag: _step(old[tag], new[tag], rates.get(tag, Rate())) for tag in concerned if old[tag] != new[tag]}


def _step(old: float, new: float, rate: Rate) -> Step:
    if old > 0 and (new < old or rate.arrivals >= ENOUGH):
        return Step(share=new / old)
    return Step(gains=max(0.0, new - rate.demand))


def _loads(state: Desired, endpoint: str) -> dict[str, float]:
    """Which part of an endpoint's calls each backend gets, copies for shadows included."""
    policy = state.endpoints[endpoint].policy
    if policy.custom is not None:
        return {}  # user code chooses, and nobody knows how
    loads = dict(policy.weights)
    for tag, proportion in policy.shadows.items():
        loads[tag] = loads.get(tag, 0.0) + proportion
    return {tag: load for tag, load in loads.items() if load > 0}


def _demand_of(state: Desired, endpoint: str, rates: Rates) -> float:
    """The demand of an endpoint's calls, each once. Calls of a backend that serves several endpoints are taken to come
    from each of them by its part."""
    loads = _loads(state, endpoint)
    found = 0.0
    for tag, load in loads.items():
        everywhere = sum(_loads(state, name).get(tag, 0.0) for name in state.endpoints)
        found += rates.get(tag, Rate()).demand * load / everywhere
    total = sum(loads.values())
    return found / total if total else 0.0
