"""One request on the ASGI way: what its app receives and sends, and what becomes of it when the app fails.

For HTTP/1.0, which knows no chunks, an answer without a length ends where the connection ends; one that breaks resets
it, since it would look whole otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import struct
from typing import Any, Protocol

from pointsman.ingress.asgi import DISCONNECT_HOOK, REFUSED, ASGIApp, BrokenAnswer
from pointsman.ingress.door import without_cors
from pointsman.ingress.service import Beginnings

log = logging.getLogger("pointsman.ingress")

_RESET = struct.pack("ii", 1, 0)
_NO_NAME = re.compile(rb'[\x00-\x1f\x7f()<>@,;:\[\]={} \t\\"]')
_NO_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class Connection(Protocol):
    """What is needed of one."""

    transport: asyncio.Transport
    beginnings: Beginnings
    keep_alive: bool
    lines: bytes
    write_paused: bool

    def resume_reading(self) -> None: ...

    async def drain(self) -> None: ...

    def answered(self, *, refused: bool) -> None: ...

    def close(self) -> None: ...


class Cycle:
    """See the module.

    Args:
        connection: on which the request came.
        scope: what the app is told of it.
        expects_continue: whether its body comes only when the app asks for it.

    Attributes:
        body: what has come, and the app has not asked for.
        response_started: whether the head of the answer has left.
    """

    __slots__ = (
        "_arrived", "_chunked", "_connection", "_disconnected", "_expects_continue", "_left", "_more", "_over",
        "_unframed", "body", "response_started", "scope",
    )  # fmt: skip

    def __init__(self, connection: Connection, scope: dict[str, Any], *, expects_continue: bool) -> None:
        self._connection = connection
        self.scope = scope
        self._expects_continue = expects_continue
        self.body = bytearray()
        self._more = True
        self._arrived = asyncio.Event()
        self._disconnected = False
        self.response_started = self._over = False
        self._chunked = self._unframed = False
        self._left = 0  # bytes of the answer that are still to come, where its length was said

    def feed(self, data: bytes, *, more: bool) -> None:
        """A part of the body has come."""
        self.body += data
        self._more = more
        self._arrived.set()

    def client_left(self) -> None:
        """The connection is gone."""
        self._disconnected = True
        self._arrived.set()
        hook = self.scope["state"].get(DISCONNECT_HOOK)
        if hook is not None and not self._over:
            hook()

    async def run(self, app: ASGIApp) -> None:
        """Run the app. Never raises: what an app raises becomes a 500, or the end of the connection."""
        try:
            await app(self.scope, self.receive, self.send)
        except BrokenAnswer:  # has been logged
            self._cut()
        except BaseException as error:  # of an operator's middleware, or the task was cancelled by the server's end
            log.error("the ASGI app raised an exception", exc_info=error)
            if self.response_started:
                self._cut()
            else:
                await self._fail()
        else:
            if self._over or self._disconnected:
                return
            log.error("the ASGI app returned before its answer was whole")
            if self.response_started:
                self._connection.close()
            else:
                await self._fail()

    async def _fail(self) -> None:
        body = b"Internal Server Error"
        kind, length = (b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))
        headers = [kind, length, (b"connection", b"close")]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def _cut(self) -> None:
        """The answer does not go on, and must not look whole."""
        transport = self._connection.transport
        if self._over or self._disconnected or transport.is_closing():
            return
        if self._unframed:
            connection = transport.get_extra_info("socket")
            if connection is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            transport.abort()
        self._connection.close()

    # --- the interface of ASGI ----------------------------------------------------------------------------------------

    async def receive(self) -> dict[str, Any]:
        connection = self._connection
        if self._expects_continue and not connection.transport.is_closing():
            connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._expects_continue = False
        if not self._disconnected and not self._over:
            connection.resume_reading()
            await self._arrived.wait()
            self._arrived.clear()
        if self._disconnected or self._over:
            return {"type": "http.disconnect"}
        body, self.body = bytes(self.body), bytearray()
        return {"type": "http.request", "body": body, "more_body": self._more}

    async def send(self, message: dict[str, Any]) -> None:
        if self._connection.write_paused and not self._disconnected:
            await self._connection.drain()
        if self._disconnected:
            return
        kind = message["type"]
        if self._over:
            raise RuntimeError(f"the app sent {kind!r} behind the end of its answer")
        wanted = "http.response.body" if self.response_started else "http.response.start"
        if kind != wanted:
            raise RuntimeError(f"the app sent {kind!r} where {wanted!r} comes next")
        if self.response_started:
            self._send_body(message.get("body", b""), more=message.get("more_body", False))
        else:
            self._start(message["status"], list(message.get("headers", [])))

    def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        connection = self._connection
        lines = [connection.beginnings.of(status)]
        if connection.lines:
            lines.append(connection.lines)
            headers = without_cors(headers)
        has_length = chunked = says_close = False
        for name, value in headers:
            if _NO_NAME.search(name) or _NO_VALUE.search(value):
                raise RuntimeError("the app sent a header with a name or a value that HTTP does not allow")
            name = name.lower()
            if name == b"content-length" and not has_length:
                self._left = int(value)
                has_length = True
            elif name == b"transfer-encoding" and value.lower() == b"chunked":
                chunked = True
            elif name == b"connection" and b"close" in [token.strip() for token in value.lower().split(b",")]:
                says_close = True
            lines.append(b"%s: %s\r\n" % (name, value))
        if says_close:
            connection.keep_alive = False
        elif not connection.keep_alive:
            lines.append(b"connection: close\r\n")
        bodiless = self.scope["method"] == "HEAD" or status in (204, 304)
        if not has_length and not chunked and not bodiless:
            if self.scope["http_version"] == "1.0":
                self._unframed = True
            else:
                chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
        self._chunked = chunked
        self._expects_continue = False
        self.response_started = True
        lines.append(b"\r\n")
        connection.transport.write(b"".join(lines))

    def _send_body(self, body: bytes, *, more: bool) -> None:
        transport = self._connection.transport
        if self.scope["method"] == "HEAD":
            self._left = 0
        elif self._chunked:
            piece = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
            transport.write(piece if more else piece + b"0\r\n\r\n")
        elif self._unframed:
            transport.write(body)
        else:
            if len(body) > self._left:
                raise RuntimeError("the body that the app sent is longer than its content-length")
            self._left -= len(body)
            transport.write(body)
        if not more:
            if self._left and not self._chunked:
                raise RuntimeError("the body that the app sent is shorter than its content-length")
            self._over = True
            self._arrived.set()
            self._connection.answered(refused=REFUSED in self.scope["state"])
