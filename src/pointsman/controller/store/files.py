"""The files beside the database: the acknowledgement of the last change, and damaged files. Does not use SQLite.

state.db          the database, with its -wal and -shm
state.db.ack      number and digest of the last acknowledged change: a database that is older has lost changes
state.db.copy     the last verified copy
*.corrupt-<time>  damaged files, kept for inspection
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
    """The last change that a caller got a reply to.

    Attributes:
        store: random id of the database.
        commit: number of the change.
        digest: digest of the whole state after it.
    """

    store: str
    commit: int
    digest: str


class AckFile:
    """The file with the acknowledgement. It is replaced atomically: a new file is written, synced and renamed.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._next = path.with_name(path.name + ".next")

    def read(self) -> Acknowledged | None:
        """Its content; None if the file does not exist.

        Raises:
            StoreError: it is damaged, or cannot be read.
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
        """Write and sync the next acknowledgement, so that :meth:`publish` needs no more disk space.

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
        """Replace the file by the prepared one."""
        os.replace(self._next, self.path)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all bytes. Raises OSError: they could not be written."""
    while data:
        data = data[os.write(descriptor, data) :]


def files_of(path: Path) -> list[Path]:
    """The files of a database: itself, its log and its shared memory."""
    return [path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")]


def check_private(path: Path) -> None:
    """Check that the files of a database are private to this user.

    Raises:
        StoreError: other users could have read or written one, or one is a symbolic link.
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
        The files that were there, renamed to ``.corrupt-<stamp>``.

    Raises:
        OSError: the copy could not be written, such as on a full disk; nothing has been renamed then.
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
    """Sync a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
