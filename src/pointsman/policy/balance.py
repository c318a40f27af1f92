"""Which replica of a backend: the least loaded one with room. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Loaded(Protocol):
    """A candidate for a call.

    Attributes:
        inflight: calls that this router has sent and not heard back from.
        elsewhere: calls of other routers, as of the last reply: replies carry the replica's load, so that no probe
            is needed.
        open: whether calls may be sent at all.
    """

    @property
    def inflight(self) -> int: ...

    @property
    def elsewhere(self) -> int: ...

    @property
    def open(self) -> bool: ...


L = TypeVar("L", bound=Loaded)


def choose_replica(candidates: Sequence[L], *, limit: int, turn: int) -> L | None:
    """The open candidate with the fewest calls, or None when each has ``limit`` of this router's calls.

    Args:
        candidates: all replicas of one backend that this router knows.
        limit: calls that one replica runs at a time (``max_concurrent_queries``).
        turn: any number that moves on from call to call; it breaks ties, so that equals take turns.

    ``elsewhere`` is old news and only orders the candidates: a replica that is full with calls of others refuses, and
    the call is placed again; but one that was full once must not be passed over for ever.

    The whole list is looked at rather than two random members: with the few dozen replicas of one backend that costs
    less than drawing two random numbers, and never misses the idle one.
    """
    count = len(candidates)
    best: L | None = None
    best_load = 0
    for step in range(count):
        candidate = candidates[(turn + step) % count]
        inflight = candidate.inflight
        if inflight < limit and candidate.open:
            load = inflight + candidate.elsewhere
            if load == 0:
                return candidate
            if best is None or load < best_load:
                best, best_load = candidate, load
    return best
