"""More load than a server can take, at a fixed rate: what is answered meanwhile, and how soon all is well afterwards.

It runs in a process of its own (``overload.py PORT PATH RATE SECONDS SEED`` prints an :class:`Overload` as JSON), in
one loop over plain sockets, since it shares the machine with the server. It wakes once a millisecond, so requests leave
in small bursts. One that is due while all connections wait for an answer is not sent, as if its client had been unable
to connect: how many were sent is counted.
"""

from __future__ import annotations

import contextlib
import gc
import random
import re
import resource
import select
import socket
import subprocess
import sys
import time
from collections import Counter
from statistics import median

import msgspec
from openloop import quantile_ms, request_to

CONNECTIONS = 500
BEFORE = 50
"""Requests one after another before the load, to know what a normal answer is."""
NORMAL = 2.0
"""An answer is normal when it takes at most this many times the median of those."""
GIVE_UP_S = 20.0

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Overload(msgspec.Struct, frozen=True):
    """What became of a load.

    Attributes:
        offered, sent: requests that were due, and those for which a connection was free.
        answers: by status; ``0`` for connections that the server closed and requests without an answer.
        ok_per_s: answers of status 200 per second while the load lasted; ``each_second`` second by second.
        ok_p50_ms, ok_p99_ms: of those, from when they were sent.
        normal_ms: a normal answer before the load.
        first_ok_s: from the end of the load to the first answer of status 200 to a request that was sent after it.
        recovered_s: likewise to the first normal answer.
        tries: requests until then, one after another.
    """

    offered: int
    sent: int
    answers: dict[str, int]
    ok_per_s: float
    each_second: list[int]
    ok_p50_ms: float
    ok_p99_ms: float
    normal_ms: float
    first_ok_s: float
    recovered_s: float
    tries: int


class Connection:
    """A keep-alive connection that has one request at a time; a new one is made when the server has closed it."""

    def __init__(self, port: int, poll: select.epoll) -> None:
        self._port, self._poll = port, poll
        self._received = b""
        self.sent_at = 0.0
        self._open()

    def _open(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self._port), timeout=GIVE_UP_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._poll.register(self.socket.fileno(), select.EPOLLIN)

    def reopen(self) -> None:
        self.socket.close()
        self._received = b""
        self._open()

    def send(self, request: bytes, now: float) -> None:
        self.sent_at = now
        self.socket.send(request)

    def status(self) -> int | None:
        """Of the answer that has come; None while it has not all come, 0 when the server has closed."""
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            return 0
        if not data:
            return 0
        data = self._received + data
        end = data.find(b"\r\n\r\n")
        length = _LENGTH.search(data, 0, end + 2) if end >= 0 else None
        if length is None or len(data) < end + 4 + int(length[1]):
            self._received = data
            return None
        self._received = b""
        return int(data[9:12])


class Loader:
    """Keeps requests coming by the clock."""

    def __init__(self, port: int, path: str, *, rate: float, seconds: float, seed: int) -> None:
        self._poll = select.epoll()
        self._request = request_to(path)
        self._rate, self._seconds = rate, seconds
        self._chance = random.Random(seed)
        everybody = [Connection(port, self._poll) for _ in range(CONNECTIONS)]
        self._by_number = {connection.socket.fileno(): connection for connection in everybody}
        self._free = everybody
        self._probe = Connection(port, self._poll)
        self._answers: Counter[int] = Counter()
        self._ok_s: list[float] = []
        self._each_second = [0] * max(1, round(seconds))
        self._began = 0.0

    def run(self) -> Overload:
        normal_s = median(self._ask_once() for _ in range(BEFORE))
        gc.collect()
        gc.freeze()
        gc.disable()
        offered, sent = self._load()
        first_ok_s, recovered_s, tries = self._recover(NORMAL * normal_s)
        self._answers[0] += CONNECTIONS - len(self._free)
        taken = sorted(self._ok_s)
        return Overload(
            offered,
            sent,
            {str(status): count for status, count in sorted(self._answers.items()) if count},
            sum(self._each_second) / self._seconds,
            self._each_second,
            quantile_ms(taken, 0.5) if taken else 0.0,
            quantile_ms(taken, 0.99) if taken else 0.0,
            1000 * normal_s,
            first_ok_s,
            recovered_s,
            tries,
        )

    def _load(self) -> tuple[int, int]:
        offered = sent = 0
        chance, rate, free = self._chance.expovariate, self._rate, self._free
        self._began = due = time.perf_counter()
        end = self._began + self._seconds
        while (now := time.perf_counter()) < end:
            while due <= now:
                offered += 1
                if free:
                    sent += 1
                    free.pop().send(self._request, now)
                due += chance(rate)
            self._collect(min(due, end) - now)
        return offered, sent

    def _collect(self, wait_s: float) -> bool:
        """Take the answers that are there; whether the probe's connection has something."""
        probed = False
        for number, _ in self._poll.poll(max(0.0, wait_s)):
            connection = self._by_number.get(number)
            if connection is None:
                probed = True
                continue
            status = connection.status()
            if status is None:
                continue
            self._count(connection, status)
            if status == 0:
                del self._by_number[number]
                with contextlib.suppress(OSError):
                    self._poll.unregister(number)
                connection.reopen()
                self._by_number[connection.socket.fileno()] = connection
            self._free.append(connection)
        return probed

    def _count(self, connection: Connection, status: int) -> None:
        self._answers[status] += 1
        if status == 200:
            now = time.perf_counter()
            second = int(now - self._began)
            if second < len(self._each_second) and now - self._began < self._seconds:
                self._each_second[second] += 1
                self._ok_s.append(now - connection.sent_at)

    def _recover(self, limit_s: float) -> tuple[float, float, int]:
        ended = time.perf_counter()
        first_ok_s = GIVE_UP_S
        tries = 0
        while time.perf_counter() - ended < GIVE_UP_S:
            tries += 1
            taken_s = self._ask_once()
            if taken_s < GIVE_UP_S:
                first_ok_s = min(first_ok_s, time.perf_counter() - ended)
            if taken_s <= limit_s:
                break
        recovered_s = time.perf_counter() - ended
        while len(self._free) < CONNECTIONS and time.perf_counter() - ended < GIVE_UP_S:
            self._collect(0.1)
        return first_ok_s, recovered_s, tries

    def _ask_once(self) -> float:
        """Seconds that the probe's request took; for ever when it was refused."""
        began = time.perf_counter()
        self._probe.send(self._request, began)
        while time.perf_counter() - began < GIVE_UP_S:
            if self._collect(0.1):
                status = self._probe.status()
                if status is not None:
                    if status == 0:
                        self._probe.reopen()
                    return time.perf_counter() - began if status == 200 else float("inf")
        return float("inf")


def start(port: int, path: str, *, rate: float, seconds: float, seed: int) -> subprocess.Popen[bytes]:
    """Load a server on this machine; :func:`finish` waits for the end."""
    command = [sys.executable, __file__, str(port), path, str(rate), str(seconds), str(seed)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> Overload:
    """What was found.

    Raises:
        RuntimeError: the loader failed.
    """
    printed, _ = process.communicate(timeout=2 * GIVE_UP_S)
    if process.returncode:
        raise RuntimeError(f"{process.args!r} exited with {process.returncode}")
    return msgspec.json.decode(printed, type=Overload)


def main(port: str, path: str, rate: str, seconds: str, seed: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2 * CONNECTIONS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (2 * CONNECTIONS, hard))
    loader = Loader(int(port), path, rate=float(rate), seconds=float(seconds), seed=int(seed))
    sys.stdout.buffer.write(msgspec.json.encode(loader.run()))


if __name__ == "__main__":
    main(*sys.argv[1:])
