"""By which table a new HTTP server begins to serve, and from when on.

    the controller's own table              it counts us: a change waits until we use it
    it counts us, and has no table yet      the one that is kept: nothing was acknowledged since
    nobody answers for ``PATIENCE_S``       the one that is kept, looked at before each request

In the last case a controller that was stopped may go on at any moment, and acknowledge a change before it knows of us.
Whatever it acknowledges it has kept before, so that a request which comes later finds another file there.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from pointsman.ingress.app import IngressApp
from pointsman.ingress.codec import ErrorAnswer, RequestRejected
from pointsman.model import Reason, RoutingTable

PATIENCE_S = 0.5
"""Of an HTTP server that begins: a controller that lives has answered by then, unless the machine is very busy."""


class Kept(Protocol):
    """A table that was kept."""

    @property
    def table(self) -> RoutingTable: ...

    def is_newest(self) -> bool: ...

    def close(self) -> None: ...


class Keeper(Protocol):
    """Where the newest table is kept."""

    def read(self) -> Kept | None: ...


class FirstTable:
    """See the module.

    Args:
        app: serves by the table.
        keeper: None where no table is kept: the controller is waited for.
    """

    def __init__(self, app: IngressApp, keeper: Keeper | None) -> None:
        self._app = app
        self._keeper = keeper
        self._used: Kept | None = None

    def from_controller(self, table: RoutingTable) -> None:
        """The controller's newest table. It has counted us before it sent that."""
        self._look_no_more()
        self._app.apply(table)

    def counted(self) -> None:
        """The controller counts us, and has no table of its own yet."""
        if self._app.look is not None or not self._app.has_table.is_set():
            self._use_kept()
        self._look_no_more()

    async def arrive(self) -> None:
        """Return when there is a table to serve by, or the app has been stopped."""
        while not self._app.has_table.is_set():
            arrival = asyncio.ensure_future(self._app.has_table.wait())
            await asyncio.wait({arrival}, timeout=PATIENCE_S)
            arrival.cancel()
            if not self._app.has_table.is_set() and self._use_kept():
                self._app.look = self._look

    def _look(self) -> None:
        """Before each request, while nobody counts us.

        Raises:
            RequestRejected: there is a newer table, and it cannot be had.
        """
        if self._used is not None and not self._used.is_newest() and not self._use_kept():
            text = "the routing table has changed, and is being fetched; try again"
            raise RequestRejected(ErrorAnswer(503, Reason.UNREACHABLE, text, [(b"retry-after", b"1")]))

    def _use_kept(self) -> bool:
        """Serve by the table that is kept now; False where there is none."""
        kept = self._keeper.read() if self._keeper is not None else None
        if kept is None:
            return False
        self._let_go()
        self._used = kept
        self._app.apply(kept.table)
        return True

    def _look_no_more(self) -> None:
        self._app.look = None
        self._let_go()

    def _let_go(self) -> None:
        if self._used is not None:
            self._used.close()
            self._used = None
