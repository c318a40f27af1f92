"""From what is wanted and what is there to what to do next. Pure and never waiting: asked again after each event.

    plan(desired, observed, now) -> [Launch, Configure, Leave, Drain, Kill, Confirm, Revert, WakeAt]

A replica's life:  LAUNCHED -> STARTING -> READY -> LEAVING -> DRAINING -> STOPPING -> (gone)
Adding comes before removing; removing is: out of the table, routers confirm (or a grace passes), drain, stop, kill.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pointsman.controller.allocation import CapacityLedger
from pointsman.controller.failures import RECONFIGURE_REASONS, Failures
from pointsman.controller.observed import Observed, Phase, Replica
from pointsman.controller.state import Desired
from pointsman.model import Allocation, BackendSpec

START_TRIES = 3
"""A change whose replicas failed this often in a row is taken back."""
LAUNCH_TIMEOUT_S = 60.0
ADOPT_TIMEOUT_S = 5.0
STOP_GRACE_S = 2.0


@dataclass(frozen=True)
class Launch:
    spec: BackendSpec
    allocation: Allocation


@dataclass(frozen=True)
class Configure:
    """Tell a running replica its backend's newest configuration. With ``others`` it takes no calls meanwhile."""

    number: int
    others: bool = False


@dataclass(frozen=True)
class Leave:
    """Take the replica out of the next routing table."""

    number: int


@dataclass(frozen=True)
class Drain:
    number: int


@dataclass(frozen=True)
class Kill:
    number: int
    reason: str


@dataclass(frozen=True)
class Confirm:
    """The backend's last change has come up."""

    backend: str


@dataclass(frozen=True)
class Revert:
    """The backend's last change cannot come up."""

    backend: str


@dataclass(frozen=True)
class WakeAt:
    """Nothing to do before ``time`` unless something happens."""

    time: float


Action = Launch | Configure | Leave | Drain | Kill | Confirm | Revert | WakeAt


def plan(desired: Desired, observed: Observed, now: float) -> list[Action]:
    """What to do now, in order; the last action is a :class:`WakeAt` when time alone will change the answer."""
    actions: list[Action] = []
    wakes: list[float] = []
    for number, action, wake in _leavers(desired, observed, now):
        if action is not None:
            actions.append(action)
        if wake is not None and number in observed.replicas:
            wakes.append(wake)
    ledger = CapacityLedger(observed.capacity, (replica.allocation for replica in observed.replicas.values()))
    for spec in desired.backends.values():
        for item in _backend(spec, desired, observed, ledger, now):
            if isinstance(item, WakeAt):
                wakes.append(item.time)
            else:
                actions.append(item)
    if wakes:
        actions.append(WakeAt(min(wakes)))
    return actions


def is_settled(desired: Desired, observed: Observed, backend: str) -> bool:
    """Whether a backend is exactly as wanted: nothing starting, nothing left over; or gone without a trace."""
    mine = observed.of(backend)
    spec = desired.backends.get(backend)
    if spec is None:
        return not mine
    return (
        len(mine) == spec.config.num_replicas
        and backend not in desired.fallbacks
        and all(_is_up(replica, spec) for replica in mine)
    )


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


def _leavers(desired: Desired, observed: Observed, now: float) -> Iterator[tuple[int, Action | None, float | None]]:
    """Replicas on their way out, or stuck on their way in."""
    for replica in observed.replicas.values():
        number, phase = replica.number, replica.phase
        spec = desired.backends.get(replica.backend)
        if replica.killed:
            continue
        if phase is Phase.LAUNCHED:
            limit_s = ADOPT_TIMEOUT_S if replica.adopted else LAUNCH_TIMEOUT_S
            if _is_silent(replica, now):
                yield number, Kill(number, f"no sign of life within {limit_s:g} s"), None
                continue
            yield number, None, replica.since + limit_s
        if phase is Phase.LEAVING:
            if not replica.left_at:
                continue  # routers may choose it until a table without it is published
            confirm_s = replica.drain_confirm_s
            routers_know = all(v >= replica.left_at for v in observed.confirmed.values())
            if routers_know or now >= replica.since + confirm_s:
                yield number, Drain(number), None
            else:
                yield number, None, replica.since + confirm_s
        elif phase is Phase.DRAINING:
            timeout_s = replica.drain_timeout_s
            if now >= replica.since + timeout_s:
                yield number, Kill(number, f"still busy at its drain limit of {timeout_s:g} s"), None
            else:
                yield number, None, replica.since + timeout_s
        elif phase is Phase.STOPPING:
            limit_s = STOP_GRACE_S + (replica.drain_timeout_s if replica.has_close else 0.0)
            if now >= replica.since + limit_s:
                yield number, Kill(number, "did not exit after it was stopped"), None
            else:
                yield number, None, replica.since + limit_s
        elif replica.unhealthy is not None:
            yield number, Kill(number, replica.unhealthy.text) if replica.unhealthy.kill else Leave(number), None
        elif spec is None and not replica.adopted:  # one that was adopted may serve: it will say so
            yield number, _remove(replica), None


def _backend(
    spec: BackendSpec, desired: Desired, observed: Observed, ledger: CapacityLedger, now: float
) -> Iterator[Action]:
    mine = [
        replica
        for replica in observed.of(spec.tag)
        if replica.is_current and not replica.killed and not _is_silent(replica, now)
    ]
    # Where old and new do not fit side by side, one replica at a time makes way, and the next only once its successor
    # serves: a plan that looked at room alone would send them all away at once.
    swapping = any(not replica.is_current or replica.killed for replica in observed.of(spec.tag))
    current = [replica for replica in mine if replica.version == spec.version]
    old = [replica for replica in mine if replica.version != spec.version]
    for replica in old:
        # Nobody gives it an assignment any more, so it would start for ever.
        if replica.phase < Phase.READY and not replica.adopted:
            yield Kill(replica.number, "its version is not wanted any more")
    old = [replica for replica in old if replica.phase is Phase.READY or replica.adopted]
    up = [replica for replica in current if _is_up(replica, spec)]
    failures = observed.failures.get(spec.tag)
    wanted = spec.config.num_replicas

    proven = _proven(spec, desired, up, now)
    if spec.tag in desired.fallbacks:
        if failures is not None and not failures.rolled_back and _is_hopeless(failures):
            yield Revert(spec.tag)
            return
        if len(proven) >= wanted:
            yield Confirm(spec.tag)
        elif len(proven) < len(up):
            yield WakeAt(min(r.since for r in up if r not in proven) + spec.config.rollout_watch_s)

    yield from _configures(spec, current)
    # Whether an adopted replica serves is not known yet, and one that does must not be ended as if it did not.
    unknown = any(replica.adopted for replica in mine)
    missing = wanted - len(current)
    if missing > 0:
        movable = [] if unknown or swapping or len(proven) < len(current) else old
        surge = wanted if spec.config.max_surge is None else spec.config.max_surge
        room = wanted + surge - len(current) - len(old) if old else missing
        due = _next_try(spec.tag, observed)
        if now < due:
            yield WakeAt(due)
        else:
            yield from _launches(spec, min(missing, room), movable, ledger)
    if unknown:
        return
    for replica in _victims(current, -missing):
        yield _remove(replica)
    # Old versions go as new ones prove themselves, so that their sum never falls below what is wanted.
    for replica in _victims(old, len(old) - max(0, wanted - spec.config.max_unavailable - len(proven))):
        yield _remove(replica)


def _configures(spec: BackendSpec, current: list[Replica]) -> Iterator[Action]:
    """Whom to tell the newest configuration. A replica runs no request while it takes a ``user_config``, so half of
    them are told at a time: the others take new work meanwhile, and are spared one that user code refuses."""
    serving = [replica for replica in current if replica.phase is Phase.READY]
    untold = [replica for replica in serving if replica.sent_version < spec.config_version]
    if spec.config.user_config is None:
        yield from (Configure(replica.number) for replica in untold)
        return
    taking = sum(replica.config_version < spec.config_version for replica in serving) - len(untold)
    untold.sort(key=lambda replica: replica.load)  # who runs much would have the others wait for it
    for replica in untold[: max(0, (len(serving) + 1) // 2 - taking)]:
        yield Configure(replica.number, others=len(serving) > 1)


def _proven(spec: BackendSpec, desired: Desired, up: list[Replica], now: float) -> list[Replica]:
    """Those that may take the place of an old one: in a rolling update they must have served for a while."""
    fallback = desired.fallbacks.get(spec.tag)
    if fallback is None or fallback.spec is None or fallback.spec.version == spec.version:
        return up
    return [replica for replica in up if now >= replica.since + spec.config.rollout_watch_s]


def _next_try(backend: str, observed: Observed) -> float:
    """Before this time nothing is started: what failed is not tried again in a rush."""
    failures = observed.failures.get(backend)
    if failures is None:
        return 0.0
    serving = any(r.phase is Phase.READY and r.is_current and not r.killed for r in observed.of(backend))
    return failures.next_try if serving else failures.next_try_alone


def _launches(spec: BackendSpec, missing: int, old: list[Replica], ledger: CapacityLedger) -> Iterator[Action]:
    for launched in range(missing):
        allocation = ledger.place(spec.resources)
        if allocation is None:
            # No room beside the old version: swap one by one.
            if old and not launched:
                yield _remove(_victims(old, 1)[0])
            return
        yield Launch(spec, allocation)


def _is_hopeless(failures: Failures) -> bool:
    if failures.reason in RECONFIGURE_REASONS:
        return failures.count > 0
    return failures.count >= START_TRIES


def _victims(replicas: list[Replica], count: int) -> list[Replica]:
    """Who goes first: those still starting, then the least busy, the newest first among equals."""
    if count <= 0:
        return []
    return sorted(replicas, key=lambda r: (r.phase is Phase.READY, r.load, -r.number))[:count]


def _remove(replica: Replica) -> Action:
    if replica.phase is Phase.READY:
        return Leave(replica.number)
    return Kill(replica.number, "not wanted any more")
