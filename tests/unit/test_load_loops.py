"""load.loops on a made-up network, in made-up time: a server of known delays, which stalls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import repeat
from typing import Any

import pytest

from pointsman.load.loops import Watcher, closed_loop, constant, open_loop
from pointsman.load.tally import CLOSED, OPEN, Ended, Sample, Tally

STALL_FROM, STALL_UNTIL, QUICK_S = 2.0, 3.0, 0.001


class FakeNetwork:
    """Connections to a server that takes ``delay(now)`` seconds for a request, in time that only :meth:`wait` passes.

    Args:
        most: number of connections.
        cost_s: seconds that sending one request takes this machine.
    """

    def __init__(self, delay: Callable[[float], float], *, most: int = 10_000, cost_s: float = 0.0) -> None:
        self._delay, self._most, self._cost_s = delay, most, cost_s
        self._now = 0.0
        self._answers: list[tuple[float, float]] = []

    def now(self) -> float:
        return self._now

    def ask(self, request: bytes, due: float) -> bool:
        if len(self._answers) >= self._most:
            return False
        self._now += self._cost_s
        heappush(self._answers, (self._now + self._delay(self._now), due))
        return True

    def wait(self, until: float) -> Sequence[Ended]:
        first = self._answers[0][0] if self._answers else until
        self._now = max(self._now, min(until, first))
        ended = []
        while self._answers and self._answers[0][0] <= self._now:
            at, due = heappop(self._answers)
            ended.append(Ended(due, at, 200))
        return ended

    def expire(self, before: float) -> Sequence[Ended]:
        old = [one for one in self._answers if one[1] < before]
        for one in old:
            self._answers.remove(one)
        return [Ended(due, self._now, 0, "timeout") for _, due in old]

    def under_way(self) -> int:
        return len(self._answers)


def stalling(now: float) -> float:
    """A quick server that does nothing for one second."""
    return QUICK_S + (STALL_UNTIL - now if STALL_FROM <= now < STALL_UNTIL else 0.0)


def never() -> bool:
    return False


def opened(network: FakeNetwork, rate: float, seconds: float, patience_s: float = 30.0, **watched: Any) -> Tally:
    tally, watcher = Tally(OPEN), Watcher(watched.get("stopped", never), watched.get("show"))
    arrivals = constant(round(rate * seconds), seconds)
    open_loop(network, tally, watcher, arrivals, repeat(b""), patience_s)
    return tally


def closed(network: FakeNetwork, concurrency: int, seconds: float, patience_s: float = 30.0) -> Tally:
    tally = Tally(CLOSED)
    closed_loop(network, tally, Watcher(never), seconds, concurrency, repeat(b""), patience_s)
    return tally


def test_an_open_loop_shows_a_stall() -> None:
    """My server does nothing for a second of ten. A tenth of all users notice, and p99 says so: 0.9 s (LT1)."""
    report = opened(FakeNetwork(stalling), rate=100, seconds=10).report()
    assert (report["sent"], report["ok"], report["trustworthy"]) == (1000, 1000, True)
    assert report["p50_ms"] == pytest.approx(1, rel=0.01)
    assert report["p95_ms"] == pytest.approx(500, rel=0.03)
    assert report["p99_ms"] == pytest.approx(900, rel=0.03)
    assert report["max_ms"] == pytest.approx(1001, rel=0.01)


def test_a_closed_loop_looks_away_meanwhile() -> None:
    """The same server under one client that waits for each answer: the stall is one request of thousands (LT1)."""
    report = closed(FakeNetwork(stalling), concurrency=1, seconds=10).report()
    assert report["mode"] == "closed"
    assert report["sent"] > 8000
    assert report["p99_ms"] == pytest.approx(1, rel=0.02)
    assert report["max_ms"] == pytest.approx(1001, rel=0.01)
    assert report["late_p99_ms"] is None


def test_latency_counts_from_when_a_request_was_due() -> None:
    """With one connection and answers of 50 ms at 40 requests a second, the last of a second has waited another
    second for its turn: that is its latency, and the run is not trustworthy, since it could not be sent (LT1, LT2)."""
    tally = opened(FakeNetwork(lambda _: 0.05, most=1), rate=40, seconds=1)
    report = tally.report()
    assert report["ok"] == 40
    assert report["max_ms"] == pytest.approx(39 * 25 + 50, rel=0.01)
    assert not report["trustworthy"]
    assert report["late_p99_ms"] == pytest.approx(39 * 25, rel=0.03)


def test_a_machine_that_is_too_slow_says_so() -> None:
    """Each request costs this machine 20 ms and a hundred a second are due: they are late, and it says so (LT2)."""
    assert not opened(FakeNetwork(lambda _: 0.001, cost_s=0.02), rate=100, seconds=1).trustworthy
    assert opened(FakeNetwork(lambda _: 0.001, cost_s=0.002), rate=100, seconds=1).trustworthy


def test_requests_that_wait_take_no_memory() -> None:
    """A rate far beyond the server's is drawn only as far as requests are sent, and nothing of it is left out (LT1)."""
    drawn, most = 0, 0
    tally = Tally(OPEN)

    def arrivals() -> Iterator[float]:
        nonlocal drawn, most
        for due in constant(20_000, 1.0):
            drawn += 1
            most = max(most, drawn - tally.begun - tally.errors["unsent"])
            yield due

    network = FakeNetwork(lambda now: 0.1, most=10)
    open_loop(network, tally, Watcher(never), arrivals(), repeat(b""), 30.0)
    assert (tally.sent, most) == (20_000, 1)


def test_what_takes_too_long_is_given_up() -> None:
    """Requests that get no answer end as timeouts, those that found no connection as unsent; the run ends (LT1)."""
    report = opened(FakeNetwork(lambda _: 1e9, most=5), rate=10, seconds=1, patience_s=2.0).report()
    assert (report["sent"], report["ok"]) == (10, 0)
    assert sum(report["errors"].values()) == 10
    assert report["errors"]["timeout"] >= 5
    report = closed(FakeNetwork(lambda _: 1e9), concurrency=3, seconds=1, patience_s=2.0).report()
    assert report["errors"] == {"timeout": 3}


def test_a_closed_loop_has_so_many_under_way() -> None:
    """Four at a time with 10 ms each: 400 a second (LT1)."""
    report = closed(FakeNetwork(lambda _: 0.01), concurrency=4, seconds=2).report()
    assert report["rate"] == pytest.approx(400, rel=0.02)


def test_a_user_who_has_seen_enough() -> None:
    """Ctrl-C ends the run; what was measured by then counts, and what was under way does not (LT3)."""
    network = FakeNetwork(lambda _: 0.5)
    report = opened(network, rate=10, seconds=100, stopped=lambda: network.now() >= 2).report()
    assert report["sent"] == report["ok"]
    assert 13 <= report["ok"] <= 17


def test_samples_come_twice_a_second() -> None:
    """Whoever looks on gets what has happened since the last look (LT3)."""
    samples: list[Sample] = []
    opened(FakeNetwork(stalling), rate=100, seconds=5, show=samples.append)
    assert len(samples) in (9, 10)
    assert [round(one.at, 1) for one in samples[:3]] == [0.5, 1.0, 1.5]
    assert sum(one.ended for one in samples) <= 500
    stalled = [one for one in samples if one.p99_ms and one.p99_ms > 900]
    assert len(stalled) == 1
