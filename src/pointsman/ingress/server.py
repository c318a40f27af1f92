"""The HTTP server of an ingress: uvicorn on the listening socket that the supervisor owns.

The only module that knows uvicorn, whose part is the life of the server: it accepts connections, knows the time of day
for the ``date`` header, and waits for the end of what is under way. What happens on a connection is ours.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

import uvicorn

from pointsman.ingress.app import IngressApp
from pointsman.ingress.asgi import ASGIApp
from pointsman.ingress.protocol import MAX_DIRECT_BODY, PATIENCE_S, REMAINDER_S, HTTPProtocol
from pointsman.ingress.service import Entrance, Service
from pointsman.wire.handover import HTTPSettings

__all__ = ["MAX_DIRECT_BODY", "PATIENCE_S", "REMAINDER_S", "HTTPServer"]


class _SecureServer(uvicorn.Server):
    """Listens with a context that is made already, and gives a handshake no longer than a head."""

    def __init__(self, config: uvicorn.Config, context: ssl.SSLContext, settings: HTTPSettings) -> None:
        super().__init__(config)
        self._context = context
        self._handshake_s = settings.head_timeout_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        connection: Any = self.config.http_protocol_class
        self.servers = [
            await asyncio.get_running_loop().create_server(
                connection,
                sock=listener,
                ssl=self._context,
                ssl_handshake_timeout=self._handshake_s,
                backlog=self.config.backlog,
            )
            for listener in sockets or ()
        ]
        self.started = True


class HTTPServer:
    """Serves an ASGI app on an inherited socket until told to stop.

    Args:
        app: the app, middlewares included.
        listener: a listening socket; it stays open in the supervisor.
        drain_s: how long requests under way may take once :meth:`stop` was called.
        settings: deadlines.
        direct: the innermost app, where nothing is wrapped around it: small requests then go to it directly.
        entrance: asks every request; None where nothing is asked.
        context: for TLS; None for plain HTTP.
    """

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        *,
        drain_s: float,
        settings: HTTPSettings,
        direct: IngressApp | None = None,
        entrance: Entrance | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        def connection(**uvicorns: object) -> HTTPProtocol:
            return HTTPProtocol(service)

        make: Any = uvicorn.Config
        config = make(
            app,
            http=connection,  # called as uvicorn's own protocol classes are
            ws="none",
            lifespan="off",
            loop="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=max(1, round(drain_s)),
        )
        self._server = uvicorn.Server(config) if context is None else _SecureServer(config, context, settings)
        service = Service(
            app, settings, direct=direct, state=self._server.server_state, entrance=entrance, secure=context is not None
        )
        self._listener = listener
        self._service = service

    async def serve(self) -> None:
        """Serve until :meth:`stop`; then finish what is under way and return."""
        # uvicorn's own `serve` installs signal handlers; signals belong to the process's main function.
        await self._server._serve([self._listener])
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()  # the drain is over, and the loop ends with us
        await asyncio.sleep(0)

    def stop(self, drain_s: float | None = None, *, patience_s: float | None = None) -> None:
        """Finish; within ``drain_s`` seconds where that is given. Connections without a request are kept for
        ``patience_s`` seconds where that is given: one that comes meanwhile is answered, and its answer closes."""
        if patience_s is not None:
            self._service.linger_s = patience_s
        if drain_s is not None:
            self._server.config.timeout_graceful_shutdown = max(1, round(drain_s))
        self._server.should_exit = True
