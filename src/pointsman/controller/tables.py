"""What follows from desired and observed state: the routing table, and the room that a change may use. Pure."""

from __future__ import annotations

from typing import Protocol

from pointsman.controller.observed import Observed, Phase
from pointsman.controller.state import Desired, Room
from pointsman.model import Allocation, BackendRoute, Capacity, ReplicaRef, RoutingTable
from pointsman.wire.messages import pack


class Keys(Protocol):
    """What opens replicas."""

    def data_key(self, number: int) -> bytes: ...


def routing_table(desired: Desired, observed: Observed, keys: Keys, *, version: int) -> RoutingTable:
    """All endpoints, and all backends with those replicas that take calls."""
    backends = {}
    for tag, spec in desired.backends.items():
        refs = tuple(
            ReplicaRef(r.number, r.tag, r.address, keys.data_key(r.number), r.node, r.tcp)
            for r in observed.of(tag)
            if r.phase is Phase.READY and not r.killed and r.sick is None
        )
        backends[tag] = BackendRoute(tag, refs, spec.config.query_limit, spec.config.max_queued_queries)
    pins = {name: pack(pins) for name, pins in desired.pins.items()}
    return RoutingTable(version, desired.endpoints, backends, pins)


def room_of(observed: Observed) -> Room:
    """The node's capacity, and what each backend's replicas hold of it."""
    held: dict[str, tuple[Allocation, ...]] = {}
    for replica in observed.replicas.values():
        held[replica.backend] = (*held.get(replica.backend, ()), replica.allocation)
    return Room(observed.capacity, held)


def note_on_cpus(desired: Desired, capacity: Capacity, machine_cpus: int) -> str:
    """A warning when soft CPUs are asked for beyond what the machine has; empty otherwise."""
    asked = sum(spec.config.num_replicas * spec.resources.num_cpus for spec in desired.backends.values())
    if capacity.num_cpus is not None or asked <= machine_cpus:
        return ""
    return (
        f"replicas ask for {asked:g} CPUs and this machine has {machine_cpus}: they share them (num_cpus=N is strict)"
    )
