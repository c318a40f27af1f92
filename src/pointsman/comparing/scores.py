"""Answers that are compared by how much they have in common: the best labels, the words of a text, and what a user's
function says."""

from __future__ import annotations

from collections import Counter
from difflib import SequenceMatcher
from itertools import accumulate
from typing import Any

from pointsman.comparing.answers import NotReadable
from pointsman.comparing.unordered import TooLong

MAX_STEPS = 1_000_000
"""Steps of comparing words: half a second, about. Texts that repeat a few words over and over take many."""

Label = tuple[type, Any]
"""A label with its type, so that 1, "1" and True are three."""


def best_labels(value: Any, k: int) -> list[Label]:
    """The best ``k`` labels, best first, of a list of labels, a list of ``{label, score}`` or an object of label to
    score. Labels of equal scores are in the order of their names, so that two answers cut them alike.

    Raises:
        NotReadable: it is none of these.
    """
    if isinstance(value, dict):
        scored = [(_label(label), _score(score)) for label, score in value.items()]
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        scored = [_label_and_score(item) for item in value]
    elif isinstance(value, list):
        return list(dict.fromkeys(_label(item) for item in value))[:k]
    else:
        raise NotReadable
    ordered = sorted(scored, key=lambda pair: (-pair[1], pair[0][0].__name__, str(pair[0][1])))
    return list(dict.fromkeys(label for label, _ in ordered))[:k]


def _label_and_score(item: Any) -> tuple[Label, float]:
    if not isinstance(item, dict) or not {"label", "score"} <= item.keys():
        raise NotReadable
    return _label(item["label"]), _score(item["score"])


def _label(value: Any) -> Label:
    if isinstance(value, (dict, list)):
        raise NotReadable
    return type(value), value


def _score(value: Any) -> float:
    """A score; NaN is the worst."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise NotReadable
    try:
        number = float(value)
    except OverflowError:
        raise NotReadable from None
    return number if number == number else float("-inf")


def overlap(first: list[Label], second: list[Label]) -> float:
    """The share of labels that are in both, of the number that the longer one has."""
    most = max(len(first), len(second))
    return len({*first} & {*second}) / most if most else 1.0


def similarity(first: str, second: str) -> float:
    """Twice the number of words in common over the number of words of both, as :mod:`difflib` finds them.

    Raises:
        TooLong: it would take too long.
    """
    a, b = first.split(), second.split()
    if a == b:
        return 1.0
    return _Words(a, b).ratio()


class _Words(SequenceMatcher[str]):
    """difflib's comparison, which gives up when it takes too long: for 2,000 words of a text that repeats two of them
    it can be minutes."""

    def __init__(self, a: list[str], b: list[str]) -> None:
        super().__init__(None, a, b, autojunk=False)
        counts = Counter(b)
        self._length = len(a)
        self._steps_to = [0, *accumulate(1 + counts[word] for word in a)]
        self._left = MAX_STEPS

    def find_longest_match(self, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None) -> Any:
        end = self._length if ahi is None else ahi
        self._left -= self._steps_to[end] - self._steps_to[alo]
        if self._left < 0:
            raise TooLong
        return super().find_longest_match(alo, ahi, blo, bhi)


def score_of(result: Any) -> float | None:
    """What a user's function returned, as a score: True is 1. None if it is no bool or number from 0 to 1."""
    if isinstance(result, (str, bytes)) or result is None:
        return None
    try:
        score = float(result)  # also a bool or a number of numpy
    except (TypeError, ValueError, OverflowError):
        return None
    return score if 0 <= score <= 1 else None
