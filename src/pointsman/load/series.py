"""Figures over time, in few enough slots to draw. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pointsman.load.tally import Sample

MOST_SLOTS = 240
BLOCKS = " ▁▂▃▄▅▆▇█"
P99_CELL = "░"


class Slot(NamedTuple):
    """A piece of the run: the highest p50 and p99 in it, in milliseconds, and how many requests failed."""

    p50_ms: float
    p99_ms: float
    failed: int


class Series:
    """Samples as slots of equal length. When there are too many, two become one."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self._each = 1
        self._open: list[Slot] = []

    def add(self, sample: Sample) -> None:
        """Take one more."""
        self._open.append(Slot(sample.p50_ms or 0.0, sample.p99_ms or 0.0, sample.ended - sample.ok))
        if len(self._open) < self._each:
            return
        self.slots.append(merged(self._open))
        self._open = []
        if len(self.slots) >= MOST_SLOTS:
            self.slots = [merged(self.slots[at : at + 2]) for at in range(0, len(self.slots), 2)]
            self._each *= 2

    def all(self) -> list[Slot]:
        """The slots so far, the last one perhaps shorter."""
        return self.slots + ([merged(self._open)] if self._open else [])


def merged(slots: Sequence[Slot]) -> Slot:
    """Several slots as one."""
    p50_ms, p99_ms = max(slot.p50_ms for slot in slots), max(slot.p99_ms for slot in slots)
    return Slot(p50_ms, p99_ms, sum(slot.failed for slot in slots))


def fitted(slots: Sequence[Slot], columns: int) -> list[Slot]:
    """At most so many slots, each of as many as are needed for that."""
    each = max(1, -(-len(slots) // columns))
    return [merged(slots[at : at + each]) for at in range(0, len(slots), each)]


def plot(slots: Sequence[Slot], *, columns: int, rows: int, expected: int = 0) -> tuple[list[str], str, float]:
    """Latency over time in characters.

    A column is a piece of time: solid up to its p50, to an eighth of a character, and shaded up to its p99.

    Args:
        expected: slots that there will be, for which room is left.

    Returns:
        The rows from the top, a row with ``!`` where requests failed, and the value in milliseconds at the upper edge.
    """
    shown = fitted(slots, columns)
    each = max(1, columns // max(expected, len(shown), 1))
    top = max((slot.p99_ms for slot in shown), default=0.0)
    lines = []
    for row in range(rows - 1, -1, -1):
        lines.append("".join(each * _cell(slot, row, rows, top) for slot in shown))
    return lines, "".join(each * ("!" if slot.failed else " ") for slot in shown), top


def _cell(slot: Slot, row: int, rows: int, top: float) -> str:
    if not slot.p99_ms:
        return " "
    solid = min(8, max(0, round(8 * (slot.p50_ms / top * rows - row))))
    if row == 0:
        return BLOCKS[max(1, solid)]  # a latency that is too small to show is still there
    return BLOCKS[solid] if solid else P99_CELL if slot.p99_ms / top * rows - row >= 0.5 else " "
