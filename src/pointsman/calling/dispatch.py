"""Hands a handle's call to a router on its event loop, and the outcome back to the caller.

Sync handles are called from any thread; their calls go to the session's own loop. Calls of async handles stay on the
caller's loop, which has its own router and connections, so no other thread takes part (decision 0026).
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
from pointsman.routing.call import Call, CallFuture, ClientClosedError, is_error
from pointsman.routing.reply import Reply, ReplyStream
from pointsman.routing.router import Router
from pointsman.wire.frames import Body
from pointsman.wire.tables import TableChange

T = TypeVar("T")

CALLS_UNDER_WAY_LIMIT = 1000
"""Calls that threads may have submitted and the loop has not yet processed. Beyond this the calling thread waits."""


class Dispatcher:
    """A router and the event loop that it runs on. Made on that loop.

    Args:
        router: runs on the same loop.

    Attributes:
        thread: id of the loop's thread. An answer cannot arrive while this thread is blocked.
    """

    def __init__(self, router: Router) -> None:
        self.loop = asyncio.get_running_loop()
        self.router = router
        self.thread = threading.get_ident()

    def now(self) -> float:
        """Current time, on the clock of the router's deadlines."""
        return self.loop.time()

    def cancel(self, call: Call) -> None:
        """Give a call up. Thread-safe."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and its calls have ended
            self.loop.call_soon_threadsafe(self.router.cancel, call)

    def apply(self, table: RoutingTable, change: TableChange | None) -> None:
        """Give the router a new table, and how it differs from the one before. Thread-safe."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self.router.apply, table, change)

    async def connected(self) -> None:
        """Return when the router is connected to the replicas of its table, on any other loop."""
        connecting = self.router.connected()
        try:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(connecting, self.loop))
        except RuntimeError:  # the loop is closed
            connecting.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and return its result. Blocks; not for the loop's own thread."""
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
        except Exception as error:  # noqa: BLE001 - bugs of ours too: the caller must not wait for ever
            call.fail(error)


class ThreadDispatcher(Dispatcher):
    """For sync handles: on the session's loop, used from any thread."""

    def __init__(self, router: Router) -> None:
        super().__init__(router)
        self._submitted: deque[tuple[Call, bool]] = deque()
        self._scheduled = False

    def now(self) -> float:
        # Not `loop.time()`: uvloop updates it once per iteration, so from another thread it is that of the last one.
        return time.monotonic()

    def submit(self, call: Call, *, missing_ok: bool) -> None:
        """Submit a call from any thread. Many submissions share one wake-up of the loop.

        Raises:
            ServeException: the loop is closed.
        """
        self._submitted.append((call, missing_ok))
        if not self._scheduled:
            self._scheduled = True
            try:
                self.loop.call_soon_threadsafe(self._submit_all)
            except RuntimeError:
                raise ServeException("the client was shut down") from None

    def is_crowded(self, endpoint: str) -> bool:
        """True if a new call may have to wait: then its thread waits until it is admitted."""
        return len(self._submitted) > CALLS_UNDER_WAY_LIMIT or self.router.would_wait(endpoint)

    def _submit_all(self) -> None:
        self._scheduled = False  # before the loop: a call that is appended after its end schedules the next run
        while self._submitted:
            self._submit_here(*self._submitted.popleft())


class LoopDispatcher(Dispatcher):
    """For async handles: on the loop of user code."""

    def submit(self, call: Call, *, missing_ok: bool) -> None:
        """Submit a call. On the loop only."""
        self._submit_here(call, missing_ok)


class HandleCall(Call):
    """A call of a handle and its outcome, in one object.

    The outcome is set once, on the router's loop. Any thread may read it, wait for it, or watch for it.

    Args:
        home: the dispatcher that the call is submitted to.
        scope: of the request that user code makes this call for, if any; cancels the call when that request's caller
            has gone.

    Attributes:
        over: True once there is an answer or an error, which then stays as it is.
        answer, stream: the packed value, or the stream in its place.
        error: why there is no answer.
        waiter: of the first task on the router's loop that awaits the call.
        began: when it was made, in the time of ``time.monotonic``.
    """

    # hot: call and future in one. `concurrent.futures.Future` has a condition variable for each call, which cost more
    # than all else that the caller's thread does; and each further object per call in flight is one more for the
    # garbage collector to visit, which with thousands of calls was a third of the time.

    __slots__ = ("_home", "_scope", "_watchers", "answer", "began", "error", "over", "stream", "waiter")

    def __init__(
        self,
        request: RequestHead,
        body: Body,
        *,
        deadline: float,
        shard_key: str | None,
        idempotent: bool,
        waits_if_full: bool,
        home: Dispatcher,
        scope: CallScope | None,
    ) -> None:
        super().__init__(
            request,
            body,
            deadline=deadline,
            shard_key=shard_key,
            idempotent=idempotent,
            waits_if_full=waits_if_full,
        )
        self.began = time.monotonic()
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

    # Called on the router's loop

    def is_over(self) -> bool:
        return self.over

    def succeed(self, reply: Reply) -> None:
        if not self.over:
            self.answer = reply.body
            self.stream = reply.stream
            if self.tally is not None:
                if reply.stream is None:
                    self.tally.count(time.monotonic() - self.began, reply.status >= 500)
                else:
                    self.tally.waited(time.monotonic() - self.began)
                    reply.stream.tally = self.tally
            self._finish()
        elif reply.stream is not None:
            reply.stream.close()

    def fail(self, error: BaseException) -> None:
        if not self.over:
            self.error = error
            if self.tally is not None:
                if isinstance(error, ClientClosedError):
                    self.tally.waited(time.monotonic() - self.began)
                else:
                    self.tally.count(time.monotonic() - self.began, is_error(error))
            self._finish()

    def wrap(self, around: Callable[[CallFuture], CallFuture]) -> None:
        heard = around(_NOBODY)

        def tell() -> None:
            if self.error is not None:
                heard.set_exception(self.error)
            else:
                heard.set_result(Reply(200, [], self.answer, self.stream))

        self.watch(tell)

    def give_up(self) -> None:
        self.fail(ClientClosedError("the call was cancelled"))

    # Called from any thread

    def cancel(self) -> None:
        """Give the call up."""
        self._home.cancel(self)

    def watch(self, watcher: Callable[[], object]) -> None:
        """Call ``watcher`` once when the call is over: on the router's loop, or at once if it already is."""
        watchers = self._watchers
        if watchers is None:
            with _first_watchers:
                watchers = self._watchers
                if watchers is None:
                    watchers = self._watchers = []
        watchers.append(watcher)
        if self.over:
            self._notify(watchers)

    def forget(self, watcher: Callable[[], object]) -> None:
        """Remove a watcher."""
        try:
            (self._watchers or []).remove(watcher)
        except ValueError:
            pass  # it was called just now

    def wait(self, timeout_s: float | None) -> bool:
        """Block until the call is over, for at most ``timeout_s`` seconds (None: without limit). Returns ``over``."""
        if not self.over:
            # hot: a bare lock as a one-shot event; `threading.Event` makes a condition variable around one.
            signal = threading.Lock()
            signal.acquire()
            self.watch(signal.release)
            if not signal.acquire(timeout=-1 if timeout_s is None else min(max(0.0, timeout_s), threading.TIMEOUT_MAX)):
                self.forget(signal.release)
        return self.over

    def _finish(self) -> None:
        self.disarm()
        self.over = True
        if self._scope is not None:
            self._scope.release(self)
        if self.waiter is not None:
            wake(self.waiter)
        if self._watchers is not None:
            self._notify(self._watchers)

    @staticmethod
    def _notify(watchers: list[Callable[[], object]]) -> None:
        # Without a lock: the loop's thread and a thread that has just added a watcher may both be here. `pop` is
        # atomic, so no watcher is called twice. The loop's thread sets `over` before it comes here, and the other one
        # reads `over` after it has added its watcher, so no watcher is missed.
        while True:
            try:
                watcher = watchers.pop(0)
            except IndexError:
                return
            watcher()


class _Nobody:
    """The future of a call that keeps its outcome itself."""

    def done(self) -> bool:
        return True

    def cancel(self) -> None:
        pass

    def set_result(self, reply: Reply) -> None:
        pass

    def set_exception(self, error: BaseException) -> None:
        pass


_NOBODY = _Nobody()
_first_watchers = threading.Lock()


def wake(waiter: asyncio.Future[None]) -> None:
    """Resume the task that waits. On its loop only."""
    if not waiter.done():
        waiter.set_result(None)
