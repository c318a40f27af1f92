"""comparing.comparers and comparing.paths: what users write of a comparison."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pointsman import compare
from pointsman.comparing.comparers import comparison
from pointsman.comparing.paths import DEEP, EACH, NAME, PLACE, Places, find, parse, written
from pointsman.model.comparison import Comparison, Function, Json, Text, TopK

ALL = [
    "exact",
    "json",
    compare.json(ignore=["$.id", "$..took_ms"], rel=1e-4, abs=1e-9, unordered=["$.tags", '$["odd name"][*]']),
    compare.top_k(3, "$.labels", 0.5),
    compare.text(0.9),
    compare.function("pkg.mod:name"),
]


@pytest.mark.parametrize("by", ALL, ids=str)
def test_a_comparison_is_plain_data(by: Any) -> None:
    """What compare was given comes back the same from the form in which it is stored and sent (SC1)."""
    made = comparison(by, noise=0.2, keep=7, redact=["$.name"])
    assert made is not None
    assert (made.noise, made.keep, made.redact) == (0.2, 7, ("$.name",))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=Comparison) == made
    assert by in (made.by, "exact", "json")


def test_comparing_ends_with_none() -> None:
    """``compare="none"`` is no comparison; its other arguments are checked all the same (SC1)."""
    assert comparison("none") is None
    with pytest.raises(ValueError, match="noise"):
        comparison("none", noise=2)


@pytest.mark.parametrize("value", [None, "Exact", "diff", 1, {"k": 3}, compare.json, object()])
def test_what_is_no_comparer_is_a_type_error(value: Any) -> None:
    """Anything else than the names and what ``serve.compare`` returns is a TypeError that says what would be right
    (SC1)."""
    with pytest.raises(TypeError, match=r"compare must be 'exact'.*compare\.json\(\)"):
        comparison(value)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: compare.json(ignore=["id"]), ValueError, "ignore: 'id' is no path"),
        (lambda: compare.json(ignore="$.id"), TypeError, "ignore must be a list of paths"),
        (lambda: compare.json(ignore=[3]), TypeError, "ignore: must be a path"),
        (lambda: compare.json(unordered=["$.a["]), ValueError, "unordered: '$.a[' is no path"),
        (lambda: compare.json(unordered=["$.x"] * 101), ValueError, "101 paths"),
        (lambda: compare.json(rel=-1e-9), ValueError, "rel must be at least 0"),
        (lambda: compare.json(rel=1), ValueError, "below 1"),
        (lambda: compare.json(rel=float("nan")), ValueError, "rel must be a finite number"),
        (lambda: compare.json(rel="0.1"), TypeError, "rel must be a number"),
        (lambda: compare.json(abs=-1), ValueError, "abs must be at least 0"),
        (lambda: compare.json(abs=True), TypeError, "abs must be a number"),
        (lambda: compare.top_k(0), ValueError, "k must be from 1 to 1000000"),
        (lambda: compare.top_k(1.5), ValueError, "k must be a whole number"),
        (lambda: compare.top_k(3, "$.items[*].label"), ValueError, "must name one place"),
        (lambda: compare.top_k(3, "labels"), ValueError, "is no path"),
        (lambda: compare.top_k(3, min_overlap=1.1), ValueError, "min_overlap must be from 0 to 1"),
        (lambda: compare.text(-0.1), ValueError, "min_similarity must be from 0 to 1"),
        (lambda: compare.text(None), TypeError, "min_similarity must be a number"),
        (lambda: compare.function("module.name"), ValueError, "package.module:name"),
        (lambda: compare.function("my-module:name"), ValueError, "package.module:name"),
        (lambda: compare.function(len), TypeError, "package.module:name"),
        (lambda: comparison("json", noise=1.01), ValueError, "noise must be from 0 to 1"),
        (lambda: comparison("json", keep=-1), ValueError, "keep must be 0 or more"),
        (lambda: compare.top_k(10**30), ValueError, "k must be from 1 to 1000000"),
        (lambda: compare.json(ignore=["$.\ud800"]), ValueError, "is no path"),
        (lambda: comparison("json", keep=1001), ValueError, "keep must be at most 1000"),
        (lambda: comparison("json", redact=["$", "$.a b"]), ValueError, "redact: '$.a b' is no path"),
        (lambda: comparison(Json(ignore=("x",))), ValueError, "ignore: 'x' is no path"),
        (lambda: comparison(TopK(0)), ValueError, "k must be from 1 to 1000000"),
        (lambda: comparison(Text(3)), ValueError, "min_similarity"),
        (lambda: comparison(Function("x")), ValueError, "package.module:name"),
    ],
)
def test_bad_paths_and_numbers_say_what_would_be_right(make: Any, error: Any, says: str) -> None:
    """A bad path or number is refused in one sentence, where the comparer is made (SC1)."""
    with pytest.raises(error) as raised:
        make()
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("$", ()),
        ("$.a", ((NAME, "a"),)),
        ("$[0][12]", ((PLACE, 0), (PLACE, 12))),
        ("$.items[*].score", ((NAME, "items"), (EACH, None), (NAME, "score"))),
        ("$..took-ms.é", ((DEEP, "took-ms"), (NAME, "é"))),
        (r'$["a.b c"]["\"\u00e9"]', ((NAME, "a.b c"), (NAME, '"é'))),
    ],
)
def test_paths_are_read(path: str, steps: Any) -> None:
    """The syntax: ``$``, ``.name``, ``[n]``, ``[*]``, ``..name``, and names in quotes (SC2)."""
    assert parse(path) == steps


@pytest.mark.parametrize(
    "path",
    ["", "a", ".a", "$a", "$.", "$..", "$...a", "$[", "$[]", "$[-1]", "$[1:2]", "$['a']", "$.*", "$.a[?(@.b)]", "$.a b",
     "$ ", "$.a\n", '$["a]', r'$["\x"]', "$.$", "$." + "x" * 600, "$[9999999999]"],
)  # fmt: skip
def test_what_is_no_path_is_refused(path: str) -> None:
    """Other syntaxes are no paths, and neither is what another tool might read in another way (SC2)."""
    with pytest.raises(ValueError):
        parse(path)


def test_a_place_is_written_as_it_is_read() -> None:
    """The path that a report shows of a difference can be given to ``ignore`` as it stands (SC2, SC7)."""
    value = {"a b": [1, {"c": [True, {"": "x", '"': 0, "é": None}]}]}
    for keys in [(), ("a b",), ("a b", 1, "c", 0), ("a b", 1, "c", 1, ""), ("a b", 1, "c", 1, '"')]:
        found, there = find(value, parse(written(keys)))
        inner: Any = value
        for key in keys:
            inner = inner[key]
        assert found
        assert there is inner
    assert find(value, parse("$.x")) == (False, None)
    assert find(value, parse('$["a b"][7]')) == (False, None)
    assert find("text", parse("$[0]")) == (False, None)


@pytest.mark.parametrize(
    ("paths", "keys", "hit"),
    [
        (["$"], (), True),
        (["$.a"], (), False),
        (["$.a"], ("a",), True),
        (["$.a"], ("a", "b"), False),
        (["$[1]"], (1,), True),
        (["$[1]"], (True,), False),
        (["$[1]"], ("1",), False),
        (['$["1"]'], (1,), False),
        (["$[*]"], (5,), True),
        (["$[*]"], ("x",), True),
        (["$[*]"], (None,), True),
        (["$[0]"], (None,), False),
        (["$..b"], ("b",), True),
        (["$..b"], ("a", 3, "b"), True),
        (["$..b"], ("b", "b"), True),
        (["$..b.c"], ("b", "b", "c"), True),
        (["$..b..d[0]"], ("b", "c", 1, "d", 0), True),
        (["$..b..d[0]"], ("c", 1, "d", 0), False),
        (["$.x", "$.a.b"], ("a", "b"), True),
    ],
)
def test_places_know_which_paths_lead_to_them(paths: list[str], keys: tuple[Any, ...], hit: bool) -> None:
    """``[*]`` is each item or value, ``..name`` a name at any depth, and items of unordered lists have no number
    (SC2)."""
    place = Places.of(paths)
    for key in keys:
        place = place.below(key)
    assert place.hit is hit
