"""Async user code: what a task does with a call, or with a batch; and answers that take their time to be sent."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import time
from typing import Any

from pointsman.context import call_scope
from pointsman.replica import answers
from pointsman.replica.answers import PLAIN
from pointsman.replica.batcher import Batcher
from pointsman.replica.batchrule import BatchRule
from pointsman.replica.coroutines import CoroutineExecutor
from pointsman.replica.item import Item, learn, scope_of, unpacked
from pointsman.replica.ledger import Ledger
from pointsman.replica.responses import Feed, on_threads, run_response, sync_source
from pointsman.replica.streams import iterate, stream_values
from pointsman.replica.target import is_later, split_batch, whole
from pointsman.replica.usercontext import UserContext
from pointsman.wire.messages import CODEC_HTTP


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
            result = item.method.call(item.request())
            value = result if inspect.isasyncgen(result) else await result
            if type(value) not in PLAIN and (is_later(value) or answers.is_long(value, item.head.http_method)):
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
            elif type(value) not in PLAIN and (is_later(value) or answers.is_long(value, item.head.http_method)):
                self.deliver_later(item, value)  # its reader must not hold up the others, nor the next batch
            else:
                self._deliver_whole(item, value)

    async def _deliver(self, item: Item, value: Any, feed: Feed | None = None) -> None:
        ledger = self._ledger
        over_http = item.head.codec == CODEC_HTTP
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
            elif answers.is_response(value) and answers.needs_asgi(value, item.head.http_method) and over_http:
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
            answer = answers.encode_answer(value, item.head.codec)
        except BaseException as error:  # noqa: BLE001 - user code: values are asked for their own JSON form
            self._ledger.fail_with(item, error)
        else:
            self._ledger.reply(item, answer)

    def _cancelled(self, item: Item) -> None:
        """Silent for a caller who has cancelled; but user code may also have cancelled itself."""
        self._ledger.fail_with(item, RuntimeError("user code was cancelled"))
