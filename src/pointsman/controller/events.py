"""What events tell about replicas, written into the observed state. No I/O but the log; the time is an argument."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import Enum, auto

from pointsman.controller.failures import STEADY_S, Failures
from pointsman.controller.observed import Observed, Phase, Replica
from pointsman.controller.reconcile import RECONFIGURE_REASONS
from pointsman.controller.state import Desired
from pointsman.model import BackendSpec, Reason
from pointsman.wire.commands import Change, CreateBackend, Deploy, UpdateBackendConfig
from pointsman.wire.handover import LaunchNote, ProcessEvent
from pointsman.wire.messages import Report, unpack

log = logging.getLogger(__name__)


def adopt(observed: Observed, live: Mapping[int, tuple[int, bytes]], now: float) -> None:
    """Take over what an earlier controller launched: number -> pid and its note."""
    for number, (pid, packed) in live.items():
        note = unpack(packed, LaunchNote)
        observed.replicas[number] = Replica(
            number=number,
            tag=note.tag,
            backend=note.backend,
            version=note.version,
            allocation=note.allocation,
            since=now,
            pid=pid,
            adopted=True,
            start_reason=note.start_reason,
            has_close=note.has_close,
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


class Task(Enum):
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
    "fresh": (Phase.STARTING, Task.ASSIGN),
    "starting": (Phase.STARTING, Task.NOTHING),
    "draining": (Phase.DRAINING, Task.NOTHING),
    "drained": (Phase.STOPPING, Task.STOP),
}
"""What a report says of a replica's life, by its ``state``; ``ready`` and ``failed`` say more."""


def note_report(
    observed: Observed, desired: Desired, report: Report, pickled: bytes, now: float, *, introduces: bool = False
) -> Task:
    """A replica says how it is; ``introduces`` when it has just connected, so that orders to it may have been lost."""
    replica = observed.replicas.get(report.number)
    if replica is None:
        log.warning("a replica numbered %d reported, and no such replica is known", report.number)
        return Task.NOTHING
    replica.adopted = False
    replica.served = replica.served or report.served
    if introduces:
        replica.told_version = report.config_version
    replica.node, replica.address, replica.tcp = report.node, report.address, report.tcp
    if report.state == "failed":
        return _note_failed(observed, desired, replica, report, pickled, now)
    if report.state == "ready":
        _note_ready(observed, replica, report, now)
        return Task.DRAIN if introduces and replica.phase is Phase.DRAINING else Task.WATCH
    phase, task = STEPS.get(report.state, (replica.phase, Task.NOTHING))
    replica.enter(phase, now)
    return task


def _note_ready(observed: Observed, replica: Replica, report: Report, now: float) -> None:
    """A replica has come up, or has applied a new configuration."""
    replica.config_version = report.config_version
    replica.told_version = max(replica.told_version, report.config_version)
    if replica.phase < Phase.READY:
        log.info("%s is ready (pid %d)", replica.tag, replica.pid)
        replica.enter(Phase.READY, now)
        replica.pulse.heard_at = now
        failures = observed.failures.get(replica.backend)
        if failures is not None and failures.reason is Reason.CONSTRUCTOR_FAILED and not failures.rolled_back:
            failures.count = 0  # tries count in a row


def _note_failed(
    observed: Observed, desired: Desired, replica: Replica, report: Report, pickled: bytes, now: float
) -> Task:
    """User code failed in its constructor or in ``reconfigure``."""
    log.warning("%s failed: %s: %s", replica.tag, report.error, report.text)
    if report.reason in RECONFIGURE_REASONS:
        replica.told_version = max(replica.told_version, report.config_version)
        if replica.phase < Phase.READY:  # it came up before, though this controller has not seen it
            replica.enter(Phase.READY, now)
            replica.pulse.heard_at = now
    if replica.phase > Phase.READY:
        return Task.NOTHING  # it is on its way out, and may finish what it runs
    spec, serves = desired.backends.get(replica.backend), replica.phase is Phase.READY
    if spec is None or replica.version != spec.version:
        return Task.NOTHING if serves else Task.KILL  # what an old version says is no verdict on the new one
    if serves and report.config_version < spec.config_version:
        # Another replica was quicker to refuse that configuration: it was taken back, and the old one is coming.
        return Task.NOTHING
    failures = observed.failures.setdefault(replica.backend, Failures())
    failures.reason = report.reason or Reason.CONSTRUCTOR_FAILED
    failures.error, failures.text = report.error, report.text
    failures.traceback, failures.pickled = report.traceback, pickled
    _count(failures, observed, desired, replica, now, served=serves)
    # One that serves and could not take a new configuration is given the old one again.
    return Task.NOTHING if serves and replica.backend in desired.fallbacks else Task.KILL


def note_exit(observed: Observed, desired: Desired, event: ProcessEvent, now: float) -> None:
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


def note_sick(observed: Observed, desired: Desired, replica: Replica, now: float) -> None:
    """A serving replica was found to be sick, and will be replaced."""
    sick = replica.sick
    assert sick is not None
    log.warning("%s (pid %d) is replaced, %s: %s", replica.tag, replica.pid, sick.reason.value, sick.text)
    spec = desired.backends.get(replica.backend)
    if spec is None or spec.version != replica.version:
        return
    failures = observed.failures.setdefault(replica.backend, Failures())
    failures.reason, failures.error = sick.reason, sick.error
    failures.text = sick.text if sick.error else f"replica {replica.tag}: {sick.text}"
    failures.traceback, failures.pickled = sick.traceback, b""
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
