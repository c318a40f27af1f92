"""How an answer leaves: in one piece, without a task or ASGI messages; and, for HTTP/1.0, without chunks: what has no
length ends there where the connection ends.
"""

from __future__ import annotations

import http
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

from pointsman.ingress.codec import header_lines, unfit
from pointsman.ingress.exchange import Exchange
from pointsman.routing.call import Reply


def _line(status: int) -> bytes:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return b"HTTP/1.1 %d %s\r\n" % (status, phrase.encode())


STATUS_LINES = {status: _line(status) for status in range(100, 600)}
"""The first line of an answer; without a phrase where the status has none."""


class DirectAnswer:
    """Stands in for the future of a call and writes its answer in one piece, without a task or ASGI messages.

    Args:
        protocol: the connection.
        cycle: uvicorn's record of the request; kept up to date, so that keep-alive, pipelining and shutdown work as
            for any other request.
    """

    __slots__ = ("_cycle", "_done", "_protocol", "exchange")

    def __init__(self, protocol: Any, cycle: Any) -> None:
        self._protocol = protocol
        self._cycle = cycle
        self._done = False
        self.exchange: Exchange

    def done(self) -> bool:
        return self._done

    def cancel(self) -> None:
        """The client has gone: there is nobody to answer."""
        self._done = True

    def set_result(self, reply: Reply) -> None:
        self._done = True
        self._answer(reply)

    def set_exception(self, error: BaseException) -> None:
        self._done = True
        self._answer(self._protocol.direct.reply_to(error, self._cycle.scope, self.exchange))

    def _answer(self, reply: Reply) -> None:
        protocol, cycle, exchange = self._protocol, self._cycle, self.exchange
        if protocol.transport.is_closing():
            if reply.stream is not None:
                reply.stream.close()
            exchange.client_left()
            return
        if reply.stream is not None or cycle.flow.write_paused:
            protocol.run_task(protocol.direct.answer(reply, cycle.scope, cycle.send, exchange), cycle)
            return
        head = header_lines(reply.headers)
        if head is None:
            self._answer(protocol.direct.reply_to(unfit(), cycle.scope, exchange))
            return
        head += b"".join([b"%s: %s\r\n" % header for header in protocol.direct.exposed(exchange)])
        first = STATUS_LINES.get(reply.status) or STATUS_LINES[500]
        bodiless = reply.status in (204, 304)
        body = b"" if bodiless or cycle.scope["method"] == "HEAD" else reply.body
        length = b"" if bodiless else b"content-length: %d\r\n" % len(reply.body)
        # An answer of ours may ask for the close itself.
        closes = not cycle.keep_alive or (b"connection", b"close") in reply.headers
        close = b"connection: close\r\n" if closes and b"connection: close" not in head else b""
        dates = [b"%s: %s\r\n" % header for header in protocol.server_state.default_headers]
        exchange.over(reply.status)  # before it can be read: whoever has the answer finds it counted
        protocol.transport.write(b"".join([first, *dates, head, length, close, b"\r\n", body]))
        cycle.response_started = cycle.response_complete = True
        if closes:
            protocol.transport.close()
        protocol.on_response_complete()


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
