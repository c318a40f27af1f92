"""controller.desired: changes of endpoints are carried out whole or refused with nothing changed."""

from __future__ import annotations

import msgspec
import pytest

from pointsman.controller.desired import apply, confirm
from pointsman.wire.commands import Change, CreateEndpoint, DeleteBackend, DeleteEndpoint, SetTraffic
from tests.unit.desiring import EMPTY, ONE, ROOM, SERVED, create, deploy, done, endpoint, refused


def test_new_endpoint() -> None:
    """A new endpoint sends all its traffic to its backend (CE8)."""
    made = SERVED.endpoints["e"]
    assert (made.name, made.route, made.methods, made.policy.weights) == ("e", "/e", ("GET",), {"one": 1.0})
    assert made.policy.version == SERVED.version
    assert done(ONE, endpoint("i", "one", idempotent=True)).endpoints["i"].idempotent


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (endpoint("e", "one", route="/e"), ["'e'", "same route and methods"]),
        (endpoint("e", "nobody", route="/e"), ["'e'", "same route and methods"]),
        (endpoint("f", "nobody", route="/f"), ["'nobody'", "does not exist"]),
        (endpoint("e", "nobody", route="/f"), ["'nobody'", "does not exist"]),
        (endpoint("f", "one", route="/e"), ["'/e'", "taken by endpoint 'e'"]),
        (endpoint("e", "one", route="/other"), ["'e'", "'/e'", "exists already"]),
        (endpoint("e", "one", route=None), ["'e'", "'/e'", "exists already"]),
        (endpoint("e", "one", route="/e", methods=("POST",)), ["'e'", "exists already", "GET"]),
        (endpoint("f", "one", route="/-/x"), ["'/-/x'", "reserved"]),
        (endpoint("f", "one", route="/{"), ["'/{'", "malformed"]),
    ],
)
def test_endpoints_that_cannot_be_made(command: CreateEndpoint, parts: list[str]) -> None:
    """An endpoint whose name, route or backend is wrong is refused by its first fault (CE2, CE4-CE7, LC1)."""
    refused(SERVED, command, *parts)


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ("/x/{a}", "/x/{b}", True),
        ("/x/{a:path}", "/x/{b:path}", True),
        ("/x/{a}", "/x/me", False),
        ("/x/{a}", "/x/{a:path}", False),
        ("/x", "/x/", False),
    ],
)
def test_templates_that_match_the_same_paths_clash(one: str, other: str, clash: bool) -> None:
    """Two routes clash when they match the same paths, and not because they look alike (CE6, HT4)."""
    state = done(ONE, endpoint("e", "one", route=one))
    if clash:
        refused(state, endpoint("f", "one", route=other), repr(other), "'e'", repr(one))
        refused(state, deploy("f", route=other), repr(other), "'e'", repr(one))
    else:
        assert done(state, endpoint("f", "one", route=other)).endpoints["f"].route == other


def test_headless_endpoints_do_not_clash() -> None:
    """Any number of endpoints without a route live side by side (LC4)."""
    state = done(ONE, endpoint("e", "one"), endpoint("f", "one"))
    refused(state, endpoint("e", "one"), "'e'", "exists already")


@pytest.mark.parametrize("route", ["/e", None])
def test_names_and_routes_are_free_again(route: str | None) -> None:
    """Name and route of a deleted endpoint are reusable at once, and its backend is untouched (LC2, FT11)."""
    state = done(ONE, endpoint("e", "one", route=route), DeleteEndpoint("id", "e"))
    assert state.endpoints == {}
    assert state.backends == ONE.backends
    assert done(state, endpoint("e", "one", route=route)).endpoints["e"].route == route
    assert done(state, endpoint("f", "one", route=route)).endpoints["f"].route == route


@pytest.mark.parametrize("command", [DeleteEndpoint("id", "ghost"), DeleteBackend("id", "ghost", False)])
def test_deleting_what_is_not_there(command: Change) -> None:
    """Deleting an unknown endpoint or backend changes nothing and leaves a warning that names it (LC9)."""
    state, note = apply(SERVED, command, ROOM)
    assert state is SERVED
    assert "'ghost'" in note


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("weights", [{"one": 1.0}, {"one": 0.0, "two": 1.0}, {"one": 0.5, "two": 0.5}])
def test_backends_in_use_cannot_be_deleted(weights: dict[str, float], force: bool) -> None:
    """A backend in an endpoint's policy, at weight 0 too, cannot be deleted, and the endpoints are named (TR10)."""
    state = done(SERVED, endpoint("second", "one"), SetTraffic("id", "e", weights))
    refused(state, DeleteBackend("id", "one", force), "'one'", "'e'", "'second'")
    state = done(state, DeleteEndpoint("id", "second"), SetTraffic("id", "e", {"two": 1.0}))
    assert "one" not in done(state, DeleteBackend("id", "one", force)).backends


def test_a_deleted_backend_is_gone() -> None:
    """Traffic to a deleted backend is refused, and its tag takes new code, which is a new version (LC3)."""
    old = SERVED.backends["two"]
    state = done(SERVED, DeleteBackend("id", "two", False))
    refused(state, SetTraffic("id", "e", {"two": 1.0}), "'two'", "does not exist")
    again = done(state, msgspec.structs.replace(create("two"), code="other")).backends["two"]
    assert again.code == "other"
    assert again.version > old.version


def test_deleting_a_backend_that_is_still_starting() -> None:
    """A backend that never came up can be deleted, and nothing of it is gone back to later (LC3)."""
    state = apply(EMPTY, create("b"), ROOM)[0]
    state, _ = apply(state, DeleteBackend("id", "b", False), ROOM)
    assert (state.backends, state.fallbacks) == ({}, {})


def test_backends_are_usable_once_they_have_run() -> None:
    """An endpoint cannot lean on a backend that is starting for the first time and may vanish again (CB10)."""
    state = apply(SERVED, create("young"), ROOM)[0]
    refused(state, endpoint("f", "young"), "'young'", "still starting")
    refused(state, SetTraffic("id", "e", {"young": 1.0}), "'young'", "still starting")
    assert done(confirm(state, "young"), endpoint("f", "young")).endpoints["f"]
