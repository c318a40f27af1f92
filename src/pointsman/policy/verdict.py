"""Two versions side by side: what routers counted of each, how much they differ, how sure that is, and whether the
second does harm. Pure. The client calls it with tallies from the controller.

Harm is what would turn a rollout with its usual gates back: more errors than :data:`ERRORS_ALLOWED` on top of the
baseline's, or a quantile of latency more than :data:`SLOWER_ALLOWED` above the baseline's, and no doubt about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from math import isfinite, sqrt
from typing import Any, NamedTuple

from pointsman.model.evidence import Tally
from pointsman.model.origin import Struct
from pointsman.policy.differences import quantile_shift, rate_difference, tolerance
from pointsman.stats.latency import RATIO, quantile_bucket, upper_edge

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
ALPHA = 0.05
"""The probability that any interval of a comparison misses."""
ERRORS_ALLOWED = 0.001
"""Errors per request that the canary may have more; as in a rollout."""
SLOWER_ALLOWED = 0.05
"""By which share a quantile of the canary may be above the baseline's; as in a rollout."""
FEWEST_PIECES = 8
"""With fewer pieces of time nothing is known of bursts."""

WORSE, SLIGHTLY_WORSE, BETTER, UNSEEN = "worse", "slightly worse", "better", "no difference seen"


class Piece(NamedTuple):
    """What was counted of baseline and canary in a piece of time, which took so many seconds."""

    baseline: Tally
    canary: Tally
    seconds: float = 0.0


Pieces = Sequence[Piece]


class Arm(Struct, frozen=True):
    """One of the two versions.

    Attributes:
        error_rate: errors per request; None without requests.
        latency_ms: p50, p95 and p99, at most 1 % off, and mean, in milliseconds; None without requests.
    """

    backend: str
    requests: int
    errors: int
    error_rate: float | None
    latency_ms: dict[str, float | None]


class Difference(Struct, frozen=True):
    """How much the canary differs from the baseline; above 0 it is worse.

    Attributes:
        value: of an error rate canary less baseline, in errors per request; of a latency canary / baseline - 1. None
            where an arm has no requests.
        low, high: the interval; None where the counts set no limit.
        verdict: ``worse`` (beyond doubt, and by more than is allowed), ``slightly worse`` (beyond doubt, and perhaps by
            no more than is allowed), ``better`` (beyond doubt) or ``no difference seen``.
    """

    value: float | None
    low: float | None
    high: float | None
    verdict: str


class Comparison(Struct, frozen=True):
    """Two versions of an endpoint.

    Attributes:
        seconds: for how long the requests were counted.
        differences: of ``errors``, ``p50``, ``p95`` and ``p99``.
        harm: whether any of them is ``worse``.
        verdict: all of it in one sentence.
    """

    seconds: float
    baseline: Arm
    canary: Arm
    differences: dict[str, Difference]
    harm: bool
    verdict: str


def compare(baseline: str, canary: str, pieces: Pieces) -> Comparison:
    """Compare two versions.

    All intervals together miss with probability :data:`ALPHA` at most, also when a comparison is read again and again
    while its counts grow. Requests count as independent within a piece of time; what comes in bursts from piece to
    piece widens the intervals (:func:`clumping`), if there are :data:`FEWEST_PIECES` pieces.

    Args:
        baseline, canary: their names, for the verdict.
        pieces: what was counted of the two, by pieces of time such as half minutes; one piece will do. What came
            before both answered, or after one had stopped, does not count: it says nothing of the other.
    """
    pieces = _in_common(pieces)
    first = reduce(Tally.plus, (piece.baseline for piece in pieces), Tally())
    second = reduce(Tally.plus, (piece.canary for piece in pieces), Tally())
    allowed = tolerance(ALPHA / (1 + len(QUANTILES)))
    differences = {"errors": _errors(first, second, pieces, allowed)}
    for name, quantile in QUANTILES.items():
        differences[name] = _latency(first, second, pieces, quantile, allowed)
    arms = (_arm(baseline, first), _arm(canary, second))
    harm = any(one.verdict == WORSE for one in differences.values())
    seconds = sum(piece.seconds for piece in pieces)
    return Comparison(seconds, *arms, differences, harm, _sentence(*arms, differences))


def _in_common(pieces: Pieces) -> Pieces:
    """From the first piece in which both answered to the last; all, if there is none."""
    both = [place for place, piece in enumerate(pieces) if piece.baseline.requests and piece.canary.requests]
    return pieces[both[0] : both[-1] + 1] if both else pieces


def _arm(backend: str, tally: Tally) -> Arm:
    timed = sum(tally.latencies.values())
    latency: dict[str, float | None] = {
        name: 1000 * upper_edge(quantile_bucket(tally.latencies, quantile)) / sqrt(RATIO) if timed else None
        for name, quantile in QUANTILES.items()
    }
    latency["mean"] = 1000 * tally.seconds / timed if timed else None
    rate = tally.errors / tally.requests if tally.requests else None
    return Arm(backend, tally.requests, tally.errors, rate, latency)


def _errors(first: Tally, second: Tally, pieces: Pieces, allowed: float) -> Difference:
    if not first.requests or not second.requests:
        return Difference(None, None, None, UNSEEN)
    clumps = clumping([(one.errors, one.requests, two.errors, two.requests) for one, two, _ in pieces])
    low, high = rate_difference(
        first.errors / clumps, first.requests / clumps, second.errors / clumps, second.requests / clumps, allowed
    )
    value = second.errors / second.requests - first.errors / first.requests
    return Difference(value, low, high, _verdict(low, high, ERRORS_ALLOWED))


def _latency(first: Tally, second: Tally, pieces: Pieces, quantile: float, allowed: float) -> Difference:
    if not first.latencies or not second.latencies:
        return Difference(None, None, None, UNSEEN)
    bucket = quantile_bucket(first.latencies, quantile)
    clumps = clumping([(*_above(one, bucket), *_above(two, bucket)) for one, two, _ in pieces])
    shift = quantile_shift(_thinned(first.latencies, clumps), _thinned(second.latencies, clumps), quantile, allowed)
    # A latency can be anywhere in its bucket.
    low, high = (RATIO ** (shift.low - 1) - 1, RATIO ** (shift.high + 1) - 1)
    value = upper_edge(quantile_bucket(second.latencies, quantile) - bucket) - 1
    return Difference(value, _finite(low, shift.low), _finite(high, shift.high), _verdict(low, high, SLOWER_ALLOWED))


def _finite(value: float, shift: float) -> float | None:
    return value if isfinite(shift) else None


def _verdict(low: float, high: float, slack: float) -> str:
    if low > slack:
        return WORSE
    if low > 0:
        return SLIGHTLY_WORSE
    return BETTER if high < 0 else UNSEEN


def _above(tally: Tally, bucket: int) -> tuple[int, int]:
    above = sum(count for one, count in tally.latencies.items() if one > bucket)
    return above, sum(tally.latencies.values())


def _thinned(counts: Mapping[int, int], clumps: float) -> dict[int, float]:
    return {bucket: count / clumps for bucket, count in counts.items()}


def clumping(pieces: Sequence[tuple[int, int, int, int]]) -> float:
    """By what factor the difference of two rates varies more from piece to piece of time than it would if requests were
    independent of each other; 1 at least. Counts divided by it are as telling as independent ones (the design effect:
    J. N. K. Rao and A. J. Scott, "A simple method for the analysis of clustered binary data", Biometrics 48, 1992).

    Args:
        pieces: events and requests of the first, then of the second.
    """
    k0, n0, k1, n1 = (sum(piece[which] for piece in pieces) for which in range(4))
    rate0, rate1 = k0 / n0, k1 / n1
    expected = rate0 * (1 - rate0) / n0 + rate1 * (1 - rate1) / n1
    if len(pieces) < FEWEST_PIECES or not expected:
        return 1.0
    parts = ((b - rate1 * m1) / n1 - (a - rate0 * m0) / n0 for a, m0, b, m1 in pieces)
    seen = sum(part * part for part in parts) * len(pieces) / (len(pieces) - 1)
    return max(1.0, seen / expected)


# The verdict in words


def _sentence(baseline: Arm, canary: Arm, differences: Mapping[str, Difference]) -> str:
    silent = [arm.backend for arm in (baseline, canary) if not arm.requests]
    if silent:
        return f"{' and '.join(silent)} answered no requests, so that there is nothing to compare"
    errors = differences["errors"]
    latencies = {name: differences[name] for name in QUANTILES}
    clauses = [(errors.verdict, _of_errors(baseline, canary, errors)), _of_latencies(canary.backend, latencies)]
    order = (WORSE, SLIGHTLY_WORSE, BETTER, UNSEEN)
    clauses.sort(key=lambda clause: order.index(clause[0]))
    first, second = (text for _, text in clauses)
    name = f"{canary.backend} "
    if first.startswith(name) and second.startswith(name):
        second = f"it {second.removeprefix(name)}"
    return f"{first}; {second}"


def _of_errors(baseline: Arm, canary: Arm, errors: Difference) -> str:
    if errors.verdict == UNSEEN:
        return f"errors: no difference seen, at most {points(errors.high)}"
    how = {WORSE: "more", SLIGHTLY_WORSE: "a little more", BETTER: "less"}[errors.verdict]
    rates = f"{percent(canary.error_rate)} against {percent(baseline.error_rate)}"
    return f"{canary.backend} fails {how} often: {rates}, sure"


def _of_latencies(canary: str, latencies: Mapping[str, Difference]) -> tuple[str, str]:
    """Which verdict counts, and its clause."""
    by_verdict = {
        verdict: [f"{name} {change(one.value)}" for name, one in latencies.items() if one.verdict == verdict]
        for verdict in (WORSE, SLIGHTLY_WORSE, BETTER)
    }
    how = {WORSE: "slower", SLIGHTLY_WORSE: "a little slower", BETTER: "faster"}
    for verdict, those in by_verdict.items():
        if those:
            but = by_verdict[BETTER] if verdict != BETTER else []
            though = f", though {', '.join(but)}" if but else ""
            return verdict, f"{canary} is {how[verdict]}: {', '.join(those)}, sure{though}"
    most = latencies["p50"].high
    return UNSEEN, f"latency: no difference seen, p50 at most {change(most)}" if most is not None else (
        "latency: too few requests to see a difference"
    )


def percent(rate: float | None) -> str:
    """A share, such as ``2.2 %``; ``-`` for None."""
    return "-" if rate is None else f"{100 * rate:.2g} %" if rate < 0.995 else "100 %"


def points(difference: float | None) -> str:
    """A difference of shares, such as ``+0.4 points``; ``-`` for None."""
    return "-" if difference is None else f"{_signed(100 * difference)} points"


def change(ratio: float | None) -> str:
    """A ratio less 1, such as ``+95 %`` or ``x12``; ``-`` for None."""
    if ratio is None:
        return "-"
    return f"x{1 + ratio:.3g}" if ratio >= 9 else f"{_signed(100 * ratio)} %"


def _signed(value: float) -> str:
    """With a sign and about two digits; no exponent."""
    return f"{value:+.0f}" if abs(value) >= 10 else f"{value:+.2g}" if abs(value) >= 0.001 else "0"


def as_view(comparison: Comparison) -> dict[str, Any]:
    """A comparison as plain dicts that are ready for JSON."""
    import msgspec

    view: dict[str, Any] = msgspec.to_builtins(comparison)
    return view
