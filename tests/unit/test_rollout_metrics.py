"""What Prometheus sees of rollouts and of compared answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from pointsman.controller.rollouts.changes import settled
from pointsman.controller.rollouts.judge import judge
from pointsman.controller.rollouts.metrics import RolloutMetrics
from pointsman.controller.state import Desired
from pointsman.controller.transitions import carry_out
from pointsman.model.evidence import Evidence, PairKey, PairTally, Tally, TallyKey
from pointsman.model.rollout import RolloutPlan
from pointsman.telemetry.collector import Collector
from pointsman.telemetry.writer import MetricsWriter
from pointsman.wire.rollouts import StartRollout
from pointsman.wire.shadows import NoiseView
from tests.rollouts import ENDPOINT, MAIN, NEW, NOW, started
from tests.unit.desiring import ROOM

PLAN = RolloutPlan(ENDPOINT, NEW, steps=(0.1, 1.0))


class Page:
    """The metrics of an instance, as one asks for them by name and labels."""

    def __init__(self, folder: Path) -> None:
        self.metrics = RolloutMetrics(MetricsWriter(folder, "controller"))
        self._collector = Collector(folder, clock=lambda: 0.0)

    def show(self, state: Desired, pairs: Any = None, noise: Any = None) -> None:
        self.metrics.show(state, pairs or {}, noise or {})

    def values(self, name: str) -> dict[tuple[str, ...], float]:
        metric = self._collector.collect().get(f"serve_{name}")
        if metric is None:
            return {}
        return {tuple(value for _, value in labels): numbers[0] for labels, numbers in metric.series.items()}


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(tmp_path)


def failed(state: Desired, errors: int) -> Desired:
    """A second passes in which the new version fails for so many of its ten requests."""
    rollout = max(state.rollouts.values(), key=lambda one: one.id)
    keys = [TallyKey(ENDPOINT, rollout.policies[-1], tag) for tag in (MAIN, NEW)]
    counts = {keys[0]: Tally(90, 0, {-116: 90}, 9.0), keys[1]: Tally(10, errors, {-116: 10}, 1.0)}
    judged, verdict = judge(rollout, Evidence(1.0, counts), 1.0)
    return settled(state, judged, verdict, NOW)


def test_a_rollout_that_goes_back_is_seen(page: Page) -> None:
    """An operator sees state, weight and evidence of a rollout, and that it was turned back (RO9)."""
    state = started(PLAN)
    page.show(state)
    assert page.values("rollout_state") == {(ENDPOINT, NEW, "running"): 1.0}
    assert page.values("rollout_weight") == {(ENDPOINT, NEW): 0.1}
    assert page.values("rollout_evidence") == {
        (ENDPOINT, NEW, gate): 0.0 for gate in ("error_rate", "latency", "health")
    }

    state = failed(state, 3)
    page.show(state)
    assert 0 < page.values("rollout_evidence")[ENDPOINT, NEW, "error_rate"] < 1
    while state.rollouts["1"].is_live:
        rollout = state.rollouts["1"]
        state = failed(
            msgspec.structs.replace(state, rollouts={"1": msgspec.structs.replace(rollout, counted=None)}), 10
        )
    page.show(state)
    assert page.values("rollout_state") == {(ENDPOINT, NEW, "running"): 0.0, (ENDPOINT, NEW, "rolled_back"): 1.0}
    assert page.values("rollout_weight") == {(ENDPOINT, NEW): 0.0}
    assert page.values("rollout_evidence")[ENDPOINT, NEW, "error_rate"] == 1.0

    state, _ = carry_out(state, StartRollout("id", PLAN), ROOM, NOW)
    page.show(state)
    assert page.values("rollout_state") == {(ENDPOINT, NEW, "running"): 1.0, (ENDPOINT, NEW, "rolled_back"): 0.0}
    page.show(Desired())
    assert set(page.values("rollout_state").values()) == {0.0}, "the endpoint is deleted"


def test_compared_answers_are_counted_once(page: Page, tmp_path: Path) -> None:
    """Answers that were compared are counted once each, whichever controller counts, and when a comparison begins
    afresh (SC6, SC12)."""
    first, fresh = PairKey(ENDPOINT, NEW, "a"), PairKey(ENDPOINT, NEW, "b")
    state = Desired()
    page.show(state, {})
    page.show(state, {first: PairTally(10, 1), PairKey(ENDPOINT, NEW, "a", noise=True): PairTally(5, 5)})
    page.show(state, {})  # a node does not answer
    page.show(state, {first: PairTally(4, 1)})
    page.show(state, {first: PairTally(14, 2)})
    another = RolloutMetrics(MetricsWriter(tmp_path, "controller"))
    another.show(state, None, {})  # it has not read them yet
    another.show(state, {first: PairTally(14, 2)}, {})
    another.show(state, {first: PairTally(15, 2), fresh: PairTally(3, 3)}, {})
    assert page.values("shadow_pairs_total") == {(ENDPOINT, NEW, "matched"): 13.0, (ENDPOINT, NEW, "mismatched"): 5.0}


def test_a_shadow_that_differs_too_often_is_seen(page: Page) -> None:
    """An operator sees how certain it is that a shadow differs more often than the endpoint does from itself (SC6)."""
    page.show(Desired(), noise={(ENDPOINT, NEW): NoiseView(0.5, 20.0, False)})
    assert page.values("shadow_evidence") == {(ENDPOINT, NEW): 0.0}
    page.show(Desired(), noise={(ENDPOINT, NEW): NoiseView(400.0, 20.0, True)})
    assert page.values("shadow_evidence") == {(ENDPOINT, NEW): 1.0}
    page.show(Desired())
    assert page.values("shadow_evidence") == {(ENDPOINT, NEW): 0.0}
