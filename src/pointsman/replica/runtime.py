"""The replica's side of calls: admission, the life of an item, answers, streams, cancellation, drain.

    frames from routers -> admit (or refuse) -> executor (thread or tasks) -> user code -> frames back

Everything here runs on the loop, but for the methods marked "on the thread". The runtime does not know the controller;
``__main__`` tells it what to run, when to take a new configuration and when to drain.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Iterable
from typing import Any

from pointsman.context import call_scope
from pointsman.exceptions import CallRejectedError
from pointsman.model import Reason, ReplicaConfig, TargetTraits
from pointsman.replica import answers
from pointsman.replica.batcher import Batcher
from pointsman.replica.batchrule import BatchRule
from pointsman.replica.coroutines import CoroutineExecutor
from pointsman.replica.executor import SyncExecutor
from pointsman.replica.health import Vitals, vitals_of
from pointsman.replica.item import Item, learn, scope_of, unpacked
from pointsman.replica.metrics import NO_METRICS, ReplicaMetrics
from pointsman.replica.started import StartedUntilTold
from pointsman.replica.streams import end_stream, iterate, run_response, stream_from_thread, stream_values
from pointsman.replica.target import Target, split_batch, whole
from pointsman.request import Request
from pointsman.wire.frames import Frame, Kind
from pointsman.wire.messages import CODEC_HTTP, CallHead, CreditHead, FailureHead, RefuseHead, ReplyHead, pack, unpack
from pointsman.wire.stream import Stream


class Runtime:
    """Runs the calls of one backend's code.

    Args:
        config: limits and batching; :meth:`configure` takes later ones.
        started: where calls are noted before user code sees them; None where nobody will read it.
        metrics: where they are counted.

    Call :meth:`load_code` before routers are let in.
    """

    def __init__(
        self,
        config: ReplicaConfig,
        *,
        started: StartedUntilTold | None = None,
        metrics: ReplicaMetrics = NO_METRICS,
    ) -> None:
        self._config = config
        self._started = started
        self._metrics = metrics
        self._rule = BatchRule()
        self._target: Target | None = None
        self._loop = asyncio.get_running_loop()
        self._items: dict[tuple[Stream, int], Item] = {}
        self._draining = False
        self._drained: asyncio.Future[None] = self._loop.create_future()
        self._streams: dict[Stream, int] = {}
        """Connections of routers, and their numbers."""
        self._on_thread: tuple[float, list[Item]] | None = None
        """What sync code runs now, and since when."""
        self._thread: SyncExecutor[Item] = SyncExecutor(self._run_on_thread, batcher=Batcher(self._rule))
        self._coroutines: CoroutineExecutor[Item] = CoroutineExecutor(self._run_on_loop, batcher=Batcher(self._rule))
        self._apply_limits(config)

    @property
    def load(self) -> int:
        """Calls in this replica, waiting or running."""
        return len(self._items)

    def vitals(self, declared_s: float) -> Vitals:
        """How busy this replica is, from any thread.

        Args:
            declared_s: how long a call may take, if its own deadline is not later. Callers in a hurry give up sooner,
                but that must not get the replica killed.
        """
        return vitals_of(list(self._items.copy().values()), self._on_thread, declared_s)

    @property
    def health_check(self) -> Callable[[], Any] | None:
        """The user's ``check_health``, where there is one."""
        return self._target.health_check if self._target is not None else None

    async def load_code(self, code: bytes, traits: TargetTraits) -> None:
        """Load user code and run its constructor, on the thread that sync user code will always run on.

        Raises:
            Exception: whatever user code raises; exits come as ``UserExit``.
        """
        self._thread.start()
        self._target = await self._thread.run(lambda: Target(code, traits))
        await self._thread.run(self._target.construct)

    def configure(self, config: ReplicaConfig) -> None:
        """Take new limits at once."""
        self._config = config
        self._apply_limits(config)

    async def reconfigure(self, user_config: bytes, *, timeout_s: float) -> None:
        """Call the user's ``reconfigure`` between requests: what runs is waited for, what comes meanwhile waits.

        Raises:
            TimeoutError: requests were still running after ``timeout_s`` seconds.
            Exception: whatever user code raises; exits come as ``UserExit``.
        """
        target = self._target
        assert target is not None
        try:
            try:
                await asyncio.wait_for(self._hold(), timeout_s)
            except asyncio.TimeoutError:
                text = f"requests of this replica were still running after {timeout_s:g} s, its drain limit"
                raise TimeoutError(text) from None
            result = await self._thread.run(lambda: target.reconfigure(user_config))
            if inspect.isawaitable(result):
                await result
        finally:
            self._thread.release()
            self._coroutines.release()

    async def _hold(self) -> None:
        await self._thread.hold()  # first, because it can still hand a stream over to the coroutines
        await self._coroutines.hold()

    async def drain(self) -> None:
        """Refuse new calls and return when none is left and every answer is written."""
        self._draining = True
        if not self._items and not self._drained.done():
            self._drained.set_result(None)
        await asyncio.shield(self._drained)
        for stream in list(self._streams):
            await stream.flushed()

    def _apply_limits(self, config: ReplicaConfig) -> None:
        self._rule.configure(
            max_size=min(config.max_batch_size, config.max_concurrent_queries),
            wait_s=config.batch_wait_timeout_s,
            target_s=config.target_latency_s,
        )
        self._thread.rule_changed()
        self._coroutines.rule_changed(max_batches=config.max_concurrent_batches)

    # StreamUser: connections of routers

    def stream_ready(self, stream: Stream) -> None:
        self._streams[stream] = int(stream.identity or 0)

    def stream_frames(self, stream: Stream, frames: list[Frame]) -> None:
        for frame in frames:
            if frame.kind == Kind.CALL:
                self._admit(stream, frame)
            elif frame.kind == Kind.CANCEL:
                self._cancel(self._items.get((stream, frame.call_id)))
            elif frame.kind == Kind.CREDIT:
                item = self._items.get((stream, frame.call_id))
                if item is not None:
                    item.grant(unpack(frame.head, CreditHead).chunks)

    def stream_lost(self, stream: Stream, error: Exception | None) -> None:
        self._streams.pop(stream, None)
        for item in [item for item in self._items.values() if item.stream is stream]:
            self._cancel(item)

    def _admit(self, stream: Stream, frame: Frame) -> None:
        if self._draining or len(self._items) >= self._config.max_concurrent_queries:
            reason = Reason.DRAINING if self._draining else Reason.QUEUE_FULL
            stream.send(Kind.REFUSE, frame.call_id, pack(RefuseHead(reason, self.load)))
            return
        assert self._target is not None
        head = unpack(frame.head, CallHead)
        try:
            method = self._target.method(head.method_name)
        except (CallRejectedError, TypeError) as error:
            failure = FailureHead(Reason.REJECTED, "CallRejectedError", str(error), load=self.load)
            stream.send(Kind.FAILURE, frame.call_id, pack(failure))
            return
        item = Item(stream, frame.call_id, head, frame.body, method)
        self._items[stream, frame.call_id] = item
        self._metrics.loop.arrived()
        if method.batches:
            try:
                item.key = (method.name, method.bucket(Request(item.incoming())) if method.bucket_by else None)
            except BaseException as error:  # noqa: BLE001 - user code
                self._fail_with(item, error)
                return
        if not method.is_async:
            self._thread.add(item, key=item.key, copy=head.shadow)
        elif method.batches:
            self._coroutines.add(item, key=item.key, copy=head.shadow)
        else:
            item.task = self._coroutines.start_one(item)

    def _cancel(self, item: Item | None) -> None:
        """Nobody waits for this item: take it out of the queue, stop its task, or drop its answer when it comes."""
        if item is None or item.over:
            return
        method, copy = item.method, item.head.shadow
        executor: CoroutineExecutor[Item] | SyncExecutor[Item] = self._coroutines if method.is_async else self._thread
        if executor.remove(item, key=item.key, copy=copy):
            self._close(item)
            return
        item.over = True
        item.give_up_inner_calls()
        if item.credit is not None:
            item.credit.release()  # a producer that waits for credit sees that its item is over
        if item.task is not None:
            self._coroutines.cancel(item.task, lambda: self._close(item))
        elif item.method.is_async:
            self._close(item)  # a member of a batch: the others go on, its answer is dropped

    # The end of an item

    def _close(self, item: Item) -> None:
        """The item has no further answer: give its slot back and strike it out."""
        self._give_back(item)
        if item.mark is not None and self._started is not None:
            self._started.end_when_told(item.mark, item.stream)
            item.mark = None

    def _give_back(self, item: Item) -> None:
        """Its slot is free, and it is counted: before its caller can know."""
        item.over = True
        if self._items.pop((item.stream, item.call_id), None) is None:
            return
        self._metrics.loop.closed(item)
        if self._draining and not self._items:
            self._drained.set_result(None)

    def _reply(self, item: Item, answer: answers.Answer) -> None:
        if not item.over:
            self._give_back(item)
            head = pack(ReplyHead(answer.status, answer.headers, len(self._items), False, *item.timing()))
            item.stream.send(Kind.REPLY, item.call_id, head, answer.body, alone=not self._items)
        self._close(item)

    def _fail(self, item: Item, failure: FailureHead, pickled: bytes) -> None:
        if not item.over:
            self._metrics.loop.failed_late(item)
            self._give_back(item)
            item.stream.send(Kind.FAILURE, item.call_id, pack(failure), pickled)
        self._close(item)

    def _fail_with(self, item: Item, error: BaseException) -> None:
        self._fail(item, *item.describe(error))

    # Sync user code

    def _run_on_thread(self, batch: list[Item]) -> None:
        """On the thread: run one batch and post what came of it."""
        items = self._startable(batch)
        if not items:
            return
        method = items[0].method
        post, metrics = self._thread.post, self._metrics.thread
        began, size = items[0].began, len(items)
        self._on_thread = (began, items)
        token = call_scope.set(scope_of(items))
        try:
            if method.batches:
                items, requests = unpacked(items, lambda item, error: post(self._fail_with, item, error))
                began = time.monotonic()
                values = split_batch(method.call(requests), len(items)) if items else []
                learn(self._rule, items, began)
            else:
                values = [method.call(items[0].request())]
        except BaseException as error:  # noqa: BLE001 - user code: whatever it raises belongs to its callers
            outcomes: Iterable[tuple[Any, ...]] = [(True, self._fail, *item.describe(error)) for item in items]
        else:
            outcomes = map(self._outcome_on_thread, items, values)
        for item, (failed, tell, *outcome) in zip(items, outcomes, strict=True):
            if item is items[-1]:  # before the last answer leaves: who has all of them finds the call counted
                metrics.ran(began, size)
            if failed is not None:
                metrics.processed(item, failed=failed)
            post(tell, item, *outcome)
        if not items:  # none could be unpacked
            metrics.ran(began, size)
        self._on_thread = None
        call_scope.reset(token)

    def _outcome_on_thread(self, item: Item, value: Any) -> tuple[Any, ...]:
        """On the thread: stream or encode a value. Returns whether it failed, if known, and what to tell the loop."""
        try:
            if item.method.batches and isinstance(value, BaseException):
                return True, self._fail_with, value
            if inspect.isgenerator(value):
                stream_from_thread(item, value, load=lambda: self.load, post=self._thread.post)
                return False, self._end_stream
            if answers.is_long(value):
                return None, self._deliver_later, value
            return False, self._reply, answers.encode_answer(value, item.head.codec)
        except BaseException as error:  # noqa: BLE001 - user code: generators run here, and values give their JSON form
            return True, self._fail_with, error

    # Async user code

    async def _run_on_loop(self, batch: list[Item]) -> None:
        task = batch[0].task or asyncio.current_task()
        assert task is not None
        items = self._startable(batch)
        if not items:
            self._coroutines.ended(task)
            return
        method = items[0].method
        if not method.batches:
            items[0].task = task  # one that was held back has none yet by which to cancel it
        call_scope.set(scope_of(items))
        began, size = items[0].began, len(items)
        values: list[Any] = []
        try:
            if method.batches:
                items, requests = unpacked(items, self._fail_with)
                began = time.monotonic()
                values = split_batch(await whole(method.call(requests)), len(items)) if items else []
                learn(self._rule, items, began)
            else:
                result = method.call(items[0].request())
                value = result if inspect.isasyncgen(result) else await result
                if answers.is_long(value):
                    await self._deliver(items[0], value)
                else:
                    values = [value]
        except asyncio.CancelledError:
            for item in items:  # silent for those who cancelled; user code may also have cancelled itself
                self._fail_with(item, RuntimeError("user code was cancelled"))
            raise
        except BaseException as error:  # noqa: BLE001 - user code: whatever it raises belongs to its callers
            for item in items:
                self._fail_with(item, error)
        finally:
            self._metrics.loop.ran(began, size)  # before answers leave: who has one finds the call counted
            self._coroutines.ended(task)
        for item, value in zip(items, values, strict=False):
            if method.batches and isinstance(value, BaseException):
                self._fail_with(item, value)
            elif answers.is_long(value):
                self._deliver_later(item, value)  # its reader must not hold up the others, nor the next batch
            else:
                self._deliver_whole(item, value)

    async def _deliver(self, item: Item, value: Any) -> None:
        call_scope.set(item.scope())  # a task that was begun by others has theirs
        try:
            if inspect.isgenerator(value):
                value = iterate(value)
            if inspect.isasyncgen(value):
                await stream_values(item, value, load=lambda: self.load)
                self._end_stream(item)
            elif answers.is_response(value) and answers.needs_asgi(value) and item.head.codec == CODEC_HTTP:
                await run_response(item, value, load=lambda: self.load)
                self._close(item)
            else:
                self._deliver_whole(item, value)
        except asyncio.CancelledError:
            self._fail_with(item, RuntimeError("user code was cancelled"))
            raise
        except BaseException as error:  # noqa: BLE001 - user code: generators and responses run here too
            self._fail_with(item, error)

    def _deliver_whole(self, item: Item, value: Any) -> None:
        try:
            answer = answers.encode_answer(value, item.head.codec)
        except BaseException as error:  # noqa: BLE001 - user code: values are asked for their own JSON form
            self._fail_with(item, error)
        else:
            self._reply(item, answer)

    def _deliver_later(self, item: Item, value: Any) -> None:
        if item.over:
            self._close(item)
            return
        item.task = self._coroutines.run(self._deliver(item, value))

    def _end_stream(self, item: Item) -> None:
        end_stream(item)
        self._close(item)

    def _startable(self, batch: list[Item]) -> list[Item]:
        """Members whose callers still wait; the slots of the others are given back. From the thread or the loop."""
        now = time.monotonic()
        items = [item for item in batch if not item.over and now < item.deadline]
        if len(items) < len(batch):
            for item in batch:
                if item not in items:
                    self._loop.call_soon_threadsafe(self._close, item)
        for item in items:
            item.began = now
            if self._started is not None:
                item.mark = self._started.begin(self._streams.get(item.stream, 0), item.call_id)
        if items:
            (self._metrics.loop if items[0].method.is_async else self._metrics.thread).started(items, now)
        return items
