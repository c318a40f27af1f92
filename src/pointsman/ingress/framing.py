"""Where the body of a request ends. Pure: bytes in, positions out.

The parser (httptools) decides what a request means. This module reads the same bytes for what the parser does not check
or report: the exact syntax of lengths, the size of chunk lines, and where a head or a body ends. A head and its body
are never given to the parser in one piece, so no body can be taken for a request, however the parser reads the head
(decision 0037).
"""

from __future__ import annotations

import re

HEAD_END = b"\r\n\r\n"
CRLF = b"\r\n"
MAX_EXTENSION = 256
"""Most bytes of a chunk's extension, the ``;`` included."""
MAX_SIZE_LINE = 64
"""Most bytes of a chunk-size line without its extension."""
MAX_TRAILERS = 32 * 1024
SMALL_CHUNKS = 1000
"""Bodies of fewer chunks than this may have chunks of any size."""
MIN_MEAN_CHUNK = 16
"""Least average payload of a chunk, in bytes, in a body of more chunks."""

_LENGTH = re.compile(rb"[0-9]{1,18}")
_SIZE_LINE = re.compile(rb"([0-9a-fA-F]{1,15})(;[^\r\n]*)?")
_WITHOUT_PATH = re.compile(rb"([a-zA-Z][a-zA-Z0-9+.-]*://[^/?#]+)(\?.*)?")
_LONGEST_LINE = MAX_SIZE_LINE + MAX_EXTENSION + len(CRLF)

_SIZE, _DATA, _DATA_END, _TRAILERS, _OVER = range(5)


class BadFraming(Exception):
    """The length or chunks of a body are not what the standard allows, or are over a limit."""


def length_of(value: bytes) -> int:
    """The value of a ``Content-Length``.

    Raises:
        BadFraming: it is not 1 to 18 digits.
    """
    if value.isdigit() and len(value) <= 18:  # ASCII only; nearly all are, and it takes a third of the time
        return int(value)
    digits = value.strip(b" \t")
    if not _LENGTH.fullmatch(digits):
        raise BadFraming("Content-Length must be 1 to 18 digits")
    return int(digits)


def is_chunked(value: bytes) -> bool:
    """True if the value of a ``Transfer-Encoding`` is ``chunked`` alone, in any case."""
    return value.strip(b" \t").lower() == b"chunked"


class Chunks:
    """Finds the end of one chunked body, trailers included, in pieces of any size."""

    __slots__ = ("_count", "_left", "_line", "_payload", "_state", "_trailers")

    def __init__(self) -> None:
        self._state = _SIZE
        self._line = b""  # the beginning of a line that has not ended yet
        self._left = 0
        self._count = self._payload = self._trailers = 0

    @property
    def over(self) -> bool:
        """Whether the body and its trailers have ended."""
        return self._state == _OVER

    def follow(self, data: bytes, start: int) -> int:
        """Process the next bytes of the body.

        Args:
            data: bytes received on the connection.
            start: position in ``data`` where the body continues.

        Returns:
            Position in ``data`` behind the body's end; ``len(data)`` if the body has not ended.

        Raises:
            BadFraming: the bytes are not a chunked body, or a limit is exceeded.
        """
        position, end = start, len(data)
        while position < end and self._state != _OVER:
            if self._state == _DATA:
                taken = min(self._left, end - position)
                position += taken
                self._left -= taken
                if not self._left:
                    self._state = _DATA_END
            else:
                position = self._follow_line(data, position)
        return position

    def _follow_line(self, data: bytes, position: int) -> int:
        """Process up to the end of a line: a chunk's size, the empty line behind its data, or a trailer."""
        before = self._line
        if before[-1:] == b"\r" and data[position] == 0x0A:
            line, after = before[:-1], position + 1
        else:
            found = data.find(CRLF, position, position + MAX_TRAILERS)
            if found < 0:
                self._line = before + data[position : position + MAX_TRAILERS]
                self._check_unfinished(self._line)
                return min(len(data), position + MAX_TRAILERS)
            line, after = before + data[position:found], found + len(CRLF)
        self._line = b""
        if self._state == _SIZE:
            self._begin_chunk(line)
        elif self._state == _DATA_END:
            if line:
                raise BadFraming("a chunk is longer than its size says")
            self._state = _SIZE
        else:
            self._trailer(line)
        return after

    def _check_unfinished(self, line: bytes) -> None:
        limits = {_SIZE: _LONGEST_LINE, _DATA_END: len(CRLF) - 1, _TRAILERS: MAX_TRAILERS - self._trailers}
        if len(line) > limits[self._state] or (self._state == _DATA_END and line != b"\r"):
            raise BadFraming("a line of a chunked body does not end")

    def _begin_chunk(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise BadFraming("a chunk's size must be 1 to 15 hexadecimal digits")
        if match[2] is not None and len(match[2]) > MAX_EXTENSION:
            raise BadFraming(f"a chunk's extension is over {MAX_EXTENSION} bytes")
        size = int(match[1], 16)
        if not size:
            self._state = _TRAILERS
            return
        self._state, self._left = _DATA, size
        self._count += 1
        self._payload += size
        if self._count >= SMALL_CHUNKS and self._payload < MIN_MEAN_CHUNK * self._count:
            raise BadFraming(f"{self._count} chunks hold less than {MIN_MEAN_CHUNK} bytes each")

    def _trailer(self, line: bytes) -> None:
        self._trailers += len(line) + len(CRLF)
        if not line:
            self._state = _OVER
        elif self._trailers > MAX_TRAILERS or b"\n" in line or b"\r" in line:
            raise BadFraming("the trailers are malformed, or too long")


def with_path(target: bytes) -> bytes:
    """The request target, with ``/`` added to an absolute form without a path."""
    match = _WITHOUT_PATH.fullmatch(target)
    return target if match is None else b"%s/%s" % (match[1], match[2] or b"")
