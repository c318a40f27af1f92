"""What one router counts of the calls for one backend whose number of replicas follows them.

The integral of the calls over time is exact, and costs a call next to nothing: one that is answered adds the time since
it was sent, and those that wait or run now are added when somebody asks.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sized
from typing import Protocol

from pointsman.model.scaling import Demand
from pointsman.routing.call import Call
from pointsman.routing.reports import Reporter


class Sent(Protocol):
    """A call, or its streamed answer, on a replica."""

    @property
    def sent_at(self) -> float: ...


class Holder(Protocol):
    """A replica with calls of this router.

    Attributes:
        counts: where it counts the end of each.
    """

    counts: Counts | None

    def present(self) -> Iterable[Sent]:
        """The calls without an answer, and the answers that are streamed."""


class Counts:
    """Counts the calls of one pool. All times are those of its loop.

    Args:
        now: the loop's clock.
        queues: where calls wait.
        arrived: calls that have come to the pool; those that are there now are counted, others not.
        holders: the replicas that have calls now.
    """

    __slots__ = (
        "_arrived",
        "_at",
        "_now",
        "_queues",
        "_stayed_s",
        "_turned_away",
        "_waiting",
        "_waiting_s",
        "ended",
        "ran_s",
        "ran_s2",
    )

    def __init__(
        self, now: Callable[[], float], queues: Iterable[Sized], arrived: int, holders: Iterable[Holder]
    ) -> None:
        self._now = now
        self._queues = tuple(queues)
        self._at = now()
        self._waiting = self._count()
        self._waiting_s = 0.0
        self._turned_away = False
        self.ended = 0
        self.ran_s = self.ran_s2 = 0.0
        running = [sent for holder in holders for sent in holder.present()]
        self._arrived = arrived - self._waiting - len(running)
        # What they have been there before counting began is taken off, since all of it is added when they end.
        self._stayed_s = -sum(self._at - sent.sent_at for sent in running)

    @property
    def last_waiting(self) -> int:
        """Calls that waited when a queue changed last."""
        return self._waiting

    def queued(self) -> None:
        """A queue has changed just now."""
        now = self._now()
        self._waiting_s += self._waiting * (now - self._at)
        self._at, self._waiting = now, self._count()

    def turned_away(self) -> None:
        """A call has come that could not wait, and that a replica was to be started for: the next reading has it."""
        self._turned_away = True

    def end(self, sent_at: float, began: float) -> None:
        """A call has ended on its replica, with its stream if it has one.

        Args:
            sent_at: when it was sent there.
            began: when its replica began it, as far as that is known; earlier than ``sent_at`` where it did not wait.
        """
        # hot: for each call
        now = self._now()
        stayed = now - sent_at
        self._stayed_s += stayed
        ran = now - began if began > sent_at else stayed
        self.ended += 1
        self.ran_s += ran
        self.ran_s2 += ran * ran

    def leave(self, sent_at: float) -> None:
        """A call has gone from its replica without an end: it is sent elsewhere, was given up, or its replica died."""
        self._stayed_s += self._now() - sent_at

    def read(self, arrived: int, holders: Iterable[Holder]) -> Demand:
        """All that was counted until now."""
        self.queued()
        knocks, self._turned_away = int(self._turned_away and not self._waiting), False
        running_s, running = 0.0, 0
        for holder in holders:
            for sent in holder.present():
                running_s += self._at - sent.sent_at
                running += 1
        return Demand(
            self._waiting_s + self._stayed_s + running_s,
            self._waiting_s,
            arrived - self._arrived,
            self.ended,
            self.ran_s,
            self.ran_s2,
            self._waiting + knocks,
            running,
        )

    def _count(self) -> int:
        return sum(len(queue) for queue in self._queues)


class Placing(Protocol):
    """A pool.

    Attributes:
        arrivals: calls that have come.
        queues: where calls wait.
    """

    arrivals: int
    queues: tuple[deque[Call], ...]

    @property
    def tag(self) -> str: ...

    def holders(self) -> Iterable[Holder]: ...


class PoolDemand:
    """Counts the calls of a pool, as long as its route says that its number of replicas follows them.

    Args:
        pool: has the calls.
        reporter: where it says that it counts, and that a call has found no replica; None to count nothing.

    Attributes:
        counts: given to each replica; None while nothing is counted.
    """

    def __init__(self, pool: Placing, reporter: Reporter | None) -> None:
        self._pool = pool
        self._reporter = reporter
        self._last: tuple[int, Demand] | None = None
        self.counts: Counts | None = None

    @property
    def tag(self) -> str:
        return self._pool.tag

    def follow(self, scales: bool) -> None:
        """Begin to count, or stop."""
        if self._reporter is None or scales == (self.counts is not None):
            return
        pool, self._last = self._pool, None
        now = asyncio.get_running_loop().time
        self.counts = Counts(now, pool.queues, pool.arrivals, pool.holders()) if scales else None
        for holder in pool.holders():
            holder.counts = self.counts
        if scales:
            self._reporter.add(self)
        else:
            self._reporter.remove(self)

    def queued(self, has_replicas: bool) -> None:
        """A queue has changed just now."""
        if self.counts is not None:
            self.counts.queued()
            if not has_replicas and self._reporter is not None:
                self._reporter.hurry()

    def turned_away(self, has_replicas: bool) -> None:
        """A call has come for which the queue has no room."""
        if self.counts is not None and not has_replicas:
            self.counts.turned_away()
            if self._reporter is not None:
                self._reporter.hurry()

    def read(self) -> Demand:
        """All that was counted until now; the very same object where nothing has happened since the last reading."""
        arrivals = self._pool.arrivals
        if self.counts is None:
            return Demand()
        if self._last is None or self._last[0] != arrivals or self._last[1].waiting or self._last[1].running:
            self._last = arrivals, self.counts.read(arrivals, self._pool.holders())
        return self._last[1]

    def validate(self) -> None:
        """Raise AssertionError if the counts contradict what is there. Called by tests at their end."""
        if self.counts is not None:
            waiting, counted = sum(len(queue) for queue in self._pool.queues), self.counts.last_waiting
            assert counted == waiting, f"{waiting} calls wait, and {counted} were counted"
            assert all(holder.counts is self.counts for holder in self._pool.holders()), "a replica counts elsewhere"
