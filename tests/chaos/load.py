"""Requests at fixed times, whatever the server does: a client that waits for answers looks away while it is slow.

Each request has an id, which user code writes down too, and ends in one outcome:

    delivered   200, with the id that was asked for
    refused     a 4xx or 503: certainly not run
    failed      502 or 504: may have run
    wrong       another status, or an answer to another request
    aborted     the answer began, and broke
    reset       the connection broke before anything came
    unconnected the connection was refused
    timeout     nothing came for longer than any deadline

``lost`` are those that no server may leave behind while its ingress lives: reset, unconnected, timeout.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import threading
from dataclasses import dataclass, field

LOST = ("reset", "unconnected", "timeout")
POOL = 32
FRESH_SHARE = 0.05
IDEMPOTENT_SHARE = 0.6
PATIENCE_S = 20.0

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_BACKEND = re.compile(rb"\r\nx-serve-backend: *([^\r]*)", re.IGNORECASE)
_RETRY = re.compile(rb"\r\nretry-after: *\d", re.IGNORECASE)
_ids = itertools.count(1)


@dataclass
class Exchange:
    """One request and what became of it. Times are the load loop's; ``due`` is when it should have been sent, and
    ``connected`` since when there is the connection that it was sent on."""

    id: str
    idempotent: bool
    due: float
    connected: float = 0.0
    ended: float = 0.0
    outcome: str = ""
    status: int = 0
    pid: int = 0
    version: int = 0
    backend: str = ""
    has_retry_after: bool = False

    @property
    def took(self) -> float:
        return self.ended - self.due


@dataclass
class History:
    """All requests of a run."""

    exchanges: list[Exchange] = field(default_factory=list)

    def count(self, *outcomes: str) -> int:
        return sum(exchange.outcome in outcomes for exchange in self.exchanges)

    @property
    def lost(self) -> int:
        return self.count(*LOST)

    def p99_s(self) -> float:
        taken = sorted(exchange.took for exchange in self.exchanges if exchange.outcome == "delivered")
        return taken[int(0.99 * len(taken))] if taken else 0.0


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request at a time."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._received = b""
        self.transport: asyncio.Transport | None = None
        self.exchange: Exchange | None = None
        self.fresh = False
        self._made = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._made = self._load.now()

    def send(self, exchange: Exchange, request: bytes) -> None:
        assert self.transport is not None
        self.exchange = exchange
        exchange.connected = self._made
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, there, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head) if there else None
        if length is not None and len(body) >= int(length[1]):
            self._received = b""
            exchange, self.exchange = self.exchange, None
            closes = b"connection: close" in head.lower()
            if exchange is not None:
                self._load.answered(exchange, head, body)
            self._load.free(self, closes=closes)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._load.drop(self)
        if self.exchange is not None:
            exchange, self.exchange = self.exchange, None
            self._load.ended(exchange, "aborted" if self._received else "reset")


class Load:
    """Runs on a thread of its own from :meth:`start` to :meth:`stop`.

    Args:
        port: of the HTTP server.
        path: to ask for, with a query if it has one.
        rate: requests per second.
        seed: of the arrivals and of which requests may be repeated.
        idempotent_share: of the requests, sent as GET; the others are POSTs.
        leave_share: of the requests, whose client hangs up after at most ``leave_s`` seconds.
    """

    def __init__(
        self,
        port: int,
        path: str,
        *,
        rate: float,
        seed: int,
        idempotent_share: float = IDEMPOTENT_SHARE,
        leave_share: float = 0.0,
        leave_s: float = 0.05,
    ) -> None:
        self.history = History()
        self._port, self._rate = port, rate
        self._path = path + ("&" if "?" in path else "?")
        self._chance = random.Random(seed)
        self._idempotent_share = idempotent_share
        self._leave_share, self._leave_s = leave_share, leave_s
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._stopping = threading.Event()
        self._answers = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="load", daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        self.goes_on(20)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> History:
        """Send no more, and return when everything has ended."""
        self._stopping.set()
        self._thread.join(PATIENCE_S + 10)
        return self.history

    def goes_on(self, answers: int) -> None:
        """Wait until so many more have been delivered."""
        wanted = self.history.count("delivered") + answers
        with self._answers:
            there = self._answers.wait_for(lambda: self.history.count("delivered") >= wanted, timeout=30)
        assert there, f"{answers} more answers did not come within 30 s"

    def now(self) -> float:
        """In the time of the exchanges."""
        return self._loop.time()

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._run())
        finally:
            self._loop.close()

    async def _run(self) -> None:
        requests: set[asyncio.Task[None]] = set()
        due = self._loop.time()
        while not self._stopping.is_set():
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            exchange = Exchange(id=f"r{next(_ids)}", idempotent=self._chance.random() < self._idempotent_share, due=due)
            self.history.exchanges.append(exchange)
            task = asyncio.ensure_future(self._ask(exchange, fresh=self._chance.random() < FRESH_SHARE))
            requests.add(task)
            task.add_done_callback(requests.discard)
            due += self._chance.expovariate(self._rate)
        end = self._loop.time() + PATIENCE_S
        while self._loop.time() < end and not all(exchange.outcome for exchange in self.history.exchanges):
            await asyncio.sleep(0.02)
        for exchange in self.history.exchanges:
            if not exchange.outcome:
                self.ended(exchange, "timeout")
        for connection in list(self._open):
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.gather(*requests)

    async def _ask(self, exchange: Exchange, *, fresh: bool) -> None:
        connection = None if fresh else self._take()
        if connection is None:
            try:
                _, connection = await self._loop.create_connection(lambda: Connection(self), "127.0.0.1", self._port)
            except OSError:
                self.ended(exchange, "unconnected")
                return
            self._open.add(connection)
            connection.fresh = fresh
        method = b"GET" if exchange.idempotent else b"POST"
        target = f"{self._path}id={exchange.id}".encode()
        connection.send(exchange, method + b" " + target + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        if self._chance.random() < self._leave_share:
            await asyncio.sleep(self._chance.random() * self._leave_s)
            if connection.exchange is exchange and connection.transport is not None:
                connection.exchange = None
                self.ended(exchange, "left")
                connection.transport.abort()

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                return connection
        return None

    # From connections

    def answered(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        exchange.status = int(head[9:12])
        exchange.has_retry_after = _RETRY.search(head) is not None
        backend = _BACKEND.search(head)
        exchange.backend = backend[1].decode() if backend else ""
        outcome = {200: "delivered", 502: "failed", 504: "failed", 503: "refused"}.get(exchange.status, "wrong")
        if outcome == "delivered":
            told, pid, version = body.decode().split()
            exchange.pid, exchange.version = int(pid), int(version)
            outcome = "delivered" if told == exchange.id else "wrong"
        self.ended(exchange, outcome)

    def ended(self, exchange: Exchange, outcome: str) -> None:
        exchange.outcome, exchange.ended = outcome, self._loop.time()
        with self._answers:
            self._answers.notify_all()

    def free(self, connection: Connection, *, closes: bool) -> None:
        if connection.transport is None:
            return
        if closes or connection.fresh or len(self._idle) >= POOL or self._stopping.is_set():
            connection.transport.close()
        else:
            self._idle.append(connection)

    def drop(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
