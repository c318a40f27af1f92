"""Computes from Ray's view of the cluster what the instance may use on each node. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pointsman.model import Allocation, Capacity, NodeCapacity, Resources
from pointsman.policy.placement import counted, is_of_group

#: Node -> resource -> amount.
Amounts = dict[str, dict[str, float]]

_BUILT_IN = ("CPU", "GPU", "memory", "object_store_memory")
_NODE_PREFIX = "node:"
HEAD_RESOURCE = "node:__internal_head__"
#: Ray counts resources in ten-thousandths; a difference below this is rounding, not use by others.
NOISE = 1e-3


def alive_nodes(nodes: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, float]]:
    """The total resources of each live node, by its id; the head comes first."""
    found = {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}
    return dict(sorted(found.items(), key=lambda item: (HEAD_RESOURCE not in item[1], item[0])))


def labels_of(nodes: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """The labels of each live node, by its id."""
    return {node["NodeID"]: dict(node.get("Labels") or {}) for node in nodes if node["Alive"]}


def used_by_others(
    totals: Mapping[str, Mapping[str, float]],
    available: Mapping[str, Mapping[str, float]],
    held: Iterable[Allocation],
    returned: Iterable[Allocation] = (),
    before: Mapping[str, Mapping[str, float]] | None = None,
) -> Amounts:
    """What others than this instance use: node -> resource -> amount.

    Ray's view lags: resources of a replica that has just exited may still show as taken. Of that amount it is unknown
    whether others have taken it meanwhile, so their use from the previous result is assumed.

    Args:
        totals, available: the resources of each node, and what of them Ray shows as free.
        held: by replicas of this instance.
        returned: by replicas that exited so recently that Ray may still show them as taken.
        before: the previous result.
    """
    ours, back = _sums(held), _sums(returned)
    others: Amounts = {}
    for node, total in totals.items():
        free, mine, new, old = (of.get(node, {}) for of in (available, ours, back, before or {}))
        others[node] = {}
        for name, amount in total.items():
            taken = amount - free.get(name, 0.0) - mine.get(name, 0.0)
            if name in new:
                taken = max(taken - new[name], min(taken, old.get(name, 0.0)))
            if taken > NOISE:
                others[node][name] = taken
    return others


def _sums(allocations: Iterable[Allocation]) -> Amounts:
    sums: Amounts = {}
    for allocation in allocations:
        node = sums.setdefault(allocation.node, {})
        for name, amount in as_ray(allocation).items():
            node[name] = node.get(name, 0.0) + amount
    return sums


def capacity_of(
    totals: Mapping[str, Mapping[str, float]],
    others: Mapping[str, Mapping[str, float]] | None = None,
    labels: Mapping[str, Mapping[str, str]] | None = None,
) -> Capacity:
    """The resources that the instance may give to replicas on each node."""
    nodes = {}
    for node_id, total in totals.items():
        taken = (others or {}).get(node_id, {})
        free = {name: amount - taken.get(name, 0.0) for name, amount in total.items()}
        custom = {n: a for n, a in free.items() if n not in _BUILT_IN and not n.startswith(_NODE_PREFIX)}
        nodes[node_id] = NodeCapacity(
            num_cpus=free.get("CPU", 0.0),
            num_gpus=int(free.get("GPU", 0.0) + NOISE),
            memory=free.get("memory", 0.0),
            custom=custom,
            labels=dict((labels or {}).get(node_id, {})),
        )
    return Capacity(num_cpus=0.0, nodes=nodes)


def requested(
    totals: Mapping[str, Mapping[str, float]], needs: Iterable[tuple[Resources, int]]
) -> list[dict[str, int]]:
    """What a cluster must be large enough for at once, so that it grows by what these replicas need.

    Ray holds a request against all that its nodes have, and not against what is free of it. So each node is requested
    whole, as it is: then no node that is there fits a replica for which none has room.

    Args:
        totals: the resources of each node.
        needs: the resources of a replica, and how many are to find room.
    """
    bundles: list[dict[str, int]] = []
    for resources, count in needs:
        amounts = as_ray(Allocation(resources))
        # Requests are of whole numbers. Replicas with a part of something are requested by the whole.
        parts = [amount for amount in amounts.values() if amount % 1]
        together = max(1, int(1 / max(parts) + NOISE)) if parts and max(parts) < 1 else 1
        bundle = {name: math.ceil(amount * together - NOISE) for name, amount in amounts.items()}
        bundles += [bundle] * math.ceil(count / together)
    if not bundles:
        return []
    there = [
        {
            name: int(amount)
            for name, amount in total.items()
            if int(amount)
            and name != "object_store_memory"
            and not is_of_group(name)
            and not name.startswith(_NODE_PREFIX)
        }
        for total in totals.values()
    ]
    return [*there, *bundles]


def as_ray(allocation: Allocation) -> dict[str, float]:
    """The resources of an allocation by Ray's names."""
    resources = counted(allocation.resources)
    amounts = {"CPU": resources.num_cpus, "GPU": resources.num_gpus, "memory": resources.memory, **resources.custom}
    return {name: amount for name, amount in amounts.items() if amount}
