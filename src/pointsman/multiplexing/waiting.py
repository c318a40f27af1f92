"""Who waits for a model, and who hears what becomes of models."""

from __future__ import annotations

import asyncio
import threading
from typing import Protocol

from pointsman.exceptions import DeadlineExceededError
from pointsman.multiplexing.cache import Cause


class Waiter(Protocol):
    """Who waits for a model. Two are equal only if they are the same."""

    def told(self, cause: Cause | None) -> None:
        """The model is there, and in use by this one until it is released; or there is a cause why not. Called once, on
        any thread, while the host is locked: it must not call the host."""


class Observer(Protocol):
    """Hears what becomes of models; as for a :class:`Waiter`."""

    def changed(self, model_id: str) -> None:
        """A model is wanted, loaded or gone, or more or fewer wait for it."""

    def loaded(self, seconds: float) -> None: ...

    def unloaded(self) -> None: ...

    def emptied(self) -> None:
        """Nothing is held, and nothing will be, since the host was closed."""


class NoObserver:
    def changed(self, model_id: str) -> None: ...

    def loaded(self, seconds: float) -> None: ...

    def unloaded(self) -> None: ...

    def emptied(self) -> None: ...


def too_late(model_id: str) -> DeadlineExceededError:
    return DeadlineExceededError(f"model {model_id!r} was not loaded by the deadline of the call that needs it")


class ThreadWaiter:
    """A thread that waits for a model."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.cause: Cause | None = None
        self.is_told = False
        self.cancelled = False

    def told(self, cause: Cause | None) -> None:
        self.cause = cause
        self.is_told = True
        self.event.set()

    def cancel(self) -> None:
        """The caller has gone."""
        self.cancelled = True
        self.event.set()


class LoopWaiter:
    """A coroutine that waits for a model."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.future: asyncio.Future[None] = loop.create_future()
        self.cause: Cause | None = None
        self.is_told = False

    def told(self, cause: Cause | None) -> None:
        self.cause = cause
        self.is_told = True
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:
            pass  # the loop is closed, and with it who waited

    def _wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)
