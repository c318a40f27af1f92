"""Backends that have no calls are unloaded, and loaded again by the first call. Pure; the time is an argument.

    look        each half second, and when a call finds no replica: notes whether a backend is used
    idle_s      for how long it has not been
    falls_asleep, is_called      what follows; ``changes`` makes the new state

A backend that starts, or was just woken, counts as used: its time begins when it is ready.
"""

from __future__ import annotations

from datetime import datetime

from pointsman.controller.observed import Observed, Use
from pointsman.controller.replicas import Phase
from pointsman.controller.scaling.following import may_be_unloaded
from pointsman.controller.state import Desired
from pointsman.model.scaling import Demand


def look(tag: str, demand: Demand, desired: Desired, observed: Observed, now: float) -> None:
    """Note whether a backend is used.

    Args:
        demand: what all routers have counted up to now.
    """
    use = observed.uses.get(tag)
    if use is None:
        observed.uses[tag] = Use(now, demand.arrivals, demand.call_s)
        return
    ready = any(replica.phase is Phase.READY for replica in observed.of(tag))
    starts = desired.wanted(tag) > 0 and not ready
    has_calls = demand.waiting + demand.running > 0
    # A call may come and end between two looks; the counts tell.
    if has_calls or starts or (demand.arrivals, demand.call_s) != (use.arrivals, use.call_s):
        observed.uses[tag] = Use(now, demand.arrivals, demand.call_s)


def used(tag: str, observed: Observed, now: float) -> None:
    """Somebody has asked for a backend."""
    if (use := observed.uses.get(tag)) is not None:
        use.since = now


def idle_s(tag: str, observed: Observed, now: float) -> float:
    """For how long a backend has had no call; 0 if that is not known."""
    use = observed.uses.get(tag)
    return now - use.since if use is not None else 0.0


def is_spare(tag: str, desired: Desired, time: str) -> bool:
    """Whether a backend has replicas, and nothing but its calls speaks for them: nobody has fixed their number, and no
    change of it is on its way.

    Args:
        time: of the day.
    """
    spec, running = desired.backends[tag], desired.running
    changes = tag in desired.fallbacks or (running is not None and tag in running.backends)
    return may_be_unloaded(spec) and desired.wanted(tag) > 0 and not changes and not is_held(tag, desired, time)


def falls_asleep(tag: str, desired: Desired, observed: Observed, now: float, time: str, *, silent: bool) -> bool:
    """Whether a backend is to be unloaded, since it has had no call for its ``idle_timeout_s``.

    Args:
        silent: a router whose last word was that it has calls has said nothing since.
    """
    limit_s = desired.backends[tag].config.idle_timeout_s
    if limit_s is None or silent or idle_s(tag, observed, now) < limit_s:
        return False
    return is_spare(tag, desired, time)


def is_called(tag: str, demand: Demand, desired: Desired, time: str) -> bool:
    """Whether a backend has calls and no replicas, so that it is to be loaded."""
    return demand.waiting > 0 and desired.wanted(tag) == 0 and not is_held(tag, desired, time)


def is_held(tag: str, desired: Desired, time: str) -> bool:
    """Whether somebody has fixed the number of a backend's replicas up to now."""
    scale = desired.scales.get(tag)
    hold = scale.hold if scale is not None else None
    return hold is not None and datetime.fromisoformat(time).timestamp() < hold.until
