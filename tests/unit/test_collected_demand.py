"""What routers count of calls, added up by the controller, with random interleavings held against a plain model."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.controller.scaling.demand import FORGOTTEN_S, LINGER_S, SILENT_S, Collector
from pointsman.model.scaling import Demand
from pointsman.policy.scaling.totals import Totals
from pointsman.wire.scaling import DemandHead
from tests.properties import examples


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def collecting() -> tuple[Collector, Clock]:
    clock = Clock()
    return Collector(clock), clock


def head(**backends: Demand) -> DemandHead:
    return DemandHead(backends)


def test_two_routers_are_added_up():
    """Calls that come by an HTTP server and by a handle count alike."""
    collector, _ = collecting()
    for router in (1, 2):
        collector.reported(router, head())
        collector.reported(router, head(m=Demand(2.0, 0.5, 10, 8, 1.5, 0.3, 1, 1)))
    found = collector.demand_of("m")
    assert (found.call_s, found.waiting_s, found.arrivals, found.ended) == (4.0, 1.0, 20, 16)
    assert (found.waiting, found.running) == (2, 2)
    assert collector.demand_of("other") == Demand()


def test_a_new_controller_does_not_take_the_past_for_demand():
    """After the death of a controller, what a router has counted in its life before is no demand of now (AS20)."""
    collector, _ = collecting()
    collector.reported(1, head(m=Demand(5000.0, 0.0, 90000, 90000, 5000.0, 300.0, 0, 3)))
    found = collector.demand_of("m")
    assert (found.call_s, found.arrivals, found.running) == (0.0, 0, 3)
    collector.reported(1, head(m=Demand(5001.5, 0.0, 90010, 90010, 5001.5, 300.0, 0, 3)))
    found = collector.demand_of("m")
    assert (found.call_s, found.arrivals, found.running) == (1.5, 10, 3)


def test_a_router_that_is_gone_takes_its_calls_along():
    """The calls of a server that died are gone at once; what it had counted stays counted (AS20)."""
    collector, _ = collecting()
    collector.reported(1, head())
    collector.reported(1, head(m=Demand(7.0, 0.0, 4, 1, 1.0, 1.0, 2, 1)))
    collector.lost(1)
    found = collector.demand_of("m")
    assert (found.call_s, found.arrivals, found.waiting, found.running) == (7.0, 4, 0, 0)
    assert not collector.is_silent("m")


def test_a_router_that_says_nothing_is_silent_until_it_is_forgotten():
    """A server that was stopped with calls on it: nobody knows whether they are gone, for half a minute (AS20)."""
    collector, clock = collecting()
    collector.reported(1, head())
    collector.reported(1, head(m=Demand(0.0, 0.0, 3, 0, 0.0, 0.0, 1, 2)))
    began = clock.now
    clock.now = began + SILENT_S
    assert not collector.is_silent("m")
    assert collector.demand_of("m").call_s == 3 * SILENT_S
    clock.now = began + SILENT_S + 0.1
    assert collector.is_silent("m")
    clock.now = began + FORGOTTEN_S
    assert collector.is_silent("m")
    assert collector.demand_of("m").running == 2
    clock.now += 0.1
    assert not collector.is_silent("m")
    found = collector.demand_of("m")
    assert (found.call_s, found.waiting, found.running) == (3 * SILENT_S, 0, 0)


def test_a_router_without_calls_need_not_say_anything():
    """An HTTP server without requests keeps nothing from scaling down."""
    collector, clock = collecting()
    collector.reported(1, head())
    collector.reported(1, head(m=Demand(1.0, 0.0, 3, 3, 1.0, 1.0, 0, 0)))
    clock.now += 10.0
    assert not collector.is_silent("m")
    collector.reported(1, head(m=Demand(1.25, 0.0, 4, 4, 1.25, 1.1, 0, 0)))
    assert collector.demand_of("m").call_s == 1.25


def test_what_was_counted_in_silence_is_no_demand_of_now():
    """A server that was stopped for ten seconds with its calls does not cause a burst when it goes on (AS20)."""
    collector, clock = collecting()
    collector.reported(1, head())
    collector.reported(1, head(m=Demand(0.0, 0.0, 3, 0, 0.0, 0.0, 0, 3)))
    clock.now += 10.0
    assert collector.demand_of("m").call_s == 3 * SILENT_S
    collector.reported(1, head(m=Demand(30.0, 0.0, 3, 0, 0.0, 0.0, 0, 3)))
    assert collector.demand_of("m").call_s == 3 * SILENT_S
    clock.now += 0.5
    collector.reported(1, head(m=Demand(31.5, 0.0, 3, 0, 0.0, 0.0, 0, 3)))
    clock.now += 1.5
    assert collector.demand_of("m").call_s == 1.5 + 3 * 1.5


def test_who_looks_is_told_of_calls_that_wait():
    """A frame with a call that waits is heard at once, not at the next look (AS14)."""
    collector, _ = collecting()
    heard: list[list[str]] = []
    collector.on_waiting = heard.append
    collector.reported(1, head())
    collector.reported(1, head(a=Demand(waiting=1, arrivals=1), b=Demand(running=1, arrivals=1)))
    assert heard == [["a"]]


def test_a_late_frame_is_not_taken_for_a_new_backend_of_the_same_name():
    """A backend that is deleted and created again begins with no demand."""
    collector, clock = collecting()
    collector.reported(1, head())
    collector.reported(1, head(m=Demand(50.0, 0.0, 100, 99, 50.0, 30.0, 0, 1)))
    collector.keep(["m"])
    before = collector.demand_of("m")
    collector.keep([])
    collector.reported(1, head(m=Demand(400.0, 0.0, 900, 900, 400.0, 30.0, 0, 0)))
    collector.keep(["m"])
    collector.reported(1, head(m=Demand(0.5, 0.0, 1, 0, 0.0, 0.0, 0, 1)))
    assert collector.demand_of("m").call_s == before.call_s + 0.5
    collector.keep([])
    clock.now += LINGER_S + 1
    collector.keep([])
    assert collector.demand_of("m") == Demand()


counter_steps = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(["m", "n"]),
        st.sampled_from(["counts", "counts", "counts", "begins anew", "ends"]),
        st.integers(1, 5),
    ),
    max_size=40,
)


@examples(300)
@given(counter_steps)
def test_the_sum_never_falls_and_misses_nothing(steps):
    """Counters that count, begin anew and go: the sum is what all of them have ever counted."""
    totals = Totals()
    words: dict[tuple[str, str], Demand] = {}
    counted = {"m": 0, "n": 0}
    for counter, tag, what, amount in steps:
        before = totals.of(tag)
        if what == "ends":
            totals.end(counter)
            words = {key: word for key, word in words.items() if key[0] != counter}
        else:
            base = words.get((counter, tag), Demand()) if what == "counts" else Demand()
            word = Demand(
                base.call_s + amount,
                base.waiting_s,
                base.arrivals + amount,
                base.ended,
                base.ran_s,
                base.ran_s2,
                amount,
                1,
            )
            if what == "begins anew" and word.arrivals >= words.get((counter, tag), Demand()).arrivals:
                continue  # nobody can tell
            counted[tag] += amount
            words[counter, tag] = word
            totals.take(counter, tag, word)
        after = totals.of(tag)
        assert after.call_s >= before.call_s
        assert after.arrivals >= before.arrivals
        assert after.call_s == after.arrivals == counted[tag]
        assert after.waiting == sum(word.waiting for (_, t), word in words.items() if t == tag)
        assert after.running == sum(word.running for (_, t), word in words.items() if t == tag)


def test_looks_that_coincide_with_frames_see_an_even_demand():
    """Ten calls all the time look like ten in each second, whether a frame comes just before a look or just after."""
    clock = Clock()
    collector = Collector(clock)
    collector.reported(1, head())
    draw = random.Random(5)
    shown = []
    for half in range(1, 200):
        at = half * 0.5 + draw.uniform(-0.01, 0.01)
        looks = [half * 0.5] if half > 4 else []
        for when, is_look in sorted([(at, False), *((look, True) for look in looks)]):
            clock.now = 1000.0 + when
            if is_look:
                shown.append(collector.demand_of("m").call_s)
            else:
                collector.reported(1, head(m=Demand(10 * when, 0.0, 0, 0, 0.0, 0.0, 0, 10)))
    seconds = [after - before for before, after in zip(shown, shown[2:], strict=False)]
    assert min(seconds) > 9.5
    assert max(seconds) < 10.5


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf"), 1e300])
def test_a_word_that_no_router_can_mean_is_left_out(bad: float):
    """A driver that says it has had minus one call, or infinitely many, changes no number, then or later."""
    collector, _ = collecting()
    collector.reported(1, head())
    collector.reported(1, head(m=Demand(bad, 0.0, 3, 3, 0.3, 0.1), n=Demand(1.0, 0.0, 3, 3, 0.3, bad)))
    collector.reported(1, head(m=Demand(1.0, 0.0, 10, 10, 1.0, 0.1), n=Demand(1.0, 0.0, 10, 10, 1.0, 0.1)))
    assert collector.demand_of("m") == collector.demand_of("n") == Demand(1.0, 0.0, 10, 10, 1.0, 0.1)
