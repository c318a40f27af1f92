"""policy.balance: how fast a queue is worked off."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.policy.balance import MEMORY_S, Throughput
from tests.properties import examples


def steady(pace: Throughput, *, per_second: float, since: float, seconds: float) -> float:
    """Note things at a steady rate; returns the time."""
    for number in range(1, int(per_second * seconds) + 1):
        pace.note(since + number / per_second)
    return since + seconds


def test_nothing_has_happened() -> None:
    """A backend that has answered nobody yet has no pace, at its first moment or later."""
    pace = Throughput(100.0)
    assert pace.per_second(100.0) == 0
    assert pace.per_second(200.0) == 0


@pytest.mark.parametrize("rate", [1, 20, 500])
@pytest.mark.parametrize("seconds", [2, 60])
def test_a_steady_pace_is_found(rate: int, seconds: int) -> None:
    """What ends so many times a second is known as that, after a few seconds and later."""
    pace = Throughput(0.0)
    now = steady(pace, per_second=rate, since=0.0, seconds=seconds)
    assert pace.per_second(now) == pytest.approx(rate, rel=0.35 if rate == 1 else 0.05)


def test_a_new_pace_takes_over() -> None:
    """A backend that has become slow is known as slow after some seconds."""
    pace = Throughput(0.0)
    now = steady(pace, per_second=100, since=0.0, seconds=60)
    now = steady(pace, per_second=10, since=now, seconds=5 * MEMORY_S)
    assert 9 < pace.per_second(now) < 12


def test_silence_counts() -> None:
    """While nothing ends the pace goes down, and never below 0."""
    pace = Throughput(0.0)
    now = steady(pace, per_second=100, since=0.0, seconds=20)
    rates = [pace.per_second(now + later) for later in (0, 1, 5, 50, 1e6)]
    assert rates == sorted(rates, reverse=True)
    assert rates[2] == pytest.approx(rates[0] / 2.72, rel=0.1)
    assert 0 <= rates[-1] < 1e-9


def test_looking_changes_nothing() -> None:
    """The rate can be asked for as often as anyone likes."""
    pace = Throughput(0.0)
    now = steady(pace, per_second=10, since=0.0, seconds=10)
    assert pace.per_second(now + 1) == pace.per_second(now + 1)
    assert pace.per_second(now) > pace.per_second(now + 1)


@examples(100)
@given(gaps=st.lists(st.floats(0, 1e4), min_size=1, max_size=50), later=st.floats(0, 1e4))
def test_a_pace_is_a_number(gaps: list[float], later: float) -> None:
    """Whenever things end, the rate is finite and not negative."""
    now = 10.0
    pace = Throughput(now)
    for gap in gaps:
        now += gap
        pace.note(now)
    assert 0 <= pace.per_second(now + later) < float("inf")
