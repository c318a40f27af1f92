"""Values of one series of a metric, in memory that :mod:`telemetry.writer` has laid out. Each is written by one
thread."""

from __future__ import annotations

from bisect import bisect_left


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
