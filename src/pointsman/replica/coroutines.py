"""Async user code: tasks on the replica's loop, one per item, or one per batch for batching methods."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from contextvars import Context
from typing import Any, Generic, TypeVar

from pointsman.replica.batcher import Batcher
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
