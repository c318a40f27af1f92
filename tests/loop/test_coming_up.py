"""controller.run and controller.waiters: when an instance has come up, and after which deaths it still has."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from pointsman.controller.run import watch_start
from pointsman.controller.state import of_this_start
from pointsman.testing import FakeEngine, FakePeers, ReplicaPlan
from pointsman.wire.commands import ComeUp
from tests.loop.world import World, in_world


def watched(world: World) -> asyncio.Future[None]:
    """What a controller process does beside its controller."""
    return asyncio.ensure_future(watch_start(world.controller, world.handover.settings))


async def stopped(world: World, watching: asyncio.Future[None]) -> None:
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await world.stop()


async def start_anew(world: World) -> None:
    """The whole instance starts again, with an id of its own and what is stored."""
    settings = msgspec.structs.replace(world.handover.settings, instance="another")
    world.handover = msgspec.structs.replace(world.handover, settings=settings)
    world.engine = FakeEngine(lambda note: world.plan_of(note))
    world.peers = FakePeers(world.engine)
    world.peers.add_router(1)
    await world.start()


def test_an_empty_instance_is_ready_once_it_serves(tmp_path: Path) -> None:
    """I start an instance and deploy to it later: it is ready from the start, also while my first model loads (PK3)."""

    async def test(world: World) -> None:
        version = world.controller.desired.version
        await watched(world)
        assert world.controller.desired.version == version, "no change of mine"
        await asyncio.sleep(1)
        assert world.controller.table.came_up
        world.plan = ReplicaPlan(ready_s=100)
        await world.change(world.create_order("b"), b"code 1")
        await asyncio.sleep(1)
        assert world.controller.table.came_up

    in_world(tmp_path, test)


def test_a_restored_instance_is_ready_once_its_backends_are(tmp_path: Path) -> None:
    """After a restart balancers send nothing before every stored backend is up; whoever dies after that changes
    nothing, also if the controller dies then (PK3, G4, G8)."""

    async def test(world: World) -> None:
        watching = watched(world)
        await world.create("quick")
        await world.create("slow")
        await stopped(world, watching)
        world.plan = ReplicaPlan(ready_s=10)
        await start_anew(world)
        watching = watched(world)
        await asyncio.sleep(9)
        assert not world.controller.table.came_up
        await watching
        await asyncio.sleep(1)
        assert world.controller.table.came_up

        world.plan = ReplicaPlan(ready_s=1000)
        world.engine.exit(world.engine.of("slow")[0].number)
        await stopped(world, watching)
        await world.start()
        await watched(world)
        await asyncio.sleep(5)
        assert world.controller.table.came_up

    in_world(tmp_path, test)


def test_a_stored_backend_that_cannot_start_does_not_hold_the_others(tmp_path: Path) -> None:
    """One model's file is gone after a restart: once that has failed three times the instance is ready, and serves the
    others (PK3, G8, IN10)."""

    async def test(world: World) -> None:
        await world.create("good")
        await world.create("bad")
        await world.stop()
        plans = {"good": ReplicaPlan(), "bad": ReplicaPlan(constructor_error="no such file")}
        world.plan_of = lambda note: plans[note.backend]  # type: ignore[method-assign]
        await start_anew(world)
        await watched(world)
        assert world.controller.observed.failures["bad"].count >= 3

    in_world(tmp_path, test)


def test_whoever_starts_an_instance_can_say_when_it_is_ready(tmp_path: Path) -> None:
    """`pointsman run` says so itself, once what it deploys is there (PK3)."""

    async def test(world: World) -> None:
        settings = msgspec.structs.replace(world.handover.settings, ready_when_told=True)
        await watch_start(world.controller, settings)
        await world.create("b")
        assert not world.controller.table.came_up
        await world.change(ComeUp(world.new_id(), settings.instance))
        await asyncio.sleep(1)
        assert world.controller.table.came_up
        assert of_this_start(world.controller.desired, settings.instance).came_up
        assert not of_this_start(world.controller.desired, "another").came_up

    in_world(tmp_path, test)
