"""Allocates the resources of nodes to replicas. Pure.

GPUs are assigned by index: a fraction goes to the GPU with the least free share that suffices (best fit), so that whole
GPUs stay free as long as possible; whole numbers take whole free GPUs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pointsman.model import ANYWHERE, Allocation, Capacity, NodeCapacity, Placement, Resources
from pointsman.policy.placement import counted, is_of_group, matches

#: Characters of a node's name in messages; Ray's names have 56.
SHORT_NAME = 8
#: Tolerance for sums of fractions such as 0.1 + 0.2, which are not exact.
EPSILON = 1e-9


class NodeLedger:
    """The free resources of one node.

    Args:
        name: of the node; empty on the local engine.
        capacity: all its resources.
    """

    def __init__(self, name: str, capacity: NodeCapacity) -> None:
        self.name = name
        self.labels = capacity.labels
        self._replicas = 0
        self._cpus = capacity.num_cpus
        self._memory = capacity.memory
        self._custom = dict(capacity.custom)
        self._gpus = [1.0] * capacity.num_gpus

    def place(self, resources: Resources) -> Allocation | None:
        """Allocate resources for one replica; None, and nothing is taken, if too little is free."""
        wanted, resources = resources, counted(resources)
        if self._cpus is not None and resources.num_cpus > self._cpus + EPSILON:
            return None
        if resources.memory > self._memory + EPSILON:
            return None
        if any(amount > self._custom.get(name, 0.0) + EPSILON for name, amount in resources.custom.items()):
            return None
        gpus = self._choose_gpus(resources.num_gpus)
        if gpus is None:
            return None
        allocation = Allocation(wanted, gpus, self.name)
        self.take(allocation)
        return allocation

    def preference(self, resources: Resources) -> tuple[float, float, int]:
        """Sort key of nodes for a new replica; the smallest is tried first. Replicas that need GPUs go where fewest are
        free, others to nodes without GPUs; then where most CPUs are free, so that the loss of a node costs a backend
        little."""
        free_gpus = sum(self._gpus)
        busy = -(self._cpus or 0.0), self._replicas
        return (free_gpus if resources.num_gpus else float(len(self._gpus)), *busy)

    def describe(self) -> str:
        """The free resources, for error messages."""
        parts = [f"num_gpus={_amount(sum(self._gpus))}", f"memory={_amount(self._memory)}"]
        if self._cpus is not None:
            parts.insert(0, f"num_cpus={_amount(self._cpus)}")
        parts += [f"{name}={_amount(free)}" for name, free in sorted(self._custom.items()) if not is_of_group(name)]
        largest = max(self._gpus, default=0.0)
        if 0 < largest < 1 - EPSILON:
            parts[parts.index(f"num_gpus={_amount(sum(self._gpus))}")] += f" (at most {_amount(largest)} on one GPU)"
        return ", ".join(parts)

    def _choose_gpus(self, wanted: float) -> tuple[int, ...] | None:
        if wanted <= 0:
            return ()
        if wanted < 1:
            fitting = [(free, index) for index, free in enumerate(self._gpus) if free + EPSILON >= wanted]
            return (min(fitting)[1],) if fitting else None
        whole = [index for index, free in enumerate(self._gpus) if free >= 1 - EPSILON]
        count = round(wanted)
        return tuple(whole[:count]) if len(whole) >= count else None

    def take(self, allocation: Allocation, sign: int = 1) -> None:
        """Subtract what a replica holds; add it with a ``sign`` of -1."""
        self._replicas += sign
        resources = counted(allocation.resources)
        if self._cpus is not None:
            self._cpus -= sign * resources.num_cpus
        self._memory -= sign * resources.memory
        for name, amount in resources.custom.items():
            self._custom[name] = self._custom.get(name, 0.0) - sign * amount
        share = sign * min(1.0, resources.num_gpus)
        for index in allocation.gpus:
            if index < len(self._gpus):
                self._gpus[index] -= share


class CapacityLedger:
    """The free resources of all nodes.

    Args:
        capacity: the nodes and their resources.
        held: what replicas hold. Replicas on nodes that have left hold nothing.
    """

    def __init__(self, capacity: Capacity, held: Iterable[Allocation]) -> None:
        self.capacity = capacity
        nodes = capacity.nodes if capacity.nodes is not None else {"": capacity}
        self._nodes = {name: NodeLedger(name, node) for name, node in nodes.items()}
        for allocation in held:
            self.take(allocation)

    def take(self, allocation: Allocation) -> None:
        """Subtract what a replica holds."""
        if allocation.node in self._nodes:
            self._nodes[allocation.node].take(allocation)

    def give_back(self, allocation: Allocation) -> None:
        """Add what a replica does not hold any more. Sums of fractions that do not end as they began, by 1e-16 or so,
        are within :data:`EPSILON` for millions of replicas."""
        if allocation.node in self._nodes:
            self._nodes[allocation.node].take(allocation, -1)

    def place(self, resources: Resources) -> Allocation | None:
        """Allocate resources for one replica; None, and nothing is taken, if no node has enough free."""
        for nodes in self._choices(resources.placement):
            for node in sorted(nodes, key=lambda node: node.preference(resources)):
                allocation = node.place(resources)
                if allocation is not None:
                    return allocation
        return None

    def _choices(self, placement: Placement) -> Iterator[list[NodeLedger]]:
        """The nodes that a placement allows, in groups of falling preference."""
        nodes = list(self._nodes.values())
        if placement.labels:
            for selector in placement.labels:
                yield [node for node in nodes if matches(node.labels, selector)]
            return
        if placement.node:
            yield [node for node in nodes if node.name == placement.node]
        if placement.prefer or not placement.node:
            yield nodes

    def describe(self) -> str:
        """The free resources of each node, for error messages."""
        if "" in self._nodes:
            return self._nodes[""].describe()
        if not self._nodes:
            return "no node is known"
        return "; ".join(f"{node.describe()} on node {name[:SHORT_NAME]}" for name, node in self._nodes.items())


def describe_request(resources: Resources, count: int) -> str:
    """The requested resources, for error messages."""
    parts = [f"num_cpus={_amount(resources.num_cpus)}"]
    if resources.num_gpus:
        parts.append(f"num_gpus={_amount(resources.num_gpus)}")
    if resources.memory:
        parts.append(f"memory={_amount(resources.memory)}")
    parts += [f"{name}={_amount(amount)}" for name, amount in sorted(resources.custom.items())]
    where = f" on {resources.placement}" if resources.placement != ANYWHERE else ""
    return f"{count} x ({', '.join(parts)}){where}"


def visible_devices(allocation: Allocation, capacity: Capacity) -> str:
    """The value of ``CUDA_VISIBLE_DEVICES`` for a replica; an empty one hides every GPU."""
    names = capacity.gpu_ids or tuple(str(index) for index in range(capacity.num_gpus))
    return ",".join(names[index] for index in allocation.gpus)


def _amount(value: float) -> str:
    return f"{max(0.0, round(value, 6)):g}" if value < 1e6 else f"{value:.0f}"
