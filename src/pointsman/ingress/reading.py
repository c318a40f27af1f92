"""Passes received bytes to the parser in pieces that end where a head or a body ends, and enforces limits on heads.

A mixin of the server's protocol. The parser decides what a request means, but it and this module must agree on where a
request ends: where they differ, the connection is closed (decision 0037). ``Upgrade`` is not supported: what follows
such a head is that request's body, although the parser would hand it to another protocol.
"""

from __future__ import annotations

from typing import Any, NoReturn

import httptools

from pointsman.ingress.framing import HEAD_END, BadFraming, Chunks, is_chunked, length_of, with_path

MAX_REQUEST_LINE = 8190
SURE_URL = 8000
"""Targets up to this many bytes are within ``MAX_REQUEST_LINE`` with any method."""
MAX_HEADER_FIELD = 8190
MAX_HEADERS = 100
MAX_HEAD = 32 * 1024
MAX_RAW_HEAD = MAX_REQUEST_LINE + MAX_HEAD + 8 * MAX_HEADERS
"""Most bytes of a head as received, colons, blanks and line ends included. Bounds a field that never ends, too."""
SMALL = 4096
"""Pieces below this many bytes are copied; larger ones are passed as a memoryview."""

_FRAMING = frozenset((b"content-length", b"transfer-encoding", b"expect", b"host"))


class Rejected(Exception):
    """Raised inside the parser's callbacks to stop it. ``_status`` is the answer."""


class Reading:
    """Mixin of the protocol: receives bytes, and overrides the parser's callbacks."""

    # Attributes of uvicorn's protocol
    parser: Any
    pipeline: Any
    flow: Any
    transport: Any
    url: bytes
    headers: list[tuple[bytes, bytes]]
    expect_100_continue: bool

    # The head that is being received
    _head_size = 0  # bytes so far; 0 while no head is being received
    _head_end = b""  # its last bytes, since the end of a head may be split between two reads
    _field_bytes = 0
    _fields = 0
    _length: int | None = None
    _chunked = False
    _has_host = False

    # The body that is being received: bytes still to come, or its chunks
    _body_left = 0
    _chunks: Chunks | None = None
    _body_open = False  # the parser's view: it is inside a request
    _body_parser: Any = None  # replaces the parser for the body of a request with an ``Upgrade``

    _unparsed = b""  # bytes behind a pipelined request that waits for its turn
    _status = 400  # the answer when parsing fails

    def _read(self, data: bytes) -> None:
        """Pass received bytes to the parser.

        Raises:
            BadFraming, httptools.HttpParserError: the bytes are not a request, or a limit is exceeded.
        """
        position, size = 0, len(data)
        while position < size:
            if self._body_left:
                end = min(size, position + self._body_left)
                self._body_left -= end - position
            elif self._chunks is not None:
                end = self._chunks.follow(data, position)
                if self._chunks.over:
                    self._chunks = None
            elif self.pipeline:
                self._unparsed = data[position:]
                self.flow.pause_reading()
                return
            elif position and self.transport.is_closing():
                return  # the answer to the previous request has closed the connection
            else:
                end = data.find(HEAD_END, position) + len(HEAD_END)
                if self._head_end or end < len(HEAD_END):
                    end = self._end_of_cut_head(data, position)
                self._head_size += end - position
                if self._head_size > MAX_RAW_HEAD:
                    self._status = 431
                    raise BadFraming("the head does not end")
            piece = data[position:end] if end - position < SMALL else memoryview(data)[position:end]
            try:
                (self._body_parser or self.parser).feed_data(piece)
            except httptools.HttpParserUpgrade:
                # Raised at the end of a head with an `Upgrade`: this parser takes no more bytes of the request.
                if self._body_open:
                    self._body_parser = self._parser_of_the_body()
            if self._body_left or self._chunks is not None:
                if not self._body_open:
                    raise BadFraming("the parser sees the end of a request before the end of its body")
            elif self._body_open:
                raise BadFraming("the parser sees no end of a request at the end of its body")
            elif self._body_parser is not None:
                self._body_parser = None
            position = end

    def _end_of_cut_head(self, data: bytes, start: int) -> int:
        """Position behind the next empty line, which may have begun in an earlier read; ``len(data)`` if there is
        none. An empty line is the only end of a head that the parser knows."""
        before = self._head_end
        found = (before + data[start : start + 3]).find(HEAD_END) if before else -1
        if found >= 0:
            end = start + found + len(HEAD_END) - len(before)
        else:
            found = data.find(HEAD_END, start)
            end = found + len(HEAD_END) if found >= 0 else len(data)
        self._head_end = b"" if found >= 0 else (before + data[max(start, end - 3) : end])[-3:]
        return end

    def _parser_of_the_body(self) -> Any:
        """A parser that has read a head of the same framing without the ``Upgrade``."""
        framing = b"transfer-encoding: chunked" if self._chunks is not None else b"content-length: %d" % self._body_left
        parser = httptools.HttpRequestParser(_BodyOnly(self))
        parser.feed_data(b"POST / HTTP/1.1\r\n%s\r\n\r\n" % framing)
        return parser

    def _reject(self, status: int) -> NoReturn:
        self._status = status
        raise Rejected

    # --- callbacks of the parser --------------------------------------------------------------------------------------

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > SURE_URL and len(self.parser.get_method() + self.url) > MAX_REQUEST_LINE - len("  HTTP/1.1"):
            self._reject(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        size = len(name) + len(value)
        self._field_bytes += size
        self._fields += 1
        if size > MAX_HEADER_FIELD or self._fields > MAX_HEADERS or self._field_bytes > MAX_HEAD:
            self._reject(431)
        if not self._head_size:
            return  # a trailer, which must not be taken for a header
        name = name.lower()
        if name in _FRAMING:
            self._check_framing(name, value)
        self.headers.append((name, value))

    def _check_framing(self, name: bytes, value: bytes) -> None:
        """Check and keep a header that decides the body's framing, or the host."""
        if name == b"host":
            if self._has_host:
                self._reject(400)  # a proxy in front may have routed by the other one
            self._has_host = True
        elif name == b"expect":
            self.expect_100_continue = self.expect_100_continue or value.lower() == b"100-continue"
        elif name == b"transfer-encoding" and not is_chunked(value):
            self._reject(501)
        elif self._chunked or self._length is not None:
            self._reject(400)  # given twice, or together: proxies differ in which one counts
        elif name == b"content-length":
            self._length = length_of(value)
        else:
            self._chunked = True

    def on_headers_complete(self) -> None:
        """Check the head, and begin its body if it has one."""
        if not self._head_size:
            self._reject(400)  # the parser sees a head where this module sees a body
        if not self.url.startswith(b"/"):
            if self.parser.get_method() == b"CONNECT":
                self._reject(501)
            self.url = with_path(self.url)
        self._check_head()
        super().on_headers_complete()  # type: ignore[misc]  # uvicorn's
        self._head_size = 0
        self._body_open = True
        if self._chunked:
            self._chunked = False
            self._chunks = Chunks()
        elif self._length is not None:
            self._body_left, self._length = self._length, None

    def _check_head(self) -> None:
        """Reject methods and versions of HTTP that are not served, and a head of HTTP/1.1 without a host."""
        if self.parser.get_method() == b"CONNECT":
            self._reject(501)
        version = self.parser.get_http_version()
        if version != "1.1" and (version != "1.0" or self._chunked):
            self._reject(400 if version == "1.0" else 505)
        if not self._has_host and version == "1.1":
            self._reject(400)
        self._has_host = False

    def _is_whole(self) -> bool:
        """True if the request has ended. The parser says so too early after a head with an ``Upgrade``."""
        if self._body_left or self._chunks is not None:
            return False
        self._body_open = False
        self._field_bytes = self._fields = 0
        return True


class _BodyOnly:
    """Callbacks of a ``_body_parser``: none for the head, which is not the request's own."""

    def __init__(self, protocol: Any) -> None:
        self.on_body = protocol.on_body
        self.on_message_complete = protocol.on_message_complete
