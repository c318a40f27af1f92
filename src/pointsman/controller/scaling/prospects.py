"""When a backend that has no replica will take calls, as routers tell those who call it; and why one has fewer replicas
than it shall have. Pure.

Its calls wait in routers. What waits too long, and what finds no place there, is refused and told when to come again:
when the replica that starts should be ready. Where starts fail, calls are refused at once until the next try.
"""

from __future__ import annotations

from typing import NamedTuple

from pointsman.controller.allocation import describe_request
from pointsman.controller.observed import Observed
from pointsman.controller.replicas import Phase
from pointsman.controller.state import Desired
from pointsman.model.scaling import ROOM, Blocked

#: Why a backend is blocked, beside ROOM: its replicas fail to start.
START = "start"
#: How long a start is taken to last where none is known, while calls are refused because starts fail.
UNKNOWN_START_S = 1.0


class Prospect(NamedTuple):
    """Times of the controller's clock; 0 for what is not known or not so."""

    ready_at: float = 0.0
    refused_until: float = 0.0


def prospect_of(tag: str, desired: Desired, observed: Observed) -> Prospect:
    """When a backend without replicas that take calls should have one."""
    scale = desired.scales.get(tag)
    start_s = scale.start_s if scale is not None else None
    starting = [r.launched_at for r in observed.of(tag) if r.phase < Phase.READY and not r.killed and not r.adopted]
    ready_at = min(starting) + start_s if starting and start_s is not None else 0.0
    failures = observed.failures.get(tag)
    if failures is None or not failures.cannot_start:
        return Prospect(ready_at)
    if not starting:
        return Prospect(ready_at, failures.next_try_alone)
    # A try goes on. One that takes longer than starts do may be the one that works: calls may wait for it then.
    return Prospect(ready_at, min(starting) + (start_s if start_s is not None else UNKNOWN_START_S))


def blocked_by(tag: str, desired: Desired, observed: Observed) -> Blocked | None:
    """Why a backend has fewer replicas than are wanted; None if it has them, or they are on their way."""
    spec, wanted = desired.backends[tag], desired.wanted(tag)
    mine = [r for r in observed.of(tag) if r.is_current and not r.killed and r.version == spec.version]
    failures = observed.failures.get(tag)
    if failures is not None and failures.cannot_start and sum(r.phase is Phase.READY for r in mine) < wanted:
        return Blocked(START, f"its replicas fail to start: {failures.words}")
    missing = wanted - len(mine)
    if missing <= 0:
        return None
    ledger = observed.replicas.ledger(observed.capacity)
    allocation = ledger.place(spec.resources)
    if allocation is not None:
        ledger.give_back(allocation)
        return None
    asked = describe_request(spec.resources, missing)
    return Blocked(ROOM, f"no room for {missing} of {wanted} replicas: asked for {asked}, free: {ledger.describe()}")
