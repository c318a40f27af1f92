"""The deadlines by which a request's body has to come, so that nobody holds a connection by sending next to nothing.

The time counts from the moment that the app asks for the body, and only while it is read: a server that has stopped
reading, because the app is slow or an earlier request on the connection runs, does not hold that against its client.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

GRACE_S = 10.0
"""For so long a body may come as slowly as it likes."""


class BodyIsLateError(Exception):
    """The client did not send its body in time."""


class Receipt:
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

    def __enter__(self) -> Receipt:
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
