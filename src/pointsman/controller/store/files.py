"""The files beside the database: the last acknowledged change, and what is set aside. Knows no SQLite.

state.db          the database, with its -wal and -shm
state.db.ack      number and digest of the last acknowledged change: a database that is behind it has lost something
state.db.copy     the last verified copy
*.corrupt-<time>  what was found to be damaged, kept for whoever wants to know
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import msgspec

from pointsman.exceptions import ServeException


class StoreError(ServeException):
    """The store cannot be read or written; nothing has changed."""


class Acknowledged(msgspec.Struct, frozen=True):
    """The last change that somebody was told of.

    Attributes:
        store: which store, of all there ever were.
        commit: how many changes there had been.
        digest: of the whole state after it.
    """

    store: str
    commit: int
    digest: str


class AckFile:
    """Replaced as a whole: written beside, synced, renamed.

    Args:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._next = path.with_name(path.name + ".next")

    def read(self) -> Acknowledged | None:
        """What it says; None when there is none.

        Raises:
            StoreError: it is damaged.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{self.path} cannot be read: {error.strerror}") from None
        body, _, checksum = data.rpartition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != checksum:
            raise StoreError(f"{self.path} is damaged: its checksum is wrong")
        return msgspec.json.decode(body, type=Acknowledged)

    def prepare(self, ack: Acknowledged) -> None:
        """Write the next one and sync it, so that :meth:`publish` needs no more room.

        Raises:
            OSError: it cannot be written.
        """
        body = msgspec.json.encode(ack)
        descriptor = os.open(self._next, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            write_all(descriptor, body + b"\n" + hashlib.sha256(body).hexdigest().encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def publish(self) -> None:
        """Put the prepared one in force."""
        os.replace(self._next, self.path)


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte, or raise OSError."""
    while data:
        data = data[os.write(descriptor, data) :]


def files_of(path: Path) -> list[Path]:
    """A database and what SQLite keeps beside it."""
    return [path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")]


def check_private(path: Path) -> None:
    """Refuse files that others could have read or written, or that lead elsewhere.

    Raises:
        StoreError: it is one.
    """
    for file in files_of(path):
        try:
            status = file.lstat()
        except FileNotFoundError:
            continue
        if os.path.islink(file):
            raise StoreError(f"{file} is a link, and is not followed")
        if status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise StoreError(f"{file} is not private to this user (mode {status.st_mode & 0o777:o}); make it 0600")


def put_in_place(source: Path, path: Path, stamp: str) -> list[Path]:
    """Make ``path`` a synced copy of ``source``.

    Returns:
        What was there, renamed to ``.corrupt-<stamp>``.

    Raises:
        OSError: there is no room for it, say; then nothing has been renamed.
    """
    fresh = path.with_name(path.name + ".new")
    shutil.copyfile(source, fresh)
    os.chmod(fresh, 0o600)
    sync(fresh)
    kept = [file.rename(file.with_name(f"{file.name}.corrupt-{stamp}")) for file in files_of(path) if file.exists()]
    os.replace(fresh, path)
    sync(path.parent)
    return kept


def sync(path: Path) -> None:
    """Have a file, or a folder's entries, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
