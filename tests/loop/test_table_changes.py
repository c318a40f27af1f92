"""Routing tables on their way: what changes is sent, and who lacks what it changes gets the whole."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from typing import Any

import pytest

from pointsman.calling.session import Credentials, Session
from pointsman.ingress.app import IngressApp
from pointsman.model import EndpointSpec, Origin, Pins, RoutingTable, TrafficPolicy
from pointsman.routing.router import Router
from pointsman.testing import INSTANCE, run, settle
from pointsman.wire.commands import CreateEndpoint, SetTraffic
from pointsman.wire.frames import Frame, Kind
from pointsman.wire.handover import HTTPSettings
from pointsman.wire.messages import pack
from pointsman.wire.stream import Stream
from pointsman.wire.tables import TableChange, difference
from tests.loop.linked import LinkedWorld, in_linked_world
from tests.loop.routers import several, table_for
from tests.loop.test_losses import create
from tests.properties import tries

SETTINGS = HTTPSettings("x", 0, False, 300.0, 1024, True, b"", Origin("", ()))


class Sent:
    """What is sent to routers' links from now on, by kind; ``lost`` frames of changes get lost one by one."""

    def __init__(self, world: LinkedWorld) -> None:
        self.bytes: Counter[Kind] = Counter()
        self.frames: Counter[Kind] = Counter()
        self.lost = 0
        receive = world.router.stream_frames

        def receives(stream: Stream, frames: list[Frame]) -> None:
            arrived = []
            for frame in frames:
                self.bytes[Kind(frame.kind)] += len(frame.body)
                self.frames[Kind(frame.kind)] += 1
                if frame.kind == Kind.TABLE_CHANGE and self.lost:
                    self.lost -= 1
                else:
                    arrived.append(frame)
            receive(stream, arrived)

        world.router.stream_frames = receives  # type: ignore[method-assign]


def new_endpoint(name: str, route: str) -> CreateEndpoint:
    return CreateEndpoint(f"create {name}", name, "b", route, ("GET",), False)


def test_a_change_among_a_thousand_endpoints_sends_what_it_changes() -> None:
    """Who changes the traffic of one endpoint among 1,000 has a few hundred bytes sent to each router, as many as among
    ten; the first table that a router gets is whole (CL4)."""

    async def test(world: LinkedWorld) -> None:
        for tag in ("b", "c"):
            await world.carry_out(create(tag, tag), b"code 1", backend=tag)
        for number in range(1000):
            await world.change(new_endpoint(f"e{number}", f"/e/{number}"))
        await world.carry_out(new_endpoint("last", "/last"), backend=None)
        sent = Sent(world)
        await world.carry_out(SetTraffic("s", "e7", {"b": 0.5, "c": 0.5}, None, True), backend=None)
        assert world.tables[-1].endpoints["e7"].policy.weights == {"b": 0.5, "c": 0.5}
        assert sent.frames[Kind.TABLE_CHANGE] == 1
        assert sent.frames[Kind.TABLE] == 0
        assert sent.bytes[Kind.TABLE_CHANGE] < 300
        late = world.link("ingress", on_table=lambda table, change: tables.append((table, change)))
        tables: list[tuple[RoutingTable, TableChange | None]] = []
        late.subscribe(ingress=True, pid=2)
        await late.start()
        await world.carry_out(new_endpoint("more", "/more"), backend=None)
        assert [change is None for _, change in tables] == [True, False]
        assert len(tables[0][0].endpoints) == 1001
        assert tables[1][0] == world.tables[-1]
        await late.aclose()

    in_linked_world(test)


@pytest.mark.parametrize("lost", [1, 3])
def test_a_router_that_missed_a_change_gets_the_whole(lost: int) -> None:
    """A router whose table is not the one that a change is based on refuses it, asks for the whole once, and serves by
    the newest from then on; it counts as one router, as before (CL4, FT7)."""

    async def test(world: LinkedWorld) -> None:
        await world.carry_out(create("c", "b"), b"code 1", backend="b")
        sent = Sent(world)
        sent.lost = lost
        for number in range(lost):
            await world.change(new_endpoint(f"missed{number}", f"/{number}"))
            await asyncio.sleep(0.1)
        assert world.tables[-1].endpoints == {}
        await world.carry_out(new_endpoint("e", "/e"), backend=None)
        assert set(world.tables[-1].endpoints) == {"e", *(f"missed{number}" for number in range(lost))}
        assert sent.frames[Kind.TABLE] == 1
        await world.carry_out(new_endpoint("f", "/f"), backend=None)
        assert "f" in world.tables[-1].endpoints
        assert sent.frames[Kind.TABLE] == 1
        versions = [table.version for table in world.tables]
        assert versions == sorted(set(versions))
        assert len(world.controller.observed.confirmed) == len(world.connections.ingress_routers()) == 1

    in_linked_world(test)


def test_changes_that_come_before_the_whole_are_not_asked_for_again() -> None:
    """While the whole table is on its way, further changes do not have it sent once more."""

    async def test(world: LinkedWorld) -> None:
        await world.carry_out(create("c", "b"), b"code 1", backend="b")
        sent = Sent(world)
        sent.lost = 1
        versions = [await world.change(new_endpoint(f"e{number}", f"/{number}")) for number in range(20)]
        await world.wait(versions[-1], None)
        assert len(world.tables[-1].endpoints) == 20
        assert sent.frames[Kind.TABLE] <= 1

    in_linked_world(test)


def test_a_loop_that_stands_still_delays_no_change() -> None:
    """A script runs its own loop now and then: in between, a backend that comes up does not wait for that loop to
    connect to it (SO1)."""
    session = Session(Credentials(INSTANCE, "nowhere", "operator", "", b"", 60.0))
    asked = []

    class Known:
        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            self.loop = loop

        async def connected(self) -> None:
            asked.append(self.loop)

    async def main() -> None:
        dispatchers: Any = {loop: (Known(loop), None) for loop in (still, asyncio.get_running_loop())}
        session._loop_dispatchers = dispatchers
        await session._connected()
        assert asked == [asyncio.get_running_loop()]

    with contextlib.closing(asyncio.new_event_loop()) as still, contextlib.closing(session._loop):
        run(main())


def test_a_client_that_is_shut_down_leaves_no_waits() -> None:
    """A client is shut down while a loop of its process connects to a new replica: nothing waits for that any more, so
    that nothing is said of it at the exit."""
    session = Session(Credentials(INSTANCE, "nowhere", "operator", "", b"", 60.0))

    class Slow:
        def __init__(self) -> None:
            self.loop = asyncio.get_running_loop()

        async def connected(self) -> None:
            await asyncio.sleep(60)

    async def main() -> None:
        dispatchers: Any = {asyncio.get_running_loop(): (Slow(), None)}
        session._loop_dispatchers = dispatchers
        waiting = asyncio.ensure_future(session._connected())
        await settle()
        assert len(asyncio.all_tasks()) == 3
        waiting.cancel()
        await settle()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with contextlib.closing(session._loop):
        run(main())


def tables(chance: random.Random, replicas: Any, count: int) -> list[RoutingTable]:
    """Tables one after the other, of which each differs in a few entries from the one before."""
    found = []
    endpoints: dict[str, EndpointSpec] = {}
    pins: dict[str, bytes] = {}
    used = "ab"
    for version in range(1, count + 1):
        for name in chance.sample("uvwxyz", 2):
            endpoints.pop(name, None)
            pins.pop(name, None)
            taken = {endpoint.route for endpoint in endpoints.values()}
            route = chance.choice([None, "/one", "/two", "/t/{a}", "/t/{a}/{b:path}"])
            if route is not None and route in taken:
                continue
            if chance.random() < 0.8:
                weights = dict(zip(used, [0.25, 0.75] if chance.random() < 0.5 else [1.0, 0.0], strict=True))
                shadows = {used[0]: 0.5} if chance.random() < 0.3 else {}
                policy = TrafficPolicy(version, weights, shadows)
                endpoints[name] = EndpointSpec(name, route, ("GET",), policy)
                if chance.random() < 0.3:
                    pins[name] = pack(Pins({"k": used[1]}))
        backends = table_for(version, {tag: replicas[tag] for tag in "abc"[: chance.randint(2, 3)]}, {}).backends
        found.append(RoutingTable(version, dict(endpoints), backends, dict(pins)))
    return found


@pytest.mark.parametrize("seed", range(tries(20, 300)))
def test_a_router_that_gets_changes_is_like_one_that_gets_everything(seed: int) -> None:
    """However tables change and whichever are missed, an HTTP server that gets changes matches the same paths and
    chooses the same backends as one that got the last table alone (CL4, TR6)."""
    chance = random.Random(seed)

    async def main() -> None:
        replicas = several("abc")
        routers = [Router(instance=INSTANCE) for _ in range(2)]
        changed, whole = (IngressApp(router, SETTINGS) for router in routers)
        before = RoutingTable(0, {}, {})
        for table in tables(chance, replicas, 8):
            if chance.random() < 0.8:  # or it is missed
                changed.apply(table, difference(before, table))
                routers[0].validate()
            before, last = table, table
        changed.apply(last)
        whole.apply(last)
        for path in ("/one", "/two", "/t/1", "/t/1/2", "/t", "/t/"):
            assert changed._matcher.match(path) == whole._matcher.match(path)
        assert routers[0]._choosers.keys() == routers[1]._choosers.keys()
        for name, chooser in routers[0]._choosers.items():
            for key in (None, "k", "other"):
                assert chooser.explain(key) == routers[1]._choosers[name].explain(key)
        assert routers[0]._shadows.keys() == routers[1]._shadows.keys()
        for router in routers:
            router.validate()
            await router.aclose()

    run(main())
