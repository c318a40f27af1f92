"""Reads JSON, and keeps the place of each value. Pure."""

from __future__ import annotations

import json
import json.decoder
import re
from bisect import bisect_right
from typing import Any

from pointsman.configfile.problems import Place
from pointsman.configfile.tree import MAX_DEPTH, Keys, TextError, Tree

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_WORDS = {"null": None, "true": True, "false": False}
_WORD = re.compile("null|true|false")


def read_json(text: str) -> Tree:
    """The tree of a text.

    Raises:
        TextError: it is no JSON, or has a name twice.
    """
    return _Reader(text).read()


class _Reader:
    """Reads one text; ``_at`` is how far."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._lines = [0, *(match.end() for match in re.finditer("\n", text))]
        self._tree = Tree(None, {}, {})
        self._twice: list[tuple[Place | None, str]] = []

    def read(self) -> Tree:
        value = self._value(())
        self._skip()
        if self._at < len(self._text):
            raise self._error("something stands behind the end of the JSON value")
        if self._twice:
            raise TextError(*self._twice)
        return self._tree._replace(value=value)

    def _value(self, keys: Keys) -> Any:
        self._skip()
        self._tree.places[keys] = self._place()
        if len(keys) > MAX_DEPTH:
            raise self._error(f"it is nested deeper than {MAX_DEPTH} levels")
        begins = self._text[self._at : self._at + 1]
        if begins == "{":
            return self._mapping(keys)
        if begins == "[":
            return self._list(keys)
        if begins == '"':
            return self._string()
        if word := _WORD.match(self._text, self._at):
            self._at = word.end()
            return _WORDS[word[0]]
        if number := _NUMBER.match(self._text, self._at):
            self._at = number.end()
            return self._number(number[0])
        raise self._error("a JSON value is expected here" if begins else "the file ends before the JSON value does")

    def _mapping(self, keys: Keys) -> dict[str, Any]:
        found: dict[str, Any] = {}
        self._at += 1
        if self._next("}"):
            return found
        while True:
            self._skip()
            place = self._place()
            if self._text[self._at : self._at + 1] != '"':
                raise self._error("a name in double quotes is expected here")
            name = self._string()
            if name in found:
                self._twice.append((place, f"field {name!r} stands here a second time"))
            way = (*keys, name)
            self._tree.names[way] = place
            if not self._next(":"):
                raise self._error("':' is expected here")
            found[name] = self._value(way)
            if self._next("}"):
                return found
            if not self._next(","):
                raise self._error("',' or '}' is expected here")

    def _list(self, keys: Keys) -> list[Any]:
        found: list[Any] = []
        self._at += 1
        if self._next("]"):
            return found
        while True:
            found.append(self._value((*keys, len(found))))
            if self._next("]"):
                return found
            if not self._next(","):
                raise self._error("',' or ']' is expected here")

    def _string(self) -> str:
        try:
            value, self._at = json.decoder.scanstring(self._text, self._at + 1, True)  # type: ignore[attr-defined]
        except json.JSONDecodeError as error:
            self._at = error.pos
            raise self._error(f"a text is not JSON: {error.msg}") from None
        return str(value)

    def _number(self, text: str) -> int | float:
        try:
            return int(text)
        except ValueError:
            return float(text)

    def _next(self, mark: str) -> bool:
        """Whether this mark is next; then it is skipped."""
        self._skip()
        if self._text.startswith(mark, self._at):
            self._at += 1
            return True
        return False

    def _skip(self) -> None:
        match = _SPACE.match(self._text, self._at)
        assert match is not None
        self._at = match.end()

    def _place(self) -> Place:
        line = bisect_right(self._lines, self._at)
        return Place(line, self._at - self._lines[line - 1] + 1)

    def _error(self, text: str) -> TextError:
        return TextError((self._place(), text))
