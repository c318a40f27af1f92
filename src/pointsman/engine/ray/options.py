"""Parses ``ray_actor_options`` on a cluster: those of both engines, and those about placement (decision 0030).

Pointsman itself chooses the node of each replica, since it must know in advance whether there is free capacity. So
Ray's options about nodes are turned into a :class:`~pointsman.model.Placement`. Ray's other options are about calls
through Ray, which Pointsman does not use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from ray._common.ray_option_utils import actor_options
from ray._raylet import PlacementGroupID  # type: ignore[attr-defined,unused-ignore]
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from pointsman import actor_options as amounts
from pointsman.arguments import nearest
from pointsman.model import ANYWHERE, Placement, Resources

_KNOWN = (*amounts.KNOWN, *amounts.PLACES)
#: The amount of the resource ``accelerator_type:<kind>`` that a replica takes, as in Ray.
_ACCELERATOR_SHARE = 0.001
#: Strategies that need nothing: replicas are spread over nodes in any case.
_SPREAD = ("DEFAULT", "SPREAD")
_VALUE = r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_CONDITION = re.compile(rf"!?(?:{_VALUE}|in\({_VALUE}(?:, ?{_VALUE})*\))")


def parse_options(options: Mapping[str, Any] | None) -> Resources:
    """The resources of one replica, with its placement.

    Raises:
        TypeError: not a dict, or a value of the wrong type.
        ValueError: a value out of range, or an option that a replica cannot have.
    """
    if not isinstance(options, dict):
        return amounts.parse_actor_options(options)
    for name in options:
        _check_name(name)
    resources = amounts.parse_actor_options({name: options[name] for name in options if name not in amounts.PLACES})
    custom = {**resources.custom, **_accelerator(options.get("accelerator_type"))}
    return msgspec.structs.replace(resources, custom=custom, placement=_placement(options))


def group_strategy(placement: Placement) -> PlacementGroupSchedulingStrategy | None:
    """The strategy for Ray if a placement group is used; None otherwise, when Ray is given the node."""
    if not placement.group:
        return None
    return PlacementGroupSchedulingStrategy(
        PlacementGroup(PlacementGroupID(bytes.fromhex(placement.group))), placement.bundle, placement.capture
    )


def _check_name(name: Any) -> None:
    if name == "placement_group":
        raise ValueError(
            "ray_actor_options cannot set 'placement_group'; give a PlacementGroupSchedulingStrategy as"
            " scheduling_strategy"
        )
    if name in _KNOWN or name in amounts.REFUSED:
        return
    if name in actor_options:
        raise ValueError(f"ray_actor_options cannot set {name!r}: replicas are not called through Ray")
    raise ValueError(f"ray_actor_options has no option {name!r}{nearest(str(name), _KNOWN)}")


def _accelerator(kind: Any) -> dict[str, float]:
    if kind is None:
        return {}
    if not isinstance(kind, str):
        raise TypeError(f"accelerator_type must be a str such as 'A100', not {kind!r}")
    return {f"accelerator_type:{kind}": _ACCELERATOR_SHARE}


def _placement(options: Mapping[str, Any]) -> Placement:
    strategy, selector, others = (options.get(name) for name in amounts.PLACES[:3])
    chosen = ANYWHERE if strategy is None or strategy in _SPREAD else _by_strategy(strategy)
    if selector is None and others is None:
        return chosen
    if chosen != ANYWHERE:
        raise ValueError("scheduling_strategy and label_selector both say on which nodes; give one of them")
    return Placement(labels=(_selector(selector or {}, "label_selector"), *_fallbacks(others)))


def _by_strategy(strategy: Any) -> Placement:
    if isinstance(strategy, NodeAffinitySchedulingStrategy):
        return Placement(node=strategy.node_id, prefer=strategy.soft)
    if isinstance(strategy, PlacementGroupSchedulingStrategy) and isinstance(strategy.placement_group, PlacementGroup):
        return Placement(
            group=strategy.placement_group.id.hex(),
            bundle=strategy.placement_group_bundle_index,
            capture=bool(strategy.placement_group_capture_child_tasks),
        )
    kind = ValueError if isinstance(strategy, str) else TypeError
    raise kind(
        f"scheduling_strategy must be 'DEFAULT', 'SPREAD', a NodeAffinitySchedulingStrategy or a"
        f" PlacementGroupSchedulingStrategy, not {strategy!r}; for labels there is label_selector"
    )


def _selector(selector: Any, what: str) -> dict[str, str]:
    if not isinstance(selector, dict) or not all(isinstance(one, str) for item in selector.items() for one in item):
        raise TypeError(f"{what} must be a dict of label to condition, not {selector!r}")
    for label, condition in selector.items():
        if not _CONDITION.fullmatch(condition):
            raise ValueError(
                f"{what} has the condition {condition!r} for {label!r}; it must look like 'a', '!a', 'in(a, b)' or"
                " '!in(a, b)'"
            )
    return dict(selector)


def _fallbacks(others: Any) -> list[dict[str, str]]:
    if others is None:
        return []
    if not isinstance(others, list) or not all(
        isinstance(one, dict) and [*one] == ["label_selector"] for one in others
    ):
        raise TypeError(f"fallback_strategy must be a list of dicts with one key, label_selector, not {others!r}")
    return [_selector(one["label_selector"], "label_selector of fallback_strategy") for one in others]
