"""Routers that count the calls of backends whose number of replicas follows them; a link that keeps what is told."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from pointsman.model import RoutingTable
from pointsman.model.scaling import Demand
from pointsman.routing.reports import Reports
from pointsman.routing.router import Router
from pointsman.testing import INSTANCE, settle, virtual_loop
from pointsman.wire.frames import Kind
from pointsman.wire.messages import unpack
from pointsman.wire.scaling import DemandHead


class Told:
    """A link to a controller that keeps each frame, with the time at which it came.

    Attributes:
        up: whether there is a controller.
    """

    def __init__(self) -> None:
        self.links = 1
        self.up = True
        self.frames: list[tuple[float, dict[str, Demand]]] = []

    def tell(self, kind: Kind, head: bytes) -> bool:
        assert kind is Kind.DEMAND
        if self.up:
            self.frames.append((virtual_loop().time(), unpack(head, DemandHead).backends))
        return self.up

    def of(self, tag: str) -> list[tuple[float, Demand]]:
        """What was told of one backend."""
        return [(at, backends[tag]) for at, backends in self.frames if tag in backends]


def scaling(table: RoutingTable, *tags: str, **fields: Any) -> RoutingTable:
    """The table, with backends whose number of replicas follows their calls; all if none is named."""
    backends = {
        tag: msgspec.structs.replace(route, scales=True, **fields) if tag in tags or not tags else route
        for tag, route in table.backends.items()
    }
    return msgspec.structs.replace(table, backends=backends)


@contextlib.asynccontextmanager
async def counting(table: RoutingTable, link: Told, draw: float = 0.5) -> AsyncIterator[Router]:
    """A router that tells the link what it counts; at the end it must not contradict itself."""
    router = Router(instance=INSTANCE, draw=lambda: draw, reporter=Reports(link).reporter())
    router.apply(table)
    await settle()
    yield router
    await settle()
    router.validate()
    await router.aclose()
