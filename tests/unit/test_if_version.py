"""controller.transitions: a change that was made for another version than there is changes nothing (AD7)."""

from __future__ import annotations

import pytest

from pointsman.controller.state import Desired
from pointsman.controller.transitions import carry_out
from pointsman.exceptions import StateChangedError
from pointsman.model.rollout import RolloutPlan
from pointsman.wire.commands import Change, SetTraffic, TakeBack, Unpin, UpdateBackendConfig
from pointsman.wire.messages import pack
from pointsman.wire.rollouts import ControlRollout, StartRollout
from pointsman.wire.scaling import WakeBackend
from tests.unit.desiring import ROOM, SERVED, pin, policy, rollback, shadow, split
from tests.unit.planning import LATER

ANNA = SetTraffic("id", "e", {"one": 0.9, "two": 0.1}, by="token anna")


def sent(state: Desired, command: Change, if_version: int | None) -> Desired:
    return carry_out(state, command, ROOM, LATER, if_version)[0]


@pytest.mark.parametrize(
    "command",
    [
        split(one=0.5, two=0.5),
        shadow("two", 0.1),
        rollback(),
        pin("me", "one"),
        Unpin("id", "e", ("me",)),
        StartRollout("id", RolloutPlan("e", "two")),
        ControlRollout("id", "e", "abort"),
    ],
    ids=lambda command: command.__struct_config__.tag,
)
def test_two_who_look_at_one_endpoint(command: Change) -> None:
    """The second of two changes by what was on the page before is refused, and says who was first (AD7)."""
    seen = policy(SERVED).version
    state = sent(SERVED, ANNA, seen)
    before = pack(state)
    with pytest.raises(StateChangedError, match=f"endpoint 'e' has version {state.version} now, by token anna, not"):
        sent(state, command, seen)
    assert pack(state) == before


def test_an_endpoint_has_its_own_version() -> None:
    """Changes of other objects, however many, do not refuse one of this endpoint (AD7)."""
    seen = policy(SERVED).version
    state = sent(SERVED, UpdateBackendConfig("id", "two", {"num_replicas": 2}), None)
    assert sent(state, ANNA, seen).endpoints["e"].policy.weights == ANNA.weights


@pytest.mark.parametrize(
    "command",
    [UpdateBackendConfig("id", "two", {"max_queued_queries": 3}), WakeBackend("id", "two")],
    ids=lambda command: command.__struct_config__.tag,
)
def test_two_who_look_at_one_backend(command: Change) -> None:
    """A backend's version is that of its configuration (AD7)."""
    seen = SERVED.backends["two"].config_version
    sent(SERVED, command, seen)
    state = sent(SERVED, UpdateBackendConfig("id", "two", {"num_replicas": 2}), seen)
    with pytest.raises(StateChangedError, match=f"backend 'two' has version {state.version} now, not {seen} any more"):
        sent(state, command, seen)


def test_all_else_has_the_version_of_the_state() -> None:
    """What is about no one object is compared with the state (AD7)."""
    with pytest.raises(StateChangedError, match="the state has version"):
        sent(SERVED, TakeBack("id", "operation"), SERVED.version - 1)


def test_what_is_not_there_is_said_first() -> None:
    """An endpoint that was deleted meanwhile is unknown, whatever version of it was seen (AD6)."""
    with pytest.raises(ValueError, match="'gone' does not exist"):
        sent(SERVED, SetTraffic("id", "gone", {"one": 1.0}), 3)
