"""The controller's state as users may read it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from pointsman.controller.observed import Phase, Replica
from pointsman.controller.state import Desired, Fallback, find_endpoint
from pointsman.limits import cut
from pointsman.model import BackendSpec, Pins, Resources, TrafficHistory
from pointsman.wire.commands import BackendList, BackendView, FailureView, IngressView, ReplicaView, Status, TrafficView
from pointsman.wire.handover import ControllerHandover

if TYPE_CHECKING:
    from pointsman.controller.controller import Controller


class Subscriber(Protocol):
    number: int
    pid: int


def status_of(
    controller: Controller,
    handover: ControllerHandover,
    ingresses: Sequence[Subscriber],
    metrics: Mapping[str, str],
    queued: dict[str, int] | None,
) -> Status:
    """Everything at this moment."""
    desired, confirmed = controller.desired, controller.observed.confirmed
    return Status(
        version=desired.version,
        pid=os.getpid(),
        name=handover.name,
        http_host=handover.http_host,
        http_port=handover.http_port,
        endpoints=desired.endpoints,
        backends={tag: _backend_view(controller, spec) for tag, spec in desired.backends.items()},
        ingresses=(
            *(IngressView(i.pid, confirmed.get(i.number, 0) >= controller.table.version) for i in ingresses),
            *(IngressView(0, False) for _ in controller.unheard),
        ),
        metrics=dict(metrics),
        queued=queued,
        state_dir=handover.state_dir,
        start_options=handover.start_options,
    )


def backends_of(desired: Desired, tag: str | None) -> BackendList:
    """What all backends are to be; or one by its tag, which need not be there."""
    return BackendList({name: spec for name, spec in desired.backends.items() if tag in (None, name)})


def traffic_of(desired: Desired, name: str) -> TrafficView:
    """All about one endpoint's traffic.

    Raises:
        ValueError: there is no such endpoint.
    """
    endpoint = find_endpoint(desired, name)
    return TrafficView(endpoint, desired.pins.get(name, Pins()), desired.histories.get(name, TrafficHistory()))


def _backend_view(controller: Controller, spec: BackendSpec) -> BackendView:
    replicas = controller.observed.of(spec.tag)
    serving = [r for r in replicas if r.phase is Phase.READY and r.sick is None and not r.killed]
    ready = sum(r.version == spec.version for r in serving)
    failures = controller.observed.failures.get(spec.tag)
    if failures is not None and failures.rolled_back:
        state = "DEPLOY_FAILED"
    elif failures is not None and failures.count and ready < spec.config.num_replicas:
        state = "UNHEALTHY"
    elif ready == len(replicas) == spec.config.num_replicas:
        state = "RUNNING"
    else:
        state = "UPDATING"
    failure = None
    if failures is not None and state in ("DEPLOY_FAILED", "UNHEALTHY"):
        text = f"{failures.error}: {failures.text}" if failures.error else failures.text
        failure = FailureView(failures.reason, cut(text), cut(failures.traceback), failures.count)
    return BackendView(
        spec=_small(spec),
        state=state,
        ready=ready,
        failure=failure,
        pythons=_pythons(spec, controller.desired.fallbacks.get(spec.tag)),
        replicas=tuple(_replica_view(replica) for replica in replicas),
    )


def _small(spec: BackendSpec) -> BackendSpec:
    """A backend's specification without what nobody reads in a status: hundreds of them must fit one message."""
    environment = spec.origin.environment
    if environment is not None:
        environment = msgspec.structs.replace(environment, variables={}, unset=(), path=())
    return msgspec.structs.replace(
        spec,
        origin=msgspec.structs.replace(spec.origin, sys_path=(), environment=environment),
        config=msgspec.structs.replace(spec.config, user_config=None),
        resources=Resources(),
    )


def _replica_view(replica: Replica) -> ReplicaView:
    phase = Phase.STOPPING if replica.killed else replica.phase
    return ReplicaView(replica.tag, replica.pid, phase.name, replica.allocation.gpus, replica.pulse.remark)


def _pythons(spec: BackendSpec, fallback: Fallback | None) -> tuple[str, ...]:
    specs = [spec, *([fallback.spec] if fallback is not None and fallback.spec is not None else [])]
    return tuple(one.origin.environment.python for one in specs if one.origin.environment is not None)
