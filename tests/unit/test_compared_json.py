"""comparing.pairs, comparing.trees and comparing.unordered: answers compared as they are, and as JSON values."""

from __future__ import annotations

import json
from itertools import permutations
from math import isclose
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman import compare
from pointsman.comparing.answers import Answer
from pointsman.comparing.comparers import comparer
from pointsman.comparing.pairs import Outcome, compare_answers
from pointsman.comparing.paths import find, parse
from pointsman.comparing.unordered import largest_matching
from tests.properties import examples

NAN = float("nan")
JSON = "application/json"


def answer(value: Any, status: int = 200, **more: Any) -> Answer:
    return Answer(status, JSON, json.dumps(value).encode(), **more)


def compared(a: Any, b: Any, by: Any = "json") -> Outcome:
    made = comparer(by)
    assert made is not None
    return compare_answers(made, answer(a), answer(b))


@pytest.mark.parametrize("by", ["exact", "json", compare.top_k(1), compare.text(0), compare.function("a:b")])
def test_statuses_come_first(by: Any) -> None:
    """Whatever compares: another status is a mismatch, only the shadow failing is one of kind error, and two failures
    of one status match, although each has an id of its own (SC2, SC4)."""
    made = comparer(by)
    good, gone = answer([1]), answer([1], 404)
    failed, crashed = answer({"id": 1}, 500), Answer(500, error="ValueError: 3")
    overloaded, cut = answer({"id": 2}, 503), Answer(200, JSON, b"[1", error="the stream was cut")
    assert made is not None
    for shadow in (failed, crashed, overloaded, cut):
        assert compare_answers(made, good, shadow) == Outcome("error", score=0.0)
        assert compare_answers(made, shadow, good) == Outcome("status", score=0.0)
    assert compare_answers(made, good, gone) == Outcome("status", score=0.0)
    assert compare_answers(made, overloaded, failed) == Outcome("status", score=0.0)
    assert compare_answers(made, failed, crashed).matched
    assert compare_answers(made, cut, cut).matched


def test_exact_is_content_type_and_bytes() -> None:
    """``exact`` takes another content type, or one more space, for a mismatch (SC2)."""
    by = comparer("exact")
    assert by is not None
    one, spaced = Answer(200, JSON, b'{"a":1}'), Answer(200, JSON, b'{"a": 1}')
    assert compare_answers(by, one, one).matched
    assert compare_answers(by, one, spaced) == Outcome("body", score=0.0)
    assert compare_answers(by, one, Answer(200, "text/plain", b'{"a":1}')) == Outcome("content_type", score=0.0)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"a": 1, "b": [2]}, {"b": [2], "a": 1}),
        ([1, 2.0], [1.0, 2]),
        (NAN, NAN),
        ([float("inf"), -0.0], [float("inf"), 0]),
        ({}, {}),
        ([[], {}], [[], {}]),
        (None, None),
        (10**400, 10**400),
    ],
)
def test_equal_values_match(a: Any, b: Any) -> None:
    """The order of keys is nothing, 1 is 1.0, and NaN equals NaN (SC2)."""
    assert compared(a, b) == Outcome()
    assert compared({"x": [a]}, {"x": [b]}) == Outcome()
    assert compared([a, 1], [1, b], compare.json(unordered=["$"])) == Outcome()


@pytest.mark.parametrize(
    ("a", "b", "kind", "where", "score"),
    [
        (1, True, "type", "$", 0),
        (0, False, "type", "$", 0),
        (1, "1", "type", "$", 0),
        (None, 0, "type", "$", 0),
        ([], {}, "type", "$", 0),
        (1, 2, "value", "$", 0),
        (NAN, 1, "value", "$", 0),
        (2**60, 2**60 + 1, "value", "$", 0),
        (10**400, 1.5, "value", "$", 0),
        ("a", "A", "value", "$", 0),
        ({"a": 1, "b": 2}, {"a": 1}, "missing", "$.b", 1 / 2),
        ({"a": 1}, {"a": 1, "b c": 2}, "extra", '$["b c"]', 1 / 2),
        ([1, 2, 3], [1, 2], "length", "$", 2 / 3),
        ({"a": [1, {"b": [0, 5]}]}, {"a": [1, {"b": [0, 6]}]}, "value", "$.a[1].b[1]", 2 / 3),
        ([1, [2, 3]], [1, 2], "type", "$[1]", 1 / 3),
        ([], [1], "length", "$", 0),
        ({"a": {}}, {"a": {"b": 1}}, "extra", "$.a.b", 0),
        ({"a": 1, "b": 2}, {"a": 3, "b": 4}, "value", "$.a", 0),
    ],
)
def test_what_differs_is_said_with_its_place(a: Any, b: Any, kind: str, where: str, score: float) -> None:
    """A mismatch names its kind, the path of the first difference, and the share of equal leaves (SC2, SC7)."""
    assert compared(a, b) == Outcome(kind, where, score)


@pytest.mark.parametrize(
    ("by", "a", "b", "matched"),
    [
        (compare.json(rel=1e-3), [1000.0, {"x": 5}], [1000.9, {"x": 5.001}], True),
        (compare.json(rel=1e-3), 1000.0, 1002.0, False),
        (compare.json(abs=0.5), [1, -1], [1.5, -0.5], True),
        (compare.json(abs=0.5), 1, 1.51, False),
        (compare.json(rel=0.1, abs=1), 10**400, 10**400 + 1, False),
        (compare.json(rel=0.1, abs=1), 1, True, False),
        (compare.json(rel=0.1, abs=1), NAN, 1, False),
        (compare.json(rel=0.1), float("inf"), 1e308, False),
        (compare.json(ignore=["$.id"]), {"id": 1, "a": 1}, {"id": 2, "a": 1}, True),
        (compare.json(ignore=["$.id"]), {"id": 1, "a": 1}, {"a": 1}, True),
        (compare.json(ignore=["$.id"]), {"a": 1}, {"id": {"x": [1]}, "a": 1}, True),
        (compare.json(ignore=["$.id"]), {"a": {"id": 1}}, {"a": {"id": 2}}, False),
        (compare.json(ignore=["$..id"]), [{"a": {"id": 1}}, {"id": 3}], [{"a": {"id": 2}}, {}], True),
        (compare.json(ignore=["$[*].t"]), [{"t": 1}, {"t": 2}], [{"t": 3}, {}], True),
        (compare.json(ignore=["$[*].t"]), [{"t": 1}, {"u": 2}], [{"t": 3}, {"u": 3}], False),
        (compare.json(ignore=["$[1]", "$[2]"]), [1, 2], [1, 3, 4], True),
        (compare.json(ignore=["$[1]"]), [1, 2], [1, 3, 4], False),
        (compare.json(ignore=["$"]), 1, "x", True),
        (compare.json(unordered=["$.t"]), {"t": [1, "a", None]}, {"t": ["a", None, 1.0]}, True),
        (compare.json(unordered=["$.t"]), {"t": [1, 1, 2]}, {"t": [1, 2, 2]}, False),
        (compare.json(unordered=["$.t"]), {"t": [1, True]}, {"t": [True, 1]}, True),
        (compare.json(unordered=["$.t"]), {"t": [1, 1]}, {"t": [True, 1]}, False),
        (compare.json(unordered=["$"]), [[1, 2], [3]], [[3], [1, 2]], True),
        (compare.json(unordered=["$"]), [[1, 2], [3]], [[3], [2, 1]], False),
        (compare.json(unordered=["$", "$[*]"]), [[1, 2], [3]], [[3], [2, 1]], True),
        (compare.json(unordered=["$"], ignore=["$[*].id"]), [{"id": 1, "a": 1}, {"a": 2}], [{"a": 2}, {"a": 1}], True),
        (compare.json(unordered=["$"], ignore=["$[*]"]), [1, 2], [3], True),
        (compare.json(unordered=["$"], abs=0.1), [0, 0.1], [0, -0.1], True),
        (compare.json(unordered=["$"], abs=0.1), [{"x": 0}, {"x": 0.1}], [{"x": 0}, {"x": -0.1}], True),
        (compare.json(unordered=["$"], abs=0.1), [{"x": 0}, {"x": 0.1}], [{"x": 0}, {"x": -0.2}], False),
        (compare.json(unordered=["$"], abs=0.1), [{"x": 0, "y": 5}], [{"y": 5.05, "x": 0.05}], True),
        (compare.json(unordered=["$"], abs=0.1), [NAN, 1], [1.05, NAN], True),
    ],
)
def test_what_may_differ(by: Any, a: Any, b: Any, matched: bool) -> None:
    """Tolerances are those of ``math.isclose``; ignored paths may differ or be missing, and no others; lists that are
    named need no order, at every depth (SC2)."""
    assert compared(a, b, by).matched is matched
    assert compared(b, a, by).matched is matched


def test_an_item_without_partner_is_shown() -> None:
    """In a list whose order is nothing the place of the item is told that the other one does not have (SC2, SC7)."""
    by = compare.json(unordered=["$.t"])
    assert compared({"t": ["a", "b", "c"]}, {"t": ["c", "a"]}, by) == Outcome("missing", "$.t[1]", 2 / 3)
    assert compared({"t": ["a"]}, {"t": ["b", "a"]}, by) == Outcome("extra", "$.t[0]", 1 / 2)


def test_lines_of_json_are_a_list() -> None:
    """A stream of JSON lines is compared whole, line by line (SC2)."""
    by = comparer(compare.json(ignore=["$[*].t"]))
    assert by is not None
    one = Answer(200, "application/x-ndjson", b'{"t":1,"a":1}\n{"t":2,"a":2}\n')
    two = Answer(200, "application/x-ndjson", b'{"a":1,"t":7}\n\n{"a":2}')
    three = Answer(200, "application/x-ndjson; charset=utf-8", b'{"a":1}\n{"a":3}')
    assert compare_answers(by, one, two).matched
    assert compare_answers(by, one, three) == Outcome("value", "$[1].a", 1 / 2)


def test_what_is_no_json_is_not_compared() -> None:
    """Two answers that are no JSON are not compared by ``json``; if only one is none, that is a mismatch. Equal bytes
    match in any case (SC2)."""
    by = comparer("json")
    assert by is not None
    first, second, good = (Answer(200, JSON, body) for body in (b"<html>1", b"<html>2", b"1"))
    assert compare_answers(by, first, second) == Outcome(uncompared="not_json")
    assert not compare_answers(by, first, second).matched
    assert compare_answers(by, first, first).matched
    assert compare_answers(by, first, good) == Outcome("type", "$", 0.0)
    assert compare_answers(by, good, first) == Outcome("type", "$", 0.0)
    deep = [Answer(200, JSON, b"[" * 50_000 + digit + b"]" * 50_000) for digit in (b"1", b"2")]
    assert compare_answers(by, *deep) == Outcome(uncompared="too_deep")


def test_lists_that_cannot_be_matched_in_time_are_not_compared() -> None:
    """Without an order, hundreds of items with several numbers each, none near another, are given up; single numbers
    are not (SC2)."""
    by = compare.json(unordered=["$"], abs=0.1)
    rows = [{"x": place, "y": -place} for place in range(300)]
    assert compared(rows, list(reversed(rows)), by).matched
    assert compared(rows, [{"x": row["x"] + 0.2, "y": row["y"]} for row in rows], by).uncompared == "too_long"
    numbers = [place / 1 for place in range(5000)]
    assert compared(numbers, [number + 0.05 for number in reversed(numbers)], by).matched
    assert compared(numbers, [number + 0.2 for number in numbers], by).kind == "missing"


SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, NAN]) | st.text("ab", max_size=2)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", "c d"]), inner, max_size=3),
    max_leaves=12,
)


def plainly_equal(a: Any, b: Any) -> bool:
    """The same in the most obvious way."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return a == b or (a != a and b != b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(plainly_equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(plainly_equal, a, b))
    return bool(a == b)


def shuffled(value: Any, draw: Any, items: bool) -> Any:
    """The same with another order of keys, and of items too."""
    if isinstance(value, dict):
        keys = draw(st.permutations(list(value)))
        return {key: shuffled(value[key], draw, items) for key in keys}
    if isinstance(value, list):
        made = [shuffled(item, draw, items) for item in value]
        return draw(st.permutations(made)) if items else made
    return value


@examples(300)
@given(VALUES, VALUES)
def test_equal_is_what_is_plainly_equal(a: Any, b: Any) -> None:
    """Two answers match if and only if their values are equal by the plainest definition, in both directions, and only
    a match has the score 1 (SC2)."""
    for first, second in ((a, b), (b, a), (a, a)):
        outcome = compared(first, second)
        assert outcome.matched is plainly_equal(first, second)
        assert (outcome.score == 1) is outcome.matched
        assert 0 <= outcome.score <= 1


@examples(200)
@given(VALUES, st.data())
def test_orders_that_are_nothing_are_nothing(value: Any, data: st.DataObject) -> None:
    """Keys in any order match, and items in any order where ``unordered`` says so of each list (SC2)."""
    assert compared(value, shuffled(value, data.draw, False)).matched
    everywhere = compare.json(unordered=["$", "$[*]", *("$" + "[*]" * depth for depth in range(2, 12))])
    assert compared(value, shuffled(value, data.draw, True), everywhere).matched
    tolerant = compare.json(unordered=["$" + "[*]" * depth for depth in range(12)], abs=1e-9)
    assert compared(value, shuffled(value, data.draw, True), tolerant).matched


@examples(200)
@given(st.dictionaries(st.sampled_from(["a", "b", "c d"]), VALUES, min_size=1), st.data())
def test_the_path_of_a_difference_leads_to_it(value: Any, data: st.DataObject) -> None:
    """Where one leaf is another, the path says which, and with this path in ``ignore`` the answers match (SC2, SC7)."""
    place: Any = value
    while True:
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        inner = place[key]
        if not isinstance(inner, (dict, list)) or not inner:
            break
        place = inner
    other = json.loads(json.dumps(value))
    place[key] = "of the primary"
    outcome = compared(value, other)
    assert outcome.kind in ("type", "value")
    assert find(value, parse(outcome.where)) == (True, "of the primary")
    assert compared(value, other, compare.json(ignore=[outcome.where])).matched
    assert not compared(value, other, compare.json(ignore=["$.elsewhere"])).matched


@examples(200)
@given(
    st.lists(st.integers(0, 6), max_size=5),
    st.lists(st.integers(0, 6), max_size=5),
    st.sampled_from([{"abs": 1.0}, {"abs": 2.0}, {"rel": 0.5}, {"rel": 0.3, "abs": 1.0}]),
    st.booleans(),
)
def test_unordered_lists_match_if_any_order_does(
    a: list[int], b: list[int], tolerance: dict[str, float], wrapped: bool
) -> None:
    """With tolerances, two lists without order match if and only if some order of one matches the other (SC2)."""
    limits = {"rel_tol": tolerance.get("rel", 0.0), "abs_tol": tolerance.get("abs", 0.0)}
    some = len(a) == len(b) and any(
        all(isclose(x, y, **limits) for x, y in zip(a, order, strict=True)) for order in permutations(b)
    )
    if wrapped:
        a, b = ([{"x": [number]} for number in numbers] for numbers in (a, b))  # type: ignore[misc]
    assert compared(a, b, compare.json(unordered=["$"], **tolerance)).matched is some  # type: ignore[arg-type]


@examples(200)
@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), max_size=5))
def test_the_largest_matching_is_the_largest(table: list[list[bool]]) -> None:
    """No other choice makes more pairs, and each pair fits (SC2)."""
    found = largest_matching(len(table), 4, lambda i, j: table[i][j])
    assert all(table[i][j] for i, j in found.items())
    assert len(set(found.values())) == len(found)
    choices = permutations([*range(4), *[None] * len(table)], len(table))
    assert len(found) == max(
        sum(j is not None and table[i][j] for i, j in enumerate(choice)) for choice in set(choices)
    )
