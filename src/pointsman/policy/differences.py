"""How much two versions can differ, by what was counted of each: in the rate of errors, and in a quantile of latency.
Pure. Called by ``policy/verdict``.

Both work alike: of all pairs of true values those are kept that explain the counts nearly as well as the best pair
does, and the interval goes from the smallest difference in these pairs to the largest.

Sources: S. S. Wilks, "The large-sample distribution of the likelihood ratio", Annals of Mathematical Statistics 9,
1938; for quantiles A. B. Owen, "Empirical likelihood ratio confidence intervals for a single functional", Biometrika
75, 1988.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf, log, log1p
from typing import NamedTuple

GOLDEN = 0.6180339887498949


class Span(NamedTuple):
    """What a difference can be: from ``low`` to ``high``; infinite where the counts set no limit."""

    low: float
    high: float


def tolerance(alpha: float) -> float:
    """How much worse than the best a pair may explain the counts, as a difference of log-likelihoods.

    L + ln(1 + 2 L) / 2 with L = ln(2 / alpha): the edge of a normal mixture where it is narrowest. An interval that is
    read once could do with less. With this, one that is read again and again while its counts grow to ten or hundred
    times of what they were still misses in ``alpha`` of cases at most (H. Robbins, "Statistical methods related to the
    law of the iterated logarithm", Annals of Mathematical Statistics 41, 1970).

    Args:
        alpha: the probability that the interval misses, on either side, above 0 and below 1.
    """
    strictness = log(2 / alpha)
    return strictness + log1p(2 * strictness) / 2


def misfit(k: float, n: float, rate: float) -> float:
    """How much worse ``rate`` explains k events in n requests than the rate k / n does, as a difference of
    log-likelihoods: 0 or more."""
    happened = k * log(k / (n * rate)) if k and rate > 0 else (inf if k else 0.0)
    others = n - k
    did_not = others * log(others / (n * (1 - rate))) if others and rate < 1 else (inf if others else 0.0)
    return max(0.0, happened + did_not)


def rate_difference(k0: float, n0: float, k1: float, n1: float, allowed: float) -> Span:
    """What the second rate less the first can be.

    Args:
        k0, n0, k1, n1: events and requests of each, requests above 0.
        allowed: see :func:`tolerance`.
    """
    return Span(-_largest(k1, n1, k0, n0, allowed), _largest(k0, n0, k1, n1, allowed))


def _largest(k0: float, n0: float, k1: float, n1: float, allowed: float) -> float:
    """The largest difference of the second rate to the first. The pairs that are kept form a convex set, so the search
    has one top only."""

    def difference(rate0: float) -> float:
        left = allowed - misfit(k0, n0, rate0)
        return _edge(lambda rate: misfit(k1, n1, rate) <= left, k1 / n1, 1.0) - rate0

    high = k0 / n0
    low = _edge(lambda rate: misfit(k0, n0, rate) <= allowed, high, 0.0)
    for _ in range(40):
        width = GOLDEN * (high - low)
        left, right = high - width, low + width
        if difference(left) < difference(right):
            low = left
        else:
            high = right
    return difference((low + high) / 2)


def _edge(fits: Callable[[float], bool], inside: float, outside: float) -> float:
    """The last number that fits, on the way from one that does."""
    if fits(outside):
        return outside
    for _ in range(60):
        middle = (inside + outside) / 2
        if fits(middle):
            inside = middle
        else:
            outside = middle
    return inside


def quantile_shift(first: Mapping[int, float], second: Mapping[int, float], quantile: float, allowed: float) -> Span:
    """By how many buckets the second's quantile can be above the first's. What is true of buckets is true of the
    latencies in them, give or take one bucket.

    Args:
        first, second: requests by bucket, at least one in each.
        quantile: above 0 and below 1.
        allowed: see :func:`tolerance`.
    """
    return Span(_smallest_shift(first, second, quantile, allowed), -_smallest_shift(second, first, quantile, allowed))


def _smallest_shift(first: Mapping[int, float], second: Mapping[int, float], quantile: float, allowed: float) -> float:
    highest, lowest = _upwards(first, quantile), _downwards(second, quantile)
    return min(
        low - high for high, misfit_high in highest for low, misfit_low in lowest if misfit_high + misfit_low <= allowed
    )


def _upwards(counts: Mapping[int, float], quantile: float) -> list[tuple[float, float]]:
    """From the bucket of the quantile on: where it can be at most, and how badly that explains the counts."""
    total, below = sum(counts.values()), 0.0
    found: list[tuple[float, float]] = []
    for bucket in sorted(counts):
        if below + counts[bucket] >= quantile * total:
            found.append((bucket, misfit(below, total, quantile) if below > quantile * total else 0.0))
        below += counts[bucket]
    found.append((inf, misfit(total, total, quantile)))
    return found


def _downwards(counts: Mapping[int, float], quantile: float) -> list[tuple[float, float]]:
    mirrored = _upwards({-bucket: count for bucket, count in counts.items()}, 1 - quantile)
    return [(-bucket, badness) for bucket, badness in mirrored]
