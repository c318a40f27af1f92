"""The rows by family. A row is a function of an arena; what it returns is nothing, what it finds is in the arena."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tests.chaos.arena import Arena


class Row(NamedTuple):
    """One fault.

    Attributes:
        key: as the test plan names it.
        title: what is broken, and how.
        run: breaks it.
        engines: on which it can be run.
        short: whether it is part of the tests.
        nodes: of the Ray cluster that it needs; 0 for one that the instance starts itself.
        http: more HTTP options of its instance.
    """

    key: str
    title: str
    run: Callable[[Arena], None]
    engines: tuple[str, ...] = ("local",)
    short: bool = False
    nodes: int = 0
    http: dict[str, Any] = {}


ROWS: dict[str, Row] = {}


def row(
    key: str, title: str, *, engines: tuple[str, ...] = ("local",), short: bool = False, nodes: int = 0, **http: Any
) -> Callable[[Callable[[Arena], None]], Callable[[Arena], None]]:
    """Enter a function into the table."""

    def enter(function: Callable[[Arena], None]) -> Callable[[Arena], None]:
        ROWS[key] = Row(key, title, function, engines, short, nodes, http)
        return function

    return enter
