"""The observed state: replicas, failures and the tables that routers use, from events and reports. No I/O but the
log; the time is an argument.

Only the functions of this module, called by the controller's shell, change it; :mod:`~pointsman.controller.reconcile`
only reads it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from pointsman.controller.allocation import CapacityLedger
from pointsman.controller.failures import RECONFIGURE_REASONS, STEADY_S, Failed, FailureLog, Failures
from pointsman.controller.replicas import Phase, Replica, Replicas
from pointsman.controller.scaling.found import Looked, Use
from pointsman.controller.state import DEFAULT_MAX, Desired, FreeCapacity
from pointsman.engine.orders import ProcessEvent
from pointsman.model import Allocation, BackendSpec, Capacity, Reason
from pointsman.wire.commands import Apply, BackendChange, Change, TakeBack, backend_of
from pointsman.wire.messages import Message, Report, unpack
from pointsman.wire.scaling import ScaleBackend, WakeBackend


@dataclass
class Observed:
    """The observed state.

    Attributes:
        replicas: by number, until their process has exited.
        failures: by backend.
        confirmed: router -> version of the table that it uses.
        connected: router -> version of the newest table whose replicas it has reached, or has tried to for long enough.
        default_max: the largest number of an autoscaled backend's replicas where its configuration gives none.
        uses: by backend, of those that may be at 0 replicas.
        short: backends for which the last plan found too little room.
        asleep: backends that want no replicas, with the time since then; not those that did not when this controller
            began.
        looked: by backend, of those whose number of replicas follows their calls.
        started: backends, and the seconds that replicas of theirs took to start, since they were looked at.
        past: the last failures, to be shown.
    """

    capacity: Capacity = field(default_factory=Capacity)
    replicas: Replicas = field(default_factory=Replicas)
    failures: dict[str, Failures] = field(default_factory=dict)
    confirmed: dict[int, int] = field(default_factory=dict)
    connected: dict[int, int] = field(default_factory=dict)
    default_max: int = DEFAULT_MAX
    uses: dict[str, Use] = field(default_factory=dict)
    short: set[str] = field(default_factory=set)
    asleep: dict[str, float] = field(default_factory=dict)
    looked: dict[str, Looked] = field(default_factory=dict)
    started: list[tuple[str, float]] = field(default_factory=list)
    past: FailureLog = field(default_factory=FailureLog)

    def of(self, backend: str) -> list[Replica]:
        return self.replicas.of(backend)

    def recovered(self, backend: str, now: float) -> bool:
        """True if a replica of the backend has got ready and served since the last failed start."""
        failed_at = self.failures[backend].failed_at if backend in self.failures else float("-inf")
        return any(r.phase is Phase.READY and r.since > failed_at and r.has_served(now) for r in self.of(backend))

    def validate(self) -> None:
        """Raise AssertionError if the state is inconsistent. For tests."""
        for tag in {*self.replicas.backends(), *(replica.backend for replica in self.replicas.values())}:
            assert self.of(tag) == [r for r in self.replicas.values() if r.backend == tag], f"wrong replicas of {tag!r}"
        anew = CapacityLedger(self.capacity, (replica.allocation for replica in self.replicas.values()))
        free = self.replicas.ledger(self.capacity).describe()
        assert free == anew.describe(), f"{free} is taken for free, and {anew.describe()} is"
        tags = [replica.tag for replica in self.replicas.values()]
        assert len(tags) == len(set(tags)), "two replicas share a tag"
        shares: dict[int, float] = {}
        for replica in self.replicas.values():
            for index in replica.allocation.gpus:
                shares[index] = shares.get(index, 0.0) + min(1.0, replica.allocation.resources.num_gpus)
        assert all(share <= 1 + 1e-6 for share in shares.values()), f"a GPU is given out more than once: {shares}"


log = logging.getLogger(__name__)


def adopt(observed: Observed, live: Mapping[int, tuple[int, bytes]], now: float) -> None:
    """Take over the replicas of an earlier controller, given by number as pid and launch metadata."""
    for number, (pid, packed) in live.items():
        metadata = unpack(packed, LaunchMetadata)
        observed.replicas[number] = Replica(
            number=number,
            tag=metadata.tag,
            backend=metadata.backend,
            version=metadata.version,
            allocation=metadata.allocation,
            since=now,
            pid=pid,
            adopted=True,
            inherited=True,
            start_reason=metadata.start_reason,
            has_close=metadata.has_close,
        )
    if live:
        log.info("%d replicas live on from an earlier controller", len(live))


def record_confirmed(observed: Observed, router: int, version: int, *, connected: bool) -> None:
    """A router uses a table. That it is connected may be said of one when it uses another already."""
    observed.confirmed[router] = max(version, observed.confirmed.get(router, 0))
    observed.connected[router] = max(version if connected else 0, observed.connected.get(router, 0))


def start_reason(spec: BackendSpec, desired: Desired, observed: Observed) -> str:
    """Why the next replica is launched, for the metrics: ``initial``, ``scale``, ``failure`` or ``update``."""
    failures, mine = observed.failures.get(spec.tag), observed.of(spec.tag)
    if failures is not None and failures.count:
        return "failure"
    if spec.tag in desired.fallbacks:
        before = desired.fallbacks[spec.tag].spec
        if before is None:
            return "initial"
        return "scale" if before.version == spec.version else "update"
    if any(replica.version != spec.version for replica in mine):
        return "update"
    if not any(replica.phase >= Phase.READY for replica in mine):
        return "initial"
    return "scale" if desired.is_scaled(spec.tag) else "failure"


class NextStep(Enum):
    """What the controller does next after a replica's report."""

    NOTHING = auto()
    #: Send its assignment, which it waits for.
    ASSIGN = auto()
    #: Request its health from now on: it serves.
    WATCH = auto()
    #: Order it to drain once more: it has missed the first order.
    DRAIN = auto()
    #: Order it to stop: it has drained.
    STOP = auto()
    #: Kill it: its user code has failed.
    KILL = auto()


#: Phase and next step by the ``state`` of a report; ``ready`` and ``failed`` need functions of their own.
STEPS = {
    "fresh": (Phase.STARTING, NextStep.ASSIGN),
    "starting": (Phase.STARTING, NextStep.NOTHING),
    "draining": (Phase.DRAINING, NextStep.NOTHING),
    "drained": (Phase.STOPPING, NextStep.STOP),
}


def record_report(
    observed: Observed, desired: Desired, report: Report, pickled: bytes, now: float, *, introduces: bool = False
) -> NextStep:
    """Record a replica's report. ``introduces`` is True for the first one on a connection: orders sent before may have
    been lost."""
    replica = observed.replicas.get(report.number)
    if replica is None:
        log.warning("a replica numbered %d reported, and no such replica is known", report.number)
        return NextStep.NOTHING
    replica.adopted = False
    replica.served = replica.served or report.served
    if introduces:  # a configuration sent on the lost connection may not have arrived: ``plan`` sends it again
        replica.sent_version = report.config_version
    replica.node, replica.address, replica.tcp = report.node, report.address, report.tcp
    if report.state == "failed":
        return _record_failed(observed, desired, replica, report, pickled, now)
    if report.state == "ready":
        _record_ready(observed, replica, report, now)
        return NextStep.DRAIN if introduces and replica.phase is Phase.DRAINING else NextStep.WATCH
    phase, step = STEPS.get(report.state, (replica.phase, NextStep.NOTHING))
    replica.enter(phase, now)
    if report.patient and not replica.patient:  # an earlier controller has let it go
        replica.patient, replica.health.answered_at = True, now
        return NextStep.WATCH
    return step


def _record_ready(observed: Observed, replica: Replica, report: Report, now: float) -> None:
    """A replica got ready, or has applied a new configuration."""
    replica.config_version = report.config_version
    replica.sent_version = max(replica.sent_version, report.config_version)
    if replica.phase < Phase.READY:
        log.info("%s is ready (pid %d)", replica.tag, replica.pid)
        replica.enter(Phase.READY, now)
        if not replica.inherited:
            observed.started.append((replica.backend, now - replica.launched_at))
        replica.health.answered_at = now
        failures = observed.failures.get(replica.backend)
        if failures is not None and failures.reason is Reason.CONSTRUCTOR_FAILED and not failures.rolled_back:
            failures.count = 0  # failed constructors count in a row


def _record_failed(
    observed: Observed, desired: Desired, replica: Replica, report: Report, pickled: bytes, now: float
) -> NextStep:
    """User code failed in its constructor or in ``reconfigure``."""
    log.warning("%s failed: %s: %s", replica.tag, report.error, report.text)
    if report.reason in RECONFIGURE_REASONS:
        replica.sent_version = max(replica.sent_version, report.config_version)
        if replica.phase < Phase.READY:  # it got ready under an earlier controller
            replica.enter(Phase.READY, now)
            replica.health.answered_at = now
    if replica.phase > Phase.READY:
        return NextStep.NOTHING  # it is being removed, and may finish its calls
    spec, serves = desired.backends.get(replica.backend), replica.phase is Phase.READY
    if spec is None or replica.version != spec.version:
        return NextStep.NOTHING if serves else NextStep.KILL  # a failure of an old version does not count for the new
    if serves and report.config_version < spec.config_version:
        # Another replica has refused that configuration before: it is rolled back already, and the old one follows.
        return NextStep.NOTHING
    failures = observed.failures.setdefault(replica.backend, Failures())
    failures.reason = report.reason or Reason.CONSTRUCTOR_FAILED
    failures.error, failures.text = report.error, report.text
    failures.traceback, failures.pickled = report.traceback, pickled
    _count(failures, observed, desired, replica, now, served=serves)
    # A serving replica that refused a new configuration is sent the old one again by the rollback.
    return NextStep.NOTHING if serves and replica.backend in desired.fallbacks else NextStep.KILL


def record_exit(observed: Observed, desired: Desired, event: ProcessEvent, now: float) -> None:
    """Record that a replica's process has exited."""
    replica = observed.replicas.pop(event.number, None)
    if replica is None:
        return
    if replica.killed or replica.phase is Phase.STOPPING:
        log.info("%s ended", replica.tag)
        _ended_in_order(observed, desired, replica)
        return
    log.warning("%s died: %s", replica.tag, event.exit)
    if event.blameless or replica.phase > Phase.READY:
        return  # no fault of the code, or no replica to be replaced: it was being removed
    spec = desired.backends.get(replica.backend)
    if spec is None or spec.version != replica.version:
        return  # a failure of an old version does not count for the new one
    failures = observed.failures.setdefault(replica.backend, Failures())
    failures.reason, failures.error = Reason.REPLICA_DIED, ""
    failures.text = f"replica {replica.tag} died ({event.exit})"
    failures.traceback, failures.pickled = "", b""
    _count(failures, observed, desired, replica, now, served=replica.has_served(now))


def _ended_in_order(observed: Observed, desired: Desired, replica: Replica) -> None:
    """What has served can start: earlier failures are not held against the next start, which may be a wake."""
    spec, failures = desired.backends.get(replica.backend), observed.failures.get(replica.backend)
    if failures is None or failures.rolled_back or spec is None or spec.version != replica.version:
        return
    if replica.served and replica.unhealthy is None and not replica.killed:
        failures.starts = failures.count = 0


def record_unhealthy(observed: Observed, desired: Desired, replica: Replica, now: float) -> None:
    """Record that a replica is unhealthy; ``plan`` replaces one that serves."""
    found = replica.unhealthy
    assert found is not None
    if replica.phase > Phase.READY:
        log.warning("%s (pid %d), which leaves, %s: %s", replica.tag, replica.pid, found.reason.value, found.text)
        return
    log.warning("%s (pid %d) is replaced, %s: %s", replica.tag, replica.pid, found.reason.value, found.text)
    spec = desired.backends.get(replica.backend)
    if spec is None or spec.version != replica.version:
        return
    failures = observed.failures.setdefault(replica.backend, Failures())
    failures.reason, failures.error = found.reason, found.error
    failures.text = found.text if found.error else f"replica {replica.tag}: {found.text}"
    failures.traceback, failures.pickled = found.traceback, b""
    _count(failures, observed, desired, replica, now, served=replica.has_served(now))


def _count(
    failures: Failures, observed: Observed, desired: Desired, replica: Replica, now: float, *, served: bool
) -> None:
    """Count the failure of a replica: a loss if it had ``served``, else a failed start."""
    failed = Failed(now, replica.tag, failures.reason, failures.words, failures.traceback)
    observed.past.add(replica.backend, failed)
    if not served:
        failures.start_failed(now, recovered=observed.recovered(replica.backend, now))
        return
    spec, lived_s = desired.backends[replica.backend], 0.0
    if replica.phase is Phase.READY:
        lived_s = now - replica.since
    watch_s = spec.config.rollout_watch_s if replica.backend in desired.fallbacks else 0.0
    failures.lost(now, lived_s, steady_s=max(STEADY_S, watch_s))


def forget_failures(observed: Observed, command: Change) -> list[str]:
    """Reset the failures of the backends that a command creates, changes, wakes or scales, so that their replicas start
    at once; of all that have not come up yet, if it takes an apply back. Returns those that had any."""
    if isinstance(command, Apply):
        changed = list(command.plan.backends)
    elif isinstance(command, TakeBack):
        changed = [backend for backend, failures in observed.failures.items() if not failures.rolled_back]
    elif isinstance(command, BackendChange):
        changed = [backend_of(command)]
    elif isinstance(command, (WakeBackend, ScaleBackend)):
        changed = [command.tag]
    else:
        return []
    failed = [backend for backend in changed if backend in observed.failures]
    for backend in failed:
        observed.failures[backend].forget()
    return failed


def keep_drain_limits(observed: Observed, desired: Desired, backends: Iterable[str]) -> None:
    """Copy the drain limits of backends to their replicas, which need them after the backend is deleted."""
    for backend in backends:
        spec = desired.backends.get(backend)
        if spec is None:
            continue
        for replica in observed.of(backend):
            replica.drain_confirm_s = spec.config.drain_confirm_s
            replica.drain_timeout_s = spec.config.drain_timeout_s


def record_commit(observed: Observed, old: Desired, new: Desired, backends: Iterable[str], now: float) -> None:
    """Record what follows from a new state for what is observed: drain limits of changed ``backends``, which of them
    are gone, with what was seen of their calls, and which want no replicas, or some again, from now on."""
    keep_drain_limits(observed, new, backends)
    for tag in old.backends.keys() - new.backends.keys():  # at once: one of its name may be there before the next look
        observed.looked.pop(tag, None)
        observed.uses.pop(tag, None)
        observed.past.pop(tag, None)
    if new.scales is not old.scales:
        for tag in new.scales.keys() & new.backends.keys():
            if new.scales[tag] is old.scales.get(tag):
                continue
            if not new.wanted(tag):
                observed.asleep.setdefault(tag, now)
            elif tag in observed.uses and tag in old.backends and not old.wanted(tag):
                observed.uses[tag].since = now  # it is woken
        for tag in [tag for tag in observed.asleep if tag not in new.backends or new.wanted(tag)]:
            del observed.asleep[tag]


def free_capacity_of(observed: Observed, *, held: bool = True) -> FreeCapacity:
    """The capacity of the nodes, and what each backend's replicas hold of it.

    Args:
        held: what replicas hold is left out without it: thousands of them are many.
    """
    if not held:
        return FreeCapacity(observed.capacity, default_max=observed.default_max)
    holding = {tag: tuple(replica.allocation for replica in observed.of(tag)) for tag in observed.replicas.backends()}
    return FreeCapacity(observed.capacity, holding, observed.default_max)


class LaunchMetadata(Message, frozen=True):
    """What the next controller must know of a running replica. The engine keeps it and returns it in ``recovered``."""

    backend: str
    version: int
    tag: str
    allocation: Allocation
    start_reason: str = "initial"
    has_close: bool = False
