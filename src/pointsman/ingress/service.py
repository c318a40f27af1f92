"""What the connections of one server share: the app, limits, and what each answer begins with."""

from __future__ import annotations

import array
import asyncio
import fcntl
import http
import logging
import termios
from collections.abc import Coroutine
from typing import Any, Protocol

from pointsman.ingress.app import IngressApp
from pointsman.ingress.asgi import ASGIApp
from pointsman.ingress.bodylimits import RefusalPauses
from pointsman.ingress.door import Door
from pointsman.lock.meters import Meter
from pointsman.telemetry.logs import WarningBudget
from pointsman.wire.handover import HTTPSettings

log = logging.getLogger("pointsman.ingress")


def _line(status: int) -> bytes:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return b"HTTP/1.1 %d %s\r\n" % (status, phrase.encode())


STATUS_LINES = {status: _line(status) for status in range(100, 600)}
"""The first line of an answer; without a phrase where the status has none."""


class ServerState(Protocol):
    """What is needed of uvicorn's.

    Attributes:
        connections: those that are open. Each adds and removes itself; at the end each is told to shut down.
        tasks: those that run apps. The end waits for them.
        default_headers: headers of each answer; another list every second.
    """

    connections: set[Any]
    tasks: set[asyncio.Task[None]]
    default_headers: list[tuple[bytes, bytes]]


class Beginnings:
    """What answers begin with: the status line, and the headers that all of them have.

    Args:
        state: has these headers.
    """

    __slots__ = ("_headers", "_lines", "_state")

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._headers: list[tuple[bytes, bytes]] = []
        self._lines: dict[int, bytes] = {}

    def of(self, status: int) -> bytes:
        """The beginning of an answer with this status; with 500 for one that HTTP does not know."""
        headers = self._state.default_headers
        if headers is not self._headers:
            self._headers = headers
            self._lines.clear()
        lines = self._lines.get(status)
        if lines is None:
            first = STATUS_LINES.get(status) or STATUS_LINES[500]
            lines = self._lines[status] = first + b"".join([b"%s: %s\r\n" % header for header in headers])
        return lines


class Asked(Protocol):
    """What is needed of a connection.

    Attributes:
        lines: for the head of the answer to the running request.
        meter: has counted the running request.
    """

    lines: bytes
    meter: Meter | None


class Entrance:
    """The door on connections: a request that is not let in is answered, and one that is counted is counted until its
    end.

    Args:
        door: decides.
        app: sends the answers to those that are not let in.
    """

    def __init__(self, door: Door, app: IngressApp) -> None:
        self._door = door
        self._app = app

    def refuses(self, connection: Asked, scope: dict[str, Any]) -> ASGIApp | None:
        """Ask a request, a socket's too, by its head.

        Whoever takes a connection over, as a socket does, also takes its ``meter``, and ends that.

        Returns:
            The app that answers in the place of what was asked for; None to let it in.
        """
        answer, connection.lines, connection.meter = self._door.ask(scope)
        if answer is None:
            return None
        refusal = answer

        async def turn_away(scope: dict[str, Any], receive: object, send: Any) -> None:
            await self._app.turn_away(refusal, scope, send)

        return turn_away


class Service:
    """What the connections of one server share.

    Args:
        app: the app, middlewares included.
        settings: deadlines.
        direct: the innermost app, where nothing is wrapped around it; None where every request goes through ASGI.
        state: uvicorn's record of the server.
        entrance: asks every request; None where nothing is asked.
        secure: whether connections are TLS.

    Attributes:
        linger_s: how long an idle connection is kept when the server is to end; None for the usual time.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: HTTPSettings,
        *,
        direct: IngressApp | None,
        state: ServerState,
        entrance: Entrance | None = None,
        secure: bool = False,
    ) -> None:
        self.app = app
        self.direct = direct
        self.entrance = entrance
        self.secure = secure
        self.head_timeout_s = settings.head_timeout_s
        self.keep_alive_s = settings.keep_alive_s
        self.linger_s: float | None = None
        self.max_message = settings.ws_max_message_bytes
        self.connections = state.connections
        self._tasks = state.tasks
        self.beginnings = Beginnings(state)
        self.pauses = RefusalPauses(asyncio.get_running_loop())
        self._warnings = WarningBudget()

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run it in a task, which the end of the server waits for."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def warn_of(self, why: str, status: int) -> None:
        """Log that a client has sent what is no request, or none that is served; within a budget."""
        held_back = self._warnings.take("refused", asyncio.get_running_loop().time())
        if held_back:
            log.warning("%d more warnings like the next one were held back", held_back)
        if held_back is not None:
            answer = STATUS_LINES[status].split(b" ", 1)[1].decode().strip()
            log.warning("what a client sent is not a request that is served, %s%s", answer, why)


def has_unread(transport: asyncio.Transport) -> bool:
    """Whether something has come on a connection that the loop has not read yet."""
    connection = transport.get_extra_info("socket")
    unread = array.array("i", [0])
    if connection is not None:
        fcntl.ioctl(connection.fileno(), termios.FIONREAD, unread)
    return bool(unread[0])
