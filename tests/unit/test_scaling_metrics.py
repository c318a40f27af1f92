"""What Prometheus sees of numbers of replicas."""

from __future__ import annotations

from pathlib import Path

import msgspec

from pointsman.controller.scaling.found import Looked
from pointsman.controller.scaling.metrics import ScalingMetrics
from pointsman.controller.state import Desired
from pointsman.model import Autoscaling, Capacity, Scale
from pointsman.model.scaling import DEMAND, IDLE, Decision, Demand
from pointsman.policy.scaling.seen import Verdict
from pointsman.telemetry.collector import Collector
from pointsman.telemetry.writer import MetricsWriter
from tests.unit.reconciling import GPU, backend, replica, see

TIME = "2026-11-29T12:00:00.000+00:00"


def test_an_operator_sees_what_is_wanted_and_what_is_lacking(tmp_path: Path) -> None:
    """Each autoscaled backend shows what its calls need, what is decided, its calls, and whether it is blocked; each
    decision and each start is counted (AS17)."""
    metrics, collector = ScalingMetrics(MetricsWriter(tmp_path, "controller")), Collector(tmp_path, clock=lambda: 0.0)

    def values(name: str) -> dict[tuple[str, ...], float]:
        metric = collector.collect()[f"serve_{name}"]
        return {tuple(value for _, value in labels): numbers[0] for labels, numbers in metric.series.items()}

    spec = backend(1, resources=GPU, autoscaling=Autoscaling(max_replicas=4))
    state = Desired(1, {"b": spec}, scales={"b": Scale(4)})
    observed = see(replica(1, resources=GPU, gpus=(0,)), capacity=Capacity(num_gpus=1))
    looked = Looked(Demand(waiting=3, running=2), Verdict(4, 7, DEMAND, "demand 14 at target 2", None))
    observed.looked["b"] = looked
    metrics.show(state, observed)
    assert values("autoscaling_desired_replicas") == {("b",): 7.0}
    assert values("autoscaling_wanted_replicas") == {("b",): 4.0}
    assert values("autoscaling_total_requests") == {("b",): 5.0}
    assert values("autoscaling_blocked") == {("b",): 1.0}

    looked.shown = 2  # a dry run
    metrics.show(msgspec.structs.replace(state, scales={"b": Scale(1)}), observed)
    assert values("autoscaling_wanted_replicas") == {("b",): 2.0}
    assert values("autoscaling_blocked") == {("b",): 0.0}
    metrics.show(Desired(), observed)
    assert values("autoscaling_wanted_replicas") == {("b",): 0.0}, "the backend is deleted"

    metrics.decided("b", Decision(TIME, 1, 4, DEMAND, "demand 14 at target 2"))
    metrics.decided("b", Decision(TIME, 4, 0, IDLE, "no call for 300 s"))
    metrics.started("b", 0.25)
    assert values("autoscaling_decisions_total") == {("b", "up", DEMAND): 1.0, ("b", "down", IDLE): 1.0}
    assert sum(next(iter(collector.collect()["serve_replica_start_seconds"].series.values()))[:-1]) == 1.0
