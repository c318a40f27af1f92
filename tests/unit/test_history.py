"""controller.history: who has changed what, and when."""

from __future__ import annotations

import msgspec

from pointsman.controller.desired import apply, confirm, revert
from pointsman.controller.history import KEPT_CHANGES, history_of, recorded
from pointsman.controller.state import Desired
from pointsman.model import Source
from pointsman.wire.commands import Change, DeleteBackend, DeleteEndpoint, Pin, Signed, Unpin
from tests.unit.desiring import (
    EMPTY,
    RECONFIGURABLE,
    ROOM,
    create,
    deploy,
    done,
    endpoint,
    pin,
    rollback,
    shadow,
    split,
    update,
)

TIME = "2026-11-28T10:00:00.000+00:00"


def lines(state: Desired) -> list[tuple[str, str]]:
    return [(record.object, record.change) for record in history_of(state)]


def test_every_change_is_in_the_history() -> None:
    """Whatever changes backends and endpoints is recorded, each object with what was done to it (AD7)."""
    state = done(
        EMPTY,
        create("one", traits=RECONFIGURABLE),
        create("two"),
        endpoint("e", "one", route="/e"),
        update("one", num_replicas=2, user_config=b"secret"),
        split(one=0.9, two=0.1),
        shadow("two", 0.25),
        shadow("two", 0),
        rollback(),
        Pin("id", "e", ("alice", "bob"), "two"),
        Unpin("id", "e", ("bob",)),
        deploy("d", route="/d"),
        deploy("d", code="v2", route="/new"),
        DeleteEndpoint("id", "d"),
        DeleteBackend("id", "d", False),
    )
    assert lines(state) == [
        ("backend/one", "created"),
        ("backend/two", "created"),
        ("endpoint/e", "created"),
        ("backend/one", "num_replicas 1 -> 2, user_config"),
        ("endpoint/e", "traffic one 90 %, two 10 %"),
        ("endpoint/e", "traffic one 90 %, two 10 %, shadows two 25 %"),
        ("endpoint/e", "traffic one 90 %, two 10 %, shadows none"),
        ("endpoint/e", "rollback_traffic to 6: traffic one 90 %, two 10 %, shadows two 25 %"),
        ("endpoint/e", "2 keys pinned"),
        ("endpoint/e", "1 key unpinned"),
        ("backend/d", "created"),
        ("endpoint/d", "created"),
        ("backend/d", "replaced (code)"),
        ("endpoint/d", "route /d -> /new"),
        ("endpoint/d", "deleted"),
        ("backend/d", "deleted"),
    ]
    assert "secret" not in repr(history_of(state))


def test_a_record_says_who_and_when() -> None:
    """A record has the version of the state, the time, and who asked, by their own account (AD7)."""
    state, _ = apply(EMPTY, msgspec.structs.replace(create("b"), by="anna, deploy.py, pid 7"), ROOM, TIME)
    (record,) = history_of(state)
    assert (record.version, record.time, record.by, record.owner) == (state.version, TIME, "anna, deploy.py, pid 7", "")


def test_what_changes_nothing_is_not_recorded() -> None:
    """A command that finds everything as wanted leaves no line (CF6)."""
    state = done(EMPTY, create("one"), endpoint("e", "one"), pin("alice", "one"))
    for command in (split(one=1.0), pin("alice", "one"), update("one", num_replicas=1)):
        assert history_of(apply(state, command, ROOM)[0]) == history_of(state)
    assert history_of(confirm(state, "one")) == history_of(state)


def test_a_change_that_is_taken_back_is_recorded_as_that() -> None:
    """The history says that new code did not come up, and what became of it (DP6)."""
    state = done(EMPTY, deploy("d", route="/d"))
    failed, _ = apply(state, deploy("d", code="bad", route="/new"), ROOM)
    assert lines(revert(failed, "d"))[-2:] == [
        ("backend/d", "taken back: replaced (code)"),
        ("endpoint/d", "taken back: route /new -> /d"),
    ]
    assert history_of(revert(failed, "d", TIME))[-1].by == "the controller"
    first, _ = apply(EMPTY, create("b"), ROOM)
    assert lines(revert(first, "b"))[-1] == ("backend/b", "taken back: deleted")


def test_a_replacement_says_what_is_new() -> None:
    """A line about new replicas names what is new: code, arguments, version, content of a module (CF9)."""
    source = Source("m:A", "A", b"[1]", b"null", "c1", "1")
    state = done(EMPTY, msgspec.structs.replace(deploy("d"), source=source))
    new = msgspec.structs.replace(source, args=b"[2]", content="c2", version="2")
    state = done(state, msgspec.structs.replace(deploy("d", code="v2"), source=new))
    assert lines(state)[-1] == ("backend/d", "replaced (args, version, content)")


def test_the_history_keeps_the_newest_changes() -> None:
    """The history does not grow for ever: the newest 200 are kept, in order (AD7)."""
    state = done(EMPTY, create("one"))
    for number in range(2, KEPT_CHANGES + 10):
        state = done(state, update("one", max_queued_queries=number))
    kept = history_of(state)
    assert len(kept) == KEPT_CHANGES == 200
    assert kept[-1].change.endswith(f"-> {KEPT_CHANGES + 9}")
    assert [record.version for record in kept] == sorted(record.version for record in kept)


def test_what_a_file_changes_is_recorded_by_object_with_its_owner() -> None:
    """One apply of many changes makes one line for each object, with the name of the file (AD7)."""
    new = done(EMPTY, create("one"), create("two"), endpoint("e", "one"))
    new = msgspec.structs.replace(new, changes={})
    state = recorded(EMPTY, new, by="anna", now=TIME, owner="shop")
    assert {(record.version, record.owner, record.by) for record in history_of(state)} == {
        (new.version, "shop", "anna")
    }
    assert lines(state) == [("backend/one", "created"), ("backend/two", "created"), ("endpoint/e", "created")]


def test_every_command_that_changes_the_state_is_signed() -> None:
    """There is no change without a word of who made it (AD7)."""
    assert all(issubclass(command, Signed) for command in Change.__args__)
