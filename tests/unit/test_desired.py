"""controller.desired: each change is carried out whole or refused with nothing changed."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from pointsman.controller.desired import apply, confirm, revert
from pointsman.controller.endpoints import KEPT_POLICIES, MAX_PINS, normalised
from pointsman.controller.state import Desired, Fallback, Room
from pointsman.exceptions import InsufficientResourcesError
from pointsman.model import (
    Allocation,
    BackendConfigSpec,
    Capacity,
    CustomPolicy,
    Origin,
    Pins,
    Resources,
    TargetTraits,
    TrafficPolicy,
)
from pointsman.policy.routes import parse_route
from pointsman.policy.traffic import TrafficSplit
from pointsman.wire.commands import (
    Change,
    CreateBackend,
    CreateEndpoint,
    DeleteBackend,
    DeleteEndpoint,
    Deploy,
    Pin,
    RollbackTraffic,
    SetTraffic,
    ShadowTraffic,
    Unpin,
    UpdateBackendConfig,
)
from pointsman.wire.messages import pack

ORIGIN = Origin("/", ())

FUNCTION = TargetTraits(is_class=False)
CLASS = TargetTraits(is_class=True)
BATCHING = TargetTraits(is_class=False, batches=True)
BATCHING_METHOD = TargetTraits(is_class=True, has_batching_method=True)
RECONFIGURABLE = TargetTraits(is_class=True, has_reconfigure=True)
GPU = Resources(num_gpus=1)
ROOM = Room(Capacity(num_gpus=2, memory=1000, custom={"tpu": 1}))


def create(
    tag: str,
    *,
    traits: TargetTraits = FUNCTION,
    resources: Resources | None = None,
    **config: object,
) -> CreateBackend:
    spec = msgspec.convert(config, BackendConfigSpec)
    return CreateBackend("id", tag, f"code of {tag}", ORIGIN, traits, spec, resources or Resources())


def update(tag: str, **changes: object) -> UpdateBackendConfig:
    user_config = changes.get("user_config")
    assert user_config is None or isinstance(user_config, bytes)
    return UpdateBackendConfig("id", tag, {**changes, **({"user_config": None} if user_config else {})}, user_config)


def endpoint(
    name: str, backend: str, *, route: str | None = None, methods: tuple[str, ...] = ("GET",), idempotent: bool = False
) -> CreateEndpoint:
    return CreateEndpoint("id", name, backend, route, methods, idempotent)


def deploy(
    name: str,
    *,
    code: str = "new code",
    traits: TargetTraits = FUNCTION,
    resources: Resources | None = None,
    route: str | None = None,
    methods: tuple[str, ...] | None = None,
    idempotent: bool | None = None,
    user_config: bytes | None = None,
    **changes: object,
) -> Deploy:
    if user_config is not None:
        changes["user_config"] = None
    return Deploy("id", name, code, ORIGIN, traits, changes, user_config, resources, route, methods, idempotent)


def split(**weights: float) -> SetTraffic:
    """Traffic of endpoint ``e``."""
    return SetTraffic("id", "e", weights)


def shadow(backend: str, proportion: float) -> ShadowTraffic:
    return ShadowTraffic("id", "e", backend, proportion)


def rollback(version: int | None = None) -> RollbackTraffic:
    return RollbackTraffic("id", "e", version)


def pin(key: str, backend: str) -> Pin:
    return Pin("id", "e", (key,), backend)


def policy(state: Desired) -> TrafficPolicy:
    """What is in force at endpoint ``e``."""
    return state.endpoints["e"].policy


def versions(state: Desired) -> list[int]:
    return [change.policy.version for change in state.histories["e"].changes]


def done(state: Desired, *commands: Change, room: Room = ROOM) -> Desired:
    """The state after these changes, each of which has come up."""
    for command in commands:
        state, note = apply(state, command, room)
        assert note == ""
        for tag in list(state.fallbacks):
            state = confirm(state, tag)
    return state


def refused(
    state: Desired,
    command: Change,
    *parts: str,
    error: type[Exception] = ValueError,
    room: Room = ROOM,
) -> str:
    """Check that a command is refused in one sentence that holds these parts, and that nothing has changed."""
    before = pack(state)
    with pytest.raises(error) as caught:
        apply(state, command, room)
    assert pack(state) == before
    text = str(caught.value)
    assert "\n" not in text
    assert not text.endswith(".")
    for part in parts:
        assert part in text
    return text


EMPTY = Desired()
ONE = done(EMPTY, create("one"))
"""One backend, no endpoint."""
SERVED = done(ONE, create("two"), endpoint("e", "one", route="/e"))
"""Two backends and an endpoint of the first."""


# --- backends -------------------------------------------------------------------------------------------------


def test_new_backend() -> None:
    """A new backend is recorded with its code and config, and until it has run there is nothing to go back to (CB9)."""
    state, note = apply(EMPTY, create("b", num_replicas=3), ROOM)
    assert note == ""
    spec = state.backends["b"]
    assert (spec.tag, spec.code, spec.config.num_replicas) == ("b", "code of b", 3)
    assert state.version == spec.version == spec.config_version == 1
    assert state.fallbacks == {"b": Fallback(None)}
    assert EMPTY.backends == {}


@pytest.mark.parametrize("came_up", [True, False])
def test_tag_is_taken(came_up: bool) -> None:
    """Creating a backend under a tag in use is refused, also while the first one is still starting (CB1, LC1)."""
    state = ONE if came_up else apply(EMPTY, create("one"), ROOM)[0]
    refused(state, create("one"), "'one'", "exists already")


@pytest.mark.parametrize("traits", [FUNCTION, CLASS, RECONFIGURABLE])
def test_batches_need_the_marker(traits: TargetTraits) -> None:
    """A batch size above 1 for code that takes single requests is refused at create, update and deploy (CB5, BA7)."""
    for_create = create("b", traits=traits, max_batch_size=5)
    refused(EMPTY, for_create, "max_batch_size 5", "'b'", "accept_batch")
    state = done(EMPTY, create("b", traits=traits, max_batch_size=1))
    refused(state, update("b", max_batch_size=2), "max_batch_size 2", "'b'", "accept_batch")
    refused(EMPTY, deploy("b", traits=traits, max_batch_size=7), "max_batch_size 7", "'b'")


@pytest.mark.parametrize("traits", [BATCHING, BATCHING_METHOD])
def test_marked_code_may_batch(traits: TargetTraits) -> None:
    """A batch size above 1 is accepted when the function, or some method of the class, is marked (CB5, BA13)."""
    state = done(EMPTY, create("b", traits=traits, max_batch_size=5), update("b", max_batch_size=6))
    assert state.backends["b"].config.max_batch_size == 6


def test_redeploying_unmarked_code_keeps_no_batch_size() -> None:
    """New code that takes single requests is refused while the backend's config still batches (CB5, DP2, DP4)."""
    state = done(EMPTY, deploy("b", traits=BATCHING, max_batch_size=5))
    refused(state, deploy("b", traits=FUNCTION), "max_batch_size 5", "'b'")
    assert done(state, deploy("b", traits=FUNCTION, max_batch_size=1)).backends["b"].config.max_batch_size == 1


@pytest.mark.parametrize("traits", [FUNCTION, CLASS, BATCHING])
def test_user_config_needs_reconfigure(traits: TargetTraits) -> None:
    """A user_config for code without a reconfigure method is refused at create, update and deploy (CB8, RC3)."""
    refused(EMPTY, create("b", traits=traits, user_config=b"c"), "user_config", "'b'", "reconfigure")
    state = done(EMPTY, create("b", traits=traits))
    refused(state, update("b", user_config=b"c"), "user_config", "'b'", "reconfigure")
    refused(EMPTY, deploy("b", traits=traits, user_config=b"c"), "user_config", "'b'", "reconfigure")


@pytest.mark.parametrize(
    ("resources", "asked", "free"),
    [
        (Resources(num_gpus=3), "num_gpus=3", "num_gpus=2"),
        (Resources(memory=1001), "memory=1001", "memory=1000"),
        (Resources(custom={"tpu": 2}), "tpu=2", "tpu=1"),
        (Resources(custom={"disk": 1}), "disk=1", "tpu=1"),
    ],
)
def test_what_can_never_fit_is_refused(resources: Resources, asked: str, free: str) -> None:
    """A backend that this machine can never run is refused at once, with what was asked and what is free (RM3)."""
    text = refused(EMPTY, create("b", resources=resources), asked, error=InsufficientResourcesError)
    assert text.startswith("Cannot scale backend 'b'")
    assert free in text.partition("free: ")[2]


def test_the_total_must_fit() -> None:
    """A backend whose replicas fit one by one but not together is refused, with the number in the text (RM3, SO10)."""
    command = create("b", resources=GPU, num_replicas=3)
    refused(EMPTY, command, "'b' to 3 replicas", "3 x (", "num_gpus=1", error=InsufficientResourcesError)
    state = done(EMPTY, create("b", resources=GPU, num_replicas=2))
    holding = Room(ROOM.capacity, {"b": (Allocation(GPU, (0,)), Allocation(GPU, (1,)))})
    refused(
        state, update("b", num_replicas=4), "to 4 replicas", "2 x (", error=InsufficientResourcesError, room=holding
    )
    assert state.backends["b"].config.num_replicas == 2


def test_what_others_hold_counts() -> None:
    """A backend is refused what another one's replicas hold, and is not charged twice for its own (RM3, RM4)."""
    state = done(EMPTY, create("other", resources=GPU), create("b", resources=GPU))
    holding = Room(ROOM.capacity, {"other": (Allocation(GPU, (0,)),), "b": (Allocation(GPU, (1,)),)})
    refused(
        state, update("b", num_replicas=2), "num_gpus=1", "num_gpus=0", error=InsufficientResourcesError, room=holding
    )
    refused(state, create("third", resources=GPU), "num_gpus=0", error=InsufficientResourcesError, room=holding)
    alone = Room(ROOM.capacity, {"b": (Allocation(GPU, (1,)),)})
    assert done(ONE, create("b", resources=GPU), update("b", num_replicas=2), room=alone).backends["b"]


@pytest.mark.parametrize("came_up", [True, False], ids=["its replica just died", "its replica is not launched yet"])
def test_what_was_promised_counts(came_up: bool) -> None:
    """What one backend was promised is not promised to another while its replica is not there (RM3)."""
    state, _ = apply(EMPTY, create("first", resources=Resources(num_gpus=2)), ROOM)
    if came_up:
        state = confirm(state, "first")
    refused(state, create("second", resources=GPU), "num_gpus=1", error=InsufficientResourcesError)


def test_soft_cpus_are_never_refused() -> None:
    """Ten replicas of one CPU each are accepted on any machine (RM6, EX2)."""
    assert done(EMPTY, create("b", num_replicas=10, resources=Resources(num_cpus=64))).backends["b"]
    strict = Room(Capacity(num_cpus=4))
    refused(
        EMPTY, create("b", num_replicas=5), "num_cpus=1", "num_cpus=4", error=InsufficientResourcesError, room=strict
    )


def test_changing_other_fields_needs_no_room() -> None:
    """On a full machine a backend's batch size, or a lower number of replicas, is still accepted (SO5)."""
    traits = BATCHING
    state = done(EMPTY, create("b", resources=GPU, num_replicas=2, traits=traits))
    full = Room(ROOM.capacity, {"other": (Allocation(GPU, (0,)), Allocation(GPU, (1,)))})
    state = done(state, update("b", max_batch_size=4), update("b", num_replicas=1), room=full)
    assert state.backends["b"].config.max_batch_size == 4


def test_updating_one_field_leaves_the_others() -> None:
    """An update of one field leaves every other field of the config, and the replicas' version, alone (SO4, SO5)."""
    state = done(EMPTY, create("b", traits=BATCHING, num_replicas=2, max_batch_size=4, max_queued_queries=7))
    old = state.backends["b"]
    new = done(state, update("b", batch_wait_timeout_s=0.5)).backends["b"]
    assert new.config == msgspec.structs.replace(old.config, batch_wait_timeout_s=0.5)
    assert new.version == old.version
    assert new.config_version > old.config_version
    assert msgspec.structs.replace(new, config=old.config, config_version=old.config_version) == old


def test_update_that_changes_nothing() -> None:
    """An update to the values in force changes nothing, not even the version (RC7)."""
    state = done(EMPTY, create("b", traits=RECONFIGURABLE, num_replicas=2, user_config=b"c"))
    for command in (update("b"), update("b", num_replicas=2), update("b", user_config=b"c")):
        assert apply(state, command, ROOM)[0] is state


def test_user_config_is_kept_replaced_or_dropped() -> None:
    """A user_config stays when an update leaves it out, changes when given, and None takes it away (RC1, RC6)."""
    state = done(EMPTY, create("b", traits=RECONFIGURABLE, user_config=b"c"))
    assert done(state, update("b", num_replicas=2)).backends["b"].config.user_config == b"c"
    assert done(state, update("b", user_config=b"d")).backends["b"].config.user_config == b"d"
    assert done(state, update("b", user_config=None)).backends["b"].config.user_config is None


def test_default_query_limit_follows_the_batch_size() -> None:
    """A query limit that the user never set grows with the batch size; one that was set stays (BC3)."""
    state = done(EMPTY, create("b", traits=BATCHING), update("b", max_batch_size=500))
    assert state.backends["b"].config.query_limit == 1000
    state = done(state, update("b", max_concurrent_queries=3), update("b", max_batch_size=700))
    assert state.backends["b"].config.query_limit == 3
    state = done(state, update("b", max_concurrent_queries=None))
    assert state.backends["b"].config.query_limit == 1400


@pytest.mark.parametrize(
    "command", [update("onee", num_replicas=2), endpoint("e", "onee"), SetTraffic("id", "e", {"onee": 1.0})]
)
def test_unknown_backends_are_named(command: Change) -> None:
    """A misspelt backend is refused by name, with the nearest known one (CE5, TR1)."""
    refused(SERVED if isinstance(command, SetTraffic) else ONE, command, "'onee'", "does not exist", "'one'")


# --- endpoints ------------------------------------------------------------------------------------------------


def test_new_endpoint() -> None:
    """A new endpoint sends all its traffic to its backend (CE8)."""
    made = SERVED.endpoints["e"]
    assert (made.name, made.route, made.methods, made.policy.weights) == ("e", "/e", ("GET",), {"one": 1.0})
    assert made.policy.version == SERVED.version
    assert done(ONE, endpoint("i", "one", idempotent=True)).endpoints["i"].idempotent


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (endpoint("e", "one", route="/e"), ["'e'", "same route and methods"]),
        (endpoint("e", "nobody", route="/e"), ["'e'", "same route and methods"]),
        (endpoint("f", "nobody", route="/f"), ["'nobody'", "does not exist"]),
        (endpoint("e", "nobody", route="/f"), ["'nobody'", "does not exist"]),
        (endpoint("f", "one", route="/e"), ["'/e'", "taken by endpoint 'e'"]),
        (endpoint("e", "one", route="/other"), ["'e'", "'/e'", "exists already"]),
        (endpoint("e", "one", route=None), ["'e'", "'/e'", "exists already"]),
        (endpoint("e", "one", route="/e", methods=("POST",)), ["'e'", "exists already", "GET"]),
        (endpoint("f", "one", route="/-/x"), ["'/-/x'", "reserved"]),
        (endpoint("f", "one", route="/{"), ["'/{'", "malformed"]),
    ],
)
def test_endpoints_that_cannot_be_made(command: CreateEndpoint, parts: list[str]) -> None:
    """An endpoint whose name, route or backend is wrong is refused by its first fault (CE2, CE4-CE7, LC1)."""
    refused(SERVED, command, *parts)


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ("/x/{a}", "/x/{b}", True),
        ("/x/{a:path}", "/x/{b:path}", True),
        ("/x/{a}", "/x/me", False),
        ("/x/{a}", "/x/{a:path}", False),
        ("/x", "/x/", False),
    ],
)
def test_templates_that_match_the_same_paths_clash(one: str, other: str, clash: bool) -> None:
    """Two routes clash when they match the same paths, and not because they look alike (CE6, HT4)."""
    state = done(ONE, endpoint("e", "one", route=one))
    if clash:
        refused(state, endpoint("f", "one", route=other), repr(other), "'e'", repr(one))
        refused(state, deploy("f", route=other), repr(other), "'e'", repr(one))
    else:
        assert done(state, endpoint("f", "one", route=other)).endpoints["f"].route == other


def test_headless_endpoints_do_not_clash() -> None:
    """Any number of endpoints without a route live side by side (LC4)."""
    state = done(ONE, endpoint("e", "one"), endpoint("f", "one"))
    refused(state, endpoint("e", "one"), "'e'", "exists already")


@pytest.mark.parametrize("route", ["/e", None])
def test_names_and_routes_are_free_again(route: str | None) -> None:
    """Name and route of a deleted endpoint are reusable at once, and its backend is untouched (LC2, FT11)."""
    state = done(ONE, endpoint("e", "one", route=route), DeleteEndpoint("id", "e"))
    assert state.endpoints == {}
    assert state.backends == ONE.backends
    assert done(state, endpoint("e", "one", route=route)).endpoints["e"].route == route
    assert done(state, endpoint("f", "one", route=route)).endpoints["f"].route == route


@pytest.mark.parametrize("command", [DeleteEndpoint("id", "ghost"), DeleteBackend("id", "ghost", False)])
def test_deleting_what_is_not_there(command: Change) -> None:
    """Deleting an unknown endpoint or backend changes nothing and leaves a warning that names it (LC9)."""
    state, note = apply(SERVED, command, ROOM)
    assert state is SERVED
    assert "'ghost'" in note


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("weights", [{"one": 1.0}, {"one": 0.0, "two": 1.0}, {"one": 0.5, "two": 0.5}])
def test_backends_in_use_cannot_be_deleted(weights: dict[str, float], force: bool) -> None:
    """A backend in an endpoint's policy, at weight 0 too, cannot be deleted, and the endpoints are named (TR10)."""
    state = done(SERVED, endpoint("second", "one"), SetTraffic("id", "e", weights))
    refused(state, DeleteBackend("id", "one", force), "'one'", "'e'", "'second'")
    state = done(state, DeleteEndpoint("id", "second"), SetTraffic("id", "e", {"two": 1.0}))
    assert "one" not in done(state, DeleteBackend("id", "one", force)).backends


def test_a_deleted_backend_is_gone() -> None:
    """Traffic to a deleted backend is refused, and its tag takes new code, which is a new version (LC3)."""
    old = SERVED.backends["two"]
    state = done(SERVED, DeleteBackend("id", "two", False))
    refused(state, SetTraffic("id", "e", {"two": 1.0}), "'two'", "does not exist")
    again = done(state, msgspec.structs.replace(create("two"), code="other")).backends["two"]
    assert again.code == "other"
    assert again.version > old.version


def test_deleting_a_backend_that_is_still_starting() -> None:
    """A backend that never came up can be deleted, and nothing of it is gone back to later (LC3)."""
    state = apply(EMPTY, create("b"), ROOM)[0]
    state, _ = apply(state, DeleteBackend("id", "b", False), ROOM)
    assert (state.backends, state.fallbacks) == ({}, {})


def test_backends_are_usable_once_they_have_run() -> None:
    """An endpoint cannot lean on a backend that is starting for the first time and may vanish again (CB10)."""
    state = apply(SERVED, create("young"), ROOM)[0]
    refused(state, endpoint("f", "young"), "'young'", "still starting")
    refused(state, SetTraffic("id", "e", {"young": 1.0}), "'young'", "still starting")
    assert done(confirm(state, "young"), endpoint("f", "young")).endpoints["f"]


# --- traffic --------------------------------------------------------------------------------------------------


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


def test_full_canary_and_back() -> None:
    """All traffic goes to a new backend and back again, and the idle one can be deleted (TR4, TR5)."""
    state = done(SERVED, SetTraffic("id", "e", {"two": 1.0}), SetTraffic("id", "e", {"one": 1.0}))
    assert state.endpoints["e"].policy.weights == {"one": 1.0}
    assert "two" not in done(state, DeleteBackend("id", "two", False)).backends


@settings(deadline=None, max_examples=150)
@given(parts=st.dictionaries(st.text(max_size=3), st.integers(0, 10**6), min_size=1).filter(lambda p: any(p.values())))
def test_normalised_weights_are_as_close_as_floats_get(parts: dict[str, int]) -> None:
    """Whatever shares a user computes, they are accepted and keep their proportions (TR1)."""
    total = sum(parts.values())
    weights = normalised({tag: part / total for tag, part in parts.items()})
    assert math.fsum(weights.values()) == pytest.approx(1, abs=1e-9)
    assert weights == pytest.approx({tag: part / total for tag, part in parts.items()})


@settings(deadline=None, max_examples=200)
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


# --- pins -----------------------------------------------------------------------------------------------------


def test_keys_are_pinned_and_let_go() -> None:
    """An operator pins users to backends, which need no weight, changes their minds, and lets them go (SA1)."""
    state = done(SERVED, pin("alice", "two"), pin("", "one"))
    assert state.pins == {"e": Pins({"alice": "two", "": "one"})}
    assert state.endpoints == SERVED.endpoints
    assert apply(state, pin("alice", "two"), ROOM)[0] is state
    state = done(state, pin("alice", "one"))
    assert state.pins["e"].keys["alice"] == "one"
    state = done(state, Unpin("id", "e", ("alice", "")))
    assert state.pins == {}
    assert state.histories == SERVED.histories


def test_many_keys_are_pinned_in_one_change() -> None:
    """A list of testers is pinned whole or not at all, in one version, and let go in one (SA1, CL3)."""
    testers = tuple(f"tester {number}" for number in range(500))
    before = done(SERVED, pin("tester 7", "one"), pin("alice", "one"))
    state = done(before, Pin("id", "e", testers, "two"))
    assert state.version == before.version + 1
    assert state.pins["e"].keys == {"alice": "one", **dict.fromkeys(testers, "two")}
    assert apply(state, Pin("id", "e", testers[:9], "two"), ROOM)[0] is state
    assert apply(state, Pin("id", "e", (), "two"), ROOM)[0] is state
    assert done(state, Unpin("id", "e", testers)).pins == {"e": Pins({"alice": "one"})}
    refused(state, Pin("id", "e", tuple(map(str, range(MAX_PINS - 500))), "two"), "10001 pinned shard keys")
    left, note = apply(state, Unpin("id", "e", ("bob", "alice", "cy", "dan")), ROOM)
    assert note == "shard key 'bob' of endpoint 'e' is not pinned, nor are 2 others that were given"
    assert left.pins["e"].keys == dict.fromkeys(testers, "two")


def test_letting_go_what_is_not_pinned() -> None:
    """Unpinning a key that is not pinned changes nothing and leaves a warning that names it (LC9)."""
    state, note = apply(SERVED, Unpin("id", "e", ("alice",)), ROOM)
    assert state is SERVED
    assert note == "shard key 'alice' of endpoint 'e' is not pinned"


def test_pins_of_what_does_not_exist() -> None:
    """An unknown endpoint or backend, or one that is still starting, is refused by name (TR1)."""
    refused(SERVED, Pin("id", "ee", ("alice",), "one"), "'ee'", "does not exist")
    refused(SERVED, Unpin("id", "ee", ("alice",)), "'ee'", "does not exist")
    refused(SERVED, pin("alice", "ghost"), "'ghost'", "does not exist")
    refused(apply(SERVED, create("young"), ROOM)[0], pin("alice", "young"), "'young'", "still starting")


def test_names_that_nothing_resembles() -> None:
    """Where no name is near the one I gave, I am told those that there are, and not all of a thousand (TR1)."""
    refused(SERVED, pin("alice", "v9"), "backend 'v9' does not exist; existing: 'one', 'two'")
    state = done(SERVED, *(endpoint(f"endpoint {number}", "one") for number in range(9)))
    refused(
        state, Unpin("id", "x", ("alice",)), "endpoint 'x' does not exist; existing: 'e', 'endpoint 0',", " and 5 more"
    )
    refused(Desired(), split(one=1.0), "endpoint 'e' does not exist; there is none yet")


def test_pins_have_a_limit() -> None:
    """At 10,000 pinned keys another one is refused; those that are there may change, and go (SA1)."""
    full = msgspec.structs.replace(SERVED, pins={"e": Pins({f"key {n}": "one" for n in range(MAX_PINS)})})
    refused(full, pin("one more", "one"), "'e'", "10001 pinned shard keys", "10000 at most")
    state = done(full, pin("key 0", "two"))
    assert (state.pins["e"].keys["key 0"], len(state.pins["e"].keys)) == ("two", MAX_PINS)
    state = done(state, Unpin("id", "e", ("key 1",)), pin("one more", "two"))
    assert len(state.pins["e"].keys) == MAX_PINS
    assert done(full, endpoint("f", "one"), Pin("id", "f", ("key",), "one")).pins["f"] == Pins({"key": "one"})


@pytest.mark.parametrize(("keys", "words"), [(1, "1 pinned shard key)"), (2, "2 pinned shard keys)")])
def test_a_backend_with_pins_cannot_be_deleted(keys: int, words: str) -> None:
    """A backend that users are pinned to cannot be deleted; the message counts them, never showing who they are."""
    state = done(SERVED, *(pin(f"user {number}", "two") for number in range(keys)), pin("other", "one"))
    text = refused(state, DeleteBackend("id", "two", True), "'two'", f"'e' (by {words}")
    assert "user" not in text
    free = done(state, Unpin("id", "e", tuple(f"user {number}" for number in range(keys))))
    assert "two" not in done(free, DeleteBackend("id", "two", False)).backends


def test_a_deleted_endpoint_takes_pins_and_history_along() -> None:
    """An endpoint that is made anew under an old name begins without the old one's pins, shadows and history (LC2)."""
    state = done(SERVED, endpoint("f", "one"), pin("alice", "two"), shadow("two", 0.5), split(one=0.5, two=0.5))
    gone = done(state, DeleteEndpoint("id", "e"))
    assert (gone.pins, set(gone.histories)) == ({}, {"f"})
    again = done(gone, endpoint("e", "one", route="/e"))
    assert again.histories["e"].changes[0].policy == policy(again)
    assert (len(again.histories["e"].changes), policy(again).shadows) == (1, {})
    refused(again, rollback(), "one traffic policy only")


# --- history and rollback -------------------------------------------------------------------------------------


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


@settings(deadline=None, max_examples=200)
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


# --- going forward and back -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "needs_replicas"),
    [
        ({"num_replicas": 3}, True),
        ({"user_config": b"d"}, True),
        ({"num_replicas": 1}, False),
        ({"max_batch_size": 2}, False),
        ({"batch_wait_timeout_s": 1.0}, False),
        ({"max_concurrent_queries": 5}, False),
        ({"max_queued_queries": 0}, False),
        ({"drain_timeout_s": 1.0}, False),
    ],
)
def test_changes_that_may_fail_keep_the_old_config(changes: dict[str, object], needs_replicas: bool) -> None:
    """More replicas or a new user_config may not come up, so the old config is kept until they have (SO10, RC10)."""
    traits = TargetTraits(is_class=True, batches=True, has_reconfigure=True)
    state = done(EMPTY, create("b", traits=traits, num_replicas=2, user_config=b"c"))
    new, _ = apply(state, update("b", **changes), ROOM)
    assert new.fallbacks == ({"b": Fallback(state.backends["b"])} if needs_replicas else {})


def test_confirmed_changes_stay() -> None:
    """Once a change has come up there is nothing to go back to (CL3)."""
    state = apply(SERVED, create("b"), ROOM)[0]
    state = apply(state, update("one", num_replicas=2), ROOM)[0]
    assert set(state.fallbacks) == {"b", "one"}
    settled = confirm(confirm(state, "b"), "one")
    assert settled.fallbacks == {}
    assert (settled.backends, settled.endpoints) == (state.backends, state.endpoints)
    assert confirm(settled, "b") == settled


def test_a_new_backend_that_fails_leaves_nothing() -> None:
    """A backend whose constructor fails is not registered, and its tag is free again (CB10)."""
    state = revert(apply(SERVED, create("b"), ROOM)[0], "b")
    assert (state.backends, state.endpoints, state.fallbacks) == (SERVED.backends, SERVED.endpoints, {})
    assert "b" in done(state, create("b")).backends


@pytest.mark.parametrize("changes", [{"num_replicas": 3}, {"user_config": b"d"}])
def test_a_failed_update_is_taken_back(changes: dict[str, object]) -> None:
    """After a failed update the old config is in force, and replicas that took the new one are told so (RC10, SO10)."""
    state = done(EMPTY, create("b", traits=RECONFIGURABLE, num_replicas=2, user_config=b"c"))
    failed, _ = apply(state, update("b", **changes), ROOM)
    back = revert(failed, "b")
    assert back.backends["b"].config == state.backends["b"].config
    assert back.backends["b"].version == state.backends["b"].version
    assert back.backends["b"].config_version > failed.backends["b"].config_version
    assert back.version > failed.version
    assert back.fallbacks == {}


def test_several_changes_go_back_to_what_worked() -> None:
    """When changes pile up before the first has come up, a failure goes back to the last version that ran (RC10)."""
    state = done(EMPTY, create("b", num_replicas=1))
    failed, _ = apply(state, update("b", num_replicas=2), ROOM)
    failed, _ = apply(failed, update("b", num_replicas=3), ROOM)
    assert revert(failed, "b").backends["b"].config.num_replicas == 1
    young, _ = apply(EMPTY, create("b"), ROOM)
    young, _ = apply(young, update("b", num_replicas=2), ROOM)
    assert revert(young, "b").backends == {}


# --- deploy ---------------------------------------------------------------------------------------------------


def test_first_deploy() -> None:
    """One call makes a backend and an endpoint under one name, for GET and POST, headless unless routed (DP1)."""
    state, _ = apply(EMPTY, deploy("d"), ROOM)
    made = state.endpoints["d"]
    assert (made.route, made.methods, made.policy.weights, made.idempotent) == (
        None,
        ("GET", "POST"),
        {"d": 1.0},
        False,
    )
    assert state.backends["d"].config == BackendConfigSpec()
    assert state.backends["d"].resources == Resources()
    routed = done(EMPTY, deploy("d", route="/d", methods=("PUT",), idempotent=True, num_replicas=2)).endpoints["d"]
    assert (routed.route, routed.methods, routed.idempotent) == ("/d", ("PUT",), True)


def test_failed_first_deploy_leaves_nothing() -> None:
    """A first deploy that does not come up takes its endpoint with it (DP2, DP6)."""
    state = revert(apply(SERVED, deploy("d", route="/d"), ROOM)[0], "d")
    assert (state.backends, state.endpoints, state.fallbacks) == (SERVED.backends, SERVED.endpoints, {})


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (deploy("d", route="/e"), ["'/e'", "'e'"]),
        (deploy("d", route="/{"), ["'/{'"]),
        (deploy("d", max_batch_size=2), ["max_batch_size 2", "'d'"]),
        (deploy("d", user_config=b"c"), ["user_config", "'d'"]),
        (deploy("e"), ["'e'", "does not use a backend 'e'"]),
    ],
)
def test_deploys_that_cannot_be(command: Deploy, parts: list[str]) -> None:
    """A deploy with any fault leaves everything as it was, endpoint and backend alike (DP2, DP7)."""
    refused(SERVED, command, *parts)


def test_deploy_beyond_the_machine() -> None:
    """A deploy that needs more than the machine has is refused whole (DP2, RM3)."""
    command = deploy("d", resources=Resources(num_gpus=3), route="/d")
    refused(SERVED, command, "Cannot scale backend 'd'", "num_gpus=3", error=InsufficientResourcesError)


def test_redeploy_is_a_new_version() -> None:
    """Deploying again brings new code under the same name, and until it runs the old version is kept (DP3, DP6)."""
    state = done(SERVED, deploy("d", code="v1", route="/d"))
    new, _ = apply(state, deploy("d", code="v2"), ROOM)
    assert new.backends["d"].code == "v2"
    assert new.backends["d"].version > state.backends["d"].version
    back = revert(new, "d")
    assert (back.backends["d"].code, back.backends["d"].version) == ("v1", state.backends["d"].version)
    assert back.endpoints == state.endpoints


def test_redeploy_keeps_what_is_left_out() -> None:
    """Arguments left out of a re-deploy keep their present value, the traffic policy included (DP4)."""
    first = deploy(
        "d", traits=RECONFIGURABLE, route="/d", methods=("PUT",), idempotent=True, resources=GPU,
        num_replicas=2, max_queued_queries=5, user_config=b"c",
    )  # fmt: skip
    state = done(SERVED, first, SetTraffic("id", "d", {"d": 0.5, "one": 0.5}))
    new = done(state, deploy("d", code="v2", traits=RECONFIGURABLE))
    assert new.endpoints["d"] == state.endpoints["d"]
    assert new.backends["d"].config == state.backends["d"].config
    assert new.backends["d"].resources == GPU
    part = done(state, deploy("d", traits=RECONFIGURABLE, max_queued_queries=6, methods=("GET",), idempotent=False))
    assert part.backends["d"].config == msgspec.structs.replace(state.backends["d"].config, max_queued_queries=6)
    assert (part.endpoints["d"].methods, part.endpoints["d"].idempotent) == (("GET",), False)
    assert (part.endpoints["d"].route, part.endpoints["d"].policy) == ("/d", state.endpoints["d"].policy)


def test_redeploy_on_a_full_machine() -> None:
    """One replica on the only GPU can be deployed anew, because it makes room for its successor (DP5)."""
    state = done(EMPTY, deploy("d", resources=Resources(num_gpus=2)))
    full = Room(ROOM.capacity, {"d": (Allocation(Resources(num_gpus=2), (0, 1)),)})
    assert done(state, deploy("d", code="v2"), room=full).backends["d"].code == "v2"
    refused(state, deploy("d", num_replicas=2), "'d' to 2", error=InsufficientResourcesError, room=full)


def test_deploy_over_a_backend_without_endpoint() -> None:
    """Deploying over a plain backend gives it an endpoint and a new version (DP1, DP3)."""
    state, _ = apply(ONE, deploy("one", route="/one"), ROOM)
    assert state.endpoints["one"].policy.weights == {"one": 1.0}
    assert state.fallbacks == {"one": Fallback(ONE.backends["one"], "one")}


def test_failed_redeploy_restores_the_endpoint() -> None:
    """A re-deploy that fails takes back its route, methods and flags too (DP2)."""
    state = done(EMPTY, deploy("d", route="/old"))
    failed, _ = apply(state, deploy("d", code="bad", route="/new", methods=("PUT",), idempotent=True), ROOM)
    assert failed.endpoints["d"].route == "/new"
    assert revert(failed, "d").endpoints == state.endpoints


def test_failed_deploy_over_a_backend_takes_its_endpoint_back() -> None:
    """A failed deploy over a plain backend leaves that backend as it was, and without an endpoint (DP2)."""
    failed, _ = apply(ONE, deploy("one", code="bad", route="/one"), ROOM)
    back = revert(failed, "one")
    assert back.backends["one"].code == ONE.backends["one"].code
    assert back.endpoints == {}


def test_failed_deploy_over_a_starting_backend_leaves_no_dangling_endpoint() -> None:
    """When a new backend fails that was at once deployed over, no endpoint is left that leads to it (DP2, CB10)."""
    failed, _ = apply(EMPTY, create("d"), ROOM)
    failed, _ = apply(failed, deploy("d", route="/d"), ROOM)
    back = revert(failed, "d")
    assert back.backends == {}
    assert back.endpoints == {}


def test_failed_deploy_spares_an_endpoint_made_since() -> None:
    """A failed deploy does not take away an endpoint that was deleted and made anew for another backend (CL3, DP2)."""
    state, _ = apply(ONE, deploy("d"), ROOM)
    state, _ = apply(state, DeleteEndpoint("id", "d"), ROOM)
    state, _ = apply(state, endpoint("d", "one", route="/d"), ROOM)
    assert revert(state, "d").endpoints == state.endpoints


# --- any order of changes -------------------------------------------------------------------------------------

names = st.sampled_from(["a", "b"])
routes = st.sampled_from([None, "/x", "/y", "/t/{p}", "/t/{q}", "/{"])
commands: st.SearchStrategy[Change] = st.one_of(
    st.builds(create, names, num_replicas=st.integers(1, 3), max_batch_size=st.sampled_from([None, 1, 2])),
    st.builds(create, names, resources=st.just(GPU)),
    st.builds(update, names, num_replicas=st.integers(1, 4)),
    st.builds(update, names, max_queued_queries=st.integers(0, 2)),
    st.builds(DeleteBackend, st.just("id"), names, st.booleans()),
    st.builds(endpoint, names, names, route=routes),
    st.builds(DeleteEndpoint, st.just("id"), names),
    st.builds(SetTraffic, st.just("id"), names, st.dictionaries(names, st.sampled_from([0.0, 0.5, 1.0]))),
    st.builds(deploy, names, code=st.sampled_from(["v1", "v2"]), route=routes),
    st.builds(ShadowTraffic, st.just("id"), names, names, st.sampled_from([0.0, 0.5])),
    st.builds(RollbackTraffic, st.just("id"), names, st.none()),
    st.builds(Pin, st.just("id"), names, st.just("alice"), names),
)


class AnyOrder(RuleBasedStateMachine):
    """Changes, successes and failures in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.state = Desired()

    @rule(command=commands)
    def change(self, command: Change) -> None:
        before = pack(self.state)
        old = self.state
        try:
            self.state, note = apply(old, command, ROOM)
        except (ValueError, InsufficientResourcesError):
            pass
        else:
            assert self.state is old or (self.state.version == old.version + 1 and not note)
        assert pack(old) == before, "a change altered the state that it was given"

    @precondition(lambda self: self.state.fallbacks)
    @rule(data=st.data(), good=st.booleans())
    def conclude(self, data: st.DataObject, good: bool) -> None:
        tag = data.draw(st.sampled_from(sorted(self.state.fallbacks)))
        old = self.state
        self.state = (confirm if good else revert)(old, tag)
        assert tag not in self.state.fallbacks
        assert self.state.version >= old.version

    @invariant()
    def whole(self) -> None:
        state = self.state
        taken = [parse_route(made.route).signature for made in state.endpoints.values() if made.route is not None]
        assert len(taken) == len(set(taken)), "two endpoints share a route"
        for made in state.endpoints.values():
            assert set(made.policy.weights) <= set(state.backends), "an endpoint leans on a backend that is not there"
            assert sum(made.policy.weights.values()) == pytest.approx(1)
            assert made.policy.version <= state.version
            assert set(made.policy.shadows) <= set(state.backends), "a shadow is not there"
            assert state.histories[made.name].changes[-1].policy == made.policy, "the history ends with another policy"
        assert state.histories.keys() == state.endpoints.keys()
        assert state.pins.keys() <= state.endpoints.keys()
        for pins in state.pins.values():
            assert set(pins.keys.values()) <= set(state.backends), "a pin leads to a backend that is not there"
        assert set(state.fallbacks) <= set(state.backends), "a fallback for a backend that is not there"
        for spec in state.backends.values():
            assert spec.version <= spec.config_version <= state.version


def test_any_order_of_changes_leaves_a_whole_state() -> None:
    """Whatever operators do and whatever fails, no route is shared and no endpoint leads to nowhere (CL3, CE6, DP2)."""
    run_state_machine_as_test(
        AnyOrder, settings=settings(deadline=None, max_examples=150, stateful_step_count=20, database=None)
    )
