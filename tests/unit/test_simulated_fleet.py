"""The queue and the replicas of a simulation: nothing is lost, counted twice or done too early."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.model.scaling import Demand
from pointsman.testing.scaling.fleet import DEADLINE_S, Fleet
from pointsman.testing.scaling.traces import Calls
from tests.properties import examples


def calls_like(seed: int, count: int, rate: float) -> Calls:
    chance = random.Random(seed)
    times = sorted(chance.uniform(0, count / rate) for _ in range(count))
    return Calls(times, [chance.expovariate(2) for _ in times], [(0.0, rate), (times[-1], 0.0)])


@examples(50)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 60),
    rate=st.floats(0.5, 20),
    slots=st.integers(1, 3),
    sizes=st.lists(st.integers(0, 5), min_size=1, max_size=12),
)
def test_whatever_the_replicas_do_each_call_is_answered_once_and_counted_exactly(
    seed: int, count: int, rate: float, slots: int, sizes: list[int]
) -> None:
    """A user's simulation counts as routers do: the integral of demand is the time that calls have spent (AS18)."""
    calls = calls_like(seed, count, rate)
    fleet, now, before = Fleet(calls, slots, 1.5, 1), 0.0, Demand()
    looks = 0
    while not fleet.done:
        now = fleet.advance(min(0.5 * (looks + 1), fleet.next_ready))
        fleet.expire(now)
        fleet.become_ready(now)
        if now < 0.5 * (looks + 1):
            continue
        looks += 1
        demand = fleet.demand(now)
        assert demand.waiting + demand.running == demand.arrivals - demand.ended
        assert demand.running <= slots * 5 + count  # leaving replicas end their calls beside new ones
        assert all(getattr(demand, name) >= getattr(before, name) - 1e-6 for name in ("call_s", "waiting_s", "ran_s"))
        before = demand
        fleet.resize(sizes[looks % len(sizes)] if looks < 40 else 2, now)
        fleet.become_ready(now)
    demand = fleet.demand(now)
    assert min(fleet.latencies) > 0
    assert demand.ended == count
    assert demand.call_s == pytest.approx(sum(fleet.latencies), abs=1e-6)
    assert demand.ran_s == pytest.approx(sum(calls.service_s))
    assert demand.waiting_s == pytest.approx(demand.call_s - demand.ran_s, abs=1e-6)


def test_a_call_that_waits_for_its_deadline_is_lost_and_no_longer_waits() -> None:
    """A call without a replica is lost at its deadline; its wait until then is demand, and it did not end (AS18)."""
    fleet = Fleet(Calls([1.0], [0.1], [(0.0, 1.0), (1.0, 0.0)]), 1, 5.0, 0)
    assert fleet.advance(100.0) == 1.0
    fleet.expire(1.0 + DEADLINE_S)
    demand = fleet.demand(2000.0)
    assert (fleet.done, fleet.latencies[0] < 0) == (True, True)
    assert (demand.waiting, demand.running, demand.ended, demand.call_s) == (0, 0, 0, DEADLINE_S)


def test_replicas_that_start_are_taken_back_before_those_that_work() -> None:
    """Fewer replicas: those that are not ready go at once, then the least busy, which ends its calls first (AS18)."""
    fleet = Fleet(Calls([0.0, 0.0, 0.0], [4.0, 6.0, 8.0], [(0.0, 1.0), (1.0, 0.0)]), 2, 10.0, 2)
    fleet.advance(0.5)
    fleet.resize(4, 0.5)
    assert (fleet.ready, fleet.starting) == (2, 2)
    fleet.resize(1, 1.0)
    assert (fleet.ready, fleet.starting) == (1, 0)
    fleet.advance(20.0)
    assert fleet.latencies == [4.0, 6.0, 8.0]
    assert fleet.used_s(20.0) == 20.0 + 6.0 + 2 * 0.5
