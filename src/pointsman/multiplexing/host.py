"""The models that a loader has loaded: threads around a :class:`~pointsman.multiplexing.cache.ModelCache`.

    user code or a replica -> want -> cache -> a thread for each size, load and unload -> cache -> whoever waits

Every method may be called on any thread. What the cache decides is begun under the lock, which is held for no longer
than it takes to start a thread or to wake one; whoever waits is told last, after the observer.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from functools import partial
from typing import Any

from pointsman.context import CallScope, call_scope
from pointsman.exceptions import ServeException
from pointsman.multiplexing import nesting
from pointsman.multiplexing.cache import Action, AskSize, Cause, Failed, Load, Model, ModelCache, Ready
from pointsman.multiplexing.nesting import NESTING, no_room
from pointsman.multiplexing.waiting import LoopWaiter, NoObserver, Observer, ThreadWaiter, Waiter, too_late
from pointsman.policy.multiplexing import check_size

log = logging.getLogger("pointsman.replica")

WEIGHT = 0.3
"""Of a new load in the mean of what loads take."""

MOST_UNLOADERS = 32
"""Threads of one loader that unload models."""

RETRY_S = 1.0
"""When an unload is tried again that found no thread."""

Spawn = Callable[[Callable[[], None], str], None]


def own_thread(function: Callable[[], None], name: str) -> None:
    """Run a function on a new thread. A daemon: a load that never ends must not keep the process from exiting."""
    threading.Thread(target=function, name=f"pointsman-{name}", daemon=True).start()


class Host:
    """Loads models, keeps them and unloads them.

    Args:
        load: function of an id; the result of one that is ``async def`` is awaited in an event loop of its own.
        max_models, max_bytes: limits; None for none.
        size_of, unload: as :func:`~pointsman.multiplexing.loader.multiplexed` has them.
        spawn: runs a function on another thread.

    Attributes:
        observer: hears what becomes of models.
        context: makes the context that loads, sizes and unloads run in; by default a copy of that of the maker.
        load_s: what a load has taken lately, in seconds; 0 before the first.
    """

    def __init__(
        self,
        load: Callable[[str], Any],
        *,
        max_models: int | None = None,
        max_bytes: int | None = None,
        size_of: Callable[[str], Any] | None = None,
        unload: Callable[[Any], Any] | None = None,
        spawn: Spawn = own_thread,
    ) -> None:
        self._load_by = load
        self._size_of = size_of
        self._unload_by = unload
        self._spawn = spawn
        self._lock = threading.Lock()
        self._cache: ModelCache[Waiter] = ModelCache(
            max_models=max_models, max_bytes=max_bytes, sized=size_of is not None
        )
        self._models: dict[str, Any] = {}
        self._to_unload: deque[str] = deque()
        self._unloaders = 0
        self._closed = False
        self.observer: Observer = NoObserver()
        self.context: Callable[[], Context] = contextvars.copy_context().copy
        self.load_s = 0.0

    # For a replica

    def take(self, model_id: str) -> bool:
        """Use a model that is held, until :meth:`release`; False if it is not."""
        with self._lock:
            return self._cache.take(model_id)

    def want(self, model_id: str, waiter: Waiter) -> None:
        """Have ``waiter`` told when the model is there, perhaps before this returns."""
        with self._lock:
            self._do(self._cache.want(model_id, waiter, time.monotonic()))
            self.observer.changed(model_id)

    def give_up(self, model_id: str, waiter: Waiter) -> bool:
        """A waiter does not wait any more. False if it was told already."""
        with self._lock:
            actions = self._cache.give_up(model_id, waiter)
            if actions is None:
                return False
            self._do(actions)
            self.observer.changed(model_id)
            return True

    def release(self, model_id: str) -> None:
        """A user of a model has ended."""
        with self._lock:
            actions = self._cache.release(model_id, time.monotonic())
            if actions:
                self._do(actions)

    def close(self) -> None:
        """Load nothing any more, and unload what is held, each model after its last use; then tell the observer."""
        with self._lock:
            self._closed = True
            self._do(self._cache.close())
            self._tell_if_empty()

    @property
    def is_closed(self) -> bool:
        """Whether nothing is loaded any more."""
        return self._closed

    def state_of(self, model_id: str) -> int | None:
        """How many wait for a model; -1 if it is held, None if it is neither."""
        with self._lock:
            return -1 if self._cache.holds(model_id) else self._cache.waiting(model_id)

    def is_loading(self, model_id: str) -> bool:
        with self._lock:
            return self._cache.is_loading(model_id)

    def ids(self) -> list[str]:
        """Models that are held or wanted."""
        with self._lock:
            return self._cache.ids()

    @property
    def room(self) -> int | None:
        """How many more models could be loaded without another making room; None for any number."""
        with self._lock:
            return self._cache.room

    @property
    def held(self) -> int:
        """How many models are held. There may be thousands, so they are not listed for that."""
        with self._lock:
            return self._cache.statistics().held

    def models(self) -> list[Model]:
        """Those that are held."""
        with self._lock:
            return self._cache.models(time.monotonic())

    def validate(self) -> None:
        """Raise AssertionError if the state is inconsistent. Called by tests."""
        with self._lock:
            self._cache.validate()
            assert set(self._models) >= {model.id for model in self._cache.models(0.0)}, "a model is missing"

    # For user code

    def call(self, model_id: str) -> Any:
        """The model, or where an event loop runs, an awaitable of it."""
        scope = call_scope.get()
        # Not `get_running_loop`, whose exception would cost each sync call more than all the rest.
        loop = asyncio._get_running_loop()
        if scope is not None and scope.models is not None and scope.models.keeps(self, model_id):
            model = self._models[model_id]
        elif self.take(model_id):
            model = self._given(model_id, None, scope)
        else:
            return self.get(model_id) if loop is None else self.soon(model_id)
        return model if loop is None else _at_once(model)

    def get(self, model_id: str) -> Any:
        """The model, once it is there. Blocks the thread until then, at most until the deadline of the call.

        Raises:
            DeadlineExceededError: the call's deadline has passed.
            ServeException: the caller has gone.
            BaseException: what the loader has raised.
        """
        scope = call_scope.get()
        waiter = ThreadWaiter()
        self.want(model_id, waiter)
        if not waiter.event.is_set():
            load = NESTING.of(scope)
            try:
                with NESTING.waits(load, (self, model_id)):
                    self._block(model_id, waiter, scope, in_load=load is not None)
            except BaseException:
                self._leave(model_id, waiter)
                raise
        return self._given(model_id, waiter.cause, scope)

    def _leave(self, model_id: str, waiter: ThreadWaiter | LoopWaiter) -> None:
        if not self.give_up(model_id, waiter) and waiter.cause is None:
            self.release(model_id)

    def _check_room(self, model_id: str, waiter: ThreadWaiter | LoopWaiter) -> None:
        if not (self.is_loading(model_id) or waiter.is_told):
            raise no_room(model_id)

    def _block(self, model_id: str, waiter: ThreadWaiter, scope: CallScope | None, *, in_load: bool) -> None:
        if scope is None:
            waiter.event.wait()
            return
        while in_load and not waiter.event.wait(nesting.ROOM_S):
            self._check_room(model_id, waiter)
        scope.adopt(waiter)  # a caller that has gone waits no longer
        try:
            waiter.event.wait(None if scope.deadline == float("inf") else max(0.0, scope.deadline - time.monotonic()))
        finally:
            scope.release(waiter)
        if not waiter.is_told:
            if waiter.cancelled:
                raise ServeException(f"the caller has gone while model {model_id!r} was waited for")
            raise too_late(model_id)

    async def soon(self, model_id: str) -> Any:
        """The same, without blocking the event loop."""
        scope = call_scope.get()
        waiter = LoopWaiter(asyncio.get_running_loop())
        self.want(model_id, waiter)
        if not waiter.is_told:
            left = None if scope is None or scope.deadline == float("inf") else scope.deadline - time.monotonic()
            load = NESTING.of(scope)
            try:
                with NESTING.waits(load, (self, model_id)):
                    while load is not None and not waiter.is_told:
                        await asyncio.wait((waiter.future,), timeout=nesting.ROOM_S)
                        self._check_room(model_id, waiter)
                    await asyncio.wait_for(waiter.future, left)
            except BaseException as error:
                self._leave(model_id, waiter)
                if isinstance(error, asyncio.TimeoutError):
                    raise too_late(model_id) from None
                raise
        return self._given(model_id, waiter.cause, scope)

    def _given(self, model_id: str, cause: Cause | None, scope: CallScope | None) -> Any:
        """The model that is in use by a waiter, which is kept for its call; outside of one nothing keeps it."""
        if cause is not None:
            raise cause.again()
        model = self._models[model_id]
        used = scope.models if scope is not None else None
        if used is None or not used.keep(self, model_id):
            self.release(model_id)
        return model

    # What the cache decides. The lock is held.

    def _do(self, actions: Sequence[Action[Waiter]]) -> None:
        waiting = deque(actions)
        while waiting:
            action = waiting.popleft()
            if isinstance(action, Ready):
                self._tell(action.waiters, None)
            elif isinstance(action, Failed):
                self._tell(action.waiters, action.cause)
            elif isinstance(action, AskSize):
                waiting += self._begin(self._ask_size, "size", action.id)
            elif isinstance(action, Load):
                waiting += self._begin(self._load, "load", action.id)
            else:
                self.observer.changed(action.id)
                self._to_unload.append(action.id)
        self._begin_unloads()

    def _begin(self, function: Callable[[str], None], name: str, model_id: str) -> list[Action[Waiter]]:
        try:
            self._spawn(partial(function, model_id), name)
        except RuntimeError as error:  # the system has no more threads
            return self._cache.failed(model_id, Cause.of(error), time.monotonic())
        return []

    def _begin_unloads(self) -> None:
        """Have a thread for each model that is to be unloaded, up to some: at the end there may be thousands."""
        while self._to_unload and self._unloaders < MOST_UNLOADERS:
            model_id = self._to_unload.popleft()
            try:
                self._spawn(partial(self._unload_some, model_id), "unload")
                self._unloaders += 1
            except RuntimeError:  # the system has no more threads: better late than never
                self._to_unload.appendleft(model_id)
                timer = threading.Timer(RETRY_S, self._unload_some)
                timer.daemon = True
                with contextlib.suppress(RuntimeError):  # it is a thread, too; then with what is done next
                    timer.start()
                return

    @staticmethod
    def _tell(waiters: Sequence[Waiter], cause: Cause | None) -> None:
        for waiter in waiters:
            waiter.told(cause)

    def _tell_if_empty(self) -> None:
        if self._closed and self._cache.is_empty:
            self.observer.emptied()

    # On threads of their own

    def _ask_size(self, model_id: str) -> None:
        assert self._size_of is not None
        try:
            size = check_size(model_id, self._run(model_id, self._size_of, model_id))
        except BaseException as error:  # noqa: BLE001 - user code: it belongs to those who wait for this model
            self._fail(model_id, error)
            return
        with self._lock:
            self._do(self._cache.sized(model_id, size, time.monotonic()))
            self.observer.changed(model_id)
            self._tell_if_empty()

    def _load(self, model_id: str) -> None:
        began = time.monotonic()
        try:
            model = self._run(model_id, self._load_by, model_id)
        except BaseException as error:  # noqa: BLE001 - user code: it belongs to those who wait for this model
            self._fail(model_id, error)
            return
        took_s = time.monotonic() - began
        with self._lock:
            self.load_s = took_s if not self.load_s else self.load_s + WEIGHT * (took_s - self.load_s)
            self._models[model_id] = model
            del model
            actions = self._cache.loaded(model_id, time.monotonic())
            self.observer.loaded(took_s)
            self.observer.changed(model_id)
            self._do(actions)

    def _fail(self, model_id: str, error: BaseException) -> None:
        _clear_frames(error)  # it is remembered, and half a model in its frames must not be
        cause = Cause.of(error)
        with self._lock:
            actions = self._cache.failed(model_id, cause, time.monotonic())
            self.observer.changed(model_id)
            self._do(actions)
            self._tell_if_empty()

    def _unload_some(self, model_id: str | None = None) -> None:
        if model_id is not None:
            self._unload(model_id)
        else:
            with self._lock:
                self._unloaders += 1
        while True:
            with self._lock:
                if not self._to_unload:
                    self._unloaders -= 1
                    return
                model_id = self._to_unload.popleft()
            self._unload(model_id)

    def _unload(self, model_id: str) -> None:
        model = self._models.pop(model_id)
        try:
            if self._unload_by is not None:
                self._run(model_id, self._unload_by, model)
        except BaseException:  # user code: nobody waits for this
            log.error("unload of model %r failed", model_id, exc_info=True)
        del model  # the last reference, which may take its time
        with self._lock:
            self.observer.unloaded()
            self._do(self._cache.unloaded(model_id))
            self.observer.changed(model_id)
            self._tell_if_empty()

    def _run(self, model_id: str, function: Callable[..., Any], *args: Any) -> Any:
        """Call user code in a context of its own."""
        return self.context().run(NESTING.call, (self, model_id), function, *args)


def _clear_frames(error: BaseException) -> None:
    """Forget the local variables of an exception's frames, and of those from which it was raised."""
    seen: set[int] = set()
    ahead: list[BaseException | None] = [error]
    while ahead:
        one = ahead.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            traceback.clear_frames(one.__traceback__)
            ahead += one.__cause__, one.__context__


async def _at_once(model: Any) -> Any:
    return model
