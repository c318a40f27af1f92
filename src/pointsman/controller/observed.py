"""What is there, as events have told: replicas, what went wrong, what routers know. No I/O.

The controller's shell and ``controller.events`` change it; :mod:`~pointsman.controller.reconcile` only reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from pointsman.controller.failures import Failures
from pointsman.model import Allocation, Capacity, Reason
from pointsman.wire.messages import SERVED_S, HealthAnswer


class Phase(IntEnum):
    """Where a replica is in its life."""

    LAUNCHED = 0
    STARTING = 1
    READY = 2
    LEAVING = 3
    DRAINING = 4
    STOPPING = 5


@dataclass(frozen=True)
class Sickness:
    """Why a serving replica has to be replaced. With ``kill`` at once, otherwise it may finish what it runs."""

    reason: Reason
    text: str
    error: str = ""
    traceback: str = ""
    kill: bool = True


@dataclass
class Pulse:
    """What a replica's health thread has told."""

    heard_at: float = 0.0
    """When it answered last; the beginning of its service until then."""
    ask_at: float = 0.0
    answer: HealthAnswer | None = None
    remark: str = ""
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
    told_version: int = 0
    """The configuration that it was last told to apply."""
    left_at: int = 0
    """Version of the first routing table without it; 0 until that is published."""
    adopted: bool = False
    """Launched by an earlier controller, and not heard of yet by this one."""
    served: bool = False
    """It has said that it has answered a call, or that it was ready for a while before this controller knew it."""
    killed: bool = False
    pulse: Pulse = field(default_factory=Pulse)
    sick: Sickness | None = None
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
        return self.phase <= Phase.READY and self.sick is None

    @property
    def load(self) -> int:
        """Calls in it when it was asked last."""
        return self.pulse.answer.load if self.pulse.answer is not None else 0

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
