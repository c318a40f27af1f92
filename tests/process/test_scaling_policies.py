"""Processes of users' policies for numbers of replicas: what one does harms nobody else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

import psutil
import pytest

from pointsman.controller.scaling import policies as processes
from pointsman.controller.scaling.policies import Policies
from pointsman.model import Autoscaling
from pointsman.model.scaling import ScalingPolicy
from pointsman.policy.scaling.context import PolicyContext, Said
from tests.conftest import family

HERE = (str(Path(__file__).parents[2]),)
FINE = Said(2.0)


def policy(name: str) -> ScalingPolicy:
    return ScalingPolicy(f"tests.process.scaling_policies:{name}", HERE)


def context(demand: float = 0.0) -> PolicyContext:
    return PolicyContext(
        deployment_name="m",
        app_name="",
        current_num_replicas=1,
        target_num_replicas=1,
        total_num_requests=demand,
        total_queued_requests=0.0,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=9,
        current_time=0.0,
        config=Autoscaling(),
    )


async def said(asked: Policies, rule: ScalingPolicy, demand: float = 0.0, version: int = 1) -> Said:
    """What a policy says to this context; it was not asked before, or has answered that."""
    if asked.said("m").remark or asked.said("m").wants is not None:
        asked._asked["m"].said = Said()
    asked.ask("m", rule, version, context(demand))
    return await heard(lambda: asked.said("m"))


async def heard(look: Callable[[], Said]) -> Said:
    deadline = time.monotonic() + 60
    while look() == Said():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    return look()


def run(test: Callable[[Policies], Coroutine[None, None, None]], limit_s: float = 30.0) -> None:
    """Run a test on a loop; afterwards no process is left."""

    async def main() -> None:
        asked = Policies(limit_s)
        try:
            await test(asked)
        finally:
            asked.close()

    before = set(family())
    asyncio.run(main())
    gone = [psutil.Process(pid) for pid in set(family()) - before if psutil.pid_exists(pid)]
    assert psutil.wait_procs(gone, timeout=30)[1] == []


def test_a_policy_remembers_what_it_likes() -> None:
    """My policy gets the state that it returned last, also in a new process; a new config imports it anew (AS13)."""

    async def test(asked: Policies) -> None:
        assert asked.said("m") == Said()
        assert [(await said(asked, policy("counts"))).wants for _ in range(3)] == [2.0, 3.0, 4.0]
        assert (await said(asked, policy("counts"), version=2)).wants == 2.0
        asked.keep({"other"})
        assert asked.said("m") == Said()

    run(test)


def test_a_policy_that_does_harm_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """My policy raises, answers NaN, exits, dies or returns nonsense: a remark says so, the built-in rule decides, and
    the next good answer counts again (AS13)."""
    monkeypatch.setattr(processes, "AGAIN_S", 0.0)

    async def test(asked: Policies) -> None:
        for demand, problem in (
            (1, "it raised ValueError('no idea')"),
            (2, "it answered nan, which is no number of replicas"),
            (3, "it raised SystemExit(3)"),
            (4, "its process has ended"),
            (5, "its state cannot be pickled: "),
            (6, "its state takes 10485"),
            (7, "it raised MemoryError"),
        ):
            found = await said(asked, policy("does_harm"), demand)
            start = "policy 'tests.process.scaling_policies:does_harm' is not followed, and the built-in rule decides: "
            assert found.wants is None
            assert found.remark.startswith(start + problem), found
            assert await said(asked, policy("does_harm")) == FINE

    run(test)


def test_a_policy_that_hangs_or_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that takes too long is killed, and neither it nor one that is not there is started over and over
    (AS13)."""
    monkeypatch.setattr(processes, "AGAIN_S", 1000.0)
    monkeypatch.setattr(processes, "MOST_AGAIN_S", 1000.0)

    async def test(asked: Policies) -> None:
        assert (await said(asked, policy("hangs"))).wants == 3.0
        asked._asked["m"]._limit_s = 0.2
        found = await said(asked, policy("hangs"), demand=1)
        assert found.remark.endswith("decides: its answer takes over 0.2 s")
        before = set(family())
        asked.ask("m", policy("hangs"), 1, context())
        assert set(family()) == before
        assert asked.said("m") == found
        found = await said(asked, policy("nothing"))
        assert "it cannot be imported: ImportError" in found.remark

    run(test)
