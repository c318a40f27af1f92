"""Traces: when the calls of a simulation come. Pure but for the random numbers, which a seed makes."""

from __future__ import annotations

import math
import numbers
import random
from collections.abc import Sequence
from itertools import pairwise

import msgspec

Trace = Sequence[float] | Sequence[tuple[float, float]]
"""Arrival times in seconds; or steps ``(second, calls per second)``, each until the next; the last one ends it."""

BIN_S = 10.0
"""Width of the steps to which the rates of given arrival times are reckoned."""


class Calls(msgspec.Struct, frozen=True):
    """The calls of a simulation.

    Attributes:
        times: when each comes, in seconds, ascending.
        service_s: for how many seconds each keeps a replica busy.
        steps: rates of arrivals, as ``(second, calls per second)``; the last one has the rate 0 and ends the trace.
    """

    times: list[float]
    service_s: list[float]
    steps: list[tuple[float, float]]

    @property
    def end_s(self) -> float:
        """When the trace ends."""
        return self.steps[-1][0]


def calls_of(trace: Trace, service_s: float | tuple[float, float], seed: int) -> Calls:
    """The calls of a trace. The same arguments give the same calls, whatever rule they are simulated with.

    Args:
        trace: arrival times, or steps.
        service_s: seconds that a call keeps a replica busy: a number, or ``(mean, coefficient of variation)`` of a
            lognormal distribution.
        seed: of the arrivals of steps, a Poisson process, and of the service times.

    Raises:
        ValueError: the trace is empty, unsorted or negative, or a service time is.
    """
    entries = trace.tolist() if hasattr(trace, "tolist") else list(trace)  # numpy's arrays hold no tuples
    if not entries:
        raise ValueError("a trace must have arrival times or steps, got an empty one")
    if isinstance(entries[0], (tuple, list)):
        steps = _steps(entries)
        times = _arrivals(steps, random.Random(f"arrivals {seed}"))
        if not times:
            last = ", whose last one is its end" if len(entries) == 1 else ""
            raise ValueError(f"a trace must have calls, got none by the steps {_short(entries)}{last}")
    else:
        times = _times(entries)
        steps = _rates(times)
    return Calls(times, _services(service_s, len(times), random.Random(f"services {seed}")), steps)


def mean_and_cv(service_s: float | tuple[float, float]) -> tuple[float, float]:
    """Mean and coefficient of variation of service times, as users give them.

    Raises:
        ValueError: the mean is not a positive number, or the other a negative one.
    """
    pair = tuple(service_s) if isinstance(service_s, (tuple, list)) else (service_s, 0.0)
    mean, cv = pair if len(pair) == 2 else (0.0, 0.0)
    if not (_finite(mean) and mean > 0 and _finite(cv) and cv >= 0):
        raise ValueError(
            f"service_s must be a number > 0, or (mean > 0, coefficient of variation >= 0), got {service_s}"
        )
    return float(mean), float(cv)


def _steps(entries: Sequence[object]) -> list[tuple[float, float]]:
    steps: list[tuple[float, float]] = []
    for entry in entries:
        if not (isinstance(entry, (tuple, list)) and len(entry) == 2 and all(_finite(part) for part in entry)):
            raise ValueError(f"a step of a trace must be (second, calls per second), got {entry!r}")
        second, rate = float(entry[0]), float(entry[1])
        if second < 0 or rate < 0:
            raise ValueError(f"seconds and rates of a trace must be >= 0, got {entry!r}")
        if steps and second < steps[-1][0]:
            raise ValueError(f"a trace must be sorted, got {entry!r} after second {steps[-1][0]:g}")
        steps.append((second, rate))
    return [*steps[:-1], (steps[-1][0], 0.0)]


def _times(entries: Sequence[object]) -> list[float]:
    times: list[float] = []
    for entry in entries:
        if not _finite(entry):
            raise ValueError(f"an arrival time of a trace must be a number, got {entry!r}")
        time = float(entry)  # type: ignore[arg-type]  # it is a number
        if time < 0:
            raise ValueError(f"arrival times of a trace must be >= 0, got {time:g}")
        if times and time < times[-1]:
            raise ValueError(f"a trace must be sorted, got {time:g} after {times[-1]:g}")
        times.append(time)
    return times


def _arrivals(steps: list[tuple[float, float]], chance: random.Random) -> list[float]:
    """A Poisson process with these rates."""
    times: list[float] = []
    for (start, rate), (end, _) in pairwise(steps):
        now = start
        while rate > 0:
            now += chance.expovariate(rate)
            if now >= end:
                break
            times.append(now)
    return times


def _rates(times: list[float]) -> list[tuple[float, float]]:
    """Calls per second of arrival times, in steps of :data:`BIN_S`."""
    counts = [0] * (int(times[-1] // BIN_S) + 1)
    for time in times:
        counts[int(time // BIN_S)] += 1
    return [*((index * BIN_S, count / BIN_S) for index, count in enumerate(counts)), (times[-1], 0.0)]


def _services(service_s: float | tuple[float, float], count: int, chance: random.Random) -> list[float]:
    mean, cv = mean_and_cv(service_s)
    if cv == 0:
        return [mean] * count
    variance = math.log(1 + cv * cv)
    mu, sigma = math.log(mean) - variance / 2, math.sqrt(variance)
    return [chance.lognormvariate(mu, sigma) for _ in range(count)]


def _finite(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _short(entries: Sequence[object]) -> str:
    text = str(entries)
    return text if len(text) <= 80 else text[:80] + "..."
