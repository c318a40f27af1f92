"""What comes on a connection, on its way to the parser: cut where heads and bodies end, and within limits.

Mixed into the server's protocol. The parser decides what a request means; where it ends, both must see in the same
place. An offer of another protocol is not taken up: what follows is the body of the request that made it, although
the parser would leave that to others.
"""

from __future__ import annotations

from typing import Any, NoReturn

import httptools

from pointsman.ingress.framing import HEAD_END, BadFraming, Chunks, is_chunked, length_of, with_path

MAX_REQUEST_LINE = 8190
SURE_URL = 8000
"""The target of a request line that is short enough, whatever its method."""
MAX_HEADER_FIELD = 8190
MAX_HEADERS = 100
MAX_HEAD = 32 * 1024
MAX_RAW_HEAD = MAX_REQUEST_LINE + MAX_HEAD + 8 * MAX_HEADERS
"""With colons, blanks and line ends. A field that does not end is not collected for longer."""
SMALL = 4096
"""Bytes that are copied sooner than looked at in place."""

_NOTED = frozenset((b"content-length", b"transfer-encoding", b"expect", b"host"))


class Refused(Exception):
    """Raised inside the parser's callbacks to stop it."""


class Reading:
    """See the module. The callbacks are the parser's; what is above them belongs to uvicorn's protocol."""

    parser: Any
    pipeline: Any
    flow: Any
    transport: Any
    url: bytes
    headers: list[tuple[bytes, bytes]]
    expect_100_continue: bool

    _head_size = 0
    """Bytes of the head that is being received; 0 while none is."""
    _head_end = b""
    """Its last bytes, where it was cut."""
    _field_bytes = 0
    _fields = 0
    _length: int | None = None
    _chunked = False
    _has_host = False
    """Of the head that is being received."""
    _left = 0
    _chunks: Chunks | None = None
    """Of the body that is being received: bytes that are still to come, or its chunks."""
    _open = False
    """Whether the parser, too, sees a body there."""
    _body_parser: Any = None
    _ahead = b""
    """What came behind a request that waits for its turn; nobody has looked at it."""
    _status = 400
    """What is answered when the parser stops."""

    def _read(self, data: bytes) -> None:
        """Give the parser what has come.

        Raises:
            BadFraming, httptools.HttpParserError: it is no request, or over a limit.
        """
        position, size = 0, len(data)
        while position < size:
            if self._left:
                end = min(size, position + self._left)
                self._left -= end - position
            elif self._chunks is not None:
                end = self._chunks.follow(data, position)
                if self._chunks.over:
                    self._chunks = None
            elif self.pipeline:
                self._ahead = data[position:]
                self.flow.pause_reading()
                return
            elif position and self.transport.is_closing():
                return  # the answer to the one before has closed the connection
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
                # It has met the end of a head that offers another protocol, and leaves what follows to that one.
                if self._open:
                    self._body_parser = self._parser_of_the_body()
            if self._left or self._chunks is not None:
                if not self._open:
                    raise BadFraming("the parser sees the end of a request before the end of its body")
            elif self._open:
                raise BadFraming("the parser sees no end of a request at the end of its body")
            elif self._body_parser is not None:
                self._body_parser = None
            position = end

    def _end_of_cut_head(self, data: bytes, start: int) -> int:
        """Behind the next empty line, or the end of ``data``. The parser knows no other end of a head."""
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
        """One that has seen a head without the offer."""
        framing = b"transfer-encoding: chunked" if self._chunks is not None else b"content-length: %d" % self._left
        parser = httptools.HttpRequestParser(_BodyOnly(self))
        parser.feed_data(b"POST / HTTP/1.1\r\n%s\r\n\r\n" % framing)
        return parser

    def _stop(self, status: int) -> NoReturn:
        self._status = status
        raise Refused

    # --- what the parser says -----------------------------------------------------------------------------------------

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > SURE_URL and len(self.parser.get_method() + self.url) > MAX_REQUEST_LINE - len("  HTTP/1.1"):
            self._stop(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        size = len(name) + len(value)
        self._field_bytes += size
        self._fields += 1
        if size > MAX_HEADER_FIELD or self._fields > MAX_HEADERS or self._field_bytes > MAX_HEAD:
            self._stop(431)
        if not self._head_size:
            return  # a trailer: what came behind the body must not be found among the headers
        name = name.lower()
        if name in _NOTED:
            self._note(name, value)
        self.headers.append((name, value))

    def _note(self, name: bytes, value: bytes) -> None:
        """A header that says how the body comes, or for whom the request is."""
        if name == b"host":
            if self._has_host:
                self._stop(400)  # what stands before us may have gone by the other one
            self._has_host = True
        elif name == b"expect":
            self.expect_100_continue = self.expect_100_continue or value.lower() == b"100-continue"
        elif name == b"transfer-encoding" and not is_chunked(value):
            self._stop(501)
        elif self._chunked or self._length is not None:
            self._stop(400)  # twice, or both
        elif name == b"content-length":
            self._length = length_of(value)
        else:
            self._chunked = True

    def on_headers_complete(self) -> None:
        """A head has ended. What follows is its body, if it has one."""
        if not self._head_size:
            self._stop(400)  # in the middle of what we take for a body
        if not self.url.startswith(b"/"):
            if self.parser.get_method() == b"CONNECT":
                self._stop(501)
            self.url = with_path(self.url)
        self._check()
        super().on_headers_complete()  # type: ignore[misc]  # of uvicorn
        self._head_size = 0
        self._open = True
        if self._chunked:
            self._chunked = False
            self._chunks = Chunks()
        elif self._length is not None:
            self._left, self._length = self._length, None

    def _check(self) -> None:
        """Is this a request that we serve?"""
        if self.parser.get_method() == b"CONNECT":
            self._stop(501)
        version = self.parser.get_http_version()
        if version != "1.1" and (version != "1.0" or self._chunked):
            self._stop(400 if version == "1.0" else 505)
        if not self._has_host and version == "1.1":
            self._stop(400)
        self._has_host = False

    def _is_whole(self) -> bool:
        """The parser says that a request has ended; it may have taken an offer of another protocol for the end."""
        if self._left or self._chunks is not None:
            return False
        self._open = False
        self._field_bytes = self._fields = 0
        return True


class _BodyOnly:
    """What is told by a parser that was shown a head in place of the request's own."""

    def __init__(self, protocol: Any) -> None:
        self.on_body = protocol.on_body
        self.on_message_complete = protocol.on_message_complete
