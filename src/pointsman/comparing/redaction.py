"""An example of a mismatch: what is stored of two answers, and what never is. Requests and headers never are, but for
the content types where just these differ."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable
from typing import Any

import msgspec

from pointsman.comparing.answers import Answer, NotReadable, json_of, text_of
from pointsman.comparing.pairs import CONTENT_TYPE, Outcome
from pointsman.comparing.paths import Places, parse, written

REDACTED = "[redacted]"

MAX_SIDE = 64 * 1024
"""Bytes of one answer in an example."""
MAX_ERROR = 4 * 1024
"""Characters of an error's text."""
MAX_WORD = 1000
"""Characters of a path, a route, an id and a content type."""

_ROOM = 1024  # what a side takes beside body and error


class Example(msgspec.Struct, frozen=True):
    """One mismatch, as it is stored and shown.

    Attributes:
        where: the path of the first difference, of the primary's answer; empty if the answers differ as a whole.
        score: how similar the answers are, 0 to 1.
        primary, shadow: each ``{"status", "body"}``: the JSON value or the text. Bytes are ``body_b64`` instead, in
            base64. An answer of over 64 KiB is the beginning of its text, and ``left_out`` says how many bytes are
            missing. ``error`` is there if there was no whole answer, ``content_type`` if that is what differs.
    """

    request_id: str
    route: str
    kind: str
    where: str
    score: float
    primary: dict[str, Any]
    shadow: dict[str, Any]


def make_example(
    outcome: Outcome, primary: Answer, shadow: Answer, *, request_id: str, route: str, redact: Iterable[str]
) -> Example:
    """What is stored of a pair that does not match.

    Args:
        redact: paths; what is there becomes ``"[redacted]"``. Where any are given, an answer that is no JSON object
            or list has no paths and is redacted as a whole, and so are texts of errors.
    """
    hidden = Places.of(redact)
    with_type = outcome.kind == CONTENT_TYPE
    return Example(
        request_id[:MAX_WORD],
        route[:MAX_WORD],
        outcome.kind,
        _visible(outcome.where, hidden)[:MAX_WORD],
        outcome.score,
        _side(primary, hidden, with_type),
        _side(shadow, hidden, with_type),
    )


def redacted(value: Any, hidden: Places) -> Any:
    """A JSON value in which what is at these places is ``"[redacted]"``; the value itself stays as it is."""
    if hidden.hit:
        return REDACTED
    if not hidden:
        return value
    if isinstance(value, dict):
        return {key: redacted(item, hidden.below(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [redacted(item, hidden.below(place)) for place, item in enumerate(value)]
    return value


def _visible(where: str, hidden: Places) -> str:
    """A path down to where something is redacted: names below it are part of what is hidden."""
    if not where or not hidden:
        return where
    keys = []
    for step in parse(where, most=math.inf):
        if hidden.hit:
            break
        keys.append(step.key)
        hidden = hidden.below(step.key)
    return written(keys)


def _side(answer: Answer, hidden: Places, with_type: bool) -> dict[str, Any]:
    side: dict[str, Any] = {"status": answer.status}
    if answer.error:
        side["error"] = REDACTED if hidden else answer.error[:MAX_ERROR]
    if with_type:
        side["content_type"] = answer.content_type[:MAX_WORD]
    room = MAX_SIDE - _ROOM - len(json.dumps(side))
    return {**side, **_body(answer, hidden, room)}


def _body(answer: Answer, hidden: Places, room: int) -> dict[str, Any]:
    try:
        value = _redacted_json(answer, hidden) if hidden else _plain(answer)
        text = value if isinstance(value, str) else json.dumps(value)
    except (NotReadable, RecursionError):
        if hidden:
            return {"body": REDACTED}
        most = room // 4 * 3
        left_out = {"left_out": len(answer.body) - most} if len(answer.body) > most else {}
        return {"body_b64": base64.b64encode(answer.body[:most]).decode(), **left_out}
    if len(json.dumps(value)) <= room:
        return {"body": value}
    kept = text
    while (size := len(json.dumps(kept))) > room:  # what must be escaped is longer than it looks
        kept = kept[: min(len(kept) - 1, len(kept) * room // size)]
    return {"body": kept, "left_out": len(_bytes(text)) - len(_bytes(kept))}


def _plain(answer: Answer) -> Any:
    """What an answer holds, nothing of it redacted."""
    if answer.is_json or answer.is_lines:
        try:
            return json_of(answer)
        except NotReadable:
            pass  # then it is shown as a text
    return text_of(answer)


def _redacted_json(answer: Answer, hidden: Places) -> Any:
    """A JSON object or list without what is hidden. Other values have no paths: a message in place of an object may
    tell what would have been hidden there."""
    value = json_of(answer)
    if not isinstance(value, (dict, list)):
        raise NotReadable
    return redacted(value, hidden)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
