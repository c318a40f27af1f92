"""A pair of answers -> matched, or what differs and where. Called in the process that compares; a user's function is
passed in, and runs wherever this runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from pointsman.comparing.answers import Answer, NotReadable, decoded, json_of, text_of
from pointsman.comparing.paths import find, parse
from pointsman.comparing.scores import Label, best_labels, overlap, score_of, similarity
from pointsman.comparing.trees import TYPE, compare_trees
from pointsman.comparing.unordered import TooLong
from pointsman.model.comparison import Comparer, Exact, Json, Text, TopK

# Kinds of mismatches
ERROR = "error"
"""Only the shadow failed."""
STATUS, CONTENT_TYPE, BODY = "status", "content_type", "body"
LABELS, TEXT, FUNCTION = "labels", "text", "function"
# and those of trees: type, missing, extra, length, value

# Reasons why a pair is not compared
NOT_JSON, NOT_LABELS, NOT_TEXT, TOO_DEEP, TOO_LONG = "not_json", "not_labels", "not_text", "too_deep", "too_long"
RAISED, BAD_RESULT, HUNG, DIED = "function_raised", "function_result", "function_hung", "function_died"
"""The user's function raised, returned no bool or number from 0 to 1, took over 1 s, or ended its process. Whoever
runs it says the last two."""

Read = TypeVar("Read")
UserFunction = Callable[[Any, Any], Any]


class Outcome(msgspec.Struct, frozen=True):
    """What came of one pair.

    Attributes:
        kind: of the mismatch; empty if the pair matched or was not compared.
        where: the path of the first difference; empty where there is none.
        score: how similar the two are, 1 for a match, 0 for nothing in common.
        uncompared: why the pair was not compared; empty if it was.
    """

    kind: str = ""
    where: str = ""
    score: float = 1.0
    uncompared: str = ""

    @property
    def matched(self) -> bool:
        return not self.kind and not self.uncompared


MATCH = Outcome()


def compare_answers(by: Comparer, primary: Answer, shadow: Answer, function: UserFunction | None = None) -> Outcome:
    """Whether a shadow's answer is that of the primary.

    Only the shadow fails: a mismatch of kind ``error``. Both fail with one status: a match. Statuses must be equal;
    then the comparer decides.

    Args:
        function: the user's, imported; for comparers of kind ``function``.

    Raises:
        MemoryError: in the user's function.
    """
    if primary.failed and shadow.failed and primary.status == shadow.status:
        return MATCH
    if shadow.failed and not primary.failed:
        return Outcome(ERROR, score=0.0)
    if primary.status != shadow.status or primary.failed:
        return Outcome(STATUS, score=0.0)
    try:
        return _by(by, primary, shadow, function)
    except RecursionError:
        return Outcome(uncompared=TOO_DEEP)
    except TooLong:
        return Outcome(uncompared=TOO_LONG)


def _by(by: Comparer, primary: Answer, shadow: Answer, function: UserFunction | None) -> Outcome:
    if isinstance(by, Exact):
        return _exact(primary, shadow)
    if isinstance(by, Json):
        return _json(by, primary, shadow)
    if isinstance(by, TopK):
        return _top_k(by, primary, shadow)
    if isinstance(by, Text):
        return _text(by, primary, shadow)
    assert function is not None, "a comparer of a user's function, and none was imported"
    return _function(function, primary, shadow)


def _exact(primary: Answer, shadow: Answer) -> Outcome:
    if primary.content_type != shadow.content_type:
        return Outcome(CONTENT_TYPE, score=0.0)
    return MATCH if primary.body == shadow.body else Outcome(BODY, score=0.0)


def _json(by: Json, primary: Answer, shadow: Answer) -> Outcome:
    if primary.body == shadow.body and primary.is_lines == shadow.is_lines:
        return MATCH
    read = _read(json_of, primary, shadow, NOT_JSON, "$")
    if isinstance(read, Outcome):
        return read
    found = compare_trees(by, *read)
    return Outcome(found.kind, found.where, found.score)


def _top_k(by: TopK, primary: Answer, shadow: Answer) -> Outcome:
    path = parse(by.path)

    def labels(answer: Answer) -> list[Label]:
        there, value = find(json_of(answer), path)
        if not there:
            raise NotReadable
        return best_labels(value, by.k)

    read = _read(labels, primary, shadow, NOT_LABELS, by.path)
    if isinstance(read, Outcome):
        return read
    score = overlap(*read)
    return MATCH if score >= by.min_overlap else Outcome(LABELS, by.path, score)


def _text(by: Text, primary: Answer, shadow: Answer) -> Outcome:
    read = _read(text_of, primary, shadow, NOT_TEXT, "")
    if isinstance(read, Outcome):
        return read
    score = similarity(*read)
    return MATCH if score >= by.min_similarity else Outcome(TEXT, score=score)


def _function(function: UserFunction, primary: Answer, shadow: Answer) -> Outcome:
    values = decoded(primary), decoded(shadow)
    try:
        score = score_of(function(*values))
    except MemoryError:
        raise  # what is left of this process is of no use, which its owner knows best
    except Exception:  # noqa: BLE001 - user code may raise anything, and nobody but the report is to know
        return Outcome(uncompared=RAISED)
    if score is None:
        return Outcome(uncompared=BAD_RESULT)
    return MATCH if score == 1 else Outcome(FUNCTION, score=score)


def _read(
    read: Callable[[Answer], Read], primary: Answer, shadow: Answer, reason: str, where: str
) -> tuple[Read, Read] | Outcome:
    """What a comparer reads of the two. Where it can read one of them only, that is a mismatch."""
    try:
        first = read(primary)
    except NotReadable:
        try:
            read(shadow)
        except NotReadable:
            return Outcome(uncompared=reason)
        return Outcome(TYPE, where, 0.0)
    try:
        return first, read(shadow)
    except NotReadable:
        return Outcome(TYPE, where, 0.0)
