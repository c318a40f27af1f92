"""Simulations of whole rollouts by the controller's judge, with fixed seeds: how many users are hurt, and how often a
version goes back that does no harm.
"""

from __future__ import annotations

from statistics import median
from typing import Any, NamedTuple

import msgspec
import numpy as np

from pointsman.controller.rollouts.changes import settled
from pointsman.controller.rollouts.judge import judge
from pointsman.controller.state import Desired
from pointsman.controller.transitions import carry_out
from pointsman.model.evidence import Evidence, Tally, TallyKey
from pointsman.model.rollout import ROLLED_BACK, RUNNING, RolloutPlan
from pointsman.wire.commands import Change, SetTraffic
from pointsman.wire.rollouts import StartRollout
from tests.unit.desiring import ROOM, create, endpoint

ENDPOINT, MAIN, NEW = "greet", "main", "new"
NOW = "2026-11-29T03:00:00.000+00:00"
SECONDS = 0.1
SIGMA = 0.5
"""Latencies are lognormal, of this median and sigma."""


class End(NamedTuple):
    """How a rollout ended: its state, and what it took."""

    state: str
    seconds: int
    exposed: int
    failed: int
    reason: str


class Version(NamedTuple):
    """How often a version fails, and how many times as long it takes."""

    errors: float = 0.0
    times: float = 1.0


class Calls:
    """A second after the other, requests to both versions by the weight of the step."""

    def __init__(self, rng: Any, rate: float, main: Version, new: Version) -> None:
        self._rng, self._rate = rng, rate
        self._versions = {MAIN: main, NEW: new}
        self._tallies: dict[TallyKey, Tally] = {}

    def pass_second(self, policy: int, weight: float) -> None:
        """Requests come one by one, and each is sent somewhere by chance."""
        count = int(self._rng.poisson(self._rate))
        new = int(self._rng.binomial(count, weight))
        for tag, n in ((MAIN, count - new), (NEW, new)):
            version = self._versions[tag]
            key = TallyKey(ENDPOINT, policy, tag)
            errors = int(self._rng.binomial(n, version.errors))
            took = SECONDS * version.times * np.exp(SIGMA * self._rng.standard_normal(n))
            tally = Tally(n, errors, bucketed(took), float(took.sum()))
            self._tallies[key] = self._tallies.get(key, Tally()).plus(tally)

    def evidence(self, at: float) -> Evidence:
        return Evidence(at, dict(self._tallies))


def bucketed(took: Any) -> dict[int, int]:
    """How many latencies are in each bucket; see :func:`pointsman.stats.latency.bucket_of`."""
    if not len(took):
        return {}
    buckets, counts = np.unique(np.ceil(np.log(took) / np.log(1.02) - 1e-9).astype(int), return_counts=True)
    return dict(zip(buckets.tolist(), counts.tolist(), strict=True))


def started(plan: RolloutPlan, former: dict[str, float] | None = None) -> Desired:
    """A state in which a rollout has just begun, of an endpoint with two versions or more."""
    former = former or {MAIN: 1.0}
    state = Desired()
    commands: list[Change] = [create(tag) for tag in dict.fromkeys([*former, plan.to])]
    commands += [endpoint(ENDPOINT, next(iter(former))), SetTraffic("id", ENDPOINT, former)]
    for command in commands:
        state, _ = carry_out(state, command, ROOM, NOW)
        state = msgspec.structs.replace(state, fallbacks={})  # it has come up
    return carry_out(state, StartRollout("id", plan, by="ann"), ROOM, NOW)[0]


def rolled(seed: list[int], main: Version, new: Version, *, rate: float = 100, most_s: int = 9000, **plan: Any) -> End:
    """One rollout, from its start to its end."""
    state = started(RolloutPlan(ENDPOINT, NEW, **plan))
    rollout = state.rollouts["1"]
    calls = Calls(np.random.default_rng(seed), rate, main, new)
    for second in range(1, most_s + 1):
        calls.pass_second(rollout.policies[-1], rollout.weight)
        rollout, verdict = judge(rollout, calls.evidence(second), 1.0)
        if verdict.advances or verdict.state != RUNNING:
            state = settled(state, rollout, verdict, NOW)
            rollout = state.rollouts["1"]
        if not rollout.is_live:
            break
    return End(rollout.state, second, rollout.exposed, rollout.totals.canary.errors, rollout.reason)


class Cost(NamedTuple):
    """What runs took in the median, and the share of them that went back."""

    exposed: float
    failed: float
    seconds: float
    back: float


def cost(runs: int, main: Version, new: Version, **plan: Any) -> Cost:
    ends = [rolled([number, run], main, new, **plan) for number, run in ((21, run) for run in range(runs))]
    back = [end for end in ends if end.state == ROLLED_BACK]
    return Cost(
        median(end.exposed for end in ends),
        median(end.failed for end in ends),
        median(end.seconds for end in ends),
        len(back) / runs,
    )
