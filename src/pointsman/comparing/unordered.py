"""Lists whose order is nothing: which of their items have a partner in the other list."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from math import isfinite
from typing import Any

from pointsman.comparing.answers import kind_of
from pointsman.comparing.paths import Places

MAX_MATCHED = 200
"""Items with several numbers each, alike but for these, which must be tried against each other."""

Fits = Callable[[int, int], bool]
"""Whether an item of the one list, by its place, is close to one of the other."""


class TooLong(Exception):
    """Comparing two answers would take too long."""


def unmatched(
    a: list[Any], b: list[Any], shapes_a: Sequence[Hashable], shapes_b: Sequence[Hashable], fits: Fits | None
) -> tuple[list[int], list[int]]:
    """Places of the items that have no partner in the other list, where as many as possible have one.

    Args:
        shapes_a, shapes_b: of each item its :func:`shape`; partners have one shape.
        fits: what else makes two items of one shape partners; None for nothing.

    Raises:
        TooLong: too many items must be tried against each other.
    """
    groups: defaultdict[Hashable, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for side, shapes in enumerate((shapes_a, shapes_b)):
        for place, key in enumerate(shapes):
            groups[key][side].append(place)
    left_a: list[int] = []
    left_b: list[int] = []
    for of_a, of_b in groups.values():
        pairs = min(len(of_a), len(of_b))
        if fits is None or not pairs:
            left_a += of_a[pairs:]
            left_b += of_b[pairs:]
        else:
            partners = _partners(a, b, of_a, of_b, fits)
            taken = set(partners.values())
            left_a += [place for place in of_a if place not in partners]
            left_b += [place for place in of_b if place not in taken]
    return sorted(left_a), sorted(left_b)


def _partners(a: list[Any], b: list[Any], of_a: list[int], of_b: list[int], fits: Fits) -> dict[int, int]:
    """Items of one shape that fit, as many pairs as there can be: place in a -> place in b."""
    plain = kind_of(a[of_a[0]]) is float
    of_a = sorted(of_a, key=a.__getitem__ if plain else lambda place: _numbers(a[place]))
    of_b = sorted(of_b, key=b.__getitem__ if plain else lambda place: _numbers(b[place]))
    if len(of_a) == len(of_b) and all(map(fits, of_a, of_b)):
        return dict(zip(of_a, of_b, strict=True))
    if plain:
        return _close_numbers(a, b, of_a, of_b, fits)
    if max(len(of_a), len(of_b)) > MAX_MATCHED:
        raise TooLong
    found = largest_matching(len(of_a), len(of_b), lambda i, j: fits(of_a[i], of_b[j]))
    return {of_a[i]: of_b[j] for i, j in found.items()}


def _close_numbers(a: list[Any], b: list[Any], of_a: list[int], of_b: list[int], fits: Fits) -> dict[int, int]:
    """The same for numbers in their order, where the smallest two that fit can always be a pair."""
    partners: dict[int, int] = {}
    i = j = 0
    while i < len(of_a) and j < len(of_b):
        first, second = of_a[i], of_b[j]
        if fits(first, second):
            partners[first] = second
            i, j = i + 1, j + 1
        elif a[first] < b[second]:
            i += 1
        else:
            j += 1
    return partners


def largest_matching(first: int, second: int, fits: Fits) -> dict[int, int]:
    """As many pairs as there can be of two groups, each member in one pair at the most.

    Source: H. W. Kuhn, "The Hungarian method for the assignment problem", Naval Research Logistics Quarterly 2, 1955,
    in its form for pairs that fit or do not.
    """
    fitting = [[j for j in range(second) if fits(i, j)] for i in range(first)]
    partner: dict[int, int] = {}

    def find(i: int, tried: set[int]) -> bool:
        # A path of partners that change over; by a stack, since it can be as long as the group.
        path: list[tuple[int, Iterator[int]]] = [(i, iter(fitting[i]))]
        chosen: list[int] = []
        while path:
            j = next((j for j in path[-1][1] if j not in tried), None)
            if j is None:
                path.pop()
                if chosen:
                    chosen.pop()
                continue
            tried.add(j)
            chosen.append(j)
            if j not in partner:
                for (member, _), other in zip(path, chosen, strict=True):
                    partner[other] = member
                return True
            path.append((partner[j], iter(fitting[partner[j]])))
        return False

    for i in range(first):
        find(i, set())
    return {i: j for j, i in partner.items()}


def shape(value: Any, exact: bool, ignore: Places, unordered: Places) -> Hashable:
    """What two items must have in common to be equal: all, or unless ``exact`` all but their numbers.

    Args:
        ignore, unordered: the item's place.
    """
    if ignore.hit:
        return ()
    if isinstance(value, dict):
        members = ((key, shape(item, exact, ignore.below(key), unordered.below(key))) for key, item in value.items())
        return dict, frozenset(member for member in members if member[1] != ())
    if isinstance(value, list):
        if not unordered.hit:
            items = (
                shape(item, exact, ignore.below(place), unordered.below(place)) for place, item in enumerate(value)
            )
            return list, _without_ignored_end(items)
        ignore, unordered = ignore.below(None), unordered.below(None)
        counted = Counter(shape(item, exact, ignore, unordered) for item in value)
        return list, frozenset(counted.items()) if not ignore.hit else ()
    kind = kind_of(value)
    if kind is not float:
        return kind, value
    if value != value:
        return kind, "NaN"
    return kind, value if exact or not _is_finite(value) else "a number"


def _without_ignored_end(items: Iterable[Hashable]) -> Hashable:
    """Items of a list, of which those may be missing that are ignored."""
    shapes = list(items)
    while shapes and shapes[-1] == ():
        shapes.pop()
    return tuple(shapes)


def _is_finite(value: Any) -> bool:
    try:
        return isfinite(value)
    except OverflowError:
        return False


def _numbers(value: Any) -> list[float]:
    """The finite numbers of an item, by the names of objects: items that are close to each other are so in these."""
    if isinstance(value, dict):
        return [number for key in sorted(value) for number in _numbers(value[key])]
    if isinstance(value, list):
        return [number for item in value for number in _numbers(item)]
    return [float(value)] if kind_of(value) is float and value == value and _is_finite(value) else []
