"""What processes print: into a file each, and with a prefix to the driver's terminal.

A thread of its own in the supervisor, so that a terminal that has stopped reading holds nobody up: output that it does
not take is dropped from the terminal (never from the file) and counted.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

MAX_LOG_BYTES = 32 * 1024 * 1024
"""A log file over this size is set aside as ``<name>.log.1``, replacing the one before."""
TERMINAL_FD = 2
OUR_SMALL_TALK = (b"INFO pointsman", b'{"level":"INFO","logger":"pointsman')
"""Lines of our own processes that go to the files only."""


class _Source:
    def __init__(self, fd: int, label: str, path: Path) -> None:
        self.fd = fd
        self.prefix = f"[{printable(label)}] ".encode()
        self.path = path
        self.file: BinaryIO | None = None
        self.rest = b""
        with contextlib.suppress(OSError):  # a disk without room may have some later
            self.open()

    def open(self) -> BinaryIO:
        self.file = self.path.open("ab", buffering=0)
        return self.file

    def write(self, data: bytes) -> None:
        """Add to the file.

        Raises:
            OSError: the disk does not take it.
        """
        file = self.file or self.open()
        file.write(data)
        if file.tell() > MAX_LOG_BYTES:
            self.close()
            self.path.replace(self.path.with_suffix(".log.1"))
            self.open()

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


class OutputPump:
    """Reads the output pipes of all processes.

    Args:
        folder: where the log files go.
        echo: whether to write to the terminal too.
        prefix: whether lines on the terminal say whose they are; where they are JSON they do by themselves.
    """

    def __init__(self, folder: Path, *, echo: bool, prefix: bool = True) -> None:
        self._prefix = prefix
        self._folder = folder
        self._echo = echo
        self._dropped = 0
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._todo: deque[Callable[[], None]] = deque()
        self._closing = False
        self._sources: set[_Source] = set()
        self._thread = threading.Thread(target=self._main, name="pointsman-output", daemon=True)
        self._thread.start()

    def add(self, fd: int, label: str, name: str) -> None:
        """Read ``fd`` to its end, into ``<name>.log``."""
        self._do(lambda: self._open(fd, label, name))

    def write(self, label: str, text: str) -> None:
        """Add a line of the supervisor's own."""
        self._do(lambda: self._own_line(label, text))

    def close(self) -> None:
        """Write out what is there and stop."""
        self._closing = True
        self._do(lambda: None)
        self._thread.join(timeout=1.0)

    def _do(self, action: Callable[[], None]) -> None:
        self._todo.append(action)
        os.write(self._wake_write, b"x")

    def _open(self, fd: int, label: str, name: str) -> None:
        source = _Source(fd, label, self._folder / f"{name}.log")
        self._sources.add(source)
        self._selector.register(fd, selectors.EVENT_READ, source)

    def _own_line(self, label: str, text: str) -> None:
        line = f"{printable(text)}\n".encode()
        try:
            with (self._folder / f"{label}.log").open("ab") as file:
                file.write(line)
        except OSError:
            self._dropped += len(line)
        self._to_terminal(f"[{label}] ".encode() + line)

    def _main(self) -> None:
        while True:
            ready = self._selector.select(0 if self._closing else None)
            if self._closing and not ready:
                return
            for key, _ in ready:
                if key.data is None:
                    os.read(self._wake_read, 4096)
                    while self._todo:
                        self._todo.popleft()()
                else:
                    self._read(key.data)

    def _read(self, source: _Source) -> None:
        data = os.read(source.fd, 65536)
        if not data:
            self._selector.unregister(source.fd)
            os.close(source.fd)
            source.close()
            self._sources.discard(source)
            data = b"\n" if source.rest else b""
        else:
            try:
                source.write(data)
            except OSError:
                self._dropped += len(data)  # a full disk must not stop those who print
        lines, _, source.rest = (source.rest + data).rpartition(b"\n")
        if lines and self._echo:
            shown = [line for line in lines.split(b"\n") if not line.startswith(OUR_SMALL_TALK)]
            self._to_terminal(b"".join((source.prefix if self._prefix else b"") + line + b"\n" for line in shown))
        if len(source.rest) > 65536:
            source.rest = b""

    def _to_terminal(self, data: bytes) -> None:
        if not self._echo:
            return
        for start in range(0, len(data), 4096):
            # A terminal or pipe that select() calls writable takes 4096 bytes without blocking.
            if not select.select([], [TERMINAL_FD], [], 0.05)[1]:
                self._dropped += len(data) - start
                return
            if self._dropped:
                note = f"[supervisor] {self._dropped} bytes of output were not shown here; see the log files\n"
                self._dropped = 0
                self._emit(note.encode())
            self._emit(data[start : start + 4096])

    def _emit(self, data: bytes) -> None:
        try:
            os.write(TERMINAL_FD, data)
        except OSError:
            self._echo = False  # the terminal is gone for good


def printable(text: str) -> str:
    """One line without control characters, so that a name cannot forge log lines."""
    return "".join(character if character.isprintable() else "?" for character in text)
