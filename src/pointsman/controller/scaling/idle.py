"""Backends that have no calls are unloaded, and loaded again by the first call. Pure; the time is an argument.

    look        each half second, and when a call finds no replica: notes whether a backend is used
    idle_s      for how long it has not been
    falls_asleep, keeps_one, is_called      what follows; ``changes`` makes the new state

A backend that loads, or was just woken, counts as used: its time begins when it is ready.
"""

from __future__ import annotations

from pointsman.controller.observed import Observed
from pointsman.controller.replicas import Phase
from pointsman.controller.scaling.following import is_held, may_be_unloaded
from pointsman.controller.scaling.found import Use
from pointsman.controller.state import Desired
from pointsman.model.scaling import Demand


def look(tag: str, demand: Demand, observed: Observed, now: float) -> None:
    """Note whether a backend is used.

    Args:
        demand: what all routers have counted up to now.
    """
    phases = [replica.phase for replica in observed.of(tag) if not replica.killed]
    failures, ready = observed.failures.get(tag), Phase.READY in phases
    use = observed.uses.setdefault(tag, Use(now, demand.arrivals, demand.call_s, ready))
    # One whose starts fail, or that finds no room, may be unloaded once nobody waits for it.
    loads = any(phase < Phase.READY for phase in phases) and not (failures is not None and failures.cannot_start)
    was_loaded, use.ready = ready and not use.ready, ready
    has_calls = demand.waiting + demand.running > 0
    # A call may come and end between two looks; the counts tell.
    if has_calls or loads or was_loaded or (demand.arrivals, demand.call_s) != (use.arrivals, use.call_s):
        use.since, use.arrivals, use.call_s = now, demand.arrivals, demand.call_s


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
    autoscaling = spec.config.autoscaling
    if autoscaling is not None and autoscaling.dry_run and spec.config.idle_timeout_s is None:
        return False  # decisions about it are only shown
    changes = tag in desired.fallbacks or (running is not None and tag in running.backends)
    may_go = may_be_unloaded(spec) and desired.wanted(tag) > 0
    return may_go and not changes and not is_held(desired.scales.get(tag), time)


def falls_asleep(tag: str, desired: Desired, observed: Observed, now: float, time: str, *, silent: bool) -> bool:
    """Whether a backend is to be unloaded, since it has had no call for its ``idle_timeout_s``.

    Args:
        silent: a router whose last word was that it has calls has said nothing since.
    """
    limit_s = desired.backends[tag].config.idle_timeout_s
    if limit_s is None or silent or idle_s(tag, observed, now) < limit_s:
        return False
    return is_spare(tag, desired, time)


def keeps_one(tag: str, desired: Desired, observed: Observed, now: float) -> bool:
    """Whether an autoscaled backend that may be at 0 replicas keeps one, since it was used or woken a while ago, and
    had not been before: then nothing of what the rule remembers speaks for it."""
    autoscaling = desired.backends[tag].config.autoscaling
    if autoscaling is None or autoscaling.min_replicas > 0 or not desired.wanted(tag):
        return False
    delay_s = autoscaling.downscale_to_zero_delay_s
    return idle_s(tag, observed, now) < (autoscaling.downscale_delay_s if delay_s is None else delay_s)


def is_called(tag: str, demand: Demand, heard: float, desired: Desired, observed: Observed, time: str) -> bool:
    """Whether a backend has calls and no replicas, so that it is to be loaded.

    Args:
        heard: when a router has said last that calls wait. What was said before the backend was unloaded does not
            count: those calls may have been answered just then. Calls that wait on are reported again.
    """
    is_news = heard > observed.asleep.get(tag, float("-inf"))
    return demand.waiting > 0 and is_news and desired.wanted(tag) == 0 and not is_held(desired.scales.get(tag), time)
