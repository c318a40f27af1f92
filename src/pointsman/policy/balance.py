"""Chooses the least loaded replica of a backend, and estimates the throughput of a queue. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """A candidate for a call.

    Attributes:
        inflight: calls that this router has sent and that are not answered.
        elsewhere: calls of other routers, as of the last reply: replies carry the replica's load, so that no probe
            is needed.
        open: whether calls may be sent to it now.
        near: whether it is on this router's node.
    """

    @property
    def inflight(self) -> int: ...

    @property
    def elsewhere(self) -> int: ...

    @property
    def open(self) -> bool: ...

    @property
    def near(self) -> bool: ...


L = TypeVar("L", bound=Candidate)

#: In half calls: a replica of this node is preferred to one of another node that has up to one call less.
NEAR_BONUS = 3


def choose_replica(candidates: Sequence[L], *, limit: int, turn: int) -> L | None:
    """The open candidate with the fewest calls; None if each has ``limit`` calls of this router.

    Args:
        candidates: all replicas of one backend that this router knows.
        limit: calls that one replica runs at a time (``max_concurrent_queries``).
        turn: a number that grows from call to call; it breaks ties, so that equal candidates take turns.

    ``elsewhere`` may be out of date, so it only orders the candidates and excludes none: a replica that is full with
    calls of other routers refuses, and the call is placed again; but one that was full once would otherwise never get
    a call, and so never a newer value.

    A call to a replica on this node avoids the network, so such a replica is taken if its load is within one of the
    least.

    All candidates are looked at, not two random ones: with the few dozen replicas of one backend that costs less than
    two random numbers, and never misses an idle one.
    """
    count = len(candidates)
    best: L | None = None
    best_rank = 0
    for step in range(count):
        candidate = candidates[(turn + step) % count]
        inflight = candidate.inflight
        if inflight < limit and candidate.open:
            load = inflight + candidate.elsewhere
            near = candidate.near
            if load == 0 and near:  # no other can be better
                return candidate
            rank = 2 * load - NEAR_BONUS if near else 2 * load
            if best is None or rank < best_rank:
                best, best_rank = candidate, rank
    return best


#: Time constant of the average: a completion this many seconds ago counts about a third of one now.
MEMORY_S = 5.0


class Throughput:
    """Completions per second, as an exponentially decaying average.

    Args:
        now: when counting begins.
    """

    def __init__(self, now: float) -> None:
        self._since = self._last = now
        self._count = 0.0

    def note(self, now: float) -> None:
        """Count one completion."""
        self._count = 1.0 + self._count * exp((self._last - now) / MEMORY_S)
        self._last = now

    def per_second(self, now: float) -> float:
        """The recent rate; 0 if there was no completion."""
        # Divided by the part of the decaying window that has passed, so that the first seconds are not underestimated.
        memory_s = MEMORY_S * (1.0 - exp((self._since - now) / MEMORY_S))
        return self._count * exp((self._last - now) / MEMORY_S) / memory_s if memory_s > 0 else 0.0
