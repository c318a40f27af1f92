"""The replica's side of calls: admission, cancellation, configuration, drain.

    frames from routers -> admit (or refuse) -> ledger -> on the thread or on the loop -> user code -> ledger -> frames

Everything here runs on the loop. The runtime does not know the controller; ``__main__`` tells it what to run, when to
take a new configuration and when to drain.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Hashable
from contextvars import Context, copy_context
from typing import Any

from pointsman.exceptions import AnswerError, CallRejectedError
from pointsman.incoming import CODEC_HTTP
from pointsman.model import Reason, ReplicaConfig, TargetTraits
from pointsman.replica.batching import BatchRule
from pointsman.replica.health import Vitals, vitals_of
from pointsman.replica.item import Item
from pointsman.replica.ledger import Ledger, StartedUntilTold
from pointsman.replica.metrics import NO_METRICS, ReplicaMetrics
from pointsman.replica.target import NO_METHOD, Target
from pointsman.replica.tasks import OnLoop
from pointsman.replica.thread import OnThread, carried, settled
from pointsman.replica.usercontext import UserContext
from pointsman.request import Request
from pointsman.wire.frames import Frame, Kind
from pointsman.wire.messages import CallHead, CreditHead, RefuseHead, failure, pack, unpack
from pointsman.wire.stream import Stream


class StillRunningError(TimeoutError):
    """A new configuration was not given to user code, because requests were running for too long. Nothing changed."""


class Runtime:
    """Runs the calls of one backend's code.

    Args:
        config: limits and batching; :meth:`configure` takes later ones.
        started: where calls are noted before user code sees them; None where nobody will read it.
        metrics: where they are counted.
        on_answer: called once, when the first call has been answered.

    Attributes:
        context: what user code's constructor left; all of it runs in copies.

    Call :meth:`load_code` before routers are let in.
    """

    def __init__(
        self,
        config: ReplicaConfig,
        *,
        started: StartedUntilTold | None = None,
        metrics: ReplicaMetrics = NO_METRICS,
        on_answer: Callable[[], object] = lambda: None,
    ) -> None:
        self._config = config
        self.context = UserContext()
        self._rule = BatchRule()
        self._target: Target | None = None
        self._ledger = Ledger(started, metrics)
        self._ledger.on_answer = on_answer
        self._on_loop = OnLoop(self._ledger, self._rule, self.context)
        self._on_thread = OnThread(self._ledger, self._rule, self._on_loop.deliver_later, self.context)
        self._thread, self._coroutines = self._on_thread.executor, self._on_loop.executor
        self._held = False
        """Whether nothing is started, since user code takes a new configuration or has failed to."""
        self._apart = False
        """Whether other replicas take new calls meanwhile."""
        self._apply_limits(config)

    @property
    def drain_timeout_s(self) -> float:
        """Longest drain of this backend, in seconds, and the longest time that its ``close`` may take."""
        return self._config.drain_timeout_s

    @property
    def load(self) -> int:
        """Calls in this replica, waiting or running."""
        return self._ledger.load

    @property
    def has_answered(self) -> bool:
        """Whether any call has been answered."""
        return self._ledger.answered

    def vitals(self, declared_s: float) -> Vitals:
        """How busy this replica is, from any thread.

        Args:
            declared_s: how long a call may take, if its own deadline is not later. Callers in a hurry give up sooner,
                but that must not get the replica killed.
        """
        return vitals_of(self._ledger.items(), self._on_thread.running, declared_s)

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
        self._target = await self._thread.run(lambda: self.context.run(lambda: Target(code, traits)))
        construct = self._target.construct
        await self._thread.run(lambda: self.context.run(construct))

    def configure(self, config: ReplicaConfig) -> None:
        """Take new limits at once."""
        self._config = config
        self._apply_limits(config)

    async def reconfigure(
        self, user_config: bytes, *, timeout_s: float, others: bool = False, beside: bool = False
    ) -> None:
        """Call the user's ``reconfigure`` between requests: what runs is waited for, what comes meanwhile waits, or is
        sent back where ``others`` can take it. With ``beside`` it is called at once instead, and requests go on.

        When user code fails, nothing is started before another ``reconfigure`` has succeeded: no request shall see half
        a change.

        Raises:
            StillRunningError: requests were running after ``timeout_s`` seconds. Nothing has changed.
            Exception: whatever user code raises; exits come as ``UserExit``.
        """
        if beside:
            await self._give(user_config, self._thread.run_beside)
            if self._held:
                self._release()
            return
        half_changed, self._held = self._held, True
        if others:
            self._apart = True
            self._send_back(Reason.RECONFIGURING)
        try:
            await asyncio.wait_for(self._hold(), timeout_s)
        except asyncio.TimeoutError:
            if not half_changed:
                self._release()
            text = f"requests of this replica were still running after {timeout_s:g} s, its drain limit"
            raise StillRunningError(text) from None
        await self._give(user_config, self._thread.run)
        self._release()

    async def _give(self, user_config: bytes, run: Callable[[Callable[[], Any]], Awaitable[Any]]) -> None:
        """Call ``reconfigure``. What it sets in the context holds for later calls, as what the constructor has set."""
        target = self._target
        assert target is not None
        self.context.keep(await self._call(lambda: target.reconfigure(user_config), run))

    async def _call(self, function: Callable[[], Any], run: Callable[[Callable[[], Any]], Awaitable[Any]]) -> Context:
        """Call a method of user code that is no call of a router's, and await what it gives; returns its context."""
        context = self.context.copy()
        result = await run(lambda: context.run(function))
        if not inspect.isawaitable(result):
            return context

        async def finish() -> tuple[Context, BaseException | None]:
            _, error = await settled(result)
            return copy_context(), error

        context, error = await context.run(asyncio.get_running_loop().create_task, finish())
        if error is not None:
            raise carried(error)
        return context

    async def close(self) -> None:
        """Call the user's ``close``, where there is one; after the last request.

        Raises:
            Exception: whatever user code raises; exits come as ``UserExit``.
        """
        close = self._target.close if self._target is not None else None
        if close is not None:
            await self._call(close, self._thread.run)

    async def let_go(self) -> None:
        """Forget user code, on its thread, which ends with it. The runtime is of no use any more."""
        target, self._target = self._target, None
        if target is not None:
            await self._thread.run(lambda: self.context.copy().run(target.let_go))
            self.context.let_go()
        await self._thread.end()

    async def _hold(self) -> None:
        await self._thread.hold()  # first, because it can still hand a stream over to the coroutines
        await self._coroutines.hold()

    def _release(self) -> None:
        self._held = self._apart = False
        self._thread.release()
        self._coroutines.release()

    def _send_back(self, reason: Reason) -> None:
        """What waits goes elsewhere; the newest first, since routers put each before what waits there already."""
        for item in reversed(self._ledger.items()):
            if not item.over and self._take_out(item):
                self._ledger.close(item)
                item.stream.send(Kind.REFUSE, item.call_id, pack(RefuseHead(reason, self.load)))

    async def drain(self) -> None:
        """Refuse new calls and return when none is left and every answer is written."""
        if self._held:
            self._send_back(Reason.DRAINING)
        await self._ledger.drained()

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
        self._ledger.connections[stream] = int(stream.identity or 0)

    def stream_frames(self, stream: Stream, frames: list[Frame]) -> None:
        for frame in frames:
            if frame.kind == Kind.CALL:
                self._admit(stream, frame)
            elif frame.kind == Kind.CANCEL:
                self._cancel(self._ledger.find(stream, frame.call_id))
            elif frame.kind == Kind.CREDIT:
                item = self._ledger.find(stream, frame.call_id)
                if item is not None:
                    item.grant(unpack(frame.head, CreditHead).chunks)

    def stream_lost(self, stream: Stream, error: Exception | None) -> None:
        self._ledger.connections.pop(stream, None)
        for item in [item for item in self._ledger.items() if item.stream is stream]:
            self._cancel(item)

    def _admit(self, stream: Stream, frame: Frame) -> None:
        if self._ledger.draining or self._apart or self.load >= self._config.max_concurrent_queries:
            stream.send(Kind.REFUSE, frame.call_id, pack(RefuseHead(self._refusal(), self.load)))
            return
        assert self._target is not None
        head = unpack(frame.head, CallHead)
        request = head.request
        try:
            if request.method_name and request.codec == CODEC_HTTP:
                self._target.check_open_to_http(request.method_name, self._config.http_methods)
            method = self._target.method(request.method_name)
        except AnswerError as error:  # the backend's own fault, which is logged and counted as any other
            item = Item(stream, frame.call_id, head, frame.body, NO_METHOD)
            self._ledger.admit(item)
            if self._ledger.start(item):
                self._ledger.fail_with(item, error)
            return
        except (CallRejectedError, TypeError) as error:
            told = failure(Reason.REJECTED, "CallRejectedError", str(error), load=self.load)
            stream.send(Kind.FAILURE, frame.call_id, pack(told))
            return
        item = Item(stream, frame.call_id, head, frame.body, method)
        self._ledger.admit(item)
        if method.batches:
            try:
                item.key = (method.name, self.context.copy().run(_bucket, item) if method.bucket_by else None)
            except BaseException as error:  # noqa: BLE001 - user code
                self._ledger.fail_with(item, error)
                return
        if not method.is_async:
            self._thread.add(item, key=item.key, copy=head.shadow)
        elif method.batches:
            self._coroutines.add(item, key=item.key, copy=head.shadow)
        else:
            item.task = self._coroutines.start_one(item)

    def _refusal(self) -> Reason:
        if self._ledger.draining:
            return Reason.DRAINING
        return Reason.RECONFIGURING if self._apart else Reason.QUEUE_FULL

    def _take_out(self, item: Item) -> bool:
        """Take an item out of the queue unseen; False when it has been started."""
        executor = self._coroutines if item.method.is_async else self._thread
        return executor.remove(item, key=item.key, copy=item.head.shadow)

    def _cancel(self, item: Item | None) -> None:
        """Nobody waits for this item: take it out of the queue, stop its task, or drop its answer when it comes."""
        if item is None or item.over:
            return
        if self._take_out(item):
            self._ledger.close(item)
            return
        item.over = True
        item.give_up_inner_calls()
        if item.credit is not None:
            item.credit.release()  # a producer that waits for credit sees that its item is over
        if item.task is not None:
            self._coroutines.cancel(item.task, lambda: self._ledger.close(item))
        elif item.method.is_async:
            self._ledger.close(item)  # a member of a batch: the others go on, its answer is dropped


def _bucket(item: Item) -> Hashable:
    return item.method.bucket(Request(item.incoming()))
