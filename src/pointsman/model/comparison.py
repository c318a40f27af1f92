"""How the answers of a shadow are compared with those that users got: what a traffic policy carries of it.

``serve.compare`` makes and checks these (:mod:`pointsman.comparing.comparers`). Paths are in the syntax of
:mod:`pointsman.comparing.paths`.
"""

from __future__ import annotations

from pointsman.model.origin import Struct


class Exact(Struct, frozen=True, tag="exact"):
    """Status, content type and bytes are equal."""


class Json(Struct, frozen=True, tag="json"):
    """The JSON values are equal, whatever the order of keys.

    Attributes:
        ignore: paths of what may differ.
        rel, abs: tolerances of numbers, as those of ``math.isclose``.
        unordered: paths of lists whose order is nothing.
    """

    ignore: tuple[str, ...] = ()
    rel: float = 0.0
    abs: float = 0.0
    unordered: tuple[str, ...] = ()


class TopK(Struct, frozen=True, tag="top_k"):
    """The best ``k`` labels are the same ones.

    Attributes:
        path: where the labels are in the answer.
        min_overlap: the share of labels that must be in both, 0 to 1.
    """

    k: int
    path: str = "$"
    min_overlap: float = 1.0


class Text(Struct, frozen=True, tag="text"):
    """The texts have so many words in common, in the same order: 0 none, 1 all."""

    min_similarity: float


class Function(Struct, frozen=True, tag="function"):
    """A function of the user decides.

    Attributes:
        path: where to import it, ``package.module:name``.
        sys_path: folders to find it in.
    """

    path: str
    sys_path: tuple[str, ...] = ()


Comparer = Exact | Json | TopK | Text | Function


class Comparison(Struct, frozen=True):
    """How one shadow of an endpoint is compared.

    Attributes:
        by: what makes two answers equal.
        noise: the share of copied calls that are also copied to the primary's own backend, which shows how often it
            disagrees with itself.
        keep: how many examples of mismatches are kept.
        redact: paths of what is never stored.
        name: what the controller calls it once it is in force; also that of its folder.
        since: when that was, ISO 8601 in UTC.
    """

    by: Comparer
    noise: float = 0.1
    keep: int = 50
    redact: tuple[str, ...] = ()
    name: str = ""
    since: str = ""
