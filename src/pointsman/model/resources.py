"""Resources: what a replica needs and holds, and what nodes have."""

from __future__ import annotations

from pointsman.model.origin import Struct


class Placement(Struct, frozen=True):
    """On which nodes of a cluster replicas may run.

    Attributes:
        node: id of the only node.
        prefer: whether another node is taken if ``node`` is dead or has no free capacity.
        labels: labels that a node must have. Of several alternatives the first that some node meets counts.
        group: id of a placement group, from which all amounts are taken.
        bundle: index of a bundle of that group; -1 for any.
        capture: whether tasks and actors that user code starts run in the group too.
    """

    node: str = ""
    prefer: bool = False
    labels: tuple[dict[str, str], ...] = ()
    group: str = ""
    bundle: int = -1
    capture: bool = False

    def __str__(self) -> str:
        if self.group:
            return f"placement group {self.group}" + (f", bundle {self.bundle}" if self.bundle >= 0 else "")
        if self.labels:
            return "nodes with labels " + " or ".join(str(selector) for selector in self.labels)
        return f"node {self.node}"


ANYWHERE = Placement()


class Resources(Struct, frozen=True):
    """What one replica needs. Amounts may be fractions; ``memory`` is in bytes.

    Attributes:
        env_vars: environment variables of its process; they override all others.
        working_dir: its working folder, which also comes first in its import path; empty for the code sender's.
        py_modules: absolute paths of packages and modules that it can import.
        placement: on which nodes of a cluster it may run.
    """

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    memory: float = 0.0
    custom: dict[str, float] = {}
    env_vars: dict[str, str] = {}
    working_dir: str = ""
    py_modules: tuple[str, ...] = ()
    placement: Placement = ANYWHERE


class Allocation(Struct, frozen=True):
    """Resources that one replica holds, with the indices of its GPUs. ``node`` is empty if there is one node only."""

    resources: Resources
    gpus: tuple[int, ...] = ()
    node: str = ""


class NodeCapacity(Struct, frozen=True):
    """Resources that the instance may allocate on one node. ``num_cpus`` is None if CPUs are not limited (local engine
    without ``start(num_cpus=...)``). ``gpu_ids`` are names for ``CUDA_VISIBLE_DEVICES``; empty means 0, 1, 2, ..."""

    num_cpus: float | None = None
    num_gpus: int = 0
    memory: float = 0.0
    custom: dict[str, float] = {}
    labels: dict[str, str] = {}
    gpu_ids: tuple[str, ...] = ()


class Capacity(NodeCapacity, frozen=True):
    """Resources that the instance may allocate: on its only node or, if ``nodes`` is not None, on each of these."""

    nodes: dict[str, NodeCapacity] | None = None
