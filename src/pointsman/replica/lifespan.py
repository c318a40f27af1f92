"""An ASGI app in its replica: how it is made, its startup before the replica is ready, its shutdown after the drain."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from pointsman.replica.outcomes import as_settable
from pointsman.usercode.mounting import MARK, Mounted, is_fastapi, parameters_of
from pointsman.usercode.packing import import_object, shown

log = logging.getLogger("pointsman.replica")

GRACE_S = 1.0
"""How long an app may go on once it has said that its startup has failed, or that its shutdown is complete."""

App = Callable[[Any, Any, Any], Awaitable[None]]


def app_of(function_or_class: Any, instance: Any) -> App:
    """The app of a backend.

    Args:
        function_or_class: the backend's code.
        instance: the object of a class; None where the backend is an app.

    Raises:
        TypeError: what was given is no app, or makes none.
        Exception: whatever user code raises that makes it.
    """
    is_class = not isinstance(function_or_class, Mounted)
    given = getattr(function_or_class, MARK) if is_class else function_or_class.app
    if is_class and inspect.ismethod(given):
        given = given.__func__  # of a function in the class's dict, which looking it up has bound
    app: Any = import_object(given) if isinstance(given, str) else given
    if isinstance(app, type) or not callable(app):
        raise TypeError(f"{shown(given)} is no ASGI app, and no function that makes one: it is {shown(app)}")
    count = parameters_of(app)
    if count == 1 and not is_class:
        raise TypeError(f"{shown(app)} takes the object of a class, and this backend is an app without one")
    if count < 3:
        app = app(instance) if count else app()
        if not callable(app) or isinstance(app, type) or inspect.isawaitable(app):
            raise TypeError(f"{shown(given)} was to make an ASGI app, and has returned {shown(app)}")
    if is_class and is_fastapi(app):
        from pointsman.usercode.fastapi_routes import set_object

        set_object(app, instance)
    return app  # type: ignore[no-any-return]


class StartupFailed(RuntimeError):
    """The app has sent ``lifespan.startup.failed``."""


class Lifespan:
    """Runs an app's lifespan. An app that raises on the scope has none.

    Attributes:
        state: what the app has put there; each request gets a copy.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._loop = asyncio.get_running_loop()
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._started: asyncio.Future[str | None] = self._loop.create_future()
        self._stopped: asyncio.Future[str | None] = self._loop.create_future()
        self._task: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self.state: dict[str, Any] = {}

    async def start(self) -> None:
        """Run the app's startup.

        Raises:
            Exception: whatever it has raised, after it said that it has failed; StartupFailed if it has raised nothing.
        """
        self._messages.put_nowait({"type": "lifespan.startup"})
        self._task = self._loop.create_task(self._run())
        problem = await self._started
        if problem is not None:
            await self._ended(self._task)
            if self._error is not None:
                raise as_settable(self._error)
            raise StartupFailed(problem or "the app has sent lifespan.startup.failed")

    async def stop(self) -> None:
        """Run the app's shutdown, if it has a lifespan. A failure is logged."""
        if self._task is None or self._task.done():
            return
        self._messages.put_nowait({"type": "lifespan.shutdown"})
        problem = await self._stopped
        await self._ended(self._task)
        if problem is not None or self._error is not None:
            log.error("the app's shutdown failed: %s", problem or self._error, exc_info=self._error)

    async def _ended(self, task: asyncio.Task[None]) -> None:
        """The app has nothing more to say; one that goes on, as to ask for the next message, is cancelled."""
        await asyncio.wait([task], timeout=GRACE_S)
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=GRACE_S)
            if isinstance(self._error, asyncio.CancelledError):  # that was ours
                self._error = None

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, self._messages.get, self._send)
        except BaseException as error:  # user code, which may also exit
            self._error = error
            if not self._started.done() and self._messages.empty():  # it is none that knows no lifespan
                log.warning("the app raised an exception at its startup, and is served without", exc_info=error)
        for future in (self._started, self._stopped):
            if not future.done():
                future.set_result(None)

    async def _send(self, message: Any) -> None:
        kind = message["type"]
        _, _, name = kind.partition(".")
        future = {"startup": self._started, "shutdown": self._stopped}.get(name.partition(".")[0])
        if not kind.startswith("lifespan.") or future is None or future.done():
            raise RuntimeError(f"the app sent {kind!r} where it does not belong")
        future.set_result(message.get("message", "") if kind.endswith(".failed") else None)
