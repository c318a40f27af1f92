"""From one desired state to the next: by a command, or since a backend's change has come up or failed. Pure.

command -> carry_out -> desired or applying -> marks
reconcile: Confirm -> confirmed, Revert -> reverted; a backend of a running apply ends that as a whole
"""

from __future__ import annotations

import msgspec

from pointsman.controller import applying, desired
from pointsman.controller.history import CONTROLLER
from pointsman.controller.marks import BACKEND, marked, with_marks
from pointsman.controller.state import CameUp, Desired, FreeCapacity
from pointsman.wire.apply import Marks
from pointsman.wire.commands import Apply, Change, ComeUp, TakeBack
from pointsman.wire.rollouts import RolloutCommand


def carry_out(state: Desired, command: Change, free: FreeCapacity, now: str) -> tuple[Desired, str]:
    """Carry out a command. For arguments and result see :func:`pointsman.controller.desired.apply`.

    Raises:
        BusyError: an apply is changing the backend of the command.
        StateChangedError: an apply was planned for another state.
        ValueError, InsufficientResourcesError: the command cannot be carried out. Nothing has changed.
    """
    if isinstance(command, Apply):
        return applying.begin(state, command, free, now), ""
    if isinstance(command, TakeBack):
        return applying.stop(state, command, now)
    if isinstance(command, ComeUp):
        return msgspec.structs.replace(state, came_up={command.instance: CameUp()}), ""
    if isinstance(command, RolloutCommand):
        raise ValueError("this controller cannot roll out yet")
    applying.check_not_busy(state, command)
    new, note = desired.apply(state, command, free, now)
    if new.fallbacks is not state.fallbacks:
        fallbacks = {
            tag: fallback
            if tag in state.fallbacks
            else msgspec.structs.replace(fallback, marks=state.marks.get(BACKEND + tag, Marks()))
            for tag, fallback in new.fallbacks.items()
        }
        new = msgspec.structs.replace(new, fallbacks=fallbacks)
    return marked(state, new, by=command.by, now=now), note


def confirmed(state: Desired, tag: str, now: str) -> Desired:
    """The state after a backend's last change has come up; if an apply made it, all others of that have, too."""
    running = state.running
    if running is not None and tag in running.backends:
        return applying.complete(state, now)
    return desired.confirm(state, tag)


def reverted(state: Desired, tag: str, text: str, traceback: str, now: str) -> Desired:
    """The state after a backend's last change has failed, or the apply that made it.

    Args:
        text: why, in one sentence.
        traceback: of user code, if that raised.
    """
    running = state.running
    if running is not None and tag in running.backends:
        return applying.take_back(state, BACKEND + tag, text, traceback, now=now)
    new = desired.revert(state, tag, now)
    fallback = state.fallbacks[tag]
    new = marked(state, new, by=CONTROLLER, now=now)
    return with_marks(new, {BACKEND + tag: fallback.marks if fallback.spec is not None else None})
