"""Views of desired and observed state: the status that users read, and parts of it."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from pointsman.controller.applying import view_of
from pointsman.controller.observed import Observed
from pointsman.controller.orders import Subscription
from pointsman.controller.replicas import Phase, Replica
from pointsman.controller.rollouts.words import views_of
from pointsman.controller.scaling.following import follows_calls
from pointsman.controller.scaling.words import view_of as scaling_of
from pointsman.controller.state import Desired, Fallback, find_endpoint
from pointsman.engine.local.upgradelink import RunningBackend, RunningReplica
from pointsman.limits import cut
from pointsman.model import (
    BackendSpec,
    Pins,
    Resources,
    RoutingTable,
    TrafficHistory,
)
from pointsman.version import VERSION
from pointsman.wire.apply import Declared, OperationView
from pointsman.wire.commands import (
    BackendList,
    BackendView,
    FailureList,
    FailureView,
    IngressView,
    PastFailure,
    ReplicaView,
    Status,
    TrafficView,
)
from pointsman.wire.handover import InstanceSettings

UNHEALTHY = "UNHEALTHY"


def status_of(
    settings: InstanceSettings,
    desired: Desired,
    observed: Observed,
    table: RoutingTable,
    *,
    ingresses: Sequence[Subscription],
    unsubscribed: Collection[str],
    metrics: Mapping[str, str],
    queued: dict[str, int] | None,
    now: float,
    time: str,
) -> Status:
    """The status of the instance.

    Args:
        ingresses: the connected ones.
        unsubscribed: identities of ingresses that live and have not subscribed yet.
        metrics: URL of the metrics, by node.
        queued: number of calls that wait in routers, by endpoint; None if it is not known.
        now: of the controller's clock.
        time: of the day.
    """
    return Status(
        version=desired.version,
        pid=os.getpid(),
        name=settings.name,
        http_host=settings.http_host,
        http_port=settings.http_port,
        endpoints=desired.endpoints,
        backends={tag: _backend_view(desired, observed, spec, now, time) for tag, spec in desired.backends.items()},
        ingresses=ingresses_of(observed, table, ingresses, unsubscribed),
        metrics=dict(metrics),
        queued=queued,
        state_dir=settings.state_dir,
        start_options=settings.start_options,
        wants_key=settings.http_lock.wants_key,
        secure=settings.http_lock.tls is not None,
        came_up=bool(desired.came_up),
        operation=_running(desired),
        rollouts=views_of(desired),
        console=settings.console_url,
        release=VERSION,
    )


def ingresses_of(
    observed: Observed, table: RoutingTable, ingresses: Sequence[Subscription], unsubscribed: Collection[str]
) -> tuple[IngressView, ...]:
    """The HTTP servers."""
    confirmed = observed.confirmed
    return (
        *(IngressView(i.pid, confirmed.get(i.number, 0) >= table.version) for i in ingresses),
        *(IngressView(0, False) for _ in unsubscribed),
    )


def backends_of(desired: Desired, tag: str | None) -> BackendList:
    """The specifications of all backends, or of the one with that tag, if it exists."""
    return BackendList({name: spec for name, spec in desired.backends.items() if tag in (None, name)})


def traffic_of(desired: Desired, name: str) -> TrafficView:
    """One endpoint with its pins and its history.

    Raises:
        ValueError: the endpoint does not exist.
    """
    endpoint = find_endpoint(desired, name)
    return TrafficView(endpoint, desired.pins.get(name, Pins()), desired.histories.get(name, TrafficHistory()))


def failures_of(desired: Desired, observed: Observed, tag: str, now: float, time: str) -> FailureList:
    """The last failures of a backend.

    Raises:
        ValueError: there is no such backend.
    """
    if tag not in desired.backends:
        raise ValueError(f"backend {tag!r} does not exist; there are {sorted(desired.backends)}")
    moment = datetime.fromisoformat(time)
    return FailureList(
        tuple(
            PastFailure(
                (moment - timedelta(seconds=now - one.at)).isoformat(timespec="milliseconds"),
                one.replica,
                one.reason,
                cut(one.text),
                cut(one.traceback),
            )
            for one in observed.past.get(tag, ())
        )
    )


def declared_of(settings: InstanceSettings, desired: Desired) -> Declared:
    """What a configuration file is compared with. What is secret of the HTTP servers' options is left out."""
    http = settings.http
    if http is not None:
        http = msgspec.structs.replace(http, middlewares=b"", lock=msgspec.structs.replace(http.lock, keys=()))
    return Declared(
        version=desired.version,
        backends=desired.backends,
        endpoints=desired.endpoints,
        pins=desired.pins,
        marks=desired.marks,
        operation=_running(desired),
        http=http,
        start_options=settings.start_options,
    )


def _running(desired: Desired) -> OperationView | None:
    running = desired.running
    return view_of(running, desired.version) if running is not None else None


def state_of(desired: Desired, observed: Observed, spec: BackendSpec) -> tuple[str, int]:
    """The state of a backend (see :class:`~pointsman.wire.commands.BackendView`), and how many replicas serve."""
    replicas, wanted = observed.of(spec.tag), desired.wanted(spec.tag)
    serving = [r for r in replicas if r.phase is Phase.READY and r.unhealthy is None and not r.killed]
    ready = sum(r.version == spec.version for r in serving)
    failures = observed.failures.get(spec.tag)
    if failures is not None and failures.rolled_back:
        return "DEPLOY_FAILED", ready
    if failures is not None and failures.count and ready < wanted:
        return UNHEALTHY, ready
    if ready == len(replicas) == wanted:
        return "IDLE" if follows_calls(spec.config) and not wanted else "RUNNING", ready
    only_number = spec.tag not in desired.fallbacks and all(r.version == spec.version for r in replicas)
    return "SCALING" if follows_calls(spec.config) and only_number else "UPDATING", ready


def running(desired: Desired, observed: Observed) -> bytes:
    """What runs, for another release that takes the instance over: in JSON (see
    :mod:`~pointsman.engine.local.upgradelink`)."""
    return msgspec.json.encode({tag: _as_running(desired, observed, spec) for tag, spec in desired.backends.items()})


def _as_running(desired: Desired, observed: Observed, spec: BackendSpec) -> RunningBackend:
    needs = spec.resources
    return RunningBackend(
        ready=state_of(desired, observed, spec)[1],
        wanted=desired.wanted(spec.tag),
        drain_s=spec.config.drain_timeout_s,
        num_cpus=needs.num_cpus,
        num_gpus=needs.num_gpus,
        memory=needs.memory,
        custom=needs.custom,
        replicas=tuple(RunningReplica(one.pid, one.allocation.gpus) for one in observed.of(spec.tag)),
    )


def _backend_view(desired: Desired, observed: Observed, spec: BackendSpec, now: float, time: str) -> BackendView:
    replicas, failures = observed.of(spec.tag), observed.failures.get(spec.tag)
    state, ready = state_of(desired, observed, spec)
    failure = None
    if failures is not None and state in ("DEPLOY_FAILED", UNHEALTHY):
        failure = FailureView(failures.reason, cut(failures.words), cut(failures.traceback), failures.count)
    return BackendView(
        spec=_small(spec),
        state=state,
        ready=ready,
        failure=failure,
        pythons=_pythons(spec, desired.fallbacks.get(spec.tag)),
        replicas=tuple(_replica_view(replica) for replica in replicas),
        wanted=desired.wanted(spec.tag),
        scaling=scaling_of(spec.tag, desired, observed, now, time),
    )


def _small(spec: BackendSpec) -> BackendSpec:
    """A backend's specification without what a status does not show: hundreds of them must fit one message."""
    environment = spec.origin.environment
    if environment is not None:
        environment = msgspec.structs.replace(environment, variables={}, unset=(), path=())
    return msgspec.structs.replace(
        spec,
        origin=msgspec.structs.replace(spec.origin, sys_path=(), environment=environment),
        traits=msgspec.structs.replace(spec.traits, api=b""),
        config=msgspec.structs.replace(spec.config, user_config=None),
        resources=Resources(),
        source=msgspec.structs.replace(spec.source, args=None, env=b"null"),
    )


def _replica_view(replica: Replica) -> ReplicaView:
    phase = Phase.STOPPING if replica.killed else replica.phase
    return ReplicaView(replica.tag, replica.pid, phase.name, replica.allocation.gpus, replica.health.warning)


def _pythons(spec: BackendSpec, fallback: Fallback | None) -> tuple[str, ...]:
    specs = [spec, *([fallback.spec] if fallback is not None and fallback.spec is not None else [])]
    return tuple(one.origin.environment.python for one in specs if one.origin.environment is not None)
