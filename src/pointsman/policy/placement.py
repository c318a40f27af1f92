"""Translates a placement into Ray's resources and labels. Pure.

Ray shows what a placement group has reserved on a node as separate resources there: ``CPU_group_<id>`` for all of its
bundles, ``CPU_group_<bundle>_<id>`` for one bundle.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pointsman.model import Placement, Resources

_GROUP = "_group_"
#: Each actor in a group takes this much of the group's ``bundle`` resource, even if it needs nothing else.
_BUNDLE_SHARE = 0.001


def counted(resources: Resources) -> Resources:
    """The resources by the names under which a node counts them."""
    placement = resources.placement
    if not placement.group:
        return resources
    asked = {"CPU": resources.num_cpus, "GPU": resources.num_gpus, "memory": resources.memory, **resources.custom}
    amounts = {name: amount for name, amount in asked.items() if amount}
    amounts["bundle"] = _BUNDLE_SHARE
    return msgspec.structs.replace(
        resources,
        num_cpus=0.0,
        num_gpus=0.0,
        memory=0.0,
        custom={name: amount for kind, amount in amounts.items() for name in _names(kind, placement)},
    )


def is_of_group(name: str) -> bool:
    """True if a resource is reserved by a placement group."""
    return _GROUP in name


def matches(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """True if labels satisfy all conditions of a selector: ``"a"``, ``"!a"``, ``"in(a, b)"`` or ``"!in(a, b)"``."""
    return all(_allows(labels.get(name), condition) for name, condition in selector.items())


def _allows(value: str | None, condition: str) -> bool:
    negated, listed = condition.startswith("!"), condition.removeprefix("!")
    if listed.startswith("in(") and listed.endswith(")"):
        values = [one.strip() for one in listed[3:-1].split(",")]
    else:
        values = [listed]
    return (value in values) != negated


def _names(kind: str, placement: Placement) -> list[str]:
    bundle = [f"{kind}{_GROUP}{placement.bundle}_{placement.group}"] if placement.bundle >= 0 else []
    return [f"{kind}{_GROUP}{placement.group}", *bundle]
