"""Calls inside a replica: admission, cancellation, configuration, drain.

    frames from routers -> admit (or refuse) -> ledger -> on the thread or on the loop -> user code -> ledger -> frames

All of it runs on the loop. The runtime does not know the controller; ``__main__`` gives it code and configuration, and
starts the drain.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from pointsman.context import UsedModels
from pointsman.exceptions import AnswerError, CallRejectedError
from pointsman.incoming import CODEC_HTTP
from pointsman.model import ASGI, Reason, ReplicaConfig, TargetTraits
from pointsman.multiplexing.loader import any_loader
from pointsman.policy.balance import GOES_ON
from pointsman.replica.batching import BatchRule
from pointsman.replica.failurelog import FailureLog
from pointsman.replica.health import Vitals, vitals_of
from pointsman.replica.item import Item
from pointsman.replica.ledger import Ledger, StartedLedger
from pointsman.replica.methods import NO_METHOD
from pointsman.replica.metrics import NO_METRICS, ReplicaMetrics
from pointsman.replica.outcomes import StillRunningError
from pointsman.replica.recalls import Recalls
from pointsman.replica.target import Target
from pointsman.replica.tasks import OnLoop
from pointsman.replica.thread import OnThread
from pointsman.replica.usercontext import MakeThread, UserContext, call_user_method, own_thread
from pointsman.wire.frames import Frame, Kind
from pointsman.wire.messages import SOCKET, AppCallHead, CreditHead, RefuseHead, failure, pack, unpack
from pointsman.wire.scaling import ModelDetails
from pointsman.wire.stream import Stream

if TYPE_CHECKING:
    from pointsman.replica.apps import Apps
    from pointsman.replica.loads import Loads
    from pointsman.replica.models import Models


class Runtime:
    """Runs the calls of one backend's user code.

    :meth:`load_code` comes before the first connection of a router.

    Args:
        config: limits and batching; :meth:`configure` takes later ones.
        started: marks of started calls; None if no router reads them.
        metrics: where calls are counted.
        on_answer: called once, after the first answer.
        failures: log of exceptions of user code; None for the usual one.
        make_thread: makes the thread of sync user code.

    Attributes:
        context: contextvars as the constructor left them; each call runs in a copy.
    """

    def __init__(
        self,
        config: ReplicaConfig,
        *,
        started: StartedLedger | None = None,
        metrics: ReplicaMetrics = NO_METRICS,
        on_answer: Callable[[], object] = lambda: None,
        failures: FailureLog | None = None,
        make_thread: MakeThread = own_thread,
    ) -> None:
        self._config = config
        self.context = UserContext()
        self._rule = BatchRule()
        self._target: Target | None = None
        self._apps: Apps | None = None
        self._loads: Loads | None = None
        self._models: Models | None = None
        self._ledger = Ledger(started, metrics)
        self._ledger.on_answer = on_answer
        self._ledger.failures = failures or self._ledger.failures
        self._on_loop = OnLoop(self._ledger, self._rule, self.context)
        self._on_thread = OnThread(self._ledger, self._rule, self._on_loop.deliver_later, self.context, make_thread)
        self._worker, self._coroutines = self._on_thread.executor, self._on_loop.executor
        self._recalls = Recalls(self._ledger, self._on_thread, self._on_loop)  # held: `reconfigure` runs, or has failed
        self._draining = self._refusing = False  # refusing: while it is held, since other replicas can take calls
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
        """True once any call has been answered."""
        return self._ledger.answered

    def vitals(self, timeout_s: float) -> Vitals:
        """How busy this replica is. Thread-safe.

        Args:
            timeout_s: least time after which a call counts as overdue. A caller's deadline may be shorter, but an
                impatient caller must not get the replica killed.
        """
        vitals = vitals_of(self._ledger.items(), self._on_thread.running, timeout_s)
        if self._apps is not None and self._apps.busy:
            vitals = vitals._replace(patience_s=max(vitals.patience_s or 0.0, timeout_s))
        return vitals

    def models(self) -> ModelDetails:
        """The models that are held. Called on any thread."""
        return loads.details() if (loads := self._loads) is not None else ModelDetails()

    @property
    def health_check(self) -> Callable[[], Any] | None:
        """The user's ``check_health``; None if there is none."""
        return self._target.health_check if self._target is not None else None

    async def load_code(self, code: bytes | tuple[Any, tuple[Any, ...]], traits: TargetTraits) -> None:
        """Load user code and run its constructor, on the thread of sync user code; then the startup of an app.

        Args:
            code: packed; or, in a replica without a process, the function or class itself with its init args.

        Raises:
            Exception: whatever user code raises; exits come as ``UserExit``.
        """
        if not traits.one_at_a_time:
            self._on_thread.goes_on()
        self._worker.start()
        self._target = target = await self._worker.run(lambda: self.context.run(lambda: Target(code, traits)))
        await self._worker.run(lambda: self.context.run(target.construct))
        if any_loader():
            from pointsman.replica.loads import Loads  # other replicas need none of it

            self._loads = Loads(self._ledger, self.context.copy)
            self._models = self._loads.of_class(target.models)
            self._apply_limits(self._config)
        if traits.surface == ASGI:
            from pointsman.replica.apps import Apps  # other replicas need none of it

            app = await self._worker.run(lambda: self.context.run(target.app))
            self._apps = Apps(app, self._ledger, self._coroutines, self.context, self._models)
            await self._apps.start()

    def configure(self, config: ReplicaConfig) -> None:
        """Take new limits at once."""
        self._config = config
        self._apply_limits(config)

    async def reconfigure(
        self, user_config: bytes, *, timeout_s: float, others: bool = False, at_once: bool = False
    ) -> None:
        """Call the user's ``reconfigure`` while no request runs.

        If it raises, no request is started until another ``reconfigure`` succeeds: none may see half a change.

        Args:
            timeout_s: how long running requests are waited for.
            others: other replicas can take calls, so waiting and new calls are refused. Otherwise they wait here.
            at_once: call it at once, while requests run.

        Raises:
            StillRunningError: requests were still running after ``timeout_s`` seconds. Nothing has changed.
            Exception: whatever user code raises; exits come as ``UserExit``.
        """
        if at_once:
            await self._call_reconfigure(user_config, self._worker.run_elsewhere)
            if self._recalls.held:
                self._resume()
            return
        half_changed, self._recalls.held = self._recalls.held, True
        if others:
            self._refusing = True
            self._recalls.send_back(Reason.RECONFIGURING)
            if self._models is not None:
                self._models.send_back(Reason.RECONFIGURING)
        try:
            await asyncio.wait_for(self._hold_all(), timeout_s)
        except asyncio.TimeoutError:
            if not half_changed:
                self._resume()
            text = f"requests of this replica were still running after {timeout_s:g} s, its drain limit"
            raise StillRunningError(text) from None
        await self._call_reconfigure(user_config, self._worker.run)
        self._resume()

    async def _call_reconfigure(self, user_config: bytes, run: Callable[[Callable[[], Any]], Awaitable[Any]]) -> None:
        """Call ``reconfigure``. Contextvars that it sets are kept for later calls, as those of the constructor."""
        target = self._target
        assert target is not None
        self.context.keep(await call_user_method(self.context, lambda: target.reconfigure(user_config), run))

    async def close(self) -> None:
        """Run an app's shutdown, call the user's ``close``, if there is one, and unload models, after the last request.

        Raises:
            Exception: whatever user code raises; exits come as ``UserExit``.
        """
        error = await self._close_user_code()
        if self._loads is not None:  # no `finally`: mypyc raises again what an earlier one has ended with
            await self._loads.close()
        if error is not None:
            raise error

    async def _close_user_code(self) -> Exception | None:
        try:
            if self._apps is not None:
                await self._apps.close()
            close = self._target.close if self._target is not None else None
            if close is not None:
                await call_user_method(self.context, close, self._worker.run)
        except Exception as error:  # noqa: BLE001 - user code: raised again by the caller
            return error
        return None

    async def release_code(self) -> None:
        """Release user code on its thread, and end the thread. The runtime cannot be used afterwards."""
        target, self._target, self._apps, self._models, self._loads = self._target, None, None, None, None
        if target is not None:
            await self._worker.run(lambda: self.context.copy().run(target.release))
            self.context.clear()
        await self._worker.end()

    async def _hold_all(self) -> None:
        await self._worker.hold()  # first, since it may still hand a stream over to the coroutines
        await self._coroutines.hold()

    def _resume(self) -> None:
        self._recalls.held = self._refusing = False
        self._worker.release()
        self._coroutines.release()

    async def drain(self, *, patient: bool = False) -> None:
        """Refuse new calls, and return when none is left and all answers have been written. WebSockets stay until
        shortly before the limit of a drain, or to their end with ``patient``."""
        self._draining = True
        if self._recalls.held:
            self._recalls.send_back(Reason.DRAINING)
        if self._models is not None:
            self._models.send_back(Reason.DRAINING, all_of_them=False)
            await self._models.nobody_waits()
        if self._apps is not None:
            self._ledger.draining = True
            await asyncio.gather(self._apps.drained(None if patient else self.drain_timeout_s), self._ledger.no_calls())
        await self._ledger.drained()

    def _apply_limits(self, config: ReplicaConfig) -> None:
        self._rule.configure(
            max_size=min(config.max_batch_size, config.max_concurrent_queries),
            wait_s=config.batch_wait_timeout_s,
            target_s=config.target_latency_s,
        )
        if self._models is not None:
            self._models.limit = config.max_concurrent_queries
            self._models.begin_ready()
        self._worker.rule_changed()
        self._coroutines.rule_changed(max_batches=config.max_concurrent_batches)

    # StreamUser: connections of routers

    def stream_ready(self, stream: Stream) -> None:
        self._ledger.connections[stream] = int(stream.identity or 0)
        if self._ledger.run_us:
            self._ledger.send_free(stream)
        if self._models is not None:
            self._models.tell_all(stream)

    def stream_frames(self, stream: Stream, frames: list[Frame]) -> None:
        for frame in frames:
            if frame.kind == Kind.CALL:
                self._admit(stream, frame)
            elif frame.kind == Kind.CANCEL:
                if self._models is not None and self._models.forget(stream, frame.call_id):
                    continue
                if self._apps is None or not self._apps.cancel_socket(stream, frame.call_id):
                    self._cancel(self._ledger.find(stream, frame.call_id))
            elif frame.kind == Kind.RECALL:
                self._recalls.recall(stream)
            elif frame.kind == Kind.CREDIT:
                self._grant(stream, frame.call_id, unpack(frame.head, CreditHead).chunks)
            elif frame.kind in (Kind.CHUNK, Kind.END) and self._apps is not None:
                self._apps.receive(stream, frame)

    def _grant(self, stream: Stream, call_id: int, amount: int) -> None:
        item = self._ledger.find(stream, call_id)
        if item is not None:
            item.grant(amount)
        elif self._apps is not None:
            self._apps.grant(stream, call_id, amount)

    def stream_lost(self, stream: Stream, error: Exception | None) -> None:
        self._ledger.connections.pop(stream, None)
        if self._models is not None:
            self._models.lose(stream)
        if self._apps is not None:
            self._apps.stream_lost(stream)
        for item in [item for item in self._ledger.items() if item.stream is stream]:
            self._cancel(item)

    def _admit(self, stream: Stream, frame: Frame) -> None:
        head: AppCallHead | None = None
        load = self.load if self._models is None else self.load + self._models.ready
        if self._draining or self._refusing or load >= self._config.max_concurrent_queries:
            head = unpack(frame.head, AppCallHead)
            if self._draining or self._refusing or not self._takes_no_slot(head):
                stream.send(Kind.REFUSE, frame.call_id, pack(RefuseHead(self._refusal(), self.load)))
                return
        assert self._target is not None
        head = head or unpack(frame.head, AppCallHead)
        request = head.request
        if self._apps is not None and head.app is not None:
            self._apps.admit(stream, frame, head, max_sockets=self._config.max_websockets)
            return
        try:
            if request.method_name and request.codec == CODEC_HTTP:
                self._target.check_open_to_http(request.method_name, self._config.http_methods)
            method = self._target.method(request.method_name)
        except AnswerError as error:  # the backend's fault: admitted, so that it is logged and counted as others are
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
        if request.model_id or method.uses_models:
            item.models = UsedModels(request.model_id)
            if self._models is not None and not self._models.take(item):
                self._models.wait(item, partial(self._begin, item))
                return
        self._begin(item)

    def _begin(self, item: Item) -> None:
        """Give a call to what runs it."""
        method, head = item.method, item.head
        self._ledger.admit(item)
        if method.batches:
            self._let_others_in()
            try:
                if method.signature is not None:  # what does not fit must not be in a batch
                    self.context.copy().run(item.user_request)
                bucket = self.context.copy().run(item.bucket) if method.bucket_by else None
                item.key = (method.name, bucket, item.request.model_id)
            except BaseException as error:  # noqa: BLE001 - user code
                self._ledger.fail_with(item, error)
                return
        if not method.is_async:
            self._worker.add(item, key=item.key, mirrored=head.shadow)
        elif method.batches:
            self._coroutines.add(item, key=item.key, mirrored=head.shadow)
        else:
            self._let_others_in()
            item.task = self._coroutines.start_one(item)

    def _takes_no_slot(self, head: AppCallHead) -> bool:
        """Whether a call may come while there is no free slot: it opens a WebSocket, or waits for its model first."""
        waits = self._models is not None and self._models.must_wait(head.request.model_id)
        return waits or (head.app is not None and head.app.follows == SOCKET)

    def _let_others_in(self) -> None:
        """Calls of this method do not wait for one another. The class, by which routers go, may not have shown that:
        its constructor has made the method, or the object gives those of another one."""
        if self._ledger.run_us != GOES_ON:
            self._on_thread.goes_on()
            self._ledger.send_free()

    def _refusal(self) -> Reason:
        if self._draining:
            return Reason.DRAINING
        return Reason.RECONFIGURING if self._refusing else Reason.QUEUE_FULL

    def _cancel(self, item: Item | None) -> None:
        """Cancel a call: remove it from the queue, cancel its task, or drop its answer later."""
        if item is None or item.over:
            return
        if self._recalls.dequeue(item):
            self._ledger.close(item)
            return
        if self._apps is not None and self._apps.cancel(item):
            return
        item.over = True
        item.give_up_inner_calls()
        if item.credit is not None:
            item.credit.release()  # wakes a producer that waits for credit; it finds that its item is over
        if item.task is not None:
            self._coroutines.cancel(item.task, lambda: self._ledger.close(item))
        elif item.method.is_async:
            self._ledger.leave(item)  # a member of a batch: the batch goes on, and this answer is dropped
