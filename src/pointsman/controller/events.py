"""What events tell about replicas, written into the observed state. No I/O but the log; the time is an argument."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pointsman.controller.observed import Failures, Observed, Phase, Replica
from pointsman.controller.reconcile import failed_launch
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


def note_ready(observed: Observed, replica: Replica, report: Report, now: float) -> None:
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


def note_refused(replica: Replica, report: Report, now: float) -> None:
    """A replica could not take a new configuration. It came up before, though this controller may not have seen it."""
    replica.told_version = max(replica.told_version, report.config_version)
    if replica.phase < Phase.READY:
        replica.enter(Phase.READY, now)
        replica.pulse.heard_at = now


def note_failure(observed: Observed, replica: Replica, report: Report, pickled: bytes, now: float) -> None:
    """User code failed in its constructor or in ``reconfigure``."""
    log.warning("%s failed: %s: %s", replica.tag, report.error, report.text)
    failures = observed.failures.setdefault(replica.backend, Failures())
    failures.reason = report.reason or Reason.CONSTRUCTOR_FAILED
    failures.error, failures.text = report.error, report.text
    failures.traceback, failures.pickled = report.traceback, pickled
    failed_launch(failures, now)


def note_exit(observed: Observed, desired: Desired, event: ProcessEvent, now: float) -> None:
    """A replica's process is gone."""
    replica = observed.replicas.pop(event.number, None)
    if replica is None:
        return
    if replica.killed or replica.phase is Phase.STOPPING:
        log.info("%s ended", replica.tag)
        return
    log.warning("%s died: %s", replica.tag, event.exit)
    spec = desired.backends.get(replica.backend)
    if event.blameless or spec is None or spec.version != replica.version:
        return  # the death of an old version says nothing about the new one
    failures = observed.failures.setdefault(replica.backend, Failures())
    failures.reason, failures.error = Reason.REPLICA_DIED, ""
    failures.text = f"replica {replica.tag} died ({event.exit})"
    failures.traceback, failures.pickled = "", b""
    failed_launch(failures, now, lived_s=now - replica.since if replica.phase is Phase.READY else 0.0)


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
    failed_launch(failures, now, lived_s=now - replica.since)


def forget_failures(observed: Observed, command: Change) -> None:
    """A new order for a backend is a new start."""
    if isinstance(command, (CreateBackend, UpdateBackendConfig, Deploy)):
        failures = observed.failures.get(command.name if isinstance(command, Deploy) else command.tag)
        if failures is not None:
            failures.count, failures.next_try, failures.rolled_back = 0, 0.0, 0
