"""policy.placement and controller.resources: which nodes will do for a replica that does not run just anywhere."""

from __future__ import annotations

from typing import Any

import pytest

from pointsman.controller.allocation import CapacityLedger, describe_request
from pointsman.model import Allocation, Capacity, NodeCapacity, Placement, Resources
from pointsman.policy.placement import counted, matches

CLUSTER = Capacity(
    nodes={
        "a": NodeCapacity(num_cpus=2, labels={"zone": "east", "disk": "fast"}),
        "b": NodeCapacity(num_cpus=4, labels={"zone": "west"}),
        "c": NodeCapacity(num_cpus=1, custom={"CPU_group_g": 2, "CPU_group_0_g": 1, "CPU_group_1_g": 1}),
    }
)
GROUPS = {"bundle_group_g": 2000.0, "bundle_group_0_g": 1000.0, "bundle_group_1_g": 1000.0}


def nodes_of(placement: Placement, count: int, *, num_cpus: float = 1.0) -> list[str | None]:
    """Where so many replicas land, one after the other; None for no room."""
    ledger = CapacityLedger(CLUSTER, ())
    wanted = Resources(num_cpus=num_cpus, placement=placement)
    placed = [ledger.place(wanted) for _ in range(count)]
    return [allocation.node if allocation else None for allocation in placed]


@pytest.mark.parametrize(
    ("placement", "nodes"),
    [
        (Placement(node="a"), ["a", "a", None]),
        (Placement(node="a", prefer=True), ["a", "a", "b"]),
        (Placement(node="gone"), [None]),
        (Placement(node="gone", prefer=True), ["b"]),
        (Placement(labels=({"zone": "east"},)), ["a", "a", None]),
        (Placement(labels=({"zone": "north"},)), [None]),
        (Placement(labels=({"zone": "east"}, {"zone": "west"})), ["a", "a", "b"]),
        (Placement(labels=({"zone": "in(east, west)", "disk": "!fast"},)), ["b", "b"]),
    ],
)
def test_where_replicas_may_run(placement: Placement, nodes: list[str | None]) -> None:
    """A node, or what its labels must be, is kept to; where there is no room there, that is said before anything is
    started (EN3, RM3)."""
    assert nodes_of(placement, len(nodes)) == nodes


@pytest.mark.parametrize(
    ("condition", "values"),
    [("x", ["x"]), ("!x", ["y", None]), ("in(x, y)", ["x", "y"]), ("in(x,z)", ["x"]), ("!in(x, y)", [None])],
)
def test_conditions_of_labels(condition: str, values: list[str | None]) -> None:
    """Labels are compared as Ray compares them; one that a node has not is no value at all."""
    labels: list[Any] = ["x", "y", None]
    fitting = [value for value in labels if matches({} if value is None else {"l": value}, {"l": condition})]
    assert fitting == values


def test_a_placement_group_has_room_of_its_own() -> None:
    """What a group has reserved is counted apart from what is free besides: two replicas of one CPU in a group of two
    bundles, one in a bundle of one CPU, none of two (EN3, RM3)."""
    assert CLUSTER.nodes is not None
    node = CLUSTER.nodes["c"]
    group = Capacity(nodes={"c": NodeCapacity(num_cpus=1, custom={**node.custom, **GROUPS})})

    def fit(placement: Placement, num_cpus: float = 1.0) -> int:
        ledger, wanted = CapacityLedger(group, ()), Resources(num_cpus=num_cpus, placement=placement)
        return sum(ledger.place(wanted) is not None for _ in range(4))

    assert fit(Placement(group="g")) == 2
    assert fit(Placement(group="g", bundle=1)) == 1
    assert fit(Placement(group="g", bundle=0), num_cpus=2) == 0
    assert fit(Placement(group="gone")) == 0
    assert fit(Placement()) == 1


def test_what_is_held_in_a_group_is_known_by_its_names() -> None:
    """A replica's share of a group is taken from the group and from nothing else."""
    wanted = Resources(num_cpus=1, custom={"disk": 0.5}, placement=Placement(group="g", bundle=3))
    assert counted(wanted).num_cpus == 0
    assert counted(wanted).custom.keys() == {
        f"{name}_group_{suffix}" for name in ("CPU", "disk", "bundle") for suffix in ("g", "3_g")
    }
    ledger = CapacityLedger(CLUSTER, [Allocation(wanted, (), "b")])
    assert "num_cpus=4" in ledger.describe()
    assert "group" not in ledger.describe()


@pytest.mark.parametrize(
    ("placement", "text"),
    [
        (Placement(node="abc"), "on node abc"),
        (Placement(labels=({"zone": "east"}, {"zone": "west"})), "on nodes with labels {'zone': 'east'} or {'zone'"),
        (Placement(group="g", bundle=2), "on placement group g, bundle 2"),
    ],
)
def test_a_refusal_names_the_place(placement: Placement, text: str) -> None:
    """Who asks for a place without room reads which place that was (RM3)."""
    assert text in describe_request(Resources(placement=placement), 2)
