"""What a replica's loaders have loaded: the loader of its class, whose models calls wait for, and those that are plain
functions, which user code calls. Counts loads, and unloads all at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from functools import partial

from pointsman.multiplexing.host import Host
from pointsman.multiplexing.loader import watch_functions
from pointsman.multiplexing.waiting import NoObserver
from pointsman.replica.ledger import Ledger
from pointsman.replica.models import Models
from pointsman.wire.scaling import HeldModel, ModelDetails


class Loads:
    """The models of a replica.

    Args:
        ledger: the calls of the replica.
        context: makes the context that loaders run in.
    """

    def __init__(self, ledger: Ledger, context: Callable[[], Context]) -> None:
        self._ledger = ledger
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._hosts: list[_Watched] = []
        self._metrics = ledger.metrics.of_models()
        watch_functions(partial(self._call_loop, self._add))

    def of_class(self, host: Host | None) -> Models | None:
        """The models of the class's loader, for which calls wait; None if it has none."""
        if host is None:
            return None
        models = Models(host, self._ledger, self._call_loop)
        self._add(host, models.changed)
        return models

    def details(self) -> ModelDetails:
        """The models that are held."""
        return ModelDetails(tuple(HeldModel(*model) for watched in self._hosts for model in watched.host.models()))

    async def close(self) -> None:
        """Unload all models, each after its last use, and return when that is done."""
        watch_functions(None)
        for watched in self._hosts:
            watched.host.close()
        await asyncio.gather(*(watched.empty for watched in self._hosts))

    def _add(self, host: Host, changed: Callable[[str], None] = lambda model_id: None) -> None:
        host.context = self._context
        watched = _Watched(host, changed, self._count, self._call_loop)
        self._hosts.append(watched)
        host.observer = watched

    def _count(self, seconds: float | None) -> None:
        number = sum(watched.host.held for watched in self._hosts)
        if seconds is None:
            self._metrics.unloaded(number)
        else:
            self._metrics.loaded(seconds, number)

    def _call_loop(self, function: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            pass  # the loop is closed: the process is ending


class _Watched(NoObserver):
    """Hears, on any thread, what becomes of the models of a host, and tells the loop.

    Attributes:
        empty: done once the host was closed and all its models are unloaded.
    """

    def __init__(
        self,
        host: Host,
        changed: Callable[[str], None],
        count: Callable[[float | None], None],
        call_loop: Callable[..., None],
    ) -> None:
        self.host = host
        self.empty: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changed = changed
        self._count = count
        self._call_loop = call_loop

    def changed(self, model_id: str) -> None:
        self._call_loop(self._changed, model_id)

    def loaded(self, seconds: float) -> None:
        self._call_loop(self._count, seconds)

    def unloaded(self) -> None:
        self._call_loop(self._count, None)

    def emptied(self) -> None:
        self._call_loop(self._end)

    def _end(self) -> None:
        if not self.empty.done():
            self.empty.set_result(None)
