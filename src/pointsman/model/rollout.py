"""A rollout: a new version gets more of an endpoint's traffic step by step, and goes back if it does harm."""

from __future__ import annotations

from typing import Any

from pointsman.model.origin import Struct

RUNNING, PAUSED, INCONCLUSIVE = "running", "paused", "inconclusive"
PROMOTED, ROLLED_BACK, ABORTED, SUPERSEDED = "promoted", "rolled_back", "aborted", "superseded"
ENDED = frozenset({PROMOTED, ROLLED_BACK, ABORTED, SUPERSEDED})
"""States that a rollout does not leave."""

MOST_STEPS = 100
LARGEST = 1e15
"""No number of a plan may be larger: sums and powers of it stay finite."""


class RolloutPlan(Struct, frozen=True):
    """What a rollout shall do.

    Attributes:
        to: the backend that gets more traffic.
        steps: its weight at each step, rising, above 0 and at most 1.
        hold_s: how long each step lasts at least, in seconds.
        min_samples: how many requests ``to`` must have answered in a step.
        gates: what is watched, by name, each with its options: ``error_rate``, ``latency``, ``mismatch``, ``metrics``,
            ``health``.
        alpha: the probability that the whole rollout goes back although ``to`` does no harm.
        patience: a step that takes ``patience * hold_s`` seconds is inconclusive.
        on_inconclusive: ``hold`` or ``rollback``.
    """

    endpoint: str
    to: str
    steps: tuple[float, ...] = (0.01, 0.05, 0.25, 0.5, 1.0)
    hold_s: float = 300.0
    min_samples: int = 100
    gates: dict[str, dict[str, Any]] = {}
    alpha: float = 0.05
    patience: float = 10.0
    on_inconclusive: str = "hold"


class GateView(Struct, frozen=True):
    """One gate of a rollout.

    Attributes:
        value, baseline: what the gate watches, of the new version and of the others, in ``unit``; None before there is
            any.
        unit: ``rate``, ``seconds``, ``mean`` or empty.
        e: the evidence against the new version; it begins at 1.
        needed: the gate trips when ``e`` reaches it.
    """

    value: float | None
    baseline: float | None
    unit: str
    e: float
    needed: float
    tripped: bool


class RolloutView(Struct, frozen=True):
    """A rollout as users see it.

    Attributes:
        id: a number, 1 for the first of the instance.
        state: ``running``, ``paused``, ``inconclusive``, ``promoted``, ``rolled_back``, ``aborted`` or ``superseded``.
        step: which of ``plan.steps`` it is at, from 0.
        weight: the share of traffic that ``to`` has now.
        held_s: how long this step has lasted, in seconds.
        samples: ``baseline`` and ``canary``: requests that each has answered in this step.
        exposed: requests that ``to`` has answered in the whole rollout.
        reason: why it is in this state, in one sentence; empty while it just runs.
        began, ended: ISO 8601 in UTC; ``ended`` is empty until then.
        by: who started it.
        waits_for: what the step still lacks to be over, in words; empty once the rollout has ended.
    """

    id: int
    plan: RolloutPlan
    state: str
    step: int
    weight: float
    held_s: float
    samples: dict[str, int]
    exposed: int
    gates: dict[str, GateView]
    reason: str = ""
    began: str = ""
    ended: str = ""
    by: str = ""
    waits_for: str = ""
