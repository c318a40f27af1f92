"""How an answer leaves that is written in one piece, without a task or ASGI messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from pointsman.ingress.app import IngressApp
from pointsman.ingress.codec import Scope, Where, header_lines, invalid_header, where_of
from pointsman.ingress.door import without_cors
from pointsman.ingress.exchange import Exchange
from pointsman.ingress.service import Beginnings
from pointsman.routing.reply import Reply

CLOSES = (b"connection", b"close")


class Connection(Protocol):
    """What is needed of one."""

    transport: asyncio.Transport
    beginnings: Beginnings
    direct: IngressApp | None
    keep_alive: bool
    lines: bytes
    where: Where | None
    write_paused: bool

    def answered(self, *, refused: bool) -> None: ...

    def run_answer(
        self, scope: Scope, exchange: Exchange, answer: Callable[[Any], Coroutine[Any, Any, None]]
    ) -> None: ...


class DirectAnswer:
    """Stands in for the future of a call and writes its answer in one piece.

    Args:
        connection: on which the request came.
        scope: of the request.
    """

    __slots__ = ("_app", "_connection", "_done", "_refused", "_scope", "exchange")

    exchange: Exchange

    def __init__(self, connection: Connection, scope: Scope) -> None:
        assert connection.direct is not None
        self._app = connection.direct
        self._connection = connection
        self._scope = scope
        self._done = self._refused = False

    def done(self) -> bool:
        return self._done

    def cancel(self) -> None:
        """The client has gone: there is nobody to answer."""
        self._done = True

    def where(self) -> Where:
        """How the client has connected."""
        connection = self._connection
        connection.where = connection.where or where_of(connection.transport)  # hot: asked once for each connection
        return connection.where

    def client_left(self) -> None:
        """The connection is gone."""
        self._app.client_left(self.exchange)

    def set_result(self, reply: Reply) -> None:
        self._done = True
        self._answer(reply)

    def set_exception(self, error: BaseException) -> None:
        self._done = True
        reply = self._app.reply_to(error, self._scope, self.exchange)
        self._refused = reply.status == 503
        self._answer(reply)

    def _answer(self, reply: Reply) -> None:
        connection, exchange = self._connection, self.exchange
        transport = connection.transport
        if transport.is_closing():
            if reply.stream is not None:
                reply.stream.close()
            exchange.client_left()
            return
        if reply.stream is not None or connection.write_paused:
            scope = self._scope
            connection.run_answer(scope, exchange, lambda send: self._app.answer(reply, scope, send, exchange))
            return
        head, lines = header_lines(reply.headers), connection.lines
        if lines and head is not None and b"access-control-" in head.lower():
            head = header_lines(without_cors(reply.headers))
        if head is None:
            self._answer(self._app.reply_to(invalid_header(), self._scope, exchange))
            return
        status, body = reply.status, reply.body
        head = connection.beginnings.of(status) + head + self._app.decision_lines(exchange)
        says_close = CLOSES in reply.headers  # an answer of ours may ask for it itself
        if says_close:
            connection.keep_alive = False
        close = b"" if says_close or connection.keep_alive else b"connection: close\r\n"
        if status == 204 or status == 304:
            length = body = b""
        else:
            length = b"content-length: %d\r\n" % len(body)
            if self._scope["method"] == "HEAD":
                body = b""
        exchange.end(status)  # before it can be read: whoever has the answer finds it counted
        transport.write(b"".join((head, lines, length, close, b"\r\n", body)))
        connection.answered(refused=self._refused)
