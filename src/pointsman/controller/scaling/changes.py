"""What is commanded about numbers of replicas, as changes of the desired state. Pure."""

from __future__ import annotations

from datetime import datetime

import msgspec

from pointsman.controller.scaling.following import decided, may_be_unloaded
from pointsman.controller.state import DEFAULT_MAX, Desired, find_backend
from pointsman.model import BackendSpec, Scale
from pointsman.model.scaling import HOLD, Hold
from pointsman.wire.scaling import ScaleBackend, ScalingCommand, WakeBackend


def apply(state: Desired, command: ScalingCommand, now: str, default_max: int = DEFAULT_MAX) -> tuple[Desired, str]:
    """Carry out a command. For arguments and result see :func:`pointsman.controller.desired.apply`.

    Raises:
        ValueError: it cannot be carried out; nothing has changed.
    """
    tag = command.tag
    spec = find_backend(state, tag)
    scale = scale_of(state, tag)
    if isinstance(command, ScaleBackend):
        return with_scale(state, tag, _held(spec, scale, command, now, default_max)), ""
    if isinstance(command, WakeBackend):
        if not scale.unloaded:
            return state, ""
        return with_scale(state, tag, msgspec.structs.replace(scale, unloaded=False)), ""
    if not may_be_unloaded(spec):
        raise ValueError(f"backend {tag!r} may not be at 0 replicas; give it min_replicas 0 or an idle_timeout_s")
    return with_scale(state, tag, msgspec.structs.replace(scale, unloaded=True)), ""


def _held(spec: BackendSpec, scale: Scale, command: ScaleBackend, now: str, default_max: int) -> Scale:
    """What is remembered of a backend whose number somebody has fixed for a while."""
    if spec.config.autoscaling is None:
        raise ValueError(f"backend {spec.tag!r} is not autoscaled; set its num_replicas instead")
    _, most = spec.config.autoscaling.bounds(default_max)
    if not 0 <= command.replicas <= most:
        raise ValueError(f"backend {spec.tag!r} may have 0 to {most} replicas, not {command.replicas}")
    until = datetime.fromisoformat(now).timestamp() + command.hold_s
    who = f" by {command.by}" if command.by else ""
    text = f"it is fixed for {command.hold_s:g} s{who}"
    scale = decided(scale, command.replicas, HOLD, text, now)
    return msgspec.structs.replace(scale, unloaded=False, hold=Hold(command.replicas, until, command.by))


def scale_of(state: Desired, tag: str) -> Scale:
    """What is remembered of a backend's number of replicas, or would be."""
    return state.scales.get(tag) or Scale(state.wanted(tag))


def with_scale(state: Desired, tag: str, scale: Scale) -> Desired:
    """The state, with this to remember of a backend."""
    return msgspec.structs.replace(state, version=state.version + 1, scales={**state.scales, tag: scale})
