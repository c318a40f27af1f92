"""Rollouts as users see them: what each gate shows, and why it went back (RO7, RO9). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, exp

from pointsman.controller.rollouts.gates import ErrorBlocks, ErrorRate, Gate, gates_of
from pointsman.controller.rollouts.options import (
    ERROR_RATE,
    HEALTH,
    LATENCY,
    METRICS,
    MISMATCH,
    quantile_of,
    quantiles_of,
)
from pointsman.controller.state import Desired, Rollout
from pointsman.model.evidence import MetricTally
from pointsman.model.rollout import GateView, RolloutView
from pointsman.telemetry.windows import quantile_s

MOST_LOG_E = 690.0
"""A larger e-value would be no finite number."""

RATE, SECONDS, MEAN = "rate", "seconds", "mean"


def views_of(state: Desired) -> dict[str, RolloutView]:
    """The newest rollout of each endpoint, by its name."""
    newest = {one.plan.endpoint: one for one in sorted(state.rollouts.values(), key=lambda one: one.id)}
    return {endpoint: view_of(state, rollout) for endpoint, rollout in newest.items()}


def view_of(state: Desired, rollout: Rollout) -> RolloutView:
    """A rollout as users see it (RO9)."""
    plan, gates = rollout.plan, gates_of(rollout.plan, rollout.gates)
    views = {name: view_of_gate(rollout, name, gate) for name, gate in gates.items()}
    if HEALTH in plan.gates:
        views[HEALTH] = view_of_health(rollout)
    endpoint = state.endpoints.get(plan.endpoint)
    return RolloutView(
        id=rollout.id,
        plan=plan,
        state=rollout.state,
        step=rollout.step,
        weight=endpoint.policy.weights.get(plan.to, 0.0) if endpoint is not None else 0.0,
        held_s=rollout.held_s,
        samples={"baseline": rollout.samples[0], "canary": rollout.samples[1]},
        exposed=rollout.exposed,
        gates=views,
        reason=rollout.reason,
        began=rollout.began,
        ended=rollout.ended,
        by=rollout.by,
        waits_for=missing(rollout, gates) if rollout.is_live else "",
    )


def missing(rollout: Rollout, gates: Mapping[str, Gate]) -> str:
    """What a step lacks to be over (RO6), in words; empty if it lacks nothing."""
    plan, lacks = rollout.plan, []
    if rollout.held_s < plan.hold_s:
        lacks.append(f"{ceil(plan.hold_s - rollout.held_s)} s")
    if (needed := plan.min_samples - rollout.samples[1]) > 0:
        lacks.append(f"{needed:g} request{'s' * (needed != 1)} of {plan.to}")
    errors = gates.get(ERROR_RATE)
    if isinstance(errors, (ErrorRate, ErrorBlocks)) and not errors.rule_out.is_done:
        times = plan.gates[ERROR_RATE]["rule_out"]
        lacks.append(f"to rule out {times:g} times the errors")
    return " and ".join(lacks)


def view_of_gate(rollout: Rollout, name: str, gate: Gate) -> GateView:
    """What users are shown of a gate."""
    value, baseline, unit = _values(rollout, name)
    e = exp(min(gate.log_e, MOST_LOG_E))
    return GateView(value, baseline, unit, e, 1 / gate.alpha, gate.tripped)


def view_of_health(rollout: Rollout) -> GateView:
    """The same of health, for which there is no number."""
    return GateView(None, None, "", 1.0, 1.0, f": {HEALTH}: " in rollout.reason)


def back_again(rollout: Rollout, why: str) -> str:
    """The sentence of a rollout that goes back."""
    return f"rolled back {so_far(rollout)}: {why}"


def so_far(rollout: Rollout) -> str:
    """How far a rollout has come."""
    return f"at {percent(rollout.weight)} {after(rollout)}"


def after(rollout: Rollout) -> str:
    """How many requests the new version has answered."""
    return f"after {rollout.exposed} request{'s' * (rollout.exposed != 1)}"


def of_gate(rollout: Rollout, name: str, gate: Gate) -> str:
    """Why a gate has tripped, in words and numbers."""
    view = view_of_gate(rollout, name, gate)
    value, baseline = (_shown(number, view.unit) for number in (view.value, view.baseline))
    kind, _, detail = name.partition(".")
    if kind == LATENCY:
        name = f"{kind} {detail or _quantile_in(rollout)}"
    return f"{name} {value} against {baseline} (e {view.e:.3g} >= {view.needed:.3g})"


def percent(share: float) -> str:
    """A share in words, such as ``2.2 %``."""
    return f"{100 * share:.3g} %"


def _shown(number: float | None, unit: str) -> str:
    if number is None:
        return "nothing"
    if unit == RATE:
        return percent(number)
    return f"{1000 * number:.3g} ms" if unit == SECONDS else f"{number:.4g}"


def _quantile_in(rollout: Rollout) -> str:
    """The only quantile that is watched, such as ``p99``."""
    return next(iter(quantiles_of(rollout.plan.gates[LATENCY])))


def _values(rollout: Rollout, name: str) -> tuple[float | None, float | None, str]:
    """What a gate watches, of the canary and of the baseline, and in which unit."""
    kind, _, detail = name.partition(".")
    if kind == LATENCY:
        quantile = quantile_of(detail or _quantile_in(rollout))
        arms = rollout.totals.canary, rollout.totals.baseline
        slow = [quantile_s(arm, quantile) for arm in arms]
        return slow[0], slow[1], SECONDS
    if kind == METRICS:
        means = rollout.metrics.get(detail)
        return (_mean(means.canary), _mean(means.baseline), MEAN) if means is not None else (None, None, MEAN)
    if kind == MISMATCH:
        compared, noise = rollout.pairs.compared, rollout.pairs.noise
        return _rate(compared.mismatched, compared.pairs), _rate(noise.mismatched, noise.pairs), RATE
    assert kind == ERROR_RATE
    canary, baseline = rollout.totals.canary, rollout.baseline
    return _rate(canary.errors, canary.requests), _rate(baseline.errors, baseline.requests), RATE


def _rate(events: int, n: int) -> float | None:
    return events / n if n else None


def _mean(tally: MetricTally) -> float | None:
    return tally.sum / tally.count if tally.count else None
