"""How much of the time a replica's event loop is blocked, on a loop and a clock of the test."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable

import pytest

from pointsman.replica.loopload import SAMPLE_S, WATCHED_S, LoopLoad


class FakeLoop:
    """Runs timers at their time, or when what blocks it ends."""

    def __init__(self) -> None:
        self.now = 100.0
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()

    def call_later(self, delay: float, callback: Callable[[], object]) -> None:
        heapq.heappush(self._timers, (self.now + delay, next(self._numbers), callback))

    def call_soon_threadsafe(self, callback: Callable[[], object]) -> None:
        self.call_later(0.0, callback)

    def idle(self, seconds: float) -> None:
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end:
            at, _, callback = heapq.heappop(self._timers)
            self.now = max(self.now, at)
            callback()
        self.now = max(self.now, end)

    def block(self, seconds: float) -> None:
        self.now += seconds
        self.idle(0.0)

    @property
    def timers(self) -> int:
        return len(self._timers)


def watched() -> tuple[FakeLoop, LoopLoad]:
    loop = FakeLoop()
    load = LoopLoad(loop, lambda: loop.now)
    load._draw = random.Random(7).uniform
    load.share(busy=True)
    loop.idle(0.0)
    return loop, load


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("call_s", [0.02, 0.13, 0.7])
def test_the_share_of_blocked_time_is_found(share: float, call_s: float) -> None:
    """An async replica whose calls block its loop for a part of the time says for which, short or long (AS6)."""
    loop, load = watched()
    found = []
    for _ in range(40):
        end = loop.now + 2.0
        while loop.now < end:
            if share:
                loop.block(call_s)
            loop.idle(call_s / share - call_s if share else 0.5)
        found.append(load.share(busy=True))
    assert sum(found) / len(found) == pytest.approx(share, abs=0.13)


def test_a_loop_that_never_rests_is_over_the_mark() -> None:
    """An async replica whose calls follow one another without a pause is full by far (AS6)."""
    loop, load = watched()
    for _ in range(500):
        loop.block(0.02)
    assert load.share(busy=True) > 0.75


def test_a_loop_that_is_blocked_all_the_time_says_so_meanwhile() -> None:
    """Who asks during one long block, with no timer since the last question, hears that the loop is blocked (AS6)."""
    loop, load = watched()
    loop.idle(2.0)
    assert load.share(busy=True) == 0.0
    loop.now += 2.0
    assert load.share(busy=True) == 1.0
    loop.now += 2.0
    assert load.share(busy=True) == 1.0


def test_a_replica_without_calls_has_no_timers() -> None:
    """Nothing wakes the process of an idle replica."""
    loop, load = watched()
    loop.idle(2.0)
    assert loop.timers == 1
    assert load.share(busy=False) == 0.0
    loop.idle(WATCHED_S + 2 * SAMPLE_S)
    assert loop.timers == 0
    load.share(busy=False)
    assert load.share(busy=False) == 0.0
    assert load.share(busy=True) == 0.0
    loop.idle(1.0)
    assert loop.timers == 1
