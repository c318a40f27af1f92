"""What keeps clients from holding an ingress by what they send: body deadlines, and pauses after a refusal.

A request's body has to come by deadlines, so that nobody holds a connection by sending next to nothing. The time counts
from the moment that the app asks for the body, and only while it is read: a server that has stopped reading, because
the app is slow or an earlier request on the connection runs, does not hold that against its client.

A connection whose request was refused for want of room pauses for a moment before its next one is read. Under more load
than the machine can take every connection has a request waiting all the time. One turn of the event loop then reads and
refuses one from each of them, hundreds in a row, and the replicas' answers, which come last, find that nobody has sent
their replicas anything for that long: the more is refused, the less is done. Paused connections keep the turns short;
the requests wait in the system's buffers, as they would for any server that is slow to read.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

GRACE_S = 10.0
"""For so long a body may come as slowly as it likes."""


class BodyIsLateError(Exception):
    """The client did not send its body in time."""


class BodyDeadlines:
    """A block in which one body is received, on the running task; it is left with an error when the body is late.

    Args:
        idle_s: longest pause.
        least_rate: bytes per second, on average, behind the time that any body has; 0 for any pace.

    Raises:
        BodyIsLateError: out of the block, from wherever it waits.
    """

    __slots__ = ("_began", "_idle_s", "_last", "_late", "_least_rate", "_loop", "_size", "_task", "_timer")

    def __init__(self, idle_s: float, least_rate: int) -> None:
        self._idle_s = idle_s
        self._least_rate = least_rate
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._began = self._last = self._loop.time()
        self._size = 0
        self._late = False

    def __enter__(self) -> BodyDeadlines:
        self._timer = self._loop.call_at(self._due(), self._look)
        return self

    def received(self, size: int) -> None:
        """So many bytes more have come."""
        self._size += size
        self._last = self._loop.time()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._late and kind is asyncio.CancelledError:
            uncancel = getattr(self._task, "uncancel", None)  # Python 3.11
            if uncancel is None or not uncancel():  # otherwise somebody else has cancelled the task, too
                raise BodyIsLateError from None

    def _due(self) -> float:
        idle = self._last + self._idle_s
        return min(idle, self._began + max(GRACE_S, self._size / self._least_rate)) if self._least_rate else idle

    def _look(self) -> None:
        # One timer, which moves on when it is due, rather than one for each chunk.
        due = self._due()
        if self._loop.time() < due:
            self._timer = self._loop.call_at(due, self._look)
        elif self._task is not None:
            self._late = True
            self._task.cancel()


SHORT_S = 0.002
"""A turn of the loop that harms nobody: nobody pauses. Also the pause between two slices."""
SLICE = 32
"""Connections that are read again at a time. To refuse so many takes about 2 ms, so refusals leave the loop half of
its time."""


class Connection(Protocol):
    """What is needed of one."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class RefusalPauses:
    """Pauses connections whose requests were refused.

    Args:
        loop: the loop that they are served on.
        clock: seconds; not the loop's own time, which stands still within a turn.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._clock = clock
        self._refused: list[Connection] = []
        self._began = 0.0
        self._paused: deque[Connection] = deque()

    def refused(self, connection: Connection) -> None:
        """A request on this connection was refused just now."""
        if not self._refused:
            self._began = self._clock()
            self._loop.call_soon(self._turn_is_over)
        self._refused.append(connection)

    def _turn_is_over(self) -> None:
        connections, self._refused = self._refused, []
        if self._clock() - self._began <= SHORT_S and not self._paused:
            return
        if not self._paused:
            self._loop.call_later(SHORT_S, self._read_some)
        for connection in connections:
            connection.pause_reading()
        self._paused += connections

    def _read_some(self) -> None:
        for _ in range(min(SLICE, len(self._paused))):
            self._paused.popleft().resume_reading()
        if self._paused:
            self._loop.call_later(SHORT_S, self._read_some)
