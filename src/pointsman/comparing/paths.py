"""Where something is in a JSON value: ``$`` is the whole, ``.name`` a value of an object, ``[n]`` an item of a list
from 0 on, ``[*]`` each item or value, and ``..name`` the values of that name at any depth. ``["any name"]`` is
``.name`` for names that have other characters.

    $.items[*].score    the scores of all items
    $..took_ms          each took_ms, wherever it is

Source of the syntax: S. Gössner, G. Normington and C. Bormann, "JSONPath: query expressions for JSON", RFC 9535, 2024.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

MAX_PATHS = 100
"""Paths of one argument."""
MAX_PATH = 500
"""Characters of one path."""

Key = str | int | None
"""One step down: a name in an object, a place in a list, or None for an item of a list whose order is nothing."""

NAME, PLACE, EACH, DEEP = "name", "place", "each", "deep"

_NAME = r"[^.\[\]\s\"'*$@?()\ud800-\udfff]+"
_STEP = re.compile(
    rf"\.\.(?P<deep>{_NAME})|\.(?P<name>{_NAME})"
    r"|\[(?P<place>\d{1,9})\]|\[(?P<each>\*)\]|\[(?P<text>\"(?:[^\"\\\ud800-\udfff]|\\.)*\")\]"
)
_PLAIN_NAME = re.compile(_NAME)


class Step(NamedTuple):
    """One step of a path, and the name or place in it."""

    kind: str
    key: Key = None


Path = tuple[Step, ...]


def parse(path: Any, what: str = "path", *, most: float = MAX_PATH) -> Path:
    """Read a path.

    Args:
        what: the argument's name in the error's text.
        most: characters that it may have.

    Raises:
        TypeError: not a str.
        ValueError: not a path.
    """
    if not isinstance(path, str):
        raise TypeError(f"{what} must be a path such as '$.items[*].score', not {path!r:.100}")
    steps: list[Step] = []
    at = 1
    while path.startswith("$") and at < len(path) <= most and (found := _STEP.match(path, at)):
        steps.append(_step(found))
        at = found.end()
    if not path.startswith("$") or at < len(path):
        raise ValueError(
            f"{what} {path!r:.100} is no path: '$' comes first, then any of '.name', '[0]', '[*]', '..name' and "
            f"'[\"a name\"]', in at most {MAX_PATH} characters"
        )
    return tuple(steps)


def _step(found: re.Match[str]) -> Step:
    kind, text = found.lastgroup, found[found.lastgroup or 0]
    if kind == "text":
        return Step(NAME, _unquoted(text))
    return {
        "deep": Step(DEEP, text),
        "name": Step(NAME, text),
        "each": Step(EACH),
    }.get(str(kind)) or Step(PLACE, int(text))


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        raise ValueError(f"the name {text} in a path must be a JSON string") from None


def check_paths(paths: Any, what: str) -> tuple[str, ...]:
    """Check a list of paths; returns it without duplicates.

    Raises:
        TypeError: not a list of str.
        ValueError: one is no path, or there are too many.
    """
    if not isinstance(paths, (list, tuple)):
        raise TypeError(f"{what} must be a list of paths such as ['$.id'], not {paths!r:.100}")
    if len(paths) > MAX_PATHS:
        raise ValueError(f"{what} has {len(paths)} paths, and at most {MAX_PATHS} are allowed")
    for path in paths:
        parse(path, f"{what}:")
    return tuple(dict.fromkeys(paths))


def names_one_place(path: Path) -> bool:
    """Whether a path leads to one value at the most."""
    return all(step.kind in (NAME, PLACE) for step in path)


def find(value: Any, path: Path) -> tuple[bool, Any]:
    """What is at a path that :func:`names_one_place`, and whether anything is."""
    for _, key in path:
        if not isinstance(value, dict if isinstance(key, str) else (list, tuple)):
            return False, None
        try:
            value = value[key]  # type: ignore[index] # the kinds of value and key fit
        except (KeyError, IndexError):
            return False, None
    return True, value


def written(keys: Iterable[Key]) -> str:
    """The path of one place, as users write it."""
    parts = ["$"]
    for key in keys:
        if isinstance(key, str):
            parts.append(f".{key}" if _PLAIN_NAME.fullmatch(key) else f"[{json.dumps(key)}]")
        else:
            parts.append("[*]" if key is None else f"[{key}]")
    return "".join(parts)


class Places:
    """A place in a value on the way down from ``$``, and which of some paths can still be reached from there. It never
    changes. Places from which the same can be reached are one object, and the way to it is kept, so that a step costs
    one look-up: a large value has few different places.

    Attributes:
        hit: whether one of the paths leads here.
    """

    __slots__ = ("_all", "_below", "_left", "hit")

    def __init__(self, left: frozenset[Path], all_of_root: dict[frozenset[Path], Places]) -> None:
        self._left = left
        self._all = all_of_root
        self._below: dict[tuple[type, Key], Places] = {}
        self.hit = () in left

    @classmethod
    def of(cls, paths: Iterable[str]) -> Places:
        """The place ``$``, for paths that were checked."""
        return _root(tuple(paths))

    def __bool__(self) -> bool:
        return bool(self._left)

    def below(self, key: Key) -> Places:
        """The place one step further down."""
        if not self._left:
            return self
        known = self._below.get((key.__class__, key))
        if known is None:
            left = frozenset(self._lefts(key))
            known = self._all.setdefault(left, Places(left, self._all))
            if len(self._below) < _MOST_KEPT:
                self._below[key.__class__, key] = known
        return known

    def _lefts(self, key: Key) -> Iterator[Path]:
        for path in self._left:
            if path:
                step = path[0]
                if step.kind == DEEP:
                    yield path
                if step.kind == EACH or (step.key == key and step.key.__class__ is key.__class__):
                    yield path[1:]


_MOST_KEPT = 1000


@lru_cache(maxsize=32)
def _root(paths: tuple[str, ...]) -> Places:
    return Places(frozenset(parse(path) for path in paths), {})
