"""When requests are due, and open and closed loops over any network. Pure: time is the network's, chance an argument.

An open loop sends at times that were fixed beforehand, whatever the server does, and latency counts from then. A client
that sends its next request only after an answer looks away while the server is slow: of a stall of a second it measures
one request where ten users a second would have had ten. Gil Tene calls it coordinated omission ("How NOT to measure
latency", 2013); his wrk2 counts in this way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from pointsman.load.tally import UNSENT, Ended, Sample, Tally

CONSTANT, POISSON = "constant", "poisson"
LONGEST_WAIT_S = 0.1
"""Seconds after which a loop looks whether it is to stop."""
SAMPLE_S = 0.5


def constant(count: int, seconds: float) -> Iterator[float]:
    """So many times, evenly over the seconds from 0 on."""
    return (index * seconds / count for index in range(count))


def poisson(count: int, seconds: float, chance: Callable[[], float]) -> Iterator[float]:
    """So many times in rising order, as those of clients who know nothing of each other.

    They are the arrivals of a Poisson process that had exactly so many in that time, drawn one by one: the first of k
    uniform times within what is left comes after ``1 - U^(1/k)`` of it. So a run sends as many requests as a user asked
    for, and needs no list of them.

    Args:
        chance: a number of [0, 1), such as ``random.Random(seed).random``.
    """
    at = 0.0
    for left in range(count, 0, -1):
        at += (seconds - at) * (1.0 - (1.0 - chance()) ** (1.0 / left))
        yield at


class Network(Protocol):
    """Connections to one server. Times are in seconds since the run began."""

    def now(self) -> float: ...

    def ask(self, request: bytes, due: float) -> bool:
        """Send a request now; False if no connection is free and none may be added."""

    def wait(self, until: float) -> Sequence[Ended]:
        """What has ended by then; returns as soon as something has."""

    def expire(self, before: float) -> Sequence[Ended]:
        """Give up what was due before that."""

    def under_way(self) -> int: ...


class Watcher:
    """Looks on while a loop runs.

    Args:
        stopped: whether the user has had enough.
        show: gets a sample each half second; None for none.
    """

    def __init__(self, stopped: Callable[[], bool], show: Callable[[Sample], None] | None = None) -> None:
        self.stopped, self._show, self._next = stopped, show, SAMPLE_S

    def look(self, tally: Tally, now: float) -> None:
        """Show a sample if it is time."""
        if self._show is not None and now >= self._next:
            self._show(tally.sample(now))
            self._next = now + SAMPLE_S


def open_loop(
    network: Network,
    tally: Tally,
    watcher: Watcher,
    arrivals: Iterator[float],
    requests: Iterator[bytes],
    patience_s: float,
) -> None:
    """Send at the arrivals, and return when every request has ended; what takes longer than patience_s is given up.

    A request for which no connection is free waits for one, as all after it do, and is then late. None of them is drawn
    before, so that a rate far beyond what can be sent takes no memory.
    """
    due = next(arrivals, math.inf)
    while not watcher.stopped():
        now = network.now()
        until = now + LONGEST_WAIT_S
        while due <= now:
            at = network.now()
            if due < now - patience_s:
                tally.ended(Ended(due, at, 0, UNSENT))
            elif network.ask(next(requests), due):
                tally.began(due, at)
            else:
                break
            due = next(arrivals, math.inf)
        else:
            until = min(due, until)
        if due == math.inf and not network.under_way():
            return
        for one in network.wait(until):
            tally.ended(one)
        _after(network, tally, watcher, patience_s)


def closed_loop(
    network: Network,
    tally: Tally,
    watcher: Watcher,
    seconds: float,
    concurrency: int,
    requests: Iterator[bytes],
    patience_s: float,
) -> None:
    """Have so many requests under way for so many seconds: each answer lets the next one go."""
    free = concurrency
    while not watcher.stopped():
        now = network.now()
        if now >= seconds and not network.under_way():
            return
        while free and now < seconds:
            at = network.now()
            if not network.ask(next(requests), at):
                break
            tally.began(at, at)
            free -= 1
        for one in network.wait(now + LONGEST_WAIT_S if now >= seconds else min(seconds, now + LONGEST_WAIT_S)):
            tally.ended(one)
            free += 1
        free += _after(network, tally, watcher, patience_s)


def _after(network: Network, tally: Tally, watcher: Watcher, patience_s: float) -> int:
    """Give up what takes too long, and show; returns how many were given up."""
    now = network.now()
    expired = network.expire(now - patience_s)
    for one in expired:
        tally.ended(one)
    watcher.look(tally, now)
    return len(expired)
