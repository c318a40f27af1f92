"""The HTTP server of the console: uvicorn on a listening socket that is open already."""

from __future__ import annotations

import socket
from typing import Any

import uvicorn

DRAIN_S = 1


class ConsoleServer:
    """Serves an app until told to stop.

    Args:
        app: an ASGI app.
        listener: a listening socket.
    """

    def __init__(self, app: Any, listener: socket.socket) -> None:
        config = uvicorn.Config(
            app,
            loop="none",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=DRAIN_S,
        )
        self._server = uvicorn.Server(config)
        self._listener = listener

    async def serve(self) -> None:
        """Serve until :meth:`stop`, and finish what is under way."""
        # uvicorn's own `serve` installs signal handlers; signals belong to the process's main function.
        await self._server._serve([self._listener])

    def stop(self) -> None:
        """Finish, within a second."""
        self._server.should_exit = True
