"""ingress.firsttable: an HTTP server that begins, a controller that lives, hangs, wakes or has died, and changes at the
worst moments. Whatever was acknowledged when a request comes is in force for it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from pointsman.engine.local.folder import InstanceFolder
from pointsman.engine.local.lasttable import NAME, KeptTable, LastTable
from pointsman.ingress.app import IngressApp
from pointsman.ingress.codec import Scope
from pointsman.ingress.firsttable import PATIENCE_S, FirstTable
from pointsman.model import EndpointSpec, Origin, RoutingTable, TrafficPolicy
from pointsman.routing.router import Router
from pointsman.testing import INSTANCE, run
from pointsman.wire.handover import HTTPSettings
from pointsman.wire.messages import pack

NONE = -1
"""Version by which a request was answered that was refused for want of a table."""


class PausedAfterReading:
    """The file, and a process that is stopped right after it has read it, while ``meanwhile`` happens."""

    def __init__(self, kept: LastTable) -> None:
        self._kept = kept
        self.meanwhile: Callable[[], object] = lambda: None
        self.reads = 0

    def read(self) -> KeptTable | None:
        table = self._kept.read()
        self.reads += 1
        self.meanwhile()
        return table


class Instance:
    """A controller as an HTTP server sees it, and that server. Each version has a route of its own."""

    def __init__(self, folder: Path) -> None:
        self.kept = LastTable(InstanceFolder(folder))
        self.file = PausedAfterReading(self.kept)
        self.router = Router(instance=INSTANCE)
        self.app = IngressApp(self.router, HTTPSettings("x", 0, False, 300.0, 1024, True, b"", Origin("", ())))
        self.first = FirstTable(self.app, self.file)
        self.version = self.acknowledged = 0
        self.counts_us = False
        self.on_its_way: list[RoutingTable] = []

    def change(self) -> None:
        """Kept, sent to whom it counts, and acknowledged unless somebody has to use it first."""
        self.version += 1
        self.kept.keep(pack(self.table))
        if self.counts_us:
            self.on_its_way.append(self.table)
        else:
            self.acknowledged = self.version

    @property
    def table(self) -> RoutingTable:
        name = str(self.version)
        spec = EndpointSpec(name, f"/{name}", ("GET",), TrafficPolicy(self.version, {"b": 1.0}, {}))
        return RoutingTable(self.version, {name: spec}, {})

    def subscribe(self, *, published: bool = True) -> None:
        """It hears of us."""
        self.counts_us = True
        if published:
            self.on_its_way.append(self.table)
        else:
            self.first.on_counted()

    def deliver(self) -> None:
        """What was sent arrives, and is confirmed."""
        for table in self.on_its_way:
            self.first.on_table(table)
            self.acknowledged = max(self.acknowledged, table.version)
        self.on_its_way.clear()

    async def ask(self) -> int:
        """A request; the version that it was answered by."""
        answered: list[int] = []

        async def send(message: dict[str, object]) -> None:
            answered.append(int(str(message.get("status", 0))))
            if message["type"] == "http.response.body":
                routes.append(bytes(message["body"]))  # type: ignore[call-overload]

        async def receive() -> dict[str, object]:
            return {"type": "http.disconnect"}

        routes: list[bytes] = []
        scope: Scope = {"type": "http", "method": "GET", "path": "/-/routes", "raw_path": b"/-/routes",
                        "query_string": b"", "headers": [], "state": {}}  # fmt: skip
        await self.app(scope, receive, send)
        if answered[0] == 503:
            return NONE
        for version in range(self.version, 0, -1):
            if f'"/{version}"'.encode() in routes[0]:
                return version
        raise AssertionError(routes)

    async def begin(self) -> None:
        """The server's own beginning, up to its first request."""
        await self.first.wait()


def with_instance(folder: Path, test: Callable[[Instance], Coroutine[object, object, None]]) -> None:
    async def main() -> None:
        instance = Instance(folder)
        await test(instance)
        await instance.router.aclose()

    run(main())


def test_while_the_controller_lives_it_is_waited_for(tmp_path: Path) -> None:
    """A new HTTP server does not look at the file: it serves by what the controller sends when it counts the server, so
    that a change meanwhile is in force from its first request on (CL4, G6)."""

    async def test(instance: Instance) -> None:
        instance.change()
        beginning = asyncio.ensure_future(instance.begin())
        await asyncio.sleep(0.8 * PATIENCE_S)
        instance.change()
        assert not beginning.done()
        instance.subscribe()
        instance.deliver()
        await beginning
        assert instance.file.reads == 0
        assert await instance.ask() == instance.acknowledged == 2
        assert instance.app.check_table is None

    with_instance(tmp_path, test)


def test_without_a_controller_it_serves_by_the_file(tmp_path: Path) -> None:
    """The controller is dead or stopped: after half a second the last table is good enough (F8, F9)."""

    async def test(instance: Instance) -> None:
        instance.change()
        await instance.begin()
        assert asyncio.get_running_loop().time() == pytest.approx(PATIENCE_S, abs=0.01)
        assert [await instance.ask() for _ in range(3)] == [1, 1, 1]
        assert instance.file.reads == 1

    with_instance(tmp_path, test)


def test_a_change_right_after_the_file_was_read(tmp_path: Path) -> None:
    """The server is paused right after it has read the file; the controller, which was stopped, goes on, makes a change
    and acknowledges it before it hears of the server: no request is answered by the older table (CL4, G6)."""

    async def test(instance: Instance) -> None:
        instance.change()
        instance.file.meanwhile = instance.change
        await instance.begin()
        assert instance.acknowledged == 2
        instance.file.meanwhile = lambda: None
        assert await instance.ask() == 2
        instance.change()
        assert await instance.ask() == 3
        instance.subscribe()
        instance.change()
        assert await instance.ask() >= instance.acknowledged == 3
        instance.deliver()
        assert await instance.ask() == instance.acknowledged == 4
        assert instance.app.check_table is None

    with_instance(tmp_path, test)


def test_a_controller_that_has_no_table_yet(tmp_path: Path) -> None:
    """Controller and server are killed together. The new controller waits for its replicas and counts the server, which
    serves by the file meanwhile; a change waits for it (F8, F10, CL4)."""

    async def test(instance: Instance) -> None:
        instance.change()
        beginning = asyncio.ensure_future(instance.begin())
        await asyncio.sleep(0.1)
        instance.file.meanwhile = instance.change
        instance.subscribe(published=False)
        await beginning
        assert asyncio.get_running_loop().time() == pytest.approx(0.1, abs=0.01)
        assert instance.acknowledged == 1
        assert await instance.ask() == 1
        instance.deliver()
        assert await instance.ask() == instance.acknowledged == 2

    with_instance(tmp_path, test)


def test_a_newer_table_that_cannot_be_had(tmp_path: Path) -> None:
    """The controller goes on and cannot write its next table down: requests are sent back until it has heard of the
    server, rather than answered by the one before (G6, F17)."""

    async def test(instance: Instance) -> None:
        instance.change()
        await instance.begin()
        instance.change()
        (tmp_path / NAME).unlink()
        assert await instance.ask() == NONE
        instance.subscribe()
        instance.deliver()
        assert await instance.ask() == 2

    with_instance(tmp_path, test)


def test_no_file_and_no_controller(tmp_path: Path) -> None:
    """Nothing is kept, as on a cluster: connections wait until the controller has sent its table (F10)."""

    async def test(instance: Instance) -> None:
        instance.first = FirstTable(instance.app, None)
        beginning = asyncio.ensure_future(instance.begin())
        await asyncio.sleep(10 * PATIENCE_S)
        assert not beginning.done()
        instance.change()
        instance.subscribe()
        instance.deliver()
        await beginning
        assert await instance.ask() == 1

    with_instance(tmp_path, test)


def test_a_server_that_is_stopped_before_it_has_a_table(tmp_path: Path) -> None:
    """It is told to end while it still waits: it ends (F12)."""

    async def test(instance: Instance) -> None:
        beginning = asyncio.ensure_future(instance.begin())
        await asyncio.sleep(PATIENCE_S / 2)
        instance.app.has_table.set()
        await beginning

    with_instance(tmp_path, test)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_comes_when(tmp_path: Path, seed: int) -> None:
    """Changes, pauses after each look at the file, a controller that hears of the server late, and requests in any
    order: none is answered by less than what was acknowledged when it came (CL4, G6)."""
    chance = random.Random(seed)

    async def test(instance: Instance) -> None:
        instance.change()
        instance.file.meanwhile = lambda: [instance.change() for _ in range(chance.choice((0, 0, 1, 2)))]
        beginning = asyncio.ensure_future(instance.begin())
        for _ in range(40):
            kind = chance.choice(("change", "ask", "ask", "time", "hear", "deliver"))
            if kind == "change":
                instance.change()
            elif kind == "time":
                await asyncio.sleep(chance.choice((0.05, 1.0)) * PATIENCE_S)
            elif kind == "hear" and not instance.counts_us and chance.random() < 0.2:
                instance.subscribe(published=chance.random() < 0.5)
            elif kind == "deliver":
                instance.deliver()
            elif kind == "ask" and beginning.done():
                before = instance.acknowledged
                assert await instance.ask() >= before
        instance.counts_us or instance.subscribe()
        instance.deliver()
        await beginning
        assert await instance.ask() == instance.version

    with_instance(tmp_path, test)
