"""What comes on a connection, on its way to the parser: cut where heads and bodies end, and within limits.

The parser decides what a request means; where it ends, both must see in the same place. An offer of another protocol
is not taken up: what follows is the body of the request that made it, although the parser would leave that to others.

Clients mostly send the same head again and again. One that comes for the third time in a row, byte for byte, is not
parsed: the parser, which begins anew with each request, would say the same of it. That is a third of what a small
request costs before it is routed. The parser sees neither such a head nor its body, and so stays where it was.
"""

from __future__ import annotations

import itertools
from typing import Any, NoReturn

import httptools

from pointsman.ingress.framing import CRLF, HEAD_END, BadFraming, Chunks, is_chunked, length_of, with_path
from pointsman.ingress.states import BODY, HEAD

MAX_REQUEST_LINE = 8190
SURE_URL = 8000
"""The target of a request line that is short enough, whatever its method."""
MAX_HEADER_FIELD = 8190
MAX_HEADERS = 100
MAX_HEAD = 32 * 1024
MAX_RAW_HEAD = MAX_REQUEST_LINE + MAX_HEAD + 8 * MAX_HEADERS
"""With colons, blanks and line ends. A field that does not end is not collected for longer."""
SURE_HEAD = MAX_HEADER_FIELD
"""Bytes of a head none of whose fields can be too long, whatever they are."""
MAX_KNOWN_HEAD = 1024
"""Bytes of a head that is remembered."""
KEY = 24
"""Bytes of the key of a WebSocket's handshake, in base64."""
SMALL = 4096
"""Bytes that are copied sooner than looked at in place."""

Headers = list[tuple[bytes, bytes]]
_VERSION = len("HTTP/1.1")
_PLAIN = bytes(code for code in range(0x21, 0x7F) if code != ord("#"))
_FORGED = frozenset(b"x%sserve%skey%sname" % marks for marks in itertools.product((b"-", b"_"), repeat=3))
"""A header that only we set, by all names that programs may take for it: it says whose API key a request has."""
_NOTED = frozenset((b"content-length", b"transfer-encoding", b"expect", b"host", b"upgrade")) | _FORGED


class Rejected(Exception):
    """Raised inside the parser's callbacks to stop it."""


class Reader:
    """Reads the requests of one connection, one after the other.

    Args:
        client: address of the client, for the scopes.

    Attributes:
        state: HEAD or BODY of :mod:`ingress.states`.
        head_size: bytes of the head that is being received; 0 while none is.
        scope: of a request whose head has ended: the part of an ASGI scope that is read of every request. Whoever has
            called :meth:`read` takes it, and sets None.
        keep_alive, expects_continue, length, chunked: of the same request; ``length`` is 0 where nothing is said.
        is_handshake: whether the same request asks for a WebSocket.
        pieces: what has come of its body and was not taken.
        status: what is answered when :meth:`read` has raised.
    """

    __slots__ = (
        "_body_parser", "_chunks", "_client", "_field_bytes", "_fields", "_head_end", "_headers", "_is_parsed",
        "_known", "_last", "_left", "_line", "_parser", "_url", "chunked", "expects_continue", "head_size",
        "is_handshake", "keep_alive", "length", "pieces", "scope", "state", "status",
    )  # fmt: skip

    def __init__(self, client: tuple[str, int] | None) -> None:
        self._client = client
        self._parser: Any = httptools.HttpRequestParser(self)
        self._body_parser: Any = None
        self._url = b""
        self._last = b""  # the last head, unless it came in pieces or was not plain
        self._known: dict[str, Any] | None = None  # its scope, if it has come twice
        self._is_parsed = True  # the body that is being received: false behind a head that was known
        self._headers: Headers = []
        self._line = b""  # the beginning of a head that was cut, up to its first line
        self._head_end = b""  # the last bytes of a head that was cut
        self._left = 0  # of the body that is being received: bytes that are still to come, or its chunks
        self._chunks: Chunks | None = None
        self._fields = self._field_bytes = 0  # of a chunked request, whose trailers count with its headers
        self.state = HEAD
        self.head_size = 0
        self.scope: dict[str, Any] | None = None
        self.keep_alive = True
        self.expects_continue = self.chunked = self.is_handshake = False
        self.length = 0
        self.pieces: list[bytes] = []
        self.status = 400

    def read(self, data: bytes, start: int) -> int:
        """Go on, at most to the end of one request: to the end of its head, or of its body where that is there, too.

        Args:
            data: a piece of what came on the connection.
            start: where in it to go on.

        Returns:
            Where in ``data`` to go on the next time.

        Raises:
            BadFraming, httptools.HttpParserError: it is no request, or over a limit. There is no next time.
        """
        if self.state == BODY:
            return self._read_body(data, start)
        end = data.find(HEAD_END, start) + len(HEAD_END)
        if self._head_end or end < len(HEAD_END):
            end = self._end_of_cut_head(data, start)
        head = data[start:end]
        comes_again = head == self._last
        if comes_again and self._known is not None:
            return self._read_known(self._known, data, end)
        self._last, self._known = b"", None  # so a head in pieces, of which one is like the last head, is parsed
        is_whole = is_plain = not self.head_size
        self.head_size += end - start
        if self.head_size > MAX_RAW_HEAD:
            self.status = 431
            raise BadFraming("the head does not end")
        try:
            self._parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            # It has met the end of a head that offers another protocol, and leaves what follows to that one.
            is_plain = False
            if self.state == BODY:
                self._body_parser = self._parser_of_the_body()
        if self.scope is not None:
            if not (is_whole and head.startswith(b"HTTP/", head.find(CRLF) - _VERSION)):
                self._check_protocol(head)
            if is_plain and len(head) <= MAX_KNOWN_HEAD:
                self._last = head
                if comes_again:
                    self._remember(self.scope)
        if self.state == BODY:
            if 0 < self._left <= len(data) - end:
                return self._read_body(data, end)
            if not self._left and self._chunks is None:
                raise BadFraming("the parser sees no end of a request at the end of its head")
        elif self._left or self._chunks is not None:
            raise BadFraming("the parser sees the end of a request before the end of its body")
        elif self.head_size:
            if CRLF not in self._line:
                self._line = (self._line + head).lstrip(CRLF)
            if self.head_size > SURE_HEAD:
                self._check_fields(self._headers)
        return end

    def _remember(self, scope: dict[str, Any]) -> None:
        """Keep what the last head means. That is never handed out: apps and middlewares change what they are given."""
        if self.keep_alive and not self.chunked:
            self._known = {**scope, "headers": tuple(scope["headers"])}

    def _read_known(self, known: dict[str, Any], data: bytes, end: int) -> int:
        """The last head again. What was said of it but the scope is still here; the parser sees neither it nor its
        body."""
        self.scope = scope = known.copy()
        scope["headers"] = list(scope["headers"])
        body_end = end + self.length
        if body_end > len(data):
            self._left, self._is_parsed, self.state = self.length, False, BODY
            return end
        if self.length:
            self.pieces.append(data[end:body_end])
        return body_end

    def _read_body(self, data: bytes, start: int) -> int:
        size = len(data)
        if self._chunks is None:
            end = min(size, start + self._left)
            self._left -= end - start
        else:
            end = self._chunks.follow(data, start)
            if self._chunks.over:
                self._chunks = None
        if not self._is_parsed:
            self.pieces.append(data[start:end])
            if not self._left:
                self._is_parsed, self.state = True, HEAD
            return end
        piece = data[start:end] if end - start < SMALL else memoryview(data)[start:end]
        (self._body_parser or self._parser).feed_data(piece)
        if self._left or self._chunks is not None:
            if self.state != BODY:
                raise BadFraming("the parser sees the end of a request before the end of its body")
        elif self.state == BODY:
            raise BadFraming("the parser sees no end of a request at the end of its body")
        else:
            self._body_parser = None
        return end

    def take_body(self) -> bytes:
        """What has come of the body since the last time."""
        pieces, self.pieces = self.pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Nothing will be read any more. The parser and this hold each other, and would wait for the collector."""
        self._parser = self._body_parser = None

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
        self.status = status
        raise Rejected

    # --- what the parser says -----------------------------------------------------------------------------------------

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > SURE_URL:
            line = len(self._parser.get_method()) + len(self._url) + len("  HTTP/1.1")
            if line > MAX_REQUEST_LINE:
                self._stop(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        headers = self._headers
        if self.state == BODY:
            self._count_trailer(name, value)
            return
        headers.append((name.lower(), value))
        if len(headers) > MAX_HEADERS:
            self._stop(431)

    def on_headers_complete(self) -> None:
        """A head has ended. What follows is its body, if it has one."""
        if self.state == BODY:
            self._stop(400)  # in the middle of what we take for a body
        headers, self._headers = self._headers, []
        if self.head_size > SURE_HEAD:
            self._check_fields(headers)
        method = self._parser.get_method()
        if method == b"CONNECT":
            self._stop(501)
        version = self._parser.get_http_version()
        self._frame(headers, version)
        url, self._url = self._url, b""
        raw_path, query = split_target(url)
        self.keep_alive = version != "1.0" and self._parser.should_keep_alive()
        self.scope = {
            "http_version": version,
            "method": method.decode("ascii"),
            "raw_path": raw_path,
            "query_string": query,
            "headers": headers,
            "client": self._client,
        }
        self.head_size = 0
        self.state = BODY

    def on_body(self, body: bytes) -> None:
        self.pieces.append(body)

    def on_message_complete(self) -> None:
        """The parser says that a request has ended; it may have taken an offer of another protocol for the end."""
        if not self._left and self._chunks is None:
            self.state = HEAD

    # --- heads --------------------------------------------------------------------------------------------------------

    def _frame(self, headers: Headers, version: str) -> None:
        """Where the body will end, by the letter of what the head says. Is it a request that we serve?"""
        has_host = chunked = expects = upgrades = forged = False
        length: int | None = None
        for name, value in headers:
            if name not in _NOTED:
                continue
            if name == b"host":
                if has_host:
                    self._stop(400)  # what stands before us may have gone by the other one
                has_host = True
            elif name == b"content-length":
                if chunked or length is not None:
                    self._stop(400)  # twice, or both
                length = length_of(value)
            elif name == b"expect":
                expects = expects or value.lower() == b"100-continue"
            elif name == b"upgrade":
                upgrades = value.strip().lower() == b"websocket"
            elif name in _FORGED:
                forged = True
            else:
                if not is_chunked(value):
                    self._stop(501)
                if chunked or length is not None:
                    self._stop(400)
                chunked = True
        if version == "1.1":
            if not has_host:
                self._stop(400)
        elif version != "1.0" or chunked:
            self._stop(400 if version == "1.0" else 505)
        if forged:
            headers[:] = [header for header in headers if header[0] not in _FORGED]
        self.expects_continue = expects and version == "1.1"
        self.is_handshake = upgrades and not length and not chunked and self._asks_for_socket(headers, version)
        self.chunked = chunked
        self.length = self._left = length or 0
        if chunked:
            self._chunks = Chunks()
            self._fields, self._field_bytes = len(headers), sum(len(name) + len(value) for name, value in headers)

    def _check_protocol(self, head: bytes) -> None:
        """The parser takes requests of RTSP and of ICE, too, and does not say so."""
        line, self._line = (self._line + head).lstrip(CRLF).partition(CRLF)[0], b""
        if line[-_VERSION:][: len("HTTP/")] != b"HTTP/":
            self.scope, self.state = None, HEAD  # there is no request
            raise BadFraming("only HTTP is spoken")

    def _asks_for_socket(self, headers: Headers, version: str) -> bool:
        """Whether a request that names the protocol is a handshake; any other is a request like others."""
        named = any(name == b"sec-websocket-key" and len(value.strip()) == KEY for name, value in headers)
        tokens = [token.strip() for name, value in headers if name == b"connection" for token in value.split(b",")]
        asks = any(token.lower() == b"upgrade" for token in tokens)
        return named and asks and version == "1.1" and bool(self._parser.get_method() == b"GET")

    def _check_fields(self, headers: Headers) -> None:
        sizes = [len(name) + len(value) for name, value in headers]
        if sizes and (max(sizes) > MAX_HEADER_FIELD or sum(sizes) > MAX_HEAD):
            self.status = 431
            raise BadFraming("a field of the head is too long, or all of them are")

    def _count_trailer(self, name: bytes, value: bytes) -> None:
        """What comes behind the body is counted, and must not be found among the headers."""
        size = len(name) + len(value)
        self._fields += 1
        self._field_bytes += size
        if size > MAX_HEADER_FIELD or self._fields > MAX_HEADERS or self._field_bytes > MAX_HEAD:
            self._stop(431)


class _BodyOnly:
    """What is told by a parser that was shown a head in place of the request's own."""

    def __init__(self, reader: Reader) -> None:
        self.on_body = reader.on_body
        self.on_message_complete = reader.on_message_complete


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """Path and query of a request's target, in origin, absolute or asterisk form.

    Raises:
        httptools.HttpParserInvalidURLError: it is no target, or holds what is not ASCII.
    """
    if target[:1] == b"/" and not target.translate(None, _PLAIN):
        # Nearly all targets. They mean the same to the parser of URLs, which takes several times as long.
        path, _, query = target.partition(b"?")
        return path, query
    parsed: Any = httptools.parse_url(with_path(target))  # its declaration knows no None
    return parsed.path, parsed.query or b""
