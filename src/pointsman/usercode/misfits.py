"""What does not fit an annotation, told as pydantic and FastAPI tell it, and without the values that were sent."""

from __future__ import annotations

import re
from typing import Any

MAX_DETAILS = 100
MAX_TEXT = 200
"""Most characters of a message, and of a name in a place: a client's keys are in places."""
MAX_PLACE = 32
"""Most steps of a place: a client decides how deep a body is."""
SHOWN = 3
"""Details that the one-line text of a misfit has."""


class Misfit(Exception):
    """A value does not fit its annotation.

    Args:
        details: what is wrong: dicts of ``loc``, a list of names and indexes; ``msg``; and ``type``.
        media_type: the body is in a format that cannot be read; nothing else is wrong then.
    """

    def __init__(self, details: list[dict[str, Any]], *, media_type: bool = False) -> None:
        super().__init__(details)
        self.details = details
        self.media_type = media_type

    @classmethod
    def of(cls, msg: str, kind: str, *loc: str | int, media_type: bool = False) -> Misfit:
        """A misfit of one detail."""
        return cls([{"loc": list(loc), "msg": msg, "type": kind}], media_type=media_type)

    def under(self, *loc: str | int) -> list[dict[str, Any]]:
        """The details, with the place that all of them are in."""
        return [{**detail, "loc": [*loc, *detail["loc"]]} for detail in self.details]

    def __str__(self) -> str:
        return in_one_line(self.details)


def in_one_line(details: list[dict[str, Any]]) -> str:
    """The first details as text, such as ``body.sepal: Field required``."""
    lines = []
    for detail in details[:SHOWN]:
        place = ".".join(map(str, detail["loc"]))
        lines.append(f"{place}: {detail['msg']}" if place else detail["msg"])
    more = f"; and {len(details) - SHOWN} more" if len(details) > SHOWN else ""
    return "; ".join(lines) + more


_ECHOES = {
    "union_tag_invalid": "Input tag does not match any of the expected tags",
    "import_error": "Invalid python path",
    "url_parsing": "Input should be a valid URL",
    "uuid_parsing": "Input should be a valid UUID",
}
"""Texts for the kinds of errors in whose own text pydantic repeats a part of the input."""


def misfit_of_pydantic(error: Any) -> Misfit:
    """The misfit that a ``ValidationError`` tells."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    details = []
    for one in found[:MAX_DETAILS]:
        loc = [part if isinstance(part, int) else cut(str(part)) for part in one["loc"][:MAX_PLACE]]
        details.append({"loc": loc, "msg": cut(_ECHOES.get(one["type"], one["msg"])), "type": one["type"]})
    return Misfit(details)


_PLACED = re.compile(r"(?P<msg>.*?)(?: - at (?:key in )?`\$(?P<path>.*)`)?", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_NAMED = re.compile(r"Object (missing required|contains unknown) field `(.*)`", re.DOTALL)
_QUOTED = re.compile(r" ('.*'|-?\d+)$", re.DOTALL)


def misfit_of_msgspec(error: BaseException, kind: str = "json_invalid") -> Misfit:
    """The misfit that an error of a decoder of msgspec tells: the first thing that is wrong.

    Args:
        kind: the type of the detail where the bytes are not of the format at all.
    """
    if isinstance(error, RecursionError):
        return Misfit.of("it is nested too deep", "recursion_loop")
    if type(error).__name__ != "ValidationError":
        return Misfit.of(cut(f"it cannot be decoded: {error}"), kind)
    parts = _PLACED.fullmatch(str(error))
    assert parts is not None
    msg, path = parts["msg"], parts["path"] or ""
    loc = [int(index) if index.isdigit() else cut(name or "*") for name, index in _STEP.findall(path)[:MAX_PLACE]]
    named = _NAMED.fullmatch(msg)
    if named is not None:
        missing = named[1] == "missing required"
        text, kind = ("Field required", "missing") if missing else ("Field is not known", "extra_forbidden")
        return Misfit.of(text, kind, *loc, cut(named[2]))
    if msg.startswith("Invalid"):
        return Misfit.of(cut(_QUOTED.sub("", msg)), "value_error", *loc)
    return Misfit.of(cut(msg), "type_error" if msg.startswith("Expected `") else "value_error", *loc)


def cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " ..."
