"""The one thread of a replica on which sync user code runs: constructor, ``reconfigure``, requests.

The thread takes its next batch by itself when it is free, so that under load it goes from one item to the next without
the event loop; results are posted to the loop, and those that are ready share one wake-up (decision 0005). Measured
against ``run_in_executor`` per call: 2.6 times the throughput.

How the thread sleeps and is woken, without losing a wake-up:

- ``_lock`` guards the batcher, the jobs and the flags. ``_waker`` is a bare lock used as a one-shot signal: it is held
  except between a wake-up and the end of the sleep that it ends. To sleep is to acquire it, to wake is to release it.
- ``_next`` sets ``_asleep`` under ``_lock`` after it has found nothing to do. Work is added under the same lock, and
  then ``_wake`` is called: so either ``_next`` has found the work, or ``_wake`` finds ``_asleep``.
- ``_wake`` clears ``_asleep`` and then releases ``_waker``. So a sleep has at most one release, however often ``_wake``
  is called; releasing a lock that is not held would raise.
- A sleep may time out just when ``_wake`` has cleared ``_asleep`` but has not released yet. ``_sleep`` finds the flag
  cleared and acquires ``_waker`` again. Otherwise that release would end the next sleep at once, or the next release
  would find the lock not held.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Iterable
from functools import partial
from typing import Any

from pointsman.context import call_scope
from pointsman.incoming import CODEC_HTTP
from pointsman.policy.balance import GOES_ON, Pace, RunTime
from pointsman.replica import answers
from pointsman.replica.answers import PLAIN
from pointsman.replica.batching import Batcher, BatchRule
from pointsman.replica.item import Item, report_batch, scope_of, with_requests
from pointsman.replica.ledger import Ledger
from pointsman.replica.outcomes import as_settable, outcome_of
from pointsman.replica.responses import Feed, sync_source
from pointsman.replica.streams import stream_from_thread
from pointsman.replica.target import finished_batch, is_whole, needs_await, split_batch
from pointsman.replica.usercontext import MakeThread, UserContext, own_thread


class SyncExecutor:
    """Runs batches of items on one dedicated thread.

    Args:
        work: called on the thread with each due batch; it must not raise.
        batcher: holds the waiting items. Used by this executor only, under its lock.
        make_thread: makes the thread that runs the function that it is given.
    """

    def __init__(
        self, work: Callable[[list[Item]], None], *, batcher: Batcher[Item], make_thread: MakeThread = own_thread
    ) -> None:
        self._work = work
        self._batcher = batcher
        self._loop = asyncio.get_running_loop()
        # Callbacks on the loop run in this context; by default each would keep alive that of the user code it is from.
        self._context = contextvars.copy_context()
        self._lock = threading.Lock()
        # hot: bare locks; a `Condition` allocates a lock for each wait, a measurable part of the latency of one call.
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
        self._free_watchers: list[Callable[[], None]] = []
        self._os_thread = make_thread(self._main)

    def start(self) -> None:
        self._os_thread.start()

    def stop(self) -> None:
        """End the thread after its current batch. Waiting items are not run."""
        with self._lock:
            self._stopping = True
        self._wake()

    async def end(self) -> None:
        """Like :meth:`stop`, and return when the thread has ended and its thread-local objects are gone."""
        self.stop()
        await self.run_elsewhere(self._os_thread.join)

    # Called on the loop

    def add(self, item: Item, *, key: Hashable, mirrored: bool = False) -> None:
        """Queue an item. Mirrored calls yield to all others."""
        with self._lock:
            self._batcher.add(item, key=key, now=time.monotonic(), mirrored=mirrored)
        self._wake()

    def remove(self, item: Item, *, key: Hashable, mirrored: bool = False) -> bool:
        """Remove a waiting item; False if it has been started."""
        with self._lock:
            return self._batcher.remove(item, key=key, mirrored=mirrored)

    def rule_changed(self) -> None:
        """Apply a changed batching rule to the waiting items."""
        self._wake()

    async def run(self, function: Callable[[], Any]) -> Any:
        """Run a function on the thread, before waiting items, and return its result."""
        future: asyncio.Future[Any] = self._loop.create_future()
        with self._lock:
            self._jobs.append((function, future))
        self._wake()
        return await future

    async def run_elsewhere(self, function: Callable[[], Any]) -> Any:
        """Run a function on a new thread, beside what this one runs, and return its result."""
        future: asyncio.Future[Any] = self._loop.create_future()
        threading.Thread(target=self._run_job, args=(function, future), name="pointsman-beside", daemon=True).start()
        return await future

    async def hold(self) -> None:
        """Start no more items, and return when none is running."""
        with self._lock:
            self._held = True
            if not self._busy:
                return
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._idle_waiters.append(waiter)
        await waiter

    def release(self) -> None:
        """Start items again after :meth:`hold`."""
        with self._lock:
            self._held = False
            if not self._busy:
                self._call_free_watchers()
        self._wake()

    def is_free(self, watcher: Callable[[], None]) -> bool:
        """Whether nothing runs, or is held. Otherwise the loop calls ``watcher`` once that is so, behind what was
        posted before."""
        with self._lock:
            if self._busy or self._held:
                self._free_watchers.append(watcher)
                return False
        return True

    def _call_free_watchers(self) -> None:
        watchers, self._free_watchers = self._free_watchers, []
        for watcher in watchers:
            self.post(watcher)

    def _wake(self) -> None:
        with self._lock:
            asleep, self._asleep = self._asleep, False
        if asleep:
            self._waker.release()

    # Called on the thread

    def wait_for(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the loop, in the caller's context, and return its result. Blocks the thread."""
        value, error = asyncio.run_coroutine_threadsafe(outcome_of(coroutine), self._loop).result()
        if error is not None:
            raise error
        return value

    def post(self, callback: Callable[..., None], *args: Any) -> None:
        """Schedule ``callback(*args)`` on the loop. Many posts share one wake-up of the loop."""
        self._posts.append((callback, args))
        if not self._post_pending:
            self._post_pending = True
            self._call_loop(self._run_posts)

    @property
    def all_posts_done(self) -> bool:
        """Whether the loop has done all that was posted."""
        return not self._posts

    def _run_posts(self) -> None:
        # Cleared first: a post that comes after the last `popleft` then schedules another run.
        self._post_pending = False
        posts = self._posts
        try:
            while posts:
                callback, args = posts[0]
                try:
                    callback(*args)
                finally:
                    posts.popleft()  # not before: until it is done the thread must not overtake it
        finally:
            if posts:  # a callback has raised; the others must run all the same
                self._call_loop(self._run_posts)

    def _call_loop(self, callback: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args, context=self._context)
        except RuntimeError:
            if not self._loop.is_closed():
                raise  # a closed loop, on the other hand, means that the process is ending

    def _main(self) -> None:
        while True:
            batch, job = self._next()
            if job is not None:
                self._run_job(*job)
            elif batch:
                self._work(batch)
            else:
                return

    def _next(self) -> tuple[list[Item], tuple[Callable[[], Any], asyncio.Future[Any]] | None]:
        """Wait for a batch or a job. Neither of them means that the thread is to stop."""
        with self._lock:
            self._busy = False
            self._wake_idle_waiters()
            if self._free_watchers and not self._held:
                self._call_free_watchers()
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
        """Wait for :meth:`_wake`, at most ``timeout_s`` seconds (-1: without limit). ``_asleep`` was set before."""
        if self._waker.acquire(timeout=timeout_s):
            return
        with self._lock:
            woken, self._asleep = not self._asleep, False
        if woken:
            self._waker.acquire()  # `_wake` came just after the time-out: its release must not end the next sleep

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


def _resolve(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(as_settable(error))


class OnThread:
    """Runs calls of sync user code on the thread.

    Args:
        ledger: is given the outcome of each call, on the loop.
        rule: batching rule; learns how long batches take.
        deliver_later: :meth:`OnLoop.deliver_later <pointsman.replica.tasks.OnLoop.deliver_later>`: sends, on the loop,
            answers that take time or must be awaited.
        context: each batch runs in a copy of it.
        make_thread: as for :class:`SyncExecutor`.

    Attributes:
        executor: the thread, and the items that wait for it.
        running: when the current call or batch began, and its items; None while user code does not run.
    """

    def __init__(
        self,
        ledger: Ledger,
        rule: BatchRule,
        deliver_later: Callable[..., None],
        context: UserContext,
        make_thread: MakeThread = own_thread,
    ) -> None:
        self._ledger = ledger
        self._rule = rule
        self._deliver_later = deliver_later
        self._context = context
        self.executor = SyncExecutor(self._run, batcher=Batcher(rule), make_thread=make_thread)
        self.running: tuple[float, list[Item]] | None = None
        self._run_time: Pace = RunTime()

    def goes_on(self) -> None:
        """Calls are not over when the thread has done with them, or never come to it one by one."""
        self._run_time.goes_on()
        self._ledger.run_us = GOES_ON

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
                items, requests = with_requests(items, lambda item, error: post(ledger.fail_with, item, error))
                began = time.monotonic()
                values = split_batch(self._finished(method.call(requests), len(items)), len(items)) if items else []
                report_batch(self._rule, items, began)
            else:
                values = [method.call(items[0].user_request())]
        except BaseException as error:  # noqa: BLE001 - user code: whatever it raises belongs to its callers
            endings = [item.ending(error) for item in items]
            ledger.failures.record(error, items, endings)
            outcomes: Iterable[tuple[Any, ...]] = [(ending.failed, ledger.end, ending) for ending in endings]
        else:
            # Lazy: each answer is posted before the next one is encoded, or streamed, which may take long.
            outcomes = map(self._outcome, items, values)
        for item, (failed, send, *outcome) in zip(items, outcomes, strict=True):
            if item is items[-1]:  # before the last answer is sent: a caller that has all of them finds them counted
                metrics.ran(began, size)
                if not method.batches:
                    self._run_time.note(time.monotonic() - began)
                    ledger.run_us = self._run_time.us
            if failed is not None:
                metrics.processed(item, failed=failed)
            alone = send == ledger.reply and not method.batches and self.executor.all_posts_done
            if not (alone and ledger.reply_from_thread(item, outcome[0], post)):
                post(send, item, *outcome)
        if not items:  # none of them could be unpacked
            metrics.ran(began, size)
        self.running = None

    def _finished(self, result: Any, size: int) -> Any:
        """The final result of a batching callable. The thread waits for it, since sync batches run one at a time."""
        if needs_await(result) or hasattr(type(result), "__aiter__"):
            return self.executor.wait_for(finished_batch(result, size))
        return result

    def _outcome(self, item: Item, value: Any) -> tuple[Any, ...]:
        """Stream or encode a value.

        Returns:
            Whether the call failed (None if that is not known yet); the function that sends the outcome on the loop;
            and its arguments behind the item.
        """
        ledger = self._ledger
        try:
            if item.method.batches:
                call_scope.set(item.scope())  # a stream of the previous member may have left another scope
                if isinstance(value, BaseException):
                    return self._ended(item, value)
            if type(value) not in PLAIN and not is_whole(value, item.request.http_method):
                return self._deliver(item, value)
            return False, ledger.reply, item.method.encode(value, item.request)
        except BaseException as error:  # noqa: BLE001 - user code: generators run here, and values give their JSON form
            return self._ended(item, error)

    def _deliver(self, item: Item, value: Any) -> tuple[Any, ...]:
        """Stream an answer that sync code produces, or hand the answer to the loop. Returns as :meth:`_outcome`."""
        ledger, post, context = self._ledger, self.executor.post, contextvars.copy_context()
        if needs_await(value) or answers.is_async_iterator(value):
            if self._run_time.us != GOES_ON:
                self.goes_on()
                post(ledger.send_free)  # the answer may take long, and nobody need wait for it
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
        """The outcome of a call that has raised. Returns as :meth:`_outcome`."""
        ending = item.ending(error)
        self._ledger.failures.record(error, (item,), (ending,))
        return ending.failed, self._ledger.end, ending
