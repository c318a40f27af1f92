"""How an HTTP server comes to its end: it says that it is not ready, accepts requests on for a while, then drains."""

from __future__ import annotations

import asyncio
from typing import Protocol

from pointsman.ingress.app import IngressApp

DRAIN_S = 20.0
"""How long requests may still run after a signal that came without a limit from the controller."""


ENDLESS_S = 86_400.0
"""The same where the supervisor knows the limit, and kills this process then."""
PATIENCE_S = 5.0
"""How long a connection without a request is kept once another process serves the socket: who sends a request at the
moment in which it is closed would have to repeat that."""


class Stoppable(Protocol):
    """The server."""

    def stop(self, drain_s: float | None = None, *, patience_s: float | None = None) -> None: ...


class ServerEnd:
    """See the module.

    Args:
        app: is told that it leaves, and later that it drains.
        server: is stopped.
        delay_s: how long requests are accepted after a signal.

    Attributes:
        announced: set once the end is known.
    """

    def __init__(self, app: IngressApp, server: Stoppable, delay_s: float) -> None:
        self._app = app
        self._server = server
        self._delay_s = delay_s
        self._limit_s: float | None = None
        self._patience_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.announced = asyncio.Event()

    def on_order(self, drain_s: float, delay_s: float = 0.0) -> None:
        """The controller's order, or the instance has ended without this server. The limit holds for a signal that
        follows, too. Without a delay it also ends one that runs."""
        self._limit_s = drain_s if self._limit_s is None else min(self._limit_s, drain_s)
        self._begin(delay_s)

    def on_signal(self, *, hurried: bool) -> None:
        """A signal, which has no limit; a hurried one ends the delay."""
        self._begin(0.0 if hurried else self._delay_s)

    def on_handed_over(self) -> None:
        """Other processes serve the socket from now on. New connections are theirs; what comes on those that are open
        is answered, and they are closed after that."""
        self._limit_s = ENDLESS_S if self._limit_s is None else self._limit_s
        self._patience_s = PATIENCE_S
        self._begin(0.0)

    def _begin(self, delay_s: float) -> None:
        self._app.system.leaving = True
        self.announced.set()
        self._app.has_table.set()
        if not delay_s or not self._app.serving:
            self._drain()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._drain)

    def _drain(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._app.serving = False
        self._server.stop(DRAIN_S if self._limit_s is None else self._limit_s, patience_s=self._patience_s)
