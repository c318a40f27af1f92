"""Log files of the processes of an instance, read as one: merged by time, and followed while they grow.

Called by ``pointsman logs``. Knows how lines and names of files look, and no running process: logs are most needed when
nothing answers.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from pointsman.engine.local.output import OUTPUT_OF, SUPERVISOR
from pointsman.engine.lognames import CARD, LogCard, backend_in
from pointsman.telemetry.logs import Head, head_of, utc

CHUNK = 1 << 20
RAYS_OWN = (":job_id:", ":actor_name:", ":task_name:")
"""Lines that Ray writes into the files of its workers, for itself."""
MOST_LINES = 10_000
"""Of one entry; what goes on for longer becomes several, so that it need not fit into memory."""


class Entry(NamedTuple):
    """What was said at once: a line, with those that belong to it.

    Attributes:
        time: sorts like the moments themselves; what has none of its own has that of the line before.
        source: who says it.
        head: how its first line begins; None of what user code prints.
    """

    time: str
    source: str
    head: Head | None
    lines: list[str]

    def is_about(self, request_id: str) -> bool:
        return self.head is not None and request_id in self.head.request_ids


class LogFile:
    """The lines of one process, from its file and the one that was set aside before.

    Args:
        path: ``<name>.log``.
        backend: what stands for its backend in names of files; empty where it is no replica's.
        card: what is known of it where Ray has made it; otherwise its first line says that.
        since: when that was said.

    Attributes:
        source: the tag of its replica, or what else it is.
    """

    def __init__(self, path: Path, backend: str, card: LogCard | None = None, since: str = "") -> None:
        self._path = path
        self._is_rays = card is not None
        self._time = since
        self._head: Head | None = None
        self._rest = b""
        self._parts: deque[BinaryIO] = deque()
        # The newest first: were the file set aside in between, it would be the other one from then on.
        self._open(path)
        if card is None:
            self._open(_aside(path), first=True)
        elif self._parts:
            self._parts[0].seek(card.begins)
        self.backend = backend
        self.source = card.source if card is not None else self._tag()

    def close(self) -> None:
        for part in self._parts:
            part.close()

    def entries(self, *, to_the_end: bool = False) -> Iterator[Entry]:
        """What has come since this was asked last.

        Args:
            to_the_end: nothing more is to come, so that a line without an end is whole.
        """
        entry: Entry | None = None
        for line in self._lines(to_the_end):
            if self._is_rays and line.startswith(RAYS_OWN):
                continue
            head = head_of(line)
            if head is None and self._head is not None and self._head.goes_on and line[:1] in (" ", "\t"):
                if entry is not None and len(entry.lines) < MOST_LINES:
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
            if not data and len(self._parts) == 1 and self._was_set_aside():
                data = self._parts[0].read(CHUNK)  # what came before it was
            if data:
                *lines, self._rest = (self._rest + data).split(b"\n")
                yield from (line.decode(errors="replace").removesuffix("\r") for line in lines)
            elif len(self._parts) > 1:
                self._parts.popleft().close()
                _pass_first_line(self._parts[0])  # in the midst of what this process says
            else:
                break
        if to_the_end and self._rest:
            line, self._rest = self._rest, b""
            yield line.decode(errors="replace")

    def _was_set_aside(self) -> bool:
        """Whether the file goes on in another one, which is then open as well."""
        ours = os.fstat(self._parts[0].fileno())
        try:
            if os.path.samestat(ours, os.stat(self._path)):
                return False
            if not os.path.samestat(ours, os.stat(_aside(self._path))):
                self._open(_aside(self._path))  # a whole file has come and gone between two looks
        except FileNotFoundError:
            return False  # it is just being done, or all of it was removed
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

    def _tag(self) -> str:
        """What the first line says, which the supervisor has written; the name of the file where that is lost."""
        for part in self._parts:
            line = part.read(CHUNK).partition(b"\n")[0].decode(errors="replace")
            part.seek(0)
            if _is_first_line(line):
                said: str = json.loads(line)["message"] if line.startswith("{") else line
                return said.partition(OUTPUT_OF)[2]
        return self._path.stem


class LogFolder:
    """All files of an instance, those that appear later too.

    Args:
        paths: of the folders that have them, or cards that say where they are.
        wanted: which of them to read.
    """

    def __init__(self, paths: Iterable[Path], wanted: Callable[[LogFile], bool]) -> None:
        self._paths = [*paths]
        self._wanted = wanted
        self._files: dict[Path, LogFile | None] = {}
        self.look()

    def look(self) -> None:
        """See what has appeared."""
        for path in sorted(found for folder in self._paths for found in folder.glob("*")):
            if path not in self._files and path.suffix in (".log", CARD):
                with contextlib.suppress(FileNotFoundError):  # its instance has ended since, and took it along
                    self._add(path)

    def _add(self, path: Path) -> None:
        if not path.stat().st_size:
            return  # who writes it has only begun
        file = _open_card(path) if path.suffix == CARD else LogFile(path, backend_in(path.stem))
        wanted = self._wanted(file)
        self._files[path] = file if wanted else None
        if not wanted:
            file.close()

    @property
    def files(self) -> list[LogFile]:
        return [file for file in self._files.values() if file is not None]

    def entries(self, *, to_the_end: bool = False) -> Iterator[Entry]:
        """What has come since this was asked last, in order of time; see :meth:`LogFile.entries`."""
        each = (file.entries(to_the_end=to_the_end) for file in self.files)
        return heapq.merge(*each, key=lambda entry: entry.time)


def _open_card(path: Path) -> LogFile:
    card = msgspec.json.decode(path.read_bytes(), type=LogCard)
    return LogFile(Path(card.path), backend_in(path.stem), card, utc(path.stat().st_mtime)[:-6])


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def _is_first_line(line: str) -> bool:
    head = head_of(line)
    return head is not None and head.level == "INFO" and OUTPUT_OF in line and f"pointsman.{SUPERVISOR}" in line


def _pass_first_line(part: BinaryIO) -> None:
    line = part.read(CHUNK).partition(b"\n")[0]
    part.seek(len(line) + 1 if _is_first_line(line.decode(errors="replace")) else 0)
