"""Whether a backend's number of replicas follows its calls, and what a change of it means for that number (AS2). Pure;
below all that changes backends."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from pointsman.controller.state import DEFAULT_MAX, Desired
from pointsman.model import BackendConfigSpec, BackendSpec, Scale
from pointsman.model.scaling import BOUNDS, KEPT_DECISIONS, Autoscaling, Decision


def with_specs(
    state: Desired, specs: Mapping[str, BackendSpec | None], default_max: int = DEFAULT_MAX, now: str = ""
) -> Desired:
    """The state, of the same version, with new, changed or deleted backends, and what follows for their numbers.

    Args:
        specs: by tag; None for one that is deleted.
        default_max: the largest number where a configuration gives none.
        now: ISO 8601 in UTC.
    """
    backends, scales = dict(state.backends), dict(state.scales)
    for tag, spec in specs.items():
        scale = _scale_after(state, tag, spec, default_max, now) if spec is not None else None
        if spec is None:
            backends.pop(tag, None)
        else:
            backends[tag] = spec
        if scale is None:
            scales.pop(tag, None)
        else:
            scales[tag] = scale
    return msgspec.structs.replace(state, backends=backends, scales=scales)


def decided(scale: Scale, wanted: int, reason: str, text: str, now: str) -> Scale:
    """What is remembered after a decision; the same object if the number stays."""
    if wanted == scale.wanted:
        return scale
    return msgspec.structs.replace(noted(scale, scale.wanted, wanted, reason, text, now), wanted=wanted)


def noted(scale: Scale, before: int, after: int, reason: str, text: str, now: str) -> Scale:
    """What is remembered after a decision that changes nothing; the same object if the number would stay."""
    if before == after:
        return scale
    decision = Decision(now, before, after, reason, text)
    return msgspec.structs.replace(scale, decisions=(*scale.decisions, decision)[-KEPT_DECISIONS:])


def needs(before: Desired, after: Desired, tag: str, held: int) -> int:
    """How many replicas must fit, and come up, until a change of a backend is complete.

    Args:
        after: the state with the change.
        held: replicas that it has, of any version. One that is autoscaled may want more than there is room for.
    """
    number = after.wanted(tag)
    if tag in before.backends and before.backends[tag].version != after.backends[tag].version:
        number = max(1, number)  # a new version of one that has no replicas is tried by one
    if tag not in before.backends or not after.is_scaled(tag) or number > before.wanted(tag):
        return number
    return min(number, max(1, held))


def reserved(state: Desired, tag: str) -> int:
    """How many replicas of a backend must find room beside a new one. Those beyond the least that it may have wait."""
    autoscaling, wanted = state.backends[tag].config.autoscaling, state.wanted(tag)
    return wanted if autoscaling is None else min(wanted, autoscaling.min_replicas)


def follows_calls(config: BackendConfigSpec) -> bool:
    """Whether a backend's number of replicas follows what calls there are."""
    return config.autoscaling is not None or config.idle_timeout_s is not None


def is_held(scale: Scale | None, time: str) -> bool:
    """Whether somebody has fixed a backend's number of replicas until a later ``time`` of the day."""
    hold = scale.hold if scale is not None else None
    return hold is not None and datetime.fromisoformat(time).timestamp() < hold.until


def may_be_unloaded(spec: BackendSpec) -> bool:
    """Whether a backend may be without replicas until it is called."""
    autoscaling = spec.config.autoscaling
    return spec.config.idle_timeout_s is not None or (autoscaling is not None and autoscaling.min_replicas == 0)


def _scale_after(state: Desired, tag: str, spec: BackendSpec, default_max: int, now: str) -> Scale | None:
    """What is to be remembered of a backend's number once it has this specification; None for nothing."""
    autoscaling, scale = spec.config.autoscaling, state.scales.get(tag)
    old = state.backends.get(tag)
    if old is None:
        return Scale(autoscaling.first_replicas) if autoscaling is not None else None
    if scale is not None and scale.unloaded and not may_be_unloaded(spec):
        scale = msgspec.structs.replace(scale, unloaded=False)
    if autoscaling is None:
        keeps = scale is not None and spec.config.idle_timeout_s is not None
        return msgspec.structs.replace(scale, wanted=spec.config.num_replicas, hold=None) if scale and keeps else None
    if scale is None or old.config.autoscaling is None:
        scale = msgspec.structs.replace(scale or Scale(0), wanted=old.config.num_replicas)
    return _within(scale, autoscaling, default_max, now)


def _within(scale: Scale, autoscaling: Autoscaling, default_max: int, now: str) -> Scale:
    """Have new bounds act at once. A number that somebody has fixed may be below the smallest; that of a backend which
    is unloaded is 0; where decisions are only shown, it stays."""
    least, most = autoscaling.bounds(default_max)
    if autoscaling.dry_run or scale.unloaded:
        return scale
    if scale.hold is not None:
        number = min(scale.hold.replicas, most)
        scale = msgspec.structs.replace(scale, hold=msgspec.structs.replace(scale.hold, replicas=number))
        return decided(scale, number, BOUNDS, f"max_replicas is {most}", now)
    text = f"min_replicas is {least}" if scale.wanted < least else f"max_replicas is {most}"
    return decided(scale, min(max(scale.wanted, least), most), BOUNDS, text, now)
