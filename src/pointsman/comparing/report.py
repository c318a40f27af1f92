"""What became of the pairs of one shadow, counted, and what the counts say: how often the shadow disagrees, whether
that is more than the primary disagrees with itself, and how much longer the shadow takes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from itertools import accumulate
from math import exp, sqrt
from typing import Any

import msgspec

from pointsman.comparing.pairs import ERROR, STATUS, Outcome
from pointsman.stats import RateGate, rate_interval
from pointsman.stats.latency import RATIO, bucket_of, upper_edge

ALPHA = 0.05
"""The probability that an interval of the report is ever wrong, and that a shadow as good as the primary ever trips."""

MAX_ROUTES = 100
"""Routes that are counted apart; the others are one."""
OTHER_ROUTES = "other routes"

_LARGEST_LOG_E = 700.0  # larger ones are no floats


class RouteCounts(msgspec.Struct):
    """Pairs of one route."""

    pairs: int = 0
    mismatched: int = 0


class ShadowCounts(msgspec.Struct):
    """Pairs of one shadow since its comparison began. Those of several processes are added up.

    Attributes:
        pairs: those that were compared: copies for the shadow, without those for noise.
        by_kind: how many did not match, by :class:`Outcome`'s ``kind``.
        uncompared: how many were not compared, by reason.
        dropped: copies that were not sent, or had no answer to be compared with.
        noise_pairs, noise_mismatched: pairs of two answers of the primary.
        ratios: pairs by how many times as long as the primary the shadow took, in buckets of
            :func:`pointsman.stats.latency.bucket_of`.
    """

    pairs: int = 0
    mismatched: int = 0
    by_kind: dict[str, int] = {}
    by_route: dict[str, RouteCounts] = {}
    uncompared: dict[str, int] = {}
    dropped: int = 0
    noise_pairs: int = 0
    noise_mismatched: int = 0
    ratios: dict[int, int] = {}

    def add(self, outcome: Outcome, route: str, *, primary_s: float, shadow_s: float) -> None:
        """Count a pair of the primary and the shadow.

        Args:
            primary_s, shadow_s: how long each took, in seconds. Where statuses differ it does not count: errors are
                quick.
        """
        if outcome.kind not in (ERROR, STATUS):
            _count(self.ratios, ratio_bucket(primary_s, shadow_s))
        if outcome.uncompared:
            _count(self.uncompared, outcome.uncompared)
            return
        known = route in self.by_route or len(self.by_route) < MAX_ROUTES
        of_route = self.by_route.setdefault(route if known else OTHER_ROUTES, RouteCounts())
        self.pairs += 1
        of_route.pairs += 1
        if not outcome.matched:
            self.mismatched += 1
            of_route.mismatched += 1
            _count(self.by_kind, outcome.kind)

    def add_noise(self, outcome: Outcome) -> None:
        """Count a pair of two answers of the primary. One that was not compared counts nowhere."""
        if not outcome.uncompared:
            self.noise_pairs += 1
            self.noise_mismatched += not outcome.matched

    def plus(self, other: ShadowCounts) -> ShadowCounts:
        """The two together."""
        routes = {name: RouteCounts(of.pairs, of.mismatched) for name, of in self.by_route.items()}
        for name, of in other.by_route.items():
            known = name in routes or len(routes) < MAX_ROUTES
            total = routes.setdefault(name if known else OTHER_ROUTES, RouteCounts())
            total.pairs += of.pairs
            total.mismatched += of.mismatched
        return ShadowCounts(
            self.pairs + other.pairs,
            self.mismatched + other.mismatched,
            _sum(self.by_kind, other.by_kind),
            routes,
            _sum(self.uncompared, other.uncompared),
            self.dropped + other.dropped,
            self.noise_pairs + other.noise_pairs,
            self.noise_mismatched + other.noise_mismatched,
            _sum(self.ratios, other.ratios),
        )


def make_report(counts: ShadowCounts, *, since: str, gate: RateGate | None) -> dict[str, Any]:
    """What ``shadow_report`` returns.

    Args:
        since: when the comparison began, ISO 8601 in UTC.
        gate: has judged the pairs against those of noise; None if there is no noise.
    """
    low, high = rate_interval(counts.mismatched, counts.pairs, ALPHA)
    middle, shortest, longest = median_ratio(counts.ratios)
    noise = {"pairs": counts.noise_pairs, "mismatched": counts.noise_mismatched}
    return {
        "since": since,
        "pairs": counts.pairs,
        "matched": counts.pairs - counts.mismatched,
        "mismatched": counts.mismatched,
        "by_kind": _most_first(counts.by_kind),
        "by_route": {
            name: {"pairs": of.pairs, "mismatched": of.mismatched}
            for name, of in sorted(counts.by_route.items(), key=lambda item: (-item[1].mismatched, item[0]))
        },
        "uncompared": _most_first(counts.uncompared),
        "dropped": counts.dropped,
        "mismatch_rate": {"value": _rate(counts.mismatched, counts.pairs), "low": low, "high": high},
        "noise": {**noise, "rate": _rate(counts.noise_mismatched, counts.noise_pairs)} if gate is not None else None,
        "above_noise": above_noise(gate) if gate is not None else None,
        "latency": {
            "pairs": sum(counts.ratios.values()),
            "median_ratio": {"value": middle, "low": shortest, "high": longest},
        },
    }


def noise_gate() -> RateGate:
    """Judges whether a shadow disagrees with the primary more often than the primary with itself: about once a second
    ``add(noise pairs, of these mismatched, pairs, of these mismatched)``, of what came since."""
    return RateGate(alpha=ALPHA)


def above_noise(gate: RateGate) -> dict[str, Any]:
    """What a gate says: the evidence that the shadow is worse, and how much of it is needed."""
    return {"e": exp(min(gate.log_e, _LARGEST_LOG_E)), "needed": 1 / gate.alpha, "tripped": gate.tripped}


def ratio_bucket(primary_s: float, shadow_s: float) -> int:
    """In which bucket a pair counts that took so long; a microsecond at least."""
    return bucket_of(max(shadow_s, 1e-6) / max(primary_s, 1e-6))


def median_ratio(ratios: Mapping[int, int]) -> tuple[float | None, float | None, float | None]:
    """How many times as long the shadow takes, for half of the requests at most and half at least: the median of the
    ratios with an interval that holds at all times at once. None is for what is not known yet.

    The median is at least a bucket's lower edge unless more than half of all ratios are below it, and the true share of
    these is in :func:`rate_interval` of those counted; the same from above. Each side may be wrong with half of
    ``ALPHA``. Holds when requests are independent and the shadow's slowness does not change.
    """
    buckets = sorted(ratios)
    up_to = [0, *accumulate(ratios[bucket] for bucket in buckets)]
    n = up_to[-1]
    if not n:
        return None, None, None
    # How many ratios may be below the median, by what rate_interval says of their share: from fewest to most.
    fewest = bisect_left(range(n + 1), True, key=lambda k: rate_interval(k, n, ALPHA / 2).high >= 0.5)
    most = n - fewest  # by symmetry
    middle = bisect_left(up_to, n / 2) - 1
    low = upper_edge(buckets[bisect_left(up_to, fewest) - 1] - 1) if fewest > 0 else None
    high = upper_edge(buckets[bisect_right(up_to, most) - 1]) if most < n else None
    return upper_edge(buckets[middle]) / sqrt(RATIO), low, high


def _count(counts: dict[Any, int], key: Any) -> None:
    counts[key] = counts.get(key, 0) + 1


def _sum(first: Mapping[Any, int], second: Mapping[Any, int]) -> dict[Any, int]:
    total = dict(first)
    for key, count in second.items():
        total[key] = total.get(key, 0) + count
    return total


def _most_first(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _rate(events: int, n: int) -> float | None:
    return events / n if n else None
