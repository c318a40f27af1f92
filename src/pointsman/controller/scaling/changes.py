"""What is commanded about numbers of replicas, as changes of the desired state. Pure."""

from __future__ import annotations

from datetime import datetime

import msgspec

from pointsman.controller.scaling.following import decided, may_be_unloaded
from pointsman.controller.state import DEFAULT_MAX, Desired, find_backend
from pointsman.model import BackendSpec, Scale
from pointsman.model.scaling import HOLD, IDLE, WAKE, Hold
from pointsman.wire.scaling import ScaleBackend, ScalingCommand, WakeBackend


def apply(state: Desired, command: ScalingCommand, now: str, default_max: int = DEFAULT_MAX) -> tuple[Desired, str]:
    """Carry out a command. For arguments and result see :func:`pointsman.controller.desired.apply`.

    Raises:
        ValueError: it cannot be carried out; nothing has changed.
    """
    tag = command.tag
    spec = find_backend(state, tag)
    if isinstance(command, ScaleBackend):
        return with_scale(state, tag, _held(spec, scale_of(state, tag), command, now, default_max)), ""
    if isinstance(command, WakeBackend):
        return (state if state.wanted(tag) else woken(state, tag, f"it is woken{_by(command)}", now)), ""
    if not may_be_unloaded(spec):
        raise ValueError(f"backend {tag!r} may not be at 0 replicas; give it min_replicas 0 or an idle_timeout_s")
    return (unloaded(state, tag, IDLE, f"it is unloaded{_by(command)}", now) if state.wanted(tag) else state), ""


def woken(
    state: Desired, tag: str, text: str, now: str, need: int = 1, default_max: int = DEFAULT_MAX, reason: str = WAKE
) -> Desired:
    """The state in which a backend that has no replicas gets some: all, or, where their number follows the calls, as
    many as these need.

    Args:
        text: one phrase that says why.
        need: replicas that its calls need.
    """
    config = state.backends[tag].config
    number = config.num_replicas
    if config.autoscaling is not None:
        least, most = config.autoscaling.bounds(default_max)
        number = min(max(1, least, need), most)
    scale = msgspec.structs.replace(scale_of(state, tag), wanted=0, unloaded=False, hold=None)
    return with_scale(state, tag, decided(scale, number, reason, text, now))


def unloaded(state: Desired, tag: str, reason: str, text: str, now: str) -> Desired:
    """The state in which a backend has no replicas until it is called, or woken."""
    scale = msgspec.structs.replace(scale_of(state, tag), wanted=state.wanted(tag), hold=None)
    scale = decided(scale, 0, reason, text, now)
    return with_scale(state, tag, msgspec.structs.replace(scale, unloaded=True))


def _by(command: ScalingCommand) -> str:
    return f" by {command.by}" if command.by else ""


def _held(spec: BackendSpec, scale: Scale, command: ScaleBackend, now: str, default_max: int) -> Scale:
    """What is remembered of a backend whose number somebody has fixed for a while, or lets go."""
    if spec.config.autoscaling is None:
        raise ValueError(f"backend {spec.tag!r} is not autoscaled; set its num_replicas instead")
    if not command.hold_s:
        return msgspec.structs.replace(scale, hold=None)
    _, most = spec.config.autoscaling.bounds(default_max)
    if not 0 <= command.replicas <= most:
        raise ValueError(f"backend {spec.tag!r} may have 0 to {most} replicas, not {command.replicas}")
    until = datetime.fromisoformat(now).timestamp() + command.hold_s
    text = f"it is fixed for {command.hold_s:g} s{_by(command)}"
    scale = decided(scale, command.replicas, HOLD, text, now)
    return msgspec.structs.replace(scale, unloaded=False, hold=Hold(command.replicas, until, command.by))


def scale_of(state: Desired, tag: str) -> Scale:
    """What is remembered of a backend's number of replicas, or would be."""
    return state.scales.get(tag) or Scale(state.wanted(tag))


def with_scale(state: Desired, tag: str, scale: Scale) -> Desired:
    """The state, with this to remember of a backend."""
    return msgspec.structs.replace(state, version=state.version + 1, scales={**state.scales, tag: scale})
