"""Load at a fixed rate whatever the server does: each request has a time at which it is due, and its latency counts
from then. A client that waits for one answer before it sends the next would look away just while the server is slow.

The load runs in a process of its own (``openloop.py PORT PATH RATE SECONDS SEED`` prints a :class:`Latencies` as JSON).
Its loop waits by ``select``, whose timeouts are in microseconds; those of ``epoll`` are in whole milliseconds, which is
more than an answer takes here. How late requests were sent is measured too.
"""

from __future__ import annotations

import asyncio
import gc
import random
import re
import selectors
import subprocess
import sys
from collections import deque
from collections.abc import Callable

import msgspec
import wrk

CONNECTIONS = 64
WARM_UP_S = 1.5
"""Load whose latencies do not count; long enough for a hanging shadow to have all the copies it gets."""
WAIT_S = 10.0

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Latencies(msgspec.Struct, frozen=True):
    """Of requests sent at a fixed rate, in ms from when each was due. ``late_*`` is how late they were sent."""

    requests: int
    not_ok: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    late_p50_ms: float
    late_p99_ms: float


class Connection(asyncio.Protocol):
    """A keep-alive connection that has one request at a time.

    Args:
        answered: told of the head of every answer; the connection is free again.
    """

    def __init__(self, answered: Callable[[Connection, bytes], None]) -> None:
        self._answered = answered
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self.due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, request: bytes) -> None:
        assert self._transport is not None
        self._transport.write(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, there, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head) if there else None
        if length is not None and len(body) >= int(length[1]):
            self._received = b""
            self._answered(self, head)


def request_to(path: str, *headers: str) -> bytes:
    """The bytes of the POST that ``wrk`` sends too."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(wrk.BODY)}", "", wrk.BODY]).encode()


def is_ok(head: bytes) -> bool:
    return head.startswith(b"HTTP/1.1 200 ")


class OpenLoop:
    """Poisson arrivals on a pool of connections. A request that finds none free waits, and its clock runs."""

    def __init__(self, port: int, path: str, *, rate: float, seconds: float, seed: int) -> None:
        self._port = port
        self._request = request_to(path)
        self._rate, self._seconds = rate, seconds
        self._chance = random.Random(seed)
        self._loop = asyncio.get_running_loop()
        self._free: list[Connection] = []
        self._waiting: deque[float] = deque()
        self._latencies: list[float] = []
        self._late: list[float] = []
        self._not_ok = 0
        self._count_from = 0.0
        self._all_sent = False
        self._all_answered: asyncio.Future[None] = self._loop.create_future()

    async def run(self) -> Latencies:
        connections = []
        for _ in range(CONNECTIONS):
            _, connection = await self._loop.create_connection(
                lambda: Connection(self._answered), "127.0.0.1", self._port
            )
            connections.append(connection)
        self._free = connections[:]
        gc.collect()
        gc.freeze()
        gc.disable()
        await self._arrivals()
        self._all_sent = True
        if len(self._free) < CONNECTIONS:
            await asyncio.wait([self._all_answered], timeout=WAIT_S)
        unanswered = CONNECTIONS - len(self._free) + len(self._waiting)
        for connection in connections:
            connection.close()
        return self._result(unanswered)

    async def _arrivals(self) -> None:
        due = self._loop.time() + 0.01
        self._count_from = due + WARM_UP_S
        end = self._count_from + self._seconds
        while due < end:
            left = due - self._loop.time()
            if left > 0:
                await asyncio.sleep(left)
            if self._free:
                self._send(self._free.pop(), due)
            else:
                self._waiting.append(due)
            due += self._chance.expovariate(self._rate)

    def _send(self, connection: Connection, due: float) -> None:
        connection.due = due
        if due >= self._count_from:
            self._late.append(self._loop.time() - due)
        connection.send(self._request)

    def _answered(self, connection: Connection, head: bytes) -> None:
        if connection.due >= self._count_from:
            self._latencies.append(self._loop.time() - connection.due)
            self._not_ok += not is_ok(head)
        if self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._free.append(connection)
            if self._all_sent and len(self._free) == CONNECTIONS:
                self._all_answered.set_result(None)

    def _result(self, unanswered: int) -> Latencies:
        taken, late = sorted(self._latencies), sorted(self._late)
        return Latencies(
            len(taken) + unanswered,
            self._not_ok + unanswered,
            *(quantile_ms(taken, q) for q in (0.5, 0.9, 0.99, 0.999, 1.0)),
            *(quantile_ms(late, q) for q in (0.5, 0.99)),
        )


def quantile_ms(ordered: list[float], q: float) -> float:
    return 1000 * ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def measure(port: int, path: str, *, rate: float, seconds: float, seed: int) -> Latencies:
    """Load a path of a server on this machine. Two loads of the same seed have the same arrivals.

    Raises:
        subprocess.CalledProcessError: the client failed, for instance because it was refused a connection.
    """
    command = [sys.executable, __file__, str(port), path, str(rate), str(seconds), str(seed)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=seconds + WARM_UP_S + WAIT_S + 30)
    return msgspec.json.decode(done.stdout, type=Latencies)


async def main(port: str, path: str, rate: str, seconds: str, seed: str) -> None:
    load = OpenLoop(int(port), path, rate=float(rate), seconds=float(seconds), seed=int(seed))
    sys.stdout.buffer.write(msgspec.json.encode(await load.run()))


if __name__ == "__main__":
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    loop.run_until_complete(main(*sys.argv[1:]))
    loop.close()
