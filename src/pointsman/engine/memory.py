"""How much memory processes have for themselves, and how much is left to them on this machine, or in this container."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")
#: By version of control groups: files with the limit, the bytes in use and how these are made up, and the name there of
#: those that hold files and are given up when they are needed.
GROUPS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


class Limited(NamedTuple):
    """What a container may have, and what is left of that, in bytes."""

    limit: int
    left: int


def container_memory() -> Limited | None:
    """The memory of this container; None where it has no limit, or the system does not say."""
    for limit_file, used_file, parts_file, cached in GROUPS:
        limit, used = text_of(CGROUP / limit_file), text_of(CGROUP / used_file)
        if limit.isdigit() and used.isdigit():
            in_use = int(used) - (_entry(text_of(CGROUP / parts_file), cached) or 0)
            return Limited(int(limit), max(0, int(limit) - in_use))
    return None


def memory_left() -> int | None:
    """Bytes that processes can still get on this machine, or in this container; None where the system does not say."""
    available = _entry(text_of(MEMINFO), "MemAvailable:")
    container = container_memory()
    found = [*([available * 1024] if available is not None else []), *([container.left] if container else [])]
    return min(found, default=None)


def own_memory(pids: Iterable[int]) -> int:
    """Bytes that processes have in memory and share with no file, all together; 0 where it is not known."""
    pages = 0
    for pid in pids:
        numbers = text_of(Path(f"/proc/{pid}/statm")).split()
        if numbers:
            _, resident, shared, *_ = map(int, numbers)
            pages += resident - shared
    return pages * os.sysconf("SC_PAGE_SIZE")


def text_of(path: Path) -> str:
    """What a file of the system says; "" where it is not there."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _entry(text: str, name: str) -> int | None:
    """The number behind a name at the beginning of a line."""
    return next((int(words[1]) for words in map(str.split, text.splitlines()) if words[:1] == [name]), None)
