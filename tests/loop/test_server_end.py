"""ingress.ending: an HTTP server that is asked to end, by the controller, by a signal, in order or in a hurry."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from pointsman.ingress.app import IngressApp
from pointsman.ingress.codec import Scope
from pointsman.ingress.ending import DRAIN_S, ServerEnd
from pointsman.model import Origin, RoutingTable
from pointsman.routing.router import Router
from pointsman.testing import INSTANCE, run
from pointsman.wire.handover import HTTPSettings

DELAY_S = 5.0


class Server:
    """A server that writes down when it is stopped, and with which limit."""

    def __init__(self) -> None:
        self.stops: list[tuple[float, float]] = []

    def stop(self, drain_s: float | None = None, *, patience_s: float | None = None) -> None:
        assert drain_s is not None
        self.stops.append((asyncio.get_running_loop().time(), drain_s))


class There:
    """A server with its app, up or not yet."""

    def __init__(self, *, delay_s: float = DELAY_S, up: bool = True) -> None:
        self.server = Server()
        self.router = Router(instance=INSTANCE)
        self.app = IngressApp(self.router, HTTPSettings("x", 0, False, 300.0, 1024, True, b"", Origin("", ())))
        self.end = ServerEnd(self.app, self.server, delay_s)
        if up:
            self.app.apply(RoutingTable(1, {}, {}, came_up=True))

    async def health(self) -> tuple[int, int]:
        """The status of ``/-/healthz`` and of ``/-/readyz``."""
        return await self.ask("/-/healthz"), await self.ask("/-/readyz")

    async def ask(self, path: str) -> int:
        statuses: list[int] = []

        async def send(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                statuses.append(int(str(message["status"])))

        async def receive() -> dict[str, object]:
            return {"type": "http.disconnect"}

        scope: Scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(),
                        "query_string": b"", "headers": [], "state": {}}  # fmt: skip
        await self.app(scope, receive, send)
        return statuses[0]


def test_it_is_not_ready_at_once_and_accepts_for_a_while() -> None:
    """On SIGTERM the balancer is told at once, and what it sends before it has noticed is still served; then the server
    drains, within the controller's limit (PK2, PK3)."""

    async def main() -> None:
        there = There()
        assert await there.health() == (200, 200)
        there.end.on_order(30.0, DELAY_S)
        there.end.on_signal(hurried=False)  # the supervisor's, which has no limit
        assert await there.health() == (200, 503)
        await asyncio.sleep(DELAY_S - 0.1)
        assert await there.health() == (200, 503)
        assert not there.server.stops
        await asyncio.sleep(0.2)
        assert await there.health() == (503, 503)
        assert there.server.stops == [(pytest.approx(DELAY_S), 30.0)]

    run(main())


HURRIES: dict[str, Callable[[ServerEnd], None]] = {
    "a second signal": lambda end: end.on_signal(hurried=True),
    "a shorter order": lambda end: end.on_order(1.0),
}


@pytest.mark.parametrize("how", HURRIES)
def test_a_second_signal_ends_the_wait(how: str) -> None:
    """A second signal hurries: nobody waits for balancers any more (PK2)."""

    async def main() -> None:
        there = There()
        there.end.on_order(30.0, DELAY_S)
        await asyncio.sleep(1)
        HURRIES[how](there.end)
        assert await there.health() == (503, 503)
        at, limit = there.server.stops[0]
        assert at == pytest.approx(1)
        assert limit == (1.0 if how == "a shorter order" else 30.0)
        await asyncio.sleep(2 * DELAY_S)
        assert len(there.server.stops) == 1

    run(main())


def test_without_a_controller_the_signal_suffices() -> None:
    """The controller hangs: the server accepts on as it was told at its start, and drains within the usual limit."""

    async def main() -> None:
        there = There()
        there.end.on_signal(hurried=False)
        await asyncio.sleep(DELAY_S + 1)
        assert there.server.stops == [(pytest.approx(DELAY_S), DRAIN_S)]

    run(main())


@pytest.mark.parametrize("up", [True, False])
def test_nobody_waits_without_need(up: bool) -> None:
    """By default, and before the server has anything to serve, an end begins at once (PK2)."""

    async def main() -> None:
        there = There(delay_s=DELAY_S if not up else 0.0, up=up)
        there.end.on_signal(hurried=False)
        assert there.server.stops == [(pytest.approx(0), DRAIN_S)]
        assert there.end.announced.is_set()
        assert there.app.has_table.is_set()

    run(main())


def test_a_server_is_not_ready_before_its_instance() -> None:
    """Before all backends are up the server is healthy and not ready: nobody restarts it, and nobody sends requests
    (PK3)."""

    async def main() -> None:
        there = There(up=False)
        assert await there.health() == (503, 503)
        there.app.apply(RoutingTable(1, {}, {}))
        assert await there.health() == (200, 503)
        there.app.apply(RoutingTable(2, {}, {}, came_up=True))
        assert await there.health() == (200, 200)

    run(main())
