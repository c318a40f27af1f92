"""comparing.scores: labels, texts and functions of users."""

from __future__ import annotations

import json
from difflib import SequenceMatcher
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman import compare
from pointsman.comparing.answers import Answer
from pointsman.comparing.comparers import comparer
from pointsman.comparing.pairs import Outcome, compare_answers
from pointsman.comparing.scores import similarity
from tests.properties import examples


def compared(by: Any, a: Any, b: Any, function: Any = None) -> Outcome:
    answers = (item if isinstance(item, Answer) else Answer(200, "application/json", json.dumps(item).encode())
               for item in (a, b))  # fmt: skip
    made = comparer(by)
    assert made is not None
    return compare_answers(made, *answers, function)


@pytest.mark.parametrize(
    ("by", "a", "b", "score"),
    [
        (compare.top_k(2), ["cat", "dog", "cow"], ["dog", "cat", "pig"], 1),
        (compare.top_k(3), ["cat", "dog", "cow"], ["dog", "cat", "pig"], Fraction(2, 3)),
        (compare.top_k(1), ["cat", "dog"], ["dog", "cat"], 0),
        (compare.top_k(5), ["cat"], ["cat"], 1),
        (compare.top_k(5), ["cat"], ["cat", "dog"], Fraction(1, 2)),
        (compare.top_k(5), [], [], 1),
        (compare.top_k(5), [], ["cat"], 0),
        (compare.top_k(2), {"cat": 0.2, "dog": 0.7, "cow": 0.1}, {"cow": 0.3, "dog": 0.6, "cat": 0.1}, Fraction(1, 2)),
        (compare.top_k(2), {"cat": 1, "dog": 1, "cow": 1}, {"cow": 2, "dog": 2, "cat": 2}, 1),
        (compare.top_k(1), {"cat": float("nan"), "dog": -5}, {"dog": 0}, 1),
        (compare.top_k(1), {"cat": 0.2, "dog": 0.7}, [{"label": "dog", "score": 3, "box": [1]}], 1),
        (compare.top_k(1), [{"label": "a", "score": 1}, {"label": "b", "score": 2}], ["b"], 1),
        (compare.top_k(2), [3, 5, 3, 7], [3, 7], Fraction(1, 2)),
        (compare.top_k(1), [1], ["1"], 0),
        (compare.top_k(1), [1], [True], 0),
        (compare.top_k(2, "$.o[1].x"), {"o": [0, {"x": ["a", "b"]}]}, {"o": [9, {"x": ["b", "a"]}]}, 1),
    ],
)  # fmt: skip
def test_the_best_labels_are_compared(by: Any, a: Any, b: Any, score: Any) -> None:
    """Lists of labels, of labels with scores, and objects of scores: the best k are the same, in any order; fewer in
    common are a mismatch whose score is their share (SC3)."""
    outcome = compared(by, a, b)
    assert outcome == (Outcome() if score == 1 else Outcome("labels", by.path, float(score)))
    assert compared(by, b, a) == outcome


def test_fewer_labels_in_common_may_be_enough() -> None:
    """``min_overlap`` says how many of the best labels must be in both (SC3)."""
    a, b = ["a", "b", "c", "d"], ["d", "c", "b", "x"]
    assert compared(compare.top_k(4, min_overlap=0.75), a, b).matched
    assert compared(compare.top_k(4, min_overlap=0.76), a, b) == Outcome("labels", "$", 0.75)


@pytest.mark.parametrize("value", [3, "cat", {"a": "x"}, {"a": True}, [["a"]], [{"label": "a"}], ["a", {"label": "b"}],
                                   {"a": 10**400}, Answer(200, "text/html", b"<html>")])  # fmt: skip
def test_what_has_no_labels_is_not_compared(value: Any) -> None:
    """Two answers without labels at the path are not compared; if only one has none, that is a mismatch (SC3)."""
    by = compare.top_k(1)
    assert compared(by, value, value) == Outcome(uncompared="not_labels")
    assert compared(by, value, ["a"]) == Outcome("type", "$", 0.0)
    assert compared(by, ["a"], value) == Outcome("type", "$", 0.0)
    assert compared(compare.top_k(1, "$.x"), ["a"], ["b"]) == Outcome(uncompared="not_labels")


def text(words: str, content_type: str = "text/plain; charset=utf-8", encoding: str = "utf-8") -> Answer:
    return Answer(200, content_type, words.encode(encoding))


def test_texts_are_compared_by_words() -> None:
    """Spaces and line breaks are nothing; the share of words in common must be that asked for (SC3)."""
    a, b = text("the cat sat on the mat"), text("the  cat sat\non a mat")
    assert compared(compare.text(1), a, text("the cat  sat on\tthe mat ")).matched
    assert compared(compare.text(10 / 12), a, b).matched
    assert compared(compare.text(0.84), a, b) == Outcome("text", score=10 / 12)
    assert compared(compare.text(1), text(""), text(" ")).matched
    assert compared(compare.text(1), text("é"), text("é", "text/plain; charset=latin-1", "latin-1")).matched
    assert compared(compare.text(0.5), text("a"), Answer(200, "text/plain", b"\xff")) == Outcome("type", score=0.0)
    both = Answer(200, "text/plain", b"\xff"), Answer(200, "text/plain; charset=no-such", b"a")
    assert compared(compare.text(0.5), *both) == Outcome(uncompared="not_text")


@examples(100)
@given(st.lists(st.sampled_from("abcd"), max_size=12), st.lists(st.sampled_from("abcd"), max_size=12))
def test_similarity_is_that_of_difflib(a: list[str], b: list[str]) -> None:
    """The number is the one that a user gets of ``difflib`` (SC3)."""
    assert similarity(" ".join(a), " ".join(b)) == SequenceMatcher(None, a, b, autojunk=False).ratio()


def test_texts_that_take_long_are_given_up() -> None:
    """A model that repeats itself makes texts that difflib compares for minutes: they are not compared (SC3)."""
    by = compare.text(0.5)
    assert compared(by, text("a b " * 1000), text("a " * 1000 + "b " * 1000)) == Outcome(uncompared="too_long")
    assert compared(by, text("a b " * 1000), text("a b " * 1000)).matched


def called(*results: Any) -> Any:
    given_: list[Any] = []

    def function(primary: Any, shadow: Any) -> Any:
        given_.extend([primary, shadow])
        if isinstance(results[0], Exception):
            raise results[0]
        return results[0]

    return function, given_


BY = compare.function("pkg.mod:name")


class NoNumber:
    def __float__(self) -> float:
        raise RuntimeError


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        (True, Outcome()),
        (False, Outcome("function", score=0.0)),
        (1, Outcome()),
        (1.0, Outcome()),
        (0.25, Outcome("function", score=0.25)),
        (np.bool_(True), Outcome()),
        (np.float32(0.5), Outcome("function", score=0.5)),
        (1.01, Outcome(uncompared="function_result")),
        (-0.1, Outcome(uncompared="function_result")),
        (float("nan"), Outcome(uncompared="function_result")),
        (None, Outcome(uncompared="function_result")),
        ("1", Outcome(uncompared="function_result")),
        ([1], Outcome(uncompared="function_result")),
        (ValueError("no"), Outcome(uncompared="function_raised")),
        (RecursionError(), Outcome(uncompared="function_raised")),
        (NoNumber(), Outcome(uncompared="function_raised")),
    ],
)
def test_a_function_decides(result: Any, outcome: Outcome) -> None:
    """A function of the user says whether answers match, or how much; where it raises, or says something else, the pair
    is not compared (SC3)."""
    assert compared(BY, [1], [2], called(result)[0]) == outcome


def test_a_function_without_memory_ends_its_process() -> None:
    """Where a function finds no memory its process has to end: the error is not taken for one of this pair; and an
    answer that is nested too deeply is no fault of the function (SC3, SC9)."""
    with pytest.raises(MemoryError):
        compared(BY, [1], [2], called(MemoryError())[0])
    deep = Answer(200, "application/json", b"[" * 50_000 + b"]" * 50_000)
    assert compared(BY, deep, [1], called(True)[0]) == Outcome(uncompared="too_deep")


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (Answer(200, "application/json", b'{"a": 1}'), {"a": 1}),
        (Answer(200, "application/problem+json; x=y", b"[1]"), [1]),
        (Answer(200, "application/x-ndjson", b"1\n2\n"), [1, 2]),
        (Answer(200, "text/plain; charset=latin-1", b"\xe9"), "é"),
        (Answer(200, "image/png", b"\x89PNG"), b"\x89PNG"),
        (Answer(200, "", b"1"), b"1"),
        (Answer(200, "application/json", b"{"), b"{"),
    ],
)
def test_a_function_gets_what_was_answered(answer: Answer, value: Any) -> None:
    """JSON is decoded, text is a str, and the rest is bytes (SC3)."""
    function, given_ = called(True)
    assert compared(BY, answer, Answer(200, "application/json", b"null"), function).matched
    assert given_ == [value, None]
