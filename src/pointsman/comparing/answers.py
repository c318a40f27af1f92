"""One answer, and what is in it."""

from __future__ import annotations

import json
from typing import Any

import msgspec

TOO_LARGE, NO_ROOM = "too_large", "no_room"
"""Why a pair is not compared: over 1 MiB, and over what may wait. Whoever collects answers says so."""


class NotReadable(Exception):
    """An answer is not of the form that a comparer reads."""


class Answer(msgspec.Struct, frozen=True):
    """What a backend answered to one call, to its end.

    Attributes:
        status: of HTTP; 500 where it failed without one.
        content_type: the header's value, empty if there is none.
        body: the whole of it, also of a stream.
        error: why there is no whole answer: the backend raised, took too long, or its stream was cut; empty if there
            is one.
    """

    status: int
    content_type: str = ""
    body: bytes = b""
    error: str = ""

    @property
    def failed(self) -> bool:
        """Whether it is an error: ours, or a status of 500 and above."""
        return bool(self.error) or self.status >= 500

    @property
    def media_type(self) -> str:
        return self.content_type.partition(";")[0].strip().lower()

    @property
    def is_lines(self) -> bool:
        """Whether it is JSON, one value a line."""
        return self.media_type in ("application/x-ndjson", "application/jsonl", "application/x-jsonlines")

    @property
    def is_json(self) -> bool:
        return self.media_type == "application/json" or self.media_type.endswith("+json")


def json_of(answer: Answer) -> Any:
    """The JSON value, whatever the content type says; of one value a line, the list of them.

    Raises:
        NotReadable: it is no JSON.
        RecursionError: it is nested too deeply.
    """
    try:
        if answer.is_lines:
            return [json.loads(line) for line in answer.body.splitlines() if line.strip()]
        return json.loads(answer.body)
    except ValueError:
        raise NotReadable from None


def text_of(answer: Answer) -> str:
    """The text, in the encoding that the content type names, or UTF-8.

    Raises:
        NotReadable: it is no text.
    """
    parameter = answer.content_type.lower().partition("charset=")[2]
    charset = parameter.partition(";")[0].strip(" \"'") or "utf-8"
    try:
        return answer.body.decode(charset)
    except (LookupError, ValueError):
        raise NotReadable from None


def decoded(answer: Answer) -> Any:
    """What a user's function gets: the JSON value, the text, or the bytes, as the content type says. Where the body is
    not what it says: the bytes."""
    try:
        if answer.is_json or answer.is_lines:
            return json_of(answer)
        if answer.media_type.startswith("text/"):
            return text_of(answer)
    except NotReadable:
        pass  # the function may still know what to make of the bytes
    return answer.body


def kind_of(value: Any) -> type:
    """The kind of a JSON value, as one type for each: a bool is no number, and int and float are one kind."""
    if isinstance(value, bool):
        return bool
    if isinstance(value, (int, float)):
        return float
    for kind in (str, list, dict):
        if isinstance(value, kind):
            return kind
    return type(None)
