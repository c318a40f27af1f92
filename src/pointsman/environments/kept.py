"""What there is of environments made from requirements, and their removal."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from pointsman.environments.cache import cache_folder
from pointsman.environments.requirements import MARK, Made, environments_folder, open_lock

FRESH_S = 600.0
"""One that was asked for this recently may be on its way into an instance, which does not show it yet."""


class Kept(NamedTuple):
    """An environment on disk.

    Attributes:
        prefix: its folder.
        made: what from; None when its making was cut off.
        size: in bytes, of all files; some may be links into a cache of the installer.
        unused_s: seconds since somebody last asked for it.
    """

    prefix: Path
    made: Made | None
    size: int
    unused_s: float

    @property
    def python(self) -> str:
        """Its interpreter, as a backend that uses it names it."""
        return str(self.prefix / "bin" / "python")


def kept_environments() -> list[Kept]:
    """All that there are, last used first."""
    folders = [path for path in environments_folder().iterdir() if path.is_dir()]
    return sorted(map(_look, folders), key=lambda kept: kept.unused_s)


def prunable(kept: Kept, used: Collection[str], unused_s: float) -> bool:
    """Whether an environment may go.

    Args:
        used: interpreters of backends that exist.
        unused_s: seconds for which nobody must have asked for it; at least 600.
    """
    return kept.python not in used and (kept.made is None or kept.unused_s >= max(unused_s, FRESH_S))


def remove(kept: Kept) -> bool:
    """Remove an environment; False when somebody is making it right now."""
    lock = open_lock(kept.prefix)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        (kept.prefix / MARK).unlink(missing_ok=True)  # first: what is half removed must not pass for whole
        shutil.rmtree(kept.prefix)
        return True
    finally:
        os.close(lock)


def remove_dangling_links() -> None:
    """Remove links to modules that are gone."""
    for folder in cache_folder("links").iterdir():
        if not any(link.exists() for link in folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)


def _look(prefix: Path) -> Kept:
    mark = prefix / MARK
    try:
        made, used = msgspec.json.decode(mark.read_bytes(), type=Made), mark.stat().st_mtime
    except (FileNotFoundError, msgspec.DecodeError):
        made, used = None, prefix.stat().st_mtime
    return Kept(prefix, made, sum(_sizes(prefix)), max(0.0, time.time() - used))


def _sizes(folder: Path) -> Iterator[int]:
    for parent, _, files in os.walk(folder):
        for name in files:
            yield os.lstat(os.path.join(parent, name)).st_size
