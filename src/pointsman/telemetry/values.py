"""Values of one series of a metric, in memory that :mod:`telemetry.writer` has laid out, or of one tally, in that of
:mod:`telemetry.tallies`. Each is written by one thread."""

from __future__ import annotations

from bisect import bisect_left
from math import log, sqrt
from typing import Final

from pointsman.model.evidence import Tally
from pointsman.stats.latency import LONGEST_S, RATIO, SHORTEST_S, bucket_of, upper_edge


class SeriesValues:
    """The values of one series, written by one thread.

    Attributes:
        values, at: the first value is ``values[at]``.
    """

    # hot: code that counts every request writes ``values[at] += 1.0`` itself, since a call of ``Counter.inc`` costs as
    # much again as the addition (decision 0020).

    __slots__ = ("at", "values")

    def __init__(self, values: memoryview[float], at: int) -> None:
        self.values = values
        self.at = at

    def fill(self, numbers: tuple[float, ...]) -> None:
        """Set all values."""
        for offset, number in enumerate(numbers):
            self.values[self.at + offset] = number


class Counter(SeriesValues):
    """A value that only grows."""

    __slots__ = ()

    def inc(self, by: float = 1.0) -> None:
        self.values[self.at] += by


class Gauge(SeriesValues):
    """A value that goes up and down."""

    __slots__ = ()

    def add(self, by: float) -> None:
        self.values[self.at] += by

    def set(self, value: float) -> None:
        self.values[self.at] = value


class Histogram(SeriesValues):
    """Counts of values by bucket, and their sum."""

    __slots__ = ("_bounds", "_sum_at")

    def __init__(self, values: memoryview[float], at: int, bounds: tuple[float, ...]) -> None:
        super().__init__(values, at)
        self._bounds = bounds
        self._sum_at = at + len(bounds) + 1

    def observe(self, value: float) -> None:
        values = self.values
        values[self.at + bisect_left(self._bounds, value)] += 1.0
        values[self._sum_at] += value


ERRORS: Final = 1
LATER: Final = 2
BUCKETS: Final = 3
"""Where the values of a tally are: first how many calls ended well, then how many as errors, how many latencies have
come apart from an outcome, and from there on how many latencies are in each bucket. Each is written by itself, so that
a reader finds no error without its request; one of the first three changes after each bucket: whoever finds these three
as they were has all of the buckets."""

LOWEST: Final = bucket_of(SHORTEST_S)
HIGHEST: Final = bucket_of(LONGEST_S)
TALLY_WIDTH: Final = BUCKETS + HIGHEST - LOWEST + 1
_LONGEST_AT: Final = BUCKETS + HIGHEST - LOWEST
_PER_LOG: Final = 1 / log(RATIO)
_TOP: Final = HIGHEST + 1e-9  # as in `bucket_of`, what lies this close to an edge is on it


class TallyValues(SeriesValues):
    """What became of the calls of one tally (:class:`pointsman.model.evidence.Tally`), written by one thread."""

    # hot: counts every call; each value that is written costs a quarter of a microsecond. So there is no sum of the
    # latencies, which the buckets give within 1 %, and no method that calls another.

    __slots__ = ()

    def count(self, seconds: float, error: bool) -> None:
        """Count a call that has ended, and took so long to the first byte of its answer."""
        values, at = self.values, self.at
        if SHORTEST_S < seconds < LONGEST_S:
            values[at + _LONGEST_AT - int(_TOP - log(seconds) * _PER_LOG)] += 1.0  # `bucket_of`
        else:
            values[at + (BUCKETS if seconds <= SHORTEST_S else _LONGEST_AT)] += 1.0
        values[at + error] += 1.0

    def waited(self, seconds: float) -> None:
        """Count the latency of a call alone: it ends later, or its client has left."""
        values, at = self.values, self.at
        if SHORTEST_S < seconds < LONGEST_S:
            values[at + _LONGEST_AT - int(_TOP - log(seconds) * _PER_LOG)] += 1.0
        else:
            values[at + (BUCKETS if seconds <= SHORTEST_S else _LONGEST_AT)] += 1.0
        values[at + LATER] += 1.0

    def ended(self, error: bool) -> None:
        """Count the end of a call alone, whose latency is counted."""
        values, at = self.values, self.at
        values[at + ERRORS if error else at] += 1.0

    def tally(self) -> Tally:
        """What was counted so far."""
        return tally_of(self.values[self.at : self.at + TALLY_WIDTH].cast("B"))


PAGE: Final = 64
_PAGE_BYTES: Final = 8 * PAGE
_EMPTY: Final = bytes(_PAGE_BYTES)


def tally_of(values: bytes | memoryview[int]) -> Tally:
    """The tally with these bytes. Most buckets are empty, so pages of zeros are passed over."""
    ok, errors, _ = memoryview(values)[: 8 * BUCKETS].cast("d")
    latencies: dict[int, int] = {}
    for start in range(0, 8 * TALLY_WIDTH, _PAGE_BYTES):
        page = bytes(values[start : start + _PAGE_BYTES])
        if page != _EMPTY[: len(page)]:
            first = start // 8 - BUCKETS + LOWEST
            found = enumerate(memoryview(page).cast("d"), first)
            latencies.update([(bucket, int(count)) for bucket, count in found if count and bucket >= LOWEST])
    seconds = sum([count * _MIDDLES[bucket - LOWEST] for bucket, count in latencies.items()])
    return Tally(int(ok) + int(errors), int(errors), latencies, seconds)


def middle_of(bucket: int) -> float:
    """What a latency in this bucket was, in seconds, at most 1 % off."""
    return _MIDDLES[min(max(bucket, LOWEST), HIGHEST) - LOWEST]


_MIDDLES: Final = [upper_edge(bucket) / sqrt(RATIO) for bucket in range(LOWEST, HIGHEST + 1)]
"""At most 1 % from all that is in each bucket."""
