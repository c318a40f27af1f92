"""wire.tables: routers that get what changes have what they would have if they got everything."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.model import BackendRoute, EndpointSpec, ReplicaRef, RoutingTable, TrafficPolicy
from pointsman.wire.messages import pack, unpack
from pointsman.wire.tables import TableChange, WrongBaseError, apply_change, changed, difference
from tests.properties import examples

NAMES = st.sampled_from("abcde")


def endpoint(name: str, version: int) -> EndpointSpec:
    return EndpointSpec(name, f"/{name}", ("GET",), TrafficPolicy(version, {"b": 1.0}))


def route(tag: str, replicas: int) -> BackendRoute:
    return BackendRoute(tag, tuple(ReplicaRef(n, f"{tag}#{n}", f"/r/{n}", b"key") for n in range(replicas)), 100, 1000)


def of_names(value: Any) -> Any:
    return st.dictionaries(NAMES, st.integers(0, 3)).map(lambda d: {name: value(name, n) for name, n in d.items()})


TABLES = st.builds(
    lambda parts, up: [RoutingTable(version, *one, came_up=version >= up) for version, one in enumerate(parts, 1)],
    st.lists(
        st.tuples(of_names(endpoint), of_names(route), of_names(lambda name, n: bytes([n]))), min_size=2, max_size=8
    ),
    st.integers(1, 9),
)


@examples(200)
@given(TABLES)
def test_changes_make_what_the_whole_would_be(tables: list[RoutingTable]) -> None:
    """Whoever changes an instance again and again finds every router as if it had got each table whole (CL4)."""
    here = tables[0]
    for before, after in pairwise(tables):
        change = unpack(pack(difference(before, after)), TableChange)
        here = apply_change(here, change)
        assert here == after


@examples(100)
@given(TABLES)
def test_a_change_of_another_table_changes_nothing(tables: list[RoutingTable]) -> None:
    """A router that lacks a table in between does not use the next change: it would serve a mixture (CL4, FT7)."""
    first, *_, before, last = [RoutingTable(0, {}, {}), *tables]
    whole = pack(first)
    with pytest.raises(WrongBaseError, match=f"a change of routing table {before.version} does not fit table 0"):
        apply_change(first, difference(before, last))
    assert pack(first) == whole


def test_a_change_is_as_large_as_what_differs() -> None:
    """One endpoint of 1,000 is moved, and one is deleted: routers are sent two entries, some hundred bytes (CL4)."""
    endpoints = {name: endpoint(name, 1) for name in map(str, range(1000))}
    backends = {tag: route(tag, 5) for tag in map(str, range(1000))}
    table = RoutingTable(1, endpoints, backends)
    after = {**endpoints, "7": endpoint("7", 2)}
    del after["8"]
    change = difference(table, RoutingTable(2, after, {**backends}))
    assert change == TableChange(1, 2, {"7": after["7"], "8": None})
    assert len(pack(change)) < 300 < len(pack(table)) / 1000


def test_equal_entries_are_not_sent_again() -> None:
    """A table that was made anew, entry by entry, and says the same, is no change."""
    assert changed({"a": endpoint("a", 1)}, {"a": endpoint("a", 1)}) == {}
    assert difference(RoutingTable(1, {}, {}), RoutingTable(2, {}, {})).is_empty
