"""A request that is over is gone: nothing of it waits for the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from pointsman.exceptions import BackpressureError
from pointsman.ingress.app import IngressApp
from pointsman.ingress.exchange import Exchange
from pointsman.ingress.server import HTTPServer
from pointsman.model import EndpointSpec, Origin, RoutingTable, TrafficPolicy
from pointsman.routing.call import Call
from pointsman.routing.reply import Reply
from pointsman.wire.handover import HTTPSettings
from pointsman.wire.tables import TableChange, difference

SETTINGS = HTTPSettings(
    host="127.0.0.1",
    port=0,
    debug=False,
    request_timeout_s=10.0,
    max_body_bytes=1 << 20,
    expose_headers=True,
    middlewares=b"",
    origin=Origin("/", ()),
)
ENDPOINT = EndpointSpec("e", "/e", ("POST",), TrafficPolicy(1, {"b": 1.0}))
REQUESTS = 20


class Router:
    """Answers at once, refuses, or lets a call wait."""

    def __init__(self, does: str) -> None:
        self.does = does
        self.table = RoutingTable(0, {}, {})
        self.cancelled = 0

    def apply(self, table: RoutingTable, change: TableChange | None = None) -> TableChange | None:
        change = difference(self.table, table)
        self.table = table
        return change

    def submit(self, call: Call) -> None:
        call.backend = "b"
        if self.does == "refuses":
            raise BackpressureError("too many wait", retry_after=1.0)
        if self.does == "answers":
            asyncio.get_running_loop().call_soon(call.succeed, Reply(200, [], b"fine"))

    def cancel(self, call: Call) -> None:
        self.cancelled += 1
        call.give_up()


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def ask(port: int, body: bytes, *, leave: bool) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(REQUESTS):
        writer.write(b"POST /e HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        if leave:
            break
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
    writer.close()
    await writer.wait_closed()


def left_behind() -> dict[str, int]:
    """How many of what a request is made of only the collector would find."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    kinds: dict[str, int] = {}
    for thing in gc.garbage:
        if isinstance(thing, (Call, Exchange)):
            kinds[type(thing).__name__] = kinds.get(type(thing).__name__, 0) + 1
    gc.garbage.clear()
    return kinds


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 100_000], ids=["direct", "asgi"])
@pytest.mark.parametrize("does", ["answers", "refuses", "waits"])
def test_requests_leave_no_cycles(does: str, size: int) -> None:
    """Ten thousand requests a second would be ten thousand cycles a second, and the collector would take a quarter of
    the ingress's time; answered, refused or left by its client, a request is freed when it is over (G12)."""

    async def scenario() -> dict[str, int]:
        router: Any = Router(does)
        app = IngressApp(router, SETTINGS)
        app.apply(RoutingTable(1, {"e": ENDPOINT}, {}))
        listener = socket.create_server(("127.0.0.1", 0))
        server = HTTPServer(app, listener, drain_s=1, settings=SETTINGS, direct=app)
        serving = asyncio.create_task(server.serve())
        await ask(listener.getsockname()[1], b"x" * size, leave=does == "waits")
        while does == "waits" and not router.cancelled:
            await asyncio.sleep(0)
        found = left_behind()
        server.stop()
        await serving
        return found

    found = asyncio.run(scenario())
    assert sum(found.values()) < REQUESTS / 2, found
