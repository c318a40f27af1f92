"""controller.scaling.following: how many replicas an autoscaled backend shall have follows what users change."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pointsman.controller import transitions
from pointsman.controller.desired import apply
from pointsman.controller.scaling.following import decided
from pointsman.controller.state import Desired, FreeCapacity
from pointsman.exceptions import InsufficientResourcesError
from pointsman.model import Allocation, Capacity, Scale
from pointsman.model.scaling import BOUNDS, DEMAND, HOLD
from pointsman.wire.commands import DeleteBackend
from pointsman.wire.scaling import ScaleBackend
from tests.unit.desiring import EMPTY, GPU, ROOM, create, deploy, done, refused, update

NOW = "2026-11-29T12:00:00.000+00:00"


def auto(**fields: Any) -> dict[str, Any]:
    return {"autoscaling": fields}


def scaled(state: Desired, tag: str, wanted: int) -> Desired:
    """The state after the calls for a backend have led to this number."""
    scale = decided(state.scales[tag], wanted, DEMAND, "demand 9.8 at target 2", NOW)
    return msgspec.structs.replace(state, scales={**state.scales, tag: scale})


@pytest.mark.parametrize(
    ("fields", "first"), [({}, 1), ({"min_replicas": 0}, 1), ({"min_replicas": 3}, 3), ({"initial_replicas": 0}, 0)]
)
def test_an_autoscaled_backend_begins_with_its_first_replicas(fields: dict[str, Any], first: int) -> None:
    """A backend that is created autoscaled gets its initial replicas, and only these must come up and fit (AS2)."""
    state, _ = apply(EMPTY, create("b", **auto(**fields)), ROOM)
    assert state.wanted("b") == state.needed("b") == first
    assert state.fallbacks["b"].replicas == first


def test_only_the_first_replicas_must_fit() -> None:
    """A backend that may have more replicas than there is room for is created if its first ones fit (AS2, RM3)."""
    done(EMPTY, create("b", resources=GPU, **auto(initial_replicas=2, max_replicas=9)))
    refused(
        EMPTY,
        create("b", resources=GPU, **auto(initial_replicas=3, max_replicas=9)),
        "Cannot scale backend 'b' to 3 replicas",
        error=InsufficientResourcesError,
    )


def test_what_others_want_beyond_their_least_does_not_keep_a_new_backend_out() -> None:
    """A backend that wants more than there is room for does not take the room of one that is created meanwhile."""
    state = scaled(done(EMPTY, create("b", resources=GPU, **auto())), "b", 9)
    holding = FreeCapacity(ROOM.capacity, {"b": (Allocation(GPU, (0,)),)})
    state, _ = apply(state, create("other", resources=GPU), holding)
    assert state.wanted("other") == 1


@pytest.mark.parametrize(
    ("bounds", "number"), [({"min_replicas": 7}, 7), ({"max_replicas": 3}, 3), ({"max_replicas": 9}, 5)]
)
def test_new_bounds_act_at_once(bounds: dict[str, int], number: int) -> None:
    """A number of replicas that new bounds forbid changes with them, and the reason can be read (AS2)."""
    state = scaled(done(EMPTY, create("b", **auto())), "b", 5)
    new, _ = apply(state, update("b", **auto(**bounds)), ROOM, NOW)
    assert new.wanted("b") == number
    last = new.scales["b"].decisions[-1]
    if number != 5:
        assert (last.before, last.after, last.reason) == (5, number, BOUNDS)
    # More replicas have to come up first, as with a number that a user sets.
    assert ("b" in new.fallbacks) == (number > 5)


def test_a_rolling_update_keeps_the_number() -> None:
    """New code gets as many replicas as the old had; those that found no room are not waited for (AS9, AS2)."""
    state = scaled(done(EMPTY, create("d", **auto())), "d", 5)
    held = (Allocation(GPU, ()),) * 3
    new, _ = apply(state, deploy("d"), FreeCapacity(Capacity(), {"d": held}))
    assert new.wanted("d") == 5
    assert new.needed("d") == 3
    # It may rise meanwhile, and that is not part of the update.
    risen = scaled(new, "d", 8)
    assert (risen.wanted("d"), risen.needed("d")) == (8, 3)


def test_autoscaling_begins_with_the_number_that_there_is() -> None:
    """A backend with a number gets autoscaling, which begins at that; without it, the configured number counts."""
    state = done(EMPTY, create("b", num_replicas=4))
    assert state.scales == {}
    auto_state = done(state, update("b", **auto(max_replicas=9)))
    assert auto_state.wanted("b") == 4
    back = done(scaled(auto_state, "b", 8), update("b", autoscaling=None, num_replicas=2))
    assert back.wanted("b") == 2
    assert back.scales == {}


def test_what_is_taken_back_takes_its_number_with_it() -> None:
    """An update that fails leaves the number as the former configuration allows it, and a failed create nothing."""
    state = done(EMPTY, create("b", num_replicas=4))
    changed, _ = apply(state, update("b", **auto(min_replicas=6)), ROOM, NOW)
    assert changed.wanted("b") == 6
    reverted = transitions.reverted(changed, "b", "it failed", "", NOW)
    assert reverted.wanted("b") == 4
    assert reverted.scales == {}
    created, _ = apply(EMPTY, create("b", **auto()), ROOM, NOW)
    assert transitions.reverted(created, "b", "it failed", "", NOW).scales == {}


def test_a_deleted_backend_leaves_no_number() -> None:
    """A backend that is created again under its name begins anew."""
    state = scaled(done(EMPTY, create("b", **auto())), "b", 5)
    assert done(state, DeleteBackend("id", "b", force=False)).scales == {}


def test_dry_runs_change_nothing() -> None:
    """Where decisions are only shown, bounds do not change the number either."""
    state = done(EMPTY, create("b", num_replicas=4))
    assert done(state, update("b", **auto(max_replicas=2, dry_run=True))).wanted("b") == 4


def held(state: Desired, replicas: int, *, room: FreeCapacity = ROOM) -> Desired:
    command = ScaleBackend(id="id", tag="b", replicas=replicas, hold_s=600.0)
    return transitions.carry_out(state, command, room, NOW)[0]


def test_somebody_fixes_the_number() -> None:
    """A number that somebody fixes acts at once, says who did it, and stays within a new largest one (AS12)."""
    state = held(done(EMPTY, create("b", **auto(min_replicas=1))), 0)
    assert state.wanted("b") == 0
    assert state.scales["b"].decisions[-1].reason == HOLD
    more = held(state, 5)
    assert more.wanted("b") == 5
    fewer = done(more, update("b", **auto(max_replicas=3)))
    assert fewer.wanted("b") == 3
    assert fewer.scales["b"].hold is not None
    assert fewer.scales["b"].hold.replicas == 3


def test_somebody_lets_go_of_the_number() -> None:
    """A number that is let go stays until the rule decides, and is fixed no more (AS12)."""
    state = held(done(EMPTY, create("b", **auto(min_replicas=1))), 4)
    free = transitions.carry_out(state, ScaleBackend(id="id", tag="b", replicas=0, hold_s=0.0), ROOM, NOW)[0]
    assert free.wanted("b") == 4
    assert free.scales["b"].hold is None


@pytest.mark.parametrize("replicas", [-1, 3])
def test_a_number_outside_of_what_there_may_be_is_refused(replicas: int) -> None:
    """A number below 0 or over the largest one is a ValueError, as it is where nothing is autoscaled (AS12)."""
    room = FreeCapacity(Capacity(), default_max=2)
    state = done(EMPTY, create("b", **auto()))
    with pytest.raises(ValueError, match="may have 0 to 2 replicas"):
        held(state, replicas, room=room)
    with pytest.raises(ValueError, match="is not autoscaled"):
        held(done(EMPTY, create("b")), 2)


def test_the_newest_decisions_are_kept() -> None:
    """Fifty decisions can be read, the newest last (AS16)."""
    scale = Scale(0)
    for number in range(1, 61):
        scale = decided(scale, number, DEMAND, f"demand {number}", NOW)
    assert [one.after for one in scale.decisions] == [*range(11, 61)]
    assert decided(scale, 60, DEMAND, "the same", NOW) is scale
