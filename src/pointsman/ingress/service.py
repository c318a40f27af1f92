"""What the connections of one server share: the app, limits, and what each answer begins with."""

from __future__ import annotations

import asyncio
import http
from typing import Any, Protocol

from pointsman.ingress.app import IngressApp
from pointsman.ingress.asgi import ASGIApp
from pointsman.ingress.bodylimits import RefusalPauses
from pointsman.telemetry.logs import WarningBudget
from pointsman.wire.handover import HTTPSettings


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


class Service:
    """What the connections of one server share.

    Args:
        app: the app, middlewares included.
        settings: deadlines.
        direct: the innermost app, where nothing is wrapped around it; None where every request goes through ASGI.
        state: uvicorn's record of the server.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: HTTPSettings,
        *,
        direct: IngressApp | None,
        state: ServerState,
    ) -> None:
        self.app = app
        self.direct = direct
        self.head_timeout_s = settings.head_timeout_s
        self.keep_alive_s = settings.keep_alive_s
        self.max_message = settings.ws_max_message_bytes
        self.connections = state.connections
        self.tasks = state.tasks
        self.beginnings = Beginnings(state)
        self.pauses = RefusalPauses(asyncio.get_running_loop())
        self.warnings = WarningBudget()
