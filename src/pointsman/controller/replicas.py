"""Replicas as the controller knows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType

from pointsman.controller.allocation import CapacityLedger
from pointsman.model import Allocation, Capacity, Reason
from pointsman.wire.messages import SERVED_S, HealthAnswer


class Phase(IntEnum):
    """The phases of a replica's life, in order; see :mod:`~pointsman.controller.reconcile`."""

    LAUNCHED = 0
    STARTING = 1
    READY = 2
    LEAVING = 3
    DRAINING = 4
    STOPPING = 5


@dataclass(frozen=True)
class Unhealthy:
    """Why a serving replica must be replaced. With ``kill`` it ends at once, otherwise it drains first."""

    reason: Reason
    text: str
    error: str = ""
    traceback: str = ""
    kill: bool = True


@dataclass
class LastHealth:
    """The last answer of a replica's health thread.

    Attributes:
        answered_at: time of that answer; until there is one, when the replica got ready.
        next_request_at: when the thread is asked next.
        warning: what is unusual, for the status; not yet a reason to replace the replica.
    """

    answered_at: float = 0.0
    next_request_at: float = 0.0
    answer: HealthAnswer | None = None
    warning: str = ""


@dataclass
class Replica:
    """What the controller knows of one replica.

    Attributes:
        since: when ``phase`` began.
        node, address, tcp: where it listens, as in a ``ReplicaRef``; empty until it has reported.
        config_version: the configuration that it has applied.
        sent_version: the configuration that it was last sent.
        left_at: version of the first routing table without it; 0 until that is published.
        adopted: launched by an earlier controller, and has not reported to this one.
        served: it has reported that it has answered a call, or that it was ready for a while before this controller
            knew it.
        killed: the engine was ordered to kill it.
        start_reason: ``initial``, ``scale``, ``failure`` or ``update``.
        drain_confirm_s, drain_timeout_s: the drain limits of its backend, kept for when that is deleted.
        has_close: whether its user code has a ``close`` method, which may take the drain limit once more.
        launched_at: when it was launched, or adopted.
        inherited: launched by an earlier controller, so that nobody knows how long its start took.
        patient: it leaves since fewer are needed, so that its calls and streams have as long as they take.
    """

    number: int
    tag: str
    backend: str
    version: int
    allocation: Allocation
    since: float
    phase: Phase = Phase.LAUNCHED
    pid: int = 0
    node: str = ""
    address: str = ""
    tcp: str = ""
    config_version: int = 0
    sent_version: int = 0
    left_at: int = 0
    adopted: bool = False
    served: bool = False
    killed: bool = False
    health: LastHealth = field(default_factory=LastHealth)
    unhealthy: Unhealthy | None = None
    start_reason: str = "initial"
    drain_confirm_s: float = 2.0
    drain_timeout_s: float = 20.0
    has_close: bool = False
    patient: bool = False
    inherited: bool = False
    launched_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.launched_at = self.since

    @property
    def is_current(self) -> bool:
        """True if it serves or is on its way to, and need not be replaced."""
        return self.phase <= Phase.READY and self.unhealthy is None

    @property
    def load(self) -> int:
        """The number of calls in it, as of its last health answer."""
        return self.health.answer.load if self.health.answer is not None else 0

    @property
    def models(self) -> tuple[int, ...]:
        """What stands for the models that it holds, as of its last health answer."""
        return self.health.answer.models if self.health.answer is not None else ()

    def has_served(self, now: float) -> bool:
        """True if its end counts as a loss, False if it counts as a failed start. An adopted replica that has not
        reported may have served, so its end counts as a loss."""
        return self.adopted or self.served or (self.phase >= Phase.READY and now >= self.since + SERVED_S)

    def enter(self, phase: Phase, now: float) -> None:
        """Enter a later phase. An earlier one is ignored: reports may be repeated."""
        if phase > self.phase:
            self.phase, self.since = phase, now


class Replicas(dict[int, Replica]):
    """Replicas by number, those of each backend, and what they leave free. What a replica holds never changes."""

    def __init__(self, replicas: Mapping[int, Replica] = MappingProxyType({})) -> None:
        super().__init__()
        self._by_backend: dict[str, dict[int, Replica]] = {}
        self._adopted: set[int] = set()
        self._ledger: CapacityLedger | None = None
        for number, replica in replicas.items():
            self[number] = replica

    def __setitem__(self, number: int, replica: Replica) -> None:
        self.pop(number)
        super().__setitem__(number, replica)
        self._by_backend.setdefault(replica.backend, {})[number] = replica
        if replica.adopted:
            self._adopted.add(number)
        if self._ledger is not None:
            self._ledger.take(replica.allocation)

    def pop(self, number: int, default: None = None) -> Replica | None:  # type: ignore[override]  # the only way out
        replica = super().pop(number, None)
        if replica is not None:
            mine = self._by_backend[replica.backend]
            del mine[number]
            if not mine:
                del self._by_backend[replica.backend]
            if self._ledger is not None:
                self._ledger.give_back(replica.allocation)
        return replica

    def of(self, backend: str) -> list[Replica]:
        """The replicas of a backend."""
        return list(self._by_backend.get(backend, {}).values())

    def backends(self) -> list[str]:
        """All backends that have replicas."""
        return list(self._by_backend)

    def ledger(self, capacity: Capacity) -> CapacityLedger:
        """What is free: the same ledger for as long as the capacity is the same. Who takes of it must give it back."""
        if self._ledger is None or self._ledger.capacity is not capacity:
            self._ledger = CapacityLedger(capacity, (replica.allocation for replica in self.values()))
        return self._ledger

    def some_adopted(self) -> bool:
        """Whether there is one that was launched by an earlier controller and has not reported to this one."""
        self._adopted = {number for number in self._adopted if number in self and self[number].adopted}
        return bool(self._adopted)


def victims(replicas: list[Replica], count: int) -> list[Replica]:
    """The replicas to remove: those still starting first, then those all of whose models others hold, or that hold the
    fewest which no other has; then the least busy, then the newest."""
    if count <= 0:
        return []
    left = list(replicas)
    chosen: list[Replica] = []
    held = Counter(model for replica in left for model in replica.models)
    while left and len(chosen) < count:
        worst = min(left, key=lambda r: (r.phase is Phase.READY, _alone(r, held), r.load, -r.number))
        left.remove(worst)
        held.subtract(worst.models)
        chosen.append(worst)
    return chosen


def _alone(replica: Replica, held: Counter[int]) -> int:
    """How many models only this replica holds."""
    return sum(held[model] == 1 for model in replica.models)
