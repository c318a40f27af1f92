"""policy.scaling: falls of the number of replicas: delays, what is needed again, restarts, traffic, seasons."""

from __future__ import annotations

import msgspec
import pytest

from pointsman.model.scaling import IDLE, SEASON, TRAFFIC
from pointsman.policy.scaling import falls, seasons
from pointsman.testing import simulate_autoscaling
from tests.unit.scaling_world import Backend


def fallen(backend: Backend) -> list[tuple[float, int, int]]:
    """When the number of replicas fell, from what to what."""
    return [(when, before, after) for when, before, after, _, _ in backend.changes if after < before]


def test_replicas_go_once_the_highest_need_of_the_delay_is_lower():
    """After five minutes of few calls nine replicas become two in one or two steps, and not before. (AS3)"""
    backend = Backend(wanted=9).flow(60, 60)
    quiet = backend.now
    backend.flow(299, 8)
    assert backend.wanted == 9
    backend.flow(150, 8)
    assert backend.wanted <= 2
    first = fallen(backend)[0][0] - quiet
    assert 300 <= first <= 345
    assert len(fallen(backend)) <= 3
    assert "were enough for 300 s, now demand" in backend.changes[-1][4]


def test_a_short_burst_that_fits_begins_the_delay_anew():
    """Five seconds of many calls within the delay say that the replicas are still needed. (AS3, AS4)"""
    backend = Backend(wanted=9).flow(60, 60).flow(250, 8).flow(5, 60).flow(250, 8)
    assert backend.wanted >= 6


def test_a_short_delay_is_short():
    """With downscale_delay_s 10 what is not needed goes when half a minute shows no more. (AS3)"""
    backend = Backend(wanted=9, downscale_delay_s=10.0).flow(60, 60).flow(60, 8)
    assert backend.wanted <= 2


def test_demand_that_rises_again_keeps_what_is_there():
    """Nothing goes while demand is a quarter above that of two minutes ago: it would soon be missed. (AS3)"""
    backend = Backend(wanted=9).flow(60, 60).flow(200, 5)
    for second in range(300):
        backend.flow(1, 5 + 45 * second / 300)
    assert backend.flaps == 0
    assert fallen(backend) == []


def test_the_last_replica_goes_after_a_delay_of_its_own():
    """A backend that may be at 0 gets there after downscale_to_zero_delay_s without a call, which is said. (AS3)"""
    backend = Backend(wanted=1, bounds=(0, 9), min_replicas=0, downscale_to_zero_delay_s=60.0).flow(60, 5)
    quiet = backend.now
    backend.flow(180, 0)
    assert backend.wanted == 0
    when, before, after, reason, text = backend.changes[-1]
    assert 60 <= when - quiet <= 95
    assert (before, after, reason) == (1, 0, IDLE)
    assert text.startswith("no call for ")


def test_without_that_delay_the_last_replica_waits_as_the_others_do():
    """The delay to 0 is downscale_delay_s where it is not set. (AS3)"""
    backend = Backend(wanted=1, bounds=(0, 9), min_replicas=0, downscale_delay_s=100.0).flow(60, 5)
    backend.flow(90, 0)
    assert backend.wanted == 1
    backend.flow(60, 0)
    assert backend.wanted == 0


def test_a_long_delay_to_zero_keeps_one():
    """Several replicas become one after the delay, and none after the longer one to 0. (AS3)"""
    backend = Backend(wanted=4, bounds=(0, 9), min_replicas=0, downscale_delay_s=30.0, downscale_to_zero_delay_s=300.0)
    backend.flow(60, 25).flow(150, 0)
    assert backend.wanted == 1
    backend.flow(200, 0)
    assert backend.wanted == 0


def test_a_call_that_runs_is_a_call():
    """A backend whose only stream runs for an hour is not taken to 0. (AS3)"""
    backend = Backend(wanted=1, bounds=(0, 9), min_replicas=0, downscale_delay_s=10.0, service_s=3600.0)
    backend.callers(3000, 1)
    assert backend.wanted >= 1
    assert fallen(backend) == []


def test_needing_again_what_went_doubles_the_delay_for_half_an_hour():
    """Bursts each six minutes make the delay ten minutes, so that the third finds its replicas. (AS8)"""
    backend = Backend(wanted=9, start_s=2.0).flow(60, 60).flow(360, 8)
    assert backend.wanted <= 2
    for _ in range(3):
        backend.flow(30, 60).flow(360, 8)
        assert backend.wanted >= 8
    assert backend.memory is not None
    assert falls.delay_of(backend.memory.falls, backend.config) == 600
    backend.flow(2400, 8)
    assert backend.wanted <= 2
    assert falls.delay_of(backend.memory.falls, backend.config) == 300


def test_a_delay_of_the_users_own_doubles_to_ten_minutes_at_most():
    """100 s become 200, 400 and 600 s; a longer delay than that stays what it is. (AS8)"""
    config = Backend(downscale_delay_s=100.0).config
    kept = falls.begin(0.0, 1)
    delays = []
    for number in range(4):
        kept = falls.fallen(kept, 10.0 * number, 3, 2)
        kept = falls.raised(kept, config, 10.0 * number + 5, 3, 3)
        delays.append(falls.delay_of(kept, config))
    assert delays == [200, 400, 600, 600]
    assert falls.delay_of(kept, Backend(downscale_delay_s=900.0).config) == 900


def test_what_went_after_a_backlog_is_not_missed():
    """Replicas that had only worked off a backlog do not count as gone. (AS8)"""
    backend = Backend(wanted=2, start_s=30.0).flow(60, 5).flow(200, 60).flow(60, 75)
    assert backend.memory is not None
    assert backend.memory.falls.delay_s is None


def test_a_new_controller_lets_nothing_go_before_it_has_looked_back():
    """A controller that starts anew keeps what was wanted, and needs a whole delay to know better. (AS20)"""
    backend = Backend(wanted=9, downscale_delay_s=0.0).flow(60, 60)
    backend.restart_controller()
    before, began = backend.wanted, backend.now
    backend.flow(29, 5)
    assert backend.wanted == before
    backend.flow(60, 5)
    assert backend.wanted <= 2
    assert fallen(backend)[0][0] - began >= 30


def test_a_new_controller_counts_what_was_wanted_as_needed():
    """The delay begins with the controller: what was needed before is not known. (AS20)"""
    backend = Backend(wanted=9)
    backend.flow(295, 5)
    assert backend.wanted == 9
    backend.flow(60, 5)
    assert backend.wanted <= 2


def test_a_silent_router_blocks_falls_and_not_rises():
    """While a router with calls has said nothing, the number may only rise. (AS20)"""
    backend = Backend(wanted=4, downscale_delay_s=0.0).flow(60, 25)
    backend.more = {"silent": True}
    backend.flow(120, 2)
    assert backend.wanted == 4
    backend.flow(5, 60)
    assert backend.wanted > 4
    backend.more = {}
    backend.flow(400, 2)
    assert backend.wanted == 1


def test_a_traffic_policy_is_a_step_known_ahead():
    """Half of the traffic, or thrice: the number is that for the new share at the next look, both ways. (AS10)"""
    backend = Backend(wanted=9).flow(120, 50)
    verdict = backend.look(share=0.5)
    assert 4 <= verdict.wanted <= 5
    assert backend.reasons[-1] == TRAFFIC
    assert "multiplies the calls by 0.5" in verdict.text
    backend.flow(120, 25)
    verdict = backend.look(share=3.0)
    assert verdict.wanted >= 10
    backend.flow(120, 75)
    assert backend.waiting < 5


def test_a_canary_that_gets_all_calls_starts_for_them():
    """A version with a hundredth of the calls that gets all of them is given the number for all at once. (AS10)"""
    backend = Backend(wanted=1).flow(120, 0.6)
    verdict = backend.look(share=100.0)
    assert 8 <= verdict.wanted <= 45
    assert verdict.reason == TRAFFIC


def test_a_version_that_gets_no_calls_any_more_goes_to_its_minimum():
    """A switch away takes the old version to its minimum at once. (AS10)"""
    backend = Backend(wanted=9).flow(120, 50)
    assert backend.look(share=0.0).wanted == 1
    backend.flow(60, 0)
    assert backend.wanted == 1


def test_more_traffic_takes_nothing_away():
    """A version that gets a few calls more keeps the replicas that a burst has needed two minutes ago. (AS10)"""
    backend = Backend(wanted=9).flow(120, 50).flow(60, 10)
    assert backend.look(share=1.1).wanted == 9
    assert backend.look(gains=0.1).wanted == 9
    backend.flow(200, 10)
    assert backend.wanted == 9, "the delay has not passed since"
    backend.flow(200, 10)
    assert backend.wanted < 9


def test_less_traffic_leaves_the_same_part_of_a_burst():
    """A rollout takes a tenth of the calls of a version with bursts each few minutes: it keeps nine tenths of what a
    burst needs, also after ten steps of a hundredth. (AS10)"""
    backend = Backend(wanted=10).flow(120, 60).flow(60, 5)
    assert backend.look(share=0.9).wanted == 9
    again = Backend(wanted=10).flow(120, 60).flow(60, 5)
    for _ in range(10):
        again.look(share=0.99)
    assert 9 <= again.wanted <= 10


def test_a_season_starts_replicas_ahead():
    """Bursts that come each ten minutes find their replicas ready from the second on, and few between. (AS8)"""
    backend = Backend(wanted=2, season_s=600.0, downscale_delay_s=60.0, start_s=10.0).flow(300, 8)
    backend.flow(30, 60).flow(570, 8)
    assert backend.wanted >= 7
    assert SEASON in backend.reasons
    longest = 0.0
    for _ in range(60):
        backend.flow(0.5, 60)
        longest = max(longest, backend.waiting)
    assert longest == 0
    backend.flow(300, 8)
    assert backend.wanted <= 2


def test_the_bursts_of_a_season_are_hardly_late():
    """After two seasons at most one call in 1,000 of regular bursts is late. (AS8, SF2)"""
    steps = [step for begin in range(0, 1800, 300) for step in ((begin, 8.0), (begin + 270, 60.0))]
    config = {"max_replicas": 40, "season_s": 300.0}
    late = {}
    for end in (600, 1800):
        trace = [*[step for step in steps if step[0] < end], (float(end), 0.0)]
        found = simulate_autoscaling(trace, config, service_s=(0.1, 0.5), slo_ms=500, start_s=10, seed=1)
        late[end] = (found.late * found.requests, found.requests)
    calls = late[1800][1] - late[600][1]
    assert (late[1800][0] - late[600][0]) / calls <= 0.001


def test_a_season_is_remembered_in_parts():
    """A day is remembered in 720 parts of two minutes, and the highest number of each counts. (AS8)"""
    season = None
    for minute in range(3 * 24 * 60):
        needed = 7 if minute % (24 * 60) == 600 else 1
        season = seasons.noted(season, 86_400.0, 60.0 * minute, needed)
    assert season is not None
    assert len(season.parts) <= seasons.PARTS + 3
    begin = 3 * 86_400.0
    assert seasons.ahead(season, 86_400.0, begin + 600 * 60 - 200, 30.0) == 1
    assert seasons.ahead(season, 86_400.0, begin + 600 * 60 - 20, 30.0) == 7
    assert seasons.ahead(None, 86_400.0, begin, 30.0) == 0


def test_the_memory_can_be_stored():
    """What the rule remembers is plain data, which can be packed and unpacked. (AS20)"""
    backend = Backend(wanted=2, season_s=600.0, upscale_delay_s=5.0).flow(60, 5).flow(30, 60)
    packed = msgspec.msgpack.encode(backend.memory)
    assert msgspec.msgpack.decode(packed, type=type(backend.memory)) == backend.memory


@pytest.mark.parametrize("rate", [3.0, 10.0, 30.0])
def test_even_calls_change_nothing_in_an_hour(rate: float):
    """Calls that come evenly lead to one number, which stays. (AS3)"""
    backend = Backend(wanted=2).flow(600, rate)
    settled = len(backend.changes)
    backend.flow(3600, rate)
    assert len(backend.changes) == settled
