"""Load: ``wrk`` in a closed loop, sides that take turns under it, and clients that ``wrk`` cannot be.

The clients run in processes of their own (``load.py latency|mixed|overload|streams PORT PATH ...`` prints figures as
JSON), each in one loop over plain sockets, since they share the machine with the server.
"""

from __future__ import annotations

import gc
import mmap
import random
import re
import resource
import select
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from heapq import heappop, heappush
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec
from peers import Body, Figures, Server, cpu_s, family_of

RESULT = "RESULT "
NOTHING = Body(b"{}", "application/json")
SCRIPT = f"""
wrk.method, wrk.body, wrk.headers["Content-Type"] = "POST", io.open("FOLDER/body", "rb"):read("*a"), "KIND"

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('\\n{RESULT}[%d,%.6f,%.3f,%.3f,%d]\\n', summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
"""
COUNTED = """
local ffi = require("ffi")
ffi.cdef "int open(const char *path, int flags, ...); void *mmap(void *, size_t, int, int, int, long);"
local ready, at, sent = {}, 0, nil

function init(args)
  sent = ffi.cast("double *", ffi.C.mmap(nil, 8, 3, 1, ffi.C.open("FILE", 2), 0)) -- shared, to read and write
  for i = 1, 4096 do
    wrk.headers["HEADER"] = string.format("user-%06d", (i * 7919) % 1000000)
    ready[i] = wrk.format()
  end
end

function request()
  sent[0] = sent[0] + 1
  at = at % #ready + 1
  return ready[at]
end
"""
"""Counts requests where another process sees it, and gives each a header whose value changes, made beforehand."""
FILLER = "X-BENCH-OTHER-KEY"
"""A header as long as that of a shard key, which means nothing to any server."""
SETTLE_S, SLICE_S = 0.06, 0.3
RECEIVE_BYTES, GIVE_UP_S, WARM_UP_S = 262144, 20.0, 1.5
WORKERS, PROBES, NORMAL = 4, 50, 2.0
"""An answer is normal when it takes at most twice the median of 50 requests one by one before the load."""
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Load(msgspec.Struct, frozen=True, array_like=True):
    """What ``wrk`` counted. ``failed`` are answers of status 400 and up, socket errors, and timeouts of 5 s."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    failed: int

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def wrk_version() -> str:
    """ "" when it is not installed. ``wrk -v`` exits with 1."""
    if shutil.which("wrk") is None:
        return ""
    done = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False, timeout=10)
    return (done.stdout or done.stderr).partition("\n")[0].partition(" Copyright")[0].strip()


def wrk(port: int, path: str, *, connections: int, seconds: float, body: Body = NOTHING, scheme: str = "http") -> Load:
    """Load a server on this machine in a closed loop.

    Raises:
        RuntimeError: ``wrk`` failed, or printed no result.
    """
    whole_s = max(1, round(seconds))
    with wrk_command(SCRIPT, f"{scheme}://127.0.0.1:{port}{path}", connections, whole_s, body) as command:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=whole_s + 30)
        return _load_in(done.stdout + done.stderr)


@contextmanager
def wrk_command(script: str, url: str, connections: int, seconds: int, body: Body = NOTHING) -> Iterator[list[str]]:
    with tempfile.TemporaryDirectory(prefix="pointsman-bench-") as folder:
        file = Path(folder, "load.lua")
        file.write_text(script.replace("FOLDER", folder).replace("KIND", body.kind))
        Path(folder, "body").write_bytes(body.content)
        how = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "5s"]
        yield [*how, "--script", str(file), url]


def _load_in(output: str) -> Load:
    for line in output.splitlines():
        if line.startswith(RESULT):
            return msgspec.json.decode(line.removeprefix(RESULT), type=Load)
    raise RuntimeError(f"wrk failed:\n{output}")


class Turn:
    """One side of a comparison in turns: a ``wrk`` that stands still (SIGSTOP) while it is not its turn.

    The server's processor time is taken turn by turn, which tells sides of the same server apart.
    """

    def __init__(self, server: Server, path: str, header: str, connections: int) -> None:
        self._where = f"{server.scheme}://127.0.0.1:{server.port}{path}", connections
        self._header, _, self._value = (header or FILLER).partition(": ")
        self._pids = [member.pid for member in family_of(server.pid)]
        self.rates: list[float] = []
        self.cpu_us: list[float] = []

    def __enter__(self) -> Turn:
        self._stack = ExitStack()
        file = self._stack.enter_context(tempfile.NamedTemporaryFile())
        file.write(bytes(8))
        file.flush()
        self._sent = self._stack.enter_context(mmap.mmap(file.fileno(), 8))
        script = SCRIPT + COUNTED.replace("FILE", file.name).replace("HEADER", self._header)
        if self._value:
            script = script.replace('"user-%06d"', f'"{self._value}"')
        command = self._stack.enter_context(wrk_command(script, *self._where, 3600))
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        time.sleep(SLICE_S)
        self._process.send_signal(signal.SIGSTOP)
        return self

    def take(self) -> None:
        """One turn. Answers to requests of the turn before come in while it settles, and are not counted."""
        self._process.send_signal(signal.SIGCONT)
        time.sleep(SETTLE_S)
        began, sent, cpu = time.perf_counter(), self._count(), cpu_s(self._pids)
        time.sleep(SLICE_S)
        lasted, counted = time.perf_counter() - began, self._count() - sent
        self._process.send_signal(signal.SIGSTOP)
        self.rates.append(counted / lasted)
        self.cpu_us.append(1e6 * (cpu_s(self._pids) - cpu) / max(1.0, counted))

    def end(self) -> Load:
        """Let ``wrk`` print what it has counted in all."""
        self._process.send_signal(signal.SIGCONT)
        time.sleep(SETTLE_S)
        self._process.send_signal(signal.SIGINT)
        output, _ = self._process.communicate(timeout=30)
        return _load_in(output)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._stack.close()

    def _count(self) -> float:
        (count,) = struct.unpack("d", self._sent[:])
        return float(count)


def in_turns(sides: Sequence[Turn], *, seconds: float, seed: int) -> list[Figures]:
    """Load all sides in turn, a third of a second each, in another order each time; ``seconds`` for each side.

    On a machine whose speed changes from second to second, loads of some seconds one after the other say more about
    the machine than about what is compared. A figure of a side is its median ratio to the first side within a cycle,
    times the median of the first side: so the ratio of two figures is that of neighbours in time.
    """
    chance, order = random.Random(seed), list(sides)
    with ExitStack() as stack:
        for side in sides:
            stack.enter_context(side)
        for _ in range(max(1, round(seconds / SLICE_S))):
            chance.shuffle(order)
            for side in order:
                side.take()
        failed = [side.end().failed for side in sides]
    rates = [_beside(side.rates, sides[0].rates) for side in sides]
    times = [_beside(side.cpu_us, sides[0].cpu_us) for side in sides]
    named = zip(rates, times, failed, strict=True)
    return [{"rate": rate, "cpu_us": cpu_us, "failed": number} for rate, cpu_us, number in named]


def _beside(own: list[float], first: list[float]) -> float:
    ratios = [mine / base for mine, base in zip(own, first, strict=True) if base]
    return median(ratios) * median(first) if ratios else 0.0


def client(kind: str, port: int, path: str, *arguments: float) -> Figures:
    """The figures of a client in a process of its own.

    Raises:
        subprocess.CalledProcessError: it failed, for instance because it was refused a connection.
    """
    command = [sys.executable, __file__, kind, str(port), path, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=max(arguments) + 4 * GIVE_UP_S)
    return msgspec.json.decode(done.stdout, type=Figures)


def request_to(path: str, body: bytes = NOTHING.content) -> bytes:
    """The bytes of the POST that ``wrk`` sends too."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {NOTHING.kind}"]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


class Connection:
    """A keep-alive connection that has one request at a time. ``due`` is 0 while it has none."""

    def __init__(self, port: int, selector: selectors.EpollSelector) -> None:
        self._port, self._selector = port, selector
        self.open()

    def open(self) -> None:
        self._received, self.due, self.request = b"", 0.0, b""
        self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=GIVE_UP_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(self._socket, selectors.EVENT_READ, self)

    def reopen(self) -> None:
        self._selector.unregister(self._socket)
        self._socket.close()
        self.open()

    def send(self, request: bytes, due: float) -> None:
        if self._is_closed():
            self.reopen()
        self.due, self.request = due, request
        self._socket.sendall(request)

    def _is_closed(self) -> bool:
        """Servers close connections that have been idle for a while, and nobody may have looked at it since."""
        readable, _, _ = select.select([self._socket], [], [], 0)
        return bool(readable) and not self.receive()

    def receive(self) -> bytes:
        """What has come; empty when the server has closed."""
        try:
            return self._socket.recv(RECEIVE_BYTES)
        except ConnectionError:
            return b""

    def status(self) -> int | None:
        """Of the answer that has come; None while it has not all come, 0 when the server has closed."""
        data = self.receive()
        if not data:
            return 0
        self._received += data
        head, there, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head) if there else None
        if length is None or len(body) < int(length[1]):
            return None
        self._received = b""
        return int(head[9:12])


Arrivals = Iterator[tuple[float, bytes]]
"""Seconds until the next request is due, and its bytes; without an end."""


def poisson(rate: float, seed: float, request: bytes) -> Arrivals:
    chance = random.Random(int(seed))
    while True:
        yield chance.expovariate(rate), request


def evenly(rate: float, share: float, seed: float, few: bytes, most: bytes) -> Arrivals:
    """At fixed times, and a share of a random few among most."""
    chance = random.Random(int(seed))
    while True:
        yield 1 / rate, few if chance.random() < share else most


class Answer(NamedTuple):
    """``status`` is 0 for a request that got no answer."""

    due: float
    at: float
    status: int
    request: bytes = b""


class OpenLoop:
    """Arrivals at times of their own, whatever the server does: latency counts from when a request was due.

    A client that waits for one answer before it sends the next would look away just while the server is slow.

    Args:
        tick_s: the least time between two looks. 0 waits in microseconds, which needs more processor time.
        queued: a request that is due while all connections are busy waits for one. Otherwise it is not sent, as if its
            client had been unable to connect.
    """

    def __init__(self, port: int, connections: int, *, tick_s: float, queued: bool) -> None:
        self._selector = selectors.EpollSelector()
        self._tick_s, self._queued = tick_s, queued
        self._probe = Connection(port, self._selector)
        self._free = [Connection(port, self._selector) for _ in range(connections)]
        self._connections = connections
        self._waiting: deque[tuple[float, bytes]] = deque()
        self.answers: list[Answer] = []
        self.due = self.sent = 0

    def load(self, arrivals: Arrivals, seconds: float) -> tuple[float, float]:
        """Returns when the load began and ended."""
        now = time.perf_counter()
        began = now + 0.01
        gap, request = next(arrivals)
        due = began + gap
        while now < began + seconds:
            while due <= now:
                self.due += 1
                if self._free:
                    self._send(self._free.pop(), due, request)
                elif self._queued:
                    self._waiting.append((due, request))
                gap, request = next(arrivals)
                due += gap
            self._collect(max(self._tick_s, min(due, began + seconds) - now))
            now = time.perf_counter()
        return began, now

    def finish(self) -> None:
        """Wait for the last answers; what does not come counts as failed."""
        give_up_at = time.perf_counter() + GIVE_UP_S
        while len(self._free) < self._connections and time.perf_counter() < give_up_at:
            self._collect(0.1)
        lost = self._connections - len(self._free) + len(self._waiting)
        self.answers += [Answer(give_up_at, give_up_at, 0)] * lost

    def ask_once(self, request: bytes) -> float:
        """Seconds that one more request took; for ever when it was refused."""
        began = time.perf_counter()
        self._probe.send(request, began)
        while time.perf_counter() - began < GIVE_UP_S:
            status = self._collect(0.1)
            if status is not None:
                return time.perf_counter() - began if status == 200 else float("inf")
        return float("inf")

    def _send(self, connection: Connection, due: float, request: bytes) -> None:
        self.sent += 1
        connection.send(request, due)

    def _collect(self, wait_s: float) -> int | None:
        """Take the answers that are there. Returns the status of the probe's, if it is among them."""
        probed = None
        select.select([self._selector], [], [], max(0.0, wait_s))  # epoll itself waits in whole milliseconds
        for key, _ in self._selector.select(0):
            connection: Connection = key.data
            status, due = connection.status(), connection.due
            if status == 0:
                connection.reopen()
            if status is None or not due:  # an idle connection may be closed by the server
                continue
            connection.due = 0.0
            if connection is self._probe:
                probed = status
                continue
            self.answers.append(Answer(due, time.perf_counter(), status, connection.request))
            if self._waiting:
                self._send(connection, *self._waiting.popleft())
            else:
                self._free.append(connection)
        return probed


def latency(port: int, path: str, rate: float, seconds: float, seed: float) -> Figures:
    """At a rate that the server can do, after a warm-up. Two loads of the same seed have the same arrivals."""
    loop = OpenLoop(port, 64, tick_s=0.0, queued=True)
    return _after_warm_up(loop, poisson(rate, seed, request_to(path)), seconds)


def mixed(
    port: int, path: str, rate: float, share: float, long_s: float, short_s: float, seed: float, seconds: float
) -> Figures:
    """A share of long calls among short ones, at fixed times: how long the short ones took, and how long they would
    have taken with one queue before four workers that lose no time."""
    few, most = (request_to(path, b"%g" % takes_s) for takes_s in (long_s, short_s))
    loop = OpenLoop(port, 256, tick_s=0.0, queued=True)
    figures = _after_warm_up(loop, evenly(rate, share, seed, few, most), seconds, most)
    free, due, ideal = [0.0] * WORKERS, 0.0, list[Answer]()
    for gap, request in evenly(rate, share, seed, few, most):
        due += gap
        if due >= WARM_UP_S + seconds:
            break
        at = max(due, heappop(free)) + (short_s if request is most else long_s)
        heappush(free, at)
        ideal += [Answer(due, at, 200)] if due >= WARM_UP_S and request is most else []
    return figures | {f"ideal_{name}": value for name, value in _quantiles(ideal).items()}


def _after_warm_up(loop: OpenLoop, arrivals: Arrivals, seconds: float, counted: bytes = b"") -> Figures:
    began, _ = loop.load(arrivals, WARM_UP_S + seconds)
    loop.finish()
    answers = [one for one in loop.answers if one.due >= began + WARM_UP_S]
    figures = _quantiles([one for one in answers if not counted or one.request is counted])
    return figures | {"failed": sum(one.status != 200 for one in answers)}


def overload(port: int, path: str, rate: float, seconds: float, seed: float) -> Figures:
    """At a rate that the server cannot do; afterwards single requests tell when an answer is normal again."""
    loop, request = OpenLoop(port, 500, tick_s=0.001, queued=False), request_to(path)
    normal_s = median(loop.ask_once(request) for _ in range(PROBES))
    began, ended = loop.load(poisson(rate, seed, request), seconds)
    while loop.ask_once(request) > NORMAL * normal_s and time.perf_counter() - ended < GIVE_UP_S:
        pass
    recovered_s = time.perf_counter() - ended
    loop.finish()
    good = [one for one in loop.answers if one.status == 200 and one.at <= ended]
    return _quantiles(good) | {
        "good": len(good) / (ended - began),
        "due": loop.due / (ended - began),
        "sent": loop.sent / (ended - began),
        "recovered_s": recovered_s,
        "failed": sum(one.status not in (200, 503) for one in loop.answers),
    }


def _quantiles(answers: list[Answer]) -> Figures:
    taken = sorted(one.at - one.due for one in answers) or [0.0]
    figures = {f"p{q}": 1000 * taken[min(len(taken) - 1, len(taken) * q // 100)] for q in (50, 90, 95, 99)}
    return figures | {"worst": 1000 * taken[-1]}


def streams(port: int, path: str, readers: float, seconds: float, chunks: float) -> Figures:
    """Lines/s of the bodies, read by clients that ask again as soon as a stream has ended.

    A line is a chunk of the model, however chunks were framed. What has begun when the time is over is left unread.
    """
    selector, request, counted, failed = selectors.EpollSelector(), request_to(path), 0, 0
    so_far: dict[Connection, tuple[bytes, int]] = {}  # the last bytes of its answer, and its lines
    for _ in range(int(readers)):
        reader = Connection(port, selector)
        reader.send(request, time.perf_counter())
        so_far[reader] = (b"", 0)
    count_from = time.perf_counter() + WARM_UP_S
    while (now := time.perf_counter()) < count_from + seconds:
        for key, _ in selector.select(0.1):
            reader, data = key.data, key.data.receive()
            tail, lines = so_far[reader]
            failed += not tail and not data.startswith(b"HTTP/1.1 200 ")
            more = (tail[-1:] + data).count(b"x\n")
            counted += more if now >= count_from else 0
            tail, lines = (tail + data)[-5:], lines + more
            if tail == b"0\r\n\r\n" or not data:
                failed += lines != chunks
                if not data:
                    reader.reopen()
                reader.send(request, now)
                tail, lines = b"", 0
            so_far[reader] = (tail, lines)
    return {"chunks": counted / seconds, "failed": failed}


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2000)), hard))
    gc.disable()
    kinds: dict[str, Callable[..., Figures]]
    kinds = {"latency": latency, "mixed": mixed, "overload": overload, "streams": streams}
    figures = kinds[sys.argv[1]](int(sys.argv[2]), sys.argv[3], *map(float, sys.argv[4:]))
    sys.stdout.buffer.write(msgspec.json.encode(figures))
