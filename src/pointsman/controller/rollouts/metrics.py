"""Rollouts, and compared answers of shadows, as Prometheus sees them.

desired state, once a second -> gauges of the newest rollout of each endpoint; evidence -> counters of compared answers
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import log

from pointsman.controller.rollouts.options import HEALTH
from pointsman.controller.rollouts.words import view_of
from pointsman.controller.state import Desired, Rollout
from pointsman.model.evidence import PairKey, PairTally
from pointsman.model.rollout import RolloutView
from pointsman.telemetry import families
from pointsman.telemetry.families import Family
from pointsman.telemetry.values import Counter, Gauge
from pointsman.telemetry.writer import ByLabels, MetricsWriter
from pointsman.wire.shadows import NoiseView

MATCHED, MISMATCHED = "matched", "mismatched"

Labelled = tuple[Family, tuple[str, ...]]
"""A series: the metric, and the values of its labels."""


class RolloutMetrics:
    """Writes what the controller knows of rollouts and of compared answers.

    Args:
        writer: of the controller's process.
    """

    def __init__(self, writer: MetricsWriter) -> None:
        self._gauges: ByLabels[Labelled, Gauge] = ByLabels(lambda series: writer.gauge(series[0], *series[1]))
        self._pairs: ByLabels[tuple[str, ...], Counter] = ByLabels(
            lambda labels: writer.counter(families.SHADOW_PAIRS, *labels)
        )
        self._shown: dict[str, Rollout] = {}
        self._written: dict[object, dict[Labelled, float]] = {}
        self._counted: dict[PairKey, PairTally] | None = None

    def show(
        self, state: Desired, pairs: Mapping[PairKey, PairTally] | None, noise: Mapping[tuple[str, str], NoiseView]
    ) -> None:
        """Write what is different from the last time.

        Args:
            pairs: all that was compared so far; None before that was read.
            noise: of each shadow that compares, by endpoint and backend.
        """
        newest = {one.plan.endpoint: one for one in sorted(state.rollouts.values(), key=lambda one: one.id)}
        for endpoint in self._shown.keys() - newest.keys():
            self._write(endpoint, {})
        for endpoint, rollout in newest.items():
            if self._shown.get(endpoint) is not rollout:
                self._write(endpoint, dict(values_of(view_of(state, rollout))))
        self._shown = newest
        shares: dict[Labelled, float] = {
            (families.SHADOW_EVIDENCE, whose): _share(view.e, view.needed) for whose, view in noise.items()
        }
        self._write(families.SHADOW_EVIDENCE, shares)
        if pairs is not None:
            self._count(pairs)

    def _write(self, about: object, values: dict[Labelled, float]) -> None:
        """Write these values, and 0 for those that were written about the same before and are no more."""
        for series in self._written.get(about, {}).keys() - values.keys():
            self._gauges[series].set(0.0)
        for series, value in values.items():
            self._gauges[series].set(value)
        self._written[about] = values

    def _count(self, pairs: Mapping[PairKey, PairTally]) -> None:
        """Count what is new. All up to the first reading was counted by the controller before. A count that has fallen,
        since a node does not answer, counts again from where it was."""
        if self._counted is None:
            self._counted = dict(pairs)
        for key, tally in pairs.items():
            before = self._counted.get(key, PairTally())
            if not key.noise and tally.pairs >= before.pairs:
                self._counted[key] = tally
                more = tally.since(before)
                self._pairs[key.endpoint, key.backend, MATCHED].inc(max(0, more.pairs - more.mismatched))
                self._pairs[key.endpoint, key.backend, MISMATCHED].inc(more.mismatched)


def values_of(view: RolloutView) -> Iterator[tuple[Labelled, float]]:
    """What is shown of a rollout."""
    whose = view.plan.endpoint, view.plan.to
    yield (families.ROLLOUT_STATE, (*whose, view.state)), 1.0
    yield (families.ROLLOUT_WEIGHT, whose), view.weight
    for name, gate in view.gates.items():
        evidence = float(gate.tripped) if name == HEALTH else _share(gate.e, gate.needed)
        yield (families.ROLLOUT_EVIDENCE, (*whose, name)), evidence


def _share(e: float, needed: float) -> float:
    """How far evidence is on its way from 1 to what it needs: 0 to 1, by logarithms."""
    return min(1.0, log(max(e, 1.0)) / log(needed)) if needed > 1 else 1.0
