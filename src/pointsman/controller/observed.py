"""What is there, as events and reports tell: replicas, what went wrong, what routers know. No I/O but the log; the
time is an argument.

Only the functions of this module, called by the controller's shell, change it; :mod:`~pointsman.controller.reconcile`
only reads it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum, auto

from pointsman.controller.failures import RECONFIGURE_REASONS, STEADY_S, Failures
from pointsman.controller.state import Desired, FreeCapacity
from pointsman.engine.orders import ProcessEvent
from pointsman.model import Allocation, BackendSpec, Capacity, Reason
from pointsman.wire.commands import Change, CreateBackend, Deploy, UpdateBackendConfig
from pointsman.wire.messages import SERVED_S, HealthAnswer, Message, Report, unpack


class Phase(IntEnum):
    """Where a replica is in its life."""

    LAUNCHED = 0
    STARTING = 1
    READY = 2
    LEAVING = 3
    DRAINING = 4
    STOPPING = 5


@dataclass(frozen=True)
class Unhealthy:
    """Why a serving replica has to be replaced. With ``kill`` at once, otherwise it may finish what it runs."""

    reason: Reason
    text: str
    error: str = ""
    traceback: str = ""
    kill: bool = True


@dataclass
class LastHealth:
    """What a replica's health thread has told."""

    answered_at: float = 0.0
    """When it answered last; the beginning of its service until then."""
    ask_at: float = 0.0
    answer: HealthAnswer | None = None
    warning: str = ""
    """What is odd about it, for the status."""


@dataclass
class Replica:
    """What the controller knows of one replica."""

    number: int
    tag: str
    backend: str
    version: int
    allocation: Allocation
    since: float
    """When ``phase`` began."""
    phase: Phase = Phase.LAUNCHED
    pid: int = 0
    node: str = ""
    address: str = ""
    tcp: str = ""
    """Where it listens, as in a ``ReplicaRef``; empty until it has said so."""
    config_version: int = 0
    """The configuration that the replica has applied."""
    sent_version: int = 0
    """The configuration that it was last told to apply."""
    left_at: int = 0
    """Version of the first routing table without it; 0 until that is published."""
    adopted: bool = False
    """Launched by an earlier controller, and not heard of yet by this one."""
    served: bool = False
    """It has said that it has answered a call, or that it was ready for a while before this controller knew it."""
    killed: bool = False
    health: LastHealth = field(default_factory=LastHealth)
    unhealthy: Unhealthy | None = None
    start_reason: str = "initial"
    """``initial``, ``scale``, ``failure`` or ``update``."""
    drain_confirm_s: float = 2.0
    drain_timeout_s: float = 20.0
    """The limits of its backend's drain, kept for when that is deleted."""
    has_close: bool = False
    """Whether its user code may take up to its drain limit once more when it is stopped."""

    @property
    def is_current(self) -> bool:
        """Whether it serves, or will."""
        return self.phase <= Phase.READY and self.unhealthy is None

    @property
    def load(self) -> int:
        """Calls in it when it was asked last."""
        return self.health.answer.load if self.health.answer is not None else 0

    def has_served(self, now: float) -> bool:
        """Whether its end is a loss, and not a start that failed. One that an earlier controller has launched and that
        has not been heard of is given the benefit of the doubt."""
        return self.adopted or self.served or (self.phase >= Phase.READY and now >= self.since + SERVED_S)

    def enter(self, phase: Phase, now: float) -> None:
        """Move on to a later phase; a phase that lies behind is ignored."""
        if phase > self.phase:
            self.phase, self.since = phase, now


@dataclass
class Observed:
    """What is there, as events have told. The controller's shell changes it; :func:`plan` only reads it."""

    capacity: Capacity = field(default_factory=Capacity)
    replicas: dict[int, Replica] = field(default_factory=dict)
    failures: dict[str, Failures] = field(default_factory=dict)
    confirmed: dict[int, int] = field(default_factory=dict)
    """Router -> version of the table that it uses."""

    def of(self, backend: str) -> list[Replica]:
        return [replica for replica in self.replicas.values() if replica.backend == backend]

    def recovered(self, backend: str, now: float) -> bool:
        """Whether a replica of a backend has come up and served since the last start there that failed."""
        failed_at = self.failures[backend].failed_at if backend in self.failures else float("-inf")
        return any(r.phase is Phase.READY and r.since > failed_at and r.has_served(now) for r in self.of(backend))

    def validate(self) -> None:
        """Raise AssertionError when the picture contradicts itself."""
        tags = [replica.tag for replica in self.replicas.values()]
        assert len(tags) == len(set(tags)), "two replicas share a tag"
        shares: dict[int, float] = {}
        for replica in self.replicas.values():
            for index in replica.allocation.gpus:
                shares[index] = shares.get(index, 0.0) + min(1.0, replica.allocation.resources.num_gpus)
        assert all(share <= 1 + 1e-6 for share in shares.values()), f"a GPU is given out more than once: {shares}"


log = logging.getLogger(__name__)


def adopt(observed: Observed, live: Mapping[int, tuple[int, bytes]], now: float) -> None:
    """Take over what an earlier controller launched: number -> pid and its metadata."""
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
            start_reason=metadata.start_reason,
            has_close=metadata.has_close,
        )
    if live:
        log.info("%d replicas live on from an earlier controller", len(live))


def start_reason(spec: BackendSpec, desired: Desired, observed: Observed) -> str:
    """Why a replica is to be started now: ``initial``, ``scale``, ``failure`` or ``update``."""
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
    return "failure" if any(replica.phase >= Phase.READY for replica in mine) else "initial"


class NextStep(Enum):
    """What a replica's report asks for."""

    NOTHING = auto()
    ASSIGN = auto()
    """It waits to be told what to run."""
    WATCH = auto()
    """It serves: its health is to be asked for."""
    DRAIN = auto()
    """It does not know yet that it is to finish what it runs."""
    STOP = auto()
    """It has finished what it ran."""
    KILL = auto()
    """It cannot go on."""


STEPS = {
    "fresh": (Phase.STARTING, NextStep.ASSIGN),
    "starting": (Phase.STARTING, NextStep.NOTHING),
    "draining": (Phase.DRAINING, NextStep.NOTHING),
    "drained": (Phase.STOPPING, NextStep.STOP),
}
"""What a report says of a replica's life, by its ``state``; ``ready`` and ``failed`` say more."""


def record_report(
    observed: Observed, desired: Desired, report: Report, pickled: bytes, now: float, *, introduces: bool = False
) -> NextStep:
    """A replica says how it is; ``introduces`` when it has just connected, so that orders to it may have been lost."""
    replica = observed.replicas.get(report.number)
    if replica is None:
        log.warning("a replica numbered %d reported, and no such replica is known", report.number)
        return NextStep.NOTHING
    replica.adopted = False
    replica.served = replica.served or report.served
    if introduces:
        replica.sent_version = report.config_version
    replica.node, replica.address, replica.tcp = report.node, report.address, report.tcp
    if report.state == "failed":
        return _record_failed(observed, desired, replica, report, pickled, now)
    if report.state == "ready":
        _record_ready(observed, replica, report, now)
        return NextStep.DRAIN if introduces and replica.phase is Phase.DRAINING else NextStep.WATCH
    phase, step = STEPS.get(report.state, (replica.phase, NextStep.NOTHING))
    replica.enter(phase, now)
    return step


def _record_ready(observed: Observed, replica: Replica, report: Report, now: float) -> None:
    """A replica has come up, or has applied a new configuration."""
    replica.config_version = report.config_version
    replica.sent_version = max(replica.sent_version, report.config_version)
    if replica.phase < Phase.READY:
        log.info("%s is ready (pid %d)", replica.tag, replica.pid)
        replica.enter(Phase.READY, now)
        replica.health.answered_at = now
        failures = observed.failures.get(replica.backend)
        if failures is not None and failures.reason is Reason.CONSTRUCTOR_FAILED and not failures.rolled_back:
            failures.count = 0  # tries count in a row


def _record_failed(
    observed: Observed, desired: Desired, replica: Replica, report: Report, pickled: bytes, now: float
) -> NextStep:
    """User code failed in its constructor or in ``reconfigure``."""
    log.warning("%s failed: %s: %s", replica.tag, report.error, report.text)
    if report.reason in RECONFIGURE_REASONS:
        replica.sent_version = max(replica.sent_version, report.config_version)
        if replica.phase < Phase.READY:  # it came up before, though this controller has not seen it
            replica.enter(Phase.READY, now)
            replica.health.answered_at = now
    if replica.phase > Phase.READY:
        return NextStep.NOTHING  # it is on its way out, and may finish what it runs
    spec, serves = desired.backends.get(replica.backend), replica.phase is Phase.READY
    if spec is None or replica.version != spec.version:
        return NextStep.NOTHING if serves else NextStep.KILL  # what an old version says is no verdict on the new one
    if serves and report.config_version < spec.config_version:
        # Another replica was quicker to refuse that configuration: it was taken back, and the old one is coming.
        return NextStep.NOTHING
    failures = observed.failures.setdefault(replica.backend, Failures())
    failures.reason = report.reason or Reason.CONSTRUCTOR_FAILED
    failures.error, failures.text = report.error, report.text
    failures.traceback, failures.pickled = report.traceback, pickled
    _count(failures, observed, desired, replica, now, served=serves)
    # One that serves and could not take a new configuration is given the old one again.
    return NextStep.NOTHING if serves and replica.backend in desired.fallbacks else NextStep.KILL


def record_exit(observed: Observed, desired: Desired, event: ProcessEvent, now: float) -> None:
    """A replica's process is gone."""
    replica = observed.replicas.pop(event.number, None)
    if replica is None:
        return
    if replica.killed or replica.phase is Phase.STOPPING:
        log.info("%s ended", replica.tag)
        return
    log.warning("%s died: %s", replica.tag, event.exit)
    if event.blameless or replica.phase > Phase.READY:
        return  # nobody takes the place of one that was on its way out
    spec = desired.backends.get(replica.backend)
    if spec is None or spec.version != replica.version:
        return  # the death of an old version says nothing about the new one
    failures = observed.failures.setdefault(replica.backend, Failures())
    failures.reason, failures.error = Reason.REPLICA_DIED, ""
    failures.text = f"replica {replica.tag} died ({event.exit})"
    failures.traceback, failures.pickled = "", b""
    _count(failures, observed, desired, replica, now, served=replica.has_served(now))


def record_unhealthy(observed: Observed, desired: Desired, replica: Replica, now: float) -> None:
    """A serving replica was found to be unhealthy, and will be replaced."""
    found = replica.unhealthy
    assert found is not None
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
    """Count the failure of a replica: as a loss where it had ``served``, else as a start that failed."""
    if not served:
        failures.start_failed(now, recovered=observed.recovered(replica.backend, now))
        return
    spec, lived_s = desired.backends[replica.backend], 0.0
    if replica.phase is Phase.READY:
        lived_s = now - replica.since
    watch_s = spec.config.rollout_watch_s if replica.backend in desired.fallbacks else 0.0
    failures.lost(now, lived_s, steady_s=max(STEADY_S, watch_s))


def forget_failures(observed: Observed, command: Change) -> None:
    """A new order for a backend is a new start."""
    if isinstance(command, (CreateBackend, UpdateBackendConfig, Deploy)):
        failures = observed.failures.get(command.name if isinstance(command, Deploy) else command.tag)
        if failures is not None:
            failures.forget()


def free_capacity_of(observed: Observed) -> FreeCapacity:
    """The node's capacity, and what each backend's replicas hold of it."""
    held: dict[str, tuple[Allocation, ...]] = {}
    for replica in observed.replicas.values():
        held[replica.backend] = (*held.get(replica.backend, ()), replica.allocation)
    return FreeCapacity(observed.capacity, held)


class LaunchMetadata(Message, frozen=True):
    """What a controller must know of a replica that its predecessor launched."""

    backend: str
    version: int
    tag: str
    allocation: Allocation
    start_reason: str = "initial"
    has_close: bool = False
