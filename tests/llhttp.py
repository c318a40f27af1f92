"""The test cases of llhttp, which ``make llhttp`` unpacks beside the environment: requests, and the parser's logs.

A case is a section of a page: text in a block ``http``, with line ends and odd bytes escaped, and a block ``log``, with
a line for each thing that the parser sees, and its place in the bytes. What a request is follows from the log.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(sys.prefix) / "llhttp" / "request"
"""Unpacked by ``make llhttp``."""

_BLOCK = r"```%s\n((?:(?!```).)*)```"
_CASE = re.compile(rf"<!-- meta=(\{{[^}}]*\}}) -->\s*{_BLOCK % 'http'}(?:(?!```).)*{_BLOCK % 'log'}", re.S)
_TITLE = re.compile(r"^#+ (.*)$", re.M)
_LINE = re.compile(r"off=(\d+) (?:len=(\d+) )?(?:span\[(\w+)\]=(.*)|(.*))")
_ESCAPES = re.compile(r"\\(?:([rntf])|x([0-9a-fA-F]+)|([0-7]{1,3}))")
_REPEATED = re.compile(r"\$\{['\"](.*?)['\"]\.repeat\((\d+)\)\}")
_LETTERS = {"r": "\r", "n": "\n", "t": "\t", "f": "\f"}


class Request(NamedTuple):
    method: bytes
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class Told(NamedTuple):
    """A case.

    Attributes:
        name: page and title.
        kind: ``request``, or ``request-`` and what the parser is told to let pass.
        data: what a client sends.
        seen: the requests that the parser sees whole.
        hosted: the same bytes with a ``Host`` in each head that has none: HTTP/1.1 wants one, the parser does not.
        error: what the parser stumbles upon behind them; empty if nothing.
    """

    name: str
    kind: str
    data: bytes
    seen: tuple[Request, ...]
    hosted: bytes
    error: str


def cases() -> list[Told]:
    """All of them; none where they are not unpacked."""
    return [case for page in sorted(FOLDER.glob("*.md")) for case in _of_page(page.stem, page.read_text())]


def _of_page(page: str, text: str) -> Iterator[Told]:
    for number, match in enumerate(_CASE.finditer(text)):
        title = _TITLE.findall(text, 0, match.start())[-1]
        data = _bytes_of(match[2])
        log = _Log(data)
        for line in match[3].splitlines():
            log.read(line)
        name = f"{page} {number}: {title}"
        yield Told(name, json.loads(match[1])["type"], data, tuple(log.whole), log.with_hosts(), log.error)


def _bytes_of(text: str) -> bytes:
    text = text.removesuffix("\n").replace("\\\n", "").replace("\n", "\r\n")
    text = _ESCAPES.sub(_unescaped, text)
    return _REPEATED.sub(lambda match: match[1] * int(match[2]), text).encode()


def _unescaped(match: re.Match[str]) -> str:
    letter, hexadecimal, octal = match.groups()
    return _LETTERS[letter] if letter else chr(int(hexadecimal, 16)) if hexadecimal else chr(int(octal, 8))


class _Log:
    """What a log says of these bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._parts: dict[str, bytes] = {}
        self._headers: list[tuple[bytes, bytes]] = []
        self._in_body = False
        self._lines: list[int] = []  # where the request line ends, of heads without a Host
        self.whole: list[Request] = []
        self.error = ""

    def read(self, line: str) -> None:
        match = _LINE.fullmatch(line)
        if match is None:
            assert "finish=" in line, line
            return
        offset, size, span, shown, what = match.groups()
        if span:
            piece = self._data[int(offset) : int(offset) + int(size)]
            _check(shown, piece)
            self._parts[span] = self._parts.get(span, b"") + piece
        elif what == "message begin":
            self._parts, self._headers, self._in_body = {}, [], False
        elif what == "version complete":
            self._lines.append(int(offset))
        elif what == "header_value complete":
            self._end_of_field()
        elif what.startswith("headers complete"):
            self._in_body = True
        elif what == "message complete":
            parts = self._parts
            self.whole.append(Request(parts["method"], parts["url"], tuple(self._headers), parts.get("body", b"")))
        elif what.startswith("error code"):
            self.error = what.partition("reason=")[2].strip('"')

    def _end_of_field(self) -> None:
        name, value = self._parts.pop("header_field"), self._parts.pop("header_value", b"")
        if self._in_body:
            return  # trailers are dropped
        self._headers.append((name.lower(), value.strip(b" \t")))
        if name.lower() == b"host" and self._lines:
            self._lines.pop()

    def with_hosts(self) -> bytes:
        data = self._data
        for end in reversed(self._lines):
            data = data[:end] + b"\r\nhost: x" + data[end:]
        return data


def _check(shown: str, piece: bytes) -> None:
    """What the log shows of a place is what we take for it."""
    if shown in ("cr", "lf"):
        assert piece == {"cr": b"\r", "lf": b"\n"}[shown]
    else:
        shown = shown[1:-1].replace("\\t", "\t").replace("\\f", "\f")
        assert shown.encode() == piece, (shown, piece)
