"""A number of replicas that somebody fixes: what ``client.scale`` waits for. In virtual time, with fake processes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from pointsman.controller.waiters import StartFailure
from pointsman.model import Resources
from pointsman.model.scaling import Autoscaling
from pointsman.testing.fake_engine import ReplicaPlan
from pointsman.wire.commands import Await
from pointsman.wire.scaling import ScaleBackend
from tests.loop.world import World, in_world

UP_TO_9 = Autoscaling(max_replicas=9)


async def scale(world: World, replicas: int, tag: str = "b") -> None:
    """What ``client.scale`` does."""
    accepted = await world.change(ScaleBackend(world.new_id(), tag, replicas, 600.0, by="anna"))
    command = Await(world.new_id(), accepted.version, tag, False, 300, fixed=True)
    await world.controller.wait(command, frozenset(), world.progress.append)


def serving(world: World, tag: str = "b") -> int:
    return len(world.controller.table.backends[tag].replicas)


def test_who_fixes_a_number_has_it_when_the_call_returns(tmp_path: Path) -> None:
    """``scale`` returns when as many replicas serve as were asked for; when fewer are wanted it does not wait for those
    that have calls (AS12, SO7)."""

    async def test(world: World) -> None:
        await world.create(autoscaling=UP_TO_9)
        world.plan = ReplicaPlan(ready_s=60.0, drain_s=None)
        await scale(world, 4)
        assert serving(world) == 4
        await scale(world, 1)
        assert serving(world) == 1
        assert len(world.engine.of("b")) == 4, "those that leave have their calls yet"

    in_world(tmp_path, test)


def test_a_fixed_number_without_room_for_all(tmp_path: Path) -> None:
    """Where two of three replicas have room, ``scale`` returns when these two serve (AS15)."""

    async def test(world: World) -> None:
        order = world.create_order(autoscaling=UP_TO_9)
        gpu = Resources(num_cpus=0, num_gpus=1)
        accepted = await world.change(msgspec.structs.replace(order, resources=gpu), b"code 1")
        await world.wait(accepted.version, "b")
        await scale(world, 3)
        assert serving(world) == 2
        assert world.controller.desired.wanted("b") == 3

    in_world(tmp_path, test)


def test_a_fixed_number_that_does_not_start(tmp_path: Path) -> None:
    """``scale`` raises what the constructor raises, and does not wait for ever. Fewer can be had meanwhile, and the
    next call tries it anew (AS12, F6)."""

    async def test(world: World) -> None:
        await world.create(autoscaling=UP_TO_9)
        world.plan = ReplicaPlan(constructor_error="no such file")
        with pytest.raises(StartFailure, match="no such file"):
            await scale(world, 3)
        assert serving(world) == 1
        await scale(world, 1)
        world.plan = ReplicaPlan()
        await asyncio.sleep(60.0)
        await scale(world, 3)
        assert serving(world) == 3

    in_world(tmp_path, test)


def test_a_number_fixed_by_others_meanwhile(tmp_path: Path) -> None:
    """Who waits for a number that somebody else lowers waits for the lower one (AS12)."""

    async def test(world: World) -> None:
        await world.create(autoscaling=UP_TO_9)
        world.plan = ReplicaPlan(ready_s=None)
        waits = asyncio.ensure_future(scale(world, 3))
        await asyncio.sleep(1.0)
        assert not waits.done()
        await scale(world, 1)
        await waits
        assert serving(world) == 1

    in_world(tmp_path, test)
