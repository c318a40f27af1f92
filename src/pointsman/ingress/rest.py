"""Connections whose request was refused for want of room rest for a moment before their next one is read.

Under more load than the machine can take every connection has a request waiting all the time. One turn of the event
loop then reads and refuses one from each of them, hundreds in a row, and the replicas' answers, which come last, find
that nobody has sent their replicas anything for that long: the more is refused, the less is done. Resting connections
keep the turns short; the requests wait in the system's buffers, as they would for any server that is slow to read.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

SHORT_S = 0.002
"""A turn of the loop that harms nobody: nobody rests. Also the pause between two slices."""
SLICE = 32
"""Connections that are read again at a time. To refuse so many takes about 2 ms, so refusals leave the loop half of
its time."""


class Connection(Protocol):
    """What is needed of one."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Rest:
    """Lets connections rest.

    Args:
        loop: the loop that they are served on.
        clock: seconds; not the loop's own time, which stands still within a turn.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._clock = clock
        self._refused: list[Connection] = []
        self._began = 0.0
        self._resting: deque[Connection] = deque()

    def refused(self, connection: Connection) -> None:
        """A request on this connection was refused just now."""
        if not self._refused:
            self._began = self._clock()
            self._loop.call_soon(self._turn_is_over)
        self._refused.append(connection)

    def _turn_is_over(self) -> None:
        connections, self._refused = self._refused, []
        if self._clock() - self._began <= SHORT_S and not self._resting:
            return
        if not self._resting:
            self._loop.call_later(SHORT_S, self._read_some)
        for connection in connections:
            connection.pause_reading()
        self._resting += connections

    def _read_some(self) -> None:
        for _ in range(min(SLICE, len(self._resting))):
            self._resting.popleft().resume_reading()
        if self._resting:
            self._loop.call_later(SHORT_S, self._read_some)
