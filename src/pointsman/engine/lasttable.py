"""The newest routing table, in the instance's folder: an HTTP server that begins while there is no controller serves by
it. The controller keeps it before any router is told, so that it is never older than a change that was acknowledged.
"""

from __future__ import annotations

import logging
import os

from pointsman.engine.folder import InstanceFolder
from pointsman.exceptions import ServeException
from pointsman.model import RoutingTable
from pointsman.wire.frames import WireError
from pointsman.wire.messages import unpack

log = logging.getLogger(__name__)

NAME = "table"


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

    def read(self) -> RoutingTable | None:
        """The table; None where none is kept."""
        try:
            return unpack(self._folder.read(NAME), RoutingTable)
        except FileNotFoundError:
            return None
        except (OSError, ServeException, WireError) as error:
            log.warning("the last routing table cannot be used: %s", error)
            return None
