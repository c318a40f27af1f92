"""Health from end to end, in virtual time: replicas that hang, fail their checks, or are only busy."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pointsman.exceptions import BackendStartError
from pointsman.model import Reason
from pointsman.testing import ReplicaPlan
from pointsman.wire.messages import HealthAnswer
from tests.loop.world import World, in_world

QUICK = {"health_check_period_s": 0.5, "health_check_timeout_s": 1.0, "health_check_failures": 2}
FAILING = HealthAnswer(0, check_failures=2, check_error="RuntimeError", check_text="no GPU", check_traceback="tb")


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_stopped_replica_is_replaced(tmp_path: Path) -> None:
    """A replica that is stopped is out of the table within 2.5 s, killed, and soon there is another (F4)."""

    async def test(world: World) -> None:
        await world.create(num_replicas=2, **QUICK)
        victim, other = world.engine.live.values()
        victim.plan = ReplicaPlan(health=None, stopped=True)
        began = now()
        await asyncio.sleep(2.4)
        assert victim.number in world.engine.live
        await asyncio.sleep(0.9)
        assert list(world.peers.replicas_in_table("b")) == [other.number]
        (kill,) = [order for order in world.engine.orders if order.what == "kill"]
        assert kill.number == victim.number
        assert kill.time - began <= 3.0
        failures = world.controller.observed.failures["b"]
        assert failures.reason is Reason.UNRESPONSIVE
        await asyncio.sleep(1.0)
        assert len(list(world.peers.replicas_in_table("b"))) == 2

    in_world(tmp_path, test)


def test_with_the_defaults_too(tmp_path: Path) -> None:
    """Nobody has to set anything: a hang is over after 15 s (F4)."""

    async def test(world: World) -> None:
        await world.create()
        (victim,) = world.engine.live.values()
        victim.plan = ReplicaPlan(health=None, stopped=True)
        await asyncio.sleep(15)
        assert victim.number not in world.engine.live
        assert len(list(world.peers.replicas_in_table("b"))) == 1

    in_world(tmp_path, test)


def test_a_replica_that_fails_its_check_finishes_what_it_runs(tmp_path: Path) -> None:
    """An unhealthy replica gets nothing new, drains, and is replaced meanwhile; status has the traceback (DP6, G1)."""

    async def test(world: World) -> None:
        await world.create(**QUICK)
        (victim,) = world.engine.live.values()
        victim.plan = ReplicaPlan(health=FAILING, drain_s=4.0)
        await asyncio.sleep(1.5)
        assert list(world.peers.replicas_in_table("b")) == []
        assert victim.number in world.engine.live
        await asyncio.sleep(1.5)
        assert len(list(world.peers.replicas_in_table("b"))) == 1
        failures = world.controller.observed.failures["b"]
        assert (failures.reason, failures.error, failures.traceback) == (
            Reason.HEALTH_CHECK_FAILED,
            "RuntimeError",
            "tb",
        )
        await asyncio.sleep(5)
        assert world.engine.history("kill") == []
        assert victim.number not in world.engine.live

    in_world(tmp_path, test)


def test_a_machine_that_was_suspended_loses_no_replica(tmp_path: Path) -> None:
    """After a suspend nobody has been heard of for long, and nobody is to blame (F33)."""

    async def test(world: World) -> None:
        await world.create(num_replicas=3, **QUICK)
        loop = asyncio.get_running_loop()
        await asyncio.sleep(5)
        loop._now += 30.0  # type: ignore[attr-defined]  # the clock goes on, and no process does
        await asyncio.sleep(30)
        assert world.engine.history("kill") == []
        assert len(world.engine.launched) == 3

    in_world(tmp_path, test)


def test_a_controller_that_has_just_started_gives_everybody_time(tmp_path: Path) -> None:
    """What was last heard of a replica went with the old controller; the new one begins to count anew (F8)."""

    async def test(world: World) -> None:
        await world.create(num_replicas=2, **QUICK)
        await asyncio.sleep(5)
        await world.stop()
        await asyncio.sleep(20)
        await world.start()
        await asyncio.sleep(20)
        assert world.engine.history("kill") == []

    in_world(tmp_path, test)


def test_the_least_busy_replica_goes_first(tmp_path: Path) -> None:
    """On a scale-down the replica with the fewest calls leaves, not the newest (SO8)."""

    async def test(world: World) -> None:
        await world.create(num_replicas=3, **QUICK)
        replicas = list(world.engine.live.values())
        for replica, load in zip(replicas, (3, 0, 2), strict=True):
            replica.plan = ReplicaPlan(health=HealthAnswer(load))
        await asyncio.sleep(1)
        await world.update(num_replicas=1)
        assert list(world.engine.live) == [replicas[0].number]
        assert [n for _, n in world.engine.history("drain")] == [replicas[1].number, replicas[2].number]

    in_world(tmp_path, test)


@pytest.mark.parametrize("how", ["dies", "fails"])
def test_a_version_that_goes_bad_after_its_start(tmp_path: Path, how: str) -> None:
    """A version that comes up and dies, or fails its check, two seconds later is taken back; the old replicas have
    served all the time, and the caller is told why (DP6, F36)."""

    async def test(world: World) -> None:
        await world.create("d", num_replicas=2, rollout_watch_s=3.0, **QUICK)
        await world.create_endpoint("d", "d")
        old = set(world.engine.live)
        first = len(world.peers.tables)

        def goes_bad() -> None:
            for replica in list(world.engine.of("d")):
                if replica.number not in old and replica.report.state == "ready":
                    if how == "dies":
                        world.engine.exit(replica.number, "exit code 9")
                    else:
                        replica.plan = ReplicaPlan(health=FAILING)

        async def sabotage() -> None:
            while True:
                await asyncio.sleep(2.0)
                goes_bad()

        task = asyncio.ensure_future(sabotage())
        began = now()
        with pytest.raises(BackendStartError, match="exit code 9" if how == "dies" else "no GPU"):
            await world.deploy("d", b"code 2")
        assert now() - began < 15
        task.cancel()
        await asyncio.sleep(10)
        assert set(world.engine.live) == old
        for table in world.peers.tables[first:]:
            assert old <= {ref.number for ref in table.backends["d"].replicas}
        assert world.controller.observed.failures["d"].rolled_back

    in_world(tmp_path, test)


def test_a_rolling_update_within_its_limits(tmp_path: Path) -> None:
    """With one replica beyond the number, and one fewer at most, an update goes step by step (DP5)."""

    async def test(world: World) -> None:
        await world.create("d", num_replicas=4, max_surge=1, max_unavailable=1, rollout_watch_s=1.0)
        await world.create_endpoint("d", "d")
        first = len(world.peers.tables)
        most = 0

        async def count() -> None:
            nonlocal most
            while True:
                most = max(most, len(world.engine.live))
                await asyncio.sleep(0.05)

        task = asyncio.ensure_future(count())
        await world.deploy("d", b"code 2")
        task.cancel()
        assert most <= 5
        for table in world.peers.tables[first:]:
            assert len(table.backends["d"].replicas) >= 3
        assert {replica.note.version for replica in world.engine.live.values()} == {
            world.controller.desired.backends["d"].version
        }

    in_world(tmp_path, test)
