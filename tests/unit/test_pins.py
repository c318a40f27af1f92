"""controller.desired: keys are pinned to backends, and let go."""

from __future__ import annotations

import msgspec
import pytest

from pointsman.controller.desired import apply
from pointsman.controller.endpoints import MAX_PINS
from pointsman.controller.state import Desired
from pointsman.model import Pins
from pointsman.wire.commands import DeleteBackend, DeleteEndpoint, Pin, Unpin
from tests.unit.desiring import ROOM, SERVED, create, done, endpoint, pin, policy, refused, rollback, shadow, split


def test_keys_are_pinned_and_let_go() -> None:
    """An operator pins users to backends, which need no weight, changes their minds, and lets them go (SA1)."""
    state = done(SERVED, pin("alice", "two"), pin("", "one"))
    assert state.pins == {"e": Pins({"alice": "two", "": "one"})}
    assert state.endpoints == SERVED.endpoints
    assert apply(state, pin("alice", "two"), ROOM)[0] is state
    state = done(state, pin("alice", "one"))
    assert state.pins["e"].keys["alice"] == "one"
    state = done(state, Unpin("id", "e", ("alice", "")))
    assert state.pins == {}
    assert state.histories == SERVED.histories


def test_many_keys_are_pinned_in_one_change() -> None:
    """A list of testers is pinned whole or not at all, in one version, and let go in one (SA1, CL3)."""
    testers = tuple(f"tester {number}" for number in range(500))
    before = done(SERVED, pin("tester 7", "one"), pin("alice", "one"))
    state = done(before, Pin("id", "e", testers, "two"))
    assert state.version == before.version + 1
    assert state.pins["e"].keys == {"alice": "one", **dict.fromkeys(testers, "two")}
    assert apply(state, Pin("id", "e", testers[:9], "two"), ROOM)[0] is state
    assert apply(state, Pin("id", "e", (), "two"), ROOM)[0] is state
    assert done(state, Unpin("id", "e", testers)).pins == {"e": Pins({"alice": "one"})}
    refused(state, Pin("id", "e", tuple(map(str, range(MAX_PINS - 500))), "two"), "10001 pinned shard keys")
    left, note = apply(state, Unpin("id", "e", ("bob", "alice", "cy", "dan")), ROOM)
    assert note == "shard key 'bob' of endpoint 'e' is not pinned, nor are 2 others that were given"
    assert left.pins["e"].keys == dict.fromkeys(testers, "two")


def test_letting_go_what_is_not_pinned() -> None:
    """Unpinning a key that is not pinned changes nothing and leaves a warning that names it (LC9)."""
    state, note = apply(SERVED, Unpin("id", "e", ("alice",)), ROOM)
    assert state is SERVED
    assert note == "shard key 'alice' of endpoint 'e' is not pinned"


def test_pins_of_what_does_not_exist() -> None:
    """An unknown endpoint or backend, or one that is still starting, is refused by name (TR1)."""
    refused(SERVED, Pin("id", "ee", ("alice",), "one"), "'ee'", "does not exist")
    refused(SERVED, Unpin("id", "ee", ("alice",)), "'ee'", "does not exist")
    refused(SERVED, pin("alice", "ghost"), "'ghost'", "does not exist")
    refused(apply(SERVED, create("young"), ROOM)[0], pin("alice", "young"), "'young'", "still starting")


def test_names_that_nothing_resembles() -> None:
    """Where no name is near the one I gave, I am told those that there are, and not all of a thousand (TR1)."""
    refused(SERVED, pin("alice", "v9"), "backend 'v9' does not exist; existing: 'one', 'two'")
    state = done(SERVED, *(endpoint(f"endpoint {number}", "one") for number in range(9)))
    refused(
        state, Unpin("id", "x", ("alice",)), "endpoint 'x' does not exist; existing: 'e', 'endpoint 0',", " and 5 more"
    )
    refused(Desired(), split(one=1.0), "endpoint 'e' does not exist; there is none yet")


def test_pins_have_a_limit() -> None:
    """At 10,000 pinned keys another one is refused; those that are there may change, and go (SA1)."""
    full = msgspec.structs.replace(SERVED, pins={"e": Pins({f"key {n}": "one" for n in range(MAX_PINS)})})
    refused(full, pin("one more", "one"), "'e'", "10001 pinned shard keys", "10000 at most")
    state = done(full, pin("key 0", "two"))
    assert (state.pins["e"].keys["key 0"], len(state.pins["e"].keys)) == ("two", MAX_PINS)
    state = done(state, Unpin("id", "e", ("key 1",)), pin("one more", "two"))
    assert len(state.pins["e"].keys) == MAX_PINS
    assert done(full, endpoint("f", "one"), Pin("id", "f", ("key",), "one")).pins["f"] == Pins({"key": "one"})


@pytest.mark.parametrize(("keys", "words"), [(1, "1 pinned shard key)"), (2, "2 pinned shard keys)")])
def test_a_backend_with_pins_cannot_be_deleted(keys: int, words: str) -> None:
    """A backend that users are pinned to cannot be deleted; the message counts them, never showing who they are."""
    state = done(SERVED, *(pin(f"user {number}", "two") for number in range(keys)), pin("other", "one"))
    text = refused(state, DeleteBackend("id", "two", True), "'two'", f"'e' (by {words}")
    assert "user" not in text
    free = done(state, Unpin("id", "e", tuple(f"user {number}" for number in range(keys))))
    assert "two" not in done(free, DeleteBackend("id", "two", False)).backends


def test_a_deleted_endpoint_takes_pins_and_history_along() -> None:
    """An endpoint that is made anew under an old name begins without the old one's pins, shadows and history (LC2)."""
    state = done(SERVED, endpoint("f", "one"), pin("alice", "two"), shadow("two", 0.5), split(one=0.5, two=0.5))
    gone = done(state, DeleteEndpoint("id", "e"))
    assert (gone.pins, set(gone.histories)) == ({}, {"f"})
    again = done(gone, endpoint("e", "one", route="/e"))
    assert again.histories["e"].changes[0].policy == policy(again)
    assert (len(again.histories["e"].changes), policy(again).shadows) == (1, {})
    refused(again, rollback(), "one traffic policy only")
