"""policy.routes: which endpoint a path means, and which routes are refused."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.policy.routes import RouteMatcher, parse_route, prefix_of
from tests.properties import examples


def matcher(*routes: str) -> RouteMatcher[str]:
    """Each route leads to itself."""
    return RouteMatcher((route, route) for route in routes)


@pytest.mark.parametrize(
    ("route", "path", "found"),
    [
        ("/a", "/a", True),
        ("/a", "/a/", False),
        ("/a/", "/a/", True),
        ("/a/", "/a", False),
        ("/a", "/a/b", False),
        ("/a", "/A", False),
        ("/a", "//a", False),
        ("/", "/", True),
        ("/", "/a", False),
        ("/a/b", "/a/b", True),
        ("/a/b", "/a//b", False),
        ("/a/b", "/a%2Fb", False),
        ("/a/b", "/a%2fb", False),
        ("/a b", "/a%20b", True),
        ("/é", "/%C3%A9", True),
        ("/caf%C3%A9", "/caf%C3%A9", True),
        ("/a.b", "/aXb", False),
    ],
)
@pytest.mark.parametrize("other", [(), ("/t/{x}",)], ids=["alone", "beside a template"])
def test_exact_routes(route: str, path: str, found: bool, other: tuple[str, ...]) -> None:
    """A route without braces serves its own path and no other: no prefixes, no folded slashes (HT2, HT3)."""
    assert matcher(route, *other).match(path) == ((route, {}) if found else None)


@pytest.mark.parametrize(
    ("route", "path", "values"),
    [
        ("/x/{id}", "/x/7", {"id": "7"}),
        ("/x/{id}", "/x/", None),
        ("/x/{id}", "/x", None),
        ("/x/{id}", "/x/7/", None),
        ("/x/{id}", "/x/7/8", None),
        ("/x/{id}", "/y/7", None),
        ("/x/{id}", "/x/a%20b%C3%A9", {"id": "a bé"}),
        ("/x/{id}", "/x/a%2Fb", {"id": "a/b"}),
        ("/x/{id}", "/x/a%2fb%2fc", {"id": "a/b/c"}),
        ("/x/{id}", "/x/%7Bid%7D", {"id": "{id}"}),
        ("/x/{id}", "/x/a+b", {"id": "a+b"}),
        ("/{id}", "/7", {"id": "7"}),
        ("/{id}", "/", None),
        ("/{a}/{b}", "/1/2", {"a": "1", "b": "2"}),
        ("/{a}/{b}", "/1%2F2", None),
        ("/{a}/mid/{b}", "/1/mid/2", {"a": "1", "b": "2"}),
        ("/{a}/mid/{b}", "/1/m%69d/2", {"a": "1", "b": "2"}),
        ("/{a}/mid/{b}", "/1%2Fmid%2F2", None),
        ("/files/{rest:path}", "/files/a", {"rest": "a"}),
        ("/files/{rest:path}", "/files/a/b/c", {"rest": "a/b/c"}),
        ("/files/{rest:path}", "/files/a//b/", {"rest": "a//b/"}),
        ("/files/{rest:path}", "/files/a%20b/c", {"rest": "a b/c"}),
        ("/files/{rest:path}", "/files", None),
        ("/files/{rest:path}", "/files%2Fa", None),
        ("/{user}/files/{rest:path}", "/me/files/a/b", {"user": "me", "rest": "a/b"}),
        ("/caf%C3%A9/{id}", "/caf%C3%A9/7", {"id": "7"}),
        ("/café/{id}", "/caf%C3%A9/7", {"id": "7"}),
    ],
)
def test_templates(route: str, path: str, values: dict[str, str] | None) -> None:
    """A template takes one non-empty segment, or the rest of the path, and hands over decoded values (HT3)."""
    assert matcher(route).match(path) == (None if values is None else (route, values))


@pytest.mark.parametrize(
    ("routes", "path", "winner"),
    [
        (["/x/{id}", "/x/me"], "/x/me", "/x/me"),
        (["/x/{id}", "/x/me"], "/x/m%65", "/x/me"),
        (["/x/{id}", "/x/me"], "/x/you", "/x/{id}"),
        (["/{rest:path}", "/x/{id}"], "/x/7", "/x/{id}"),
        (["/{rest:path}", "/x/{id}"], "/x/7/8", "/{rest:path}"),
        (["/{a}/x", "/y/{b}"], "/y/x", "/y/{b}"),
        (["/{a}/x", "/y/{b}"], "/z/x", "/{a}/x"),
        (["/a/{b}/{c}", "/a/{b}/c"], "/a/b/c", "/a/{b}/c"),
        (["/a/{rest:path}", "/a/{b}/c"], "/a/b/c", "/a/{b}/c"),
        (["/a/{rest:path}", "/a/{b}"], "/a/b", "/a/{b}"),
        (["/a/{rest:path}", "/a/b/{rest:path}"], "/a/b/c", "/a/b/{rest:path}"),
        (["/{a}/{b}/c", "/{a}/b/{c}"], "/a/b/c", "/{a}/b/{c}"),
    ],
)
def test_precedence(routes: list[str], path: str, winner: str) -> None:
    """An exact route beats a template, and more literal segments from the left beat fewer (HT4)."""
    for order in (routes, routes[::-1]):
        found = matcher(*order).match(path)
        assert found is not None
        assert found[0] == winner


def test_falsy_targets_are_found() -> None:
    """A route may lead to anything, 0 and the empty string included (HT2)."""
    assert RouteMatcher([("/a", 0), ("/b/{c}", 0)]).match("/a") == (0, {})
    assert RouteMatcher([("/a", 0), ("/b/{c}", 0)]).match("/b/1") == (0, {"c": "1"})


@pytest.mark.parametrize(
    "route",
    [
        "/{}",
        "/{",
        "/}",
        "/a{b}",
        "/{b}c",
        "/{a}{b}",
        "/{a b}",
        "/{1a}",
        "/{a-b}",
        "/{a:int}",
        "/{a:}",
        "/{:path}",
        "/{{a}}",
        "/{a:path}x",
        "/{a:path}/b",
        "/{a:path}/",
        "/{a:path}/{b:path}",
        "/{a}/{a}",
        "/{a}/x/{a:path}",
        "/-/",
        "/-/routes",
        "/-/{x}",
        "a",
        "",
    ],
)
def test_malformed_routes_are_refused(route: str) -> None:
    """A route that could not be served as written is refused, with the route in the text (CE2)."""
    with pytest.raises(ValueError) as caught:
        parse_route(route)
    assert repr(route) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("route", ["/", "/-", "/-x/", "/a", "/a/", "/a//b", "/{a}", "/{_a1}", "/{a:path}", "/x y/é"])
def test_good_routes_are_accepted(route: str) -> None:
    """A route that only looks like a reserved or malformed one is accepted (CE2)."""
    assert parse_route(route).is_exact == ("{" not in route)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("/a", "/a", True),
        ("/a", "/a/", False),
        ("/x/{a}", "/x/{b}", True),
        ("/x/{a}", "/x/a", False),
        ("/x/{a}", "/x/{a:path}", False),
        ("/x/{a:path}", "/x/{rest:path}", True),
        ("/{a}/x", "/x/{a}", False),
        ("/{a}/{b}", "/{b}/{a}", True),
    ],
)
def test_templates_that_match_the_same_paths(one: str, other: str, same: bool) -> None:
    """Two templates that differ in parameter names only are one and the same route (CE6)."""
    assert (parse_route(one).signature == parse_route(other).signature) == same


segments = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)


@examples(150)
@given(values=st.lists(segments, min_size=1, max_size=4))
def test_any_value_travels_through_a_template(values: list[str]) -> None:
    """Whatever a client percent-encodes into a segment is what user code sees, slashes and braces included (HT3)."""
    route = "".join(f"/{{p{number}}}" for number in range(len(values)))
    path = "".join(f"/{quote(value, safe='')}" for value in values)
    assert matcher(route).match(path) == (route, {f"p{number}": value for number, value in enumerate(values)})


@examples(150)
@given(values=st.lists(segments, min_size=1, max_size=4))
def test_an_encoded_slash_never_adds_a_segment(values: list[str]) -> None:
    """A client cannot reach a deeper route by writing its slashes as %2F (HT3)."""
    joined = "%2F".join(quote(value, safe="") for value in values)
    found = matcher("/{one}", "/{one}/{two}", "/{one}/{two}/{three}", "/x/x").match(f"/{joined}")
    assert found == ("/{one}", {"one": "/".join(values)})


@examples(150)
@given(path=st.text("/%2fFaé{}.", max_size=14).map("/".__add__))
def test_any_path_has_an_answer(path: str) -> None:
    """Whatever a client sends as its path is matched or not, and never an error; a match has the right depth (HT3)."""
    found = matcher("/a", "/a/a", "/{x}", "/a/{x}", "/{x}/a/{rest:path}").match(path)
    if found is not None:
        depth = path.count("/")
        assert depth >= 3 if "rest" in found[0] else depth == found[0].count("/")


def test_prefixes_come_last_and_the_longest_of_them_first() -> None:
    """An app takes what lies below its prefix, where no exact route and no template does; of two prefixes the longer
    one wins, and `/` takes the rest, but no system path (AP1)."""
    matcher = RouteMatcher(
        [("/app/exact", "exact"), ("/app/x/{id}", "template")], [("/", "root"), ("/app", "app"), ("/app/in/", "inner")]
    )
    expected = {
        "/app": "app",
        "/app/": "app",
        "/app/y": "app",
        "/app/exact": "exact",
        "/app/exact/": "app",
        "/app/x/1": "template",
        "/app/x/1/2": "app",
        "/app/in": "inner",
        "/app/in/deep": "inner",
        "/app/inside": "app",
        "/%61pp/y": "app",
        "/app%2Fy": "root",
        "/apple": "root",
        "/": "root",
        "/-": "root",
    }
    found = {path: matcher.match(path) for path in expected}
    assert {path: one[0] if one else None for path, one in found.items()} == expected
    assert matcher.match("/-/x") is None
    assert matcher.match("/%2D/x") is None
    assert matcher.match("*") is None


def test_a_prefix_has_no_parameters() -> None:
    """A route with braces is no prefix: ValueError (AP1)."""
    with pytest.raises(ValueError, match="prefix without parameters"):
        prefix_of("/app/{id}")
    assert [prefix_of(route) for route in ("/", "/app", "/app/")] == ["", "/app", "/app"]
