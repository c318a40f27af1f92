"""controller.desired: changes of weights and shadows are carried out whole or refused with nothing changed."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.controller.desired import apply
from pointsman.controller.endpoints import normalised
from pointsman.model import CustomPolicy
from pointsman.wire.commands import DeleteBackend, DeleteEndpoint, SetTraffic, ShadowTraffic
from pointsman.wire.messages import pack
from tests.properties import examples
from tests.unit.desiring import (
    ROOM,
    SERVED,
    create,
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


@pytest.mark.parametrize(
    ("weights", "parts"),
    [
        ({"one": -0.1, "two": 1.1}, ["-0.1", "'one'"]),
        ({"one": math.nan, "two": 1.0}, ["nan", "'one'"]),
        ({"one": math.inf}, ["inf", "'one'"]),
        ({"two": -math.inf, "one": 1.0}, ["-inf", "'two'"]),
        ({"one": 0.5, "two": 0.6}, ["1.1", "sum to 1"]),
        ({"one": 0.5, "two": 0.4}, ["0.9", "sum to 1"]),
        ({"one": 1.0, "two": 2e-5}, ["1.00002", "sum to 1"]),
        ({"one": 1.0 - 2e-5}, ["0.99998", "sum to 1"]),
        ({"one": 0.0}, ["sum to 0", "'one'"]),
        ({}, ["empty"]),
        ({"one": 1e308, "two": 1e308}, ["inf"]),
        ({"one": 1.0, "ghost": 0.0}, ["'ghost'", "does not exist"]),
    ],
)
def test_bad_weights_are_refused(weights: dict[str, float], parts: list[str]) -> None:
    """A policy with a bad weight, a wrong sum or an unknown backend is refused by value (TR1, TR2)."""
    refused(SERVED, SetTraffic("id", "e", weights), *parts)


def test_traffic_of_an_unknown_endpoint() -> None:
    """A policy for a misspelt endpoint is refused, with the nearest known one (TR1)."""
    refused(SERVED, SetTraffic("id", "ee", {"one": 1.0}), "'ee'", "does not exist", "'e'")


@pytest.mark.parametrize(
    "weights",
    [
        {"one": 0.4, "two": 0.6},
        {"one": 1, "two": 0},
        {"one": 0.0, "two": 1.0},
        {"two": 1.0},
        {"one": 1.0, "two": 9e-6},
        {"one": 1.0 - 9e-6},
        {"one": 1 / 3, "two": 2 / 3},
    ],
)
def test_good_weights_are_normalised(weights: dict[str, float]) -> None:
    """A policy within the tolerance is accepted, scaled to 1, and keeps its backends at weight 0 (TR1, TR2, TR10)."""
    policy = done(SERVED, SetTraffic("id", "e", weights)).endpoints["e"].policy
    assert list(policy.weights) == list(weights)
    assert sum(policy.weights.values()) == pytest.approx(1, abs=1e-12)
    assert policy.weights == pytest.approx(weights, abs=1e-5)
    assert all(type(weight) is float for weight in policy.weights.values())
    changed = policy.weights != SERVED.endpoints["e"].policy.weights
    assert (policy.version > SERVED.endpoints["e"].policy.version) == changed


def test_traffic_keeps_the_rest_of_the_endpoint() -> None:
    """A new policy leaves route, methods and flags of its endpoint, and all other endpoints, alone (TR9)."""
    state = done(SERVED, endpoint("i", "one", route="/i", methods=("GET", "POST"), idempotent=True))
    new = done(state, SetTraffic("id", "i", {"two": 1.0}))
    assert msgspec.structs.replace(new.endpoints["i"], policy=state.endpoints["i"].policy) == state.endpoints["i"]
    assert new.endpoints["e"] == state.endpoints["e"]


def test_weights_and_shadows_in_one_change() -> None:
    """Weights and shadows are set together, in one version of the policy; what is left out stays (AD5, TR9)."""
    state = done(SERVED, shadow("two", 0.3))
    both = done(state, SetTraffic("id", "e", {"one": 0.5, "two": 0.5}, shadows={"one": 0.2, "two": 0.0}))
    assert (policy(both).weights, policy(both).shadows) == ({"one": 0.5, "two": 0.5}, {"one": 0.2})
    assert len(versions(both)) == len(versions(state)) + 1
    only_shadows = done(both, SetTraffic("id", "e", None, shadows={}))
    assert (policy(only_shadows).weights, policy(only_shadows).shadows) == (policy(both).weights, {})


@pytest.mark.parametrize(
    ("shadows", "parts"),
    [
        ({"two": 1.5}, ["1.5", "'two'", "between 0 and 1"]),
        ({"two": math.nan}, ["nan", "between 0 and 1"]),
        ({"ghost": 0.1}, ["'ghost'", "does not exist"]),
    ],
)
def test_bad_shadows_leave_the_weights_as_they_were(shadows: dict[str, float], parts: list[str]) -> None:
    """With a shadow that cannot be, good weights beside it are not set either (AD5, AD6)."""
    refused(SERVED, SetTraffic("id", "e", {"two": 1.0}, shadows=shadows), *parts)


def test_full_canary_and_back() -> None:
    """All traffic goes to a new backend and back again, and the idle one can be deleted (TR4, TR5)."""
    state = done(SERVED, SetTraffic("id", "e", {"two": 1.0}), SetTraffic("id", "e", {"one": 1.0}))
    assert state.endpoints["e"].policy.weights == {"one": 1.0}
    assert "two" not in done(state, DeleteBackend("id", "two", False)).backends


@examples(150)
@given(parts=st.dictionaries(st.text(max_size=3), st.integers(0, 10**6), min_size=1).filter(lambda p: any(p.values())))
def test_normalised_weights_are_as_close_as_floats_get(parts: dict[str, int]) -> None:
    """Whatever shares a user computes, they are accepted and keep their proportions (TR1)."""
    total = sum(parts.values())
    weights = normalised({tag: part / total for tag, part in parts.items()})
    assert math.fsum(weights.values()) == pytest.approx(1, abs=1e-9)
    assert weights == pytest.approx({tag: part / total for tag, part in parts.items()})


@examples(200)
@given(parts=st.lists(st.integers(0, 10**6), min_size=2, max_size=8).filter(any), chance=st.randoms())
def test_the_order_of_weights_changes_no_bit(parts: list[int], chance: random.Random) -> None:
    """Two operators who write the same weights in another order get the same floats, so no key moves (SA8)."""
    weights = [(f"b{number}", part / sum(parts)) for number, part in enumerate(parts)]
    shuffled = list(weights)
    chance.shuffle(shuffled)
    assert normalised(dict(shuffled)) == normalised(dict(weights))


def test_the_same_traffic_again() -> None:
    """Setting the policy in force changes nothing, not even a version, in whatever order it is written (TR9)."""
    state = done(SERVED, split(one=0.3, two=0.7), shadow("two", 0.5))
    assert apply(state, split(one=0.3, two=0.7), ROOM)[0] is state
    assert apply(state, split(two=0.7, one=0.3), ROOM)[0] is state
    assert apply(state, shadow("two", 0.5), ROOM)[0] is state


def test_a_thousand_wrong_policies_change_nothing() -> None:
    """However often an operator errs, the state is the one that it was (TR1, CL3)."""
    state, chance = done(SERVED, split(one=0.3, two=0.7), shadow("two", 0.5), pin("alice", "two")), random.Random(1)
    before = pack(state)
    for _ in range(1000):
        weights = {tag: chance.choice([-0.5, 0.2, 0.4, math.nan, math.inf]) for tag in ("one", "two")}
        wrong = chance.choice(
            [
                SetTraffic("id", "e", weights),
                SetTraffic("id", "ghost", {"one": 1.0}),
                SetTraffic("id", "e", {"one": 1.0, "ghost": 0.0}),
                shadow("two", chance.choice([-1.0, 1.5, math.nan])),
                shadow("ghost", 0.5),
                rollback(chance.choice([0, -1, 10**9])),
                pin("alice", "ghost"),
            ]
        )
        with pytest.raises(ValueError):
            apply(state, wrong, ROOM)
    assert pack(state) == before


def test_a_custom_policy_stays_until_it_is_replaced() -> None:
    """New weights keep the user's own way to choose; it goes when another one, or the built-in one, is asked for."""
    mine, yours = CustomPolicy("mine:policy", ("/lib",)), CustomPolicy("yours:policy")
    state = done(SERVED, SetTraffic("id", "e", {"one": 1.0}, mine, keep_custom=False))
    assert policy(state).custom == mine
    assert policy(state).version > policy(SERVED).version
    state = done(state, split(one=0.5, two=0.5), shadow("two", 0.5), shadow("two", 0.0))
    assert policy(state).custom == mine
    assert policy(done(state, SetTraffic("id", "e", {"one": 1.0}, yours, keep_custom=False))).custom == yours
    built_in = done(state, SetTraffic("id", "e", {"one": 1.0}, None, keep_custom=False))
    assert policy(built_in).custom is None
    assert policy(done(built_in, rollback())).custom == mine


# --- shadows --------------------------------------------------------------------------------------------------


def test_shadows_are_added_changed_and_ended() -> None:
    """An endpoint has several shadows with proportions of their own; its primary may be one of them (SH3, SH10)."""
    state = done(SERVED, shadow("one", 1.0), shadow("two", 0.1))
    assert policy(state).shadows == {"one": 1.0, "two": 0.1}
    assert policy(state).weights == policy(SERVED).weights
    state = done(state, shadow("two", 0.9))
    assert policy(state).shadows == {"one": 1.0, "two": 0.9}
    state = done(state, shadow("two", 0.0))
    assert policy(state).shadows == {"one": 1.0}
    assert versions(state) == sorted(set(versions(state)))
    assert len(versions(state)) == 5


@pytest.mark.parametrize("zero", [0.0, -0.0, 0])
def test_ending_a_shadow_that_is_not_there(zero: float) -> None:
    """Proportion 0 without a shadow is no change, and no entry stays that would block a deletion (SH3)."""
    assert apply(SERVED, shadow("two", zero), ROOM)[0] is SERVED
    state = done(SERVED, shadow("two", 0.5), shadow("two", zero))
    assert policy(state).shadows == {}
    assert "two" not in done(state, DeleteBackend("id", "two", False)).backends


@pytest.mark.parametrize("proportion", [math.nan, math.inf, -math.inf, -0.1, 1.1, math.nextafter(1, 2), -5e-324])
def test_bad_proportions_are_refused(proportion: float) -> None:
    """A proportion that is no probability is refused by value, for a new shadow as for one that is there (SH7)."""
    for state in (SERVED, done(SERVED, shadow("two", 0.5))):
        refused(state, shadow("two", proportion), repr(proportion), "'two'", "between 0 and 1")


@pytest.mark.parametrize("proportion", [0.0, 0.5])
def test_shadows_of_what_does_not_exist(proportion: float) -> None:
    """An unknown endpoint or backend is refused by name, also with proportion 0 (SH7)."""
    refused(SERVED, ShadowTraffic("id", "ee", "two", proportion), "'ee'", "does not exist", "'e'")
    refused(SERVED, shadow("twoo", proportion), "'twoo'", "does not exist", "'two'")
    young = apply(SERVED, create("young"), ROOM)[0]
    refused(young, shadow("young", proportion), "'young'", "still starting")


def test_new_weights_keep_the_shadows() -> None:
    """A rollout goes on while shadows stay as they are (TR9)."""
    state = done(SERVED, shadow("two", 0.5), split(one=0.5, two=0.5), split(two=1.0))
    assert policy(state).shadows == {"two": 0.5}


@pytest.mark.parametrize("force", [True, False])
def test_a_shadow_cannot_be_deleted(force: bool) -> None:
    """A backend in use as a shadow cannot be deleted, and the message says how it is used (SH6, TR5)."""
    state = done(SERVED, endpoint("second", "one"), shadow("two", 0.5))
    refused(state, DeleteBackend("id", "two", force), "'two' is in use by endpoint 'e' (as a shadow);")
    assert "two" not in done(state, shadow("two", 0.0), DeleteBackend("id", "two", force)).backends
    assert "two" not in done(state, DeleteEndpoint("id", "e"), DeleteBackend("id", "two", force)).backends
