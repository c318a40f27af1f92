"""What differs between two routing tables. Pure.

The first table that a router gets is whole, and so is every table that a new controller begins with. Any other comes as
a change of the one before, which names that by its version: routers refuse a change of a table that they do not use,
and subscribe again, which gets them the whole (decision 0058).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import compress
from operator import is_, is_not
from typing import TypeVar

from pointsman.model import BackendRoute, EndpointSpec, RoutingTable, Struct

V = TypeVar("V")


class TableChange(Struct, frozen=True):
    """The entries in which a routing table differs from an earlier one; None for one that it does not have any more.

    Attributes:
        base: version of the earlier table.
        version: of the table.
        came_up: the instance has come up, and had not before.
    """

    base: int
    version: int
    endpoints: dict[str, EndpointSpec | None] = {}
    backends: dict[str, BackendRoute | None] = {}
    pins: dict[str, bytes | None] = {}
    came_up: bool = False

    @property
    def is_empty(self) -> bool:
        """True if the tables differ in nothing but their version."""
        return not (self.endpoints or self.backends or self.pins or self.came_up)


class WrongBaseError(ValueError):
    """The change belongs to another table."""


def difference(old: RoutingTable, new: RoutingTable) -> TableChange:
    """The change that makes ``new`` of ``old``."""
    return TableChange(
        old.version,
        new.version,
        changed(old.endpoints, new.endpoints),
        changed(old.backends, new.backends),
        changed(old.pins, new.pins),
        new.came_up and not old.came_up,
    )


def apply_change(table: RoutingTable, change: TableChange) -> RoutingTable:
    """The table after a change.

    Raises:
        WrongBaseError: it is a change of another table.
    """
    if change.base != table.version:
        raise WrongBaseError(f"a change of routing table {change.base} does not fit table {table.version}")
    return RoutingTable(
        change.version,
        with_changes(table.endpoints, change.endpoints),
        with_changes(table.backends, change.backends),
        with_changes(table.pins, change.pins),
        table.came_up or change.came_up,
    )


def changed(old: Mapping[str, V], new: Mapping[str, V]) -> dict[str, V | None]:
    """The entries of ``new`` that ``old`` lacks or has otherwise, and None for each that only ``old`` has."""
    if old is new:
        return {}
    # Most values are the very same object; comparing two that are equal takes a hundred times longer. And mostly one
    # mapping was copied from the other, so that their names have one order: then no name need be looked up.
    if len(old) == len(new) and all(map(is_, old, new)):
        others = compress(new.items(), map(is_not, new.values(), old.values()))
        return {name: value for name, value in others if old[name] != value}
    different: dict[str, V | None] = {
        name: value for name, value in new.items() if old.get(name) is not value and old.get(name) != value
    }
    if len(new) - sum(name not in old for name in different) != len(old):
        different.update(dict.fromkeys(old.keys() - new.keys()))
    return different


def with_changes(mapping: dict[str, V], changes: Mapping[str, V | None]) -> dict[str, V]:
    """A copy of the mapping with changed entries; the mapping itself if there are none."""
    if not changes:
        return mapping
    new = dict(mapping)
    for name, value in changes.items():
        if value is None:
            new.pop(name, None)
        else:
            new[name] = value
    return new
