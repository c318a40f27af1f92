"""The HTTP server of an ingress: uvicorn on the listening socket that the supervisor owns.

The only module that knows uvicorn. It adds what uvicorn has no setting for: limits on the request's head, a deadline
for its receipt, and word to the app when a client has gone.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pointsman.ingress.app import DISCONNECT_HOOK, ASGIApp

MAX_REQUEST_LINE = 8190
MAX_HEADER_FIELD = 8190
MAX_HEADERS = 100
MAX_HEAD = 32 * 1024
HEAD_TIMEOUT_S = 10.0
KEEP_ALIVE_S = 60

_REASONS = {408: b"Request Timeout", 414: b"URI Too Long", 431: b"Request Header Fields Too Large"}


class HeadTooLarge(Exception):
    """Raised inside the parser's callbacks to stop it."""

    def __init__(self, status: int) -> None:
        self.status = status


class LimitedProtocol(HttpToolsProtocol):
    """One HTTP connection with limits on the request's head."""

    _head_bytes = 0
    _head_fields = 0
    _in_head = False
    _head_timer: asyncio.TimerHandle | None = None
    _too_large: HeadTooLarge | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_is_late)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head and self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_is_late)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = self._head_fields = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_REQUEST_LINE - len("OPTIONS  HTTP/1.1"):
            self._stop(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        size = len(name) + len(value)
        self._head_bytes += size
        self._head_fields += 1
        if size > MAX_HEADER_FIELD or self._head_fields > MAX_HEADERS or self._head_bytes > MAX_HEAD:
            self._stop(431)

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        cycle = self.cycle
        super().connection_lost(exc)
        if cycle is not None and not cycle.response_complete:
            hook = cycle.scope.get("state", {}).get(DISCONNECT_HOOK)
            if hook is not None:
                hook()

    def send_400_response(self, msg: str) -> None:
        if self._too_large is not None:
            self._answer_and_close(self._too_large.status)
        else:
            super().send_400_response(msg)

    def _stop(self, status: int) -> None:
        self._too_large = HeadTooLarge(status)
        raise self._too_large

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._in_head:
            self._answer_and_close(408)
        elif self.cycle is None:
            self.transport.close()

    def _answer_and_close(self, status: int) -> None:
        if not self.transport.is_closing():
            head = b"HTTP/1.1 %d %s\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % (
                status,
                _REASONS[status],
            )
            self.transport.write(head)
            self.transport.close()


class HTTPServer:
    """Serves an ASGI app on an inherited socket until told to stop.

    Args:
        app: the app, middlewares included.
        listener: a listening socket; it stays open in the supervisor.
        drain_s: how long requests under way may take once :meth:`stop` was called.
    """

    def __init__(self, app: ASGIApp, listener: socket.socket, *, drain_s: float) -> None:
        config: Any = uvicorn.Config(
            app,
            http=LimitedProtocol,
            ws="none",
            lifespan="off",
            loop="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(drain_s)),
        )
        self._server = uvicorn.Server(config)
        self._listener = listener

    async def serve(self) -> None:
        """Serve until :meth:`stop`; then finish what is under way and return."""
        # uvicorn's own `serve` installs signal handlers; signals belong to the process's main function.
        await self._server._serve([self._listener])

    def stop(self) -> None:
        self._server.should_exit = True
