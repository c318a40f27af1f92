"""What the evidence of a second makes of a rollout. Pure: ``judge(rollout, evidence, elapsed_s)``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from pointsman.controller.rollouts.counting import known_before, new_in
from pointsman.controller.rollouts.gates import Gate, Tick, gates_of
from pointsman.controller.rollouts.options import HEALTH, ROLL_BACK
from pointsman.controller.rollouts.words import after, back_again, missing, of_gate, percent
from pointsman.controller.state import Means, Rollout
from pointsman.model.evidence import Evidence
from pointsman.model.rollout import INCONCLUSIVE, PAUSED, PROMOTED, ROLLED_BACK, RUNNING


class Verdict(NamedTuple):
    """What becomes of a rollout.

    Attributes:
        state: that it should have; the one that it has if nothing is to be done.
        reason: why; empty while it just runs.
        advances: its next step is to begin.
    """

    state: str
    reason: str = ""
    advances: bool = False


def judge(rollout: Rollout, evidence: Evidence, elapsed_s: float, unhealthy: str = "") -> tuple[Rollout, Verdict]:
    """Count what has come since a rollout was judged last, and say what is to become of it.

    Args:
        rollout: one that has not ended.
        evidence: all that was counted so far.
        elapsed_s: seconds since it was judged last, by a clock that nobody sets.
        unhealthy: in words, that its backend is UNHEALTHY; empty if it is not.

    Returns:
        The rollout with what it was judged by, in the state that it was in; and the verdict.
    """
    if rollout.forgets:  # it is paused, and what is counted is about other code
        return rollout, _by_health(rollout, unhealthy) or _stays(rollout)
    if rollout.counted is None:
        rollout = msgspec.structs.replace(rollout, known=known_before(evidence, rollout))
    tick, counted, samples = new_in(evidence, rollout, elapsed_s)
    gates = gates_of(rollout.plan, rollout.gates)
    for gate in gates.values():
        gate.add(tick)
    judged = msgspec.structs.replace(
        rollout,
        held_s=rollout.held_s + (elapsed_s if rollout.state != PAUSED else 0.0),
        samples=(rollout.samples[0] + samples[0], rollout.samples[1] + samples[1]),
        exposed=rollout.exposed + tick.arms.canary.requests,
        gates={name: gate.state() for name, gate in gates.items()},
        counted=counted,
        totals=rollout.totals.plus(tick.arms),
        pairs=rollout.pairs.plus(tick.pairs),
        metrics=_summed(rollout.metrics, tick),
    )
    return judged, _by_health(judged, unhealthy) or _by_gates(judged, gates) or _by_time(judged, gates)


def _summed(metrics: Mapping[str, Means], tick: Tick) -> dict[str, Means]:
    return {**metrics, **{name: metrics.get(name, Means()).plus(means) for name, means in tick.metrics.items()}}


def _stays(rollout: Rollout) -> Verdict:
    return Verdict(rollout.state, rollout.reason)


def _by_health(rollout: Rollout, unhealthy: str) -> Verdict | None:
    if not unhealthy or HEALTH not in rollout.plan.gates:
        return None
    return Verdict(ROLLED_BACK, back_again(rollout, f"{HEALTH}: {unhealthy}"))


def _by_gates(rollout: Rollout, gates: Mapping[str, Gate]) -> Verdict | None:
    """Also of a rollout that is paused or inconclusive: its backend gets traffic."""
    for name, gate in gates.items():
        if gate.tripped:
            return Verdict(ROLLED_BACK, back_again(rollout, of_gate(rollout, name, gate)))
    return None


def _by_time(rollout: Rollout, gates: Mapping[str, Gate]) -> Verdict:
    if rollout.state != RUNNING:
        return _stays(rollout)
    plan, lacks = rollout.plan, missing(rollout, gates)
    if not lacks:
        if rollout.step + 1 < len(plan.steps):
            return Verdict(RUNNING, advances=True)
        return Verdict(PROMOTED, f"promoted to {percent(rollout.weight)} {after(rollout)}")
    if rollout.held_s < plan.patience * plan.hold_s:
        return _stays(rollout)
    late = f"{rollout.held_s:.0f} s at {percent(rollout.weight)} and the step still lacks {lacks}"
    if plan.on_inconclusive == ROLL_BACK:
        return Verdict(ROLLED_BACK, back_again(rollout, f"inconclusive: {late}"))
    return Verdict(INCONCLUSIVE, f"inconclusive: {late}")
