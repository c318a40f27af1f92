"""Environments that are made here from a list of requirements, once, and kept for whoever wants the same again.

    <cache>/environments/<digest>/          the virtual environment
                         <digest>/made      JSON; written last, so what has none is half made and is thrown away
    <cache>/locks/<digest>                  held while it is made or removed

The digest is of all that decides what is in it. ``kept`` lists and removes what is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pointsman.environments.cache import cache_folder
from pointsman.environments.install import Installer, find_installer
from pointsman.environments.interpreter import runtime_requirements
from pointsman.environments.kinds import Requirements
from pointsman.progress import Activity

MARK = "made"


class Made(msgspec.Struct, frozen=True):
    """What an environment was made from.

    Attributes:
        packages: as the user wrote them.
        runtime: what was installed for replicas beside them.
        python: the interpreter that it is based on.
        version: of that, with its build.
    """

    packages: tuple[str, ...]
    runtime: tuple[str, ...]
    python: str
    version: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:32]


def environments_folder() -> Path:
    """Where they are kept."""
    return cache_folder("environments")


def ensure(kind: Requirements, python: str, version: str) -> Path:
    """The environment of these requirements, made now if it is not there yet.

    Args:
        python: the interpreter to base it on; ``version`` is its version and build.

    Raises:
        ValueError: it cannot be made; the text has the installer's reason, and nothing of it is left.
    """
    runtime = tuple(sorted(runtime_requirements()))
    wanted = Made(kind.packages, runtime, os.path.realpath(python), version)
    prefix = environments_folder() / wanted.digest
    shown = f"environment of {', '.join(kind.packages)}"
    with Activity(f"waiting for whoever makes the {shown}") as activity, _locked(prefix) as lock:
        mark = prefix / MARK
        if mark.exists() and (prefix / "bin" / "python").exists():
            os.utime(mark)  # its age decides when it may go
            return prefix
        installer = find_installer(kind.installer)
        activity.title = f"making the {shown} with {installer.name}"
        _make(shown, prefix, wanted, installer, activity, lock)
    return prefix


def _make(shown: str, prefix: Path, wanted: Made, installer: Installer, activity: Activity, lock: int) -> None:
    shutil.rmtree(prefix, ignore_errors=True)
    try:
        installer.make(shown, prefix, wanted.python, [*wanted.packages, *wanted.runtime], activity.show, lock)
        unfinished = prefix / f"{MARK}.new"
        unfinished.write_bytes(msgspec.json.encode(wanted))
        unfinished.rename(prefix / MARK)
    except BaseException:
        shutil.rmtree(prefix, ignore_errors=True)
        raise


def open_lock(prefix: Path) -> int:
    """The descriptor of the file whose lock guards an environment; not locked yet."""
    path = cache_folder("locks") / prefix.name
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


@contextlib.contextmanager
def _locked(prefix: Path) -> Iterator[int]:
    """One process at a time; the lock ends with its last holder, however that ends."""
    lock = open_lock(prefix)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def this_version() -> str:
    """Version and build of the running interpreter."""
    return " ".join(sys.version.split())
