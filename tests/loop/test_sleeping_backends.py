"""Backends at 0 replicas: how they get there, what a change of one does, and how they come back (ID1-ID4, AS14)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pointsman.controller.waiters import StartFailure
from pointsman.model import Autoscaling
from pointsman.testing import ReplicaPlan, settle
from pointsman.wire.commands import Await
from pointsman.wire.scaling import UnloadBackend, WakeBackend
from tests.loop.test_applying import apply, model
from tests.loop.world import World, in_world
from tests.unit.planning import served

ZERO = Autoscaling(min_replicas=0)


async def wake(world: World, tag: str = "b") -> None:
    """What ``client.wake`` does."""
    accepted = await world.change(WakeBackend(world.new_id(), tag, by="anna"))
    command = Await(world.new_id(), accepted.version, tag, False, 300, woken=True)
    await world.controller.wait(command, frozenset(), world.progress.append)


async def unload(world: World, tag: str = "b") -> None:
    """What ``client.unload`` does."""
    accepted = await world.change(UnloadBackend(world.new_id(), tag, by="anna"))
    await world.wait(accepted.version, tag, gone=True)


def serving(world: World, tag: str = "b") -> int:
    return len(world.controller.table.backends[tag].replicas)


@pytest.mark.parametrize("config", [{"idle_timeout_s": 60.0, "num_replicas": 2}, {"autoscaling": ZERO}])
def test_a_backend_is_unloaded_and_woken_by_hand(tmp_path: Path, config: dict[str, Any]) -> None:
    """``unload`` returns when no replica is left, ``wake`` when they are back (ID3)."""

    async def test(world: World) -> None:
        await world.create(**config)
        there = serving(world)
        await unload(world)
        assert world.engine.of("b") == []
        assert world.controller.desired.wanted("b") == 0
        await wake(world)
        assert serving(world) == len(world.engine.of("b")) == there
        decisions = world.controller.desired.scales["b"].decisions
        assert [(d.before, d.after, d.reason, d.text) for d in decisions] == [
            (there, 0, "idle", "it is unloaded by anna"),
            (0, there, "wake", "it is woken by anna"),
        ]

    in_world(tmp_path, test)


def test_what_may_not_be_without_replicas_is_not_unloaded(tmp_path: Path) -> None:
    """``unload`` of a backend that may not be at 0 is refused, and says what would be right (ID3)."""

    async def test(world: World) -> None:
        await world.create()
        with pytest.raises(ValueError, match="may not be at 0 replicas; give it min_replicas 0 or an idle_timeout_s"):
            await unload(world)

    in_world(tmp_path, test)


def test_a_wake_that_cannot_start_says_why(tmp_path: Path) -> None:
    """``wake`` of a backend whose constructor fails raises its error after three tries, and does not wait for ever
    (ID3)."""

    async def test(world: World) -> None:
        await world.create(idle_timeout_s=60.0)
        await unload(world)
        world.plan = ReplicaPlan(constructor_error="no such file")
        with pytest.raises(StartFailure, match="no such file"):
            await wake(world)
        world.plan = ReplicaPlan()
        await wake(world)
        assert serving(world) == 1

    in_world(tmp_path, test)


def test_changes_of_an_unloaded_backend_return_at_once(tmp_path: Path) -> None:
    """A new config of an unloaded backend is in effect at once, starts nothing, and is that of the next replica
    (ID4)."""

    async def test(world: World) -> None:
        await world.create(idle_timeout_s=60.0)
        await unload(world)
        launched = len(world.engine.launched)
        await world.update(num_replicas=2)
        await world.update(user_config=b"new")
        assert len(world.engine.launched) == launched
        assert world.controller.desired.fallbacks == {}
        await wake(world)
        assert serving(world) == 2

    in_world(tmp_path, test)


@pytest.mark.parametrize("config", [{"idle_timeout_s": 60.0}, {"autoscaling": ZERO}])
def test_a_deploy_of_an_unloaded_backend_proves_its_version(tmp_path: Path, config: dict[str, Any]) -> None:
    """New code of an unloaded backend is started once: if that fails, the call says so and the old code stays (ID4,
    DP6)."""

    async def test(world: World) -> None:
        await world.create(**config)
        await unload(world)
        code = world.controller.desired.backends["b"].code
        world.plan = ReplicaPlan(constructor_error="bad weights")
        with pytest.raises(StartFailure, match="bad weights"):
            await world.replace("b", b"code 2")
        assert world.controller.desired.backends["b"].code == code
        world.plan = ReplicaPlan()
        launched = len(world.engine.launched)
        await world.replace("b", b"code 3")
        assert len(world.engine.launched) == launched + 1
        assert world.controller.desired.backends["b"].code != code
        assert world.controller.desired.wanted("b") == 0

    in_world(tmp_path, test)


def test_an_unload_does_not_spare_a_new_backend_its_proof(tmp_path: Path) -> None:
    """A backend that is unloaded while it starts for the first time has to start once all the same (ID4, CB10)."""

    async def test(world: World) -> None:
        world.plan = ReplicaPlan(constructor_error="bad weights")
        accepted = await world.change(world.create_order(idle_timeout_s=60.0, num_replicas=2), b"code 1")
        await world.change(UnloadBackend(world.new_id(), "b"))
        with pytest.raises(StartFailure, match="bad weights"):
            await world.wait(accepted.version, "b")
        world.plan = ReplicaPlan()
        accepted = await world.change(world.create_order(idle_timeout_s=60.0, num_replicas=2), b"code 1")
        await world.change(UnloadBackend(world.new_id(), "b"))
        await world.wait(accepted.version, "b")
        await asyncio.sleep(5.0)
        assert world.engine.of("b") == []

    in_world(tmp_path, test)


def test_a_restart_wakes_nothing(tmp_path: Path) -> None:
    """After a restart of the instance what was unloaded is unloaded still, and the instance has come up (ID4)."""

    async def test(world: World) -> None:
        await world.create(idle_timeout_s=60.0)
        await unload(world)
        launched = len(world.engine.launched)
        await world.stop()
        await world.start()
        await settle()
        await asyncio.sleep(5.0)
        assert len(world.engine.launched) == launched

    in_world(tmp_path, test)


def test_who_may_not_sleep_any_more_is_loaded(tmp_path: Path) -> None:
    """Without its ``idle_timeout_s`` an unloaded backend gets its replicas back (ID1)."""

    async def test(world: World) -> None:
        await world.create(idle_timeout_s=60.0)
        await unload(world)
        await world.update(idle_timeout_s=None)
        assert serving(world) == 1

    in_world(tmp_path, test)


def test_a_file_changes_an_unloaded_backend(tmp_path: Path) -> None:
    """An apply gives an unloaded backend new settings at once, and new code once that has started (ID4, CF6, DP6)."""

    async def test(world: World) -> None:
        endpoints = {"rank": served("/rank", b=1.0)}
        assert (await apply(world, {"b": model(idle_timeout_s=60.0)}, endpoints)).state == "done"
        await unload(world)
        launched = len(world.engine.launched)
        changed = model(idle_timeout_s=60.0, num_replicas=2, max_queued_queries=7)
        assert (await apply(world, {"b": changed}, endpoints)).state == "done"
        assert len(world.engine.launched) == launched
        world.plan = ReplicaPlan(constructor_error="bad weights")
        view = await apply(world, {"b": model("m:V2", idle_timeout_s=60.0)}, endpoints)
        assert (view.state, "bad weights" in view.text) == ("taken back", True)
        world.plan = ReplicaPlan()
        assert (await apply(world, {"b": model("m:V3", idle_timeout_s=60.0)}, endpoints)).state == "done"
        assert world.controller.desired.wanted("b") == 0
        await wake(world)
        assert serving(world) == 1

    in_world(tmp_path, test)
