"""How many calls of one router a replica may have that runs them one at a time: what runs, and its lead; and how what
it has not begun is called back.

``policy.balance`` says how many that are, by what calls take; what the replica says of each call is kept here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from pointsman.model import Reason
from pointsman.policy.balance import (
    LEAD_S,
    STEADY_S,
    has_one_ahead,
    is_surprise,
    may_hold,
    patience_s,
    whom_to_recall_from,
)
from pointsman.policy.balance import Holding as Silent

PAUSES_S = {Reason.QUEUE_FULL: 0.005, Reason.RECONFIGURING: 0.02}
"""How long a replica that has refused a call is sent no other, by the reason; it does not say when it accepts calls
again. For other reasons, such as a drain: for good."""


class Holding:
    """What a router knows of the calls that a replica may have.

    Attributes:
        elsewhere: calls of other routers in the replica, as of its last reply.
        may_hold: calls without an answer that it may have; None where it runs them beside one another.
        one_ahead: whether it may have a second call though ``may_hold`` is 1, while calls wait for every replica. Not
            where other routers have calls, which it can go on with.
        asked_at: when it was last asked for what it has not begun.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.elsewhere = 0
        self.may_hold: int | None = None
        self.one_ahead = False
        self.asked_at = float("-inf")
        self._one_ahead_from = 0.0
        self._limit: int | None = None
        self._run_us = 0
        self._recalling = False
        self._moved_at = 0.0
        """When it last ended a call, or began to stream."""

    @property
    def patience_s(self) -> float:
        return patience_s(self._run_us) if self.one_ahead else LEAD_S

    @property
    def _busy_until(self) -> float:
        """When it began the call that has just ended, unless that was sent later; 0 where it runs them beside one
        another."""
        return self._moved_at if self._limit is not None else 0.0

    def one_at_a_time(self, limit: int | None) -> None:
        """Say that it runs its calls one at a time, and takes at most ``limit``; None where it does not."""
        self._limit = limit
        self._reckon()

    def _reckon(self) -> None:
        if self._limit is None:
            self.may_hold = None
        else:
            self.may_hold = 0 if self._recalling else may_hold(self._run_us, self._limit)
        self.one_ahead = False

    def _moved_on(self, run_us: int) -> None:
        """A call has ended there, so that the next can begin."""
        # Also where only a later table will say that it runs one at a time.
        before_us, self._run_us = self._run_us, run_us or self._run_us
        if self._limit is not None or self._recalling:
            self._moved_at = self._loop.time()
            self._recalling = False
            self._reckon()
            if self.may_hold == 1:  # not for calls that have a lead: this is passed by each
                if is_surprise(before_us, self._run_us):
                    self._one_ahead_from = self._moved_at + STEADY_S
                is_steady = self._moved_at >= self._one_ahead_from
                self.one_ahead = is_steady and not self.elsewhere and has_one_ahead(self._run_us)


class Recallable(Silent, Protocol):
    """A replica that can be asked for what it has not begun."""

    def recall(self) -> None: ...


class Looks:
    """Calls back what waits in replicas of a backend that are silent, while others are free.

    Args:
        candidates: returns the replicas.
    """

    def __init__(self, candidates: Callable[[], Sequence[Recallable]]) -> None:
        self._candidates = candidates
        self._loop = asyncio.get_running_loop()
        self._next: asyncio.TimerHandle | None = None

    def later(self) -> None:
        """Look soon, unless that is to be done already."""
        if self._next is None:
            self._next = self._loop.call_later(LEAD_S, self.look)

    def look(self, *, idle: bool = False) -> None:
        """Look now; with ``idle`` a replica has just said that it has no call at all."""
        self.end()
        asked, again = whom_to_recall_from(self._candidates(), self._loop.time(), idle=idle)
        for replica in asked:
            replica.recall()
        if again is not None:
            self._next = self._loop.call_at(again, self.look)

    def end(self) -> None:
        """Look no more."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
