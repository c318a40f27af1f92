"""An ingress without a socket, clients that write to it byte by byte if they like, and a replica that answers as the
test says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from pointsman.ingress.app import IngressApp
from pointsman.ingress.door import Door
from pointsman.ingress.server import PATIENCE_S, HTTPServer
from pointsman.ingress.service import Entrance
from pointsman.model import PLAIN, Origin
from pointsman.routing.router import Router
from pointsman.telemetry.tallies import Tallies
from pointsman.testing import INSTANCE, Pipe, ScriptedReplica, settle, table_of
from pointsman.wire.handover import HTTPSettings

LIMIT = 100 * 1024
SOON_S = 10 * PATIENCE_S


class Client(asyncio.Protocol):
    """Somebody at the other end of a connection."""

    def __init__(self) -> None:
        self.data = b""
        self.closed_at: float | None = None
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, error: Exception | None) -> None:
        self.closed_at = self._loop.time()

    def send(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def leave(self) -> None:
        assert self._transport is not None
        self._transport.close()

    def head(self, path: str = "/b", method: str = "POST", **headers: object) -> None:
        """A request's head; names of headers are written with ``_``."""
        lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in {"host": "x", **headers}.items()]
        self.send(f"{method} {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode())

    async def trickle(self, piece: bytes, *, every_s: float, times: int) -> None:
        for _ in range(times):
            if self.closed_at is not None:
                return
            self.send(piece)
            await asyncio.sleep(every_s)

    @property
    def statuses(self) -> list[int]:
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", self.data)]

    @property
    def error(self) -> dict[str, Any]:
        """The body of the one answer."""
        error: dict[str, Any] = json.loads(self.data.partition(b"\r\n\r\n")[2])
        return error


class Edge:
    """An ingress without a socket."""

    def __init__(
        self,
        *,
        middlewares: bool,
        route: str,
        methods: tuple[str, ...],
        app: Any,
        kind: type[IngressApp] = IngressApp,
        replica: Any = None,
        surface: str = PLAIN,
        limit: float | None = None,
        tallies: Tallies | None = None,
        **options: Any,
    ) -> None:
        self.replica = replica or ScriptedReplica()
        self.router = Router(instance=INSTANCE, draw=lambda: 0.5, tallies=tallies)
        settings = HTTPSettings("x", 0, False, 300.0, LIMIT, True, b"", Origin("", ()), **options)
        self.app = kind(self.router, settings)
        table = table_of(1, {"b": [self.replica]})
        endpoint = msgspec.structs.replace(table.endpoints["b"], route=route, methods=methods, surface=surface)
        endpoint = msgspec.structs.replace(endpoint, max_body_bytes=limit)
        self.app.apply(msgspec.structs.replace(table, endpoints={"b": endpoint}))
        self.door = Door(settings.lock, cells=lambda name: [0.0, 0.0], own=0, clock=asyncio.get_running_loop().time)
        with socket.socket() as unused:
            server = HTTPServer(
                app or self.app, unused, drain_s=1, settings=settings, direct=None if middlewares else self.app,
                entrance=None if settings.lock.is_open else Entrance(self.door, self.app),
            )  # fmt: skip
        self._uvicorn: Any = server._server
        self._uvicorn.config.load()
        self.connections: list[Any] = []

    @property
    def tasks(self) -> int:
        """Requests that a task still works on: the end of the server waits for them."""
        return len(self._uvicorn.server_state.tasks)

    async def client(self) -> Client:
        """Connect."""
        client = Client()
        protocol = self._uvicorn.config.http_protocol_class(
            config=self._uvicorn.config, server_state=self._uvicorn.server_state, app_state={}
        )
        self.connections.append(protocol)
        Pipe(client, protocol)
        await settle()
        return client

    async def answered(self, client: Client, count: int = 1) -> list[int]:
        """Let the replica answer what it has been given, and return the statuses that the client has seen."""
        await asyncio.sleep(SOON_S)
        for call_id in list(self.replica.calls):
            self.replica.reply(call_id)
        await settle()
        assert len(client.statuses) == count, client.data
        return client.statuses


@contextlib.asynccontextmanager
async def edge(
    *,
    middlewares: bool = False,
    route: str = "/b",
    methods: tuple[str, ...] = ("POST",),
    app: Any = None,
    kind: type[IngressApp] = IngressApp,
    **options: Any,
) -> AsyncIterator[Edge]:
    """
    Args:
        app: an ASGI app in the place of the ingress's.
        kind: of the ingress's app, on both ways.
    """
    edge = Edge(middlewares=middlewares, route=route, methods=methods, app=app, kind=kind, **options)
    await settle()
    yield edge
    await settle()
    edge.router.validate()
    await edge.router.aclose()
