"""controller.desired: deploys, and changes that do not come up: what worked before is there again."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from pointsman.controller.desired import apply, confirm, revert
from pointsman.controller.history import history_of
from pointsman.controller.state import Desired, Fallback, FreeCapacity
from pointsman.exceptions import InsufficientResourcesError
from pointsman.model import Allocation, BackendConfigSpec, Resources, TargetTraits
from pointsman.policy.routes import parse_route
from pointsman.wire.commands import (
    Change,
    DeleteBackend,
    DeleteEndpoint,
    Deploy,
    Pin,
    RollbackTraffic,
    SetTraffic,
    ShadowTraffic,
)
from pointsman.wire.messages import pack
from tests.properties import examples
from tests.unit.desiring import (
    EMPTY,
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
    replace,
    update,
)


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
    full = FreeCapacity(ROOM.capacity, {"d": (Allocation(Resources(num_gpus=2), (0, 1)),)})
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
    st.builds(replace, names, code=st.sampled_from(["v1", "v2"]), max_queued_queries=st.integers(0, 2)),
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
            assert self.state is old or history_of(self.state)[-1].version == self.state.version
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
        assert all(record.version <= state.version for record in state.changes.values())


@pytest.mark.slow
def test_any_order_of_changes_leaves_a_whole_state() -> None:
    """Whatever operators do and whatever fails, no route is shared and no endpoint leads to nowhere (CL3, CE6, DP2)."""
    run_state_machine_as_test(AnyOrder, settings=examples(150, stateful_step_count=20, database=None))
