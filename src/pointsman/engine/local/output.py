"""Copies the output of processes to a log file each, and to the driver's terminal: with a prefix, or, for whoever
collects logs, each line as a JSON object.

Runs on a thread of the supervisor, so that a terminal that has stopped reading blocks nothing: output that it does not
take is not shown there, and counted; the file gets all of it. What goes to the controller, by the supervisor's own
thread, blocks nothing either: :class:`Outbox`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from pointsman.telemetry import logs
from pointsman.telemetry.logs import is_routine, printable

#: A log file over this size is renamed to ``<name>.log.1``, which replaces an earlier one.
MAX_LOG_BYTES = 32 * 1024 * 1024
TERMINAL_FD = 2
JSON_FD = 1
SUPERVISOR = "supervisor"
#: A longer line is not shown, and counted.
MAX_SHOWN_LINE = 65536
#: A terminal or pipe that select() reports as writable takes so many bytes without blocking.
PIPE_BYTES = 4096
#: Begins the first line of each process in its file; the tag or role follows. Some processes print without logging, and
#: their lines could not be attributed otherwise.
OUTPUT_OF = "output of "


class _Source:
    def __init__(self, fd: int, label: str, path: Path, first_line: Callable[[], bytes], pid: int) -> None:
        self.fd = fd
        self.label = label
        self.pid = pid
        self.prefix = f"[{printable(label)}] ".encode()
        self.path = path
        self.first_line = first_line
        self.file: BinaryIO | None = None
        self.rest = b""
        self.cut = False  # the beginning of the line that is being read was too long
        with contextlib.suppress(OSError):  # a full disk may have space later: ``write`` tries again
            self.open()

    def open(self) -> BinaryIO:
        self.file = self.path.open("ab", buffering=0)
        self.file.write(self.first_line())
        return self.file

    def write(self, data: bytes) -> None:
        """Add to the file.

        Raises:
            OSError: the disk does not take it.
        """
        file = self.file or self.open()
        if file.tell() > MAX_LOG_BYTES:
            end = data.find(b"\n") + 1 if self.rest else 0  # files are cut between lines, unless a line has no end
            file.write(data[:end])
            if end or not self.rest or file.tell() > 2 * MAX_LOG_BYTES:
                data = data[end:]
                self.close()
                self.path.replace(self.path.with_suffix(".log.1"))
                file = self.open()
        file.write(data)

    def end(self) -> None:
        """The process has exited: end its last line, since another process may append to this file."""
        if self.rest and self.file is not None:
            with contextlib.suppress(OSError):
                self.file.write(b"\n")
        self.close()

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


class Outbox:
    """Writes to a socket without blocking, and buffers what the socket does not take.

    Args:
        to: the socket; made non-blocking.
    """

    def __init__(self, to: socket.socket) -> None:
        to.setblocking(False)
        self._to = to
        self._rest = bytearray()

    @property
    def full(self) -> bool:
        """True if data is buffered, to be flushed once the socket is writable."""
        return bool(self._rest)

    def send(self, data: bytes) -> None:
        """Write, after what is buffered."""
        self._rest += data
        self.flush()

    def flush(self) -> None:
        """Write as much of the buffer as the socket takes. Data for a peer that has exited is lost."""
        with contextlib.suppress(OSError):
            while self._rest:
                del self._rest[: self._to.send(self._rest)]


class OutputPump:
    """Reads the output pipes of all processes.

    Args:
        folder: of the log files.
        echo: whether to write to the terminal too.
        log_format: of the processes. On the terminal, lines of text get a prefix that names their process; lines of
            JSON contain it.
        json_lines: show all lines, on standard output, and make a JSON object of each that is none.
    """

    def __init__(self, folder: Path, *, echo: bool, log_format: str = logs.TEXT, json_lines: bool = False) -> None:
        self._prefix = log_format == logs.TEXT
        self._json_lines = json_lines
        self._fd = JSON_FD if json_lines else TERMINAL_FD
        self._unfinished = b""
        self._formatter = logs.formatter(log_format, SUPERVISOR)
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

    def add(self, fd: int, label: str, name: str, pid: int = 0) -> None:
        """Copy what is read from ``fd``, where the process ``pid`` writes, to ``<name>.log``, until its end of file."""
        self._do(lambda: self._open(fd, label, name, pid))

    def write(self, text: str) -> None:
        """Log a warning of the supervisor itself."""
        self._do(lambda: self._own_line(text))

    def close(self) -> None:
        """Write what can be read now, and stop."""
        self._closing = True
        self._do(lambda: None)
        self._thread.join(timeout=1.0)

    def _do(self, action: Callable[[], None]) -> None:
        self._todo.append(action)
        os.write(self._wake_write, b"x")

    def _open(self, fd: int, label: str, name: str, pid: int) -> None:
        source = _Source(fd, label, self._folder / f"{name}.log", lambda: self._first_line(label), pid)
        self._sources.add(source)
        self._selector.register(fd, selectors.EVENT_READ, source)

    def _first_line(self, label: str) -> bytes:
        backend = label.rpartition("#")[0]
        fields = {"backend": backend, "replica": label} if backend else {}
        return self._line(logging.INFO, f"{OUTPUT_OF}{printable(label)}", **fields)

    def _own_line(self, text: str) -> None:
        line = self._line(logging.WARNING, printable(text))
        try:
            with (self._folder / f"{SUPERVISOR}.log").open("ab") as file:
                file.write(line)
        except OSError:
            self._dropped += len(line)
        self._to_terminal(self._own_prefix() + line)

    def _line(self, level: int, text: str, **fields: Any) -> bytes:
        record = logs.record(level, f"pointsman.{SUPERVISOR}", text, fields)
        return f"{self._formatter.format(record)}\n".encode()

    def _own_prefix(self) -> bytes:
        return f"[{SUPERVISOR}] ".encode() if self._prefix else b""

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
            source.end()
            self._sources.discard(source)
            data = b"\n" if source.rest else b""
        else:
            try:
                source.write(data)
            except OSError:
                self._dropped += len(data)  # on a full disk processes must still be able to print
        *lines, source.rest = (source.rest + data).split(b"\n")
        if lines and source.cut:
            self._dropped += len(lines.pop(0)) + 1
            source.cut = False
        if lines and self._echo:
            self._show(source, lines)
        if len(source.rest) > MAX_SHOWN_LINE:
            self._dropped += len(source.rest)
            source.rest, source.cut = b"", True

    def _show(self, source: _Source, lines: list[bytes]) -> None:
        if self._json_lines:
            for line in lines:
                self._to_terminal(logs.as_json_line(line, source.label, source.pid))
        else:
            prefix = source.prefix if self._prefix else b""
            self._to_terminal(b"".join(prefix + line + b"\n" for line in lines if not is_routine(line)))

    def _to_terminal(self, data: bytes) -> None:
        """Show whole lines, or nothing of them but their first bytes: then the rest comes before whatever is next."""
        if not self._echo:
            return
        if self._unfinished and self._takes_more():
            rest, self._unfinished = self._unfinished, b""
            self._write(rest)
        if self._unfinished or not self._takes_more():
            self._dropped += len(data)
            return
        if self._dropped:
            text = f"{self._dropped} bytes of output were not shown here; see the log files"
            self._dropped = 0
            self._write(self._own_prefix() + self._line(logging.WARNING, text))
        self._write(data)

    def _write(self, data: bytes) -> None:
        for start in range(0, len(data), PIPE_BYTES):
            if start and not self._takes_more():
                end = data.find(b"\n", start) + 1
                self._unfinished = data[start:end]
                self._dropped += len(data) - end
                return
            try:
                os.write(self._fd, data[start : start + PIPE_BYTES])
            except OSError:
                self._echo = False  # the terminal was closed
                return

    def _takes_more(self) -> bool:
        return bool(select.select([], [self._fd], [], 0.05)[1])
