"""pointsman.stats: intervals of rates and means, shares of arms, and logged choices, held against brute force."""

from __future__ import annotations

import math
from collections import namedtuple
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.stats import SampleRatio, compare_means, evaluate_policy, rate_interval
from tests.properties import examples
from tests.unit.sentences import sentence

# -- rates ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "n", "alpha"), [(0, 1, 0.05), (1, 3, 0.05), (2, 40, 0.01), (17, 20, 0.2), (50, 50, 0.05)]
)
def test_intervals_by_brute_force(k: int, n: int, alpha: float) -> None:
    """Of a thousand rates, those of the rule are in the interval, and no others (ST4)."""
    low, high = rate_interval(k, n, alpha)
    beta = Fraction(math.factorial(k) * math.factorial(n - k), math.factorial(n + 1))
    for thousandth in range(1, 1000):
        p = Fraction(thousandth, 1000)
        assert (beta < p**k * (1 - p) ** (n - k) / Fraction(alpha)) == (low <= p <= high)
    assert (low == 0) == (k == 0)
    assert (high == 1) == (k == n)


def test_no_failure_in_a_hundred_by_hand() -> None:
    """Without a failure in n requests the rate is at most 1 - (alpha/(n + 1))^(1/n), solved by hand (ST4)."""
    assert rate_interval(0, 100) == (0.0, pytest.approx(1 - (0.05 / 101) ** 0.01))
    assert rate_interval(0, 0) == (0.0, 1.0)


@examples(100)
@given(n=st.integers(1, 10_000), share=st.floats(0, 1), alpha=st.sampled_from([0.001, 0.05, 0.3]))
def test_intervals_are_symmetric_and_narrow_with_alpha(n: int, share: float, alpha: float) -> None:
    """Failures and successes are treated alike, the observed rate is inside, and less certainty is narrower (ST4)."""
    k = round(share * n)
    low, high = rate_interval(k, n, alpha)
    other = rate_interval(n - k, n, alpha)
    assert (low, high) == (pytest.approx(1 - other.high, abs=1e-9), pytest.approx(1 - other.low, abs=1e-9))
    assert low <= k / n <= high
    narrow = rate_interval(k, n, alpha * 2)
    assert low <= narrow.low <= narrow.high <= high


def test_intervals_of_billions() -> None:
    """After billions of requests the interval is narrow, and not lost to rounding (ST4)."""
    low, high = rate_interval(10**6, 10**9)
    assert 0.000994 < low < 0.001 < high < 0.001006


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((3, 2), "k"), ((-1, 2), "k"), ((1, math.nan), "n"), ((1, 2, 0), "alpha"), ((1, 2, 1), "alpha")],
)
def test_rates_that_cannot_be(arguments: Any, name: str) -> None:
    """More failures than requests, a negative number, NaN and an alpha out of range are refused in one sentence
    (ST8)."""
    with pytest.raises(ValueError) as caught:
        rate_interval(*arguments)
    sentence(caught.value, name)


# -- means ---------------------------------------------------------------------------------------------------------


@examples(100)
@given(
    n0=st.integers(100, 10**6),
    n1=st.integers(100, 10**6),
    v0=st.floats(0.001, 1e6),
    v1=st.floats(0.001, 1e6),
    alpha=st.sampled_from([0.001, 0.05, 0.5]),
)
def test_means_by_the_formula(n0: int, n1: int, v0: float, v1: float, alpha: float) -> None:
    """The interval of a difference is the rule's, and lies around the difference (ST5)."""
    found = compare_means((n0, 1.0, v0), (n1, 3.0, v1), alpha=alpha, plan=2000)
    v, length = v1 / n1 + v0 / n0, math.log(1 / alpha)
    t = v * min(n0, n1) / 2000 * (2 * length + math.log(1 + 2 * length))
    half = math.sqrt(v * (v + t) / t * (2 * length + math.log((v + t) / v)))
    assert found == (2.0, pytest.approx(2 - half), pytest.approx(2 + half))


def test_the_interval_is_a_mixture() -> None:
    """At the interval's edge the normal mixture, integrated numerically, is as likely as 1/alpha times no difference
    (ST5)."""
    n, variance, alpha = 400, 2.0, 0.05
    _, _, half = compare_means((n, 0.0, variance), (n, 0.0, variance), alpha=alpha, plan=5000)
    v = 2 * variance / n
    t = v * n / 5000 * (2 * math.log(20) + math.log(1 + 2 * math.log(20)))
    step = math.sqrt(t) / 500
    mixture = sum(
        step * math.exp(-effect * effect / (2 * t)) / math.sqrt(2 * math.pi * t)
        * math.exp((half * effect - effect * effect / 2) / v)
        for effect in (step * i for i in range(-5000, 5001))
    )  # fmt: skip
    assert mixture == pytest.approx(1 / alpha, rel=1e-3)


def test_means_that_say_nothing_yet() -> None:
    """Under 100 units, and while no two units of an arm differ, the interval is infinite (ST5)."""
    infinite = (1.0, -math.inf, math.inf)
    assert compare_means((99, 0.0, 1.0), (1000, 1.0, 1.0)) == infinite
    assert compare_means((1000, 0.0, 1.0), (99, 1.0, 1.0)) == infinite
    assert compare_means((0, 0.0, 0.0), (0, 1.0, 0.0)) == infinite
    assert compare_means((1000, 0.0, 0.0), (1000, 1.0, 0.0)) == infinite
    assert compare_means((100, 0.0, 0.0), (100, 1.0, 1.0)).low > -math.inf


def test_means_swapped() -> None:
    """With control and arm swapped, the difference has the other sign (ST5)."""
    one, other = (500, 1.5, 2.0), (300, 1.0, 3.0)
    found, swapped = compare_means(one, other), compare_means(other, one)
    assert (found.difference, found.low) == (-swapped.difference, -swapped.high)


@pytest.mark.parametrize(
    ("control", "more", "name"),
    [
        ((-1, 0.0, 1.0), {}, "n of control"),
        ((100, math.nan, 1.0), {}, "mean of control"),
        ((100, 0.0, -1.0), {}, "variance of control"),
        ((100, 0.0, 1.0), {"alpha": 0}, "alpha"),
        ((100, 0.0, 1.0), {"plan": 0}, "plan"),
    ],
)
def test_means_that_cannot_be(control: Any, more: dict[str, Any], name: str) -> None:
    """A negative number or variance, NaN and an alpha out of range are refused in one sentence (ST8)."""
    with pytest.raises(ValueError) as caught:
        compare_means(control, (100, 0.0, 1.0), **more)
    sentence(caught.value, name)


# -- shares of arms ------------------------------------------------------------------------------------------------


def exact_ratio(shares: dict[str, Fraction], counts: dict[str, int]) -> Fraction:
    """The e-value of SampleRatio: unit by unit, what the mixture predicts over what the share does."""
    e, seen = Fraction(1), dict.fromkeys(shares, 0)
    for arm, count in counts.items():
        for _ in range(count):
            e *= (100 * shares[arm] + seen[arm]) / (100 + sum(seen.values())) / shares[arm]
            seen[arm] += 1
    return e


@examples(50)
@given(a=st.integers(0, 60), b=st.integers(0, 60), c=st.integers(0, 60))
def test_shares_by_prediction(a: int, b: int, c: int) -> None:
    """The evidence is that of predicting each unit by the counts so far (ST6)."""
    shares = {"a": Fraction(1, 2), "b": Fraction(3, 10), "c": Fraction(1, 5)}
    ratio = SampleRatio({"a": 5, "b": 3, "c": 2})
    ratio.add({"a": a, "c": c})
    ratio.add({"b": b})
    assert ratio.log_e == pytest.approx(math.log(exact_ratio(shares, {"a": a, "b": b, "c": c})), abs=1e-9)


def test_lost_units_raise_the_alarm() -> None:
    """An arm that loses a tenth of its units raises the alarm, which stays; fair shares raise none (ST6)."""
    fair, lossy = SampleRatio({"a": 0.5, "b": 0.5}), SampleRatio({"a": 0.5, "b": 0.5})
    for _ in range(100):
        fair.add({"a": 100, "b": 100})
        lossy.add({"a": 100, "b": 90})
    assert not fair.alarm
    assert lossy.alarm
    lossy.add({"b": 1000})
    assert lossy.log_e < math.log(1000)
    assert lossy.alarm


@pytest.mark.parametrize(
    ("shares", "counts", "name"),
    [
        ({"a": 1.0}, {}, "two arms"),
        ({"a": 1.0, "b": 0.0}, {}, "'b'"),
        ({"a": 1.0, "b": math.nan}, {}, "'b'"),
        ({"a": 1, "b": 1}, {"a": 1, "c": 1}, "'c'"),
        ({"a": 1, "b": 1}, {"a": 1, "b": -1}, "'b'"),
    ],
)
def test_shares_that_cannot_be(shares: Any, counts: Any, name: str) -> None:
    """One arm alone, a share of 0, and counts of unknown arms are refused in one sentence (ST8)."""
    with pytest.raises(ValueError) as caught:
        SampleRatio(shares).add(counts)
    sentence(caught.value, name)


# -- logged choices ------------------------------------------------------------------------------------------------


def row(arm: str, propensity: float, value: float, **more: Any) -> dict[str, Any]:
    return {"arm": arm, "propensity": propensity, "value": value, **more}


LOGGED = [row("a", 0.5, 1.0), row("b", 0.25, 2.0), row("a", 0.5, 0.0), row("b", 0.5, 4.0)]


def test_logged_choices_by_hand() -> None:
    """Four rows, and a target of 1/4 and 3/4, computed by hand (ST7)."""
    found = evaluate_policy(LOGGED, {"a": 0.25, "b": 0.75})
    weights = [0.5, 3.0, 0.5, 1.5]
    assert found.n == 4
    assert found.max_weight == 3.0
    assert found.effective_n == pytest.approx(5.5**2 / (0.25 + 9 + 0.25 + 2.25))
    assert found.ips.value == pytest.approx((0.5 + 6 + 0 + 6) / 4)
    assert found.snips.value == pytest.approx(12.5 / 5.5)
    # guesses before each row: a: 0, 1, 1, 0.5 and b: 0, 0, 2, 2
    scores = [0 + 0.5 * 1, 0.25 * 1 + 3 * 2, 0.25 + 1.5 + 0.5 * (0 - 1), 0.125 + 1.5 + 1.5 * (4 - 2)]
    mean = sum(scores) / 4
    assert found.dr.value == pytest.approx(mean)
    half = 1.959963984540054 * math.sqrt(sum((s - mean) ** 2 for s in scores) / 3 / 4)
    assert found.dr.high - mean == pytest.approx(half)
    snips = 12.5 / 5.5
    spread = math.sqrt(sum((w * (r["value"] - snips)) ** 2 for w, r in zip(weights, LOGGED, strict=True))) / 5.5
    assert found.snips.high - snips == pytest.approx(1.959963984540054 * spread)


def test_rows_and_targets_of_several_kinds() -> None:
    """Rows are mappings or objects; a target is an arm, probabilities, or a function of the row that gives these
    (ST7)."""
    Logged = namedtuple("Logged", ["arm", "propensity", "value"])
    found = evaluate_policy(LOGGED, {"a": 0.0, "b": 1.0})
    assert evaluate_policy(LOGGED, "b") == found
    assert evaluate_policy(LOGGED, lambda row: "b") == found
    assert evaluate_policy(iter([Logged(**logged) for logged in LOGGED]), lambda row: {"b": 1.0}) == found


def test_the_policy_that_was_there() -> None:
    """For the split that was logged, each estimate of the value is near the mean value (ST7)."""
    rows = [row("ab"[i % 2], 0.5, float(i % 3)) for i in range(600)]
    found = evaluate_policy(rows, {"a": 0.5, "b": 0.5})
    assert found.ips.value == found.snips.value == pytest.approx(1.0)
    assert found.dr.value == pytest.approx(1.0, abs=0.01)
    assert found.effective_n == 600


def test_a_perfect_model_leaves_no_doubt() -> None:
    """With a model that is right, the doubly robust estimate is exact however few rows had the arm (ST7)."""
    rows = [row("ab"[i % 4 == 0], 0.25 if i % 4 == 0 else 0.75, 5.0 if i % 4 == 0 else 1.0) for i in range(40)]
    found = evaluate_policy(rows, "b", model=lambda row, arm: {"a": 1.0, "b": 5.0}[arm])
    assert found.dr == (5.0, 5.0, 5.0)
    assert found.ips.high - found.ips.low > 1


def test_one_row_says_nothing() -> None:
    """From one row comes a value, and an infinite interval (ST7)."""
    found = evaluate_policy([row("a", 1.0, 3.0)], "a")
    assert found.dr == found.ips == found.snips == (3.0, -math.inf, math.inf)


@pytest.mark.parametrize(
    ("rows", "target", "more", "name"),
    [
        ([row("a", 0.0, 1.0)], "a", {}, "propensity of row 0"),
        ([row("a", 1.0, 1.0), row("a", 1.1, 1.0)], "a", {}, "propensity of row 1"),
        ([row("a", math.nan, 1.0)], "a", {}, "propensity"),
        ([row("a", 1.0, math.nan)], "a", {}, "value of row 0"),
        ([row("a", 1.0, 1.0)], "b", {}, "'b'"),
        ([row("a", 1.0, 1.0)], {"a": 0.5}, {}, "add up to 1"),
        ([row("a", 1.0, 1.0)], {"a": 1.5, "b": -0.5}, {}, "'b'"),
        ([], "a", {}, "rows"),
        ([row("a", 1.0, 1.0)], "a", {"alpha": 1.0}, "alpha"),
        ([row("a", 1.0, 1.0)], "a", {"model": lambda row, arm: math.inf}, "model"),
        ([{"arm": "a", "value": 1.0}], "a", {}, "no propensity"),
        (
            [row("a", 0.5, 1.0, wants="b"), row("b", 0.5, 1.0, wants="a")],
            lambda row: row["wants"],
            {},
            "none",
        ),
    ],
)
def test_logs_that_cannot_be_judged(rows: Any, target: Any, more: dict[str, Any], name: str) -> None:
    """A propensity outside (0, 1], a wanted arm that was never taken, NaN and probabilities that do not add up are
    refused in one sentence (ST7, ST8)."""
    with pytest.raises(ValueError) as caught:
        evaluate_policy(rows, target, **more)
    sentence(caught.value, name)
