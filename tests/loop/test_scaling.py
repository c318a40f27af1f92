"""controller.scaling.watch: numbers of replicas follow calls; whole stories in virtual time, without processes."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pointsman.controller.replicas import Phase
from pointsman.controller.scaling import watch
from pointsman.controller.store import StoreError
from pointsman.controller.waiters import Situation, has_come_up
from pointsman.exceptions import BackendStartError
from pointsman.model import Autoscaling, Resources, Scale
from pointsman.model.scaling import BOUNDS, HOLD, TRAFFIC, ScalingPolicy
from pointsman.policy.scaling.decide import decide
from pointsman.testing import ReplicaPlan
from tests.loop.scaled import SaidPolicies, ScaledWorld, in_scaled_world


def test_replicas_follow_calls(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A backend gets the replicas that its calls need; the log and the status say why (AS16)."""
    caplog.set_level(logging.INFO)

    async def test(world: ScaledWorld) -> None:
        await world.create_auto(max_replicas=9)
        assert (world.wanted(), world.serving()) == (1, 1)
        world.router.have("b", rate=90)
        await world.rises_to(4)
        for _, one in world.decisions:
            assert f"backend 'b': {one.before} -> {one.after} replicas because {one.text}" in caplog.messages
        await asyncio.sleep(2.0)
        assert world.serving() == world.wanted()
        view = world.view()
        assert (view.min, view.max, view.hold_s, view.blocked) == (1, 9, None, None)
        assert view.demand > 1
        assert view.arrivals_per_second > 10
        assert view.decisions[0].before == 1
        assert world.decisions[0] == ("b", view.decisions[0])

    in_scaled_world(tmp_path, test)


def test_starts_are_learned(tmp_path: Path) -> None:
    """How long replicas take to start is measured from launch to ready, and outlives the controller (AS17, AS20)."""

    async def test(world: ScaledWorld) -> None:
        world.plan = ReplicaPlan(ready_s=4.0)
        await world.create_auto()
        await asyncio.sleep(1.0)
        ((_, took_s),) = world.starts
        assert took_s == pytest.approx(4.1, abs=0.05)
        assert world.view().start_s == pytest.approx(4.1, abs=0.05)
        await world.restart()
        assert world.view().start_s == pytest.approx(4.1, abs=0.05)
        await asyncio.sleep(5.0)
        assert len(world.starts) == 1, "an adopted replica was started by somebody else"

    in_scaled_world(tmp_path, test)


def test_a_number_that_somebody_has_fixed(tmp_path: Path) -> None:
    """A fixed number stays whatever calls there are; afterwards the rule decides again (AS12)."""

    async def test(world: ScaledWorld) -> None:
        await world.create_auto(max_replicas=9, downscale_delay_s=0.0)
        await world.scale(3, hold_s=60.0)
        world.router.have("b", rate=180)
        await asyncio.sleep(30.0)
        assert (world.wanted(), world.serving()) == (3, 3)
        assert world.view().hold_s == pytest.approx(30, abs=2)
        assert world.view().decisions[-1].reason == HOLD
        await world.restart()
        assert world.view().hold_s is not None
        await asyncio.sleep(40.0)
        assert world.view().hold_s is None
        await world.rises_to(9)

    in_scaled_world(tmp_path, test)


def test_new_bounds_end_a_number_at_once(tmp_path: Path) -> None:
    """An update with a larger least number returns when so many run (AS2)."""

    async def test(world: ScaledWorld) -> None:
        await world.create_auto()
        await world.update(autoscaling={"min_replicas": 3, "target_ongoing_requests": 2.0})
        assert world.serving() == 3
        await asyncio.sleep(1.0)
        assert [one.reason for _, one in world.decisions] == [BOUNDS]

    in_scaled_world(tmp_path, test)


def test_dry_runs_only_show(tmp_path: Path) -> None:
    """Where decisions are only shown, no replica starts, and the status says what would be."""

    async def test(world: ScaledWorld) -> None:
        await world.create_auto(max_replicas=9, dry_run=True)
        world.router.have("b", rate=100)
        await asyncio.sleep(40.0)
        assert (world.wanted(), world.serving()) == (1, 1)
        assert world.view().wanted >= 5
        assert "dry run" in world.view().decisions[-1].text

    in_scaled_world(tmp_path, test)


def test_a_number_fixed_at_0_ends_in_a_dry_run_too(tmp_path: Path) -> None:
    """Somebody fixes 0 replicas for a while where decisions are only shown: afterwards the backend serves (AS12)."""

    async def test(world: ScaledWorld) -> None:
        await world.create_auto(dry_run=True)
        await world.scale(0, hold_s=10.0)
        await asyncio.sleep(5.0)
        assert world.serving() == 0
        await asyncio.sleep(10.0)
        assert world.serving() == 1

    in_scaled_world(tmp_path, test)


def test_a_traffic_step_is_known_ahead(tmp_path: Path) -> None:
    """A switch to a version without calls gives it the replicas for them at once, before the first has come (AS10)."""

    async def test(world: ScaledWorld) -> None:
        await world.create_auto("one", max_replicas=20)
        await world.create_auto("two", max_replicas=20)
        await world.create_endpoint(backend="one")
        world.router.have("one", rate=120)
        await world.rises_to(6, "one")
        await asyncio.sleep(10.0)
        assert world.wanted("two") == 1
        await world.split(one=0.5, two=0.5)
        await asyncio.sleep(0.6)
        assert world.wanted("two") >= 3
        assert world.view("two").decisions[-1].reason == TRAFFIC

    in_scaled_world(tmp_path, test)


def test_a_start_that_fails_takes_nothing_back(tmp_path: Path) -> None:
    """A constructor that fails only when more replicas start: those that serve go on, the status says what is wrong,
    tries become rare, and other backends are not affected (AS20, F6)."""

    async def test(world: ScaledWorld) -> None:
        await world.create_auto(max_replicas=4)
        await world.create_auto("other", max_replicas=4)
        before = world.controller.desired.backends
        world.plan = ReplicaPlan(constructor_error="no licence for a second one")
        world.router.have("b", rate=80)
        await world.rises_to(4)
        await asyncio.sleep(60.0)
        assert (world.wanted(), world.serving()) == (4, 1)
        assert world.controller.desired.backends == before
        assert world.controller.desired.fallbacks == {}
        blocked = world.view().blocked
        assert blocked is not None
        assert "no licence for a second one" in blocked.text
        starts = [order for order in world.engine.orders if order.what == "launch"]
        assert len(starts) < 25
        world.plan = ReplicaPlan()
        world.router.have("other", rate=80)
        await world.rises_to(4, "other")
        await asyncio.sleep(180.0)
        assert world.serving() == world.serving("other") == 4
        assert world.view().blocked is None

    in_scaled_world(tmp_path, test)


def test_a_rule_that_fails_for_one_backend_goes_on_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Should the rule stumble over one backend, that one keeps its number, and all others follow their calls (AS20)."""

    def fails(seen: Any, config: Any, now: float, memory: Any) -> Any:
        if seen.max_replicas == 13:
            raise OverflowError("a bug")
        return decide(seen, config, now, memory)

    async def test(world: ScaledWorld) -> None:
        await world.create_auto("bad", max_replicas=13)
        await world.create_auto("good", max_replicas=12)
        monkeypatch.setattr(watch, "decide", fails)
        for tag in ("bad", "good"):
            world.router.have(tag, rate=120)
        await world.rises_to(6, "good")
        assert world.wanted("bad") == 1
        assert len([one for one in caplog.records if one.levelname == "CRITICAL"]) == 1
        monkeypatch.setattr(watch, "decide", decide)
        await world.rises_to(6, "bad")

    in_scaled_world(tmp_path, test)


def test_a_store_that_cannot_write_changes_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a decision cannot be stored it is not carried out; it is taken again once it can be (AS20)."""

    async def test(world: ScaledWorld) -> None:
        await world.create_auto(max_replicas=9)
        update, fails = world.controller.update, True

        async def failing(decide: object) -> None:
            if fails:
                raise StoreError("the disk is full")
            await update(decide)  # type: ignore[arg-type]

        monkeypatch.setattr(world.watch, "_update", failing)
        world.router.have("b", rate=100)
        await asyncio.sleep(20.0)
        assert (world.wanted(), len(world.engine.launched)) == (1, 1)
        fails = False
        await world.rises_to(5)

    in_scaled_world(tmp_path, test)


def test_what_is_decided_keeps_the_version(tmp_path: Path) -> None:
    """A plan of a configuration file is still good after decisions about numbers: they are no change of what users
    have declared."""

    async def test(world: ScaledWorld) -> None:
        await world.create_auto(max_replicas=9)
        version = world.controller.desired.version
        world.router.have("b", rate=100)
        await world.rises_to(2)
        assert world.controller.desired.version == version

    in_scaled_world(tmp_path, test)


def test_replicas_that_leave_finish_their_streams(tmp_path: Path) -> None:
    """A replica that leaves since fewer are needed has streams of ten minutes: it is not killed, and neither is it by
    the next controller (AS7)."""

    async def test(world: ScaledWorld) -> None:
        await world.create_auto(max_replicas=2, downscale_delay_s=1.0, look_back_period_s=2.0)
        world.plan = ReplicaPlan(drain_s=600.0)
        await world.scale(2, hold_s=5.0)
        await asyncio.sleep(30.0)
        assert (world.wanted(), world.serving()) == (1, 1)
        assert len(world.engine.live) == 2
        await world.restart()
        await asyncio.sleep(300.0)
        assert len(world.engine.live) == 2
        await asyncio.sleep(300.0)
        assert len(world.engine.live) == 1
        assert world.engine.history("kill") == []

    in_scaled_world(tmp_path, test)


def test_a_deleted_backend_is_forgotten(tmp_path: Path) -> None:
    """Nothing of a deleted backend's number is left, and one of its name begins anew."""

    async def test(world: ScaledWorld) -> None:
        await world.create_auto(max_replicas=9)
        world.router.have("b", rate=100)
        await asyncio.sleep(9.0)
        await world.delete()
        world.router.have("b")
        await asyncio.sleep(1.0)
        assert world.controller.desired.scales == {}
        assert world.controller.observed.looked == {}
        await world.create_auto()
        assert world.controller.desired.scales == {"b": Scale(1)}
        assert world.controller.desired.backends["b"].config.autoscaling == Autoscaling(target_ongoing_requests=2.0)

    in_scaled_world(tmp_path, test)


MOMENTS = {"decided": 0.0, "launched": 0.05, "starting": 0.5, "ready": 1.2, "settled": 3.0}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_controller_that_is_killed_goes_on_with_a_scale_up(tmp_path: Path, moment: str) -> None:
    """The controller dies at any moment of a scale-up: the number lasts, replicas that start are adopted, no more are
    launched than are wanted, and none leaves (AS20)."""

    async def test(world: ScaledWorld) -> None:
        await world.create_auto(max_replicas=5)
        world.router.have("b", rate=100)
        await world.rises_to(5)
        await asyncio.sleep(MOMENTS[moment])
        decisions = len(world.view().decisions)
        await world.restart()
        assert world.wanted() == 5
        assert len(world.view().decisions) == decisions
        await asyncio.sleep(5.0)
        assert (world.wanted(), world.serving()) == (5, 5)
        assert len(world.engine.launched) == 5
        # It has not seen a whole look-back yet, and there are no calls: nothing falls.
        world.router.have("b")
        await asyncio.sleep(20.0)
        assert world.serving() == 5
        assert world.engine.history("kill", "drain") == []

    in_scaled_world(tmp_path, test)


def test_a_silent_router_blocks_falls(tmp_path: Path) -> None:
    """A router that hangs had calls: for 30 s nothing falls, since nobody knows that there are fewer (AS20)."""

    async def test(world: ScaledWorld) -> None:
        await world.create_auto(max_replicas=5, downscale_delay_s=0.0, look_back_period_s=2.0)
        world.router.have("b", rate=100)
        await world.rises_to(5)
        world.router.hang()
        await asyncio.sleep(28.0)
        assert world.wanted() == 5
        await asyncio.sleep(400.0)
        assert world.wanted() == 1

    in_scaled_world(tmp_path, test)


def test_routers_count_for_those_beside_an_autoscaled_backend(tmp_path: Path) -> None:
    """A backend with a fixed number is counted once it shares an endpoint with an autoscaled one, so that a switch from
    one to the other is a step known ahead (AS10)."""

    async def test(world: ScaledWorld) -> None:
        await world.create("fixed")
        await world.create_auto("auto", max_replicas=20)
        await world.create_endpoint(backend="fixed")
        scales = {tag: route.scales for tag, route in world.peers.tables[-1].backends.items()}
        assert scales == {"fixed": False, "auto": True}
        await world.split(fixed=0.9, auto=0.1)
        await asyncio.sleep(0.1)
        assert all(route.scales for route in world.peers.tables[-1].backends.values())
        world.router.have("fixed", rate=108)
        world.router.have("auto", rate=12)
        await asyncio.sleep(60.0)
        assert world.wanted("auto") == 1
        await world.split(fixed=0.0, auto=1.0)
        await asyncio.sleep(0.6)
        assert world.wanted("auto") >= 5
        await world.split(auto=1.0)
        await asyncio.sleep(0.1)
        assert not world.peers.tables[-1].backends["fixed"].scales

    in_scaled_world(tmp_path, test)


def test_a_rolling_update_keeps_the_number_which_may_rise(tmp_path: Path) -> None:
    """New code gets as many replicas as the old had; calls that come meanwhile raise that, and the update does not wait
    for what it has not begun with (AS9)."""

    async def test(world: ScaledWorld) -> None:
        await world.create_auto(max_replicas=9)
        world.router.have("b", rate=60)
        await world.rises_to(3)
        began = world.wanted()
        world.plan = ReplicaPlan(ready_s=2.0)
        replacing = asyncio.ensure_future(world.replace("b", b"code 2"))
        await asyncio.sleep(1.0)
        world.router.have("b", rate=150)
        await replacing
        await world.rises_to(began + 1)
        newest = world.controller.desired.backends["b"].version
        there = world.controller.observed.of("b")
        assert all(replica.version == newest for replica in there)
        await asyncio.sleep(60.0)
        assert world.serving() == world.wanted()

    in_scaled_world(tmp_path, test)


@pytest.mark.parametrize("moment", [0.0, 0.05, 0.5, 1.05, 1.2])
def test_a_controller_that_is_killed_goes_on_with_a_wake(tmp_path: Path, moment: float) -> None:
    """The controller dies at any moment of a wake: the call that waits gets its replica, and only one is launched
    (AS20, AS14)."""

    async def test(world: ScaledWorld) -> None:
        await world.create_auto(min_replicas=0, initial_replicas=0)
        await asyncio.sleep(1.0)
        assert len(world.engine.launched) == 0
        world.router.have("b", waiting=1)
        while not world.wanted():
            await asyncio.sleep(0.01)
        await asyncio.sleep(moment)
        await world.restart()
        assert world.wanted() == 1
        await asyncio.sleep(2.0)
        assert world.serving() == 1
        assert len(world.engine.launched) == 1
        world.router.have("b")
        await asyncio.sleep(20.0)
        assert world.serving() == 1, "it has not looked for a whole look-back yet"

    in_scaled_world(tmp_path, test)


def test_a_policy_of_ones_own_decides(tmp_path: Path) -> None:
    """A user's own rule says how many replicas there are, within the bounds; while it fails, the built-in rule decides
    and the status says so (AS13)."""

    async def test(world: ScaledWorld) -> None:
        world.policies = SaidPolicies()
        await world.restart()
        await world.create_auto(max_replicas=6, policy=ScalingPolicy("mine:rule"))
        world.policies.wants = 9.0
        await asyncio.sleep(1.5)
        assert world.wanted() == 6
        tag, told = world.policies.asked[-1]
        assert (tag, told.current_num_replicas) == ("b", 1)
        assert told.current_time == pytest.approx(datetime.fromisoformat(world.clock()).timestamp(), abs=2)
        assert told.last_scale_up_time is not None
        world.policies.wants, world.policies.remark = None, "it raised ValueError('no idea')"
        await asyncio.sleep(1.0)
        assert world.view().remark == "it raised ValueError('no idea')"
        await world.delete()
        await asyncio.sleep(1.0)
        assert world.policies.kept == frozenset()

    in_scaled_world(tmp_path, test)


def test_a_traffic_step_wakes_a_sleeping_version(tmp_path: Path) -> None:
    """A switch to a version that is unloaded loads it before its first call comes (AS10, ID1)."""

    async def test(world: ScaledWorld) -> None:
        await world.create_auto("one", max_replicas=9)
        await world.create("two", num_replicas=2, idle_timeout_s=2.0)
        await world.create_endpoint(backend="one")
        await world.split(one=1.0, two=0.0)
        world.router.have("one", rate=120)
        await asyncio.sleep(30.0)
        assert world.wanted("two") == 0
        await world.split(one=0.5, two=0.5)
        await asyncio.sleep(0.6)
        assert world.wanted("two") == 2
        assert world.view("two").decisions[-1].reason == TRAFFIC

    in_scaled_world(tmp_path, test)


def test_changes_do_not_wait_for_room(tmp_path: Path) -> None:
    """A backend that wants more than there is room for starts what fits and says so; updates and new code of it return
    when as many run as did before (AS2, AS15)."""

    async def test(world: ScaledWorld) -> None:
        await world.create_auto(max_replicas=4, resources=Resources(num_gpus=1))
        world.router.have("b", rate=80)
        await world.rises_to(4)
        await asyncio.sleep(5.0)
        assert (world.wanted(), world.serving()) == (4, 2)
        blocked = world.view().blocked
        assert blocked is not None
        assert blocked.reason == "room"
        await asyncio.wait_for(world.update(max_queued_queries=7), 5.0)
        await asyncio.wait_for(world.update(user_config=b"new"), 5.0)
        await asyncio.wait_for(world.replace("b", b"code 2"), 60.0)
        newest = world.controller.desired.backends["b"].version
        assert [replica.version for replica in world.controller.observed.of("b")] == [newest] * 2
        assert world.wanted() == 4
        await world.restart()
        await asyncio.sleep(1.0)
        assert has_come_up(Situation(world.controller.desired, world.controller.observed, 1, frozenset())), (
            "a restart does not wait for it either"
        )

    in_scaled_world(tmp_path, test)


def test_an_update_waits_for_what_was_wanted(tmp_path: Path) -> None:
    """A deploy under load returns when as many replicas of the new code run as were wanted when it was sent (AS2)."""

    async def test(world: ScaledWorld) -> None:
        await world.create_auto(max_replicas=4)
        world.router.have("b", rate=80)
        await world.rises_to(4)
        await asyncio.sleep(5.0)
        await world.replace("b", b"code 2")
        newest = world.controller.desired.backends["b"].version
        ready = [replica for replica in world.controller.observed.of("b") if replica.phase is Phase.READY]
        assert [replica.version for replica in ready] == [newest] * 4

    in_scaled_world(tmp_path, test)


def test_a_deploy_that_fails_keeps_number_and_code(tmp_path: Path) -> None:
    """New code that cannot start is taken back under load; the old code serves on with as many replicas, and these may
    still become more (AS9, DP6)."""

    async def test(world: ScaledWorld) -> None:
        await world.create_auto(max_replicas=9)
        world.router.have("b", rate=60)
        await world.rises_to(3)
        await asyncio.sleep(20.0)
        number = world.wanted()
        world.plan = ReplicaPlan(constructor_error="no such model")
        with pytest.raises(BackendStartError, match="no such model"):
            await world.replace("b", b"code 2")
        assert (world.wanted(), world.serving()) == (number, number)
        world.plan = ReplicaPlan()
        world.router.have("b", rate=120)
        await world.rises_to(number + 2)
        await asyncio.sleep(60.0)
        assert world.serving() == world.wanted()

    in_scaled_world(tmp_path, test)


def test_a_burst_at_a_new_backend(tmp_path: Path) -> None:
    """Who creates a backend and sends it a burst at once gets replicas within two seconds: that nothing was seen before
    does not make the burst the usual (AS4)."""

    async def test(world: ScaledWorld) -> None:
        await world.create_auto(max_replicas=9)
        world.router.have("b", rate=90)
        await world.rises_to(4, within_s=2.0)

    in_scaled_world(tmp_path, test)


def test_a_replica_that_hangs_while_it_leaves_is_killed(tmp_path: Path) -> None:
    """A replica that leaves has as long as its streams take, but not if its process hangs: it is killed as one that
    serves would be, and its backend has failed at nothing (AS7, F4)."""

    async def test(world: ScaledWorld) -> None:
        await world.create_auto(max_replicas=2, downscale_delay_s=1.0, look_back_period_s=2.0)
        world.plan = ReplicaPlan(drain_s=None)
        await world.scale(2, hold_s=5.0)
        await asyncio.sleep(30.0)
        (leaver,) = (one for one in world.controller.observed.of("b") if one.phase is Phase.DRAINING)
        world.engine.live[leaver.number].plan = ReplicaPlan(health=None, stopped=True)
        await asyncio.sleep(30.0)
        assert world.engine.history("kill") == [("kill", leaver.number)]
        assert world.controller.observed.failures == {}
        assert (world.wanted(), world.serving()) == (1, 1)

    in_scaled_world(tmp_path, test)


def test_a_backend_that_is_made_anew_knows_nothing_of_the_old_one(tmp_path: Path) -> None:
    """Who deletes a backend and creates another one of its name at once gets one that was never called, and not one
    that has been idle for as long as the old one (AS3)."""

    async def test(world: ScaledWorld) -> None:
        zero = {"min_replicas": 0, "downscale_delay_s": 5.0, "look_back_period_s": 5.0}
        await world.create_auto(**zero)
        await asyncio.sleep(600.0)
        await world.delete()
        await world.create_auto(**zero)
        assert world.wanted() == 1
        await asyncio.sleep(10.0)
        assert world.wanted() == 0
        idle_s = float(world.view().decisions[-1].text.split()[3])
        assert idle_s < 10, world.view().decisions

    in_scaled_world(tmp_path, test)
