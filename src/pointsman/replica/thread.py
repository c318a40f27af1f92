"""The one thread of a replica on which sync user code runs: constructor, ``reconfigure``, requests.

The thread forms its own batches when it is free, so nothing is handed back and forth between two items: under load it
goes from one to the next without the event loop, and results are posted in one wake-up for as many as are there.
(Measured against ``run_in_executor`` per call: 2.6 times the throughput.)
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable
from functools import partial
from typing import Any, Generic, TypeVar

from pointsman.context import call_scope
from pointsman.incoming import CODEC_HTTP
from pointsman.replica import answers
from pointsman.replica.answers import PLAIN
from pointsman.replica.batching import Batcher, BatchRule
from pointsman.replica.item import Item, learn, scope_of, unpacked
from pointsman.replica.ledger import Ledger
from pointsman.replica.responses import Feed, sync_source
from pointsman.replica.streams import stream_from_thread
from pointsman.replica.target import is_later, split_batch, whole
from pointsman.replica.usercontext import UserContext

T = TypeVar("T")


class SyncExecutor(Generic[T]):
    """Runs batches of items on one dedicated thread.

    Args:
        work: called on the thread with each due batch.
        batcher: holds the waiting items; owned by this executor, guarded by its lock.
    """

    def __init__(self, work: Callable[[list[T]], None], *, batcher: Batcher[T]) -> None:
        self._work = work
        self._batcher = batcher
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        """Of callbacks on the loop, which must not keep that of the user code they come from."""
        self._lock = threading.Lock()
        self._waker = threading.Lock()
        self._waker.acquire()
        self._jobs: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._posts: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._post_pending = False
        self._asleep = False
        self._held = False
        self._busy = False
        self._stopping = False
        self._idle_waiters: list[asyncio.Future[None]] = []
        # A daemon: user code that never returns must not keep the process from exiting.
        self._thread = threading.Thread(target=self._main, name="pointsman-sync", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end after what it runs now; waiting items are left alone."""
        with self._lock:
            self._stopping = True
        self._wake()

    async def end(self) -> None:
        """The same, and return when it has ended, with all that is its own."""
        self.stop()
        await self.run_beside(self._thread.join)

    # From the loop

    def add(self, item: T, *, key: Hashable, copy: bool = False) -> None:
        """Queue an item; a copy yields to all others."""
        with self._lock:
            self._batcher.add(item, key=key, now=time.monotonic(), copy=copy)
        self._wake()

    def remove(self, item: T, *, key: Hashable, copy: bool = False) -> bool:
        """Take an item out unseen; False when it has been started."""
        with self._lock:
            return self._batcher.remove(item, key=key, copy=copy)

    def rule_changed(self) -> None:
        """The batcher's rule is another one from now on."""
        self._wake()

    async def run(self, function: Callable[[], Any]) -> Any:
        """Run a function on the thread, before waiting items, and return what it returns."""
        future: asyncio.Future[Any] = self._loop.create_future()
        with self._lock:
            self._jobs.append((function, future))
        self._wake()
        return await future

    async def run_beside(self, function: Callable[[], Any]) -> Any:
        """Run a function on a thread of its own, whatever this one does, and return what it returns."""
        future: asyncio.Future[Any] = self._loop.create_future()
        threading.Thread(target=self._run_job, args=(function, future), name="pointsman-beside", daemon=True).start()
        return await future

    async def hold(self) -> None:
        """Start no more items, and return when none runs."""
        with self._lock:
            self._held = True
            if not self._busy:
                return
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._idle_waiters.append(waiter)
        await waiter

    def release(self) -> None:
        """Go on after :meth:`hold`."""
        with self._lock:
            self._held = False
        self._wake()

    def _wake(self) -> None:
        # A bare lock instead of a Condition, which allocates a lock for each wait: with one call at a time that was a
        # measurable part of the latency.
        with self._lock:
            asleep, self._asleep = self._asleep, False
        if asleep:
            self._waker.release()

    # From the thread

    def wait_for(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Have the loop run a coroutine to its end, in the context of the caller, and return what it returns."""
        value, error = asyncio.run_coroutine_threadsafe(settled(coroutine), self._loop).result()
        if error is not None:
            raise error
        return value

    def post(self, callback: Callable[..., None], *args: Any) -> None:
        """Have the loop call ``callback(*args)``; many posts share one wake-up."""
        self._posts.append((callback, args))
        if not self._post_pending:
            self._post_pending = True
            self._call_loop(self._run_posts)

    def _run_posts(self) -> None:
        # Cleared first: what is posted from here on wakes the loop again.
        self._post_pending = False
        posts = self._posts
        try:
            while posts:
                callback, args = posts.popleft()
                callback(*args)
        finally:
            if posts:  # one failed: the others are not its hostages
                self._call_loop(self._run_posts)

    def _call_loop(self, callback: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args, context=self._context)
        except RuntimeError:
            if not self._loop.is_closed():
                raise  # a closed loop means that the process is ending: nobody is left to tell

    def _main(self) -> None:
        while True:
            batch, job = self._next()
            if job is not None:
                self._run_job(*job)
            elif batch:
                self._work(batch)
            else:
                return

    def _next(self) -> tuple[list[T], tuple[Callable[[], Any], asyncio.Future[Any]] | None]:
        """Wait for something to do; nothing at all means: stop."""
        with self._lock:
            self._busy = False
            self._wake_idle_waiters()
        while True:
            with self._lock:
                if self._stopping:
                    return [], None
                if self._jobs:
                    return [], self._jobs.popleft()
                timeout_s = -1.0
                if not self._held and len(self._batcher):
                    now = time.monotonic()
                    batch = self._batcher.take(now)
                    if batch:
                        self._busy = True
                        return batch, None
                    due_at = self._batcher.due_at()
                    timeout_s = -1.0 if due_at is None else max(0.0, due_at - now)
                self._asleep = True
            self._sleep(timeout_s)

    def _sleep(self, timeout_s: float) -> None:
        """Wait to be woken, at most ``timeout_s`` seconds (-1: without limit)."""
        if self._waker.acquire(timeout=timeout_s):
            return
        with self._lock:
            woken, self._asleep = not self._asleep, False
        if woken:
            self._waker.acquire()  # the wake-up came just after the time-out: it must not count for the next sleep

    def _wake_idle_waiters(self) -> None:
        waiters, self._idle_waiters = self._idle_waiters, []
        for waiter in waiters:
            self._call_loop(_resolve, waiter, None, None)

    def _run_job(self, function: Callable[[], Any], future: asyncio.Future[Any]) -> None:
        try:
            value = function()
        except BaseException as error:  # noqa: BLE001 - user code; SystemExit must not end the thread either
            self._call_loop(_resolve, future, None, error)
        else:
            self._call_loop(_resolve, future, value, None)


async def settled(awaitable: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    """What an awaitable of user code gives, or raises; an exit among that would end the loop."""
    try:
        return await awaitable, None
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - user code: who waits for it raises it again
        return None, error


class UserExit(Exception):
    """Carries SystemExit, KeyboardInterrupt and the like across an asyncio future, which refuses some of them."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.error = error


def carried(error: BaseException) -> Exception:
    """An error of user code as an asyncio future can carry it."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    wrapped = UserExit(error).with_traceback(error.__traceback__)
    wrapped.__cause__ = error
    return wrapped


def _resolve(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(carried(error))


class OnThread:
    """Runs batches on the thread.

    Args:
        ledger: told, on the loop, what came of each call.
        rule: of batches; learns how long they take.
        deliver_later: takes, on the loop, what takes its time to be sent, or to be there, what feeds it, and its call's
            context.
        context: each batch runs in a copy of it.

    Attributes:
        executor: the thread, and what waits for it.
        running: what user code runs now, and since when.
    """

    def __init__(
        self, ledger: Ledger, rule: BatchRule, deliver_later: Callable[..., None], context: UserContext
    ) -> None:
        self._ledger = ledger
        self._rule = rule
        self._deliver_later = deliver_later
        self._context = context
        self.executor: SyncExecutor[Item] = SyncExecutor(self._run, batcher=Batcher(rule))
        self.running: tuple[float, list[Item]] | None = None

    def _run(self, batch: list[Item]) -> None:
        self._context.copy().run(self._serve, batch)

    def _serve(self, batch: list[Item]) -> None:
        ledger, post, metrics = self._ledger, self.executor.post, self._ledger.metrics.thread
        items = ledger.startable(batch)
        if not items:
            return
        method = items[0].method
        began, size = items[0].began, len(items)
        self.running = (began, items)
        call_scope.set(scope_of(items))
        try:
            if method.batches:
                items, requests = unpacked(items, lambda item, error: post(ledger.fail_with, item, error))
                began = time.monotonic()
                values = split_batch(self._finished(method.call(requests), len(items)), len(items)) if items else []
                learn(self._rule, items, began)
            else:
                values = [method.call(items[0].user_request())]
        except BaseException as error:  # noqa: BLE001 - user code: whatever it raises belongs to its callers
            endings = [item.ending(error) for item in items]
            ledger.failures.note(error, items, endings)
            outcomes: Iterable[tuple[Any, ...]] = [(ending.failed, ledger.end, ending) for ending in endings]
        else:
            outcomes = map(self._outcome, items, values)
        for item, (failed, tell, *outcome) in zip(items, outcomes, strict=True):
            if item is items[-1]:  # before the last answer leaves: who has all of them finds the call counted
                metrics.ran(began, size)
            if failed is not None:
                metrics.processed(item, failed=failed)
            post(tell, item, *outcome)
        if not items:  # none could be unpacked
            metrics.ran(began, size)
        self.running = None

    def _finished(self, result: Any, size: int) -> Any:
        """What a batching callable gives in the end. The thread waits for it: sync batches run one at a time."""
        if is_later(result) or hasattr(type(result), "__aiter__"):
            return self.executor.wait_for(whole(result, size))
        return result

    def _outcome(self, item: Item, value: Any) -> tuple[Any, ...]:
        """Stream or encode a value. Returns whether it failed, if known, and what to tell the loop."""
        ledger = self._ledger
        try:
            if item.method.batches:
                call_scope.set(item.scope())  # not what the stream of the member before has left
                if isinstance(value, BaseException):
                    return self._ended(item, value)
            if type(value) not in PLAIN and (is_later(value) or answers.is_long(value, item.request.http_method)):
                return self._deliver(item, value)
            return False, ledger.reply, answers.encode_answer(value, item.request.codec)
        except BaseException as error:  # noqa: BLE001 - user code: generators run here, and values give their JSON form
            return self._ended(item, error)

    def _deliver(self, item: Item, value: Any) -> tuple[Any, ...]:
        """Stream what sync code makes from here; the loop sends the rest. Returns the same."""
        ledger, post, context = self._ledger, self.executor.post, contextvars.copy_context()
        if is_later(value):
            return None, self._deliver_later, value, None, context
        source = value if answers.is_iterator(value) else sync_source(value)
        over_http = item.request.codec == CODEC_HTTP
        if source is value or (source is not None and answers.is_streaming(value) and not over_http):
            stream_from_thread(item, source, load=lambda: ledger.load, post=post)
            return False, ledger.end_stream
        if source is None or not over_http:
            return None, self._deliver_later, value, None, context
        feed = Feed(post)
        feed.fill(item, source, partial(self._deliver_later, context=context), value)
        return None, feed.finish

    def _ended(self, item: Item, error: BaseException) -> tuple[Any, ...]:
        """The same for an exception."""
        ending = item.ending(error)
        self._ledger.failures.note(error, (item,), (ending,))
        return ending.failed, self._ledger.end, ending
