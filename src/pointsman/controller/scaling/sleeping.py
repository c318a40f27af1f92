"""One look at all backends that may be without replicas: which are called, which have been idle for long enough, and
which of the idle ones make room for another. Pure; the time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import msgspec

from pointsman.controller.observed import Observed
from pointsman.controller.scaling.changes import unloaded, woken
from pointsman.controller.scaling.following import may_be_unloaded
from pointsman.controller.scaling.idle import falls_asleep, idle_s, is_called, look
from pointsman.controller.scaling.room import to_unload
from pointsman.controller.state import Desired
from pointsman.model.scaling import IDLE, ROOM, Demand


def note_uses(state: Desired, observed: Observed, now: float, demand_of: Callable[[str], Demand]) -> None:
    """Note which backends are used, of those that may be without replicas. At the beginning of a look."""
    may_sleep = {tag for tag, spec in state.backends.items() if may_be_unloaded(spec)}
    for tag in observed.uses.keys() - may_sleep:
        del observed.uses[tag]
    for tag in may_sleep:
        look(tag, demand_of(tag), observed, now)


def woken_and_unloaded(
    state: Desired,
    observed: Observed,
    now: float,
    time: str,
    *,
    demand_of: Callable[[str], Demand],
    waiting_heard: Callable[[str], float],
    is_silent: Callable[[str], bool],
    needs: Mapping[str, int] = MappingProxyType({}),
) -> Desired:
    """The state after a look, of the same version; the same object if nothing follows from it.

    Args:
        now: on the controller's clock.
        time: of the day.
        demand_of: what all routers have counted for a backend up to now.
        waiting_heard: when a router has said last that calls wait.
        is_silent: whether a router that had calls for a backend has said nothing since.
        needs: replicas that the calls of a backend need, by the rule; 1 where that says nothing.
    """
    before, called = state, set()
    for tag, spec in before.backends.items():
        if not may_be_unloaded(spec):
            continue
        demand = demand_of(tag)
        if is_called(tag, demand, waiting_heard(tag), state, observed, time):
            text = f"{demand.waiting} call{'s wait' if demand.waiting > 1 else ' waits'} for it"
            state = woken(state, tag, text, time, needs.get(tag, 1), observed.default_max)
            called.add(tag)
        elif falls_asleep(tag, state, observed, now, time, silent=is_silent(tag)):
            state = unloaded(state, tag, IDLE, f"it has had no call for {idle_s(tag, observed, now):.3g} s", time)
    for tag, starting in to_unload(state, observed, now, time, called).items():
        state = unloaded(state, tag, ROOM, f"it is idle, and makes room for backend {starting!r}", time)
    return msgspec.structs.replace(state, version=before.version) if state is not before else before
