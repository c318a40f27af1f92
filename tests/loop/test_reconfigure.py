"""A new ``user_config`` and what comes of it: whole stories of the controller, in virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pointsman.exceptions import BackendStartError
from pointsman.model import Reason
from pointsman.testing import ReplicaPlan
from pointsman.wire.messages import Report
from tests.loop.test_controller import now
from tests.loop.world import World, in_world


def test_a_new_user_config_reaches_every_replica(tmp_path: Path) -> None:
    """An update returns when each replica has applied it, and replaces none; half of them at a time take it, so that
    the others take new work (RC2, RC9, BC7)."""

    async def test(world: World) -> None:
        world.plan = ReplicaPlan(reconfigure_s=2.0)
        await world.create(num_replicas=4)
        began = now()
        await world.update(user_config=b"123")
        assert now() - began == pytest.approx(4.0, abs=0.01)
        told = [order.time - began for order in world.engine.orders if order.what == "configure"]
        assert told == pytest.approx([0.0, 0.0, 2.0, 2.0], abs=0.01)
        assert len(world.engine.launched) == 4
        assert len({replica.config_versions[-1] for replica in world.engine.live.values()}) == 1

    in_world(tmp_path, test)


def test_a_user_config_that_fails_is_taken_back(tmp_path: Path) -> None:
    """When one replica's ``reconfigure`` raises, so does the update, and the old config is in force (RC10)."""

    async def test(world: World) -> None:
        await world.create(num_replicas=2, user_config=b"old")
        world.engine.of("b")[1].plan = ReplicaPlan(reconfigure_error="bad value")
        with pytest.raises(BackendStartError, match="bad value"):
            await world.update(user_config=b"new")
        assert world.controller.desired.backends["b"].config.user_config == b"old"
        await asyncio.sleep(30)
        assert len(list(world.peers.replicas_in_table("b"))) == 2
        assert world.controller.desired.fallbacks == {}

    in_world(tmp_path, test)


def test_a_late_refusal_costs_no_replica(tmp_path: Path) -> None:
    """Two replicas refuse a config, one later than the other, when it has been taken back: both serve on (RC10)."""

    async def test(world: World) -> None:
        await world.create(num_replicas=2, user_config=b"old")
        for replica in world.engine.of("b"):
            replica.plan = ReplicaPlan(reconfigure_s=5.0)
        update = asyncio.ensure_future(world.update(user_config=b"new"))
        await asyncio.sleep(1)
        version = world.controller.desired.backends["b"].config_version
        for replica in world.engine.of("b"):
            refusal = Report(replica.number, "failed", version, Reason.RECONFIGURE_FAILED, "RuntimeError", "bad value")
            world.controller.replica_reported(refusal, b"")
            with pytest.raises(BackendStartError, match="bad value"):
                await update
        await asyncio.sleep(30)
        assert len(world.engine.launched) == 2
        assert len(list(world.peers.replicas_in_table("b"))) == 2

    in_world(tmp_path, test)


def test_other_fields_reach_all_at_once(tmp_path: Path) -> None:
    """A limit is no business of user code, so nobody waits for anybody (RC7, BC7)."""

    async def test(world: World) -> None:
        await world.create(num_replicas=4)
        for replica in world.engine.of("b"):
            replica.plan = ReplicaPlan(reconfigure_s=2.0)
        began = now()
        await world.update(max_concurrent_queries=7)
        assert now() - began == pytest.approx(2.0, abs=0.01)

    in_world(tmp_path, test)


def test_a_config_that_is_refused_spares_half_of_the_replicas(tmp_path: Path) -> None:
    """Of four replicas that would all fail with a bad value two are never given it (RC9, RC10, G7)."""

    async def test(world: World) -> None:
        await world.create(num_replicas=4, user_config=b"old")
        for replica in world.engine.of("b"):
            replica.plan = ReplicaPlan(reconfigure_s=1.0, reconfigure_error="bad value")
        given = len(world.engine.history("configure"))
        update = asyncio.ensure_future(world.update(user_config=b"new"))
        await asyncio.sleep(0.9)
        assert len(world.engine.history("configure")) == given + 2
        await asyncio.sleep(0.2)
        for replica in world.engine.of("b"):
            replica.plan = ReplicaPlan()
        with pytest.raises(BackendStartError, match=r"old one \(reconfigure_failed\): RuntimeError: bad value"):
            await update
        await asyncio.sleep(1)
        newest = world.controller.desired.backends["b"].config_version
        assert {replica.config_versions[-1] for replica in world.engine.of("b")} == {newest}
        assert len(world.engine.launched) == 4

    in_world(tmp_path, test)


def test_a_replica_that_cannot_go_back_is_replaced(tmp_path: Path) -> None:
    """One of two replicas takes neither the new config nor, half changed, the old one: it is replaced (RC10)."""

    async def test(world: World) -> None:
        await world.create(num_replicas=2, user_config=b"old")
        good, bad = world.engine.of("b")
        bad.plan = ReplicaPlan(reconfigure_error="broken")
        with pytest.raises(BackendStartError, match="broken"):
            await world.update(user_config=b"new")
        await asyncio.sleep(5)
        assert world.engine.history("kill") == [("kill", bad.number)]
        assert good.number in world.engine.live
        assert len(list(world.peers.replicas_in_table("b"))) == 2
        assert world.controller.desired.backends["b"].config.user_config == b"old"

    in_world(tmp_path, test)


def test_requests_that_run_too_long_end_the_wait_and_nothing_else(tmp_path: Path) -> None:
    """A replica that was never free for a new config reports so: the change is taken back, and no replica dies of it
    (RC9)."""

    async def test(world: World) -> None:
        await world.create(num_replicas=2, user_config=b"old")
        for replica in world.engine.of("b"):
            replica.plan = ReplicaPlan(reconfigure_s=5.0)
        update = asyncio.ensure_future(world.update(user_config=b"new"))
        await asyncio.sleep(1)
        version = world.controller.desired.backends["b"].config_version
        (number, *_) = world.engine.live
        late = Report(number, "failed", version, Reason.RECONFIGURE_TIMEOUT, "StillRunningError", "still running")
        world.controller.replica_reported(late, b"")
        with pytest.raises(BackendStartError) as caught:
            await update
        assert caught.value.reason is Reason.RECONFIGURE_TIMEOUT  # type: ignore[attr-defined]  # to the client: TimeoutError
        await asyncio.sleep(30)
        assert world.engine.history("kill") == []
        assert world.controller.desired.backends["b"].config.user_config == b"old"

    in_world(tmp_path, test)


def test_a_replica_on_its_way_out_may_fail_in_peace(tmp_path: Path) -> None:
    """A replica that leaves while it takes a config, and fails, still finishes what it runs (DR5)."""

    async def test(world: World) -> None:
        await world.create(num_replicas=2, user_config=b"old")
        leaver = world.engine.of("b")[1]
        leaver.plan = ReplicaPlan(drain_s=5.0)
        shrink = asyncio.ensure_future(world.update(num_replicas=1))
        await asyncio.sleep(1)
        failed = Report(leaver.number, "failed", 1, Reason.RECONFIGURE_FAILED, "RuntimeError", "bad value")
        world.controller.replica_reported(failed, b"")
        await shrink
        assert world.engine.history("kill") == []

    in_world(tmp_path, test)


# --- old versions -------------------------------------------------------------------------------------------------


def test_a_config_that_an_old_version_refuses_does_not_stop_a_deploy(tmp_path: Path) -> None:
    """While an update is under way I deploy new code; that the old code then refuses the update says nothing about the
    new code, which comes up (RC10, DP6)."""

    async def test(world: World) -> None:
        await world.create("d", user_config=b"old", rollout_watch_s=0.0)
        await world.create_endpoint("d", "d")
        (old,) = world.engine.of("d")
        old.plan = ReplicaPlan(reconfigure_s=0.5, reconfigure_error="bad value")
        update = asyncio.ensure_future(world.update("d", user_config=b"new"))
        await asyncio.sleep(0.25)
        await world.deploy("d", b"code 2")
        await update
        assert old.number not in world.engine.live
        assert len(world.engine.launched) == 2
        assert world.controller.observed.failures.get("d") is None

    in_world(tmp_path, test)


def test_constructors_of_an_old_version_do_not_stop_a_deploy(tmp_path: Path) -> None:
    """I deploy a fix while the broken version is still being tried: its failures do not count against the fix (DP6)."""

    async def test(world: World) -> None:
        await world.create("d", rollout_watch_s=0.0)
        await world.create_endpoint("d", "d")
        world.plan = ReplicaPlan(ready_s=None)
        broken = asyncio.ensure_future(world.deploy("d", b"code 2"))
        await asyncio.sleep(1)
        (number,) = [r.number for r in world.engine.live.values() if r.report.state == "starting"]
        world.plan = ReplicaPlan()
        fix = asyncio.ensure_future(world.deploy("d", b"code 3"))
        before = world.controller.desired.version
        while world.controller.desired.version == before:
            await asyncio.sleep(0)
        for _ in range(3):
            failed = Report(number, "failed", 0, Reason.CONSTRUCTOR_FAILED, "RuntimeError", "broken")
            world.controller.replica_reported(failed, b"")
        await fix
        await broken
        assert world.controller.observed.failures.get("d") is None
        assert number not in world.engine.live

    in_world(tmp_path, test)
