"""The newest lines of all log files, for pages that follow them: read once for all viewers, and kept for a while."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pointsman.console.table import Ask
from pointsman.engine.logfiles import Entry, LogFolder, allow_open_files

MOST_LINES = 200
"""In an answer of what came since; pages ask once a second."""
MOST_AT_FIRST = 1000
KEPT_LINES = 10_000
KEPT_CHARACTERS = 4 * 1024 * 1024
LONGEST = 4_000
"""Characters of a line."""
LAST_BYTES = 256 * 1024
"""Of each file, when nobody has asked before."""
IDLE_S = 60.0
"""Files are closed after nobody has asked for so long."""


class Line(NamedTuple):
    """A line, and what it is found by."""

    number: int
    process: str
    text: str
    entry: Entry


class LogTail:
    """Follows the log files of an instance.

    Args:
        folders: returns where they are, by the beginning of a node's name; on one machine under an empty name.
        idle_s: files are closed after nobody has asked for so many seconds.
    """

    def __init__(self, folders: Callable[[], Mapping[str, Path]], *, idle_s: float = IDLE_S) -> None:
        self._folders = folders
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._open: LogFolder | None = None
        self._closing: threading.Timer | None = None
        self._asked = 0.0
        self._lines: deque[Line] = deque()
        self._characters = 0
        self._next = 0
        self._since = ""

    def answer(self, ask: Ask) -> dict[str, Any]:
        """The newest lines that are asked for, as ``{"lines": [{"process", "line", "time", "level"}], "held_back",
        "next", "nodes"}``: also how many older ones of the same time are not among them, what to give as ``after`` for
        those that come, and on a cluster the beginnings of the names of the nodes whose lines these are.

        Raises:
            ValueError: a parameter cannot have that value.
        """
        most = ask.whole("lines")
        if most is not None and not 0 < most <= MOST_AT_FIRST:
            raise ValueError(f"lines must be 1 to {MOST_AT_FIRST}, not {most}")
        with self._lock:
            nodes = self._read()
            since, _, number = ask.query.get("after", "").partition("-")
            follows = since == self._since and number.isdecimal() and number.isascii()
            first = int(number[:18]) if follows else 0
            found = [line for line in self._lines if line.number >= first and is_wanted(line, ask.query)]
            after = f"{self._since}-{self._next}"
        most = MOST_LINES if most is None or (follows and most > MOST_LINES) else most
        shown = found[-most:]
        lines = [
            {"process": one.process, "line": one.text, "time": one.entry.time, "level": _level(one.entry)}
            for one in shown
        ]
        return {"lines": lines, "held_back": len(found) - len(shown) if follows else 0, "next": after, "nodes": nodes}

    def close(self) -> None:
        """Close all files, and forget what was read."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        if self._open is not None:
            self._open.close()
        self._open = None
        self._lines.clear()
        self._characters = 0

    def _close_if_idle(self) -> None:
        with self._lock:
            self._closing = None
            left_s = self._asked + self._idle_s - time.monotonic()
            if left_s > 0:
                self._close_in(left_s)
            else:
                self._forget()

    def _close_in(self, seconds: float) -> None:
        self._closing = threading.Timer(seconds, self._close_if_idle)
        self._closing.daemon = True
        self._closing.start()

    def _read(self) -> list[str]:
        """Read what is new. Returns the names of the nodes."""
        folders = self._folders()
        self._asked = time.monotonic()
        if self._closing is None:
            self._close_in(self._idle_s)
        if self._open is None:
            allow_open_files()
            self._open, self._since = LogFolder(folders.values(), last=LAST_BYTES), secrets.token_hex(4)
        else:
            self._open.scan(folders.values())
        for entry in self._open.entries():
            for text in entry.lines:
                self._keep(Line(self._next, entry.source, _cut(text), entry._replace(lines=[])))
        return sorted(filter(None, folders))

    def _keep(self, line: Line) -> None:
        self._next += 1
        self._lines.append(line)
        self._characters += len(line.text)
        while len(self._lines) > KEPT_LINES or self._characters > KEPT_CHARACTERS:
            self._characters -= len(self._lines.popleft().text)


def is_wanted(line: Line, query: Any) -> bool:
    """Whether a line is one of those that the parameters ask for."""
    backend, request_id, text = (query.get(name) for name in ("backend", "request_id", "text"))
    return (
        (not backend or line.process.rpartition("#")[0] == backend)
        and (not request_id or line.entry.is_about(request_id))
        and (not text or text.casefold() in line.text.casefold())
    )


def _level(entry: Entry) -> str | None:
    return entry.head.level if entry.head is not None else None


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text)} characters)"
