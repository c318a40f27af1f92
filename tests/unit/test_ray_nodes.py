"""What others hold of a Ray cluster's nodes, from a view of Ray's that lags behind."""

from __future__ import annotations

import pytest

from pointsman.engine.ray.nodes import requested, used_by_others
from pointsman.model import Allocation, Resources

TOTAL = {"a": {"CPU": 4.0, "disk": 2.0}}


def holding(cpus: float) -> Allocation:
    return Allocation(Resources(num_cpus=cpus), (), "a")


def others(free: float, *, held: float = 0, returned: float = 0, before: float = 0) -> float:
    found = used_by_others(
        TOTAL,
        {"a": {"CPU": free, "disk": 2.0}},
        [holding(held)] if held else [],
        [holding(returned)] if returned else [],
        {"a": {"CPU": before}},
    )
    assert found["a"].keys() <= {"CPU"}
    return found["a"].get("CPU", 0.0)


def test_what_is_neither_free_nor_ours_is_anothers() -> None:
    """A backend fits only where others have left room (RM4)."""
    assert others(1, held=2) == 1
    assert others(4) == 0
    assert others(4, held=2) == 0, "what Ray does not show as taken yet"


@pytest.mark.parametrize("caught_up", [False, True])
@pytest.mark.parametrize("before", [0, 1])
def test_what_was_just_given_back_is_free_at_once(caught_up: bool, before: int) -> None:
    """A backend that was deleted makes room for the next one at once, though Ray shows it a moment later (FR4)."""
    held_no_more = 2
    free = 4 - before - (0 if caught_up else held_no_more)
    assert others(free, returned=held_no_more, before=before) == before


def test_others_that_take_more_are_seen_meanwhile() -> None:
    """What others take beyond what was given back is theirs (RM4)."""
    assert others(1, returned=1, before=1) == 2
    assert others(4, returned=1, before=3) == 0, "they have left"


def test_a_cluster_is_asked_for_what_does_not_fit() -> None:
    """Ray holds a request against all that its nodes have, so they are requested whole beside what is needed (AS15)."""
    totals = {"a": {"CPU": 4.0, "disk": 2.0, "node:10.0.0.1": 1.0, "object_store_memory": 9e9, "CPU_group_0_ab": 2.0}}
    assert requested(totals, [(Resources(num_cpus=2), 3)]) == [{"CPU": 4, "disk": 2}] + 3 * [{"CPU": 2}]
    assert requested(totals, []) == []


def test_replicas_with_a_part_of_something_are_asked_for_together() -> None:
    """Requests are of whole numbers: ten replicas with a quarter of a GPU are three GPUs, and not ten (AS15)."""
    assert requested({}, [(Resources(num_cpus=0, num_gpus=0.25), 10)]) == 3 * [{"GPU": 1}]
    assert requested({}, [(Resources(num_cpus=0.5, num_gpus=0.25), 4)]) == 2 * [{"CPU": 1, "GPU": 1}]
    assert requested({}, [(Resources(num_cpus=1.5), 2)]) == 2 * [{"CPU": 2}]
