"""What all operations of a client share: the session, making a change and waiting for it, and views of the instance's
status and metrics as plain dicts that are ready for JSON."""

from __future__ import annotations

import getpass
import hashlib
import logging
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from pointsman.arguments import check_object_name, check_timeout
from pointsman.calling.session import Credentials, Session, session_for
from pointsman.context import replica_context
from pointsman.engine.base import url
from pointsman.exceptions import ServeException
from pointsman.model import BackendSpec, EndpointSpec, Origin
from pointsman.model.evidence import Numbers
from pointsman.model.scaling import ScalingView
from pointsman.progress import ProgressLine
from pointsman.telemetry.reports import Reading, summarise
from pointsman.telemetry.windows import WINDOWS, add_numbers, endpoint_window
from pointsman.usercode.paths import import_folders, working_folder
from pointsman.wire.commands import (
    BRINGS_CODE,
    Accepted,
    Await,
    BackendList,
    BackendView,
    Change,
    FailureList,
    Query,
    QueryBackends,
    QueryFailures,
    QueryMetrics,
    QueryTraffic,
    Status,
    TrafficView,
)
from pointsman.wire.messages import unpack
from pointsman.wire.rollouts import QueryTallies

log = logging.getLogger("pointsman")

START_TIMEOUT_S = 60.0


class Operations:
    """Base of the operations.

    Args:
        credentials: address of the instance's controller, and the key with which this process authenticates.
    """

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._shut_down = False
        self._session: Session = session_for(credentials)

    def _status(self) -> Status:
        self._check_alive()
        return unpack(self._session.command(Query(new_id())), Status)

    def _backends(self, tag: str | None = None) -> dict[str, BackendSpec]:
        """Complete specifications of all backends by tag, or of one; empty if that one does not exist."""
        self._check_alive()
        return unpack(self._session.command(QueryBackends(new_id(), tag)), BackendList).specs

    def _traffic(self, endpoint: str) -> TrafficView:
        self._check_alive()
        return unpack(self._session.command(QueryTraffic(new_id(), endpoint)), TrafficView)

    def _change(
        self,
        command: Change,
        blob: bytes = b"",
        *,
        backend: str | None = None,
        gone: bool = False,
        woken: bool = False,
        fixed: bool = False,
    ) -> None:
        """Send a change and wait until it is in effect.

        Args:
            blob: packed code that belongs to the change.
            backend: wait for this backend too, without a time limit.
            gone: wait until ``backend`` has no replica left, instead of all that it should have.
            woken: wait for its first replicas only, and no longer than these may start.
            fixed: wait for as many replicas of the number that is fixed as there is room for.
        """
        self._check_alive()
        signed = msgspec.structs.replace(command, by=author())
        accepted = unpack(self._session.command(signed, blob), Accepted)
        if accepted.note:
            log.warning("%s", accepted.note)
        timeout_s = None if backend is not None else START_TIMEOUT_S
        brings_code = isinstance(command, BRINGS_CODE)
        wait = Await(new_id(), accepted.version, backend, gone, timeout_s, brings_code, woken, fixed)
        with ProgressLine() as line:
            self._session.command(wait, progress=line.show)

    def _check_alive(self) -> None:
        if self._shut_down:
            raise ServeException("the client was shut down")


def origin_here() -> Origin:
    """This process's working folder and import path."""
    return Origin(working_folder(), import_folders())


def new_id() -> str:
    """An id for a command, so that delivering it twice carries it out once."""
    return secrets.token_hex(8)


def author() -> str:
    """Name of this process in the history: the replica, or user, program and pid."""
    replica = replica_context()
    if replica is not None:
        return f"replica {replica.replica}"
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
    return f"{user()}, {program}, pid {os.getpid()}"


def user() -> str:
    """The name of the user of this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a name, as in many containers
        return f"uid {os.getuid()}"


def status_view(status: Status, http_address: str | None) -> dict[str, Any]:
    """What ``Client.status`` returns."""
    running = status.operation
    return {
        "name": status.name,
        "version": status.version,
        "release": status.release,
        "controller_pid": status.pid,
        "http": {
            "address": http_address or url(status.http_host, status.http_port, secure=status.secure),
            "locked": status.wants_key,
            "tls": status.secure,
            "ingresses": [{"pid": i.pid or None, "up_to_date": i.up_to_date} for i in status.ingresses],
        },
        "console": status.console or None,
        "metrics": [{"node": node, "address": url} for node, url in status.metrics.items()],
        "endpoints": {
            name: {
                **endpoint_view(spec),
                "queued": None if status.queued is None else status.queued.get(name, 0),
                "last_minute": endpoint_window(status.last_minute, name),
            }
            for name, spec in status.endpoints.items()
        },
        "backends": {tag: _backend_view(view) for tag, view in status.backends.items()},
        "apply": running and {"owner": running.owner, "by": running.by, "since": running.began},
        "rollouts": {name: msgspec.to_builtins(view) for name, view in status.rollouts.items()},
    }


def endpoint_view(spec: EndpointSpec) -> dict[str, Any]:
    """One endpoint, as ``Client.list_endpoints`` shows it."""
    return {
        "route": spec.route,
        "methods": list(spec.methods),
        "traffic": dict(spec.policy.weights),
        "shadows": dict(spec.policy.shadows),
    }


def _backend_view(view: BackendView) -> dict[str, Any]:
    failure = view.failure
    environment = view.spec.origin.environment
    source = view.spec.source
    return {
        "state": view.state,
        "replicas_wanted": view.wanted,
        "replicas_running": view.ready,
        "replicas": [
            # None and not 0 for one that is being launched: kill(0) would signal the caller's whole process group.
            {"tag": r.tag, "pid": r.pid or None, "state": r.state, "gpus": list(r.gpus), "remark": r.remark}
            for r in view.replicas
        ],
        "environment": environment
        and {
            "kind": environment.kind,
            "name": environment.name,
            "python": environment.python,
            "version": environment.version,
        },
        "pythons": list(view.pythons),
        "code": source.path or (f"by value: {source.name}" if source.name else "by value"),
        "digest": digest_of(view.spec),
        "version": source.version,
        "commit": source.commit,
        "since": view.spec.since,
        "failure": failure
        and {
            "reason": failure.reason.value,
            "text": failure.text,
            "traceback": failure.traceback,
            "failures": failure.failures,
        },
        "autoscaling": view.scaling and scaling_view(view.scaling),
    }


def scaling_view(view: ScalingView) -> dict[str, Any]:
    """The autoscaling of a backend, ready for JSON."""
    shown: dict[str, Any] = msgspec.to_builtins(view)
    shown["decisions"] = [
        {"time": one.time, "from": one.before, "to": one.after, "reason": one.reason, "text": one.text}
        for one in view.decisions
    ]
    return shown


def digest_of(spec: BackendSpec) -> str:
    """12 characters that differ wherever code, init args or the content of local modules do."""
    return hashlib.sha256(f"{spec.code} {spec.source.content}".encode()).hexdigest()[:12]


class StatisticsOperations(Operations):
    """Reads metrics; changes nothing."""

    def stats(self, over_s: float | None = None) -> dict[str, Any]:
        """Requests, errors, latencies and queues, by endpoint and backend: plain dicts, ready for JSON.

        Per endpoint ``requests``, ``per_second``, ``queued`` in routers, ``latency_ms``, ``http_latency_ms``, and
        ``http_outcomes``: how many requests by HTTP were ``delivered``, ``refused``, ``failed`` and ``aborted``; per
        backend also ``errors``, requests in ``processing``, ``queued`` in routers and replicas, the mean
        ``batch_size``, live ``replicas``, and ``processing_ms``: how long calls of user code took.

        ``latency_ms`` has p50, p95 and p99, at most 2 % off, ``mean`` and ``count``: milliseconds from the arrival of a
        request, by HTTP or by handle, to the first byte of its answer. ``http_latency_ms``, to the end of the answer,
        and ``processing_ms`` are estimated from the coarse buckets of the metrics.

        ``windows`` has the same for the last ``10s``, ``1m`` and ``10m``, and since the traffic ``policy`` was changed,
        as far as the controller has been there: ``seconds``, ``requests``, ``per_second``, ``errors``, ``latency_ms``.
        Endpoints have it for each of their ``backends`` and ``shadows`` as well. Requests whose client left are counted
        in ``latency_ms`` only; errors are answers of status 500 and above, exceptions, and streams that were cut.

        Args:
            over_s: seconds to measure for; what happened in them is returned. None: everything since the start, and no
                rates. Of earlier traffic policies ``latency_ms`` has the last ones only.

        Returns:
            ``{"endpoints": {name: ...}, "backends": {tag: ...}}``, each with the numbers above.

        Raises:
            ServeException: the instance records no metrics.
            ValueError, TypeError: ``over_s`` is no number above 0.
        """
        check_timeout(over_s, "over_s")
        before, numbers_before = self._read_metrics(), self._read_numbers()
        if over_s is None:
            stats = summarise(before)
            add_numbers(stats, numbers_before)
            return stats
        time.sleep(over_s)
        stats = summarise(self._read_metrics(), before)
        add_numbers(stats, self._read_numbers(), numbers_before)
        return stats

    def failures(self, backend_tag: str) -> list[dict[str, Any]]:
        """The last ten failures of a backend's replicas that this controller has seen, oldest first.

        Args:
            backend_tag: tag of the backend.

        Returns:
            For each ``{"time", "replica", "reason", "text", "traceback"}``: ``time`` is ISO 8601 in UTC, ``replica`` is
            its tag, ``reason`` one word as in the status, ``traceback`` empty where no code has raised.

        Raises:
            ValueError: there is no such backend.
        """
        self._check_alive()
        found = unpack(
            self._session.command(QueryFailures(new_id(), check_object_name(backend_tag, "backend_tag"))), FailureList
        )
        return [msgspec.to_builtins(one) for one in found.failures]

    def _read_metrics(self) -> Reading:
        self._check_alive()
        return unpack(self._session.command(QueryMetrics(new_id())), Reading)

    def _read_numbers(self) -> Numbers:
        return unpack(self._session.command(QueryTallies(new_id(), (*WINDOWS.values(), None))), Numbers)
