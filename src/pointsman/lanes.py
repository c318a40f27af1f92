"""Lanes: a router, the loop that it runs on, and how calls get there.

Calls of sync handles come from any thread and are handed to the session's own loop. Calls of async handles stay on the
loop of whoever makes them, which has a router and connections of its own: no other thread takes part in them.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Coroutine
from typing import Any, TypeVar

from pointsman.exceptions import ServeException
from pointsman.model import RoutingTable
from pointsman.routing.call import Call
from pointsman.routing.router import Router

T = TypeVar("T")

CALLS_UNDER_WAY_LIMIT = 1000
"""Calls handed to the loop and not taken up by it yet; a thread that is faster than the loop waits beyond this."""


class Lane:
    """Made on its loop.

    Args:
        router: runs on the same loop.
    """

    def __init__(self, router: Router) -> None:
        self.loop = asyncio.get_running_loop()
        self.router = router
        self.thread = threading.get_ident()
        """Blocking this one would keep the answer from coming."""

    def now(self) -> float:
        """The time in which the router counts deadlines."""
        return self.loop.time()

    def cancel(self, call: Call) -> None:
        """Give a call up, from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and all its calls are over
            self.loop.call_soon_threadsafe(self.router.cancel, call)

    def apply(self, table: RoutingTable) -> None:
        """Have the router take a table, from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self.router.apply, table)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop, from another thread, and wait for what it returns."""
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()
        except RuntimeError as error:
            if not self.loop.is_closed():
                raise
            coroutine.close()
            raise ServeException("the event loop of this handle was closed") from error

    def _submit_here(self, call: Call, missing_ok: bool) -> None:
        try:
            if missing_ok:
                self.router.submit_when_there(call)
            else:
                self.router.submit(call)
        except Exception as error:  # noqa: BLE001 - also what is our fault: its caller must not wait for ever
            call.fail(error)


class ThreadLane(Lane):
    """For sync handles, on the session's loop."""

    def __init__(self, router: Router) -> None:
        super().__init__(router)
        self._submitted: deque[tuple[Call, bool]] = deque()
        self._taking = False

    def now(self) -> float:
        # Not the loop's time, which uvloop reads once a turn: in a loop that has slept it is that of its last turn.
        return time.monotonic()

    def submit(self, call: Call, *, missing_ok: bool) -> None:
        """Hand a call over, from any thread."""
        self._submitted.append((call, missing_ok))
        if not self._taking:
            self._taking = True
            try:
                self.loop.call_soon_threadsafe(self._take)
            except RuntimeError:
                raise ServeException("the client was shut down") from None

    def is_crowded(self, endpoint: str) -> bool:
        """Whether a new call should wait before it is made."""
        return len(self._submitted) > CALLS_UNDER_WAY_LIMIT or self.router.would_wait(endpoint)

    def _take(self) -> None:
        self._taking = False
        while self._submitted:
            self._submit_here(*self._submitted.popleft())


class LoopLane(Lane):
    """For async handles, on the loop of user code."""

    def submit(self, call: Call, *, missing_ok: bool) -> None:
        """Send a call, on the loop."""
        self._submit_here(call, missing_ok)
