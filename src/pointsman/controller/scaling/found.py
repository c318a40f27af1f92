"""What looks at backends have found: their calls, what the rule said of them, and when they were used last. No I/O."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from pointsman.model.scaling import Demand
from pointsman.policy.scaling.seen import Verdict


@dataclass
class Use:
    """When a backend was used last: ``since`` then it has had no call. ``arrivals`` and ``call_s`` are what had been
    counted of its calls then, ``ready`` says whether a replica took calls at the last look."""

    since: float
    arrivals: int = 0
    call_s: float = 0.0
    ready: bool = True


RATE_S = 10.0
"""Over so many seconds calls are counted for what a change of traffic brings."""


NO_CALLS = Demand()


@dataclass
class Looked:
    """What looks at a backend have found.

    Attributes:
        demand: what all routers had counted at the last look.
        verdict: of the rule at the last look, with what it keeps in mind; None before the first.
        shown: replicas that would be wanted, where decisions are only shown.
        counts: what had been counted at looks of the last seconds: when, call seconds, arrivals.
    """

    demand: Demand = NO_CALLS
    verdict: Verdict | None = None
    shown: int | None = None
    counts: deque[tuple[float, float, int]] = field(default_factory=deque)

    def count(self, now: float, demand: Demand) -> None:
        """Take in what was counted up to now."""
        self.demand = demand
        self.counts.append((now, demand.call_s, demand.arrivals))
        while self.counts[0][0] < now - RATE_S:
            self.counts.popleft()

    @property
    def is_quiet(self) -> bool:
        """Whether nothing was counted between the last two looks, and the rule has been asked before."""
        return self.verdict is not None and len(self.counts) > 1 and self.counts[-1][1:] == self.counts[-2][1:]

    def rate(self) -> tuple[float, int]:
        """Calls at a time over the last :data:`RATE_S` seconds, and how many came."""
        (began, call_s, arrivals), (ended, later_s, more) = self.counts[0], self.counts[-1]
        return (later_s - call_s) / (ended - began) if ended > began else 0.0, more - arrivals
