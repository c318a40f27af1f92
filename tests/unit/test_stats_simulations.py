"""pointsman.stats: how often each gate is wrong, and what it costs in requests, by simulation with fixed seeds.

The gate has short versions. ``make test-long`` has all 2,000 runs and prints the figures beside those of the rules.
"""

from __future__ import annotations

import pytest

from tests.properties import tries
from tests.statistical import (
    binomial_limit,
    interval_errors,
    latency_cost,
    mean_cost,
    mean_errors,
    policy_coverage,
    rate_cost,
    rate_errors,
    ratio_errors,
    stall_errors,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def near(promised: float, measured: float, relative: float) -> bool:
    print(f"promised {promised:,g}, measured {measured:,g}")
    return abs(measured - promised) <= relative * promised


def at_most(promised: float, measured: float, runs: int) -> bool:
    print(f"promised at most {promised:.2%}, measured {measured:.2%} of {runs} runs")
    return measured <= binomial_limit(promised, runs)


def test_equal_versions_seldom_trip_the_error_gate() -> None:
    """A canary that is no worse is seldom turned back, however often one looks; by a usual test it mostly is (ST9)."""
    runs = tries(60, 2000)
    errors = rate_errors(runs)
    assert at_most(0.05, errors.gate, runs)
    assert errors.usual > 0.25


@pytest.mark.parametrize(
    ("p1", "requests", "gate_runs"), [(0.02, 1100, 100), (0.1, 44.4, 300), (1.0, 3, 100)], ids=["2 %", "10 %", "all"]
)
def test_what_it_costs_to_see_errors(p1: float, requests: float, gate_runs: int) -> None:
    """A canary that fails more often than the 1 % of the baseline is turned back after so many requests in the mean
    (ST10)."""
    assert near(requests, rate_cost(tries(gate_runs, 2000), 0.01, p1).mean, relative=tries(15, 5) / 100)


@pytest.mark.parametrize(("times", "requests"), [(1.2, 1250), (2.0, 350)])
def test_what_it_costs_to_see_slowness(times: float, requests: float) -> None:
    """A canary that takes longer is turned back after so many requests, in half of the cases (ST11)."""
    assert near(requests, latency_cost(tries(60, 2000), times).median, relative=0.2)


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_stalls_do_not_trip_the_latency_gate(share: float) -> None:
    """Versions that stall now and then, each as often as the other, seldom trip the latency gate; a gate that takes
    requests as independent trips often (ST11)."""
    runs = tries(30, 1000)
    errors = stall_errors(runs, share=share)
    assert at_most(0.03, errors.gate, runs)
    assert errors.usual > 0.15


def test_equal_arms_are_seldom_told_apart() -> None:
    """An experiment with equal arms seldom finds a difference, however often one looks; usual intervals do (ST12)."""
    runs = tries(200, 2000)
    errors = mean_errors(runs)
    assert at_most(0.025, errors.gate, runs)
    assert errors.usual > 0.3


def test_what_it_costs_to_see_a_difference_of_means() -> None:
    """A tenth of a standard deviation is seen after so many units an arm in the mean (ST12)."""
    assert near(1880, mean_cost(tries(60, 2000), looks=tries(8000, 20_000)).mean, relative=tries(20, 5) / 100)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5])
def test_intervals_of_rates_seldom_miss(p: float) -> None:
    """The true rate is in the interval at each look, in nearly all cases (ST12)."""
    runs = tries(150, 2000)
    assert at_most(0.041, interval_errors(runs, p), runs)


@pytest.mark.parametrize("shares", [{"a": 0.5, "b": 0.5}, {"a": 0.95, "b": 0.05}], ids=["even", "uneven"])
def test_shares_as_they_should_be_raise_no_alarm(shares: dict[str, float]) -> None:
    """Units that fall to the arms by their shares raise hardly any alarm (ST12)."""
    runs = tries(30, 2000)
    assert at_most(0.002, ratio_errors(runs, shares), runs)


def test_intervals_of_logged_choices_cover() -> None:
    """What another split would have earned is in the interval in 19 of 20 cases, by each estimate (ST12)."""
    runs = tries(100, 2000)
    for name, covered in policy_coverage(runs)._asdict().items():
        print(f"{name}: promised 93-97 %, measured {covered:.1%}")
        assert covered >= 1 - binomial_limit(0.07, runs)
        assert covered <= binomial_limit(0.97, runs)
