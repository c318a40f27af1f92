"""Readers of streamed answers: each asks again as soon as its stream has ended, and what arrives is counted.

They run in a process of their own (``streamreader.py PORT PATH READERS SECONDS BYTES`` prints :class:`Streams` as
JSON), in one loop over plain sockets: the same for every server, and cheap beside it.
"""

from __future__ import annotations

import gc
import selectors
import socket
import subprocess
import sys
import time
from statistics import median

import msgspec
from openloop import is_ok, request_to

WARM_UP_S = 1.0
GIVE_UP_S = 30.0
LINE_END = b"\r\n"


class Streams(msgspec.Struct, frozen=True):
    """What arrived within the time measured.

    Attributes:
        chunks: pieces of the HTTP answers' chunked encoding.
        streams: that ended within the time; ``broken`` ones were too short or too long, or no 200.
        first_p50_ms: from a request to the first bytes of its answer's body.
    """

    seconds: float
    chunks: int
    bytes: int
    streams: int
    broken: int
    first_p50_ms: float


class Reader:
    """One keep-alive connection."""

    def __init__(self, port: int, request: bytes, expected: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=GIVE_UP_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request
        self._expected = expected
        self._rest = b""
        self._in_body = False
        self._got = 0
        self._asked = 0.0
        self.first: list[float] = []
        self.ended = self.broken = 0

    def ask(self) -> None:
        self._in_body, self._got = False, 0
        self._asked = time.perf_counter()
        self.socket.sendall(self._request)

    def feed(self, data: bytes) -> tuple[int, int, bool]:
        """How many chunks and bytes came, and whether the answer is over."""
        data = self._rest + data
        at = chunks = size_of_all = 0
        if not self._in_body:
            end = data.find(LINE_END + LINE_END)
            if end < 0:
                self._rest = data
                return 0, 0, False
            head = data[:end]
            if not is_ok(head) or b"chunked" not in head.lower():
                self.broken += 1
                return 0, 0, True
            self._in_body, at = True, end + 4
        while (line := data.find(LINE_END, at)) >= 0:
            size = int(data[at:line], 16)
            after = line + 4 + size
            if len(data) < after:
                break
            at = after
            if not size:
                self._rest = data[at:]
                self._end()
                return chunks, size_of_all, True
            if not self._got:
                self.first.append(time.perf_counter() - self._asked)
            self._got += size
            size_of_all += size
            chunks += 1
        self._rest = data[at:]
        return chunks, size_of_all, False

    def _end(self) -> None:
        self.ended += 1
        self.broken += self._got != self._expected


def read(port: int, path: str, *, readers: int, seconds: float, expected: int) -> Streams:
    """Read until the time is over; what has begun then is left unread."""
    request = request_to(path)
    everybody = [Reader(port, request, expected) for _ in range(readers)]
    selector = selectors.DefaultSelector()
    for reader in everybody:
        selector.register(reader.socket, selectors.EVENT_READ, reader)
    gc.freeze()
    gc.disable()
    chunks = size = streams = 0
    began = time.perf_counter() + WARM_UP_S
    end = began + seconds
    for reader in everybody:
        reader.ask()
    left = set(everybody)
    while left and time.perf_counter() < end:
        for key, _ in selector.select(0.1):
            reader = key.data
            data = reader.socket.recv(262144)
            now = time.perf_counter()
            more_chunks, more_bytes, over = reader.feed(data) if data else (0, 0, True)
            if not data:
                reader.broken += 1
            if began <= now < end:
                chunks += more_chunks
                size += more_bytes
                streams += over
            if over and not reader.broken:
                reader.ask()
            elif over:
                selector.unregister(reader.socket)
                reader.socket.close()
                left.discard(reader)
    broken = sum(reader.broken for reader in everybody)
    first = [seconds for reader in everybody for seconds in reader.first]
    return Streams(seconds, chunks, size, streams, broken, 1000 * median(first) if first else 0.0)


def measure(port: int, path: str, *, readers: int, seconds: float, expected: int) -> Streams:
    """Have a server on this machine read from.

    Raises:
        subprocess.CalledProcessError: the reader failed, for instance because it was refused a connection.
    """
    command = [sys.executable, __file__, str(port), path, str(readers), str(seconds), str(expected)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=seconds + WARM_UP_S + GIVE_UP_S)
    return msgspec.json.decode(done.stdout, type=Streams)


def main(port: str, path: str, readers: str, seconds: str, expected: str) -> None:
    found = read(int(port), path, readers=int(readers), seconds=float(seconds), expected=int(expected))
    sys.stdout.buffer.write(msgspec.json.encode(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
