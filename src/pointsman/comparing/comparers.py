"""What users write of a comparison, checked and made plain data. Each error is one sentence, and the author of the call
is at fault. That a user's function can be imported is checked by who knows the import path: the client."""

from __future__ import annotations

import re
from typing import Any

from pointsman.comparing.paths import check_paths, names_one_place, parse
from pointsman.model.comparison import Comparer, Comparison, Exact, Function, Json, Text, TopK
from pointsman.stats.checking import check_count, check_number

MAX_LABELS = 1_000_000

MAX_KEEP = 1000
"""Examples of one shadow that can be asked for; 16 MiB of them are kept at the most."""

NONE = "none"
"""As ``compare``: answers are not compared any more."""

_NAMED: dict[str, Comparer | None] = {"exact": Exact(), "json": Json(), NONE: None}
_COMPARERS = (Exact, Json, TopK, Text, Function)
_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def json(
    *,
    ignore: list[str] | tuple[str, ...] = (),
    rel: float = 0,
    abs: float = 0,  # noqa: A002 - as math.isclose and numpy call it, nearly
    unordered: list[str] | tuple[str, ...] = (),
) -> Json:
    """Compare answers as JSON values. The order of keys is nothing, NaN equals NaN, and a bool is no number.

    Args:
        ignore: paths of what may differ, be missing or be there in one answer only: ``["$.id", "$..took_ms"]``.
        rel, abs: numbers are equal that ``math.isclose(a, b, rel_tol=rel, abs_tol=abs)`` calls so. ``rel`` is at least
            0 and below 1, ``abs`` at least 0. With both 0, 1 and 1.0 are equal.
        unordered: paths of lists whose order is nothing: ``["$.tags"]``.

    Returns:
        For ``shadow_traffic(..., compare=...)``.

    Raises:
        TypeError: paths are no list of str, or a tolerance is no number.
        ValueError: a path is none, or a tolerance is out of its range.
    """
    closeness = check_number(rel, "rel")
    if not 0 <= closeness < 1:
        raise ValueError(f"rel must be at least 0 and below 1, not {rel!r}")
    distance = check_number(abs, "abs")
    if distance < 0:
        raise ValueError(f"abs must be at least 0, not {abs!r}")
    return Json(check_paths(ignore, "ignore"), closeness, distance, check_paths(unordered, "unordered"))


def top_k(k: int, path: str = "$", min_overlap: float = 1.0) -> TopK:
    """Compare the best labels of two answers, whatever their order.

    Args:
        k: how many, from 1 to 1,000,000. An answer with fewer labels counts with those that it has.
        path: where they are: a list of labels, best first; a list of ``{"label": ..., "score": ...}``; or an object of
            label to score. Higher scores are better. It names one place, so without ``[*]`` and ``..name``.
        min_overlap: the share of labels that must be in both, 0 to 1.

    Returns:
        For ``shadow_traffic(..., compare=...)``.

    Raises:
        TypeError: an argument is of another type.
        ValueError: ``path`` is none, or leads to several places, or a number is out of its range.
    """
    count = check_count(k, "k")
    if not 1 <= count <= MAX_LABELS:
        raise ValueError(f"k must be from 1 to {MAX_LABELS}, not {k!r}")
    if not names_one_place(parse(path)):
        raise ValueError(f"path {path!r} of the labels must name one place, without '[*]' and '..name'")
    return TopK(count, path, _share(min_overlap, "min_overlap"))


def text(min_similarity: float) -> Text:
    """Compare answers as texts, word by word.

    Args:
        min_similarity: 0 to 1: twice the number of words in common, in the same order, over the number of words of
            both, as by ``difflib.SequenceMatcher.ratio``.

    Returns:
        For ``shadow_traffic(..., compare=...)``.

    Raises:
        TypeError: not a number.
        ValueError: out of its range.
    """
    return Text(_share(min_similarity, "min_similarity"))


def function(path: str) -> Function:
    """Compare answers by a function of your own: it is called with what the primary and the shadow answered, JSON and
    texts decoded, and returns whether they match, or a number from 0 to 1, where 1 matches. It runs in a process of its
    own, and may take 1 s.

    Args:
        path: where it is imported, such as ``"my_package.my_module:name"``.

    Returns:
        For ``shadow_traffic(..., compare=...)``, which also imports it.

    Raises:
        TypeError: not a str.
        ValueError: not such a path.
    """
    if not isinstance(path, str):
        raise TypeError(f"path must be an import path such as 'package.module:name', not {path!r:.100}")
    if not _IMPORT_PATH.fullmatch(path):
        raise ValueError(f"path must be an import path such as 'package.module:name', not {path!r:.100}")
    return Function(path)


def comparison(compare: Any, *, noise: Any = 0.1, keep: Any = 50, redact: Any = ()) -> Comparison | None:
    """The whole comparison of one shadow, from the arguments of ``shadow_traffic``; None for ``"none"``.

    Args:
        compare: ``"exact"``, ``"json"``, ``"none"``, or what a function of this module returned.
        noise: the share of copied calls that are also copied to the primary's own backend, 0 to 1.
        keep: how many examples of mismatches are kept, 0 to 1000.
        redact: paths of what is never stored.

    Raises:
        TypeError: another ``compare``, or an argument of another type.
        ValueError: a path is none, or a number is out of its range.
    """
    share, examples = _share(noise, "noise"), check_count(keep, "keep")
    if examples > MAX_KEEP:
        raise ValueError(f"keep must be at most {MAX_KEEP}, not {keep!r}")
    hidden = check_paths(redact, "redact")
    by = comparer(compare)
    return Comparison(by, share, examples, hidden) if by is not None else None


def comparer(compare: Any) -> Comparer | None:
    """What ``compare`` names; None for ``"none"``.

    Raises:
        TypeError, ValueError: it names nothing, or was not made by this module and is wrong.
    """
    if isinstance(compare, str) and compare in _NAMED:
        return _NAMED[compare]
    if not isinstance(compare, _COMPARERS):
        raise TypeError(
            "compare must be 'exact', 'json', 'none', or what a function of pointsman.compare returned, such as "
            f"compare.json(), not {compare!r:.100}"
        )
    return _checked(compare)


def _checked(by: Comparer) -> Comparer:
    """Whoever makes the types without the functions gets their errors here."""
    if isinstance(by, Json):
        return json(ignore=by.ignore, rel=by.rel, abs=by.abs, unordered=by.unordered)
    if isinstance(by, TopK):
        return top_k(by.k, by.path, by.min_overlap)
    if isinstance(by, Text):
        return text(by.min_similarity)
    if isinstance(by, Function):
        function(by.path)
    return by


def _share(value: Any, what: str) -> float:
    share = check_number(value, what)
    if not 0 <= share <= 1:
        raise ValueError(f"{what} must be from 0 to 1, not {value!r}")
    return share
