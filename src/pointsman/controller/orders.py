"""What the controller tells replicas: what to run, with which configuration, and when to finish."""

from __future__ import annotations

from typing import Protocol

from pointsman.controller.durable import DurableState
from pointsman.controller.launch import Launcher
from pointsman.controller.observed import Replica
from pointsman.model import BackendSpec
from pointsman.wire.frames import Kind
from pointsman.wire.messages import ConfigureHead, DrainHead, pack


class Tells(Protocol):
    """The connections to replicas."""

    def tell_replica(self, number: int, kind: Kind, head: bytes, body: bytes = b"") -> None: ...


class ReplicaOrders:
    """Sends orders; what comes of them is reported.

    Args:
        tells: how to reach replicas.
        launcher: makes assignments.
        durable: has the code.
    """

    def __init__(self, tells: Tells, launcher: Launcher, durable: DurableState) -> None:
        self._tells = tells
        self._launcher = launcher
        self._durable = durable

    async def assign(self, replica: Replica, spec: BackendSpec) -> None:
        """Say what to run.

        Raises:
            StoreError: the code cannot be read.
        """
        blob = await self._durable.code(spec.code)
        replica.told_version = spec.config_version
        self._tells.tell_replica(
            replica.number,
            Kind.CONFIGURE,
            pack(self._launcher.assignment(spec, replica.tag, replica.start_reason)),
            blob,
        )

    def configure(self, replica: Replica, spec: BackendSpec, *, others: bool) -> None:
        """Give a running replica its backend's newest configuration; ``others`` take its calls meanwhile, or nobody."""
        replica.told_version = spec.config_version
        head = ConfigureHead(spec.config.for_replica(), spec.config_version, spec.config.drain_timeout_s, others)
        self._tells.tell_replica(replica.number, Kind.CONFIGURE, pack(head))

    def drain(self, replica: Replica) -> None:
        """Have it refuse what is new and finish what runs."""
        self._tells.tell_replica(replica.number, Kind.DRAIN, pack(DrainHead(replica.drain_timeout_s)))
