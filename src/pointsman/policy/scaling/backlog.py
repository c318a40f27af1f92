"""Calls that came before there were replicas for them: how many more work them off. Pure.

A backlog is work, not demand: it is there once. What counts is what would be left of it when a replica that is asked
for now is ready, after all that the ready ones and those on their way will have done by then.
"""

from __future__ import annotations

import msgspec

from pointsman.policy.scaling.looks import Service
from pointsman.policy.scaling.seen import Seen

UNKNOWN_START_S = 5.0
"""Seconds from launch to ready, as long as no replica has shown it."""
UNKNOWN_SERVICE_S = 0.1
"""Seconds that a call runs, as long as none has ended."""
PATIENCE = 0.2
"""A backlog shall be gone so long after the replicas for it are ready, as a part of their start time: to be quicker
would take more replicas than it saves time, since nobody is served before they are ready."""
SHORTEST_S = 1.0
LONGEST_S = 60.0


class Backlog(msgspec.Struct, frozen=True, gc=False):
    """A backlog to be worked off: calls that are left when new replicas are ready, in how many seconds that is, how
    many seconds after that they shall be gone, and the replicas for it and for the calls that come meanwhile."""

    calls: float
    ready_in_s: float
    within_s: float
    replicas: float


def expected(
    seen: Seen, service: Service, rate: float, target: float, launches: tuple[tuple[float, int], ...], now: float
) -> Backlog:
    """What will be left, and the replicas that it takes.

    Args:
        rate: calls that come by second.
        target: calls that a replica shall have at a time; those that it does not run at once shall wait.
        launches: replicas that were asked for and are not ready: when each lot should be, and how many.
    """
    start_s = seen.start_s if seen.start_s is not None else UNKNOWN_START_S
    by_replica = seen.slots / service.mean_s
    replica_s = serving(seen) * start_s
    pending = max(0, seen.wanted - seen.ready)
    for ready_at, count in launches:
        lot = min(count, pending)
        pending -= lot
        replica_s += lot * max(0.0, start_s - max(0.0, ready_at - now))
    left = _too_many(seen, target) + rate * start_s - replica_s * by_replica
    within_s = min(LONGEST_S, max(SHORTEST_S, PATIENCE * start_s))
    if left <= 0:
        return Backlog(0.0, start_s, within_s, 0.0)
    weight = min(1.0, service.mean_s / within_s)
    return Backlog(left, start_s, within_s, (rate * service.mean_s + left * weight) / max(seen.slots, target))


def is_behind(seen: Seen, service: Service, target: float, *, before: bool) -> bool:
    """Whether calls pile up: those that wait would keep the ready replicas busy for more than a second, and than a
    call. Once they do, they do until hardly any waits (``before``), so that the rest is no demand either."""
    waiting, there = _too_many(seen, target), serving(seen)
    if waiting <= 0 or there == 0:
        return waiting > 0
    turns = waiting / (there * seen.slots)
    return turns > 0.5 if before else turns * service.mean_s > max(1.0, service.mean_s)


def serving(seen: Seen) -> int:
    """Replicas that serve: those that are ready, or as many as the calls on replicas take, which may be on replicas of
    an older version while it is replaced."""
    return max(seen.ready, -(-seen.demand.running // seen.slots))


def _too_many(seen: Seen, target: float) -> float:
    """Calls that wait, but for those that a target above the slots of a replica wants to wait."""
    return seen.demand.waiting - max(0.0, target - seen.slots) * seen.ready
