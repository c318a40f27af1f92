"""Async user code: tasks on the replica's loop, one per item, or one per batch for batching methods; and the tasks that
send answers which take time, those of sync user code included.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import time
from collections.abc import Callable, Coroutine, Hashable
from contextvars import Context
from typing import Any

from pointsman.context import call_scope
from pointsman.incoming import CODEC_HTTP
from pointsman.replica import answers
from pointsman.replica.answers import PLAIN
from pointsman.replica.batching import Batcher, BatchRule
from pointsman.replica.item import Item, report_batch, scope_of, with_requests
from pointsman.replica.ledger import Ledger
from pointsman.replica.responses import Feed, on_threads, run_response, sync_source
from pointsman.replica.streams import iterate, stream_values
from pointsman.replica.target import finished_batch, is_whole, needs_await, split_batch
from pointsman.replica.usercontext import UserContext


class CoroutineExecutor:
    """Runs items, and batches of items, as tasks.

    Args:
        run_one: coroutine function that runs a single item. It calls :meth:`ended` when user code has ended, and raises
            only a cancellation.
        run_batch: coroutine function that runs a batch; it must not raise.
        batcher: holds the items that wait for a batch.
        context: each item and batch runs in a copy of it.
        max_batches: how many batches may run at a time.
    """

    def __init__(
        self,
        run_one: Callable[[Item], Coroutine[Any, Any, None]],
        run_batch: Callable[[list[Item]], Coroutine[Any, Any, None]],
        *,
        batcher: Batcher[Item],
        context: UserContext,
        max_batches: int = 1,
    ) -> None:
        self._run_one = run_one
        self._run_batch = run_batch
        self._batcher = batcher
        self._context = context
        self._max_batches = max_batches
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._batches = 0
        self._timer: asyncio.TimerHandle | None = None
        self._held_items: list[Item] = []
        self._held = False
        self._idle: asyncio.Event | None = None

    def runs(self, kind: type[Item], run_one: Callable[[Item], Coroutine[Any, Any, None]]) -> None:
        """Have single items of a kind run by another coroutine function, by the same rules."""
        others = self._run_one
        self._run_one = lambda item: run_one(item) if isinstance(item, kind) else others(item)

    def start_one(self, item: Item) -> asyncio.Task[None] | None:
        """Start a single item now, or keep it while held. Returns its task; None while held."""
        if self._held:
            self._held_items.append(item)
            return None
        return self._start(item)

    def add(self, item: Item, *, key: Hashable, mirrored: bool = False) -> None:
        """Queue an item for a batch. Mirrored calls yield to all others."""
        self._batcher.add(item, key=key, now=self._loop.time(), mirrored=mirrored)
        self._start_batches()

    def remove(self, item: Item, *, key: Hashable, mirrored: bool = False) -> bool:
        """Remove a waiting item; False if it has been started."""
        if item in self._held_items:
            self._held_items.remove(item)
            return True
        return self._batcher.remove(item, key=key, mirrored=mirrored)

    def rule_changed(self, *, max_batches: int) -> None:
        """Apply a changed batching rule to the waiting items, and a new ``max_batches``."""
        self._max_batches = max_batches
        self._start_batches()

    async def hold(self) -> None:
        """Start no more items, and return when no task runs."""
        self._held = True
        while self._tasks:
            self._idle = asyncio.Event()
            await self._idle.wait()

    def release(self) -> None:
        """Start items again after :meth:`hold`, first those that have arrived meanwhile."""
        self._held = False
        items, self._held_items = self._held_items, []
        for item in items:
            self._start(item)
        self._start_batches()

    def run(self, coroutine: Coroutine[Any, Any, None], context: Context | None = None) -> asyncio.Task[None]:
        """Start a task that :meth:`hold` waits for, in a copy of ``context``; None: of the current one."""
        # `create_task` copies the context that it is called in; it has no argument for one in Python 3.10.
        create = self._loop.create_task
        task = create(coroutine) if context is None else context.run(create, coroutine)
        self._tasks.add(task)
        task.add_done_callback(self.ended)
        return task

    def cancel(self, task: asyncio.Task[None], then: Callable[[], object]) -> None:
        """Cancel a task, and call ``then`` when it is over. By a callback, since a task that is cancelled before its
        first step runs no code of ours."""
        task.add_done_callback(self.ended)
        task.add_done_callback(lambda _: then())
        task.cancel()

    def ended(self, task: asyncio.Task[None]) -> None:
        """Mark a task as finished.

        The task of a single item calls this right before it returns.
        """
        # hot: a done-callback would cost one more callback on the loop for each call.
        self._tasks.discard(task)
        if self._idle is not None and not self._tasks:
            self._idle.set()

    def _start(self, item: Item) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._context.spawn(self._loop.create_task, self._run_one(item))
        self._tasks.add(task)
        return task

    def _start_batches(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._loop.time()
        while not self._held and self._batches < self._max_batches:
            batch = self._batcher.take(now)
            if not batch:
                break
            self._batches += 1
            self.run(self._run_batch(batch), self._context.copy()).add_done_callback(self._batch_ended)
        due_at = self._batcher.due_at()
        if due_at is not None and not self._held and self._batches < self._max_batches:
            self._timer = self._loop.call_at(due_at, self._start_batches)

    def _batch_ended(self, task: asyncio.Task[None]) -> None:
        self._batches -= 1
        self._start_batches()


class OnLoop:
    """Runs calls of async user code, and sends answers that take time.

    Args:
        ledger: is given the outcome of each call.
        rule: batching rule; learns how long batches take.
        context: each call and batch runs in a copy of it.

    Attributes:
        executor: runs the tasks, and holds the items that wait.
    """

    def __init__(self, ledger: Ledger, rule: BatchRule, context: UserContext) -> None:
        self._ledger = ledger
        self._metrics = ledger.metrics.loop
        self._rule = rule
        self.executor = CoroutineExecutor(self._run_one, self._run_batch, batcher=Batcher(rule), context=context)

    def deliver_later(
        self, item: Item, value: Any, feed: Feed | None = None, context: contextvars.Context | None = None
    ) -> None:
        """Send an answer that takes time, in its own task.

        Args:
            feed: the values that a response streams, if the thread of sync code makes them.
            context: the task runs in a copy of it; None: of the current one.
        """
        if item.over and feed is None:
            if inspect.iscoroutine(value):
                value.close()
            self._ledger.close(item)
            return
        item.task = self.executor.run(self._deliver(item, value, feed), context)
        if feed is not None:  # also when the task is cancelled before its first step
            item.task.add_done_callback(lambda _: feed.close())

    async def _run_one(self, item: Item) -> None:
        # The task of an item that was held has not been set on the item yet; it is needed to cancel the call.
        item.task = task = item.task or asyncio.current_task()
        assert task is not None
        if not self._ledger.start(item):
            self.executor.ended(task)
            return
        call_scope.set(item.scope())
        value: Any = None
        try:
            result = item.method.call(item.user_request())
            value = result if inspect.isasyncgen(result) else await result
            if type(value) not in PLAIN and not is_whole(value, item.request.http_method):
                await self._deliver(item, value)
        except asyncio.CancelledError:
            self._cancelled(item)
            raise
        except BaseException as error:  # noqa: BLE001 - user code: whatever it raises belongs to its caller
            self._ledger.fail_with(item, error)
        finally:
            self._metrics.ran(item.began, 1)  # before the answer is sent: a caller that has it finds the call counted
            self.executor.ended(task)
        if not item.over:
            self._deliver_whole(item, value)

    async def _run_batch(self, batch: list[Item]) -> None:
        items = self._ledger.startable(batch)
        if not items:
            return
        method = items[0].method
        call_scope.set(scope_of(items))
        began, size = items[0].began, len(items)
        values: list[Any] = []
        try:
            items, requests = with_requests(items, self._ledger.fail_with)
            began = time.monotonic()
            values = split_batch(await finished_batch(method.call(requests), len(items)), len(items)) if items else []
            report_batch(self._rule, items, began)
        except asyncio.CancelledError:
            for item in items:
                self._cancelled(item)
            raise
        except BaseException as error:  # noqa: BLE001 - user code: whatever it raises belongs to its callers
            self._ledger.fail_all(items, error)
        finally:
            self._metrics.ran(began, size)  # before the answers are sent, as above
        for item, value in zip(items, values, strict=False):  # no values if the batch has failed
            if isinstance(value, BaseException):
                self._ledger.fail_with(item, value)
            elif type(value) not in PLAIN and not is_whole(value, item.request.http_method):
                self.deliver_later(item, value)  # a slow reader must not delay the other members, or the next batch
            else:
                self._deliver_whole(item, value)

    async def _deliver(self, item: Item, value: Any, feed: Feed | None = None) -> None:
        ledger = self._ledger
        over_http = item.request.codec == CODEC_HTTP
        call_scope.set(item.scope())  # the task may have inherited the scope of a batch
        try:
            if needs_await(value):
                value = await value
            if answers.is_streaming(value) and not over_http:  # a handle gets the values; it has no use for a head
                source = sync_source(value)
                value = value.body_iterator if source is None else on_threads(source)
            if answers.is_iterator(value):
                value = iterate(value)
            if answers.is_async_iterator(value):
                await stream_values(item, value, load=lambda: ledger.load)
                ledger.end_stream(item)
            elif answers.is_response(value) and answers.needs_asgi(value, item.request.http_method) and over_http:
                await run_response(item, value, load=lambda: ledger.load, feed=feed)
                ledger.close(item)
            else:
                self._deliver_whole(item, value)
        except asyncio.CancelledError:
            self._cancelled(item)
            raise
        except BaseException as error:  # noqa: BLE001 - user code: generators and responses run here too
            ledger.fail_with(item, error)

    def _deliver_whole(self, item: Item, value: Any) -> None:
        try:
            answer = item.method.encode(value, item.request)
        except BaseException as error:  # noqa: BLE001 - user code: values have methods for their JSON form
            self._ledger.fail_with(item, error)
        else:
            self._ledger.reply(item, answer)

    def _cancelled(self, item: Item) -> None:
        """Fail a call whose task was cancelled. No effect if its caller has cancelled it; otherwise user code has."""
        self._ledger.fail_with(item, RuntimeError("user code was cancelled"))
