"""What is commanded about numbers of replicas, as changes of the desired state. Pure."""

from __future__ import annotations

from datetime import datetime

import msgspec

from pointsman.controller.state import Desired, find_backend
from pointsman.model import Scale
from pointsman.model.scaling import Hold
from pointsman.wire.scaling import ScaleBackend, ScalingCommand, WakeBackend


def apply(state: Desired, command: ScalingCommand, now: str) -> tuple[Desired, str]:
    """Carry out a command. For arguments and result see :func:`pointsman.controller.desired.apply`.

    Raises:
        ValueError: it cannot be carried out; nothing has changed.
    """
    tag = command.tag
    config = find_backend(state, tag).config
    scale = scale_of(state, tag)
    if isinstance(command, ScaleBackend):
        if config.autoscaling is None:
            raise ValueError(f"backend {tag!r} is not autoscaled; set its num_replicas instead")
        until = datetime.fromisoformat(now).timestamp() + command.hold_s
        hold = Hold(command.replicas, until, command.by)
        return with_scale(state, tag, msgspec.structs.replace(scale, wanted=command.replicas, hold=hold)), ""
    if isinstance(command, WakeBackend):
        if not scale.unloaded:
            return state, ""
        return with_scale(state, tag, msgspec.structs.replace(scale, unloaded=False)), ""
    autoscaling = config.autoscaling
    if config.idle_timeout_s is None and (autoscaling is None or autoscaling.min_replicas > 0):
        raise ValueError(f"backend {tag!r} may not be at 0 replicas; give it min_replicas 0 or an idle_timeout_s")
    return with_scale(state, tag, msgspec.structs.replace(scale, unloaded=True)), ""


def scale_of(state: Desired, tag: str) -> Scale:
    """What is remembered of a backend's number of replicas, or would be."""
    return state.scales.get(tag) or Scale(state.wanted(tag))


def with_scale(state: Desired, tag: str, scale: Scale) -> Desired:
    """The state, with this to remember of a backend."""
    return msgspec.structs.replace(state, version=state.version + 1, scales={**state.scales, tag: scale})
