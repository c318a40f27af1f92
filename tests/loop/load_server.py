"""A server whose every answer is known beforehand, on a thread of its own, for the client of ``pointsman load``."""

from __future__ import annotations

import re
import socket
import ssl
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, repeat

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nX-Serve-Backend: v%201\r\n\r\nok"
ANSWERS: dict[str, Iterable[bytes]] = {
    "/ok": (OK,),
    "/slices": tuple(OK[at : at + 5] for at in range(0, len(OK), 5)),
    "/chunked": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", b"0\r\n\r\n"),
    "/until-close": (b"HTTP/1.1 200 OK\r\n\r\nsome", b"thing", b"CLOSE"),
    "/close": (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", b"CLOSE"),
    "/early-hints": (b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + OK,),
    "/empty": (b"HTTP/1.1 204 No Content\r\n\r\n",),
    "/head": (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n",),
    "/moved": (b"HTTP/1.1 302 Found\r\nlocation: /ok\r\ncontent-length: 0\r\n\r\n",),
    "/busy": (b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n",),
    "/large": (b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n" + bytes(1_000_000),),
    "/half": (b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nha", b"CLOSE"),
    "/hangs-up": (b"CLOSE",),
    "/resets": (b"RESET",),
    "/garbage": (b"220 mail.example ESMTP\r\n\r\n", b"CLOSE"),
    "/too-much": (OK + OK.replace(b"200 OK", b"500 No"),),
    "/upgrades": (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",),
    "/endless": chain((b"HTTP/1.1 200 OK\r\n\r\n",), repeat(bytes(65536))),
    "/unread": (b"HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", b"CLOSE"),
    "/silent": (),
}
_REQUEST = re.compile(rb"[A-Z]+ (\S+) HTTP/1\.1\r\n(?:.*\r\n)*?\r\n")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class KnownServer:
    """Answers by path. ``requests`` are the bytes of each request it has read."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def end(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is closed already
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(one)
            thread = threading.Thread(target=self._serve, args=(one,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, one: socket.socket) -> None:
        try:
            if self._tls is not None:
                one = self._tls.wrap_socket(one, server_side=True)
            with one:
                received = b""
                while data := one.recv(65536):
                    received += data
                    while (cut := _whole(received)) is not None:
                        request, path, received = received[: cut[0]], cut[1], received[cut[0] :]
                        self.requests.append(request)
                        if not _answer(one, path):
                            return
        except OSError:
            pass  # the client has gone, as some tests want it

    def __repr__(self) -> str:
        return f"<server at {self.port}>"


def _whole(received: bytes) -> tuple[int, str] | None:
    """The end of the first request that has come whole, and its path."""
    head = _REQUEST.match(received)
    if head is None:
        return None
    length = _LENGTH.search(head[0])
    end = head.end() + (int(length[1]) if length and head[1] != b"/unread" else 0)
    return (end, head[1].decode()) if len(received) >= end else None


def _answer(one: socket.socket, path: str) -> bool:
    for piece in ANSWERS[path]:
        if piece == b"RESET":
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if piece in (b"RESET", b"CLOSE"):
            return False
        one.sendall(piece)
    return True


@contextmanager
def known_server(tls: ssl.SSLContext | None = None) -> Iterator[KnownServer]:
    server = KnownServer(tls)
    try:
        yield server
    finally:
        server.end()
