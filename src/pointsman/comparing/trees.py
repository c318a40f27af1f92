"""Two JSON values -> how many of their leaves are equal, and the first difference. A leaf is a text, number, bool,
null, or an empty list or object."""

from __future__ import annotations

from collections.abc import Callable
from math import isclose
from typing import Any

from pointsman.comparing.answers import kind_of
from pointsman.comparing.paths import Key, Places, written
from pointsman.comparing.unordered import shape, unmatched
from pointsman.model.comparison import Json

TYPE, MISSING, EXTRA, LENGTH, VALUE = "type", "missing", "extra", "length", "value"
"""What differs: the kinds of values; what only the primary has, and what only the shadow; how many items there are;
a leaf."""


class Difference:
    """What was found.

    Attributes:
        kind, where: of the first difference; ``kind`` is empty if there is none.
        same, leaves: how many leaves are equal, and how many there are in both together.
    """

    def __init__(self) -> None:
        self.kind = ""
        self.where = ""
        self.same = 0
        self.leaves = 0

    @property
    def score(self) -> float:
        """The share of equal leaves; 1 only if there is no difference."""
        return self.same / self.leaves if self.kind else 1.0


def compare_trees(by: Json, primary: Any, shadow: Any) -> Difference:
    """Compare two JSON values.

    Raises:
        TooLong: a list whose order is nothing has too many numbers that are close to each other.
        RecursionError: they are nested too deeply.
    """
    walk = _Walk(by)
    walk.values(primary, shadow, Places.of(by.ignore), Places.of(by.unordered))
    return walk.found


class _Walk:
    """One way through two values at a time."""

    def __init__(self, by: Json) -> None:
        self._by = by
        self._close = _closeness(by)
        self._keys: list[Key] = []
        self.found = Difference()

    def values(self, a: Any, b: Any, ignore: Places, unordered: Places) -> None:
        """Compare what is at one place; ``ignore`` and ``unordered`` are that place."""
        if ignore.hit:
            return
        if isinstance(a, dict) and isinstance(b, dict):
            if a or b:
                self._objects(a, b, ignore, unordered)
                return
        elif isinstance(a, list) and isinstance(b, list):
            if a or b:
                (self._items_in_any_order if unordered.hit else self._items)(a, b, ignore, unordered)
                return
        elif kind_of(a) is not kind_of(b):
            self._differ(TYPE, max(leaves(a), leaves(b)))
            return
        self._leaf(self._close(a, b))

    def _leaf(self, same: bool) -> None:
        self.found.leaves += 1
        if same:
            self.found.same += 1
        else:
            self._differ(VALUE, 0)

    def _differ(self, kind: str, lost: int) -> None:
        self.found.leaves += lost
        if not self.found.kind:
            self.found.kind = kind
            self.found.where = written(self._keys)

    def _differ_at(self, key: Key, kind: str, lost: int) -> None:
        self._keys.append(key)
        self._differ(kind, lost)
        self._keys.pop()

    def _below(self, key: Key, a: Any, b: Any, ignore: Places, unordered: Places) -> None:
        self._keys.append(key)
        self.values(a, b, ignore.below(key), unordered.below(key))
        self._keys.pop()

    def _objects(self, a: dict[str, Any], b: dict[str, Any], ignore: Places, unordered: Places) -> None:
        for key, value in a.items():
            if key in b:
                self._below(key, value, b[key], ignore, unordered)
            elif not ignore.below(key).hit:
                self._differ_at(key, MISSING, leaves(value))
        for key, value in b.items():
            if key not in a and not ignore.below(key).hit:
                self._differ_at(key, EXTRA, leaves(value))

    def _items(self, a: list[Any], b: list[Any], ignore: Places, unordered: Places) -> None:
        both = min(len(a), len(b))
        for place in range(both, max(len(a), len(b))):
            if not ignore.below(place).hit:
                self._differ(LENGTH, leaves((a if len(a) > both else b)[place]))
        plain = not ignore and not unordered
        for place in range(both):
            first, second = a[place], b[place]
            # Short for the items of long vectors, of which most are equal.
            alike = plain and first.__class__ is second.__class__ and first.__class__ in _SCALARS
            if alike and self._close(first, second):
                self.found.same += 1
                self.found.leaves += 1
            else:
                self._below(place, first, second, ignore, unordered)

    def _items_in_any_order(self, a: list[Any], b: list[Any], ignore: Places, unordered: Places) -> None:
        ignore, unordered = ignore.below(None), unordered.below(None)
        if ignore.hit:
            return
        exact = not self._by.rel and not self._by.abs
        shapes_a, shapes_b = ([shape(item, exact, ignore, unordered) for item in items] for items in (a, b))

        def fits(i: int, j: int) -> bool:
            first, second = a[i], b[j]
            if first.__class__ in _SCALARS:  # then so is the other, which has the same shape
                return self._close(first, second)
            inner = _Walk(self._by)
            inner.values(first, second, ignore, unordered)
            return not inner.found.kind

        left_a, left_b = unmatched(a, b, shapes_a, shapes_b, None if exact else fits)
        for place in left_a:
            self._differ_at(place, MISSING, 0)
        for place in left_b:
            self._differ_at(place, EXTRA, 0)
        lost = max(sum(leaves(a[place]) for place in left_a), sum(leaves(b[place]) for place in left_b))
        left = set(left_a)
        same = sum(leaves(item) for place, item in enumerate(a) if place not in left)
        self.found.same += same
        self.found.leaves += same + lost


def leaves(value: Any) -> int:
    """How many leaves a value has; 1 at least."""
    if isinstance(value, dict):
        return sum(map(leaves, value.values())) or 1
    if isinstance(value, list):
        return sum(map(leaves, value)) or 1
    return 1


_SCALARS = frozenset({str, int, float, bool, type(None)})


def _closeness(by: Json) -> Callable[[Any, Any], bool]:
    """What makes two leaves of one kind equal."""
    rel, distance = by.rel, by.abs
    tolerant = rel > 0 or distance > 0

    def close(a: Any, b: Any) -> bool:
        if a == b:
            return True
        if isinstance(a, (str, bool, type(None), list, dict)):
            return False
        if a != a or b != b:
            return bool(a != a and b != b)
        try:
            return tolerant and isclose(a, b, rel_tol=rel, abs_tol=distance)
        except OverflowError:  # an int that no float can hold
            return False

    return close
