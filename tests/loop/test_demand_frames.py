"""What routers count, on its way to a controller: over real links in memory, which break, and by those who may."""

from __future__ import annotations

import asyncio

import pytest

from pointsman.model.scaling import Demand
from pointsman.routing.reports import Reports
from pointsman.routing.router import Router
from pointsman.testing import INSTANCE, ScriptedReplica, new_call, settle, table_of, virtual_loop
from pointsman.wire.auth import ROLE_INGRESS, ROLE_OPERATOR, ROLE_REPLICA
from pointsman.wire.frames import Kind
from pointsman.wire.messages import pack
from pointsman.wire.scaling import DEMAND_PERIOD_S, DemandHead
from tests.loop.counted import scaling
from tests.loop.linked import LinkedWorld, in_linked_world


def router_of(world: LinkedWorld, *replicas: ScriptedReplica) -> Router:
    """A router that reports by the link of the world's HTTP server."""
    router = Router(instance=INSTANCE, reporter=Reports(world.router).reporter())
    router.apply(scaling(table_of(1, {"b": list(replicas)})))
    return router


def test_calls_reach_the_controller_and_go_with_their_router() -> None:
    """What an HTTP server counts is known to the controller within half a second, a call that finds no replica at once;
    when the server is killed its calls are gone at once (AS20)."""

    async def test(world: LinkedWorld) -> None:
        collector = world.connections.demand
        heard: list[list[str]] = []
        collector.on_waiting = heard.append
        router = router_of(world)
        router.submit(new_call())
        await settle()
        assert heard == [["b"]]
        assert collector.demand_of("b").waiting == 1
        replica = ScriptedReplica()
        router.apply(scaling(table_of(2, {"b": [replica]})))
        await asyncio.sleep(DEMAND_PERIOD_S + 0.01)
        found = collector.demand_of("b")
        assert (found.waiting, found.running, found.arrivals) == (0, 1, 1)
        await world.router.aclose()
        await settle()
        found = collector.demand_of("b")
        assert (found.waiting, found.running, found.arrivals) == (0, 0, 1)
        assert not collector.is_silent("b")
        await router.aclose()

    in_linked_world(test)


def test_a_link_that_breaks_counts_nothing_twice() -> None:
    """A router whose connection breaks, and that comes back, is the same demand as before: neither its past nor what it
    has counted meanwhile looks like a burst (AS20)."""

    async def test(world: LinkedWorld) -> None:
        collector, replica = world.connections.demand, ScriptedReplica()
        router = router_of(world, replica)
        await settle()
        for _ in range(4):
            router.submit(new_call(timeout_s=600))
        await asyncio.sleep(20)
        before = collector.demand_of("b")
        assert before.call_s == pytest.approx(80, abs=2.1)
        for pipe in world.server.pipes:
            pipe.cut()
        await settle()
        assert collector.demand_of("b").running == 0
        at, last = virtual_loop().time(), collector.demand_of("b").call_s
        for _ in range(20):
            await asyncio.sleep(0.25)
            now, shown = virtual_loop().time(), collector.demand_of("b").call_s
            assert shown - last <= 4 * (now - at) + 4 * 2 * DEMAND_PERIOD_S + 0.01
        assert collector.demand_of("b").running == 4
        assert collector.demand_of("b").arrivals == 4
        await router.aclose()

    in_linked_world(test)


def test_only_processes_with_routers_may_say_what_they_count() -> None:
    """A connection that has not subscribed to routing tables, or sends garbage, is closed."""

    async def test(world: LinkedWorld) -> None:
        driver, router = world.driver._stream, world.router._stream
        assert driver is not None
        assert router is not None
        assert not world.driver.tell(Kind.DEMAND, pack(DemandHead({})))
        driver.send(Kind.DEMAND, 0, pack(DemandHead({"b": Demand(waiting=3)})))
        router.send(Kind.DEMAND, 0, b"garbage")
        await settle()
        assert driver.closed
        assert router.closed
        assert world.connections.demand.demand_of("b") == Demand()

    in_linked_world(test)


@pytest.mark.parametrize(
    ("role", "kind"),
    [
        *((ROLE_REPLICA, kind) for kind in (Kind.COMMAND, Kind.SUBSCRIBE, Kind.DEMAND)),
        *((ROLE_INGRESS, kind) for kind in (Kind.COMMAND, Kind.MODELS)),
        (ROLE_OPERATOR, Kind.MODELS),
    ],
)
def test_no_key_is_good_for_another_role(role: str, kind: Kind) -> None:
    """The key of a replica neither scales nor wakes a backend, and reports no calls for one; that of an HTTP server
    commands nothing; and nobody but a replica says which models it holds. Whoever tries is disconnected."""

    async def test(world: LinkedWorld) -> None:
        link = world.link(role, "7" if role == ROLE_REPLICA else "")
        await link.start()
        stream = link._stream
        assert stream is not None
        stream.send(kind, 1, b"")
        await settle()
        assert stream.closed
        await link.aclose()

    in_linked_world(test)
