"""Compares desired and observed state and returns the next actions. Pure; the controller calls it after each event.

    plan(desired, observed, now) -> [Launch, Configure, Leave, Drain, Kill, Confirm, Revert, WakeAt]
    plan_for(backends, desired, observed, now)    the same, for some backends only; ``agenda`` knows for which

A replica's life:  LAUNCHED -> STARTING -> READY -> LEAVING -> DRAINING -> STOPPING -> (gone)
Replicas are added before others are removed. A removal takes five steps, so that no request is lost: the replica leaves
the routing table, all routers confirm that table (or ``drain_confirm_s`` passes), it drains, it stops, and it is killed
if it does not exit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from pointsman.controller.failures import RECONFIGURE_REASONS, START_TRIES, Failures
from pointsman.controller.observed import Observed
from pointsman.controller.replicas import Phase, Replica, victims
from pointsman.controller.scaling.room import Need, Shared, share
from pointsman.controller.state import Desired
from pointsman.model import Allocation, BackendSpec

#: How long a new process may take to its first report. Interpreters of large environments start slowly.
LAUNCH_TIMEOUT_S = 60.0
#: How long an adopted replica may take to report to the new controller. It runs already and only has to reconnect.
ADOPT_TIMEOUT_S = 5.0
#: How long a drained replica may take to exit, apart from the time that its ``close`` method has.
STOP_GRACE_S = 2.0


@dataclass(frozen=True)
class Launch:
    spec: BackendSpec
    allocation: Allocation


@dataclass(frozen=True)
class Configure:
    """Send a running replica the newest configuration. With ``others`` it takes no calls while it applies it: other
    replicas serve."""

    number: int
    others: bool = False


@dataclass(frozen=True)
class Leave:
    """Leave the replica out of the next routing table. A ``patient`` one has no drain limit (AS7)."""

    number: int
    patient: bool = False


@dataclass(frozen=True)
class Drain:
    """Have the replica finish its calls, and refuse others."""

    number: int


@dataclass(frozen=True)
class Hurry:
    """A replica that drains without a limit has its backend's limit from now on."""

    number: int


@dataclass(frozen=True)
class Kill:
    number: int
    reason: str


@dataclass(frozen=True)
class Confirm:
    """The backend's last change is complete."""

    backend: str


@dataclass(frozen=True)
class Revert:
    """The backend's last change cannot complete: roll it back."""

    backend: str


@dataclass(frozen=True)
class WakeAt:
    """Plan again at ``time``, if no event comes before; and with ``routers`` also when one of them has confirmed a
    table or is gone."""

    time: float
    backend: str = ""
    routers: bool = False


@dataclass(frozen=True)
class Short:
    """Plan again when some resources may have become free: the backend lacks a replica for want of them."""

    backend: str


Action = Launch | Configure | Leave | Drain | Hurry | Kill | Confirm | Revert | WakeAt | Short


def plan(desired: Desired, observed: Observed, now: float) -> list[Action]:
    """The actions to carry out now, in order. The last one is a :class:`WakeAt` if the plan changes with time alone."""
    everything = dict.fromkeys((*desired.backends, *observed.replicas.backends()))
    planned = plan_for(everything, desired, observed, now)
    actions: list[Action] = [action for action in planned if not isinstance(action, (WakeAt, Short))]
    wakes = [action.time for action in planned if isinstance(action, WakeAt)]
    return [*actions, WakeAt(min(wakes))] if wakes else actions


def plan_for(backends: Collection[str], desired: Desired, observed: Observed, now: float) -> list[Action]:
    """The actions to carry out now for some backends, in order, and what to plan each of them again for.

    What a backend needs depends on its own specification, fallback, replicas and failures. Beside these there are only
    the time, the tables that routers have confirmed, and free resources, for which :class:`WakeAt` and :class:`Short`
    stand.
    """
    planned: list[Action | Need] = [action for tag in backends for action in _leavers(tag, desired, observed, now)]
    for tag in backends:
        spec = desired.backends.get(tag)
        if spec is not None:
            planned += _backend(spec, desired, observed, now)
    # One ledger for all backends, so that no GPU is given to two launches of the same plan. A replica holds its share
    # until its process has exited, whatever its phase.
    ledger = observed.replicas.ledger(observed.capacity)
    shared = share([one for one in planned if isinstance(one, Need)], desired, observed, ledger, victims)
    for allocation in shared.taken:
        ledger.give_back(allocation)  # a plan changes nothing: the launch takes it
    actions: list[Action] = []
    for one in planned:
        actions += _launches(one, shared) if isinstance(one, Need) else [one]
    leaving = [_remove(replica, patient=desired.is_scaled(replica.backend)) for replica in shared.leaving]
    return [*actions, *(action for action in leaving if action not in actions)]


def is_settled(desired: Desired, observed: Observed, backend: str, need: int | None = None) -> bool:
    """True if a backend has exactly its wanted replicas, all up to date; for a deleted backend, if none is left.

    Args:
        need: so many are enough where the number follows the calls. It may rise while others are waited for, and those
            that leave may have calls for long.
    """
    mine = [replica for replica in observed.of(backend) if not (replica.patient and replica.phase > Phase.READY)]
    spec = desired.backends.get(backend)
    if spec is None:
        return not observed.of(backend)
    if backend in desired.fallbacks:
        return False
    wanted = desired.wanted(backend)
    if need is None and not wanted:
        return not observed.of(backend)
    if need is None or not desired.is_scaled(backend):
        return len(mine) == wanted and all(_is_up(replica, spec) for replica in mine)
    serving = [replica for replica in mine if replica.phase is Phase.READY and not replica.killed]
    is_current = all(replica.version == spec.version for replica in mine)
    return is_current and len(serving) >= min(need, wanted) and all(_is_up(replica, spec) for replica in serving)


def needed_at_start(desired: Desired, backend: str) -> int:
    """How many replicas a backend needs until its instance has come up. More of those that follow the calls may find
    no room for long."""
    autoscaling, wanted = desired.backends[backend].config.autoscaling, desired.wanted(backend)
    return wanted if autoscaling is None else min(wanted, max(1, autoscaling.min_replicas))


def _is_up(replica: Replica, spec: BackendSpec) -> bool:
    return (
        replica.phase is Phase.READY
        and replica.unhealthy is None
        and replica.version == spec.version
        and replica.config_version >= spec.config_version
    )


def _is_silent(replica: Replica, now: float) -> bool:
    limit_s = ADOPT_TIMEOUT_S if replica.adopted else LAUNCH_TIMEOUT_S
    return replica.phase is Phase.LAUNCHED and now >= replica.since + limit_s


def _leavers(backend: str, desired: Desired, observed: Observed, now: float) -> Iterator[Action]:
    """The next step of each replica that is being removed, is unhealthy or does not start, whatever its backend needs;
    or when to plan it again."""
    spec = desired.backends.get(backend)
    for replica in observed.of(backend):
        number, phase = replica.number, replica.phase
        if replica.killed:
            continue
        if phase is Phase.LAUNCHED:
            limit_s = ADOPT_TIMEOUT_S if replica.adopted else LAUNCH_TIMEOUT_S
            if _is_silent(replica, now):
                yield Kill(number, f"no sign of life within {limit_s:g} s")
                continue
            yield WakeAt(replica.since + limit_s, backend)
        if phase is Phase.LEAVING:
            if not replica.left_at:
                continue  # routers send it calls until a table without it is published
            confirm_s = replica.drain_confirm_s
            # A replica that drains refuses calls. Draining only after every router has the new table spares callers
            # the detour; the limit keeps a router that hangs from blocking the removal.
            routers_know = all(v >= replica.left_at for v in observed.confirmed.values())
            if routers_know or now >= replica.since + confirm_s:
                yield Drain(number)
            else:
                yield WakeAt(replica.since + confirm_s, backend, routers=True)
        elif phase is Phase.DRAINING and replica.unhealthy is not None and replica.unhealthy.kill:
            yield Kill(number, replica.unhealthy.text)
        elif phase is Phase.DRAINING and replica.patient:
            if spec is None:
                yield Hurry(number)
        elif phase is Phase.DRAINING:
            timeout_s = replica.drain_timeout_s
            if now >= replica.since + timeout_s:
                yield Kill(number, f"still busy at its drain limit of {timeout_s:g} s")
            else:
                yield WakeAt(replica.since + timeout_s, backend)
        elif phase is Phase.STOPPING:
            limit_s = STOP_GRACE_S + (replica.drain_timeout_s if replica.has_close else 0.0)
            if now >= replica.since + limit_s:
                yield Kill(number, "did not exit after it was stopped")
            else:
                yield WakeAt(replica.since + limit_s, backend)
        elif replica.unhealthy is not None:
            yield Kill(number, replica.unhealthy.text) if replica.unhealthy.kill else Leave(number)
        elif spec is None and not replica.adopted:  # an adopted one may serve: its report decides
            yield _remove(replica)


def _backend(spec: BackendSpec, desired: Desired, observed: Observed, now: float) -> Iterator[Action | Need]:
    """Settle the backend's last change, send configurations, add replicas, then remove others."""
    # Silent replicas do not count: this same plan kills them, and their successors need not wait for the exit.
    mine = [
        replica
        for replica in observed.of(spec.tag)
        if replica.is_current and not replica.killed and not _is_silent(replica, now)
    ]
    current = [replica for replica in mine if replica.version == spec.version]
    old = [replica for replica in mine if replica.version != spec.version]
    for replica in old:
        # Only the newest version is assigned to replicas, so one of an old version that waits would never start.
        if replica.phase < Phase.READY and not replica.adopted:
            yield Kill(replica.number, "its version is not wanted any more")
    old = [replica for replica in old if replica.phase is Phase.READY or replica.adopted]
    up = [replica for replica in current if _is_up(replica, spec)]
    proven = _proven(spec, desired, up, now)
    wanted = desired.wanted(spec.tag)

    if spec.tag in desired.fallbacks:
        failures = observed.failures.get(spec.tag)
        # ``rolled_back`` is reset by the next command for the backend, so one change is never rolled back twice.
        if failures is not None and not failures.rolled_back and _is_hopeless(failures):
            yield Revert(spec.tag)
            return  # what follows would act on a specification that the revert replaces
        if len(proven) >= desired.needed(spec.tag) and _others_are_proven(spec.tag, desired, observed, now):
            yield Confirm(spec.tag)
        elif len(proven) < len(up):
            yield WakeAt(min(r.since for r in up if r not in proven) + spec.config.rollout_watch_s, spec.tag)

    yield from _configures(spec, current)

    # An adopted replica was launched by an earlier controller and has not reported yet. It may serve users now, or may
    # never have started. Until its report, or ADOPT_TIMEOUT_S, nothing of the backend is removed: killing it as a
    # replica that starts would cut requests, and removing another instead could take the only one that serves. Adding
    # is safe meanwhile, since one replica too many is removed once all have reported.
    unknown = any(replica.adopted for replica in mine)

    # Adding comes before removing: a new replica is launched beside the old ones, and an old one is removed (below)
    # only for each new one that has proven itself. So ``wanted - max_unavailable`` replicas serve throughout, unless a
    # replica dies or there is no free capacity for two versions.
    missing = wanted - len(current)
    if missing > 0:
        # Where old and new do not fit side by side, an old replica makes way first (see ``_launches``), one at a time.
        # The next swap waits until the last one is over: nothing of the backend is leaving, since its resources are
        # free only when its process has exited, and every new replica has proven itself. A plan that looked at free
        # capacity alone would, made again while the first still drains, remove all old replicas.
        # One that is patient may have calls for hours, and made no way for this version.
        swapping = any((not r.is_current or r.killed) and not r.patient for r in observed.of(spec.tag))
        movable = [] if unknown or swapping or len(proven) < len(current) else old
        # ``max_surge`` bounds old and new together. Without old ones there is nothing to be in excess of.
        surge = wanted if spec.config.max_surge is None else spec.config.max_surge
        addable = wanted + surge - len(current) - len(old) if old else missing
        due = _next_try(spec.tag, observed)
        if now < due:
            yield WakeAt(due, spec.tag)
        else:
            yield Need(spec, min(missing, addable), len(current), len(old), movable)
    if not unknown:
        yield from _removals(spec, desired, current, old, len(proven))


def _removals(
    spec: BackendSpec, desired: Desired, current: list[Replica], old: list[Replica], proven: int
) -> Iterator[Action]:
    wanted = desired.wanted(spec.tag)
    for replica in victims(current, len(current) - wanted):
        yield _remove(replica, patient=desired.is_scaled(spec.tag))
    # Old replicas stay for as long as new ones that have proven themselves do not make up the number. One that is ready
    # and not proven does not count: it may fail within ``rollout_watch_s``, and the rollback needs the old ones then.
    for replica in victims(old, len(old) - max(0, wanted - spec.config.max_unavailable - proven)):
        yield _remove(replica)


def _configures(spec: BackendSpec, current: list[Replica]) -> Iterator[Action]:
    """Send the newest configuration to replicas that do not have it: to all at once, or, with a ``user_config``, to
    half of them at a time (decision 0034)."""
    serving = [replica for replica in current if replica.phase is Phase.READY]
    outdated = [replica for replica in serving if replica.sent_version < spec.config_version]
    if spec.config.user_config is None:
        yield from (Configure(replica.number) for replica in outdated)
        return
    # A replica runs no request while its ``reconfigure`` runs. The other half serves meanwhile, and never sees a
    # configuration that user code refuses.
    applying = sum(replica.config_version < spec.config_version for replica in serving) - len(outdated)
    outdated.sort(key=lambda replica: replica.load)  # a busy replica first finishes its calls: the others would wait
    for replica in outdated[: max(0, (len(serving) + 1) // 2 - applying)]:
        yield Configure(replica.number, others=len(serving) > 1)


def _proven(spec: BackendSpec, desired: Desired, up: list[Replica], now: float) -> list[Replica]:
    """The replicas that count as successors of old ones. In an update to a new version they must have been ready for
    ``rollout_watch_s`` seconds (decision 0017); a change of the number or configuration needs no such proof."""
    fallback = desired.fallbacks.get(spec.tag)
    if fallback is None or fallback.spec is None or fallback.spec.version == spec.version:
        return up
    return [replica for replica in up if now >= replica.since + spec.config.rollout_watch_s]


def _others_are_proven(backend: str, desired: Desired, observed: Observed, now: float) -> bool:
    """Whether all other backends of the same apply, which is completed as a whole, have come up. True for a backend
    that no apply is changing."""
    running = desired.running
    if running is None or backend not in running.backends:
        return True
    for tag in running.backends:
        spec = desired.backends[tag]
        up = [r for r in observed.of(tag) if r.is_current and not r.killed and _is_up(r, spec)]
        if tag != backend and len(_proven(spec, desired, up, now)) < desired.needed(tag):
            return False
    return True


def _next_try(backend: str, observed: Observed) -> float:
    """The time before which no replica of the backend is launched, after failures."""
    failures = observed.failures.get(backend)
    if failures is None:
        return 0.0
    # While no replica serves, every second is an outage, so the wait before the next try is shorter.
    serving = any(r.phase is Phase.READY and r.is_current and not r.killed for r in observed.of(backend))
    return failures.next_try if serving else failures.next_try_alone


def _launches(need: Need, shared: Shared) -> Iterator[Action]:
    tag = need.spec.tag
    launches = shared.launches.get(tag, [])
    yield from (Launch(need.spec, allocation) for allocation in launches)
    if tag in shared.short:
        yield Short(tag)
        # No free capacity beside the old version: remove one old replica, and launch its successor in a later plan. Not
        # after a launch of this plan: its replica may free enough once it has taken over.
        if need.movable and not launches:
            yield _remove(victims(need.movable, 1)[0])


def _is_hopeless(failures: Failures) -> bool:
    # A configuration that user code refuses is refused every time; a start may fail by chance.
    if failures.reason in RECONFIGURE_REASONS:
        return failures.count > 0
    return failures.count >= START_TRIES


def _remove(replica: Replica, *, patient: bool = False) -> Action:
    if replica.phase is Phase.READY:
        return Leave(replica.number, patient)  # it has calls, and routers that send it more
    return Kill(replica.number, "not wanted any more")
