"""What the controller tells replicas: what to run, with which configuration, and when to finish."""

from __future__ import annotations

from typing import Protocol

import msgspec

from pointsman.controller.durable import DurableState
from pointsman.controller.observed import Replica
from pointsman.model import BackendSpec, ReplicaConfig
from pointsman.wire.frames import Kind
from pointsman.wire.messages import Assignment, ConfigureHead, DrainHead, pack


class Tells(Protocol):
    """The connections to replicas."""

    def tell_replica(self, number: int, kind: Kind, head: bytes, body: bytes = b"") -> None: ...


class ReplicaOrders:
    """Sends orders; what comes of them is reported.

    Args:
        tells: how to reach replicas.
        durable: has the code.
    """

    def __init__(self, tells: Tells, durable: DurableState) -> None:
        self._tells = tells
        self._durable = durable

    async def assign(self, replica: Replica, spec: BackendSpec) -> None:
        """Say what to run.

        Raises:
            StoreError: the code cannot be read.
        """
        blob = await self._durable.code(spec.code)
        replica.told_version = spec.config_version
        config, user_config = _apart(spec)
        assignment = Assignment(
            backend=spec.tag,
            tag=replica.tag,
            traits=spec.traits,
            config=config,
            config_version=spec.config_version,
            origin=spec.origin,
            start_reason=replica.start_reason,
            code_size=len(blob),
        )
        self._tells.tell_replica(replica.number, Kind.ASSIGN, pack(assignment), blob + user_config)

    def configure(self, replica: Replica, spec: BackendSpec, *, others: bool) -> None:
        """Give a running replica its backend's newest configuration; ``others`` take its calls meanwhile, or nobody."""
        replica.told_version = spec.config_version
        config, user_config = _apart(spec)
        head = ConfigureHead(config, spec.config_version, spec.config.drain_timeout_s, others)
        self._tells.tell_replica(replica.number, Kind.CONFIGURE, pack(head), user_config)

    def drain(self, replica: Replica) -> None:
        """Have it refuse what is new and finish what runs."""
        self._tells.tell_replica(replica.number, Kind.DRAIN, pack(DrainHead(replica.drain_timeout_s)))


def _apart(spec: BackendSpec) -> tuple[ReplicaConfig, bytes]:
    """What replicas act on, and its ``user_config`` by itself, which may be large."""
    config = spec.config.for_replica()
    return msgspec.structs.replace(config, user_config=None), config.user_config or b""
