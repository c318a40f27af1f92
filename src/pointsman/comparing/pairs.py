"""A pair of answers -> matched, or what differs and where. Called in the process that compares; a user's function is
passed in, and runs wherever this runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from pointsman.comparing.answers import Answer
from pointsman.model.comparison import Comparer, Exact

# Kinds of mismatches
ERROR = "error"
"""Only the shadow failed."""
STATUS, CONTENT_TYPE, BODY = "status", "content_type", "body"
TYPE, MISSING, EXTRA, LENGTH, VALUE = "type", "missing", "extra", "length", "value"
LABELS, TEXT, FUNCTION = "labels", "text", "function"

# Reasons why a pair is not compared
TOO_LARGE, NO_ROOM = "too_large", "no_room"
"""Over 1 MiB, and over what may wait: whoever collects answers says so."""
NOT_JSON, NOT_LABELS, NOT_TEXT, TOO_DEEP, TOO_LONG = "not_json", "not_labels", "not_text", "too_deep", "too_long"
RAISED, BAD_RESULT, HUNG, DIED = "function_raised", "function_result", "function_hung", "function_died"
"""The user's function raised, returned no bool or number from 0 to 1, took over 1 s, or ended its process. Whoever
runs it says the last two."""

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
    """
    if primary.failed and shadow.failed and primary.status == shadow.status:
        return MATCH
    if shadow.failed and not primary.failed:
        return Outcome(ERROR, score=0.0)
    if primary.status != shadow.status or primary.failed:
        return Outcome(STATUS, score=0.0)
    assert isinstance(by, Exact)
    return _exact(primary, shadow)


def _exact(primary: Answer, shadow: Answer) -> Outcome:
    if primary.content_type != shadow.content_type:
        return Outcome(CONTENT_TYPE, score=0.0)
    return MATCH if primary.body == shadow.body else Outcome(BODY, score=0.0)
