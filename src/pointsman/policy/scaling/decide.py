"""The rule: how many replicas a backend needs, and why. Used by the controller at each look, and by the simulator."""

from __future__ import annotations

import math

from pointsman.model.origin import Struct
from pointsman.model.scaling import DEMAND, Autoscaling, Demand
from pointsman.policy.scaling.seen import Seen, Verdict

LOOK_S = 0.5
"""Seconds between two looks."""
TARGET = 0.7
"""Calls that a replica shall have at a time, as a part of those that it runs at once, where the user set nothing."""


class Memory(Struct, frozen=True):
    """What the rule keeps from look to look; a new controller begins with a fresh one."""

    looks: tuple[tuple[float, Demand], ...] = ()


def decide(seen: Seen, config: Autoscaling, now: float, memory: Memory | None = None) -> Verdict:
    """Decide how many replicas a backend needs.

    Args:
        now: seconds on any clock that does not jump.
        memory: of the last verdict; None at the first look, or after a restart of whoever looks.
    """
    looks = (*(memory.looks if memory is not None else ()), (now, seen.demand))
    while len(looks) > 2 and looks[1][0] <= now - config.look_back_period_s:
        looks = looks[1:]
    (began, first), (_, last) = looks[0], looks[-1]
    demand = (last.call_s - first.call_s) / (now - began) if now > began else float(last.waiting + last.running)
    rate = (last.arrivals - first.arrivals) / (now - began) if now > began else 0.0
    target = config.target_ongoing_requests or TARGET * seen.slots
    least = math.ceil(demand / (target * (1 + config.tolerance)) - 1e-9)
    desired = max(least, seen.wanted) if demand > target * seen.wanted * (1 - config.tolerance) else least
    wanted = min(max(desired, seen.min_replicas), seen.max_replicas)
    text = f"demand {demand:.3g} at target {target:g}"
    return Verdict(wanted, desired, DEMAND, text, Memory(looks), demand, rate)
