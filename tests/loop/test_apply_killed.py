"""The controller, the sender or a replica is killed at any moment of an apply: it is whole or taken back (CF8)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random

import msgspec
import pytest

from pointsman.controller.applying import find_operation
from pointsman.controller.operations import OperationWaiter
from pointsman.controller.state import Desired
from pointsman.exceptions import ServeException
from pointsman.model import BackendConfigSpec, Origin, Resources, Source
from pointsman.testing import run
from pointsman.wire.apply import DONE, TAKEN_BACK, OperationView, Plan, WantedBackend, WantedEndpoint
from pointsman.wire.commands import Accepted, Apply
from pointsman.wire.messages import unpack
from tests.loop.lives import BAD, CONFIRM_S, DRAIN_S, TRAITS
from tests.loop.simulation import Simulation, checked
from tests.unit.planning import everything, plan_for, served

MOMENTS = range(10)
LONGEST_S = 2.4
"""An apply that nothing disturbs takes about as long."""


def model(code: str, version: str = "", **config: object) -> WantedBackend:
    """A backend of a file. Two replicas, so that one serves when the other is killed."""
    limits = {"num_replicas": 2, "drain_confirm_s": CONFIRM_S, "drain_timeout_s": DRAIN_S, "rollout_watch_s": 1.0}
    spec = msgspec.convert({**limits, **config}, BackendConfigSpec)
    source = Source(f"m:{code}", args=b"[]", version=version)
    return WantedBackend(code, Origin("/", ()), TRAITS, spec, Resources(), source)


BEFORE = (
    {"kept": model("good"), "changed": model("good"), "replaced": model("good"), "gone": model("good")},
    {"rank": served("/rank", kept=0.5, changed=0.5), "other": served(replaced=0.5, gone=0.5)},
)


def after(*, bad: bool) -> tuple[dict[str, WantedBackend], dict[str, WantedEndpoint]]:
    """The next version of the file. If it is ``bad``, its new backend cannot come up."""
    backends = {
        "kept": model("good"),
        "changed": model("good", max_queued_queries=5, num_replicas=3),
        "replaced": model("good", "2"),
        "new": model(BAD if bad else "good"),
    }
    return backends, {"rank": served("/rank", kept=0.5, new=0.5), "third": served(changed=0.9, replaced=0.1)}


class Life(Simulation):
    """An instance whose file is applied, and one process of it is killed.

    Args:
        seed: draws the moment.
        victim: ``controller``, ``sender`` or ``replica``; empty for none.
        bad: whether a backend of the new file cannot come up.
    """

    def __init__(self, seed: int, victim: str, *, bad: bool) -> None:
        super().__init__(seed, ())
        self.victim, self.bad = victim, bad
        self.at_s = random.Random(f"{victim} {seed} {bad}").uniform(0.0, LONGEST_S)
        self.in_the_middle = False

    async def happens(self) -> OperationView:
        """All of it. Returns how the apply ended."""
        await self.prepare()
        self.faults = self.victim == "replica"
        await self.applied(BEFORE, "first")
        before = self.store.desired
        backends, endpoints = after(bad=self.bad)
        order = self.order(backends, endpoints, "second")
        sending = asyncio.ensure_future(self.deliver(order))
        await asyncio.sleep(self.at_s)
        self.check()
        self.in_the_middle = self.store.desired.running is not None
        if self.victim == "controller":
            await self.stop()
            await asyncio.sleep(0.3)
            self.start()
            await sending
        elif self.victim == "sender":
            sending.cancel()
        elif self.victim == "replica":
            live = sorted(self.engine.live)
            self.engine.exit(live[self.seed * 7 % len(live)])
        with contextlib.suppress(asyncio.CancelledError):
            await sending
        view = await self.outcome("second")
        self.check_whole(before, view)
        await asyncio.sleep(60.0)
        self.check()
        self.check_rest()
        self.check_whole(before, view)
        await self.stop()
        return view

    def order(self, backends: dict[str, WantedBackend], endpoints: dict[str, WantedEndpoint], name: str) -> Apply:
        state = self.store.desired
        codes = {one.code: one.code.encode() for one in backends.values()}
        return Apply(
            id=name, owner="shop", base=state.version, plan=plan_for(state, backends, endpoints), codes=codes, by="anna"
        )

    async def deliver(self, order: Apply) -> None:
        """As the client's link does: again to the next controller, until one has answered."""
        while True:
            try:
                accepted = unpack(await self.controller.change(order, b""), Accepted)
            except (ServeException, RuntimeError):  # the second from one that has ended: its threads have, too
                await asyncio.sleep(0.1)
                continue
            self.check_acknowledged(accepted.version)
            return

    async def applied(self, file: tuple[dict[str, WantedBackend], dict[str, WantedEndpoint]], name: str) -> None:
        await self.deliver(self.order(*file, name))
        assert (await self.outcome(name)).state == DONE

    async def outcome(self, name: str) -> OperationView:
        operation = find_operation(self.controller.desired, name)
        waiter = OperationWaiter(operation, frozenset(), lambda progress: None)
        view: OperationView = await self.controller.wait_for(waiter)
        return view

    def check_whole(self, before: Desired, view: OperationView) -> None:
        """The new file or the old, and nothing of the other."""
        desired = self.store.desired
        if view.state == DONE:
            backends, endpoints = after(bad=self.bad)
            nothing = plan_for(desired, backends, endpoints)
            assert msgspec.structs.replace(nothing, claims={}) == Plan(), "it is not in force whole"
            assert not self.bad, "a backend that cannot come up is in force"
        else:
            assert view.state == TAKEN_BACK
            assert everything(desired) == everything(before), "it was not taken back whole"
            assert desired.marks == before.marks

    @checked
    def check_table(self, table: object) -> None:
        super().check_table(table)  # never fewer replicas than there were
        for name, endpoint in table.endpoints.items():  # type: ignore[attr-defined]
            for tag, weight in endpoint.policy.weights.items():
                there = table.backends[tag]  # type: ignore[attr-defined]
                assert there.replicas or not weight, f"{tag!r} of {name!r} has no replica"


def outcome_of(simulation: Life) -> OperationView:
    """Runs one life; fails with what was found in it."""
    try:
        view = run(simulation.happens())
    except BaseException:
        assert not simulation.broken, simulation.broken
        raise
    assert not simulation.broken, simulation.broken
    return view


@pytest.mark.parametrize("victim", ["controller", "sender", "replica"])
@pytest.mark.parametrize("bad", [False, True], ids=["good", "bad"])
def test_it_is_whole_or_taken_back_whoever_dies(victim: str, *, bad: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Killed at ten drawn moments each: in the end there is the new file or the old one, never a mix, and at no time an
    endpoint has a backend without replicas (CF8)."""
    caplog.set_level(logging.CRITICAL)
    lives = [Life(seed, victim, bad=bad) for seed in MOMENTS]
    for life in lives:
        view = outcome_of(life)
        assert view.state == (TAKEN_BACK if bad else DONE), f"seed {life.seed}: {view.text}"
    assert sum(life.in_the_middle for life in lives) >= 4, "most are killed too early or too late"
