"""controller.controller: whole stories with a real store and an engine without processes, in virtual time."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from pointsman.controller.observed import LaunchMetadata
from pointsman.controller.reconcile import STOP_GRACE_S
from pointsman.controller.store import StoreError
from pointsman.engine.orders import ProcessEvent, ShutdownOrder
from pointsman.exceptions import BackendStartError, StateChangedError
from pointsman.model import Pins
from pointsman.testing import ReplicaPlan, settle
from pointsman.wire.commands import Accepted, Ending, Pin, Progress, RollbackTraffic, SetTraffic, ShadowTraffic
from pointsman.wire.messages import unpack
from tests.loop.world import World, in_world


def now() -> float:
    return asyncio.get_running_loop().time()


def test_create_waits_for_every_replica(tmp_path: Path) -> None:
    """``create_backend`` returns when all replicas have finished their constructors, which ran in parallel (CB9)."""

    async def test(world: World) -> None:
        await world.create(num_replicas=3)
        assert now() == pytest.approx(1.1, abs=0.01)
        assert len(list(world.peers.replicas_in_table("b"))) == 3
        assert world.progress[0] == Progress("b", 0, 3)
        assert world.progress[-1] == Progress("b", 3, 3)

    in_world(tmp_path, test)


def test_a_constructor_that_fails_thrice_leaves_nothing(tmp_path: Path) -> None:
    """After three tries ``create_backend`` raises with the user's words; no backend and no process stay (CB10)."""

    async def test(world: World) -> None:
        world.plan = ReplicaPlan(constructor_error="no such model")
        with pytest.raises(BackendStartError, match="RuntimeError: no such model") as raised:
            await world.create()
        assert "Traceback" in raised.value.traceback  # type: ignore[attr-defined]
        await settle()
        assert len(world.engine.launched) == 3
        assert world.engine.live == {}
        assert world.controller.desired.backends == {}
        world.plan = ReplicaPlan()
        await world.create()

    in_world(tmp_path, test)


def test_one_failure_is_no_verdict(tmp_path: Path) -> None:
    """A constructor that fails once and then works is a backend that came up (CB10)."""

    async def test(world: World) -> None:
        def plan_of(note: LaunchMetadata) -> ReplicaPlan:
            return ReplicaPlan(constructor_error="bad luck" if not world.engine.launched else "")

        world.plan_of = plan_of  # type: ignore[method-assign]
        await world.create()
        assert len(world.engine.launched) == 2

    in_world(tmp_path, test)


def test_a_repeated_command_is_carried_out_once(tmp_path: Path) -> None:
    """A create call that is delivered ten times, also to the next controller, makes one backend (CL5, LC6)."""

    async def test(world: World) -> None:
        order = world.create_order()
        replies = {await world.controller.change(order, b"code 1") for _ in range(5)}
        await world.stop()
        await world.start()
        replies |= {await world.controller.change(order, b"code 1") for _ in range(5)}
        assert [unpack(reply, Accepted).version for reply in replies] == [1]
        await world.wait(1, "b")
        assert len(world.engine.of("b")) == 1

    in_world(tmp_path, test)


def test_a_rolling_update_adds_before_it_removes(tmp_path: Path) -> None:
    """While a new version comes up the table always names two replicas that are ready; then only new ones (G7, F12)."""

    async def test(world: World) -> None:
        await world.create("d", num_replicas=2)
        await world.create_endpoint("d", "d")
        old = {replica.number for replica in world.engine.live.values()}
        first = len(world.peers.tables)
        await world.deploy("d", b"code 2")
        new = {replica.number for replica in world.engine.live.values()}
        assert len(new) == 2
        assert not old & new
        assert set(world.peers.replicas_in_table("d")) == new
        for table in world.peers.tables[first - 1 :]:
            assert len(table.backends["d"].replicas) >= 2

    in_world(tmp_path, test)


def test_a_backend_without_endpoint_is_replaced_step_by_step(tmp_path: Path) -> None:
    """Another endpoint's backend gets new code the same way: two replicas that are ready at every moment; a failure is
    taken back (DP3, DP6)."""

    async def test(world: World) -> None:
        await world.create("b", num_replicas=2)
        await world.create_endpoint("e", "b")
        old = set(world.engine.live)
        first = len(world.peers.tables)
        await world.replace("b", b"code 2")
        new = set(world.engine.live)
        assert len(new) == 2
        assert not old & new
        assert all(len(table.backends["b"].replicas) >= 2 for table in world.peers.tables[first - 1 :])
        world.plan = ReplicaPlan(constructor_error="bad version")
        with pytest.raises(BackendStartError, match="bad version"):
            await world.replace("b", b"code 3", num_replicas=3)
        await asyncio.sleep(60)
        assert set(world.engine.live) == new

    in_world(tmp_path, test)


def test_the_same_code_again_starts_nothing(tmp_path: Path) -> None:
    """A deploy and a replacement of what is there already end at once, also after a restart of the controller; a new
    config alone reaches the replicas that are there (CF6, CF9)."""

    async def test(world: World) -> None:
        await world.deploy("d", b"code 2")
        live, version = list(world.engine.live), world.controller.desired.version
        await world.deploy("d", b"code 2")
        await world.replace("d", b"code 2")
        await world.stop()
        await world.start()
        await world.replace("d", b"code 2")
        assert world.controller.desired.version == version
        await world.replace("d", b"code 2", max_queued_queries=7)
        assert world.controller.desired.version == version + 1
        assert list(world.engine.live) == live

    in_world(tmp_path, test)


def test_who_deploys_the_same_shares_the_fate_of_the_first(tmp_path: Path) -> None:
    """Two scripts deploy the same new code at once, and it does not come up: both are told (DP6)."""

    async def test(world: World) -> None:
        await world.deploy("d", b"code 1")
        world.plan = ReplicaPlan(constructor_error="bad version")
        both = [asyncio.ensure_future(world.deploy("d", b"code 2")) for _ in range(2)]
        outcomes = await asyncio.gather(*both, return_exceptions=True)
        assert all(isinstance(outcome, BackendStartError) for outcome in outcomes)
        assert "bad version" in str(outcomes[1])

    in_world(tmp_path, test)


def test_a_bad_version_never_takes_down_the_old_one(tmp_path: Path) -> None:
    """A deploy whose constructor fails raises, and the old replicas have served all the time (G7)."""

    async def test(world: World) -> None:
        await world.create("d")
        await world.create_endpoint("d", "d")
        old = list(world.engine.live)
        world.plan = ReplicaPlan(constructor_error="bad version")
        with pytest.raises(BackendStartError, match="bad version"):
            await world.deploy("d", b"code 2")
        await asyncio.sleep(60)
        assert list(world.engine.live) == old
        assert all([r.number for r in table.backends["d"].replicas] == old for table in world.peers.tables[2:])

    in_world(tmp_path, test)


def test_a_replica_leaves_step_by_step(tmp_path: Path) -> None:
    """Out of the table, every router confirms, drain, stop, exit: in this order, and nothing early (DR5)."""

    async def test(world: World) -> None:
        world.peers.routers[1] = 0.5
        world.plan = ReplicaPlan(drain_s=3.0, stop_s=0.2)
        await world.create(num_replicas=2)
        _, leaver = world.engine.live
        world.engine.orders.clear()
        began = now()
        await world.update(num_replicas=1)
        version = world.peers.tables[-1].version
        steps = [("publish", version), ("confirm", version), ("drain", leaver), ("stop", leaver), ("exit", leaver)]
        orders = [order for order in world.engine.orders if order.what not in ("assign", "configure")]
        assert [(order.what, order.number) for order in orders] == steps
        times = [order.time - began for order in orders]
        assert times == pytest.approx([0, 0.5, 0.5, 3.5, 3.7], abs=0.01)

    in_world(tmp_path, test)


def test_a_router_that_never_confirms_holds_nobody_up(tmp_path: Path) -> None:
    """A stopped router delays a drain by the wait loop's limit, and no longer (G9, DR5)."""

    async def test(world: World) -> None:
        await world.create(num_replicas=2, drain_confirm_s=2.0)
        world.peers.add_router(2, confirm_s=None, ingress=False)
        began = now()
        await world.update(num_replicas=1)
        (drain,) = [order for order in world.engine.orders if order.what == "drain"]
        assert drain.time - began == pytest.approx(2.0, abs=0.01)

    in_world(tmp_path, test)


def test_a_drain_ends_at_its_limit(tmp_path: Path) -> None:
    """A request that never ends keeps its replica until the drain limit; then it is killed (DR2)."""

    async def test(world: World) -> None:
        world.plan = ReplicaPlan(drain_s=None)
        await world.create(drain_timeout_s=7.0)
        (number,) = world.engine.live
        began = now()
        await world.delete()
        assert now() - began == pytest.approx(7.0, abs=0.01)
        assert world.engine.history("stop", "kill") == [("kill", number)]

    in_world(tmp_path, test)


def test_a_process_that_ignores_its_stop_is_killed(tmp_path: Path) -> None:
    """User threads that keep a process from exiting do not keep it alive for long (G11)."""

    async def test(world: World) -> None:
        world.plan = ReplicaPlan(stop_s=None)
        await world.create()
        (number,) = world.engine.live
        began = now()
        await world.delete()
        assert world.engine.history("stop", "kill") == [("stop", number), ("kill", number)]
        assert now() - began == pytest.approx(STOP_GRACE_S, abs=0.01)

    in_world(tmp_path, test)


def test_force_kills_at_once(tmp_path: Path) -> None:
    """``delete_backend(force=True)`` waits for no request (DR4)."""

    async def test(world: World) -> None:
        world.plan = ReplicaPlan(drain_s=None)
        await world.create(num_replicas=2)
        began = now()
        await world.delete(force=True)
        assert now() - began < 0.1
        assert world.engine.history("drain", "stop") == []
        assert world.engine.live == {}

    in_world(tmp_path, test)


def test_a_dead_replica_is_replaced(tmp_path: Path) -> None:
    """A killed replica leaves the table at once and another takes its place (F1)."""

    async def test(world: World) -> None:
        await world.create(num_replicas=2)
        dead, other = world.engine.live
        world.engine.exit(dead)
        await settle()
        assert list(world.peers.replicas_in_table("b")) == [other]
        await asyncio.sleep(1.2)
        assert len(list(world.peers.replicas_in_table("b"))) == 2

    in_world(tmp_path, test)


def test_the_next_controller_adopts_what_lives(tmp_path: Path) -> None:
    """After a controller's death the same processes serve; no table goes out before they have reported (G4, F8)."""

    async def test(world: World) -> None:
        await world.create(num_replicas=2)
        await world.create_endpoint()
        before = {number: replica.pid for number, replica in world.engine.live.items()}
        last = world.peers.tables[-1]
        await world.stop()
        world.peers.tables.clear()
        await world.start()
        await settle()
        assert world.peers.tables == []
        await asyncio.sleep(1)
        assert {number: replica.pid for number, replica in world.engine.live.items()} == before
        assert len(world.engine.launched) == 2
        for table in world.peers.tables:
            assert table.backends == last.backends
            assert table.endpoints == last.endpoints
            assert table.version > last.version

    in_world(tmp_path, test)


@pytest.mark.parametrize("how", ["it subscribes", "it exits", "its node is lost"])
def test_the_next_controller_waits_for_the_ingresses_that_live(tmp_path: Path, how: str) -> None:
    """An HTTP server has not found the new controller yet, and serves by the table before: a change is in effect when
    it has been heard of, or is no more (CL4, G6, F8)."""

    async def test(world: World) -> None:
        await world.create()
        await world.stop()
        await world.start()
        world.controller.process_event(ProcessEvent("recovered", ingresses=("0", "1")))
        await asyncio.sleep(1)
        changing = asyncio.ensure_future(world.create_endpoint())
        await asyncio.sleep(30)
        world.controller.ingress_subscribed("1")
        await asyncio.sleep(1)
        assert not changing.done()
        if how == "it subscribes":
            world.controller.ingress_subscribed("0")
            world.peers.add_router(5, confirm_s=0.5)
        else:
            event = "ingress_exited" if how == "it exits" else "ingress_gone"
            world.controller.process_event(ProcessEvent(event, ingresses=("0",)))
        began = now()
        await changing
        assert now() - began == pytest.approx(0.5 if how == "it subscribes" else 0.0, abs=0.01)

    in_world(tmp_path, test)


def test_an_adopted_replica_that_stays_silent_is_replaced(tmp_path: Path) -> None:
    """A replica that does not introduce itself to the new controller holds up the table for 5 s only (G9)."""

    async def test(world: World) -> None:
        await world.create(num_replicas=2)
        silent, other = world.engine.live.values()
        await world.stop()
        await world.start()
        for timer in silent.timers:
            timer.cancel()
        await asyncio.sleep(10)
        assert silent.number not in world.engine.live
        assert other.number in world.engine.live
        assert len(list(world.peers.replicas_in_table("b"))) == 2

    in_world(tmp_path, test)


def test_a_change_that_cannot_be_stored_is_not_made(tmp_path: Path) -> None:
    """When the disk is full the call raises, and nothing has changed, here or for the next controller (CL3, G6)."""

    async def test(world: World) -> None:
        await world.create()
        before, tables = world.controller.desired, len(world.peers.tables)
        disk = sqlite3.connect(world.path, isolation_level=None)
        disk.execute("CREATE TRIGGER full BEFORE INSERT ON replies BEGIN SELECT RAISE(FAIL, 'disk is full'); END")
        with pytest.raises(StoreError, match="disk is full"):
            await world.create_endpoint()
        await settle()
        assert world.controller.desired == before
        assert len(world.peers.tables) == tables
        disk.execute("DROP TRIGGER full")
        disk.close()
        await world.create_endpoint()
        await world.stop()
        await world.start()
        assert set(world.controller.desired.endpoints) == {"e"}

    in_world(tmp_path, test)


def test_a_call_returns_when_every_ingress_has_the_change(tmp_path: Path) -> None:
    """``create_endpoint`` returns when the slowest ingress routes it, and waits for no other router (CL4)."""

    async def test(world: World) -> None:
        await world.create()
        world.peers.add_router(2, confirm_s=4.0)
        world.peers.add_router(3, confirm_s=60.0, ingress=False)
        await asyncio.sleep(100)
        began = now()
        await world.create_endpoint()
        assert now() - began == pytest.approx(4.0, abs=0.01)
        world.peers.routers[2] = None
        waiting = asyncio.ensure_future(world.create_endpoint("f", route="/f"))
        await asyncio.sleep(1)
        assert not waiting.done()
        world.peers.remove_router(2)  # an ingress that is gone cannot confirm
        await waiting

    in_world(tmp_path, test)


def test_a_storm_of_changes_holds_nobody_up(tmp_path: Path) -> None:
    """While others change traffic twice a second, a call still returns as soon as its own change is known (CL4)."""

    async def test(world: World) -> None:
        await world.create()
        await world.create_endpoint()
        world.peers.routers[1] = 4.0
        began = now()

        async def shadow_at(proportion: float) -> float:
            order = ShadowTraffic(id=world.new_id(), name="e", backend="b", proportion=proportion)
            accepted = await world.change(order)
            sent = now()
            await world.wait(accepted.version)
            return now() - sent

        waits = []
        for number in range(100):
            waits.append(asyncio.ensure_future(shadow_at((number + 1) / 1000)))
            await asyncio.sleep(0.5)
        assert sum(wait.done() for wait in waits) == 100 - 8
        assert await asyncio.gather(*waits) == pytest.approx([4.0] * 100, abs=0.01)
        assert now() - began == pytest.approx(53.5, abs=0.1)
        assert len(world.peers.tables) >= 100

    in_world(tmp_path, test)


def test_traffic_outlives_the_controller(tmp_path: Path) -> None:
    """Shadows, pins and history are there after a restart, in the table and for a rollback; the record has a time and
    an author (G4, TR9)."""

    async def test(world: World) -> None:
        await world.create()
        await world.create_endpoint()
        await world.change(ShadowTraffic(id=world.new_id(), name="e", backend="b", proportion=0.5, by="ann"))
        await world.change(Pin(id=world.new_id(), name="e", shard_keys=("alice",), backend="b"))
        before = world.controller.desired
        await world.stop()
        await world.start()
        assert world.controller.desired == before
        await asyncio.sleep(1)
        assert unpack(world.peers.tables[-1].pins["e"], Pins).keys == {"alice": "b"}
        assert world.peers.tables[-1].endpoints["e"].policy.shadows == {"b": 0.5}
        last = before.histories["e"].changes[-1]
        assert (last.change, last.by) == ("shadow_traffic", "ann")
        assert datetime.fromisoformat(last.time).utcoffset() == timedelta(0)
        accepted = await world.change(RollbackTraffic(id=world.new_id(), name="e", version=None))
        await world.wait(accepted.version)
        assert world.peers.tables[-1].endpoints["e"].policy.shadows == {}

    in_world(tmp_path, test)


def test_waiting_has_a_limit(tmp_path: Path) -> None:
    """A constructor that takes for ever: the caller's timeout ends its wait, and others go on meanwhile (G9, CL6)."""

    async def test(world: World) -> None:
        world.plan = ReplicaPlan(ready_s=None)
        accepted = await world.change(world.create_order("slow"), b"code 1")
        waiting = asyncio.ensure_future(world.wait(accepted.version, "slow", timeout_s=30))
        await asyncio.sleep(1)
        world.plan = ReplicaPlan()
        await world.create("quick")
        with pytest.raises(TimeoutError, match="after 30 s"):
            await waiting
        assert now() == pytest.approx(30, abs=0.1)

    in_world(tmp_path, test)


def test_a_signal_keeps_what_a_shutdown_forgets(tmp_path: Path) -> None:
    """Asked to end by a signal, an instance leaves requests the drain limits of its backends, and keeps what is stored;
    a shutdown forgets it (IN12)."""

    async def test(world: World) -> None:
        await world.create("b", drain_timeout_s=30.0)
        await world.create("c", drain_timeout_s=2.0)
        world.controller.process_event(ProcessEvent("asked_to_end"))
        assert world.engine.shut_down == ShutdownOrder(30.0, forget=False)
        assert world.controller.shutdown(forget=True) == Ending(30.0)
        assert world.engine.shut_down == ShutdownOrder(30.0, forget=True)

    in_world(tmp_path, test)


def test_a_change_that_is_sent_again_is_not_stale(tmp_path: Path) -> None:
    """Whoever repeats a change gets its first reply, although the version that it was made for is gone by itself; the
    same change under another id is refused (AD7, CL5)."""

    async def test(world: World) -> None:
        await world.create("b")
        await world.create("c")
        await world.create_endpoint()
        seen = world.controller.desired.endpoints["e"].policy.version
        split = SetTraffic(world.new_id(), "e", {"b": 0.5, "c": 0.5})
        first = await world.controller.change(split, b"", seen)
        assert await world.controller.change(split, b"", seen) == first
        version = world.controller.desired.version
        with pytest.raises(StateChangedError):
            await world.controller.change(SetTraffic(world.new_id(), "e", {"c": 1.0}), b"", seen)
        assert world.controller.desired.version == version

    in_world(tmp_path, test)
