"""The bare echo that handles are measured against: length-prefixed frames over a Unix socket, on asyncio with uvloop.

Nothing but what any such call needs: a number, a future, a frame there and a frame back. Run as ``echo.py PATH`` it
serves until SIGTERM; imported, it is the client.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
from collections.abc import Callable
from struct import Struct
from typing import Any, cast

import uvloop

LAYOUT = Struct("<IQ")  # size of the body, number of the call
Resolve = Callable[[bytes], object]


class Frames(asyncio.Protocol):
    """Cuts what comes into frames."""

    def __init__(self) -> None:
        self._rest = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def frames(self, data: bytes) -> list[tuple[int, bytes]]:
        data = self._rest + data if self._rest else data
        found, at, end = [], 0, len(data)
        while end - at >= LAYOUT.size:
            size, number = LAYOUT.unpack_from(data, at)
            stop = at + LAYOUT.size + size
            if stop > end:
                break
            found.append((number, data[at + LAYOUT.size : stop]))
            at = stop
        self._rest = data[at:]
        return found


class Server(Frames):
    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        answers = [LAYOUT.pack(len(body), number) + body for number, body in self.frames(data)]
        self.transport.write(b"".join(answers))


class Client(Frames):
    def __init__(self) -> None:
        super().__init__()
        self._waiting: dict[int, Resolve] = {}
        self._number = 0

    def send(self, body: bytes, resolve: Resolve) -> None:
        """Send a call whose answer goes to ``resolve``; on the loop."""
        assert self.transport is not None
        self._number += 1
        self._waiting[self._number] = resolve
        self.transport.write(LAYOUT.pack(len(body), self._number) + body)

    def data_received(self, data: bytes) -> None:
        for number, body in self.frames(data):
            self._waiting.pop(number)(body)


class FromLoop:
    """Calls from the loop that the connection is on."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()

    def call(self, body: bytes) -> asyncio.Future[bytes]:
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._client.send(body, future.set_result)
        return future


class FromThread:
    """Calls from a thread; the connection is on the loop of another one."""

    def __init__(self, client: Client, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop

    def call(self, body: bytes) -> concurrent.futures.Future[bytes]:
        future: concurrent.futures.Future[bytes] = concurrent.futures.Future()
        self._loop.call_soon_threadsafe(self._client.send, body, future.set_result)
        return future


async def connect(path: str) -> Client:
    _, client = await asyncio.get_running_loop().create_unix_connection(Client, path)
    return client


async def serve(path: str) -> Any:
    server = await asyncio.get_running_loop().create_unix_server(Server, path)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(serve(sys.argv[1]))
