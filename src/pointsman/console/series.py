"""How numbers have gone: the last five minutes by second, and the last day by five minutes. Pure.

A row has the values of all that was busy at one time: the numbers of the objects in order, and of each the values as 16
bits of their logarithm, 0.05 % apart. What was idle takes no room: a thousand busy endpoints take 7 MB.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from math import exp, log
from typing import NamedTuple

from pointsman.console.samples import p50_p99_s, shown
from pointsman.model.evidence import Tally

SECOND_S, SECONDS = 1, 300
SLOT_S, SLOTS = 300, 288
"""Of the series by second and of that of a day: the length of a step, and how many there are."""

Value = float | None
_LEAST = 1e-4
_STEP = log(1e13) / 65_533


def packed(value: Value) -> int:
    """A value that is not negative, in 16 bits."""
    if value is None:
        return 0
    if value < _LEAST:
        return 1
    return min(2 + round(log(value / _LEAST) / _STEP), 65_535)


def unpacked(code: int) -> Value:
    """The value, with three digits."""
    if code < 2:
        return None if code == 0 else 0
    return shown(_LEAST * exp((code - 2) * _STEP))


class Row(NamedTuple):
    """The values at one time. ``step`` counts the steps of the series."""

    step: int
    numbers: array[int]
    values: array[int]


class Rows:
    """The last rows of one series.

    Args:
        steps: how many.
        width: values of each object.
    """

    def __init__(self, steps: int, width: int) -> None:
        self._steps = steps
        self._width = width
        self._rows: deque[Row] = deque()

    def put(self, step: int, values: Mapping[int, Sequence[Value]], *, steps: int = 1) -> None:
        """Add the values at a step that is later than all before, by object, and at so many ``steps`` up to it."""
        numbers = array("I", sorted(values))
        if self._rows and self._rows[-1].numbers == numbers:
            numbers = self._rows[-1].numbers  # the same are busy: kept once
        codes = array("H", [packed(v) for number in numbers for v in values[number]])
        self._rows.extend(Row(at, numbers, codes) for at in range(step - steps + 1, step + 1))
        while self._rows[0].step <= step - self._steps:
            self._rows.popleft()

    def of(self, number: int | None, step: int) -> list[list[Value]]:
        """The values of an object at each step up to this one, oldest first; None for one that was never there."""
        found: list[list[Value]] = [[None] * self._width for _ in range(self._steps)]
        if number is None:
            return found
        first = step - self._steps + 1
        for row in self._rows:
            place = bisect_left(row.numbers, number)
            if first <= row.step <= step and place < len(row.numbers) and row.numbers[place] == number:
                values = row.values[place * self._width : (place + 1) * self._width]
                found[row.step - first] = [unpacked(code) for code in values]
        return found

    def numbers(self) -> Iterator[int]:
        """The objects that are in any row, each as often as it is."""
        for row in self._rows:
            yield from row.numbers


COARSE = 5
"""Buckets of latencies that are one in a day's series, so that its percentiles are at most 5 % off."""


class Moment(NamedTuple):
    """One object in one second.

    Attributes:
        calls: what has come.
        gauges: how things stand; None where there is nothing.
    """

    calls: Tally
    gauges: tuple[Value, ...]


class _Slot:
    """What has come of an object since a slot began."""

    __slots__ = ("errors", "latencies", "requests", "sums", "times")

    def __init__(self, width: int) -> None:
        self.requests = self.errors = 0
        self.latencies: dict[int, int] = {}
        self.sums = [0.0] * width
        self.times = [0] * width

    def add(self, moment: Moment, steps: int) -> None:
        calls, latencies = moment.calls, self.latencies
        self.requests += calls.requests
        self.errors += calls.errors
        for bucket, count in calls.latencies.items():
            latencies[bucket // COARSE] = latencies.get(bucket // COARSE, 0) + count
        for place, value in enumerate(moment.gauges):
            if value is not None:
                self.sums[place] += steps * value
                self.times[place] += steps

    def moment(self) -> Moment:
        latencies = {bucket * COARSE + COARSE // 2: count for bucket, count in self.latencies.items()}
        means = (total / times if times else None for total, times in zip(self.sums, self.times, strict=True))
        return Moment(Tally(self.requests, self.errors, latencies), tuple(means))


class Series:
    """The series of all endpoints, or of all backends.

    Args:
        gauges: names of what they have beside their calls.
    """

    def __init__(self, *gauges: str) -> None:
        self.names = ("per_second", "error_share", "p50_ms", "p99_ms", *gauges)
        self._numbers: dict[str, int] = {}
        self._next = 0
        self._seconds = Rows(SECONDS, len(self.names))
        self._slots = Rows(SLOTS, len(self.names))
        self._slot: dict[str, _Slot] = {}
        self._slot_number = 0
        self._slot_s = 0.0

    def push(self, step: int, seconds: float, moments: Mapping[str, Moment], *, steps: int = 1) -> None:
        """Take what was in the ``steps`` up to this one, which are a second each; some may be left out."""
        if step // SLOT_S != self._slot_number and self._slot_s:
            self._end_slot()
        self._slot_number = step // SLOT_S
        self._slot_s += seconds
        values = {self._number(name): _values(one, seconds) for name, one in moments.items()}
        self._seconds.put(step, values, steps=steps)
        for name, moment in moments.items():
            slot = self._slot.get(name)
            if slot is None:
                slot = self._slot[name] = _Slot(len(moment.gauges))
            slot.add(moment, steps)

    def of(self, name: str, step: int, *, day: bool) -> list[list[Value]]:
        """The values of an object, oldest first; without a value for what is not known.

        Args:
            step: the newest.
            day: the last day by five minutes; else the last five minutes by second.
        """
        number = self._numbers.get(name)
        if not day:
            return self._seconds.of(number, step)
        rows = self._slots.of(number, step // SLOT_S)
        slot = self._slot.get(name)
        if slot is not None and self._slot_number == step // SLOT_S:
            rows[-1] = [unpacked(packed(value)) for value in _values(slot.moment(), self._slot_s)]
        return rows

    def _number(self, name: str) -> int:
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = self._next
            self._next += 1
        return number

    def _end_slot(self) -> None:
        seconds, slots = self._slot_s, self._slot
        self._slot, self._slot_s = {}, 0.0
        self._slots.put(
            self._slot_number, {self._numbers[name]: _values(slot.moment(), seconds) for name, slot in slots.items()}
        )
        if self._slot_number % 12 == 0:  # names that are in no row any more
            known = {*self._seconds.numbers(), *self._slots.numbers()}
            self._numbers = {name: number for name, number in self._numbers.items() if number in known}


def _values(moment: Moment, seconds: float) -> tuple[Value, ...]:
    calls = moment.calls
    p50, p99 = p50_p99_s(calls.latencies)
    return (
        calls.requests / seconds,
        calls.errors / calls.requests if calls.requests else None,
        None if p50 is None else 1000 * p50,
        None if p99 is None else 1000 * p99,
        *moment.gauges,
    )
