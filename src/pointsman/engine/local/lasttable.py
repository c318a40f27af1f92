"""A file with the newest routing table, by which an ingress that starts while there is no controller serves (decision
0033). It is written before the table is sent to routers, so it is never older than an acknowledged change.

The file has a whole table and the changes since (decision 0058), each behind its length. What is not whole at its end
is a change that is being written, or whose writer has died: it was not acknowledged, and does not count.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from struct import Struct as Layout
from typing import BinaryIO

from pointsman.engine.local.folder import InstanceFolder
from pointsman.exceptions import ServeException
from pointsman.model import RoutingTable
from pointsman.wire.frames import WireError
from pointsman.wire.messages import unpack
from pointsman.wire.tables import TableChange, WrongBaseError, apply_change

log = logging.getLogger(__name__)

NAME = "table"


LENGTH = Layout("<I")
SHORT = 64 * 1024
"""Changes of so many bytes may follow the table, or as many as the table has: then it is written whole again."""


class KeptTable:
    """A table read from the file.

    Args:
        table: the table.
        file: the file that it was read from; held open, so that its inode number is not reused.
        path: of that file.
        size: number of bytes that were read.
    """

    def __init__(self, table: RoutingTable, file: BinaryIO, path: Path, size: int) -> None:
        self.table = table
        self._file = file
        self._path = path
        self._size = size

    def is_newest(self) -> bool:
        """True if the file was neither replaced, continued nor removed since."""
        try:
            there = os.stat(self._path)
            return there.st_size == self._size and os.path.samestat(there, os.fstat(self._file.fileno()))
        except OSError:
            return False

    def close(self) -> None:
        """Close the file; :meth:`is_newest` cannot be called any more."""
        self._file.close()


class LastTable:
    """Writes and reads the file.

    Args:
        folder: of the instance.
    """

    def __init__(self, folder: InstanceFolder) -> None:
        self._folder = folder
        self._descriptor = -1  # of the file that this process has written
        self._whole = self._changes = 0

    def keep(self, packed: bytes) -> None:
        """Replace the table atomically. If that fails, remove it: no table is better than an outdated one."""
        fresh = self._folder.path / f"{NAME}.new"
        self._close()
        try:
            self._folder.write(fresh.name, LENGTH.pack(len(packed)) + packed)
            self._descriptor = os.open(fresh, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
            os.replace(fresh, self._folder.path / NAME)
        except OSError as error:
            self._remove(error)
        self._whole, self._changes = len(packed), 0

    def add(self, packed: bytes) -> bool:
        """Add a change of the table. Returns False, and does nothing, if the table is to be written whole instead. If
        it fails, the file is removed as by :meth:`keep`."""
        if self._descriptor < 0 or self._changes + len(packed) > max(self._whole, SHORT):
            return False
        data = memoryview(LENGTH.pack(len(packed)) + packed)
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            self._remove(error)
        self._changes += len(packed)
        return True

    def read(self) -> KeptTable | None:
        """The table, which the caller must close; None if there is none or it cannot be read."""
        try:
            file = self._folder.open(NAME)
        except FileNotFoundError:
            return None
        except (OSError, ServeException) as error:
            log.warning("the last routing table cannot be used: %s", error)
            return None
        try:
            data = file.read()
            return KeptTable(_table_in(data), file, self._folder.path / NAME, len(data))
        except (OSError, WireError, WrongBaseError) as error:
            file.close()
            log.warning("the last routing table cannot be used: %s", error)
            return None

    def _remove(self, error: OSError) -> None:
        log.warning("the routing table cannot be kept: %s", error)
        self._close()
        for name in (NAME, f"{NAME}.new"):
            (self._folder.path / name).unlink(missing_ok=True)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _table_in(data: bytes) -> RoutingTable:
    """The table of a file.

    Raises:
        WireError, WrongBaseError: there is none.
    """
    first, *changes = list(_pieces(data)) or [b""]
    table = unpack(first, RoutingTable)
    for change in changes:
        table = apply_change(table, unpack(change, TableChange))
    return table


def _pieces(data: bytes) -> Iterator[bytes]:
    """The pieces of a file that are whole."""
    position = 0
    while position + LENGTH.size <= len(data):
        start = position + LENGTH.size
        position = start + LENGTH.unpack_from(data, position)[0]
        if position <= len(data):
            yield data[start:position]
