"""Chooses the least loaded replica of a backend; says how many calls one that runs them one at a time gets ahead, and
when they are recalled; and estimates the throughput of a queue. Pure."""

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
        held: those of ``inflight`` that have no answer yet; a stream has begun one.
        may_hold: how many of them it may have; None where only ``limit`` counts.
        one_ahead: whether it may have a second one though ``may_hold`` is 1, while calls wait for every replica.
    """

    @property
    def inflight(self) -> int: ...

    @property
    def elsewhere(self) -> int: ...

    @property
    def open(self) -> bool: ...

    @property
    def near(self) -> bool: ...

    @property
    def held(self) -> int: ...

    @property
    def may_hold(self) -> int | None: ...

    @property
    def one_ahead(self) -> bool: ...


L = TypeVar("L", bound=Candidate)

#: In half calls: a replica of this node is preferred to one of another node that has up to one call less.
NEAR_BONUS = 3


def choose_replica(
    candidates: Sequence[L], *, limit: int, turn: int, halved: bool = False, crowded: bool = False
) -> L | None:
    """The open candidate with the fewest calls; None if each has ``limit`` calls of this router.

    Args:
        candidates: all replicas of one backend that this router knows.
        limit: calls that one replica runs at a time (``max_concurrent_queries``).
        turn: a number that grows from call to call; it breaks ties, so that equal candidates take turns.
        halved: whether the call may use only the first half of each limit, and at least one place.
        crowded: whether a call for each replica waits, or there is only one: then none is idle soon, and a call that is
            given ahead to one of them could not begin earlier at another.

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
    if halved:
        limit = max(1, limit // 2)
    for step in range(count):
        candidate = candidates[(turn + step) % count]
        inflight = candidate.inflight
        if inflight < limit and candidate.open:
            most = candidate.may_hold
            if (
                most is not None
                and candidate.held >= (max(1, most // 2) if halved and most else most)
                and (halved or not crowded or inflight != 1 or not candidate.one_ahead)
            ):
                continue
            load = inflight + candidate.elsewhere
            near = candidate.near
            if load == 0 and near:  # no other can be better
                return candidate
            rank = 2 * load - NEAR_BONUS if near else 2 * load
            if best is None or rank < best_rank:
                best, best_rank = candidate, rank
    return best


LEAD_S = 0.0125
"""A replica that runs calls one at a time is given as many ahead as it is likely to begin within so many seconds, so
that it need not wait for the way of the next one. No call waits there much longer, since one that does is called
back."""
ONE_AHEAD_S = 0.05
"""A replica with calls of more than ``LEAD_S`` and up to so many seconds waits for the way of the next one, too: with
those of 20 ms for a twenty-fifth of its time. So it gets one ahead while calls for all replicas wait."""
PATIENCE = 1.5
"""It is called back when the running call has taken so many times what calls take."""
SURPRISE = 3.0
STEADY_S = 10.0
"""No call is given ahead in this way for so many seconds after one that has taken ``SURPRISE`` times what calls take,
behind which it would have waited."""
GOES_ON = -1
"""In place of a run time: calls go on when the thread has done with them, so that they do not wait for one another."""
RUN_WEIGHT = 0.1


class Pace(Protocol):
    """What calls take: :class:`RunTime`."""

    us: int

    def note(self, seconds: float) -> None: ...

    def goes_on(self) -> None: ...


class RunTime:
    """What calls take of late.

    Attributes:
        us: in microseconds; 0 before the first, or ``GOES_ON``.
    """

    def __init__(self) -> None:
        self.us = 0
        self._mean_s = 0.0

    def note(self, seconds: float) -> None:
        """One has run."""
        if self.us == GOES_ON:
            return
        self._mean_s = seconds if not self.us else self._mean_s + RUN_WEIGHT * (seconds - self._mean_s)
        self.us = max(1, int(self._mean_s * 1e6))

    def goes_on(self) -> None:
        """One goes on without the thread, as others may."""
        self.us = GOES_ON


def may_hold(run_us: int, limit: int) -> int:
    """How many calls one replica may have of one router: that which runs, and its lead.

    Args:
        run_us: as in :class:`RunTime`. While it is 0 nobody knows what a second call would wait for.
        limit: calls that the replica takes at a time.
    """
    if run_us == GOES_ON:
        return limit
    return min(limit, 1 + int(LEAD_S * 1e6) // run_us) if run_us else 1


def has_one_ahead(run_us: int) -> bool:
    """Whether calls take too long for a lead, and not so long that the way of the next one does not matter."""
    return LEAD_S * 1e6 < run_us <= ONE_AHEAD_S * 1e6


def is_surprise(before_us: int, after_us: int) -> bool:
    """Whether the call by which a mean run time has changed so took far longer than others."""
    return 0 < before_us * (1 + RUN_WEIGHT * (SURPRISE - 1)) < after_us


def patience_s(run_us: int) -> float:
    """How long the one that is given ahead stays where no call ends while no replica is idle, in seconds."""
    return PATIENCE * run_us / 1e6


class Holding(Protocol):
    """A replica that may have calls which wait there.

    Attributes:
        inflight, may_hold, open: as of :class:`Candidate`.
        patience_s: how long what waits there stays while no replica is idle, in seconds.
        asked_at: when it was asked last.
        silent_since: since when it has had calls of this router's and ended none; None where it has none that can be
            called back.
    """

    @property
    def inflight(self) -> int: ...

    @property
    def may_hold(self) -> int | None: ...

    @property
    def open(self) -> bool: ...

    @property
    def patience_s(self) -> float: ...

    @property
    def asked_at(self) -> float: ...

    @property
    def silent_since(self) -> float | None: ...


H = TypeVar("H", bound=Holding)
CLOCK_S = 0.001
"""Some loops count in so many seconds, and are early by half of that."""
ASKED_AT_ONCE = 2


def whom_to_recall_from(replicas: Sequence[H], now: float, *, idle: bool) -> tuple[list[H], float | None]:
    """Which replicas to ask for what they have not begun; and when to look again, None for when something happens.

    One that runs a call for longer than a lead takes is not to keep others; while no replica is idle, what was given
    ahead to one whose calls take longer stays for as long as those should take. Where it has two of this router's, the
    second goes back to the queue, to be in front of those that came later. Where it has one, that runs; or it waits
    behind a call of another router, which this one cannot see. Such a call has its place there, which it gives up only
    for a replica that has just said that it is idle. Those of which nothing is known are asked; one that has nothing to
    send back still says when it is free.

    Args:
        idle: whether some replica has just said that it is.
    """
    spare = [replica for replica in replicas if replica.open and replica.may_hold and not replica.inflight]
    recalled, again, alone = [], None, []
    for replica in replicas:
        since = replica.silent_since
        if since is None:
            continue
        due = since + (LEAD_S if spare or replica.inflight == 1 else replica.patience_s)
        if now < due - CLOCK_S:
            due = min(due, now + LEAD_S)  # another may be idle by then
            again = due if again is None else min(again, due)
        elif replica.inflight > 1 or idle:
            recalled.append(replica)
        else:
            alone.append(replica)
    if alone:
        asked = [replica for replica in spare if now >= replica.asked_at + LEAD_S - CLOCK_S][:ASKED_AT_ONCE]
        recalled += asked
        if len(spare) > len(asked):
            again = now + LEAD_S if again is None else min(again, now + LEAD_S)
    return recalled, again


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
