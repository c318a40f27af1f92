"""Sync user code: what its one thread does with a batch, of one or more, and how the answers get to the loop."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from pointsman.context import call_scope
from pointsman.replica import answers
from pointsman.replica.answers import PLAIN
from pointsman.replica.batcher import Batcher
from pointsman.replica.batchrule import BatchRule
from pointsman.replica.executor import SyncExecutor
from pointsman.replica.item import Item, learn, scope_of, unpacked
from pointsman.replica.ledger import Ledger
from pointsman.replica.responses import Feed, sync_source
from pointsman.replica.streams import stream_from_thread
from pointsman.replica.target import is_later, split_batch, whole
from pointsman.replica.usercontext import UserContext
from pointsman.wire.messages import CODEC_HTTP


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
                values = [method.call(items[0].request())]
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
            if type(value) not in PLAIN and (is_later(value) or answers.is_long(value, item.head.http_method)):
                return self._deliver(item, value)
            return False, ledger.reply, answers.encode_answer(value, item.head.codec)
        except BaseException as error:  # noqa: BLE001 - user code: generators run here, and values give their JSON form
            return self._ended(item, error)

    def _deliver(self, item: Item, value: Any) -> tuple[Any, ...]:
        """Stream what sync code makes from here; the loop sends the rest. Returns the same."""
        ledger, post, context = self._ledger, self.executor.post, contextvars.copy_context()
        if is_later(value):
            return None, self._deliver_later, value, None, context
        source = value if answers.is_iterator(value) else sync_source(value)
        over_http = item.head.codec == CODEC_HTTP
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
