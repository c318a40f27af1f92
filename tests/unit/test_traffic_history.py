"""controller.desired: each change of traffic is recorded, and can be rolled back."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.controller.desired import apply, confirm, revert
from pointsman.controller.endpoints import KEPT_POLICIES
from pointsman.model import Pins
from pointsman.policy.traffic import TrafficSplit
from pointsman.wire.commands import Change, DeleteBackend, Pin, RollbackTraffic, SetTraffic, ShadowTraffic, Unpin
from tests.properties import examples
from tests.unit.desiring import (
    EMPTY,
    ONE,
    ROOM,
    SERVED,
    create,
    deploy,
    done,
    endpoint,
    pin,
    policy,
    refused,
    rollback,
    shadow,
    split,
    versions,
)


def test_each_change_is_recorded() -> None:
    """The history says what was in force, since when, through what, and by whom; the last line is in force (TR4)."""
    state = ONE
    orders: list[Change] = [
        create("two"),
        msgspec.structs.replace(endpoint("e", "one"), by="ann"),
        msgspec.structs.replace(split(one=0.5, two=0.5), by="bob"),
        msgspec.structs.replace(shadow("two", 0.5), by="cy"),
        pin("alice", "two"),
        msgspec.structs.replace(shadow("two", 0.5), by="nobody: it is no change"),
        msgspec.structs.replace(rollback(), by="dan"),
    ]
    for hour, order in enumerate(orders):
        state, _ = apply(state, order, ROOM, f"{hour} o'clock")
        state = confirm(state, "two")
    changes = state.histories["e"].changes
    first = changes[0].policy.version
    assert [(change.change, change.by, change.time) for change in changes] == [
        ("created", "ann", "1 o'clock"),
        ("set_traffic", "bob", "2 o'clock"),
        ("shadow_traffic", "cy", "3 o'clock"),
        (f"rollback_traffic to {first + 1}", "dan", "6 o'clock"),
    ]
    assert changes[-1].policy == policy(state)
    assert versions(state) == sorted(set(versions(state)))


def test_the_last_fifty_policies_are_kept() -> None:
    """The history does not grow for ever, and what has left it cannot be rolled back to (TR4)."""
    state = done(SERVED, *(split(one=n / 100, two=1 - n / 100) for n in range(1, 61)))
    assert len(versions(state)) == KEPT_POLICIES == 50
    assert state.histories["e"].changes[-1].policy == policy(state)
    assert state.histories["e"].changes[0].policy.weights["one"] == pytest.approx(0.11)
    refused(state, rollback(policy(SERVED).version), "'e' has no traffic policy of version", f"{versions(state)[0]}, ")
    oldest = done(state, rollback(versions(state)[0]))
    assert policy(oldest).weights["one"] == pytest.approx(0.11)
    assert len(versions(oldest)) == 50


def test_rolling_back_restores_weights_and_shadows() -> None:
    """One step back, or any number of them, and every user is where they were (SA8, TR4)."""
    start = done(SERVED, split(one=0.9, two=0.1), shadow("two", 0.5))
    state = done(start, split(one=0.2, two=0.8), shadow("two", 0.0), split(two=1.0))
    back = done(state, rollback(policy(start).version))
    assert policy(back).same_as(policy(start))
    assert policy(back).version > policy(state).version
    keys = [f"user {number}" for number in range(500)]
    one, other = TrafficSplit("e", policy(start)), TrafficSplit("e", policy(back))
    assert [one.by_key(key) for key in keys] == [other.by_key(key) for key in keys]
    before = done(state, rollback())
    assert (policy(before).weights, policy(before).shadows) == ({"one": 0.2, "two": 0.8}, {})
    assert policy(done(before, rollback())).same_as(policy(state))


def test_rolling_back_to_what_is_in_force() -> None:
    """A rollback to the policy in force, or to one that equals it, changes nothing (TR4)."""
    state = done(SERVED, split(two=1.0), split(one=1.0))
    assert apply(state, rollback(policy(state).version), ROOM)[0] is state
    assert apply(state, rollback(policy(SERVED).version), ROOM)[0] is state


def test_rolling_back_to_what_never_was() -> None:
    """An unknown version is refused with those that there are; a first policy has none before it (TR1)."""
    refused(SERVED, rollback(), "'e'", "one traffic policy only")
    state = done(SERVED, split(two=1.0))
    known = ", ".join(map(str, versions(state)))
    refused(state, rollback(99), "'e' has no traffic policy of version 99; it has " + known)
    refused(state, RollbackTraffic("id", "ee", None), "'ee'", "does not exist", "'e'")


@pytest.mark.parametrize("use", [split(one=0.5, two=0.5), shadow("two", 0.5)])
def test_rolling_back_to_a_backend_that_is_gone(use: Change) -> None:
    """A policy whose backend was deleted, or made anew and is still starting, cannot come back (TR1, CB10)."""
    end = split(one=1.0) if isinstance(use, SetTraffic) else shadow("two", 0.0)
    used = done(SERVED, use)
    state = done(used, end, DeleteBackend("id", "two", False))
    words = (f"traffic policy {policy(used).version} of endpoint 'e' needs backend 'two'", "does not exist any more")
    refused(state, rollback(), *words)
    young = apply(state, create("two"), ROOM)[0]
    refused(young, rollback(), "'two'", "still starting")
    assert policy(done(confirm(young, "two"), rollback())).same_as(policy(used))


def test_a_failed_first_deploy_takes_pins_and_history_along() -> None:
    """Nothing of a first deploy that fails is left, not even what was set on its endpoint meanwhile (DP2)."""
    state, _ = apply(SERVED, deploy("d", route="/d"), ROOM, "now")
    assert [change.change for change in state.histories["d"].changes] == ["deployed"]
    for order in (Pin("id", "d", ("alice",), "one"), ShadowTraffic("id", "d", "two", 0.5)):
        state, _ = apply(state, order, ROOM, "now")
    refused(state, DeleteBackend("id", "two", False), "'d' (as a shadow)")
    back = revert(state, "d")
    assert (back.pins, back.histories, back.endpoints) == (SERVED.pins, SERVED.histories, SERVED.endpoints)
    assert "two" not in done(back, DeleteBackend("id", "two", False)).backends


def test_a_failed_redeploy_keeps_pins_and_history() -> None:
    """A re-deploy that fails takes back its route, and not the traffic that was set meanwhile (DP2, DP4)."""
    state = done(SERVED, deploy("d", route="/old"), Pin("id", "d", ("alice",), "one"))
    failed, _ = apply(state, deploy("d", code="bad", route="/new"), ROOM)
    failed, _ = apply(failed, SetTraffic("id", "d", {"d": 0.5, "one": 0.5}), ROOM)
    back = revert(failed, "d")
    assert (back.endpoints["d"].route, back.endpoints["d"].policy) == ("/old", failed.endpoints["d"].policy)
    assert (back.pins, back.histories) == (failed.pins, failed.histories)
    assert len(back.histories["d"].changes) == 2


def test_another_version_of_code_is_no_change_of_traffic() -> None:
    """Re-deploys leave no line in the traffic history, since the policy stays (DP4)."""
    state = done(EMPTY, deploy("d"), deploy("d", code="v2"), deploy("d", code="v3", route="/d"))
    assert [change.change for change in state.histories["d"].changes] == ["deployed"]


tags = st.sampled_from(["one", "two", "three"])
keys = st.sampled_from(["", "alice", "bob"])
proportions = st.sampled_from([0.0, 1e-9, 0.5, 1.0, -0.1, 1.1, math.nan, math.inf])
weights = st.lists(st.integers(0, 9), min_size=3, max_size=3).map(
    lambda parts: {tag: part / (sum(parts) or 1) for tag, part in zip(("one", "two", "three"), parts, strict=True)}
)
traffic_commands: st.SearchStrategy[Change] = st.one_of(
    st.builds(SetTraffic, st.just("id"), st.just("e"), weights),
    st.builds(SetTraffic, st.just("id"), st.just("e"), st.dictionaries(tags, st.sampled_from([0.0, 0.5, 1.0, 1e308]))),
    st.builds(shadow, tags, proportions),
    st.builds(rollback, st.none() | st.integers(0, 30)),
    st.builds(pin, keys, tags),
    st.builds(Unpin, st.just("id"), st.just("e"), keys),
    st.builds(DeleteBackend, st.just("id"), tags, st.booleans()),
    st.builds(create, tags),
)


@examples(200)
@given(orders=st.lists(traffic_commands, max_size=60))
def test_any_order_of_traffic_changes_leaves_a_whole_policy(orders: list[Change]) -> None:
    """Whatever operators do to an endpoint's traffic, it can be served, and its history is true (TR1, SH3, SH6)."""
    state = done(SERVED, create("three"))
    for order in orders:
        old = state
        try:
            state, _ = apply(old, order, ROOM, "now")
        except ValueError:
            continue
        for tag in state.fallbacks:
            state = confirm(state, tag)
        assert state is old or state.version == old.version + 1
        now = policy(state)
        assert math.fsum(now.weights.values()) == pytest.approx(1, abs=1e-9)
        assert all(0 < proportion <= 1 for proportion in now.shadows.values())
        changes = state.histories["e"].changes
        assert changes[-1].policy == now
        assert versions(state) == sorted(set(versions(state)))
        assert len(changes) <= KEPT_POLICIES
        pinned = state.pins.get("e", Pins()).keys
        assert {*now.weights, *now.shadows, *pinned.values()} <= set(state.backends)
        assert now.version <= state.version
        if now != policy(old):
            assert now.version == state.version > policy(old).version
