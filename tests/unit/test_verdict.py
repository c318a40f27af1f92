"""Two versions side by side: what is said of their differences, and how often that is wrong."""

from __future__ import annotations

from functools import reduce
from itertools import accumulate, pairwise
from math import inf, isfinite, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.model.evidence import Tally
from pointsman.policy.differences import misfit, quantile_shift, rate_difference, tolerance
from pointsman.policy.verdict import BETTER, SLIGHTLY_WORSE, UNSEEN, WORSE, Piece, as_view, clumping, compare
from pointsman.stats.latency import bucket_of
from tests.properties import examples, tries

MANY = 20_000


def tally(rng: np.random.Generator, requests: int, *, errors: float = 0.0, median_s: float = 0.2) -> Tally:
    """Requests that fail with a probability, and take lognormal times (sigma 0.3)."""
    seconds = rng.lognormal(log(median_s), 0.3, requests)
    buckets, counts = np.unique(np.ceil(np.log(seconds) / log(1.02)).astype(int), return_counts=True)
    latencies = dict(zip(buckets.tolist(), counts.tolist(), strict=True))
    return Tally(requests, int(rng.binomial(requests, errors)), latencies, float(seconds.sum()))


def compared(main: Tally, new: Tally):
    return compare("main", "new", [Piece(main, new)])


def test_a_version_of_twice_the_latency_is_called_slower():
    """A user reads that the canary is slower, by how much, that it is sure, and what its errors are at most."""
    rng = np.random.default_rng(1)
    found = compared(tally(rng, MANY, median_s=0.205), tally(rng, 3000, median_s=0.4))
    assert found.harm
    assert {name: one.verdict for name, one in found.differences.items()} == {
        "errors": UNSEEN,
        "p50": WORSE,
        "p95": WORSE,
        "p99": WORSE,
    }
    p50 = found.differences["p50"]
    assert p50.low < 0.4 / 0.205 - 1 < p50.high
    assert found.verdict.startswith("new is slower: p50 +9")
    assert found.verdict.endswith(", sure; errors: no difference seen, at most +0.21 points")
    assert found.baseline.latency_ms["p50"] == pytest.approx(205, rel=0.03)
    assert found.canary.latency_ms["mean"] == pytest.approx(400 * np.exp(0.3**2 / 2), rel=0.02)


def test_a_version_that_fails_more_often_is_called_that_first():
    """Errors beyond doubt come first in the sentence, with both rates."""
    rng = np.random.default_rng(2)
    found = compared(tally(rng, MANY, errors=0.01), tally(rng, 4000, errors=0.03))
    assert found.harm
    assert found.differences["errors"].verdict == WORSE
    assert found.verdict.startswith("new fails more often: 3.1 % against 1.1 %, sure; latency: no difference seen, ")


def test_a_better_version_is_called_better_and_does_no_harm():
    """A canary that is faster and fails less often is said to be so."""
    rng = np.random.default_rng(3)
    found = compared(tally(rng, MANY, errors=0.05), tally(rng, MANY, errors=0.01, median_s=0.1))
    assert not found.harm
    assert {one.verdict for one in found.differences.values()} == {BETTER}
    assert "new fails less often: 0.82 % against 5.1 %, sure" in found.verdict
    assert "; it is faster: p50 -5" in found.verdict


def test_a_canary_that_is_slower_by_less_than_is_allowed_does_no_harm():
    """4 % more are beyond doubt after so many requests, and within the 5 % that a rollout lets pass."""
    rng = np.random.default_rng(4)
    found = compared(tally(rng, 200_000), tally(rng, 200_000, median_s=0.2 * 1.05))
    assert found.differences["p50"].verdict == SLIGHTLY_WORSE
    assert not found.harm
    assert "new is a little slower: p50 +" in found.verdict


def test_faster_in_the_middle_and_slower_at_the_end_is_said_in_one_clause():
    """A canary that answers most at once and some late is slower, though its median is better."""
    main = Tally(MANY, 0, {bucket_of(0.2): MANY}, 0.2 * MANY)
    new = Tally(MANY, 0, {bucket_of(0.1): MANY * 9 // 10, bucket_of(0.8): MANY // 10}, 0.17 * MANY)
    found = compared(main, new)
    assert found.harm
    assert found.verdict.startswith("new is slower: p95 +300 %, p99 +300 %, sure, though p50 -50 %; ")


def test_what_the_baseline_did_before_the_canary_began_does_not_count():
    """A bad night of the baseline does not make a canary better that began in the morning."""
    night, day = Tally(1000, 500, {0: 1000}, 0.0), Tally(1000, 10, {-100: 1000}, 0.0)
    pieces = [Piece(night, Tally(), 30)] * 9 + [Piece(day, day, 30)] * 10 + [Piece(night, Tally(), 30)]
    found = compare("main", "new", pieces)
    assert (found.baseline.requests, found.baseline.errors, found.seconds) == (10_000, 100, 300)
    assert {one.verdict for one in found.differences.values()} == {UNSEEN}


def test_few_requests_prove_nothing_and_the_sentence_says_so():
    """After ten requests each, intervals are wide or open, and nobody is accused."""
    rng = np.random.default_rng(5)
    found = compared(tally(rng, 10), tally(rng, 10))
    assert not found.harm
    assert found.differences["p99"].high is None
    assert found.differences["errors"].high == pytest.approx(0.47, abs=0.02)
    assert found.verdict.startswith("errors: no difference seen, at most +47 points; latency: ")


def test_a_version_without_requests_is_named():
    """Without requests of one there is nothing to compare, and the sentence says whose are missing."""
    rng = np.random.default_rng(6)
    found = compared(tally(rng, 10), Tally())
    assert found.verdict == "new answered no requests, so that there is nothing to compare"
    assert not found.harm
    assert found.canary.error_rate is None
    assert as_view(found)["differences"]["p50"] == {"value": None, "low": None, "high": None, "verdict": UNSEEN}


def test_bursts_of_one_arm_are_no_proof():
    """40 failures within one second of the canary's ten minutes say less than 40 that are spread over them."""
    quiet, spread = Tally(1900, 19, {0: 1900}, 0.0), Tally(100, 3, {0: 100}, 0.0)
    calm, burst = Tally(100, 1, {0: 100}, 0.0), Tally(100, 42, {0: 100}, 0.0)
    spread_out = compare("main", "new", [Piece(quiet, spread)] * 20)
    in_a_burst = compare("main", "new", [Piece(quiet, calm)] * 19 + [Piece(quiet, burst)])
    assert spread_out.canary.errors - 1 == 59
    assert in_a_burst.canary.errors == 61
    assert spread_out.differences["errors"].verdict == WORSE
    assert in_a_burst.differences["errors"].verdict == UNSEEN
    assert in_a_burst.differences["errors"].high > spread_out.differences["errors"].high


def test_bursts_that_hit_both_arms_alike_count_as_usual():
    """When both fail together, the difference is as telling as ever."""
    both = [(10, 1000, 10, 1000)] * 10 + [(500, 1000, 500, 1000)]
    assert clumping(both) == 1.0


def test_the_interval_of_two_rates_holds_all_pairs_that_explain_the_counts():
    """Whatever rates are tried, the difference of those that explain the counts well enough is in the interval, and
    its ends are such differences."""
    allowed = tolerance(0.05)
    for k0, n0, k1, n1 in [(19, 1900, 3, 100), (0, 1900, 2, 100), (50, 50, 0, 40), (3, 9, 5, 9)]:
        low, high = rate_difference(k0, n0, k1, n1, allowed)
        rates = [number / 120 for number in range(121)]
        kept = [b - a for a in rates for b in rates if misfit(k0, n0, a) + misfit(k1, n1, b) <= allowed]
        assert low <= min(kept) <= low + 0.02
        assert high - 0.02 <= max(kept) <= high


def test_the_interval_of_a_quantile_holds_all_buckets_that_explain_the_counts():
    """The same of a quantile: a bucket is kept if some share that it can have explains the counts well enough."""
    rng = np.random.default_rng(7)
    first, second = tally(rng, 300).latencies, tally(rng, 200, median_s=0.25).latencies
    allowed = tolerance(0.05)

    def badness(counts: dict[int, int], bucket: int) -> float:
        total = sum(counts.values())
        below = sum(count for one, count in counts.items() if one < bucket)
        upto = below + counts.get(bucket, 0)
        nearest = min(max(0.9 * total, below), upto)
        return misfit(nearest, total, 0.9)

    everywhere = range(bucket_of(0.1), bucket_of(1.0))
    shifts = [
        b - a
        for a in everywhere
        for b in everywhere
        if badness(first, a) + badness(second, b) <= allowed and a in first and b in second
    ]
    assert quantile_shift(first, second, 0.9, allowed) == (min(shifts), max(shifts))


def test_a_quantile_that_few_requests_leave_open_has_no_upper_end():
    """The p99 of 20 requests can be anything."""
    low, high = quantile_shift({1: 5000}, {1: 20}, 0.99, tolerance(0.0125))
    assert high == inf
    assert low <= 0


def misfit_of_a_common_rate(k0: int, n0: int, k1: int, n1: int) -> float:
    """The interval leaves out 0 where this is too much."""
    rate = (k0 + k1) / (n0 + n1)
    return misfit(k0, n0, rate) + misfit(k1, n1, rate)


TALLIES = st.builds(
    lambda latencies, errors, left: Tally(
        sum(latencies.values()) - min(left, sum(latencies.values())),
        min(errors, sum(latencies.values()) - min(left, sum(latencies.values()))),
        latencies,
        float(sum(latencies.values())),
    ),
    st.dictionaries(st.integers(-300, 300), st.integers(1, 10_000), max_size=5),
    st.integers(0, 1000),
    st.integers(0, 3),
)


@examples(200)
@given(st.lists(st.builds(Piece, TALLIES, TALLIES, st.floats(0.1, 60)), max_size=12))
def test_whatever_was_counted_the_difference_is_within_its_interval(pieces):
    """No counts, however odd, make an error, a number that is none, or an interval beside its difference; one sentence
    comes of each."""
    found = compare("main", "new", pieces)
    for one in found.differences.values():
        ends = [end for end in (one.low, one.value, one.high) if end is not None]
        assert all(after >= before - 1e-9 for before, after in pairwise(ends))
        assert all(isfinite(end) for end in ends)
    assert found.harm == any(one.verdict == WORSE for one in found.differences.values())
    assert found.verdict
    assert "None" not in found.verdict


@pytest.mark.parametrize(("share", "rate"), [(0.05, 0.01), (0.5, 0.01), (0.05, 0.002)])
def test_equal_versions_are_told_apart_as_rarely_as_is_promised(share, rate):
    """A user who looks again and again while the canary gets from 20 to 5,000 requests is told of a difference in the
    errors of equal versions in less than alpha of cases."""
    runs, alpha = tries(200, 2000), 0.05
    canary = list(accumulate([20, *(max(20, int(20 * 1.05**look * 0.05)) for look in range(110))]))
    sizes = np.diff([0, *(n for n in canary if n <= 5000)])
    beside = np.round(sizes * (1 - share) / share).astype(int)
    wrong, allowed = 0, tolerance(alpha)
    for run in range(runs):
        rng = np.random.default_rng([11, run])
        k1, k0 = np.cumsum(rng.binomial(sizes, rate)), np.cumsum(rng.binomial(beside, rate))
        looks = zip(k0.tolist(), np.cumsum(beside).tolist(), k1.tolist(), np.cumsum(sizes).tolist(), strict=True)
        wrong += any(misfit_of_a_common_rate(*look) > allowed for look in looks)
    assert wrong / runs <= alpha


def test_equal_versions_with_stalls_of_one_of_them_are_seldom_told_apart():
    """In ten minutes of 100 requests a second, one of two equal versions stalls for a second each minute, a coin says
    which. In pieces of half a minute, that is hardly ever taken for harm, which in one piece it is."""
    harm = unaware = 0
    for run in range(tries(10, 100)):
        rng = np.random.default_rng([12, run])
        pieces = []
        for _ in range(20):
            arms = [tally(rng, 1500), tally(rng, 1500)]
            if rng.random() < 0.5:
                arm = int(rng.random() < 0.5)
                late = tally(rng, 50, median_s=0.7)
                arms[arm] = Tally(1450, 0, tally(rng, 1450).latencies, 0.0).plus(late)
            pieces.append(Piece(*arms))
        harm += compare("main", "new", pieces).harm
        main, new, _ = zip(*pieces, strict=True)
        unaware += compared(reduce(Tally.plus, main), reduce(Tally.plus, new)).harm
    assert harm <= tries(1, 4)
    assert unaware > harm, "in one piece the stalls show as harm"
