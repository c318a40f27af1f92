"""The HTTP server of the console: uvicorn on a listening socket that is open already."""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
from typing import Any

import httptools
import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pointsman.console.bodies import BODY_S, MAX_BODY
from pointsman.console.guard import MAX_HEAD, ON_ANSWERS
from pointsman.console.problems import MEDIA_TYPE, Problem
from pointsman.wire.stream import set_tcp_options

#: How long answers under way may take after :meth:`ConsoleServer.stop`. A stream has no end of its own.
DRAIN_S = 0.5
HANDSHAKE_S = 10.0
HEAD_S = 10.0
"""How long a head may take to arrive; also how long a new connection may be silent."""
LAST_BODY_S = BODY_S + 5.0
"""How long a body may take that nobody waits for. Whoever waits for one says so before that."""
MOST_BYTES = 2 * MAX_BODY
"""Of a body, with all that is around it."""
MOST_CONNECTIONS = 500
"""Requests of further ones get a 503."""
ABORT = "abort"
"""Where the state of a request's scope has what cuts its connection."""


class Protocol(HttpToolsProtocol):
    """A connection that can be cut by who answers on it, since closing waits for a client that reads nothing; and whose
    requests come whole before long, and are short."""

    _clock: asyncio.TimerHandle | None = None
    _bytes = 0
    _most = MAX_HEAD

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        set_tcp_options(transport)  # with them the kernel drops an answer that nobody takes
        self.app_state = {**self.app_state, ABORT: transport.abort}
        if len(self.connections) > MOST_CONNECTIONS:
            self.app = _full
        self._expect(HEAD_S, MAX_HEAD)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._clock is not None:
            self._bytes += len(data)
            if self._bytes > self._most:
                self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._clock is None:
            self._expect(HEAD_S, MAX_HEAD)

    def on_headers_complete(self) -> None:
        self._expect_nothing()
        self._expect(LAST_BODY_S, MOST_BYTES)
        self._take_host_of_target()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._expect_nothing()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        status, headers, body = _problem(400, "this is no request of HTTP/1.1")
        head = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(b"HTTP/1.1 %d Bad Request\r\n%b\r\n%b" % (status, head, body))
        self.transport.close()

    def _take_host_of_target(self) -> None:
        # Where the target is a whole URL, its host counts, and not the header: RFC 9112, 3.2.2.
        if not self.url.startswith(b"/"):
            host = httptools.parse_url(self.url).host or b""
            self.headers[:] = [header for header in self.headers if header[0] != b"host"] + [(b"host", host)]

    def _expect(self, seconds: float, most: int) -> None:
        self._clock = self.loop.call_later(seconds, self.transport.abort)
        self._bytes, self._most = 0, most

    def _expect_nothing(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None


def _problem(status: int, detail: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body of an answer that is none of the app's, after which the connection is closed."""
    body = msgspec.json.encode(Problem(status, detail).as_json())
    length = str(len(body)).encode()
    own = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", length), (b"connection", b"close")]
    return status, [*own, *ON_ANSWERS], body


async def _full(scope: Any, receive: Any, send: Any) -> None:
    """Answers on connections that are too many."""
    status, headers, body = _problem(503, f"{MOST_CONNECTIONS} connections are open already; close some")
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"retry-after", b"5")]})
    await send({"type": "http.response.body", "body": body})


class _Server(uvicorn.Server):
    """Listens with a context that is made already, and has nothing to start or to end but connections."""

    def __init__(self, config: uvicorn.Config, context: ssl.SSLContext | None) -> None:
        super().__init__(config)
        self._context = context

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        protocol: Any = self.config.http_protocol_class
        connection = functools.partial(protocol, config=self.config, server_state=self.server_state, app_state={})
        self.servers = [
            await asyncio.get_running_loop().create_server(
                connection,
                sock=listener,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_S if self._context else None,
                backlog=self.config.backlog,
            )
            for listener in sockets or ()
        ]
        self.started = True


class ConsoleServer:
    """Serves an app until told to stop.

    Args:
        app: an ASGI app.
        listener: a listening socket.
        context: for TLS; None for plain HTTP.
    """

    def __init__(self, app: Any, listener: socket.socket, context: ssl.SSLContext | None = None) -> None:
        make: Any = uvicorn.Config
        config = make(
            app,
            loop="none",
            http=Protocol,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            log_level="error",  # what strangers send is no news
            proxy_headers=False,
            timeout_graceful_shutdown=DRAIN_S,
        )
        self._server = _Server(config, context)
        self._listener = listener

    async def serve(self) -> None:
        """Serve until :meth:`stop`, and finish what is under way."""
        # uvicorn's own `serve` installs signal handlers; signals belong to the process's main function.
        await self._server._serve([self._listener])
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()  # whoever does not read holds up no end

    def stop(self) -> None:
        """Finish, within a second."""
        self._server.should_exit = True
