"""Reads the log files of an instance's processes as one stream: merged by time, and followed while they grow.

Called by ``pointsman logs`` and the console. Depends on the format of lines and file names only, and talks to no
process: logs are needed most when no process answers.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import resource
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from pointsman.engine.local.output import OUTPUT_OF, SUPERVISOR
from pointsman.engine.lognames import CARD, LogCard, backend_in
from pointsman.telemetry.logs import Head, head_of, utc

CHUNK = 1 << 20
#: Beginnings of lines that Ray writes into its workers' files for its own log monitor.
RAY_MARKERS = (":job_id:", ":actor_name:", ":task_name:")
#: A longer entry is split, so that it need not fit into memory.
MAX_ENTRY_LINES = 10_000


class Entry(NamedTuple):
    """One log record or printed line, with its continuation lines.

    Attributes:
        time: when it was written, as text that sorts by time; a line without a time has that of the line before.
        source: the process that wrote it, as shown to the user.
        head: the parsed beginning of a log record; None for output that user code printed.
        lines: all its lines.
    """

    time: str
    source: str
    head: Head | None
    lines: list[str]

    def is_about(self, request_id: str) -> bool:
        return self.head is not None and request_id in self.head.request_ids


class LogFile:
    """The output of one process, from its log file and the rotated one before it.

    Args:
        path: ``<name>.log``; the rotated file is ``<name>.log.1``.
        backend: the file name's part for the backend; empty if the process is no replica.
        card: describes a file that Ray made; other files have a first line that names their process.
        since: time of lines before the first that has one.

    Attributes:
        source: the replica's tag, or the name of another process.
    """

    def __init__(self, path: Path, backend: str, card: LogCard | None = None, since: str = "") -> None:
        self._path = path
        self._is_from_ray = card is not None
        self._time = since
        self._head: Head | None = None
        self._partial = b""
        self._parts: deque[BinaryIO] = deque()
        # The newest is opened first. In the other order, a rotation in between would leave out the file that was the
        # newest until then.
        self._open(path)
        if card is None:
            self._open(_rotated(path), first=True)
        elif self._parts:
            self._parts[0].seek(card.begins)
        self.backend = backend
        self.source = card.source if card is not None else self._read_source()

    def close(self) -> None:
        for part in self._parts:
            part.close()

    def leave_out(self, last: int) -> None:
        """Leave out what comes before the last bytes, up to the beginning of a line."""
        for number in range(len(self._parts) - 1, -1, -1):
            part = self._parts[number]
            size = os.fstat(part.fileno()).st_size
            if size > last + part.tell():
                for _ in range(number):
                    self._parts.popleft().close()
                part.seek(size - last)
                cut = part.read(CHUNK).find(b"\n")
                part.seek(size - last + cut + 1 if cut >= 0 else size)
                return
            last -= size

    def entries(self, *, to_the_end: bool = False) -> Iterator[Entry]:
        """Entries that were written since the last call.

        Args:
            to_the_end: the process has ended, so that a last line without a newline is complete.
        """
        entry: Entry | None = None
        for line in self._lines(to_the_end):
            if self._is_from_ray and line.startswith(RAY_MARKERS):
                continue
            head = head_of(line)
            if head is None and self._head is not None and self._head.goes_on and line[:1] in (" ", "\t"):
                if entry is not None and len(entry.lines) < MAX_ENTRY_LINES:
                    entry.lines.append(line)
                    continue
                head = self._head
            if entry is not None:
                yield entry
            self._head = head
            if head is not None:
                self._time = max(self._time, head.time)
            entry = Entry(self._time, self.source, head, [line])
        if entry is not None:
            yield entry

    def _lines(self, to_the_end: bool) -> Iterator[str]:
        while self._parts:
            data = self._parts[0].read(CHUNK)
            if not data and len(self._parts) == 1 and self._was_rotated():
                data = self._parts[0].read(CHUNK)  # written between the first read and the rotation
            if data:
                *lines, self._partial = (self._partial + data).split(b"\n")
                yield from (line.decode(errors="replace").removesuffix("\r") for line in lines)
            elif len(self._parts) > 1:
                self._parts.popleft().close()
                _skip_first_line(self._parts[0])  # the process is known already
            else:
                break
        if to_the_end and self._partial:
            line, self._partial = self._partial, b""
            yield line.decode(errors="replace")

    def _was_rotated(self) -> bool:
        """Whether the file was rotated; the one that follows it is then open."""
        ours = os.fstat(self._parts[0].fileno())
        try:
            if os.path.samestat(ours, os.stat(self._path)):
                return False
            if not os.path.samestat(ours, os.stat(_rotated(self._path))):
                self._open(_rotated(self._path))  # two rotations since the last read
        except FileNotFoundError:
            return False  # the rotation is under way, or the whole folder was removed
        self._open(self._path)
        return len(self._parts) > 1

    def _open(self, path: Path, *, first: bool = False) -> bool:
        try:
            part = path.open("rb", buffering=0)
        except FileNotFoundError:
            return False
        known = [os.fstat(other.fileno()) for other in self._parts]
        if any(os.path.samestat(os.fstat(part.fileno()), other) for other in known):
            part.close()
            return False
        if first:
            self._parts.appendleft(part)
        else:
            self._parts.append(part)
        return True

    def _read_source(self) -> str:
        """The process's name, from the first line that the supervisor wrote; the file's name if that line is lost."""
        for part in self._parts:
            line = part.read(CHUNK).partition(b"\n")[0].decode(errors="replace")
            part.seek(0)
            if _is_first_line(line):
                said: str = json.loads(line)["message"] if line.startswith("{") else line
                return said.partition(OUTPUT_OF)[2]
        return self._path.stem


class LogFolder:
    """All log files of an instance, including those that appear later.

    Args:
        paths: folders with log files, or with cards that name log files elsewhere.
        wanted: selects the files to read.
        last: how many bytes at the end of each file are read that is there already; None for all.
    """

    def __init__(
        self, paths: Iterable[Path], wanted: Callable[[LogFile], bool] = lambda _: True, *, last: int | None = None
    ) -> None:
        self._paths = [*paths]
        self._wanted = wanted
        self._last = last
        self._files: dict[Path, LogFile | None] = {}
        self.scan()

    def scan(self, paths: Iterable[Path] = ()) -> None:
        """Add files that are new since the last call, and those of folders that are new among these ``paths``."""
        self._paths += [path for path in paths if path not in self._paths]
        for path in sorted(found for folder in self._paths for found in folder.glob("*")):
            if path not in self._files and path.suffix in (".log", CARD):
                with contextlib.suppress(FileNotFoundError):  # the instance has ended and removed its folder
                    self._add(path)

    def _add(self, path: Path) -> None:
        if not path.stat().st_size:
            return  # its first line is not written yet
        file = _open_card(path) if path.suffix == CARD else LogFile(path, backend_in(path.stem))
        wanted = self._wanted(file)
        self._files[path] = file if wanted else None
        if not wanted:
            file.close()
        elif self._last is not None:
            file.leave_out(self._last)

    def close(self) -> None:
        """Close all files; none is read any more."""
        for file in self.files:
            file.close()
        self._files.clear()

    @property
    def files(self) -> list[LogFile]:
        return [file for file in self._files.values() if file is not None]

    def entries(self, *, to_the_end: bool = False) -> Iterator[Entry]:
        """Entries of all files since the last call, merged by time. Arguments as for :meth:`LogFile.entries`."""
        each = (file.entries(to_the_end=to_the_end) for file in self.files)
        return heapq.merge(*each, key=lambda entry: entry.time)


def allow_open_files() -> None:
    """Raise the limit of open files to the maximum: every replica that ever ran has left a log file."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS, for one, reports no limit and has one
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _open_card(path: Path) -> LogFile:
    card = msgspec.json.decode(path.read_bytes(), type=LogCard)
    return LogFile(Path(card.path), backend_in(path.stem), card, utc(path.stat().st_mtime)[:-6])


def _rotated(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def _is_first_line(line: str) -> bool:
    head = head_of(line)
    return head is not None and head.level == "INFO" and OUTPUT_OF in line and f"pointsman.{SUPERVISOR}" in line


def _skip_first_line(part: BinaryIO) -> None:
    line = part.read(CHUNK).partition(b"\n")[0]
    part.seek(len(line) + 1 if _is_first_line(line.decode(errors="replace")) else 0)
