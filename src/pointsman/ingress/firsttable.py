"""Which routing table a new HTTP server starts with (decisions 0033 and 0048).

    the controller sends a table                    that table; the controller waits for this server at each change
    the controller counts this server, no table yet     the stored table: no change was acknowledged since it was stored
    the controller is silent for ``PATIENCE_S``     the stored table, checked for a newer one before each request

In the last case a suspended controller may resume at any moment and acknowledge a change before it knows this server.
It stores each table before it acknowledges the change, so a request that comes later finds a newer file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Protocol

from pointsman.ingress.app import IngressApp
from pointsman.ingress.codec import ErrorAnswer, RequestRejected
from pointsman.model import Reason, RoutingTable
from pointsman.wire.tables import TableChange

PATIENCE_S = 0.5
"""How long a new HTTP server waits for the controller. A live one answers sooner, unless the machine is very busy."""


class StoredTable(Protocol):
    """A routing table that was read from its file, which stays open."""

    @property
    def table(self) -> RoutingTable: ...

    def is_newest(self) -> bool: ...

    def close(self) -> None: ...


class TableStore(Protocol):
    """Where the controller stores the newest table."""

    def read(self) -> StoredTable | None: ...


class FirstTable:
    """Gives the app its first table.

    Args:
        app: is given tables.
        store: None if no table is stored; then the server waits for the controller.
    """

    def __init__(self, app: IngressApp, store: TableStore | None) -> None:
        self._app = app
        self._store = store
        self._used: StoredTable | None = None
        self._came_up = asyncio.Event()

    def on_table(self, table: RoutingTable, change: TableChange | None = None) -> Awaitable[object] | None:
        """Use a table that the controller has sent. It counts this server from before it sent it.

        Args:
            change: how it differs from the table that was sent before; None if it was sent whole.

        Returns:
            What is done once the replicas in the table are connected; None if they are.
        """
        self._stop_checking()
        self._app.apply(table, change)
        if table.came_up:
            self._came_up.set()
        return self._app.connecting()

    def on_counted(self) -> None:
        """Use the stored table: the controller counts this server, but has no table of its own yet."""
        if self._app.check_table is not None or not self._app.has_table.is_set():
            self._use_stored()
        self._stop_checking()

    async def wait(self) -> None:
        """Return once the app has a table, or has been stopped."""
        while not self._app.has_table.is_set():
            arrival = asyncio.ensure_future(self._app.has_table.wait())
            await asyncio.wait({arrival}, timeout=PATIENCE_S)
            arrival.cancel()
            if not self._app.has_table.is_set() and self._use_stored():
                self._app.check_table = self._check_table

    async def comes_up(self, stopped: asyncio.Event) -> bool:
        """True once the instance has come up; False if ``stopped`` is set before."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._came_up, stopped)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return self._came_up.is_set()

    def _check_table(self) -> None:
        """Switch to the stored table if it is newer. Called before each request while no controller counts this server.

        Raises:
            RequestRejected: there is a newer table, and it cannot be read.
        """
        if self._used is not None and not self._used.is_newest() and not self._use_stored():
            text = "the routing table has changed, and is being fetched; try again"
            raise RequestRejected(ErrorAnswer(503, Reason.UNREACHABLE, text, [(b"retry-after", b"1")]))

    def _use_stored(self) -> bool:
        """Give the app the stored table; False if there is none."""
        kept = self._store.read() if self._store is not None else None
        if kept is None:
            return False
        self._close_used()
        self._used = kept
        self._app.apply(kept.table)
        if kept.table.came_up:
            self._came_up.set()
        return True

    def _stop_checking(self) -> None:
        self._app.check_table = None
        self._close_used()

    def _close_used(self) -> None:
        if self._used is not None:
            self._used.close()
            self._used = None
