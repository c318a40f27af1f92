"""Values of one series of a metric, in memory that :mod:`telemetry.writer` has laid out, or of one tally, in that of
:mod:`telemetry.tallies`. Each is written by one thread."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import log
from typing import Final

from pointsman.model.evidence import Tally
from pointsman.stats.latency import LONGEST_S, RATIO, SHORTEST_S, bucket_of


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
SECONDS: Final = 2
BUCKETS: Final = 3
"""Where the values of a tally are: first how many ended well, then how many as errors, the sum of the latencies, and
from there on how many are in each bucket of latencies. Each is written by itself, so that a reader finds no error
without its request."""

LOWEST: Final = bucket_of(SHORTEST_S)
HIGHEST: Final = bucket_of(LONGEST_S)
TALLY_WIDTH: Final = BUCKETS + HIGHEST - LOWEST + 1
_LOG_RATIO: Final = log(RATIO)
_TOP: Final = HIGHEST + 1e-9  # as in `bucket_of`, what lies this close to an edge is on it


class TallyValues(SeriesValues):
    """What became of the calls of one tally (:class:`pointsman.model.evidence.Tally`), written by one thread."""

    __slots__ = ()

    def count(self, seconds: float, error: bool) -> None:
        """Count a call that has ended."""
        self.ended(error)
        self.waited(seconds)

    def ended(self, error: bool) -> None:
        """Count the end of a call alone."""
        self.values[self.at + ERRORS if error else self.at] += 1.0

    def waited(self, seconds: float) -> None:
        """Count the latency of a call alone."""
        values, at = self.values, self.at
        values[at + SECONDS] += seconds
        # hot: `bucket_of`, without its calls
        bucket = LOWEST if seconds <= SHORTEST_S else HIGHEST
        if SHORTEST_S < seconds < LONGEST_S:
            bucket = HIGHEST - int(_TOP - log(seconds) / _LOG_RATIO)
        values[at + BUCKETS + bucket - LOWEST] += 1.0

    def tally(self) -> Tally:
        """What was counted so far."""
        return tally_of(self.values[self.at : self.at + TALLY_WIDTH].tolist())


def tally_of(numbers: Sequence[float]) -> Tally:
    """The tally that has these values."""
    ok, errors, seconds = numbers[:BUCKETS]
    latencies = {place - BUCKETS + LOWEST: int(n) for place, n in enumerate(numbers) if n and place >= BUCKETS}
    return Tally(int(ok) + int(errors), int(errors), latencies, seconds)
