"""Backends without replicas and their calls: what is unloaded when, what wakes, what callers are told, and what makes
room. Whole stories in virtual time, without processes (AS14, AS15, AS20, ID1, ID2)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pointsman.controller import publisher
from pointsman.model import Autoscaling, Resources
from pointsman.model.scaling import IDLE, ROOM, WAKE
from pointsman.testing import ReplicaPlan
from pointsman.wire.commands import Await
from pointsman.wire.scaling import WakeBackend
from tests.loop.scaled import ScaledWorld, in_scaled_world

ZERO = Autoscaling(min_replicas=0, target_ongoing_requests=2.0, downscale_to_zero_delay_s=20.0)
GPU = Resources(num_cpus=0, num_gpus=1)


def reasons(world: ScaledWorld, tag: str = "b") -> list[tuple[int, int, str]]:
    scale = world.controller.desired.scales.get(tag)
    return [(one.before, one.after, one.reason) for one in scale.decisions] if scale is not None else []


def route(world: ScaledWorld, tag: str = "b") -> Any:
    return world.controller.table.backends[tag]


def now(world: ScaledWorld) -> float:
    """The time of day of the routing table, in seconds since 1970."""
    return asyncio.get_running_loop().time() + (world.controller._publisher.epoch or 0.0)


async def until(condition: Any, *, within_s: float) -> float:
    """Wait for a condition; returns the seconds that it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not condition():
        assert loop.time() < began + within_s
        await asyncio.sleep(0.01)
    return loop.time() - began


@pytest.mark.parametrize(
    ("config", "idle_s", "replicas"),
    [
        ({"idle_timeout_s": 20.0, "num_replicas": 2}, 20.0, 2),
        ({"idle_timeout_s": 20.0, "autoscaling": Autoscaling(min_replicas=2)}, 20.0, 2),
        ({"autoscaling": ZERO}, 20.0, 1),
    ],
    ids=["a fixed number", "a least number", "down to 0"],
)
def test_a_backend_sleeps_and_wakes(tmp_path: Path, config: dict[str, Any], idle_s: float, replicas: int) -> None:
    """Without calls a backend loses all its replicas; the first call has it started at once, and is answered after one
    start (AS14, ID1)."""

    async def test(world: ScaledWorld) -> None:
        await world.create(**config)
        world.router.have("b", rate=5)
        await asyncio.sleep(60.0)
        assert world.serving() >= 1
        world.router.have("b")
        await asyncio.sleep(idle_s - 2.0)
        assert world.wanted() > 0
        await asyncio.sleep(35.0)
        assert (world.wanted(), world.serving(), world.engine.of("b")) == (0, 0, [])
        world.router.have("b", waiting=1)
        took_s = await until(lambda: world.serving() > 0, within_s=5.0)
        assert took_s < 1.1 + 0.1, "a start takes 1.1 s here"
        await asyncio.sleep(0.1)
        assert world.serving() == replicas
        assert reasons(world)[-1] == (0, replicas, WAKE)

    in_scaled_world(tmp_path, test)


def test_callers_are_told_when_to_come_again(tmp_path: Path) -> None:
    """While the first replica starts, routers know when it should be ready, by what earlier starts took (AS14)."""

    async def test(world: ScaledWorld) -> None:
        world.plan = ReplicaPlan(ready_s=7.9)
        await world.create(autoscaling=ZERO)
        assert route(world).scales
        await asyncio.sleep(60.0)
        assert (world.wanted(), route(world).ready_at) == (0, 0.0)
        world.router.have("b", waiting=1)
        await asyncio.sleep(1.0)
        assert route(world).ready_at - now(world) == pytest.approx(7.0, abs=0.2)
        assert world.view().ready_in_s == pytest.approx(7.0, abs=0.2)
        await asyncio.sleep(8.0)
        assert (len(route(world).replicas), route(world).ready_at) == (1, 0.0)

    in_scaled_world(tmp_path, test)


def test_the_time_of_day_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's clock is set back by an hour while replicas fail to start: from the next try on calls are refused
    until the one after it, and not for an hour (AS14)."""

    async def test(world: ScaledWorld) -> None:
        await world.create(autoscaling=ZERO)
        await asyncio.sleep(60.0)
        world.plan = ReplicaPlan(ready_s=0.1, constructor_error="disk is full")
        world.router.have("b", waiting=1)
        await asyncio.sleep(3.0)
        before_s, set_back_s = now(world) - asyncio.get_running_loop().time(), publisher.wall_ahead_s() - 3600.0
        monkeypatch.setattr(publisher, "wall_ahead_s", lambda: set_back_s)
        await asyncio.sleep(35.0)
        new_now = asyncio.get_running_loop().time() + before_s - 3600.0
        assert route(world).refused_until - new_now == pytest.approx(25.0, abs=5.0)

    in_scaled_world(tmp_path, test)


def test_a_constructor_that_fails_only_when_woken(tmp_path: Path) -> None:
    """After three failed starts calls are refused until the next try; nothing is taken back, others are not concerned,
    and the first try that works serves (AS14, AS20, F6)."""

    async def test(world: ScaledWorld) -> None:
        await world.create("other")
        await world.create(autoscaling=ZERO)
        await asyncio.sleep(60.0)
        world.plan = ReplicaPlan(ready_s=0.1, constructor_error="disk is full")
        world.router.have("b", waiting=1)
        await asyncio.sleep(3.0)
        assert len([one for one in world.engine.launched if one.note.backend == "b"]) == 1 + 5
        assert route(world).refused_until - now(world) == pytest.approx(28.5, abs=1.0)
        blocked = world.view().blocked
        assert blocked is not None
        assert (blocked.reason, "disk is full" in blocked.text) == ("start", True)
        assert "b" in world.controller.desired.backends
        assert world.serving("other") == 1
        world.plan = ReplicaPlan()
        await asyncio.sleep(35.0)
        assert world.serving() == 1
        assert (route(world).refused_until, world.view().blocked) == (0.0, None)

    in_scaled_world(tmp_path, test)


@pytest.mark.parametrize("after_s", [0.0, 0.003, 0.05, 0.2, 0.6, 1.0, 1.3])
def test_the_controller_dies_during_a_wake(tmp_path: Path, after_s: float) -> None:
    """Killed before a wake is stored, before the launch, while the replica starts, or when it is ready: the next
    controller completes it with one replica, and never a second one (AS14, AS20)."""

    async def test(world: ScaledWorld) -> None:
        await world.create(autoscaling=ZERO)
        await asyncio.sleep(60.0)
        assert world.wanted() == 0
        launched = len(world.engine.launched)
        world.router.have("b", waiting=1)
        await asyncio.sleep(after_s)
        await world.restart()
        await until(lambda: world.serving() == 1, within_s=3.0)
        world.router.have("b")
        await asyncio.sleep(10.0)
        assert (world.wanted(), world.serving()) == (1, 1)
        assert len(world.engine.launched) == launched + 1

    in_scaled_world(tmp_path, test)


def test_the_controller_dies_while_a_backend_is_unloaded(tmp_path: Path) -> None:
    """Killed while the last replica drains: it goes on to 0, and nothing is started again (ID1, ID4)."""

    async def test(world: ScaledWorld) -> None:
        world.plan = ReplicaPlan(drain_s=5.0)
        await world.create(idle_timeout_s=10.0)
        await until(lambda: world.wanted() == 0, within_s=20.0)
        await world.restart()
        await asyncio.sleep(20.0)
        assert (world.wanted(), world.engine.of("b")) == (0, [])
        assert reasons(world) == [(1, 0, IDLE)]

    in_scaled_world(tmp_path, test)


def test_a_backend_that_was_woken_by_hand_stays_for_a_while(tmp_path: Path) -> None:
    """After ``wake`` a backend without calls stays for as long as after its last call, then it goes again (ID3)."""

    async def test(world: ScaledWorld) -> None:
        await world.create(autoscaling=ZERO)
        await asyncio.sleep(60.0)
        accepted = await world.change(WakeBackend(world.new_id(), "b"))
        command = Await(world.new_id(), accepted.version, "b", False, 300, woken=True)
        await world.controller.wait(command, frozenset(), world.progress.append)
        assert world.serving() == 1
        await asyncio.sleep(18.0)
        assert world.serving() == 1
        await asyncio.sleep(20.0)  # the rule looks for its whole look_back_period_s
        assert world.wanted() == 0

    in_scaled_world(tmp_path, test)


def test_a_backend_that_is_held_at_0(tmp_path: Path) -> None:
    """Somebody fixes a number at 0: calls wait and wake nothing, but a wake by hand does, and ends that (AS12, ID3)."""

    async def test(world: ScaledWorld) -> None:
        await world.create(autoscaling=ZERO)
        await world.scale(0, hold_s=600.0)
        world.router.have("b", waiting=1)
        await asyncio.sleep(10.0)
        assert (world.wanted(), world.engine.of("b")) == (0, [])
        await world.change(WakeBackend(world.new_id(), "b"))
        await until(lambda: world.serving() == 1, within_s=2.0)
        assert world.view().hold_s is None

    in_scaled_world(tmp_path, test)


# --- no room --------------------------------------------------------------------------------------------------


async def on_gpus(world: ScaledWorld, tag: str, **config: Any) -> None:
    """A backend whose replicas need a GPU each; there are two."""
    order = world.create_order(tag, **config)
    accepted = await world.change(type(order)(**{**_fields(order), "resources": GPU}), b"code 1")
    await world.wait(accepted.version, tag)


def _fields(order: Any) -> dict[str, Any]:
    return {name: getattr(order, name) for name in order.__struct_fields__}


def scaled(least: int = 1, *, priority: int = 0) -> Autoscaling:
    return Autoscaling(
        min_replicas=least, max_replicas=8, target_ongoing_requests=1.0, priority=priority, downscale_delay_s=1000.0
    )


def test_what_fits_starts_and_the_rest_follows(tmp_path: Path) -> None:
    """Four replicas are wanted and one GPU is free: one runs, the status says why, and once another GPU is free a
    second one follows by itself (AS15)."""

    async def test(world: ScaledWorld) -> None:
        await on_gpus(world, "other")
        await on_gpus(world, "b", autoscaling=scaled())
        world.router.have("b", rate=40)
        await asyncio.sleep(60.0)
        assert (world.wanted() >= 4, world.serving()) == (True, 1)
        blocked = world.view().blocked
        assert blocked is not None
        assert blocked.reason == "room"
        assert f"no room for {world.wanted() - 1} of {world.wanted()} replicas" in blocked.text
        assert world.needs == [(GPU, world.wanted() - 1)], "a cluster is asked for it"
        await world.delete("other")
        await asyncio.sleep(3.0)
        assert world.serving() == 2
        assert world.needs == [(GPU, world.wanted() - 2)]

    in_scaled_world(tmp_path, test)


def test_priority_has_others_give_room(tmp_path: Path) -> None:
    """The more important backend gets calls: the other one gives up its second GPU, and gets it back afterwards
    (AS15)."""

    async def test(world: ScaledWorld) -> None:
        await on_gpus(world, "low", autoscaling=scaled())
        world.router.have("low", rate=20)
        await asyncio.sleep(60.0)
        assert world.serving("low") == 2
        high = msgspec.structs.replace(scaled(0, priority=1), downscale_delay_s=20.0)
        await on_gpus(world, "high", autoscaling=high)
        assert (world.serving("low"), world.serving("high")) == (1, 1)
        world.router.have("high", rate=20)
        await asyncio.sleep(60.0)
        assert (world.serving("low"), world.serving("high")) == (1, 1), "a min_replicas is not given up"
        world.router.have("high")
        await asyncio.sleep(120.0)
        assert (world.wanted("high"), world.serving("low")) == (0, 2)

    in_scaled_world(tmp_path, test)


def test_a_wake_takes_the_room_of_who_was_used_longest_ago(tmp_path: Path) -> None:
    """Three backends share two GPUs: each call finds its backend, and the one that was used longest ago goes (ID2)."""

    async def test(world: ScaledWorld) -> None:
        for tag in "abc":  # the third one is accepted since idle ones count as free (RM3)
            await on_gpus(world, tag, idle_timeout_s=1000.0)
            await asyncio.sleep(5.0)
        assert [world.serving(tag) for tag in "abc"] == [0, 1, 1]
        assert reasons(world, "a") == [(1, 0, ROOM)]
        world.router.have("b", rate=1)
        await asyncio.sleep(5.0)
        world.router.have("b")
        world.router.have("a", waiting=1)
        await until(lambda: world.serving("a") == 1, within_s=4.0)
        assert [world.serving(tag) for tag in "abc"] == [1, 1, 0]
        text = world.controller.desired.scales["c"].decisions[-1].text
        assert text == "it is idle, and makes room for backend 'a'"

    in_scaled_world(tmp_path, test)


def test_a_wake_waits_where_nobody_is_idle(tmp_path: Path) -> None:
    """Both GPUs serve calls: the third backend waits, nothing fails, and it starts when one of them is idle (ID2,
    AS15)."""

    async def test(world: ScaledWorld) -> None:
        for tag in "abc":
            await on_gpus(world, tag, idle_timeout_s=1000.0)
            await asyncio.sleep(2.0)
        for tag in "bc":
            world.router.have(tag, rate=2)
        await asyncio.sleep(2.0)
        world.router.have("a", waiting=1)
        await asyncio.sleep(30.0)
        assert [world.serving(tag) for tag in "abc"] == [0, 1, 1]
        blocked = world.view("a").blocked
        assert blocked is not None
        assert blocked.reason == "room"
        world.router.have("c")
        await until(lambda: world.serving("a") == 1, within_s=5.0)
        assert [world.serving(tag) for tag in "abc"] == [1, 1, 0]

    in_scaled_world(tmp_path, test)
