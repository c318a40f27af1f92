"""Limits on what clients send: deadlines for bodies, and a pause after a refusal.

Body deadlines keep a client from occupying a connection by sending almost nothing (decision 0035). Time counts from the
moment when the app asks for the body, and only while the server reads: time in which the server has stopped reading,
because the app is slow or an earlier request on the connection runs, does not count against the client.

A connection whose request was refused for lack of capacity is not read for a moment (decision 0016). Under overload
every connection always has a request waiting. One iteration of the event loop would then read and refuse a request of
each, hundreds in a row, before it comes to the replicas' answers; meanwhile the replicas are sent nothing and idle. The
more is refused, the less work is done. Pauses keep the iterations short; the requests wait in the kernel's buffers, as
with any server that reads slowly.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Protocol

GRACE_S = 10.0
"""The minimum rate is enforced only on bodies that take longer than this."""


class BodyIsLateError(Exception):
    """The client did not send its body in time."""


class BodyDeadlines:
    """Context manager that enforces the deadlines of one body on the current task.

    When the body is late the task is cancelled, and the block raises :class:`BodyIsLateError` in place of the
    cancellation.

    Args:
        idle_s: longest time without a byte.
        min_rate: average bytes per second that a body must reach once it has taken ``GRACE_S``; 0 for no minimum.
    """

    __slots__ = ("_began", "_held_at", "_idle_s", "_last", "_late", "_loop", "_min_rate", "_size", "_task", "_timer")

    def __init__(self, idle_s: float, min_rate: int) -> None:
        self._idle_s = idle_s
        self._min_rate = min_rate
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._began = self._last = self._loop.time()
        self._size = 0
        self._late = False
        self._held_at: float | None = None

    def __enter__(self) -> BodyDeadlines:
        self._timer = self._loop.call_at(self._due(), self._check)
        return self

    def received(self, size: int) -> None:
        """Count ``size`` more bytes, and restart the idle time."""
        self._size += size
        self._last = self._loop.time()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Time in this block does not count."""
        self._held_at = began = self._loop.time()
        try:
            yield
        finally:
            self._held_at = None
            passed = self._loop.time() - began
            self._began += passed
            self._last += passed

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._late and kind is asyncio.CancelledError:
            uncancel = getattr(self._task, "uncancel", None)  # Python 3.11
            if uncancel is None or not uncancel():  # cancellations that remain are not ours, and pass
                raise BodyIsLateError from None

    def _due(self) -> float:
        idle = self._last + self._idle_s
        return min(idle, self._began + max(GRACE_S, self._size / self._min_rate)) if self._min_rate else idle

    def _check(self) -> None:
        # hot: one timer that is moved on when it fires; a new timer for each chunk would cost more than the chunk.
        due = self._due() if self._held_at is None else self._loop.time() + self._idle_s
        if self._loop.time() < due:
            self._timer = self._loop.call_at(due, self._check)
        elif self._task is not None:
            self._late = True
            self._task.cancel()


PAUSE_S = 0.002
"""Iterations of the loop shorter than this cause no pause. Also the time between two groups of resumed connections."""
RESUMED_AT_ONCE = 32
"""Connections that are resumed together. Refusing that many takes about 2 ms, so refusals take half of the loop's
time."""


class Connection(Protocol):
    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class RefusalPauses:
    """Pauses connections whose requests were refused.

    Args:
        loop: the loop that serves the connections.
        clock: seconds. Not the loop's time, which does not advance within an iteration.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._clock = clock
        self._refused: list[Connection] = []
        self._began = 0.0
        self._paused: deque[Connection] = deque()

    def refused(self, connection: Connection) -> None:
        """Record that a request on this connection was refused just now."""
        if not self._refused:
            self._began = self._clock()
            self._loop.call_soon(self._end_iteration)
        self._refused.append(connection)

    def _end_iteration(self) -> None:
        connections, self._refused = self._refused, []
        if self._clock() - self._began <= PAUSE_S and not self._paused:
            return
        if not self._paused:
            self._loop.call_later(PAUSE_S, self._resume_some)
        for connection in connections:
            connection.pause_reading()
        self._paused += connections

    def _resume_some(self) -> None:
        for _ in range(min(RESUMED_AT_ONCE, len(self._paused))):
            self._paused.popleft().resume_reading()
        if self._paused:
            self._loop.call_later(PAUSE_S, self._resume_some)
