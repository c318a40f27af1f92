"""What is new in the evidence since a rollout was judged last. Pure.

Evidence is cumulative, and a rollout remembers what it was judged by: whoever judges it next, and when, nothing counts
twice and nothing is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import TypeVar

from pointsman.controller.rollouts.gates import Tick
from pointsman.controller.rollouts.options import METRICS
from pointsman.controller.state import Arms, Counted, Means, Pairs, Rollout
from pointsman.model.evidence import ROUTED, Evidence, MetricKey, MetricTally, PairKey, PairTally, Tally, TallyKey

T = TypeVar("T", Tally, Pairs, MetricTally)


def new_in(evidence: Evidence, rollout: Rollout, elapsed_s: float) -> tuple[Tick, Counted, tuple[int, int]]:
    """What has come since a rollout was judged last.

    Compared answers and metrics are those of backends, however calls got there: what is first read of them only sets
    what is counted from. Requests are counted under the rollout's own policies, which are new with it.

    Args:
        elapsed_s: seconds since then.

    Returns:
        The tick; all that is counted with it; and how many of its requests belong to the step: of the baseline, and of
        the canary. Late ones of earlier steps count for the gates alone.
    """
    before, first = rollout.counted or Counted(), rollout.counted is None
    calls = {version: _calls(evidence, rollout, version) for version in rollout.policies}
    metrics = {name: _metric(evidence, rollout, name) for name in rollout.plan.gates.get(METRICS, {})}
    counted = Counted(
        {version: _most(tallies, before.calls.get(version, {})) for version, tallies in calls.items()},
        _most(_pairs(evidence, rollout), before.pairs),
        {name: _most(tallies, before.metrics.get(name, {})) for name, tallies in metrics.items()},
    )
    arms, of_step = Arms(), Arms()
    for version, tallies in counted.calls.items():
        of_step = _arms(rollout, tallies, before.calls.get(version, {}))
        arms = arms.plus(of_step)
    means = {name: _means(rollout, now, before.metrics.get(name, {})) for name, now in counted.metrics.items()}
    tick = Tick(
        seconds=elapsed_s,
        arms=arms,
        pairs=Pairs() if first else _new_pairs(counted.pairs, before.pairs),
        metrics=means,
        before=rollout.baseline if rollout.weight >= 1 else None,
    )
    return tick, counted, (of_step.baseline.requests, of_step.canary.requests)


def known_before(evidence: Evidence, rollout: Rollout) -> Tally:
    """Requests and errors of the baseline under the policy that the rollout began with."""
    calls = _calls(evidence, rollout, rollout.former_policy)
    known = _arms(rollout, calls, {}).baseline
    return Tally(known.requests, known.errors)


def _calls(evidence: Evidence, rollout: Rollout, version: int) -> dict[str, Tally]:
    keys = ((tag, TallyKey(rollout.plan.endpoint, version, tag, ROUTED)) for tag in _backends(rollout))
    return {tag: evidence.tallies[key] for tag, key in keys if key in evidence.tallies}


def _pairs(evidence: Evidence, rollout: Rollout) -> dict[str, Pairs]:
    shadow = (rollout.plan.endpoint, rollout.plan.to)
    # A call that the shadow's own backend answered says nothing about the others.
    own = f"/{rollout.plan.to}@"
    mine = (key.began for key in evidence.pairs if (key.endpoint, key.backend) == shadow)
    comparisons = {began for began in mine if own not in began}
    return {
        began: Pairs(
            evidence.pairs.get(PairKey(*shadow, began), PairTally()),
            evidence.pairs.get(PairKey(*shadow, began, noise=True), PairTally()),
        )
        for began in comparisons
    }


def _metric(evidence: Evidence, rollout: Rollout, name: str) -> dict[str, MetricTally]:
    """What a metric has summed up, by backend. A sum with infinity or NaN in it says nothing more."""
    found = ((tag, evidence.metrics.get(MetricKey(tag, name))) for tag in _backends(rollout))
    return {tag: tally for tag, tally in found if tally is not None and isfinite(tally.sum)}


def _backends(rollout: Rollout) -> set[str]:
    return {*rollout.former, rollout.plan.to}


def _arms(rollout: Rollout, now: Mapping[str, Tally], before: Mapping[str, Tally]) -> Arms:
    arms = Arms()
    for tag, tally in now.items():
        more = tally.since(before.get(tag, Tally()))
        arms = arms.plus(Arms(canary=more) if tag == rollout.plan.to else Arms(baseline=more))
    return arms


def _means(rollout: Rollout, now: Mapping[str, MetricTally], before: Mapping[str, MetricTally]) -> Means:
    means = Means()
    for tag, tally in now.items():
        more = tally.since(before.get(tag, tally))
        means = means.plus(Means(canary=more) if tag == rollout.plan.to else Means(baseline=more))
    return means


def _new_pairs(now: Mapping[str, Pairs], before: Mapping[str, Pairs]) -> Pairs:
    pairs = Pairs()
    for began, there in now.items():
        known = before.get(began, Pairs())
        pairs = pairs.plus(there.since(known))
    return pairs


def _most(now: Mapping[str, T], before: Mapping[str, T]) -> dict[str, T]:
    """The larger state of each tally. A reading can lack what a node has counted that does not answer: when that is
    back, it must not count again."""
    larger = {name: tally for name, tally in now.items() if name not in before or _size(tally) >= _size(before[name])}
    return {**before, **larger}


def _size(tally: Tally | Pairs | MetricTally) -> int:
    if isinstance(tally, Tally):
        return tally.requests
    return tally.compared.pairs + tally.noise.pairs if isinstance(tally, Pairs) else tally.count
