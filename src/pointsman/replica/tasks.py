"""Async user code: tasks on the replica's loop, one per item, or one per batch for batching methods; and answers that
take their time to be sent.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import time
from collections.abc import Callable, Coroutine, Hashable
from contextvars import Context
from typing import Any, Generic, TypeVar

from pointsman.context import call_scope
from pointsman.incoming import CODEC_HTTP
from pointsman.replica import answers
from pointsman.replica.answers import PLAIN
from pointsman.replica.batching import Batcher, BatchRule
from pointsman.replica.item import Item, learn, scope_of, unpacked
from pointsman.replica.ledger import Ledger
from pointsman.replica.responses import Feed, on_threads, run_response, sync_source
from pointsman.replica.streams import iterate, stream_values
from pointsman.replica.target import is_later, split_batch, whole
from pointsman.replica.usercontext import UserContext

T = TypeVar("T")


class CoroutineExecutor(Generic[T]):
    """Runs items, and batches of them, as tasks.

    Args:
        run_one: the coroutine function that runs an item by itself. It calls :meth:`ended` when user code has ended,
            and raises nothing but a cancellation.
        run_batch: the coroutine function that runs a batch; it must not raise.
        batcher: holds items that wait for a batch.
        context: each item and batch runs in a copy of it.
        max_batches: batches that may overlap.
    """

    def __init__(
        self,
        run_one: Callable[[T], Coroutine[Any, Any, None]],
        run_batch: Callable[[list[T]], Coroutine[Any, Any, None]],
        *,
        batcher: Batcher[T],
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
        self._held_items: list[T] = []
        self._held = False
        self._idle: asyncio.Event | None = None

    def start_one(self, item: T) -> asyncio.Task[None] | None:
        """Run an item by itself, at once; None while held."""
        if self._held:
            self._held_items.append(item)
            return None
        return self._start(item)

    def add(self, item: T, *, key: Hashable, copy: bool = False) -> None:
        """Queue an item for a batch; a copy yields to all others."""
        self._batcher.add(item, key=key, now=self._loop.time(), copy=copy)
        self._start_batches()

    def remove(self, item: T, *, key: Hashable, copy: bool = False) -> bool:
        """Take an item out unseen; False when it has been started."""
        if item in self._held_items:
            self._held_items.remove(item)
            return True
        return self._batcher.remove(item, key=key, copy=copy)

    def rule_changed(self, *, max_batches: int) -> None:
        """The batcher's rule is another one from now on, and so many batches may overlap."""
        self._max_batches = max_batches
        self._start_batches()

    async def hold(self) -> None:
        """Start nothing more, and return when nothing runs."""
        self._held = True
        while self._tasks:
            self._idle = asyncio.Event()
            await self._idle.wait()

    def release(self) -> None:
        """Go on after :meth:`hold`."""
        self._held = False
        items, self._held_items = self._held_items, []
        for item in items:
            self._start(item)
        self._start_batches()

    def run(self, coroutine: Coroutine[Any, Any, None], context: Context | None = None) -> asyncio.Task[None]:
        """Run a coroutine as a task that :meth:`hold` waits for, in a copy of a context: the present one by default."""
        # Python 3.10 takes no context here, and copies the one that it is called in.
        create = self._loop.create_task
        task = create(coroutine) if context is None else context.run(create, coroutine)
        self._tasks.add(task)
        task.add_done_callback(self.ended)
        return task

    def cancel(self, task: asyncio.Task[None], then: Callable[[], object]) -> None:
        """Cancel a task, and call ``then`` once it is over: one that has not made its first step never runs a line."""
        task.add_done_callback(self.ended)
        task.add_done_callback(lambda _: then())
        task.cancel()

    def ended(self, task: asyncio.Task[None]) -> None:
        """A task is over, or as good as: an item's own says so itself, since its callback would take another turn of
        the loop for each call."""
        self._tasks.discard(task)
        if self._idle is not None and not self._tasks:
            self._idle.set()

    def _start(self, item: T) -> asyncio.Task[None]:
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
    """Runs calls and batches as tasks.

    Args:
        ledger: told what came of each call.
        rule: of batches; learns how long they take.
        context: each call and batch runs in a copy of it.

    Attributes:
        executor: the tasks, and what waits to become one.
    """

    def __init__(self, ledger: Ledger, rule: BatchRule, context: UserContext) -> None:
        self._ledger = ledger
        self._metrics = ledger.metrics.loop
        self._rule = rule
        self.executor: CoroutineExecutor[Item] = CoroutineExecutor(
            self._run_one, self._run_batch, batcher=Batcher(rule), context=context
        )

    def deliver_later(
        self, item: Item, value: Any, feed: Feed | None = None, context: contextvars.Context | None = None
    ) -> None:
        """Send what takes its time, in a task of its own.

        Args:
            feed: what a response streams, where sync code makes it.
            context: which the task runs in; by default a copy of the present one.
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
        # One that was held back has no task yet by which to cancel it.
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
            if type(value) not in PLAIN and (is_later(value) or answers.is_long(value, item.request.http_method)):
                await self._deliver(item, value)
        except asyncio.CancelledError:
            self._cancelled(item)
            raise
        except BaseException as error:  # noqa: BLE001 - user code: whatever it raises belongs to its caller
            self._ledger.fail_with(item, error)
        finally:
            self._metrics.ran(item.began, 1)  # before the answer leaves: who has it finds the call counted
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
            items, requests = unpacked(items, self._ledger.fail_with)
            began = time.monotonic()
            values = split_batch(await whole(method.call(requests), len(items)), len(items)) if items else []
            learn(self._rule, items, began)
        except asyncio.CancelledError:
            for item in items:
                self._cancelled(item)
            raise
        except BaseException as error:  # noqa: BLE001 - user code: whatever it raises belongs to its callers
            self._ledger.fail_all(items, error)
        finally:
            self._metrics.ran(began, size)  # before answers leave, as above
        for item, value in zip(items, values, strict=False):  # none when it has failed
            if isinstance(value, BaseException):
                self._ledger.fail_with(item, value)
            elif type(value) not in PLAIN and (is_later(value) or answers.is_long(value, item.request.http_method)):
                self.deliver_later(item, value)  # its reader must not hold up the others, nor the next batch
            else:
                self._deliver_whole(item, value)

    async def _deliver(self, item: Item, value: Any, feed: Feed | None = None) -> None:
        ledger = self._ledger
        over_http = item.request.codec == CODEC_HTTP
        call_scope.set(item.scope())  # a task that was begun by others has theirs
        try:
            if is_later(value):
                value = await value
            if answers.is_streaming(value) and not over_http:  # a caller that takes objects has no use for a head
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
            answer = answers.encode_answer(value, item.request.codec)
        except BaseException as error:  # noqa: BLE001 - user code: values are asked for their own JSON form
            self._ledger.fail_with(item, error)
        else:
            self._ledger.reply(item, answer)

    def _cancelled(self, item: Item) -> None:
        """Silent for a caller who has cancelled; but user code may also have cancelled itself."""
        self._ledger.fail_with(item, RuntimeError("user code was cancelled"))
