"""A file with the newest routing table, by which an ingress that starts while there is no controller serves (decision
0033). It is written before the table is sent to routers, so it is never older than an acknowledged change.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import BinaryIO

from pointsman.engine.local.folder import InstanceFolder
from pointsman.exceptions import ServeException
from pointsman.model import RoutingTable
from pointsman.wire.frames import WireError
from pointsman.wire.messages import unpack

log = logging.getLogger(__name__)

NAME = "table"


class KeptTable:
    """A table read from the file.

    Args:
        table: the table.
        file: the file that it was read from; held open, so that its inode number is not reused.
        path: of that file.
    """

    def __init__(self, table: RoutingTable, file: BinaryIO, path: Path) -> None:
        self.table = table
        self._file = file
        self._path = path

    def is_newest(self) -> bool:
        """True if the file was neither replaced nor removed since."""
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._file.fileno()))
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

    def keep(self, packed: bytes) -> None:
        """Replace the table atomically. If that fails, remove it: no table is better than an outdated one."""
        fresh = f"{NAME}.new"
        try:
            self._folder.write(fresh, packed)
            os.replace(self._folder.path / fresh, self._folder.path / NAME)
        except OSError as error:
            log.warning("the routing table cannot be kept: %s", error)
            for name in (NAME, fresh):
                (self._folder.path / name).unlink(missing_ok=True)

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
            return KeptTable(unpack(file.read(), RoutingTable), file, self._folder.path / NAME)
        except (OSError, WireError) as error:
            file.close()
            log.warning("the last routing table cannot be used: %s", error)
            return None
