"""The user's own source files below a folder, and whether they have changed since they were last looked at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

SUFFIX = ".py"
#: Folders of other people's code, beside those whose name begins with a dot and virtual environments.
_OTHERS = frozenset({"__pycache__", "site-packages", "dist-packages", "node_modules"})
_VENV = "pyvenv.cfg"


class Stamp(NamedTuple):
    """What tells one text of a file from another."""

    mtime_ns: int
    size: int
    inode: int


Snapshot = dict[str, Stamp]


def is_watched(file: str, folder: str) -> bool:
    """Whether a file is one of the user's own source files below a folder.

    Args:
        file: absolute path; empty is none.
    """
    if not file.endswith(SUFFIX) or not file.startswith(folder.rstrip(os.sep) + os.sep):
        return False
    *between, name = os.path.relpath(file, folder).split(os.sep)
    if name.startswith(".") or any(_is_skipped(part) for part in between):
        return False
    return not any(_is_venv(os.path.join(folder, *between[: i + 1])) for i in range(len(between)))


def folders_below(folder: str) -> Iterator[str]:
    """A folder and all below it that may have the user's own source files."""
    yield folder
    for entry in _entries(folder):
        if entry.is_dir(follow_symlinks=False) and not _is_skipped(entry.name) and not _is_venv(entry.path):
            yield from folders_below(entry.path)


def snapshot(folder: str) -> Snapshot:
    """The user's own source files below a folder, as they are now."""
    found: Snapshot = {}
    for inner in folders_below(folder):
        for entry in _entries(inner):
            if entry.name.endswith(SUFFIX) and not entry.name.startswith("."):
                now = stamp(entry.path)
                if now is not None:
                    found[entry.path] = now
    return found


def stamp(path: str) -> Stamp | None:
    """What a file is now; None if it was removed, or is a link to nothing."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return Stamp(status.st_mtime_ns, status.st_size, status.st_ino)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []  # it was removed, or this user may not read it


def _is_skipped(name: str) -> bool:
    return name.startswith(".") or name in _OTHERS


def _is_venv(folder: str) -> bool:
    return os.path.exists(os.path.join(folder, _VENV))
