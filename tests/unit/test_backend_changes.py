"""controller.desired: changes of backends are carried out whole or refused with nothing changed."""

from __future__ import annotations

import msgspec
import pytest

from pointsman.controller.desired import apply, confirm
from pointsman.controller.state import Fallback, FreeCapacity
from pointsman.exceptions import InsufficientResourcesError
from pointsman.model import Allocation, Capacity, Resources, TargetTraits
from pointsman.wire.commands import Change, SetTraffic
from tests.unit.desiring import (
    BATCHING,
    BATCHING_METHOD,
    CLASS,
    EMPTY,
    FUNCTION,
    GPU,
    ONE,
    RECONFIGURABLE,
    ROOM,
    SERVED,
    create,
    deploy,
    done,
    endpoint,
    refused,
    update,
)


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
    holding = FreeCapacity(ROOM.capacity, {"b": (Allocation(GPU, (0,)), Allocation(GPU, (1,)))})
    refused(
        state, update("b", num_replicas=4), "to 4 replicas", "2 x (", error=InsufficientResourcesError, room=holding
    )
    assert state.backends["b"].config.num_replicas == 2


def test_what_others_hold_counts() -> None:
    """A backend is refused what another one's replicas hold, and is not charged twice for its own (RM3, RM4)."""
    state = done(EMPTY, create("other", resources=GPU), create("b", resources=GPU))
    holding = FreeCapacity(ROOM.capacity, {"other": (Allocation(GPU, (0,)),), "b": (Allocation(GPU, (1,)),)})
    refused(
        state, update("b", num_replicas=2), "num_gpus=1", "num_gpus=0", error=InsufficientResourcesError, room=holding
    )
    refused(state, create("third", resources=GPU), "num_gpus=0", error=InsufficientResourcesError, room=holding)
    alone = FreeCapacity(ROOM.capacity, {"b": (Allocation(GPU, (1,)),)})
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
    strict = FreeCapacity(Capacity(num_cpus=4))
    refused(
        EMPTY, create("b", num_replicas=5), "num_cpus=1", "num_cpus=4", error=InsufficientResourcesError, room=strict
    )


def test_changing_other_fields_needs_no_room() -> None:
    """On a full machine a backend's batch size, or a lower number of replicas, is still accepted (SO5)."""
    traits = BATCHING
    state = done(EMPTY, create("b", resources=GPU, num_replicas=2, traits=traits))
    full = FreeCapacity(ROOM.capacity, {"other": (Allocation(GPU, (0,)), Allocation(GPU, (1,)))})
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
