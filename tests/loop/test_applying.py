"""An apply of a configuration file, with a real store and an engine without processes, in virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from pointsman.controller.applying import find_operation
from pointsman.controller.operations import OperationWaiter
from pointsman.exceptions import BusyError, StateChangedError
from pointsman.model import BackendConfigSpec, Resources, Source
from pointsman.testing import ReplicaPlan, settle
from pointsman.usercode.packing import code_digest
from pointsman.wire.apply import OperationView, WantedBackend, WantedEndpoint
from pointsman.wire.commands import Accepted, Apply, Progress, SetTraffic, TakeBack
from pointsman.wire.messages import unpack
from tests.loop.world import ORIGIN, TRAITS, World, in_world
from tests.unit.planning import everything, of_file, plan_for, served

Backends = dict[str, WantedBackend]
Endpoints = dict[str, WantedEndpoint]


def model(code: str = "m:V1", **config: object) -> WantedBackend:
    """A backend of a file; its code blob is its import path."""
    spec = msgspec.convert(config, BackendConfigSpec)
    return WantedBackend(code_digest(code.encode()), ORIGIN, TRAITS, spec, Resources(), Source(path=code, args=b"[]"))


def command(world: World, backends: Backends, endpoints: Endpoints) -> Apply:
    state = world.controller.desired
    codes = {one.code: one.source.path.encode() for one in backends.values()}
    plan = plan_for(state, backends, endpoints)
    return Apply(id=world.new_id(), owner="shop", base=state.version, plan=plan, codes=codes, by="anna")


async def outcome(world: World, operation: str, progress: list[Progress] | None = None) -> OperationView:
    """What the reply to an AwaitOperation says, when it comes."""
    tell = (progress if progress is not None else []).append
    found = find_operation(world.controller.desired, operation)
    view: OperationView = await world.controller.wait_for(OperationWaiter(found, frozenset(), tell))
    return view


async def apply(world: World, backends: Backends, endpoints: Endpoints) -> OperationView:
    """What ``pointsman apply`` does."""
    order = command(world, backends, endpoints)
    await world.change(order)
    return await outcome(world, order.id)


ONE: tuple[Backends, Endpoints] = {"v1": model(num_replicas=2)}, {"rank": served("/rank", v1=1.0)}
TWO: tuple[Backends, Endpoints] = (
    {"v1": model(num_replicas=2), "v2": model("m:V2", num_replicas=2)},
    {"rank": served("/rank", v1=0.5, v2=0.5)},
)


def test_the_answer_comes_when_all_is_in_force(tmp_path: Path) -> None:
    """Backends come up, then traffic flows, and the caller hears of both (CF6, CF7)."""

    async def test(world: World) -> None:
        assert (await apply(world, *ONE)).state == "done"
        order = command(world, *TWO)
        accepted = await world.change(order)
        told: list[Progress] = []
        waiting = asyncio.ensure_future(outcome(world, order.id, told))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        assert world.peers.tables[-1].endpoints["rank"].policy.weights == {"v1": 1.0}
        view = await waiting
        assert (view.state, view.owner, view.by) == ("done", "shop", "anna")
        assert view.version == world.controller.desired.version == accepted.version + 1
        assert world.peers.tables[-1].endpoints["rank"].policy.weights == {"v1": 0.5, "v2": 0.5}
        assert len(list(world.peers.replicas_in_table("v2"))) == 2
        assert (told[0], told[-1]) == (Progress("v2", 0, 2), Progress("v2", 2, 2))
        assert (await outcome(world, order.id)) == view  # and whoever asks later hears it at once

    in_world(tmp_path, test)


def test_the_same_file_again_touches_nothing(tmp_path: Path) -> None:
    """No version, no table, no order to any replica (CF6)."""

    async def test(world: World) -> None:
        await apply(world, *TWO)
        before, tables, orders = world.controller.desired, len(world.peers.tables), len(world.engine.orders)
        assert (await apply(world, *TWO)).state == "done"
        await settle()
        assert world.controller.desired.version == before.version
        assert (len(world.peers.tables), len(world.engine.orders)) == (tables, orders)

    in_world(tmp_path, test)


def test_of_a_hundred_backends_only_those_are_touched_that_must(tmp_path: Path) -> None:
    """One field of one of them: its replicas are sent a configuration. One field of all: no replica is started
    (CF9)."""

    async def test(world: World) -> None:
        many: Backends = {f"b{number}": model() for number in range(100)}
        await apply(world, many, {"rank": served("/rank", b0=1.0)})
        launched = len(world.engine.launched)
        versions = {tag: spec.config_version for tag, spec in world.controller.desired.backends.items()}
        await apply(world, {**many, "b7": model(max_queued_queries=5)}, {"rank": served("/rank", b0=1.0)})
        now = world.controller.desired.backends
        assert [tag for tag, version in versions.items() if now[tag].config_version != version] == ["b7"]
        await apply(world, {tag: model(max_queued_queries=6) for tag in many}, {"rank": served("/rank", b0=1.0)})
        assert len(world.engine.launched) == launched
        assert len(world.engine.live) == 100

    in_world(tmp_path, test)


def test_what_cannot_come_up_takes_the_rest_back(tmp_path: Path) -> None:
    """The file also replaces v1, which is up by then: its old code serves again, and at no time is nobody there
    (CF7)."""

    async def test(world: World) -> None:
        await apply(world, *ONE)
        bad = ReplicaPlan(constructor_error="no such model", ready_s=3.0)
        world.plan_of = lambda note: bad if note.backend == "v2" else ReplicaPlan()  # type: ignore[method-assign]
        before = everything(world.controller.desired)
        tables = len(world.peers.tables)
        new = {"v1": model("m:New", num_replicas=2, rollout_watch_s=0.1), "v2": model("m:V2")}
        view = await apply(world, new, TWO[1])
        assert (view.state, view.object) == ("taken back", "backend/v2")
        assert "no such model" in view.text
        assert "Traceback" in view.traceback
        await asyncio.sleep(60)
        assert everything(world.controller.desired) == before
        assert {replica.note.backend for replica in world.engine.live.values()} == {"v1"}
        assert len(list(world.peers.replicas_in_table("v1"))) == 2
        for table in world.peers.tables[tables:]:
            assert len(table.backends["v1"].replicas) >= 2
            assert table.endpoints["rank"].policy.weights == {"v1": 1.0}

    in_world(tmp_path, test)


def test_two_that_fail_at_once_are_one_failure(tmp_path: Path) -> None:
    """The first takes all back, and nothing is done for the second that is not wanted any more (CF7)."""

    async def test(world: World) -> None:
        await apply(world, *ONE)
        world.plan = ReplicaPlan(constructor_error="no such model")
        launched, serving = len(world.engine.launched), set(world.engine.live)
        bad = {**ONE[0], "a": model("m:A"), "b": model("m:B")}
        view = await apply(world, bad, ONE[1])
        assert view.state == "taken back"
        await asyncio.sleep(60)
        assert {replica.note.version for replica in world.engine.live.values()} == {1}
        assert {replica.note.backend for replica in world.engine.launched[launched:]} == {"a", "b"}
        assert not [order for order in world.engine.orders if order.what == "exit" and order.number in serving]
        world.plan = ReplicaPlan()
        began = asyncio.get_running_loop().time()
        assert (await apply(world, bad, ONE[1])).state == "done"
        assert asyncio.get_running_loop().time() < began + 10  # no pause is left of the failures

    in_world(tmp_path, test)


def test_failures_are_told_until_the_next_apply(tmp_path: Path) -> None:
    """A backend that could not be replaced shows why in the status, one that only was part of the same file does not;
    what comes up after a failure shows none (CB10)."""

    async def test(world: World) -> None:
        await apply(world, {"v1": model(num_replicas=2), "w": model("m:W")}, ONE[1])
        plans = {
            "v1": [ReplicaPlan(constructor_error="no such model")] * 9,
            "w": [ReplicaPlan(constructor_error="once")],
        }
        world.plan_of = lambda note: (plans[note.backend] or [ReplicaPlan()]).pop()  # type: ignore[method-assign]
        new = {"v1": model("m:New", num_replicas=2, max_surge=1), "w": model("m:NewW")}
        assert (await apply(world, new, ONE[1])).object == "backend/v1"
        failures = world.controller.observed.failures
        assert set(failures) == {"v1"}
        assert failures["v1"].rolled_back
        plans["v1"] = [ReplicaPlan(), ReplicaPlan(), ReplicaPlan(constructor_error="once")]
        assert (await apply(world, new, ONE[1])).state == "done"
        assert failures == {}

    in_world(tmp_path, test)


def test_a_model_that_loads_for_ever_is_taken_back_by_hand(tmp_path: Path) -> None:
    """Whoever waits hears who did it; the process ends, and its backends are free again (CF8)."""

    async def test(world: World) -> None:
        await apply(world, *ONE)
        before = everything(world.controller.desired)
        world.plan = ReplicaPlan(ready_s=None)
        order = command(world, *TWO)
        await world.change(order)
        waiting = asyncio.ensure_future(outcome(world, order.id))
        await asyncio.sleep(3600)
        assert not waiting.done()
        taken = await world.change(TakeBack(world.new_id(), order.id, by="bob"))
        assert (await waiting).text == "bob took it back"
        await settle()
        assert not world.engine.of("v2")
        assert everything(world.controller.desired) == before
        again = await world.change(TakeBack(world.new_id(), order.id))
        assert again == Accepted(taken.version, "the apply of 'shop' has ended already: taken back")
        world.plan = ReplicaPlan()
        assert (await apply(world, *TWO)).state == "done"

    in_world(tmp_path, test)


def test_the_answer_does_not_wait_for_a_router_that_hangs_for_ever(tmp_path: Path) -> None:
    """The apply is done; the caller is told that not everybody uses it yet (CF6, CL4)."""

    async def test(world: World) -> None:
        await apply(world, *ONE)
        world.peers.routers[1] = None
        order = command(world, *TWO)
        await world.change(order)
        with pytest.raises(TimeoutError, match="was not in effect everywhere after 60 s"):
            await outcome(world, order.id)
        assert find_operation(world.controller.desired, order.id).state == "done"

    in_world(tmp_path, test)


def test_the_next_controller_goes_on(tmp_path: Path) -> None:
    """An apply outlives the process that carries it out; a command that is sent again begins no second one
    (CF8, CL5)."""

    async def test(world: World) -> None:
        await apply(world, *ONE)
        order = command(world, *TWO)
        accepted = await world.change(order)
        await asyncio.sleep(0.5)
        await world.stop()
        await world.start()
        again = unpack(await world.controller.change(order, b""), Accepted)
        assert again == accepted
        assert (await outcome(world, order.id)).state == "done"
        assert everything(world.controller.desired) == of_file(*TWO)
        assert len(world.engine.launched) == 4
        assert unpack(await world.controller.change(order, b""), Accepted) == accepted
        assert world.controller.desired.running is None

    in_world(tmp_path, test)


def test_an_end_is_remembered_by_the_next_controller(tmp_path: Path) -> None:
    """Marks and outcomes are stored (CF8, CF10)."""

    async def test(world: World) -> None:
        view = await apply(world, *ONE)
        marks = world.controller.desired.marks
        await world.stop()
        await world.start()
        assert world.controller.desired.marks == marks
        assert marks["backend/v1"].fields["config.num_replicas"].by == "anna"
        await settle()
        assert (await outcome(world, view.id)) == view

    in_world(tmp_path, test)


def test_what_is_deleted_takes_no_calls_when_the_answer_comes(tmp_path: Path) -> None:
    """Its replicas drain: routers know that it is gone, and what runs is finished (CF7)."""

    async def test(world: World) -> None:
        await apply(world, *TWO)
        for replica in world.engine.live.values():
            replica.plan.drain_s = 5.0
        await apply(world, *ONE)
        assert "v2" not in world.peers.tables[-1].backends
        assert len(world.engine.of("v2")) == 2  # they finish what they run
        await asyncio.sleep(10)
        assert not world.engine.of("v2")
        assert set(world.controller.desired.marks) == {"backend/v1", "endpoint/rank"}

    in_world(tmp_path, test)


def test_an_emergency_wins(tmp_path: Path) -> None:
    """Traffic that is set by hand meanwhile stays, and the apply is taken back for it (CF8)."""

    async def test(world: World) -> None:
        await apply(world, {**ONE[0], "v0": model("m:V0")}, ONE[1])
        order = command(world, {**TWO[0], "v0": model("m:V0")}, TWO[1])
        await world.change(order)
        hand = await world.change(SetTraffic(world.new_id(), "rank", {"v0": 1.0}, by="bob"))
        await world.wait(hand.version)  # no need to wait for the apply
        view = await outcome(world, order.id)
        assert (view.state, view.object) == ("taken back", "endpoint/rank")
        assert view.text == "bob changed traffic of endpoint 'rank' meanwhile"
        await asyncio.sleep(10)
        assert world.controller.desired.endpoints["rank"].policy.weights == {"v0": 1.0}
        assert not world.engine.of("v2")

    in_world(tmp_path, test)


def test_a_second_apply_and_a_stale_one_change_nothing(tmp_path: Path) -> None:
    """Both are told apart by their kind (CF8, CF12)."""

    async def test(world: World) -> None:
        await apply(world, *ONE)
        stale = command(world, *TWO)
        order = command(world, *TWO)
        await world.change(order)
        with pytest.raises(BusyError, match="anna has been applying 'shop' since"):
            await world.change(command(world, *ONE))
        await outcome(world, order.id)
        with pytest.raises(StateChangedError, match="make it anew"):
            await world.change(stale)
        assert everything(world.controller.desired) == of_file(*TWO)

    in_world(tmp_path, test)


def test_others_wait_for_their_own_backends_meanwhile(tmp_path: Path) -> None:
    """Who creates a backend beside a long apply is answered when that is up, and not with the apply (CL6)."""

    async def test(world: World) -> None:
        slow = ReplicaPlan(ready_s=100.0)
        world.plan_of = lambda note: slow if note.backend == "v1" else ReplicaPlan()  # type: ignore[method-assign]
        order = command(world, *ONE)
        await world.change(order)
        await world.create("mine")
        assert world.controller.desired.running is not None
        await world.deploy("other", b"code")
        assert (await outcome(world, order.id)).state == "done"

    in_world(tmp_path, test)
