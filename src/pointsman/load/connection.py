"""One keep-alive connection with one request at a time, over a socket that never blocks."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
from typing import Any
from urllib.parse import unquote

import httptools

from pointsman.load.target import Place

BACKEND = b"x-serve-backend"
RECEIVE_BYTES = 262_144

REFUSED, RESET, CLOSED, UNREACHABLE, TLS, MALFORMED, TIMEOUT = (
    "refused", "reset", "closed", "unreachable", "tls", "malformed", "timeout",
)  # fmt: skip
"""Kinds of errors: the connection was refused; was reset; was closed before the answer was complete; could not be made;
TLS could not be agreed upon; the answer was no HTTP; it took too long."""

CONNECTING, SHAKING, READY = range(3)
_READ = (ssl.SSLWantReadError, BlockingIOError)


def kind_of(error: OSError) -> str:
    """The kind of an error of a socket."""
    if type(error) in (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
        return CLOSED
    if isinstance(error, ssl.SSLError):
        return TLS
    if isinstance(error, ConnectionRefusedError):
        return REFUSED
    if isinstance(error, (ConnectionResetError, BrokenPipeError)):
        return RESET
    return TIMEOUT if isinstance(error, TimeoutError) else UNREACHABLE


class Connection:
    """A connection, from its first step on.

    Attributes:
        due: when its request was due; only meaning something while ``busy``.
        busy: whether it has a request whose answer is not complete.
        wants_to_write: whether it waits until it can write.
        status, backend: of the answer that is complete.
        keeps: whether another request may follow.
    """

    __slots__ = (
        "_framed", "_headless", "_name", "_out", "_parser", "_socket", "_stage", "_tls",
        "backend", "busy", "complete", "due", "fd", "keeps", "status", "wants_to_write",
    )  # fmt: skip

    def __init__(self, place: Place, tls: ssl.SSLContext | None, name: str, *, headless: bool) -> None:
        self._tls, self._name, self._headless = tls, name, headless
        self._stage, self._framed = CONNECTING, False
        self._out: bytes | memoryview = b""
        self.busy = self.complete = False
        self.due, self.status, self.backend, self.keeps = 0.0, 0, "", True
        self.wants_to_write = True
        self._parser: Any = httptools.HttpResponseParser(self)
        self._socket: socket.socket = socket.socket(place.family, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.fd = self._socket.fileno()
        code = self._socket.connect_ex(place.address)
        if code not in (0, errno.EINPROGRESS):
            self.close()
            raise OSError(code, "")

    def close(self) -> None:
        self._socket.close()
        self.fd = -1
        self._parser = None  # it and this refer to each other

    def ask(self, request: bytes, due: float) -> None:
        """Send a request, as soon as that is possible.

        Raises:
            OSError: the connection is broken.
        """
        self.due, self.busy, self.complete = due, True, False
        self.status, self.backend, self._framed = 0, "", False
        if self._headless:
            self._parser = httptools.HttpResponseParser(self)
        self._out = request
        if self._stage == READY:
            self._write()

    def step(self) -> None:
        """Do what can be done now: connect, shake hands, write, read. After it ``complete`` says whether there is an
        answer.

        Raises:
            OSError: the connection is broken, or closed.
            httptools.HttpParserError: what came is no answer.
        """
        if self._stage == CONNECTING:
            code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, "")
            if self._tls is not None:
                self._socket = self._tls.wrap_socket(
                    self._socket, server_hostname=self._name, do_handshake_on_connect=False
                )
            self._stage = READY if self._tls is None else SHAKING
        if self._stage == SHAKING and not self._shake():
            return
        if self._out:
            try:
                self._write()
            except OSError:
                with contextlib.suppress(OSError):
                    self._read()  # a server may answer before it has read everything, and close
                self.keeps = False
                if self.complete:
                    return
                raise
        self._read()

    def _shake(self) -> bool:
        assert isinstance(self._socket, ssl.SSLSocket)
        self.wants_to_write = False
        try:
            self._socket.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLWantWriteError:
            self.wants_to_write = True
            return False
        self._stage = READY
        return True

    def _write(self) -> None:
        try:
            sent = self._socket.send(self._out)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            sent = 0
        self._out = memoryview(self._out)[sent:] if sent < len(self._out) else b""
        self.wants_to_write = bool(self._out)

    def _read(self) -> None:
        more = True
        while more:
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except _READ:
                return
            except ssl.SSLZeroReturnError:
                data = b""
            if not data:
                self._ended()
                return
            if not self.busy or self.complete:
                raise httptools.HttpParserError("bytes came that nobody had asked for")
            self._parser.feed_data(data)
            # Bytes may be left inside TLS, of which no selector knows
            more = isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def _ended(self) -> None:
        """The server has closed: that ends an answer of no other length, and else is an error."""
        if self.complete:
            self.keeps = False
        elif self.busy and self.status and not self._framed:
            self.complete, self.keeps = True, False
        else:
            raise ConnectionError(0, CLOSED)

    # From the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        length = len(name)
        if length == len(BACKEND):
            if name.lower() == BACKEND and not self.complete:
                self.backend = unquote(value.decode("latin-1"))
        elif (length == 14 and name.lower() == b"content-length") or (
            length == 17 and name.lower() == b"transfer-encoding"
        ):
            self._framed = True

    def on_headers_complete(self) -> None:
        if self.complete:
            self.keeps = False  # one answer was asked for
            return
        self.status = self._parser.get_status_code()
        self.keeps = self._parser.should_keep_alive()
        if self._headless and self.status >= 200:
            self.complete = True

    def on_message_complete(self) -> None:
        if self.status < 200:  # such as 103, before the answer
            self.status, self.backend, self._framed = 0, "", False
        else:
            self.complete = True
