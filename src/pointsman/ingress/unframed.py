"""Answers to HTTP/1.0, which knows no chunks: what has no length ends where the connection ends."""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
_RESET = struct.pack("ii", 1, 0)


class UnframedSend:
    """Takes the place of a request's ``send``: keeps uvicorn from sending chunks.

    Args:
        cycle: uvicorn's record of the request.
    """

    def __init__(self, cycle: Any) -> None:
        self._cycle = cycle
        self._send: Send = cycle.send
        self._unframed = False

    async def __call__(self, message: dict[str, Any]) -> None:
        cycle = self._cycle
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", [])}
            self._unframed = b"content-length" not in names and message["status"] not in (204, 304)
            if self._unframed:
                cycle.chunked_encoding = False
        elif self._unframed:
            cycle.expected_content_length = len(message.get("body", b""))
        await self._send(message)

    def around(self, app: App) -> App:
        """The app, but an answer of it that breaks does not look whole: the connection is reset."""

        async def watched(scope: dict[str, Any], receive: Any, send: Any) -> None:
            try:
                await app(scope, receive, send)
            except BaseException:
                self._reset()
                raise

        return watched

    def _reset(self) -> None:
        cycle = self._cycle
        if not self._unframed or cycle.response_complete or cycle.transport.is_closing():
            return
        connection = cycle.transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        cycle.transport.abort()
