"""How long requests take: buckets of latencies, and whether a quantile of the canary's is too high."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil, log, sqrt
from typing import Any

from pointsman.stats.blocks import BlockGate
from pointsman.stats.checking import check_between, check_count, check_not_negative, check_number, read_state

RATIO = 1.02
"""The upper edge of each bucket over that of the one below."""

SHORTEST_S = 1e-6
"""Seconds; what takes less is in the bucket of this."""

LONGEST_S = 86_400.0
"""Seconds; what takes more is in the bucket of this."""

_LOG_RATIO = log(RATIO)
_ROUNDING = 1e-9  # what lies this close to an edge is on it


def bucket_of(seconds: float) -> int:
    """The bucket of a latency: b holds what is above ``1.02^(b - 1)`` and at most ``1.02^b`` seconds, so that two
    latencies of one bucket differ by 2 % at most.

    Source: C. Masson, J. E. Rim and H. K. Lee, "DDSketch: a fast and fully-mergeable quantile sketch with
    relative-error guarantees", Proceedings of the VLDB Endowment 12, 2019.
    """
    return ceil(log(min(max(seconds, SHORTEST_S), LONGEST_S)) / _LOG_RATIO - _ROUNDING)


def upper_edge(bucket: int) -> float:
    """The longest latency of a bucket, in seconds."""
    return float(RATIO**bucket)


def quantile_bucket(counts: Mapping[int, int], quantile: float) -> int:
    """The lowest bucket with which at least this share of all is counted; ``counts`` has one at least."""
    needed = quantile * sum(counts.values()) * (1 - 1e-12)
    reached = 0
    for bucket in sorted(counts):
        reached += counts[bucket]
        if reached >= needed:
            break
    return bucket


class LatencyGate:
    """Whether a quantile of the canary's latency is more than ``max_ratio`` times the baseline's.

    Each block of time gives one difference to a :class:`BlockGate`: the share of the canary's requests that took more
    than max_ratio u, less the share of the baseline's that took more than u, where u is the quantile of the baseline
    over all earlier blocks. So stalls within a block do no harm, and a mean does not hide what the slowest requests
    got. Blocks of 10 s are meant; what BlockGate takes for granted holds here: blocks that do not hang together, and
    arms that are unlucky equally often. The baseline needs 1 / (1 - quantile) requests a block at least, 100 for p99:
    with fewer, equal versions trip more often than ``alpha`` says.

    The scale is sqrt(q (1 - q) (1 / n1 + 1 / n0)) with q = 1 - quantile, and latencies are counted in buckets of ratio
    1.02 (:func:`bucket_of`), from 1 microsecond to a day: memory is bounded. ``max_ratio`` is rounded up to a whole
    number of buckets: 1.05 is 1.0612. The first block only sets u.

    Source: the sign test of a quantile (W. J. Conover, "Practical nonparametric statistics", 1999), in blocks and by
    BlockGate, which has its own.

    Args:
        quantile: above 0 and below 1; 0.99 for the 99th percentile.
        max_ratio: how many times the baseline's quantile is allowed, above 0.
        alpha: the probability that the gate ever trips although the canary is good, above 0 and below 1.

    Raises:
        TypeError: an argument is no number. The author of the call is at fault.
        ValueError: an argument is out of its range, or NaN. The author of the call is at fault.
    """

    __slots__ = ("_gate", "_seen", "_shift", "_waiting", "max_ratio", "quantile")

    def __init__(self, quantile: float, max_ratio: float = 1.05, *, alpha: float = 0.05) -> None:
        self.quantile = check_between(quantile, "quantile")
        self.max_ratio = check_number(max_ratio, "max_ratio")
        if self.max_ratio <= 0:
            raise ValueError(f"max_ratio must be above 0, not {max_ratio!r}")
        self._shift = ceil(log(self.max_ratio) / _LOG_RATIO - _ROUNDING)
        self._gate = BlockGate(alpha=alpha)
        self._seen: dict[int, int] = {}
        self._waiting: tuple[dict[int, int], dict[int, int]] = ({}, {})

    @property
    def alpha(self) -> float:
        """The probability that the gate ever trips although the canary is good."""
        return self._gate.alpha

    @property
    def log_e(self) -> float:
        """The natural logarithm of the e-value: the evidence that the canary is slower. It begins at 0."""
        return self._gate.log_e

    @property
    def tripped(self) -> bool:
        """True from the block on in which the e-value reached ``1 / alpha``."""
        return self._gate.tripped

    @property
    def limit_s(self) -> float | None:
        """What the canary's quantile is held against: ``max_ratio`` u in seconds; None before the first block."""
        return upper_edge(quantile_bucket(self._seen, self.quantile) + self._shift) if self._seen else None

    def add(self, baseline: Iterable[float], canary: Iterable[float]) -> None:
        """Count one block. One in which an arm had no request is counted together with the next.

        Args:
            baseline, canary: how long each request of an arm took, in seconds, in any order.

        Raises:
            TypeError: a latency is no number. The author of the call is at fault, and nothing has changed.
            ValueError: a latency is negative, NaN or infinite. As above.
        """
        self._add(_counted(baseline, "baseline"), _counted(canary, "canary"))

    def add_buckets(self, baseline: Mapping[int, int], canary: Mapping[int, int]) -> None:
        """Count one block of requests that are counted already.

        Args:
            baseline, canary: for each bucket (:func:`bucket_of`) how many requests of an arm were in it.

        Raises:
            TypeError: a count is no number. The author of the call is at fault, and nothing has changed.
            ValueError: a count is negative, NaN or not whole. As above.
        """
        self._add(_checked(baseline, "baseline"), _checked(canary, "canary"))

    def _add(self, baseline: dict[int, int], canary: dict[int, int]) -> None:
        for waiting, counts in zip(self._waiting, (baseline, canary), strict=True):
            _merge(waiting, counts)
        baseline, canary = self._waiting
        if not baseline or not canary:
            return
        self._waiting = ({}, {})
        if self._seen:
            limit = quantile_bucket(self._seen, self.quantile)
            n0, slow0 = _above(baseline, limit)
            n1, slow1 = _above(canary, limit + self._shift)
            spread = self.quantile * (1 - self.quantile)
            self._gate.add(slow1 / n1 - slow0 / n0, sqrt(spread * (1 / n1 + 1 / n0)))
        _merge(self._seen, baseline)

    def state(self) -> dict[str, Any]:
        """All that the gate knows, as plain values (JSON)."""
        return {
            "kind": "LatencyGate",
            "quantile": self.quantile,
            "max_ratio": self.max_ratio,
            "gate": self._gate.state(),
            "seen": _pairs(self._seen),
            "waiting": [_pairs(counts) for counts in self._waiting],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> LatencyGate:
        """A gate that goes on where the one that gave this state was, with exactly its numbers.

        Args:
            state: what :meth:`state` has returned.

        Raises:
            TypeError, ValueError: that is no state of a LatencyGate. The author of the call is at fault.
        """
        fields = ("quantile", "max_ratio", "gate", "seen", "waiting")
        quantile, max_ratio, inner, seen, (baseline, canary) = read_state(state, "LatencyGate", fields)
        gate = cls(quantile, max_ratio)
        gate._gate = BlockGate.from_state(inner)
        gate._seen = _checked(dict(seen), "seen")
        gate._waiting = (_checked(dict(baseline), "waiting"), _checked(dict(canary), "waiting"))
        return gate


def _counted(latencies: Iterable[float], arm: str) -> dict[int, int]:
    counts: dict[int, int] = {}
    for seconds in latencies:
        bucket = bucket_of(check_not_negative(seconds, f"each latency in {arm}"))
        counts[bucket] = counts.get(bucket, 0) + 1
    return counts


def _checked(counts: Mapping[int, int], arm: str) -> dict[int, int]:
    lowest, highest = bucket_of(SHORTEST_S), bucket_of(LONGEST_S)
    checked: dict[int, int] = {}
    for bucket, count in counts.items():
        held = min(max(bucket, lowest), highest)
        if count := check_count(count, f"each count in {arm}"):
            checked[held] = checked.get(held, 0) + count
    return checked


def _merge(counts: dict[int, int], more: Mapping[int, int]) -> None:
    for bucket, count in more.items():
        counts[bucket] = counts.get(bucket, 0) + count


def _above(counts: Mapping[int, int], limit: int) -> tuple[int, int]:
    """How many there are, and how many in buckets above the limit."""
    return sum(counts.values()), sum(count for bucket, count in counts.items() if bucket > limit)


def _pairs(counts: Mapping[int, int]) -> list[list[int]]:
    return [[bucket, counts[bucket]] for bucket in sorted(counts)]
