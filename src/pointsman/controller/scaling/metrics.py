"""Numbers of replicas that follow calls, as Prometheus sees them (AS17).

each look -> gauges of each backend; each decision, and each replica that got ready -> counted
"""

from __future__ import annotations

from pointsman.controller.observed import Observed
from pointsman.controller.scaling.following import follows_calls
from pointsman.controller.scaling.prospects import blocked_by
from pointsman.controller.state import Desired
from pointsman.model.scaling import Decision
from pointsman.telemetry import families
from pointsman.telemetry.families import Family
from pointsman.telemetry.values import Counter, Gauge, Histogram
from pointsman.telemetry.writer import ByLabels, MetricsWriter

UP, DOWN = "up", "down"

Labelled = tuple[Family, str]
"""A gauge of a backend."""


class ScalingMetrics:
    """Writes what the controller knows of numbers of replicas.

    Args:
        writer: of the controller's process.
    """

    def __init__(self, writer: MetricsWriter) -> None:
        self._gauges: ByLabels[Labelled, Gauge] = ByLabels(lambda one: writer.gauge(one[0], one[1]))
        self._decisions: ByLabels[tuple[str, str, str], Counter] = ByLabels(
            lambda labels: writer.counter(families.AUTOSCALING_DECISIONS, *labels)
        )
        self._starts: ByLabels[str, Histogram] = ByLabels(
            lambda backend: writer.histogram(families.REPLICA_START, backend)
        )
        self._written: dict[Labelled, float] = {}

    def show(self, desired: Desired, observed: Observed) -> None:
        """Write what is different from the last time; 0 for backends that are gone."""
        values: dict[Labelled, float] = {}
        for tag, looked in observed.looked.items():
            if tag not in desired.backends or not follows_calls(desired.backends[tag].config):
                continue
            wanted = desired.wanted(tag) if looked.shown is None else looked.shown
            values[families.AUTOSCALING_WANTED, tag] = wanted
            values[families.AUTOSCALING_DESIRED, tag] = looked.verdict.desired if looked.verdict else wanted
            values[families.AUTOSCALING_REQUESTS, tag] = looked.demand.waiting + looked.demand.running
            values[families.AUTOSCALING_BLOCKED, tag] = blocked_by(tag, desired, observed) is not None
        for one in self._written.keys() - values.keys():
            self._gauges[one].set(0.0)
        for one, value in values.items():
            if self._written.get(one) != value:
                self._gauges[one].set(float(value))
        self._written = values

    def decided(self, backend: str, decision: Decision) -> None:
        """Count a decision."""
        direction = UP if decision.after > decision.before else DOWN
        self._decisions[backend, direction, decision.reason].inc()

    def started(self, backend: str, seconds: float) -> None:
        """Count a replica that has become ready so many seconds after its launch."""
        self._starts[backend].observe(seconds)
