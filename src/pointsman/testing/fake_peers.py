"""The peers of a controller without processes: replicas of a fake engine, and routers that confirm tables.

Used by tests of the controller, beside :mod:`pointsman.testing.fake_engine`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from pointsman.model import RoutingTable
from pointsman.testing.fake_engine import ControllerEvents, FakeEngine
from pointsman.wire.frames import Kind
from pointsman.wire.tables import TableChange, apply_change


class FakePeers:
    """Implements :class:`pointsman.controller.orders.Peers`: replicas of a fake engine, and routers that confirm.

    Args:
        engine: has the replicas.

    Attributes:
        tables: all tables that were published.
        routers: seconds that each router takes to confirm a table, by its number; None if it never does.
        ingresses: numbers of the routers in ingresses.
    """

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self._controller: ControllerEvents | None = None
        self._loop = asyncio.get_running_loop()
        self.tables: list[RoutingTable] = []
        self.routers: dict[int, float | None] = {}
        self.ingresses: set[int] = set()

    def attach(self, controller: ControllerEvents) -> None:
        """Serve this controller from now on; the routers subscribe to it.

        Args:
            controller: the controller.
        """
        self._controller = controller
        for number in self.routers:
            controller.router_confirmed(number, 0)

    def add_router(self, number: int, *, confirm_s: float | None = 0.0, ingress: bool = True) -> None:
        """A router subscribes.

        Args:
            number: of the router.
            confirm_s: seconds that it takes to confirm a table; None for never.
            ingress: whether it is in an HTTP server.
        """
        self.routers[number] = confirm_s
        if ingress:
            self.ingresses.add(number)
        if self._controller is not None:
            self._controller.router_confirmed(number, 0)
            if self.tables:
                self._send(number, confirm_s, self.tables[-1].version)

    def remove_router(self, number: int) -> None:
        """A router's process has ended.

        Args:
            number: of the router.
        """
        del self.routers[number]
        self.ingresses.discard(number)
        if self._controller is not None:
            self._controller.router_lost(number)

    def replicas_in_table(self, backend: str) -> Iterator[int]:
        """Numbers of a backend's replicas in the newest table.

        Args:
            backend: its tag.

        Returns:
            The numbers.
        """
        return (ref.number for ref in self.tables[-1].backends[backend].replicas)

    # Peers

    def send_to_replica(self, number: int, kind: Kind, head: bytes, body: bytes = b"") -> None:
        """Hand a message to the engine's replica.

        Args:
            number: of the replica.
            kind: of the message.
            head: of the message, packed.
            body: of the message.
        """
        self._engine.tell(number, kind, head, body)

    def request_health(self, number: int) -> None:
        """Ask a replica's health thread.

        Args:
            number: of the replica.
        """
        self._engine.ask(number)

    def publish(self, table: RoutingTable, change: TableChange | None) -> None:
        """Send a table to all routers.

        Args:
            table: the new table.
            change: what makes it of the one before; None for the first.

        Raises:
            AssertionError: the change does not make this table of the one before.
        """
        if change is not None and apply_change(self.tables[-1], change) != table:
            raise AssertionError(f"the change does not make table {table.version} of the one before: {change}")
        self._engine.note("publish", table.version)
        self.tables.append(table)
        for number, confirm_s in self.routers.items():
            self._send(number, confirm_s, table.version)

    def send_to_ingresses(self, kind: Kind, head: bytes = b"") -> None:
        """Send nothing: there is no HTTP server.

        Args:
            kind: of the message.
            head: of the message, packed.
        """

    def ingress_routers(self) -> frozenset[int]:
        """The numbers of the routers in HTTP servers."""
        return frozenset(self.ingresses)

    def _send(self, number: int, confirm_s: float | None, version: int) -> None:
        if confirm_s is not None and self._controller is not None:
            self._loop.call_later(confirm_s, self._confirm, self._controller, number, version)

    def _confirm(self, controller: ControllerEvents, number: int, version: int) -> None:
        if controller is self._controller and number in self.routers:
            self._engine.note("confirm", version)
            controller.router_confirmed(number, version)
