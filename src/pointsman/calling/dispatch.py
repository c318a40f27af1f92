"""How a handle's call gets to a router on its loop, and how its outcome gets back to whoever waits.

Calls of sync handles come from any thread and are handed to the session's own loop. Calls of async handles stay on the
loop of whoever makes them, which has a router and connections of its own: no other thread takes part in them.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pointsman.context import CallScope
from pointsman.exceptions import ServeException
from pointsman.incoming import RequestHead
from pointsman.model import RoutingTable
from pointsman.routing.call import Call, Reply, ReplyStream
from pointsman.routing.router import Router
from pointsman.wire.frames import Body

T = TypeVar("T")

CALLS_UNDER_WAY_LIMIT = 1000
"""Calls handed to the loop and not taken up by it yet; a thread that is faster than the loop waits beyond this."""


class Dispatcher:
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


class ThreadDispatcher(Dispatcher):
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


class LoopDispatcher(Dispatcher):
    """For async handles, on the loop of user code."""

    def submit(self, call: Call, *, missing_ok: bool) -> None:
        """Send a call, on the loop."""
        self._submit_here(call, missing_ok)


class HandleCall(Call):
    """A call of a handle: the call and what becomes of it, in one object.

    Its outcome is set once, on the router's loop. Any thread may look, wait or ask to be told.
    ``concurrent.futures.Future`` does the same with a condition variable for each call, which costs more than all else
    that the caller's thread does; and each object that a call in flight needs is one more for the garbage collector
    to visit, which with thousands of them was a third of the time.

    Args:
        home: where it runs.
        scope: of the call of user code that it is made for; gives it up when nobody waits for that one any more.

    Attributes:
        over: whether there is an answer or an error, and which of them is there will not change.
        answer, stream: the packed value, or the stream in its place.
        error: why there is no answer.
        waiter: of the first task of the router's own loop that waits.
    """

    __slots__ = ("_home", "_scope", "_watchers", "answer", "error", "over", "stream", "waiter")

    def __init__(
        self,
        request: RequestHead,
        body: Body,
        *,
        deadline: float,
        shard_key: str | None,
        idempotent: bool,
        waits_for_room: bool,
        home: Dispatcher,
        scope: CallScope | None,
    ) -> None:
        super().__init__(
            request,
            body,
            deadline=deadline,
            shard_key=shard_key,
            idempotent=idempotent,
            waits_for_room=waits_for_room,
        )
        self.answer: Body = b""
        self.stream: ReplyStream | None = None
        self.error: BaseException | None = None
        self.over = False
        self.waiter: asyncio.Future[None] | None = None
        self._home = home
        self._scope = scope
        if scope is not None:
            scope.adopt(self)
        self._watchers: list[Callable[[], object]] | None = None

    # On the router's loop

    def is_over(self) -> bool:
        return self.over

    def succeed(self, reply: Reply) -> None:
        if not self.over:
            self.answer = reply.body
            self.stream = reply.stream
            self._end()
        elif reply.stream is not None:
            reply.stream.close()

    def fail(self, error: BaseException) -> None:
        if not self.over:
            self.error = error
            self._end()

    def give_up(self) -> None:
        self.fail(ServeException("the call was cancelled"))

    # From any thread

    def cancel(self) -> None:
        """Nobody wants the answer any more."""
        self._home.cancel(self)

    def watch(self, watcher: Callable[[], object]) -> None:
        """Call ``watcher`` once when the call is over: on the router's loop, or here and now when it is already."""
        watchers = self._watchers
        if watchers is None:
            with _first_watchers:
                watchers = self._watchers
                if watchers is None:
                    watchers = self._watchers = []
        watchers.append(watcher)
        if self.over:
            self._tell(watchers)

    def forget(self, watcher: Callable[[], object]) -> None:
        """Do not call ``watcher`` any more."""
        try:
            (self._watchers or []).remove(watcher)
        except ValueError:
            pass  # it has just been called

    def wait(self, timeout_s: float | None) -> bool:
        """Block until the call is over, or for at most ``timeout_s`` seconds; whether it is over."""
        if not self.over:
            signal = threading.Lock()
            signal.acquire()
            self.watch(signal.release)
            if not signal.acquire(timeout=-1 if timeout_s is None else min(max(0.0, timeout_s), threading.TIMEOUT_MAX)):
                self.forget(signal.release)
        return self.over

    def _end(self) -> None:
        self.disarm()
        self.over = True
        if self._scope is not None:
            self._scope.release(self)
        if self.waiter is not None:
            wake(self.waiter)
        if self._watchers is not None:
            self._tell(self._watchers)

    @staticmethod
    def _tell(watchers: list[Callable[[], object]]) -> None:
        # The loop's thread and one that has just begun to watch may both be here. ``pop`` is atomic, and ``over`` was
        # set before and is looked at after a watcher is added, so that each is called exactly once.
        while True:
            try:
                watcher = watchers.pop(0)
            except IndexError:
                return
            watcher()


_first_watchers = threading.Lock()


def wake(waiter: asyncio.Future[None]) -> None:
    """Let the task go on that waits; on its loop."""
    if not waiter.done():
        waiter.set_result(None)
