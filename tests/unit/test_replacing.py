"""controller.backends: new versions of backends, and code that is the same as before."""

from __future__ import annotations

import msgspec
import pytest

from pointsman.controller.desired import apply, confirm, revert
from pointsman.controller.state import Desired, Fallback, FreeCapacity
from pointsman.exceptions import InsufficientResourcesError
from pointsman.model import ASGI, Allocation, BackendSpec, Origin, Resources, Source, TargetTraits
from pointsman.wire.commands import Deploy, ReplaceBackend, SetTraffic
from tests.unit.desiring import (
    CLASS,
    GPU,
    ONE,
    RECONFIGURABLE,
    ROOM,
    SERVED,
    create,
    deploy,
    done,
    refused,
    replace,
    shadow,
    split,
)

SOURCE = Source("ranking:Ranker", "Ranker", b"[1]", b"null", "content 1", "1", "abc")
TIME, LATER = "2026-11-28T10:00:00.000+00:00", "2026-11-28T11:00:00.000+00:00"


def test_a_backend_is_replaced_where_it_serves() -> None:
    """New code takes the place of the old one, whatever endpoints use it; traffic and shadows stay (DP3, DP4)."""
    state = done(SERVED, split(one=0.5, two=0.5), shadow("one", 0.1))
    new, _ = apply(state, replace("one"), ROOM, TIME)
    assert new.backends["one"].code == "new code"
    assert new.backends["one"].version > state.backends["one"].version
    assert new.backends["one"].since == TIME
    assert new.fallbacks == {"one": Fallback(state.backends["one"])}
    assert new.endpoints == state.endpoints
    assert new.backends["two"] is state.backends["two"]
    assert confirm(new, "one").fallbacks == {}


def test_a_replacement_that_fails_leaves_what_was() -> None:
    """New code that does not come up is taken back, with its config and resources (DP6)."""
    state = done(SERVED, create("b", traits=RECONFIGURABLE, user_config=b"c"))
    failed, _ = apply(state, replace("b", traits=RECONFIGURABLE, resources=GPU, user_config=b"d"), ROOM)
    assert (failed.backends["b"].resources, failed.backends["b"].config.user_config) == (GPU, b"d")
    back = revert(failed, "b")
    was = state.backends["b"]
    assert msgspec.structs.replace(back.backends["b"], config_version=was.config_version) == was
    assert back.endpoints == state.endpoints


def test_a_replacement_keeps_what_is_left_out() -> None:
    """Config and resources that are not given stay; what is given changes (DP4)."""
    state = done(ONE, create("b", resources=GPU, num_replicas=2, max_queued_queries=5))
    new = done(state, replace("b", max_queued_queries=6)).backends["b"]
    assert (new.resources, new.config.num_replicas, new.config.max_queued_queries) == (GPU, 2, 6)


def test_replacements_that_cannot_be() -> None:
    """A replacement with any fault changes nothing and says what would be right (DP2)."""
    refused(SERVED, replace("onee"), "'onee'", "did you mean 'one'?")
    refused(SERVED, replace("one", traits=TargetTraits(False, surface=ASGI)), "'one'", "ASGI")
    refused(SERVED, replace("one", max_batch_size=2), "max_batch_size 2", "'one'")
    refused(SERVED, replace("one", user_config=b"c"), "user_config", "'one'")
    too_much = replace("one", resources=Resources(num_gpus=3))
    refused(SERVED, too_much, "Cannot scale backend 'one'", error=InsufficientResourcesError)


def test_a_replacement_on_a_full_machine() -> None:
    """The only GPU is no obstacle: the old replica makes room for the new one (DP5)."""
    state = done(ONE, create("b", resources=Resources(num_gpus=2)))
    full = FreeCapacity(ROOM.capacity, {"b": (Allocation(Resources(num_gpus=2), (0, 1)),)})
    assert done(state, replace("b"), room=full).backends["b"].code == "new code"


# --- the same code again --------------------------------------------------------------------------------------


def deployed() -> Desired:
    first = msgspec.structs.replace(deploy("d", traits=RECONFIGURABLE, route="/d", resources=GPU), source=SOURCE)
    state, _ = apply(SERVED, first, ROOM, TIME)
    return confirm(state, "d")


def again(**changes: object) -> Deploy:
    command = deploy("d", traits=RECONFIGURABLE)
    return msgspec.structs.replace(command, **{"source": SOURCE, **changes})


def again_alone(**changes: object) -> ReplaceBackend:
    command = replace("d", traits=RECONFIGURABLE, source=SOURCE)
    return msgspec.structs.replace(command, **changes)


AGAIN = [again, again_alone]


@pytest.mark.parametrize("command", AGAIN)
def test_the_same_again_changes_nothing(command: type) -> None:
    """Deploying what is there already makes no new version, so that no replica is touched; a commit that moved on
    without a change of this code is no difference (CF6)."""
    state = deployed()
    for same in (command(), command(resources=GPU), command(source=msgspec.structs.replace(SOURCE, commit="def+"))):
        assert apply(state, same, ROOM, LATER)[0] is state


@pytest.mark.parametrize("command", AGAIN)
@pytest.mark.parametrize(
    "changes",
    [
        {"code": "v2"},
        {"origin": Origin("/elsewhere", ())},
        {"traits": TargetTraits(is_class=True, has_reconfigure=True, has_close=True)},
        {"resources": Resources(num_gpus=1, env_vars={"A": "1"})},
        {"source": msgspec.structs.replace(SOURCE, content="content 2")},
        {"source": msgspec.structs.replace(SOURCE, version="2")},
        {"source": msgspec.structs.replace(SOURCE, env=b'{"conda": "other"}')},
        {"source": msgspec.structs.replace(SOURCE, args=b"[2]")},
    ],
    ids=str,
)
def test_what_makes_a_new_version(command: type, changes: dict[str, object]) -> None:
    """New code, arguments, environment, resources, version or content of a module starts new replicas (CF9)."""
    state = deployed()
    old, new = state.backends["d"], apply(state, command(**changes), ROOM, LATER)[0].backends["d"]
    assert new.version > old.version
    assert (old.since, new.since) == (TIME, LATER)


@pytest.mark.parametrize("command", AGAIN)
def test_a_new_config_alone_starts_nothing(command: type) -> None:
    """With the same code, a changed config is a change of config: the replicas stay, as for an update (CF9)."""
    state = deployed()
    old = state.backends["d"]
    for changes in ({"max_queued_queries": 7}, {"num_replicas": 2}):
        new, _ = apply(state, command(config_changes=changes), ROOM, LATER)
        assert (new.backends["d"].version, new.backends["d"].since) == (old.version, TIME)
        assert new.backends["d"].config_version == new.version == state.version + 1
        assert set(new.fallbacks) == ({"d"} if "num_replicas" in changes else set())
        assert revert(new, "d").backends["d"].config == old.config if new.fallbacks else True


def test_a_new_route_alone_starts_nothing() -> None:
    """With the same code, a changed endpoint is a change of the endpoint alone (CF9)."""
    state = deployed()
    new, _ = apply(state, again(route="/new"), ROOM, LATER)
    assert new.endpoints["d"].route == "/new"
    assert new.backends is state.backends
    assert new.version == state.version + 1


def test_the_same_again_while_the_first_comes_up() -> None:
    """Whoever deploys the same code while it comes up shares its fate, and so does a route that is given then (DP2)."""
    pending, _ = apply(deployed(), again(code="v2"), ROOM)
    assert apply(pending, again(code="v2"), ROOM)[0] is pending
    routed, _ = apply(pending, again(code="v2", route="/new"), ROOM)
    assert routed.endpoints["d"].route == "/new"
    assert revert(routed, "d").endpoints["d"].route == "/d"


def test_back_to_the_code_before_is_a_new_version() -> None:
    """The old code again, deployed over a new one, brings new replicas of it, also while the new one comes up (DP3)."""
    pending, _ = apply(deployed(), again(code="v2"), ROOM)
    for state in (pending, confirm(pending, "d")):
        new, _ = apply(state, again(), ROOM)
        assert new.backends["d"].version > state.backends["d"].version
        assert new.backends["d"].code == "new code"


def test_the_same_code_over_a_plain_backend() -> None:
    """A deploy over a plain backend of the same code gives it an endpoint, and its replicas stay (DP1, CF9)."""
    plain = done(ONE, create("b", traits=CLASS))
    command = deploy("b", code="code of b", traits=CLASS, route="/b")
    new, _ = apply(plain, command, ROOM)
    assert new.endpoints["b"].policy.weights == {"b": 1.0}
    assert new.backends == plain.backends
    assert new.fallbacks == {}
    starting, _ = apply(ONE, create("b", traits=CLASS), ROOM)
    failed, _ = apply(starting, command, ROOM)
    assert revert(failed, "b").endpoints == {}


def test_traffic_set_since_stays_when_the_same_is_deployed() -> None:
    """Deploying the same again does not undo what an operator has set since (DP4)."""
    state = done(deployed(), SetTraffic("id", "d", {"d": 0.5, "one": 0.5}))
    assert apply(state, again(), ROOM)[0] is state


def test_a_state_of_an_older_release_is_read() -> None:
    """A backend that was stored before sources were kept is there, with what is known of it (IN10)."""
    old = msgspec.to_builtins(ONE.backends["one"])
    del old["source"], old["since"]
    spec = msgspec.convert(old, BackendSpec)
    assert (spec.source, spec.since) == (Source(), "")
