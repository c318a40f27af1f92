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
from pointsman.exceptions import StateChangedError
from pointsman.model import TrafficHistory
from pointsman.wire.apply import Marks
from pointsman.wire.commands import (
    Apply,
    Change,
    ComeUp,
    ObjectChange,
    RollbackTraffic,
    SetTraffic,
    TakeBack,
    TrafficCommand,
    UpdateBackendConfig,
)
from pointsman.wire.rollouts import RolloutCommand, StartRollout
from pointsman.wire.scaling import ScalingCommand
from pointsman.wire.tokens import TokenCommand


def carry_out(
    state: Desired, command: Change, free: FreeCapacity, now: str, if_version: int | None = None
) -> tuple[Desired, str]:
    """Carry out a command. For the other arguments and the result see :func:`pointsman.controller.desired.apply`.

    Args:
        if_version: what its sender has seen of what it changes; None for any version.

    Raises:
        BusyError: an apply is changing the backend of the command.
        StateChangedError: an apply was planned for another state, or what is changed has another version.
        ValueError, InsufficientResourcesError: the command cannot be carried out. Nothing has changed.
    """
    if if_version is not None:
        _check_version(state, command, if_version)
    if isinstance(command, ComeUp):
        return msgspec.structs.replace(state, came_up={command.instance: CameUp()}), ""
    if isinstance(command, RolloutCommand):
        return rollouts.apply(state, command, now)
    if isinstance(command, ScalingCommand):
        return scaling.apply(state, command, now, free.default_max)
    if isinstance(command, TokenCommand):
        return tokens.apply(state, command, now), ""
    new, note = _carry_out(state, command, free, now)
    by_hand = ""
    if isinstance(command, RollbackTraffic) or (isinstance(command, SetTraffic) and command.weights is not None):
        by_hand = command.name
    return rollouts.followed(state, new, by=command.by, now=now, by_hand=by_hand), note


def _endpoint_of(command: TrafficCommand | RolloutCommand) -> str:
    if isinstance(command, RolloutCommand):
        return command.plan.endpoint if isinstance(command, StartRollout) else command.endpoint
    return command.name


def _check_version(state: Desired, command: Change, seen: int) -> None:
    """Raise StateChangedError if what a command changes has another version than its sender has seen: an endpoint the
    version of its traffic policy, a backend that of its configuration, all else that of the state. What does not exist
    has none, and the command itself will say so."""
    what, version, by = "the state", state.version, ""
    if isinstance(command, (TrafficCommand, RolloutCommand)):
        name = _endpoint_of(command)
        endpoint = state.endpoints.get(name)
        what, version = f"endpoint {name!r}", endpoint.policy.version if endpoint is not None else seen
        changes = state.histories.get(name, TrafficHistory()).changes
        by = changes[-1].by if changes else ""
    elif isinstance(command, (UpdateBackendConfig, ScalingCommand)):
        spec = state.backends.get(command.tag)
        what, version = f"backend {command.tag!r}", spec.config_version if spec is not None else seen
    if version != seen:
        whose = f", by {by}" if by else ""
        raise StateChangedError(f"{what} has version {version} now{whose}, not {seen} any more; look at it again")


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
