"""The rules that a simulation can follow, and Pointsman's own among them."""

from __future__ import annotations

from typing import Any, Protocol

from pointsman.model.scaling import Autoscaling
from pointsman.policy.scaling.decide import LOOK_S, decide
from pointsman.policy.scaling.seen import Seen, Verdict


class Rule(Protocol):
    """A rule of how many replicas a backend needs.

    Attributes:
        every_s: seconds between two looks.
    """

    every_s: float

    def look(self, seen: Seen, now: float) -> Verdict:
        """Decide, from what is seen at a second of the simulation."""
        ...


class Pointsman:
    """The rule of this package: what a controller does at each look."""

    every_s = LOOK_S

    def __init__(self, config: Autoscaling) -> None:
        self._config = config
        self._memory: Any = None

    def look(self, seen: Seen, now: float) -> Verdict:
        """Decide as a controller does."""
        verdict = decide(seen, self._config, now, self._memory)
        self._memory = verdict.memory
        return verdict


class Oracle:
    """The fewest replicas by one who knows the rates ahead, and starts replicas in time.

    Args:
        needs: replicas needed from each second on, ascending.
        start_s: seconds that a replica takes to start.
    """

    every_s = LOOK_S

    def __init__(self, needs: list[tuple[float, int]], start_s: float) -> None:
        self._needs = needs
        self._ahead_s = start_s + LOOK_S
        self._begun = 0

    def look(self, seen: Seen, now: float) -> Verdict:
        """Decide by what is needed until a replica that is launched now would be ready."""
        needs = self._needs
        while self._begun + 1 < len(needs) and needs[self._begun + 1][0] <= now:
            self._begun += 1
        desired = needs[self._begun][1]
        for second, need in needs[self._begun + 1 :]:
            if second > now + self._ahead_s:
                break
            desired = max(desired, need)
        wanted = min(max(desired, seen.min_replicas), seen.max_replicas)
        return Verdict(wanted, desired, "demand", "the rates ahead are known", None)
