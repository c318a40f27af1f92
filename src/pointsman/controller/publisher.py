"""The newest routing table: made from desired and observed state, and sent when it has changed."""

from __future__ import annotations

from typing import Protocol

import msgspec

from pointsman.controller.observed import Observed, Phase
from pointsman.controller.state import Desired
from pointsman.controller.tables import Keys, routing_table
from pointsman.model import RoutingTable


class Routers(Protocol):
    """The connections to whoever routes."""

    def publish(self, table: RoutingTable) -> None: ...


class Publisher:
    """See the module.

    Args:
        routers: get each table.
        keys: what opens replicas; goes into the table.
        version: tables have larger ones.

    Attributes:
        table: the newest.
        published: whether there is one yet.
    """

    def __init__(self, routers: Routers, keys: Keys, *, version: int) -> None:
        self._routers = routers
        self._keys = keys
        self.table = RoutingTable(version, {}, {})
        self.published = False

    def publish(self, desired: Desired, observed: Observed, now: float) -> bool:
        """Send the table if it has changed, and note who is not in it any more; True when somebody is so for the first
        time.

        Waits until adopted replicas have reported: a table without them would stop traffic that flows.
        """
        if any(replica.adopted for replica in observed.replicas.values()):
            return False
        table = routing_table(desired, observed, self._keys, version=self.table.version + 1)
        if not self.published or msgspec.structs.replace(table, version=self.table.version) != self.table:
            self.table, self.published = table, True
            self._routers.publish(table)
        gone = [r for r in observed.replicas.values() if r.phase is Phase.LEAVING and not r.left_at]
        for replica in gone:
            replica.left_at, replica.since = self.table.version, now
        return bool(gone)
