"""Which waiting items go together, and when. Pure: the time is an argument.

A batch is due when it is full, or when its first item has waited long enough by the rule: the clock starts at the first
item, not when the replica becomes free. Items of different keys (methods, buckets) never share a batch. Copies of calls
never share one with calls either, and go when no batch of calls is due.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

from pointsman.replica.batchrule import BatchRule

T = TypeVar("T")


class BatcherStatistics(NamedTuple):
    waiting: int
    keys: int


class Batcher(Generic[T]):
    """Waiting items, in arrival order per key.

    Args:
        rule: says how large a batch may be and when it is due.
    """

    def __init__(self, rule: BatchRule) -> None:
        self.rule = rule
        self._groups: dict[tuple[bool, Hashable], deque[tuple[float, T]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, item: T, *, key: Hashable, now: float, copy: bool = False) -> None:
        group = self._groups.get((copy, key))
        if group is None:
            group = self._groups[copy, key] = deque()
        group.append((now, item))
        self.rule.arrived(now)
        self._count += 1

    def remove(self, item: T, *, key: Hashable, copy: bool = False) -> bool:
        """Take an item out unseen; False when it is not waiting (any more)."""
        group = self._groups.get((copy, key))
        for position, entry in enumerate(group or ()):
            if entry[1] is item:
                assert group is not None
                del group[position]
                self._count -= 1
                if not group:
                    del self._groups[copy, key]
                return True
        return False

    def due_at(self) -> float | None:
        """When the next batch is due: in the past when one is due already, None when nothing waits."""
        if not self._count:
            return None
        return min(self._due_at(group) for group in self._groups.values())

    def take(self, now: float) -> list[T]:
        """The due batch whose first item is oldest, or an empty list when none is due."""
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
        """Raise AssertionError when the batcher contradicts itself."""
        assert self._count == sum(map(len, self._groups.values())), "count differs from the groups"
        assert all(self._groups.values()), "an empty group was kept"

    def _due_at(self, group: deque[tuple[float, T]]) -> float:
        return self.rule.due_at(first=group[0][0], last=group[-1][0], count=len(group))
