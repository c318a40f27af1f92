"""controller.marks: who has set a field last is known, whatever did it."""

from __future__ import annotations

from pointsman.config.backend import _SPEC_NAMES
from pointsman.controller.state import Desired
from pointsman.controller.transitions import carry_out, confirmed, reverted
from pointsman.wire.apply import FILE_NAMES, Mark
from pointsman.wire.commands import Change, DeleteBackend, Pin, SetTraffic
from tests.unit.desiring import EMPTY, ROOM, create, deploy, endpoint, update
from tests.unit.planning import LATER, applied, served, wanted

FILE = {"v1": wanted()}, {"rank": served("/rank", v1=1.0)}
SHOP = applied(EMPTY, *FILE)


def send(state: Desired, command: Change) -> Desired:
    return carry_out(state, command, ROOM, LATER)[0]


def owners(state: Desired, name: str) -> dict[str, str]:
    return {field: mark.owner for field, mark in state.marks[name].fields.items()}


def test_what_a_call_creates_is_marked_where_it_is_not_as_by_default() -> None:
    """Nobody has set the rest (CF10)."""
    state = send(EMPTY, create("one", num_replicas=3))
    assert set(state.marks["backend/one"].fields) == {"code", "args", "config.num_replicas"}
    assert state.marks["backend/one"].owner == ""
    state = send(confirmed(state, "one", LATER), endpoint("e", "one", route="/e"))
    assert set(state.marks["endpoint/e"].fields) == {"traffic", "route", "methods"}


def test_what_a_call_changes_is_marked_and_nothing_else() -> None:
    """With author, time and version; the file keeps the other fields (CF10)."""
    state = send(SHOP, SetTraffic("id", "rank", {"v1": 1.0}, by="bob"))
    assert state.marks == SHOP.marks  # it was so already
    state = confirmed(send(SHOP, update("v1", num_replicas=2)), "v1", LATER)
    marks = state.marks["backend/v1"]
    assert marks.fields["config.num_replicas"] == Mark("", "", LATER, SHOP.version + 1)
    assert marks.owner == "shop"
    assert set(owners(state, "backend/v1").values()) == {"", "shop"}
    state = send(state, Pin("id", "rank", ("me",), "v1"))
    assert owners(state, "endpoint/rank")["pins"] == ""
    assert owners(state, "endpoint/rank")["traffic"] == "shop"


def test_marks_go_with_their_object() -> None:
    """Who makes an object of that name anew begins anew (CF10)."""
    state = send(send(EMPTY, create("one")), DeleteBackend("id", "one", True))
    assert state.marks == {}


def test_a_change_that_fails_marks_nothing() -> None:
    """It is rolled back with its marks (CF10)."""
    state = send(SHOP, update("v1", num_replicas=2, max_queued_queries=3))
    assert owners(state, "backend/v1")["config.num_replicas"] == ""
    assert reverted(state, "v1", "no", "", LATER).marks == SHOP.marks
    state = reverted(send(SHOP, deploy("v2")), "v2", "no", "", LATER)
    assert state.marks == SHOP.marks


def test_a_file_owns_what_it_sets_and_no_more() -> None:
    """It takes a field over that another had set, and gives back one that it does not have any more (CF10)."""
    state = confirmed(send(SHOP, update("v1", num_replicas=2)), "v1", LATER)
    again = applied(state, {"v1": wanted(num_replicas=2)}, FILE[1], name="again")
    assert again.version == state.version + 1
    assert owners(again, "backend/v1")["config.num_replicas"] == "shop"
    kept = SHOP.marks["backend/v1"].fields["code"]
    assert again.marks["backend/v1"].fields["code"] == kept  # set before, and set still
    other = applied(again, {"v1": wanted(num_replicas=2)}, FILE[1], name="other", owner="other")
    assert other.marks["backend/v1"].owner == "other"


def test_fields_have_the_names_that_users_know() -> None:
    """Marks, diffs and conflicts speak of the fields of a BackendConfig."""
    assert {ours: users for users, ours in _SPEC_NAMES.items()} == FILE_NAMES
