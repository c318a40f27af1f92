"""Which waiting items form a batch, and when. Pure: the time is an argument.

:class:`Batcher` holds the items. A batch is due when it is full, or when its first item has waited long enough: the
clock starts at the first item, not when the replica becomes free. Items of different keys (methods, buckets) never
share a batch. Nor do mirrored calls and users' calls; mirrored ones run when no batch of users' calls is due.

:class:`BatchRule` decides how large a batch may be, and how long its first item waits for others: by fixed values, or
learned (decision 0013). With a latency target it learns the rate of arrivals, the cost ``a`` of a batch and the cost
``b`` of each item in it. From these follow

- the size: an item that arrives just after a batch has started waits for that batch and then runs in the next one, so
  two full batches must fit into the target. But the size is never less than what keeps up with the arrivals, since a
  growing queue meets no target.
- the wait: one more item saves a batch of its own, ``a`` seconds of work, and costs each waiting item the time until it
  arrives. So a batch waits while it has fewer than ``a / gap`` items, and never beyond its target.

Cost is fitted as in BentoML's dispatcher: a straight line over batch sizes, with exponential forgetting. The share of
the target that is planned with is found by additive increase and multiplicative decrease, as in D. Crankshaw et al.,
"Clipper: a low-latency online prediction serving system", NSDI 2017.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

FORGETTING = 0.95
"""Weight of earlier batches at each new one: about the last twenty count."""
ENOUGH_BATCHES = 8
LEAST_SPREAD = 0.05
"""Least variance of batch sizes from which the cost of an item can be fitted."""
OUTLIER = 3.0
"""A batch counts at most this many times its expected duration: a pause of the process is not its cost."""
ARRIVAL_WEIGHT = 0.1
"""Weight of a new gap between arrivals in their moving average."""
BUSY = 0.8
"""Planned utilization of a replica; the remainder absorbs bursts."""
FIRST_AIM, LEAST_AIM, MOST_AIM = 0.8, 0.2, 0.95
"""Share of the target that is planned with: first value and bounds."""
AIM_STEP, AIM_CUT = 0.001, 0.9
"""In equilibrium one batch in a hundred is late: a hundred steps up make up for one cut."""


class BatchCost:
    """Fits ``a + b * size`` to the durations of batches. Ignores the first batch, since first calls are slow."""

    def __init__(self) -> None:
        self.per_batch_s = 0.0
        self.per_item_s = 0.0
        self.known = False
        self._seen = -1
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def learn(self, size: int, seconds: float) -> None:
        self._seen += 1
        if self._seen == 0:
            return
        if self.known:
            seconds = min(seconds, OUTLIER * self.of(size))
        self._weight = FORGETTING * self._weight + 1
        self._x = FORGETTING * self._x + size
        self._y = FORGETTING * self._y + seconds
        self._xx = FORGETTING * self._xx + size * size
        self._xy = FORGETTING * self._xy + size * seconds
        mean_x, mean_y = self._x / self._weight, self._y / self._weight
        spread = self._xx / self._weight - mean_x * mean_x
        if spread > LEAST_SPREAD:  # otherwise the last fitted cost of an item is kept
            slope = (self._xy / self._weight - mean_x * mean_y) / spread
            self.per_item_s = min(max(slope, 0.0), mean_y / mean_x)
            self.known = self._seen >= ENOUGH_BATCHES
        self.per_batch_s = max(mean_y - self.per_item_s * mean_x, 0.0)

    def of(self, size: int) -> float:
        """Expected duration of a batch of this size, in seconds."""
        return self.per_batch_s + self.per_item_s * size


class BatchRule:
    """The batching rule of one replica.

    Args:
        max_size: most items in a batch.
        wait_s: seconds that a first item waits for others: without a target, or before the cost is known.
        target_s: seconds within which 99 of 100 items shall be done, waiting included; None for fixed values.
    """

    def __init__(self, *, max_size: int = 1, wait_s: float = 0.0, target_s: float | None = None) -> None:
        self.cost = BatchCost()
        self._aim = FIRST_AIM
        self._gap_s: float | None = None
        self._last_arrival: float | None = None
        self.configure(max_size=max_size, wait_s=wait_s, target_s=target_s)

    def configure(self, *, max_size: int, wait_s: float, target_s: float | None = None) -> None:
        """Take new values for the next batch. What was learned is kept."""
        self.max_size = max_size
        self.wait_s = wait_s
        self.target_s = target_s

    @property
    def adapts(self) -> bool:
        return self.target_s is not None and self.cost.known

    # The thread of sync code asks while the loop may configure: each method reads the target once.

    def arrived(self, now: float) -> None:
        """Record the arrival of an item."""
        target_s = self.target_s
        if target_s is None:
            return
        if self._last_arrival is not None:
            # Bounded by the target: an idle night says nothing about the rate of arrivals in the morning.
            gap = min(now - self._last_arrival, target_s)
            self._gap_s = gap if self._gap_s is None else self._gap_s + ARRIVAL_WEIGHT * (gap - self._gap_s)
        self._last_arrival = now

    def learn(self, size: int, *, began: float, ended: float, oldest: float) -> None:
        """Record a batch that has run.

        Args:
            size: its number of items.
            began, ended: when user code began and ended.
            oldest: when its first item arrived.
        """
        target_s = self.target_s
        if target_s is None:
            return
        self.cost.learn(size, ended - began)
        if self.cost.known:
            late = ended - oldest > target_s
            self._aim = max(LEAST_AIM, self._aim * AIM_CUT) if late else min(MOST_AIM, self._aim + AIM_STEP)

    def size(self, waited_s: float) -> int:
        """Most items in a batch whose first item has waited ``waited_s`` seconds."""
        target_s = self.target_s
        if target_s is None or not self.cost.known or self.max_size == 1:
            return self.max_size
        if waited_s > target_s:
            return self.max_size  # the target is missed already, so only throughput counts
        budget_s = self._aim * target_s / 2 - self.cost.per_batch_s
        for_target = budget_s / self.cost.per_item_s if self.cost.per_item_s else float("inf")
        return max(1, int(min(max(for_target, self._to_keep_up()), self.max_size)))

    def _to_keep_up(self) -> float:
        """Batch size with which a replica of utilization ``BUSY`` keeps up with the arrivals."""
        gap_s = self._gap_s
        if not gap_s:
            return float("inf")
        spare = BUSY - self.cost.per_item_s / gap_s
        return self.cost.per_batch_s / gap_s / spare + 1 if spare > 0 else float("inf")

    def due_at(self, *, first: float, last: float, count: int) -> float:
        """When a batch is due whose first and last items arrived at these times."""
        target_s = self.target_s
        if target_s is None or not self.cost.known:
            return first if count >= self.max_size else first + self.wait_s
        gap_s = target_s if self._gap_s is None else self._gap_s
        if count >= self.size(0.0) or count * gap_s >= self.cost.per_batch_s:
            return first
        slack_s = max(0.0, self._aim * target_s - self.cost.of(count + 1))
        return min(first + slack_s, last + 2 * gap_s)


T = TypeVar("T")


class BatcherStatistics(NamedTuple):
    waiting: int
    keys: int


class Batcher(Generic[T]):
    """Waiting items, in arrival order per key.

    Args:
        rule: decides how large a batch may be and when it is due.
    """

    def __init__(self, rule: BatchRule) -> None:
        self.rule = rule
        self._groups: dict[tuple[bool, Hashable], deque[tuple[float, T]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, item: T, *, key: Hashable, now: float, mirrored: bool = False) -> None:
        group = self._groups.get((mirrored, key))
        if group is None:
            group = self._groups[mirrored, key] = deque()
        group.append((now, item))
        self.rule.arrived(now)
        self._count += 1

    def remove(self, item: T, *, key: Hashable, mirrored: bool = False) -> bool:
        """Remove a waiting item; False if it is not waiting (any more)."""
        group = self._groups.get((mirrored, key))
        for position, entry in enumerate(group or ()):
            if entry[1] is item:
                assert group is not None
                del group[position]
                self._count -= 1
                if not group:
                    del self._groups[mirrored, key]
                return True
        return False

    def due_at(self) -> float | None:
        """When the next batch is due, which may be in the past; None if no item waits."""
        if not self._count:
            return None
        return min(self._due_at(group) for group in self._groups.values())

    def take(self, now: float) -> list[T]:
        """Remove and return the due batch whose first item is oldest, users' calls first. Empty if none is due."""
        due = [(key[0], group[0][0], key) for key, group in self._groups.items() if self._due_at(group) <= now]
        if not due:
            return []
        key = min(due, key=lambda entry: entry[:2])[2]
        group = self._groups[key]
        size = self.rule.size(now - group[0][0])
        batch = [group.popleft()[1] for _ in range(min(size, len(group)))]
        self._count -= len(batch)
        if not group:
            del self._groups[key]
        return batch

    def statistics(self) -> BatcherStatistics:
        return BatcherStatistics(waiting=self._count, keys=len(self._groups))

    def validate(self) -> None:
        """Raise AssertionError if the batcher's state is inconsistent. Called by tests."""
        assert self._count == sum(map(len, self._groups.values())), "count differs from the groups"
        assert all(self._groups.values()), "an empty group was kept"

    def _due_at(self, group: deque[tuple[float, T]]) -> float:
        return self.rule.due_at(first=group[0][0], last=group[-1][0], count=len(group))
