"""policy.scaling: rises of the number of replicas, by demand, beyond noise, for a backlog, by blocked loops."""

from __future__ import annotations

import random

import pytest

from pointsman.model.scaling import BACKLOG, DEMAND, POLICY, WAKE
from pointsman.policy.scaling.facts import TARGET
from pointsman.testing.scaling.figures import simulated
from tests.properties import tries
from tests.unit.scaling_world import Backend


@pytest.mark.parametrize("service_s", [0.02, 0.1, 1.0, 5.0])
@pytest.mark.parametrize("slots", [1, 2, 100])
def test_eight_callers_without_pause_get_four_replicas_at_a_target_of_two(service_s: float, slots: int):
    """Eight callers that never pause, at two calls a replica, are served by four replicas, and stay so. (AS3)"""
    backend = Backend(target_ongoing_requests=2.0, service_s=service_s, slots=slots, start_s=2.0)
    backend.callers(240, 8)
    assert backend.wanted == 4
    backend.callers(600, 8)
    assert backend.wanted == 4
    assert backend.peak <= 5


def test_callers_without_pause_are_known_within_seconds():
    """Four callers whose calls one replica answers as fast as it can are not taken for chance, though no more calls
    come than it answers: they have all that they get in the end after a second and a half. (AS3, AS4)"""
    backend = Backend(start_s=1.0).flow(20, 0)
    backend.callers(1.5, 4)
    assert backend.wanted == 6
    assert "callers without pause" in backend.changes[-1][-1]
    backend.callers(300, 4)
    assert (backend.wanted, backend.peak) == (6, 6)


def test_only_callers_that_have_called_again_are_known():
    """A thousand calls that come at once are work to be done: no more count as callers than have come again. (AS4)"""
    backend = Backend(start_s=60.0, bounds=(1, 5000)).flow(20, 0)
    backend.callers(5, 1000)
    known = [float(text.split()[1]) for *_, reason, text in backend.changes if "without pause" in text]
    assert known
    assert max(known) <= 50


@pytest.mark.parametrize(("rate", "wanted"), [(20, 4), (21.9, 4), (18.1, 4), (22.5, 5), (26, 5)])
def test_demand_within_the_tolerance_changes_nothing(rate: float, wanted: int):
    """At 0.5 calls a replica four take 20 calls/s of 0.1 s, and 10 % more before a fifth starts. (AS3)"""
    backend = Backend(wanted=4, target_ongoing_requests=0.5).flow(120, rate)
    assert backend.wanted == wanted
    assert set(backend.reasons) <= {DEMAND}


def test_a_tolerance_of_the_users_own_counts():
    """With a tolerance of a half, four replicas take 29 calls/s where they would else take 22. (AS3)"""
    assert Backend(wanted=4, target_ongoing_requests=0.5, tolerance=0.5).flow(120, 29).wanted == 4
    assert Backend(wanted=4, target_ongoing_requests=0.5, tolerance=0.0).flow(120, 21).wanted == 5


def test_without_a_target_a_replica_shall_be_busy_for_seven_tenths():
    """A sync replica, which runs one call at a time, gets 0.7 calls at a time, one of a batch of 8 gets 5.6. (AS3)"""
    assert TARGET == 0.7
    assert Backend(wanted=2).flow(120, 20).wanted == 3
    assert Backend(wanted=3, slots=8, service_s=1.0).flow(120, 20).wanted == 4


def test_a_step_is_seen_within_a_second_or_so():
    """Twelve times the calls ask for replicas after 1.5 s at most, long before an average of 30 s does. (AS4)"""
    backend = Backend(wanted=1).flow(60, 5)
    began = backend.now
    backend.flow(5, 60)
    assert backend.changes[0][0] - began <= 1.5
    assert backend.wanted >= 9


def test_a_slow_rise_is_followed():
    """Calls that grow by a third a minute always find replicas: none waits for a second. (AS4)"""
    backend, longest = Backend(wanted=2, start_s=10.0).flow(60, 5), 0.0
    for second in range(900):
        backend.flow(1, 5 + 50 * second / 900)
        longest = max(longest, backend.waiting)
    assert backend.wanted >= 8
    assert longest < 10
    assert backend.flaps == 0


@pytest.mark.parametrize("rate", [3, 10, 30])
@pytest.mark.parametrize("seed", range(tries(1, 20)))
def test_chance_alone_changes_nothing(rate: int, seed: int):
    """An hour of 3, 10 or 30 calls/s, by chance, never makes the number go up and down. (AS4, SF1)"""
    found = simulated([(0, rate), (3600, 0)], "pointsman", seed)
    assert found.flaps == 0
    assert len(found.decisions) <= 4


def test_a_backlog_is_worked_off_and_not_taken_for_lasting_demand():
    """A start time of 30 s piles up 1,200 calls; 30 replicas at most work them off, not all 100. (AS4)"""
    backend = Backend(wanted=2, start_s=30.0, bounds=(1, 100)).flow(60, 5)
    backend.flow(120, 60)
    assert BACKLOG in backend.reasons
    assert 9 < backend.peak <= 30
    assert backend.waiting < 5
    assert backend.wanted <= 10
    assert "the backlog is gone" in backend.changes[-1][4]


def test_calls_that_come_all_at_once_are_no_rate():
    """A batch of 100 calls, ten seconds of work, starts one replica more for its rest, not thirteen. (AS4)"""
    backend = Backend(wanted=1).flow(60, 3)
    backend.step(100)
    backend.flow(60, 3)
    assert backend.peak <= 3


def test_the_replicas_for_a_backlog_stay_until_it_is_gone():
    """Replicas that start within a minute are not given up before they are there. (AS4)"""
    backend = Backend(wanted=2, start_s=60.0).flow(60, 5)
    backend.flow(60, 60)
    assert all(after > before for _, before, after, _, _ in backend.changes)
    backend.flow(120, 60)
    assert backend.waiting < 5
    assert backend.flaps <= 1


def test_without_room_a_backlog_does_not_ask_for_ever_more():
    """Where wanted replicas do not start for lack of room, nothing grows with the calls that wait. (AS4)"""
    backend = Backend(wanted=2, start_s=10.0).flow(60, 5)
    backend.start_s = 10_000.0
    backend.more = {"start_s": 10.0}
    backend.flow(5, 60)
    asked = backend.wanted
    backend.flow(60, 60)
    assert backend.wanted <= 2 * asked


def test_a_blocked_event_loop_is_a_full_replica():
    """An async replica whose loop is blocked for 95 % of the time gets a second one, although calls are few. (AS6)"""
    backend = Backend(slots=100, service_s=0.05, start_s=2.0)
    for _ in range(1000):
        backend.more = {"is_async": True, "blocked": 0.95 / backend.ready}
        backend.step(10)
    assert [change[1:3] for change in backend.changes] == [(1, 2)]
    assert "event loop is blocked 95 %" in backend.changes[0][4]


def test_a_blocked_loop_says_nothing_where_there_is_a_target():
    """A target of the user's own is what counts. (AS6)"""
    backend = Backend(slots=100, target_ongoing_requests=50.0)
    backend.more = {"is_async": True, "blocked": 0.95}
    assert backend.flow(60, 20).wanted == 1


def test_the_first_call_wakes_a_backend():
    """At no replicas the first look with a call asks for one, and the next ones for what the calls need. (AS14)"""
    backend = Backend(wanted=0, bounds=(0, 100), min_replicas=0, service_s=0.1)
    backend.flow(5, 0)
    backend.step(1)
    assert [change[1:4] for change in backend.changes] == [(0, 1, WAKE)]
    assert backend.changes[0][4] == "1 call waits and no replica is there"


def test_a_delay_of_rises_is_waited_for():
    """With upscale_delay_s 20 a rise must have lasted so long; one of 10 s starts nothing. (AS3)"""
    backend = Backend(wanted=2, upscale_delay_s=20.0).flow(60, 5)
    began = backend.now
    backend.flow(10, 25).flow(30, 5)
    assert backend.changes == []
    backend.flow(60, 60)
    assert 20 <= backend.changes[0][0] - began - 40 <= 24


def test_nobody_waits_for_the_first_replica():
    """A delay of rises holds for more replicas, not for the first. (AS14)"""
    backend = Backend(wanted=0, bounds=(0, 10), min_replicas=0, upscale_delay_s=60.0)
    backend.step(1)
    assert backend.wanted == 1


def test_factors_make_steps_smaller_and_larger():
    """An upscaling_factor of 0.5 goes half of the way, of 2 twice of it; always at least one. (AS3)"""
    for factor, up, down in ((0.5, 6, 4), (1.0, 10, 2), (2.0, 18, 2)):
        backend = Backend(wanted=2, upscaling_factor=factor, downscaling_factor=factor, downscale_delay_s=0.0)
        backend.more = {"policy_wants": 10.0}
        backend.look()
        assert backend.wanted == up
        backend.wanted = backend.ready = 6
        backend.flow(31, 1)
        backend.more = {"policy_wants": 2.0}
        backend.wanted = backend.ready = 6
        backend.step(0.5)
        assert backend.wanted == down


def test_bounds_act_at_once_and_say_so():
    """Bounds that a user narrows or raises are kept at the next look. (AS2)"""
    backend = Backend(wanted=4).flow(30, 25)
    backend.bounds = (6, 10)
    backend.look()
    assert backend.changes[-1][1:] == (4, 6, "bounds", "at least 6")
    backend.bounds = (1, 3)
    backend.look()
    assert backend.changes[-1][1:] == (6, 3, "bounds", "at most 3")


def test_what_is_desired_is_told_before_the_bounds():
    """The rule says how many it would want, beside how many it may have. (AS17)"""
    backend = Backend(wanted=2, bounds=(1, 3)).flow(60, 60)
    assert backend.verdict is not None
    assert backend.wanted == 3
    assert backend.verdict.desired > 3


def test_the_number_of_a_users_policy_counts_within_bounds():
    """A policy's number is rounded up and bounded; what it gives up goes after the delay. (AS13)"""
    backend = Backend(wanted=2, bounds=(1, 8), downscale_delay_s=60.0)
    backend.more = {"policy_wants": 4.2}
    backend.flow(5, 1)
    assert backend.changes[0][1:4] == (2, 5, POLICY)
    backend.more = {"policy_wants": 400.0}
    backend.flow(1, 1)
    assert backend.wanted == 8
    backend.more = {"policy_wants": 3.0}
    backend.flow(50, 1)
    assert backend.wanted == 8
    backend.flow(30, 1)
    assert backend.wanted == 3
    backend.more = {"policy_wants": float("nan")}
    backend.flow(1, 60)
    assert backend.wanted >= 3


def test_many_looks_at_any_times_are_fine():
    """Looks that come early, late, or at once after another change nothing of what is decided. (AS4)"""
    chance = random.Random(7)
    backend = Backend(wanted=4, slots=1)
    for _ in range(4000):
        backend.step(10.0)
        if chance.random() < 0.3:
            backend.look()
    assert backend.changes == []


def test_a_long_look_back_costs_no_more_than_a_short_one():
    """A look-back of half an hour keeps as many looks as one of half a minute, about. (SF4)"""
    backend = Backend(wanted=4, look_back_period_s=1800.0).flow(4000, 20)
    assert backend.memory is not None
    assert len(backend.memory.looks.times) < 120
    assert backend.verdict is not None
    assert backend.verdict.arrivals_per_second == pytest.approx(20, rel=0.02)


def test_an_unknown_start_and_service_are_guessed():
    """A new backend's first burst, of which nothing is known, does not ask for the maximum. (AS4)"""
    backend = Backend(wanted=0, bounds=(0, 200), min_replicas=0, start_s=10.0)
    backend.more = {"start_s": None}
    backend.flow(5, 60)
    assert 1 <= backend.peak <= 60


def test_replicas_of_an_older_version_count_as_long_as_they_serve():
    """While a new version starts, calls on the old replicas are served, and no backlog is seen. (AS9)"""
    backend = Backend(wanted=4).flow(60, 25)
    backend.more = {"ready": 0, "starting": 4}
    backend.flow(20, 25)
    assert backend.changes == []
