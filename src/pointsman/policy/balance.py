"""Which replica of a backend: the least loaded one with room; and how fast a backend works its queue off. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """A candidate for a call.

    Attributes:
        inflight: calls that this router has sent and not heard back from.
        elsewhere: calls of other routers, as of the last reply: replies carry the replica's load, so that no probe
            is needed.
        open: whether calls may be sent at all.
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

NEAR_BONUS = 3
"""In half calls: a replica of this node is preferred to one elsewhere that has up to one call less."""


def choose_replica(candidates: Sequence[L], *, limit: int, turn: int) -> L | None:
    """The open candidate with the fewest calls, or None when each has ``limit`` of this router's calls.

    Args:
        candidates: all replicas of one backend that this router knows.
        limit: calls that one replica runs at a time (``max_concurrent_queries``).
        turn: any number that moves on from call to call; it breaks ties, so that equals take turns.

    ``elsewhere`` is old news and only orders the candidates: a replica that is full with calls of others refuses, and
    the call is placed again; but one that was full once must not be passed over for ever.

    A replica on this node spares a call the network, so it is taken as long as its load is within one of the best.

    The whole list is looked at rather than two random members: with the few dozen replicas of one backend that costs
    less than drawing two random numbers, and never misses the idle one.
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
            if load == 0 and near:
                return candidate
            rank = 2 * load - NEAR_BONUS if near else 2 * load
            if best is None or rank < best_rank:
                best, best_rank = candidate, rank
    return best


MEMORY_S = 5.0
"""What happened so many seconds ago counts a third of what happens now."""


class Throughput:
    """Counts things that come to an end, and forgets them by and by.

    Args:
        now: when counting begins.
    """

    def __init__(self, now: float) -> None:
        self._since = self._last = now
        self._count = 0.0

    def note(self, now: float) -> None:
        """One more."""
        self._count = 1.0 + self._count * exp((self._last - now) / MEMORY_S)
        self._last = now

    def per_second(self, now: float) -> float:
        """The rate of late; 0 when nothing has happened."""
        memory_s = MEMORY_S * (1.0 - exp((self._since - now) / MEMORY_S))
        return self._count * exp((self._last - now) / MEMORY_S) / memory_s if memory_s > 0 else 0.0
