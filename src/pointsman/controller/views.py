"""What others see of desired and observed state: the routing table, which is sent when it has changed, and the status
as users may read it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from pointsman.controller.observed import Observed, Phase, Replica
from pointsman.controller.orders import Peers, Subscription
from pointsman.controller.state import Desired, Fallback, find_endpoint
from pointsman.limits import cut
from pointsman.model import (
    BackendRoute,
    BackendSpec,
    Pins,
    ReplicaRef,
    Resources,
    RoutingTable,
    TrafficHistory,
)
from pointsman.wire.commands import BackendList, BackendView, FailureView, IngressView, ReplicaView, Status, TrafficView
from pointsman.wire.handover import InstanceSettings
from pointsman.wire.messages import pack


class Keys(Protocol):
    """What opens replicas."""

    def data_key(self, number: int) -> bytes: ...


def routing_table(desired: Desired, observed: Observed, keys: Keys, *, version: int) -> RoutingTable:
    """All endpoints, and all backends with those replicas that take calls."""
    backends = {}
    for tag, spec in desired.backends.items():
        refs = tuple(
            ReplicaRef(r.number, r.tag, r.address, keys.data_key(r.number), r.node, r.tcp)
            for r in observed.of(tag)
            if r.phase is Phase.READY and not r.killed and r.unhealthy is None
        )
        backends[tag] = BackendRoute(tag, refs, spec.config.query_limit, spec.config.max_queued_queries)
    pins = {name: pack(pins) for name, pins in desired.pins.items()}
    return RoutingTable(version, desired.endpoints, backends, pins)


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
) -> Status:
    """Everything at this moment.

    Args:
        ingresses: those that are connected.
        unsubscribed: those that live, and have not subscribed yet.
        metrics: where they are served, by node.
        queued: calls that wait in routers, by endpoint; None where it is not known.
    """
    confirmed = observed.confirmed
    return Status(
        version=desired.version,
        pid=os.getpid(),
        name=settings.name,
        http_host=settings.http_host,
        http_port=settings.http_port,
        endpoints=desired.endpoints,
        backends={tag: _backend_view(desired, observed, spec) for tag, spec in desired.backends.items()},
        ingresses=(
            *(IngressView(i.pid, confirmed.get(i.number, 0) >= table.version) for i in ingresses),
            *(IngressView(0, False) for _ in unsubscribed),
        ),
        metrics=dict(metrics),
        queued=queued,
        state_dir=settings.state_dir,
        start_options=settings.start_options,
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


def _backend_view(desired: Desired, observed: Observed, spec: BackendSpec) -> BackendView:
    replicas = observed.of(spec.tag)
    serving = [r for r in replicas if r.phase is Phase.READY and r.unhealthy is None and not r.killed]
    ready = sum(r.version == spec.version for r in serving)
    failures = observed.failures.get(spec.tag)
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
        pythons=_pythons(spec, desired.fallbacks.get(spec.tag)),
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
    return ReplicaView(replica.tag, replica.pid, phase.name, replica.allocation.gpus, replica.health.warning)


def _pythons(spec: BackendSpec, fallback: Fallback | None) -> tuple[str, ...]:
    specs = [spec, *([fallback.spec] if fallback is not None and fallback.spec is not None else [])]
    return tuple(one.origin.environment.python for one in specs if one.origin.environment is not None)


class Publisher:
    """See the module.

    Args:
        peers: get each table.
        keys: what opens replicas; goes into the table.
        version: tables have larger ones.

    Attributes:
        table: the newest.
        published: whether there is one yet.
    """

    def __init__(self, peers: Peers, keys: Keys, *, version: int) -> None:
        self._peers = peers
        self._keys = keys
        self.table = RoutingTable(version, {}, {})
        self.published = False

    def publish(self, desired: Desired, observed: Observed, now: float) -> bool:
        """Send the table if it has changed, and note who is not in it any more; True when somebody is so for the first
        time.

        Waits until adopted replicas have reported: a table without them would stop traffic that flows.
        """
        if any(replica.adopted for replica in observed.replicas.values()):
            return False
        table = routing_table(desired, observed, self._keys, version=self.table.version + 1)
        if not self.published or msgspec.structs.replace(table, version=self.table.version) != self.table:
            self.table, self.published = table, True
            self._peers.publish(table)
        gone = [r for r in observed.replicas.values() if r.phase is Phase.LEAVING and not r.left_at]
        for replica in gone:
            replica.left_at, replica.since = self.table.version, now
        return bool(gone)
