"""Rollouts by a controller with a real store, replicas and routers that are played, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from pointsman.controller.operations import RolloutWaiter
from pointsman.controller.rollouts import watch
from pointsman.controller.rollouts.changes import find_rollout
from pointsman.controller.rollouts.judge import Verdict
from pointsman.controller.rollouts.watch import RolloutWatch
from pointsman.controller.rollouts.words import view_of
from pointsman.controller.state import Rollout
from pointsman.exceptions import BackendStartError
from pointsman.model.rollout import RolloutPlan, RolloutView
from pointsman.testing import FakeEvidence, ReplicaPlan, run, settle
from pointsman.wire.commands import SetTraffic
from pointsman.wire.rollouts import ControlRollout, StartRollout
from tests.loop.world import World

REQUESTS = 100
"""Each second, divided among the backends by the weights in the table that routers have."""


class Traffic(World):
    """A world in which users call endpoint ``e`` of backends ``main`` and ``new``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.counts = FakeEvidence()
        self.failing = {"main": 0.0, "new": 0.0}
        self.sent = {"main": 0, "new": 0}

    async def start(self) -> None:
        await super().start()
        controller = self.controller
        self.watch = RolloutWatch(
            self.handover.settings.instance,
            desired=lambda: controller.desired,
            observed=controller.observed,
            update=controller.update,
        )
        self._end = self.counts.subscribe(self.watch.heard)

    async def stop(self) -> None:
        self._end()
        await self.watch.aclose()
        await super().stop()

    async def begin(self, **plan: Any) -> None:
        for tag in ("main", "new"):
            await self.create(tag)
        await self.create_endpoint("e", "main")
        await self.change(StartRollout(self.new_id(), RolloutPlan("e", "new", **plan), by="ann"))

    async def pass_seconds(self, count: int, *, unread: bool = False) -> None:
        """Users call; each second is read, unless nobody reads."""
        for _ in range(count):
            await asyncio.sleep(1)
            policy = self.peers.tables[-1].endpoints["e"].policy
            for tag, weight in policy.weights.items():
                n = round(REQUESTS * weight)
                self.sent[tag] += n
                errors = round(n * self.failing[tag])
                self.counts.count("e", tag, version=policy.version, latencies=[0.1] * n, errors=errors)
            if not unread:
                self.counts.tick()
                await settle()

    @property
    def view(self) -> RolloutView:
        return view_of(self.controller.desired, find_rollout(self.controller.desired, "e"))

    @property
    def weights(self) -> dict[str, float]:
        """Those that routers use."""
        return self.peers.tables[-1].endpoints["e"].policy.weights


def in_traffic(folder: Path, test: Callable[[Traffic], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        world = Traffic(folder)
        await world.start()
        await test(world)
        await world.stop()

    run(main())


PLAN: dict[str, Any] = {"steps": (0.1, 0.5, 1.0), "hold_s": 5, "min_samples": 30}


def test_from_the_first_step_to_all_traffic(tmp_path: Path) -> None:
    """A good version gets more of the traffic that routers send, step by step; whoever waits is told when it has all of
    it (RO1, RO3, RO6)."""

    async def test(world: Traffic) -> None:
        await world.begin(**PLAN)
        rollout = find_rollout(world.controller.desired, "e")
        waiting = asyncio.ensure_future(world.controller.wait_for(RolloutWaiter(rollout, frozenset(), 100)))
        seen = []
        while not waiting.done():
            await world.pass_seconds(1)
            seen.append(world.weights["new"])
        assert sorted(set(seen)) == [0.1, 0.5, 1.0]
        assert seen == sorted(seen)
        assert len(seen) < 20
        assert (await waiting).state == "promoted"
        assert world.view.exposed == world.sent["new"]

    in_traffic(tmp_path, test)


def test_back_within_two_seconds(tmp_path: Path) -> None:
    """A version that begins to fail is without traffic two seconds after the evidence is enough (RO7, RO12)."""

    async def test(world: Traffic) -> None:
        await world.begin(**PLAN)
        await world.pass_seconds(8)
        assert world.weights["new"] == 0.5
        world.failing["new"] = 1.0
        await world.pass_seconds(3)
        assert world.weights == {"main": 1.0}
        assert world.view.state == "rolled_back"
        sent = world.sent["new"]
        await world.pass_seconds(5)
        assert world.sent["new"] == sent == world.view.exposed

    in_traffic(tmp_path, test)


@pytest.mark.parametrize("fails", [False, True], ids=["good", "bad"])
def test_a_controller_that_dies_at_every_step(tmp_path: Path, fails: bool) -> None:
    """However often the controller is killed, the next one goes on at the same step, within two seconds of the time
    held, and each request counts once (RO11)."""

    async def test(world: Traffic) -> None:
        await world.begin(**PLAN)
        for second in range(100):
            await world.pass_seconds(1)
            if fails and second > 7:
                world.failing["new"] = 0.3
            before = world.view
            if not world.view.ended and second % 3 == 1:
                await world.stop()
                await world.pass_seconds(1, unread=True)
                await world.start()
                await settle()
                after = world.view
                assert (after.step, after.weight, after.gates) == (before.step, before.weight, before.gates)
                assert before.held_s - 2 <= after.held_s <= before.held_s
            if world.view.ended:
                break
        assert world.view.state == ("rolled_back" if fails else "promoted")
        # What was sent under the last policy is known when it is read once more, and not before.
        assert world.view.exposed == world.sent["new"]

    in_traffic(tmp_path, test)


@contextlib.contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Nobody can write to the store: another process holds it."""
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        blocker.execute("ROLLBACK")
        blocker.close()


def test_a_full_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the store cannot be written the weight stays, and what was found out is done as soon as it can be
    (RO11)."""
    monkeypatch.setattr("pointsman.controller.store.snapshot.BUSY_TIMEOUT_S", 0.0)
    monkeypatch.setattr("pointsman.controller.store.sqlite.BUSY_TIMEOUT_S", 0.0)

    async def test(world: Traffic) -> None:
        await world.begin(**{**PLAN, "hold_s": 100})
        await world.pass_seconds(5)
        world.failing["new"] = 1.0
        with full_disk(world.path):
            await world.pass_seconds(6)
            assert world.weights["new"] == 0.1
            assert world.view.state == "running"
            assert world.view.exposed == 50
        await world.pass_seconds(1)
        assert world.view.state == "rolled_back"
        assert world.view.exposed == 120
        assert world.weights == {"main": 1.0}

    in_traffic(tmp_path, test)


def test_counting_costs_the_store_no_copies(tmp_path: Path) -> None:
    """What a rollout was judged by is stored each second; the database's copy is made for changes alone, and is good
    for going back to (RO11, G9)."""

    async def test(world: Traffic) -> None:
        await world.begin(**{**PLAN, "hold_s": 1000})
        await world.pass_seconds(5)
        copy = world.path.with_name("state.db.copy")
        before = copy.stat().st_mtime_ns
        await world.pass_seconds(10)
        assert copy.stat().st_mtime_ns == before
        assert world.view.held_s >= 13
        await world.stop()
        for name in ("state.db-wal", "state.db-shm"):
            world.path.with_name(name).unlink(missing_ok=True)
        world.path.write_bytes(b"torn")
        await world.start()
        await settle()
        await world.pass_seconds(2)
        assert (world.view.state, world.view.step) == ("running", 0)
        assert world.view.exposed == world.sent["new"]

    in_traffic(tmp_path, test)


def test_a_version_whose_replica_dies(tmp_path: Path) -> None:
    """A backend that is UNHEALTHY gets no more traffic, and the reason says what became of it (RO10)."""

    async def test(world: Traffic) -> None:
        await world.begin(**PLAN)
        await world.pass_seconds(3)
        number = next(iter(world.peers.replicas_in_table("new")))
        world.plan = world.plan.__class__(constructor_error="no more memory")
        world.engine.kill(number)
        await world.pass_seconds(2)
        assert world.view.state == "rolled_back"
        assert "health: backend 'new' is UNHEALTHY: " in world.view.reason
        assert world.view.gates["health"].tripped

    in_traffic(tmp_path, test)


def test_one_that_cannot_be_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rollout that trips over a bug stays where it is, and says so once; all others are judged (RO7)."""
    said: list[str] = []
    monkeypatch.setattr(watch.log, "critical", lambda text, *args, **_: said.append(text % args))
    judged = watch.judge

    def judge(rollout: Rollout, *args: Any) -> tuple[Rollout, Verdict]:
        return judged(rollout, *args) if rollout.plan.endpoint == "e" else 1 / 0  # type: ignore[return-value]

    monkeypatch.setattr(watch, "judge", judge)

    async def test(world: Traffic) -> None:
        await world.begin(**PLAN)
        await world.create_endpoint("f", "main", None)
        await world.change(StartRollout(world.new_id(), RolloutPlan("f", "new"), by="ann"))
        world.failing["new"] = 1.0
        await world.pass_seconds(6)
        assert world.view.state == "rolled_back"
        assert find_rollout(world.controller.desired, "f").state == "running"
        assert said == ["rollout 2 cannot be judged, and stays where it is"]

    in_traffic(tmp_path, test)


def test_new_code_pauses_until_somebody_resumes(tmp_path: Path) -> None:
    """New code of either side pauses a rollout for as long as nobody resumes it (RO10)."""

    async def test(world: Traffic) -> None:
        await world.begin(**PLAN)
        await world.pass_seconds(3)
        await world.replace("new", b"code 2")
        await world.pass_seconds(9)
        assert (world.view.state, world.weights["new"]) == ("paused", 0.1)
        await world.change(ControlRollout(world.new_id(), "e", "resume", by="bob"))
        assert world.view.gates["error_rate"].value is None
        await world.pass_seconds(18)
        assert world.view.state == "promoted"

    in_traffic(tmp_path, test)


def test_new_code_that_fails(tmp_path: Path) -> None:
    """Who brings code that cannot start is told so as ever, also when that has paused a rollout (RO10, DP6)."""

    async def test(world: Traffic) -> None:
        await world.begin(**PLAN)
        await world.pass_seconds(2)
        world.plan = ReplicaPlan(constructor_error="no such model")
        with pytest.raises(BackendStartError, match="no such model"):
            await world.replace("main", b"code 2")
        assert world.view.state == "paused"
        assert "backend 'main' got new code from the controller" in world.view.reason
        world.plan = ReplicaPlan()
        await world.change(ControlRollout(world.new_id(), "e", "resume", by="bob"))
        await world.pass_seconds(18)
        assert world.view.state == "promoted"

    in_traffic(tmp_path, test)


def test_waiting_for_a_rollout(tmp_path: Path) -> None:
    """Who waits is told of its end, whatever that is, or that it takes longer (RO1)."""

    async def test(world: Traffic) -> None:
        await world.begin(**PLAN)
        rollout = find_rollout(world.controller.desired, "e")
        with pytest.raises(TimeoutError, match=r"rollout 1 of endpoint 'e' is running at 10 % .* within 3 s"):
            await world.controller.wait_for(RolloutWaiter(rollout, frozenset(), 3))
        waiting = asyncio.ensure_future(world.controller.wait_for(RolloutWaiter(rollout, frozenset(), None)))
        await settle()
        await world.change(SetTraffic(world.new_id(), "e", {"main": 1.0}, by="bob"))
        view = await waiting
        assert (view.state, view.reason) == ("superseded", "superseded at 10 % after 0 requests: bob has set traffic")

    in_traffic(tmp_path, test)
