"""For which part of the time a replica's event loop is blocked, so that no other call can go on.

A timer of the loop fires late where something blocks it. What it is late was blocked, and so was, on average, half of
the time before it was due if the block is a long one; of short blocks many are not seen, so that one that is seen
stands for the whole time since the timer before. Over a few seconds that is the share of time in which a call that
comes has to wait for the loop, within a tenth for calls of 20 ms and more. Timers run while there are calls: without
any they would wake a process for nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, Protocol

SAMPLE_S = 0.01
"""Seconds between two timers, on average: none of them keeps time with the calls."""
LATE_S = 0.002
"""A timer that is later than this was kept waiting; loops count in milliseconds."""
WATCHED_S = 5.0
"""For so long timers run after somebody has asked while there were calls."""


class Loop(Protocol):
    """What is needed of an event loop."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Any: ...

    def call_soon_threadsafe(self, callback: Callable[[], object], /) -> Any: ...


class LoopLoad:
    """Watches a loop.

    Args:
        loop: on which the timers run.
        now: seconds on a clock that does not jump.
    """

    def __init__(self, loop: Loop, now: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._now = now
        self._until = self._last = self._due = 0.0
        self._runs = False
        # Not the `random` module's shared generator, which user code may seed.
        self._draw = random.Random().uniform
        self._blocked_s = self._watched_s = 0.0
        self._read = (0.0, 0.0)

    def share(self, *, busy: bool) -> float:
        """The share of the time since the last question for which the loop was blocked; 0 where it was not watched.
        Thread-safe, for one thread that asks.

        Args:
            busy: whether there are calls now, so that it is worth watching.
        """
        if busy:
            self._until = self._now() + WATCHED_S
            if not self._runs:
                self._loop.call_soon_threadsafe(self._begin)
        blocked_s, watched_s = self._blocked_s - self._read[0], self._watched_s - self._read[1]
        if not watched_s:  # it is blocked since the last question, or it is not watched
            return 1.0 if self._runs and self._now() > self._due + LATE_S else 0.0
        self._read = self._blocked_s, self._watched_s
        return min(1.0, max(0.0, blocked_s / watched_s))  # the loop may have counted between the two readings

    def _begin(self) -> None:
        if not self._runs:
            self._runs = True
            self._last = self._now()
            self._again()

    def _again(self) -> None:
        wait_s = self._draw(0.5, 1.5) * SAMPLE_S
        self._due = self._now() + wait_s
        self._loop.call_later(wait_s, self._fired)

    def _fired(self) -> None:
        now = self._now()
        late_s, wait_s = now - self._due, self._due - self._last
        self._last = now
        self._watched_s += wait_s + late_s
        if late_s > LATE_S:
            self._blocked_s += late_s + wait_s * (1 - min(1.0, late_s / wait_s) / 2)
        if now < self._until:
            self._again()
        else:
            self._runs = False
