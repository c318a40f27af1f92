"""Where the body of a request ends. Pure: bytes in, positions out.

The parser decides what a request means. This module looks at the same bytes for what the parser does not check or does
not tell: lengths by the letter, sizes of chunk lines, and where a head or a body ends. A head and its body are never
given to the parser in one piece, so that no body can be taken for a request, whatever the parser makes of the head.
"""

from __future__ import annotations

import re

HEAD_END = b"\r\n\r\n"
CRLF = b"\r\n"
MAX_EXTENSION = 256
"""Bytes behind a chunk's size, the first ``;`` included."""
MAX_SIZE_LINE = 64
"""Bytes of a chunk-size line without its extension; more than this is not waited for."""
MAX_TRAILERS = 32 * 1024
FREE_CHUNKS = 1000
"""So many chunks of a body may be as small as they like."""
LEAST_MEAN = 16
"""Bytes of payload per chunk, on average, once there are so many."""

_LENGTH = re.compile(rb"[0-9]{1,18}")
_SIZE_LINE = re.compile(rb"([0-9a-fA-F]{1,15})(;[^\r\n]*)?")
_WITHOUT_PATH = re.compile(rb"([a-zA-Z][a-zA-Z0-9+.-]*://[^/?#]+)(\?.*)?")
_LONGEST_LINE = MAX_SIZE_LINE + MAX_EXTENSION + len(CRLF)

_SIZE, _DATA, _DATA_END, _TRAILERS, _OVER = range(5)


class BadFraming(Exception):
    """A body does not say by the letter where it ends."""


def length_of(value: bytes) -> int:
    """The value of a ``Content-Length``.

    Raises:
        BadFraming: anything but 1 to 18 digits.
    """
    digits = value.strip(b" \t")
    if not _LENGTH.fullmatch(digits):
        raise BadFraming("Content-Length must be 1 to 18 digits")
    return int(digits)


def is_chunked(value: bytes) -> bool:
    """Whether the value of a ``Transfer-Encoding`` is ``chunked``, in any case, and nothing besides."""
    return value.strip(b" \t").lower() == b"chunked"


class Chunks:
    """Follows one chunked body, however it is cut, up to the end of its trailers."""

    __slots__ = ("_count", "_left", "_line", "_payload", "_state", "_trailers")

    def __init__(self) -> None:
        self._state = _SIZE
        self._line = b""  # the beginning of a line that was cut
        self._left = 0
        self._count = self._payload = self._trailers = 0

    @property
    def over(self) -> bool:
        """Whether the body and its trailers have ended."""
        return self._state == _OVER

    def follow(self, data: bytes, start: int) -> int:
        """Go on with what has come.

        Args:
            data: a piece of what came on the connection.
            start: where in it the body goes on.

        Returns:
            Where in ``data`` the body ends, or the end of ``data`` when it goes on behind that.

        Raises:
            BadFraming: it is not what a chunked body looks like, or is over a limit.
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
        """Up to the end of a line: behind the data of a chunk it must be empty."""
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
        if self._count >= FREE_CHUNKS and self._payload < LEAST_MEAN * self._count:
            raise BadFraming(f"{self._count} chunks hold less than {LEAST_MEAN} bytes each")

    def _trailer(self, line: bytes) -> None:
        self._trailers += len(line) + len(CRLF)
        if not line:
            self._state = _OVER
        elif self._trailers > MAX_TRAILERS or b"\n" in line or b"\r" in line:
            raise BadFraming("the trailers are malformed, or too long")


def with_path(target: bytes) -> bytes:
    """The target of a request; in absolute form it may leave out the path, which then is ``/``."""
    match = _WITHOUT_PATH.fullmatch(target)
    return target if match is None else b"%s/%s" % (match[1], match[2] or b"")
