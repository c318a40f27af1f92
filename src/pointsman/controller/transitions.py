"""From one desired state to the next: by a command, or since a backend's change has come up or failed. Pure.

command -> carry_out -> desired or applying -> marks -> what it means for rollouts
reconcile: Confirm -> confirmed, Revert -> reverted; a backend of a running apply ends that as a whole
"""

from __future__ import annotations

import msgspec

from pointsman.controller import applying, desired, tokens
from pointsman.controller.history import CONTROLLER
from pointsman.controller.marks import BACKEND, marked, with_marks
from pointsman.controller.rollouts import changes as rollouts
from pointsman.controller.scaling import changes as scaling
from pointsman.controller.state import CameUp, Desired, FreeCapacity
from pointsman.wire.apply import Marks
from pointsman.wire.commands import Apply, Change, ComeUp, ObjectChange, RollbackTraffic, SetTraffic, TakeBack
from pointsman.wire.rollouts import RolloutCommand
from pointsman.wire.scaling import ScalingCommand
from pointsman.wire.tokens import TokenCommand


def carry_out(state: Desired, command: Change, free: FreeCapacity, now: str) -> tuple[Desired, str]:
    """Carry out a command. For arguments and result see :func:`pointsman.controller.desired.apply`.

    Raises:
        BusyError: an apply is changing the backend of the command.
        StateChangedError: an apply was planned for another state.
        ValueError, InsufficientResourcesError: the command cannot be carried out. Nothing has changed.
    """
    if isinstance(command, ComeUp):
        return msgspec.structs.replace(state, came_up={command.instance: CameUp()}), ""
    if isinstance(command, RolloutCommand):
        return rollouts.apply(state, command, now)
    if isinstance(command, ScalingCommand):
        return scaling.apply(state, command, now, free.default_max)
    if isinstance(command, TokenCommand):
        return tokens.apply(state, command, now), ""
    new, note = _carry_out(state, command, free, now)
    by_hand = command.name if isinstance(command, (SetTraffic, RollbackTraffic)) else ""
    return rollouts.followed(state, new, by=command.by, now=now, by_hand=by_hand), note


def _carry_out(
    state: Desired, command: ObjectChange | Apply | TakeBack, free: FreeCapacity, now: str
) -> tuple[Desired, str]:
    if isinstance(command, Apply):
        return applying.begin(state, command, free, now), ""
    if isinstance(command, TakeBack):
        return applying.stop(state, command, now)
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
        return rollouts.followed(state, applying.complete(state, now), by=running.by, now=now)
    return desired.confirm(state, tag)


def reverted(state: Desired, tag: str, text: str, traceback: str, now: str) -> Desired:
    """The state after a backend's last change has failed, or the apply that made it.

    Args:
        text: why, in one sentence.
        traceback: of user code, if that raised.
    """
    running = state.running
    if running is not None and tag in running.backends:
        taken_back = applying.take_back(state, BACKEND + tag, text, traceback, now=now)
        return rollouts.followed(state, taken_back, by=CONTROLLER, now=now)
    new = desired.revert(state, tag, now)
    fallback = state.fallbacks[tag]
    new = marked(state, new, by=CONTROLLER, now=now)
    new = with_marks(new, {BACKEND + tag: fallback.marks if fallback.spec is not None else None})
    return rollouts.followed(state, new, by=CONTROLLER, now=now)
