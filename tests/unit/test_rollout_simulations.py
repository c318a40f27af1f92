"""Whole rollouts at 100 requests/s with the defaults, by simulation with fixed seeds: what a bad version costs users,
and how often a good one goes back.

The gate has short versions. ``make test-long`` has all runs and prints the figures beside those of the rules.
"""

from __future__ import annotations

import pytest

from tests.properties import tries
from tests.rollouts import Version, rolled
from tests.statistical import binomial_limit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def quantile(numbers: list[int], share: float) -> int:
    return sorted(numbers)[int(share * len(numbers))]


@pytest.mark.parametrize(
    ("main", "new", "exposed", "gate_runs"),
    [
        (Version(0.0), Version(1.0), 4, 100),
        (Version(0.01), Version(0.1), 44, 40),
        (Version(0.001), Version(0.02), 212, 12),
    ],
    ids=["all fail", "1 -> 10 %", "0.1 -> 2 %"],
)
def test_what_a_bad_version_costs(main: Version, new: Version, exposed: int, gate_runs: int) -> None:
    """A version that fails more often goes back after so many requests, in half of the cases, of which five have
    failed; one that always fails, within ten seconds and ten requests (RO7, RO12)."""
    runs = tries(gate_runs, 1000)
    ends = [rolled([20, run], main, new) for run in range(runs)]
    seen, failed, seconds = [end.exposed for end in ends], [end.failed for end in ends], [end.seconds for end in ends]
    for what, numbers in (("requests", seen), ("failed", failed), ("seconds", seconds)):
        print(f"{main.errors:.1%} -> {new.errors:.0%}, {what}: {[quantile(numbers, share) for share in SHARES]}")
    assert {end.state for end in ends} == {"rolled_back"}
    assert abs(quantile(seen, 0.5) - exposed) <= tries(35, 8) / 100 * exposed
    assert quantile(failed, 0.5) <= 5
    if new.errors == 1:
        assert quantile(seen, 0.99) <= 10
        assert quantile(seconds, 0.98) <= 10


SHARES = (0.5, 0.9, 0.99)


@pytest.mark.parametrize("errors", [0.001, 0.01])
def test_how_often_a_good_version_goes_back(errors: float) -> None:
    """A version that does no harm is promoted, but for few of many whole rollouts (RO4, RO12)."""
    runs = tries(1, 200)
    ends = [rolled([22, int(1000 * errors), run], Version(errors), Version(errors)) for run in range(runs)]
    back = [end for end in ends if end.state != "promoted"]
    print(f"errors {errors:.1%}: {len(back)} of {runs} went back: {[end.reason for end in back]}")
    assert len(back) / runs <= binomial_limit(0.005, runs)
    assert all(end.seconds == 1500 for end in ends if end.state == "promoted")


def test_a_slow_version_goes_back() -> None:
    """One that takes twice as long goes back on the first steps, one that takes a tenth longer on a later one (RO4)."""
    runs = tries(2, 100)
    for times, least in ((2.0, 1.0), (1.2, 0.95)):
        ends = [rolled([23, run], Version(0.01), Version(0.01, times)) for run in range(runs)]
        back = [end for end in ends if end.state == "rolled_back"]
        print(
            f"x{times}: {len(back)} of {runs} went back, after {quantile([end.exposed for end in ends], 0.5)} requests"
        )
        assert len(back) / runs >= least
