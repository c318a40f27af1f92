"""The newest routing table, in the instance's folder: an HTTP server that begins while there is no controller serves by
it. The controller keeps it before any router is told, so that it is never older than a change that was acknowledged.
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
    """A table as it was kept.

    Args:
        table: what it says.
        file: where it was read from. It is held open, so that no later file can have its number.
        path: the name of that file.
    """

    def __init__(self, table: RoutingTable, file: BinaryIO, path: Path) -> None:
        self.table = table
        self._file = file
        self._path = path

    def is_newest(self) -> bool:
        """Whether no other was kept since, and this one was not removed."""
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._file.fileno()))
        except OSError:
            return False

    def close(self) -> None:
        """It will not be asked any more."""
        self._file.close()


class LastTable:
    """See the module.

    Args:
        folder: the instance's.
    """

    def __init__(self, folder: InstanceFolder) -> None:
        self._folder = folder

    def keep(self, packed: bytes) -> None:
        """Keep a table in place of the one before, whole; where that cannot be, keep none rather than an older one."""
        fresh = f"{NAME}.new"
        try:
            self._folder.write(fresh, packed)
            os.replace(self._folder.path / fresh, self._folder.path / NAME)
        except OSError as error:
            log.warning("the routing table cannot be kept: %s", error)
            for name in (NAME, fresh):
                (self._folder.path / name).unlink(missing_ok=True)

    def read(self) -> KeptTable | None:
        """The table, to be closed by whoever asks; None where none is kept."""
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
