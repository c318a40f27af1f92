"""The HTTP server of the console: uvicorn on a listening socket that is open already."""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pointsman.console.guard import MAX_HEAD

#: How long answers under way may take after :meth:`ConsoleServer.stop`. A stream has no end of its own.
DRAIN_S = 0.5
HANDSHAKE_S = 10.0
HEAD_S = 10.0
"""How long a head may take to arrive; also how long a new connection may be silent."""
MOST_CONNECTIONS = 500
"""With more of them requests get a 503."""
ABORT = "abort"
"""Where the state of a request's scope has what cuts its connection."""


class Protocol(HttpToolsProtocol):
    """A connection that can be cut by who answers on it, since closing waits for a client that reads nothing; and whose
    heads come whole before long, and are short."""

    _clock: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.app_state = {**self.app_state, ABORT: transport.abort}
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._has_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._clock is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD:
                self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self) -> None:
        self._has_head()
        super().on_headers_complete()

    def _await_head(self) -> None:
        if self._clock is None:
            self._clock = self.loop.call_later(HEAD_S, self.transport.abort)

    def _has_head(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
        self._clock, self._head_bytes = None, 0


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
            limit_concurrency=MOST_CONNECTIONS,
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
