"""Writing answers: whole ones directly to the transport, without a task or ASGI messages (decision 0009); and answers
over HTTP/1.0, which has no chunks: there the end of the connection ends a body without a length.
"""

from __future__ import annotations

import http
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

from pointsman.ingress.codec import header_lines, invalid_header
from pointsman.ingress.exchange import Exchange
from pointsman.routing.call import Reply


def _line(status: int) -> bytes:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return b"HTTP/1.1 %d %s\r\n" % (status, phrase.encode())


STATUS_LINES = {status: _line(status) for status in range(100, 600)}
"""Status lines by status; the phrase is empty for a status without one."""


class DirectAnswer:
    """The future of a call that writes its answer to the connection when it is resolved.

    Args:
        protocol: the connection, a ``LimitedProtocol``.
        cycle: uvicorn's state of the request. It is updated as uvicorn would, so that keep-alive, pipelining and
            shutdown work.
    """

    # hot: future and writer in one object; a future's callback would wait for the loop's next iteration (decision 0009)

    __slots__ = ("_cycle", "_done", "_protocol", "exchange")

    def __init__(self, protocol: Any, cycle: Any) -> None:
        self._protocol = protocol
        self._cycle = cycle
        self._done = False
        self.exchange: Exchange

    def done(self) -> bool:
        return self._done

    def cancel(self) -> None:
        """The client has disconnected: write nothing."""
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
            self._answer(protocol.direct.reply_to(invalid_header(), cycle.scope, exchange))
            return
        head += b"".join([b"%s: %s\r\n" % header for header in protocol.direct.decision_of(exchange)])
        first = STATUS_LINES.get(reply.status) or STATUS_LINES[500]
        bodiless = reply.status in (204, 304)
        body = b"" if bodiless or cycle.scope["method"] == "HEAD" else reply.body
        length = b"" if bodiless else b"content-length: %d\r\n" % len(reply.body)
        # An error answer of the app may itself have the header, see `app.CLOSE`.
        closes = not cycle.keep_alive or (b"connection", b"close") in reply.headers
        close = b"connection: close\r\n" if closes and b"connection: close" not in head else b""
        dates = [b"%s: %s\r\n" % header for header in protocol.server_state.default_headers]
        exchange.end(reply.status)  # before the write: a client that has the answer finds it counted
        protocol.transport.write(b"".join([first, *dates, head, length, close, b"\r\n", body]))
        cycle.response_started = cycle.response_complete = True
        if closes:
            protocol.transport.close()
        protocol.on_response_complete()


App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
_RESET = struct.pack("ii", 1, 0)


class UnframedSend:
    """Replaces the ``send`` of an HTTP/1.0 request, so that uvicorn does not send chunks.

    Args:
        cycle: uvicorn's state of the request.
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
        """Wrap the app: if an answer breaks off, the connection is reset, since a close would look like its end."""

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
