"""What replicas are launched with (number, tag, keys, environment), and the messages sent to them (what to run, the
configuration, when to drain and stop).
"""

from __future__ import annotations

import os
import secrets
import string
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from pointsman.controller import reconcile
from pointsman.controller.allocation import visible_devices
from pointsman.controller.observed import LaunchMetadata
from pointsman.controller.replicas import Replica
from pointsman.controller.store.base import DurableState
from pointsman.engine.orders import LaunchOrder
from pointsman.engine.process import pack_handover
from pointsman.model import Allocation, BackendSpec, ReplicaConfig, RoutingTable
from pointsman.wire.auth import ROLE_GRANT, ROLE_REPLICA, ROLE_ROUTER, derive_key
from pointsman.wire.frames import Kind
from pointsman.wire.handover import ControllerHandover, ReplicaHandover
from pointsman.wire.messages import Assignment, ConfigureHead, DrainHead, pack
from pointsman.wire.stream import Stream
from pointsman.wire.tables import TableChange


@dataclass(frozen=True, eq=False)
class Subscription:
    """A process that receives routing tables.

    Attributes:
        number: of its router, as in ``Observed.confirmed``.
        ingress: whether it is an ingress.
    """

    number: int
    stream: Stream
    ingress: bool
    pid: int


class Peers(Protocol):
    """The connections to replicas and routers, as the controller uses them. Implemented by ``connections``, and by the
    fakes of ``pointsman.testing``. A message to a process that is not connected is dropped."""

    def send_to_replica(self, number: int, kind: Kind, head: bytes, body: bytes = b"") -> None: ...

    def request_health(self, number: int) -> None: ...

    def publish(self, table: RoutingTable, change: TableChange | None) -> None: ...

    def ingress_routers(self) -> frozenset[int]: ...

    def send_to_ingresses(self, kind: Kind, head: bytes = b"") -> None: ...


class ReplicaOrders:
    """Sends orders to replicas, which answer with reports.

    Args:
        peers: connections to replicas.
        durable: stores the code.
    """

    def __init__(self, peers: Peers, durable: DurableState) -> None:
        self._peers = peers
        self._durable = durable

    async def assign(self, replica: Replica, spec: BackendSpec) -> None:
        """Send the code to run, with its configuration.

        Raises:
            StoreError: the code cannot be read.
        """
        blob = await self._durable.code(spec.code)
        replica.sent_version = spec.config_version
        config, user_config = _apart(spec)
        assignment = Assignment(
            backend=spec.tag,
            tag=replica.tag,
            traits=msgspec.structs.replace(spec.traits, api=b""),
            config=config,
            config_version=spec.config_version,
            origin=spec.origin,
            start_reason=replica.start_reason,
            code_size=len(blob),
        )
        self._peers.send_to_replica(replica.number, Kind.ASSIGN, pack(assignment), blob + user_config)

    def configure(self, replica: Replica, spec: BackendSpec, *, others: bool) -> None:
        """Send the newest configuration. With ``others``, other replicas take the calls that wait here meanwhile."""
        replica.sent_version = spec.config_version
        config, user_config = _apart(spec)
        head = ConfigureHead(config, spec.config_version, spec.config.drain_timeout_s, others)
        self._peers.send_to_replica(replica.number, Kind.CONFIGURE, pack(head), user_config)

    def stop(self, replica: Replica) -> None:
        """Order the process to exit."""
        self._peers.send_to_replica(replica.number, Kind.STOP, b"")

    def drain(self, replica: Replica) -> None:
        """Order the replica to refuse new calls and finish running ones."""
        limit_s = None if replica.patient else replica.drain_timeout_s
        self._peers.send_to_replica(replica.number, Kind.DRAIN, pack(DrainHead(limit_s)))


def _apart(spec: BackendSpec) -> tuple[ReplicaConfig, bytes]:
    """The configuration, and its ``user_config`` apart: it may be larger than a frame's head can be."""
    config = spec.config.for_replica()
    return msgspec.structs.replace(config, user_config=None), config.user_config or b""


NUMBERS_PER_EPOCH = 1_000_000
THREADS_VARIABLE = "OMP_NUM_THREADS"
DEVICES_VARIABLE = "CUDA_VISIBLE_DEVICES"


class Launcher:
    """Makes launch orders.

    Args:
        handover: start arguments of this controller.
        epoch: number of this controller in the instance's life. Replica numbers begin at its multiple, so that those
            of different controllers differ.
        environ: the instance's environment, as of ``start``.
    """

    def __init__(self, handover: ControllerHandover, *, epoch: int, environ: Mapping[str, str] = os.environ) -> None:
        self._handover = handover
        self._environ = environ
        self._next = epoch * NUMBERS_PER_EPOCH

    def order(
        self, action: reconcile.Launch, *, now: float, tags: Collection[str], reason: str
    ) -> tuple[Replica, LaunchOrder]:
        """Create a replica for ``action``, with a tag that is not in ``tags``, and the order to start its process."""
        spec, share = action.spec, _share(action.allocation)
        self._next += 1
        number = self._next
        tag = _new_tag(spec.tag, tags)
        replica = Replica(
            number=number,
            tag=tag,
            backend=spec.tag,
            version=spec.version,
            allocation=share,
            since=now,
            start_reason=reason,
            drain_confirm_s=spec.config.drain_confirm_s,
            drain_timeout_s=spec.config.drain_timeout_s,
            has_close=spec.traits.has_close,
        )
        settings = self._handover.settings
        handover = ReplicaHandover(
            instance=settings.instance,
            number=number,
            control_path=self._handover.control_path,
            control_key=derive_key(settings.master_key, ROLE_REPLICA, str(number)),
            # Paths of sockets are built from numbers, never from names that users choose.
            address=str(Path(self._handover.folder) / "r" / str(number)),
            data_key=self.data_key(number),
            grant=derive_key(settings.master_key, ROLE_GRANT, str(number)) if settings.client_in_replicas else b"",
            request_timeout_s=settings.request_timeout_s,
            log_format=settings.log_format,
            quiet_starts=settings.quiet_starts,
        )
        metadata = LaunchMetadata(spec.tag, spec.version, tag, share, reason, spec.traits.has_close)
        order = LaunchOrder(
            number=number,
            label=tag,
            env=self._variables(action),
            handover=pack_handover(handover),
            metadata=pack(metadata),
            environment=spec.origin.environment,
            allocation=share,
            own_env=spec.resources.env_vars,
        )
        return replica, order

    def data_key(self, number: int) -> bytes:
        """The key that routers must prove to this replica."""
        return derive_key(self._handover.settings.master_key, ROLE_ROUTER, str(number))

    def _variables(self, action: reconcile.Launch) -> dict[str, str]:
        variables: dict[str, str] = {}
        environment = action.spec.origin.environment
        if THREADS_VARIABLE not in (environment.over(self._environ) if environment else self._environ):
            variables[THREADS_VARIABLE] = str(max(1, int(action.spec.resources.num_cpus)))
        if not action.allocation.node:  # Ray sets this variable itself
            variables[DEVICES_VARIABLE] = visible_devices(action.allocation, self._handover.capacity)
        return variables


def _share(allocation: Allocation) -> Allocation:
    """The allocation without the settings of the process: the metadata of all replicas is sent in one message, which
    must stay small."""
    amounts = msgspec.structs.replace(allocation.resources, env_vars={}, working_dir="", py_modules=())
    return msgspec.structs.replace(allocation, resources=amounts)


def _new_tag(backend: str, tags: Collection[str]) -> str:
    while True:
        tag = f"{backend}#{''.join(secrets.choice(string.ascii_letters) for _ in range(6))}"
        if tag not in tags:
            return tag
