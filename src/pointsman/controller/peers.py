"""The connections, as the controller uses them. ``service`` has them; tests have others."""

from __future__ import annotations

from typing import Protocol

from pointsman.controller.health import Asks
from pointsman.controller.orders import Tells
from pointsman.model import RoutingTable
from pointsman.wire.frames import Kind


class Peers(Tells, Asks, Protocol):
    """Replicas and routers."""

    def publish(self, table: RoutingTable) -> None: ...

    def ingress_routers(self) -> frozenset[int]: ...

    def tell_ingresses(self, kind: Kind, head: bytes = b"") -> None: ...
