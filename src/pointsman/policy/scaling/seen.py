"""What the rule is told at each look, and what it answers. The controller and the simulator fill these in alike."""

from __future__ import annotations

from typing import Any

from pointsman.model.origin import Struct
from pointsman.model.scaling import Demand


class Seen(Struct, frozen=True):
    """One look at a backend.

    Attributes:
        demand: what all routers have counted up to now; it never falls, also when a router is gone.
        wanted: replicas decided at the last look.
        ready: replicas that take calls.
        starting: replicas that are launched and not ready yet.
        slots: calls that one replica runs at once: 1 for sync code, ``max_batch_size`` for batches, else
            ``max_concurrent_queries``.
        is_async: whether a replica runs calls beside one another on an event loop.
        start_s: learned seconds from launch to ready; None before the first replica was ready.
        p99_s: what 99 of 100 calls take at most, waiting included, measured over the last half minute; None without
            calls, or where nothing is measured.
        blocked: the largest share of the last seconds for which a replica's event loop was blocked.
        silent: a router whose last word was that calls wait or run has said nothing since: the number must not fall.
        share: a new traffic policy multiplies the arrivals by this from now on; 1.0 at all other looks.
        gains: demand, in calls at a time, that a new traffic policy brings from now on to a backend that has had none,
            which cannot be multiplied; 0.0 at all other looks.
        min_replicas, max_replicas: bounds in force.
    """

    demand: Demand
    wanted: int
    ready: int
    starting: int
    slots: int
    min_replicas: int
    max_replicas: int
    is_async: bool = False
    start_s: float | None = None
    p99_s: float | None = None
    blocked: float = 0.0
    silent: bool = False
    share: float = 1.0
    gains: float = 0.0
    policy_wants: float | None = None
    """What the user's own policy has answered; None without one, or while it fails."""

    @property
    def is_step(self) -> bool:
        """Whether a new traffic policy changes what calls come from now on."""
        return self.share != 1.0 or self.gains > 0


class Verdict(Struct, frozen=True):
    """What the rule says.

    Attributes:
        wanted: replicas, within the bounds.
        desired: the same before the bounds.
        reason: one of :data:`~pointsman.model.scaling.REASONS`: why ``wanted`` differs from what was wanted before, or
            what decides now.
        text: one phrase with the numbers, such as ``demand 9.8 at target 2``.
        memory: to be passed to the next look.
        remark: what a user should know, such as a latency target below the work itself; empty if nothing.
    """

    wanted: int
    desired: int
    reason: str
    text: str
    memory: Any
    demand: float = 0.0
    arrivals_per_second: float = 0.0
    remark: str = ""
