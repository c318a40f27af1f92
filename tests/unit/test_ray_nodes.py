"""What others hold of a Ray cluster's nodes, from a view of Ray's that lags behind."""

from __future__ import annotations

import pytest

from pointsman.engine.ray.nodes import used_by_others
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
