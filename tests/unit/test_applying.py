"""controller.applying: a configuration file is carried out whole, or everything is as it was."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.controller.applying import KEPT_OPERATIONS, begin, complete, find_operation, take_back, view_of
from pointsman.controller.history import history_of
from pointsman.controller.state import Desired, FreeCapacity, NoCapacityError
from pointsman.controller.transitions import carry_out, confirmed, reverted
from pointsman.exceptions import BusyError, StateChangedError
from pointsman.model import ASGI, Capacity, Resources, TargetTraits
from pointsman.wire.apply import DONE, TAKEN_BACK, Plan, WantedBackend, WantedEndpoint
from pointsman.wire.commands import Change, DeleteBackend, DeleteEndpoint, Pin, SetTraffic, TakeBack
from tests.unit.desiring import EMPTY, GPU, ROOM, create, deploy, done, endpoint, update
from tests.unit.planning import (
    LATER,
    NOW,
    applied,
    apply_of,
    begun,
    everything,
    of_file,
    plan_for,
    served,
    wanted,
)

V1, V2 = wanted(args=b'["1"]', num_replicas=2), wanted(args=b'["2"]')
SHOP = applied(EMPTY, {"v1": V1}, {"rank": served("/rank", v1=1.0)})
"""One backend and its endpoint, by a file."""


def split(v1: float) -> dict[str, WantedEndpoint]:
    return {"rank": served("/rank", v1=v1, v2=1 - v1)}


def send(state: Desired, command: Change) -> Desired:
    return carry_out(state, command, ROOM, LATER)[0]


def test_a_new_backend_gets_traffic_only_once_all_have_come_up() -> None:
    """Backends first, each with what it was kept aside; then endpoints in one version, with a line of history (CF7)."""
    new = begun(SHOP, {"v1": V1, "v2": V2}, split(0.5))
    assert set(new.backends) == {"v1", "v2"}
    assert new.endpoints == SHOP.endpoints
    assert new.fallbacks["v2"].spec is None
    assert view_of(find_operation(new, "op"), new.version).state == "running"
    end = confirmed(new, "v2", LATER)
    assert end.version == new.version + 1
    assert end.endpoints["rank"].policy.weights == {"v1": 0.5, "v2": 0.5}
    assert end.fallbacks == {}
    assert end.running is None
    line = end.histories["rank"].changes[-1]
    assert (line.change, line.by, line.time) == ("applied", "anna", LATER)
    assert view_of(find_operation(end, "op"), 99).version == end.version


def test_a_file_that_changes_nothing_makes_no_version() -> None:
    """The same file again is done at once, and nothing is new but the answer to who asks (CF6)."""
    again = begun(SHOP, {"v1": V1}, {"rank": served("/rank", v1=1.0)}, name="again")
    assert again.version == SHOP.version
    assert (again.backends, again.endpoints, again.marks) == (SHOP.backends, SHOP.endpoints, SHOP.marks)
    assert find_operation(again, "again").state == DONE


def test_a_change_of_endpoints_alone_is_one_version() -> None:
    """Nothing has to come up, so nothing is waited for (CF7)."""
    file = {"v1": V1}, {"rank": served("/new", pins={"me": "v1"}, v1=1.0)}
    new = begun(SHOP, *file)
    assert new.version == SHOP.version + 1
    assert new.running is None
    assert everything(new) == of_file(*file)


def test_only_a_new_version_is_a_replacement() -> None:
    """A change of the config keeps replicas; code, arguments, environment, resources, version and content do not
    (CF9)."""
    spec = SHOP.backends["v1"]
    for one in (wanted(args=b'["1"]', num_replicas=2, max_queued_queries=5),):
        new = begun(SHOP, {"v1": one}, {"rank": served("/rank", v1=1.0)}).backends["v1"]
        assert (new.version, new.config_version) == (spec.version, SHOP.version + 1)
    for one in (
        wanted("models:Other", args=b'["1"]', num_replicas=2),
        wanted(args=b'["3"]', num_replicas=2),
        wanted(args=b'["1"]', num_replicas=2, version="2"),
        wanted(args=b'["1"]', num_replicas=2, content="abc"),
        wanted(args=b'["1"]', num_replicas=2, resources=GPU),
    ):
        new = begun(SHOP, {"v1": one}, {"rank": served("/rank", v1=1.0)}).backends["v1"]
        assert new.version == SHOP.version + 1


def test_a_backend_gets_smaller_only_with_the_commit() -> None:
    """Its traffic goes elsewhere with the commit, and until then all of its replicas are needed (CF7)."""
    small = wanted(args=b'["1"]', num_replicas=1)
    new = begun(SHOP, {"v1": small, "v2": V2}, split(0.1))
    assert new.backends["v1"].config.num_replicas == 2
    end = complete(new, LATER)
    assert end.backends["v1"].config.num_replicas == 1
    assert end.backends["v1"].config_version == SHOP.backends["v1"].config_version  # its replicas are sent nothing


def test_whoever_plans_for_an_old_state_is_told() -> None:
    """The error names both versions, and is of a kind of its own (CF12)."""
    old = apply_of(SHOP, plan_for(SHOP, {"v1": V1, "v2": V2}, split(0.5)))
    newer = send(SHOP, SetTraffic("id", "rank", {"v1": 1.0}, by="bob"))
    assert newer is SHOP  # nothing has changed, so nobody is disturbed
    newer = send(SHOP, update("v1", num_replicas=3))
    with pytest.raises(StateChangedError, match=f"version {SHOP.version} of the state.* version {SHOP.version + 1}"):
        begin(newer, old, ROOM, NOW)


def test_a_second_apply_is_told_who_is_at_it() -> None:
    """It is refused with owner, author and time; nothing waits in line (CF8)."""
    new = begun(SHOP, {"v1": V1, "v2": V2}, split(0.5))
    with pytest.raises(BusyError, match=r"anna has been applying 'shop' since 2026-11-28T12:00:00"):
        begun(new, {"v1": V1}, {"rank": served("/rank", v1=1.0)}, name="second", by="bob")


def test_commands_for_its_backends_wait_for_nobody_and_are_refused() -> None:
    """Whoever deploys, scales or deletes what an apply is changing is told whose that is; other backends are free."""
    start = done(SHOP, create("other"))
    plan = msgspec.structs.replace(plan_for(start, {"v1": V1, "v2": V2}, split(0.5)), delete_backends=())
    new = begin(start, apply_of(start, plan), ROOM, NOW)
    for command in (update("v2", num_replicas=3), deploy("v2"), DeleteBackend("id", "v2", True), create("v2")):
        with pytest.raises(BusyError, match="backend 'v2' cannot be changed now: anna"):
            send(new, command)
    assert send(new, update("other", max_queued_queries=7)).backends["other"].config.max_queued_queries == 7


@pytest.mark.parametrize(
    ("emergency", "sentence"),
    [
        (SetTraffic("id", "rank", {"v1": 0.9, "old": 0.1}, by="bob"), "bob changed traffic of endpoint 'rank'"),
        (Pin("id", "rank", ("me",), "v1"), "changed pins of endpoint 'rank' meanwhile"),
        (DeleteEndpoint("id", "rank"), "endpoint 'rank' was deleted meanwhile"),
        (endpoint("new", "v1"), "created endpoint 'new' meanwhile"),
    ],
)
def test_an_emergency_is_not_overwritten(emergency: Change, sentence: str) -> None:
    """Endpoints can be changed while an apply runs. It is taken back then, and says who and what (CF8)."""
    start = applied(EMPTY, {"v1": V1, "old": V2}, {"rank": served("/rank", v1=1.0)})
    new = begun(start, {"v1": V1, "v2": V2}, {**split(0.5), "new": served(v2=1.0)})
    changed = send(new, emergency)
    end = complete(changed, LATER)
    ended = find_operation(end, "op")
    assert ended.state == TAKEN_BACK
    assert sentence in ended.text
    assert set(end.backends) == {"v1", "old"}
    assert end.endpoints == changed.endpoints
    assert end.pins == changed.pins


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            SetTraffic("id", "rank", {"v1": 0.9, "old": 0.1}, by="bob"),
            "bob changed traffic of endpoint 'rank' meanwhile",
        ),
        (update("old", num_replicas=3), "someone changed config.num_replicas of backend 'old' meanwhile"),
        (DeleteBackend("id", "old", False), "backend 'old' was deleted meanwhile"),
        (DeleteEndpoint("id", "rank"), "endpoint 'rank' was deleted meanwhile"),
    ],
)
def test_what_a_file_leaves_as_it_is_is_its_own_too(change: Change, sentence: str) -> None:
    """Whoever changes one of its fields meanwhile is not made a follower of the file: it is taken back (CF8, CF10)."""
    file = {"v1": V1, "old": V2}, {"rank": served("/rank", v1=1.0)}
    new = begun(applied(EMPTY, *file), {**file[0], "v2": V2}, file[1])
    changed = send(new, change)
    end = complete(changed, LATER)
    assert find_operation(end, "op").text == sentence
    assert end.marks == changed.marks


def test_what_a_file_does_not_set_is_free() -> None:
    """Pins that are no field of the file may be set while it is applied, and stay (CF10)."""
    file = {"v1": V1}, {"rank": served("/rank", v1=1.0)}
    plan = plan_for(SHOP, {**file[0], "v2": V2}, file[1])
    claims = {name: tuple(field for field in fields if field != "pins") for name, fields in plan.claims.items()}
    new = begin(SHOP, apply_of(SHOP, msgspec.structs.replace(plan, claims=claims)), ROOM, NOW)
    end = complete(send(new, Pin("id", "rank", ("me",), "v1")), LATER)
    assert find_operation(end, "op").state == DONE
    assert end.pins["rank"].keys == {"me": "v1"}


def test_what_the_rest_needs_may_be_gone_by_then() -> None:
    """A backend outside of the plan was deleted meanwhile: the apply is taken back with that sentence (CF8)."""
    start = applied(EMPTY, {"v1": V1, "spare": V2})
    plan = plan_for(start, {"v1": wanted(num_replicas=3)}, {"rank": served("/rank", v1=0.5, spare=0.5)})
    plan = msgspec.structs.replace(plan, delete_backends=())  # it is another's
    new = begin(start, apply_of(start, plan), ROOM, NOW)
    end = complete(send(new, DeleteBackend("id", "spare", False)), LATER)
    assert "backend 'spare' does not exist" in find_operation(end, "op").text
    assert everything(end) == everything(applied(EMPTY, {"v1": V1}))


def test_one_failing_backend_takes_back_every_step() -> None:
    """New ones are gone, replaced and updated ones as they were; the object and its traceback are kept (CF7)."""
    file = {"v1": wanted(args=b'["3"]'), "v2": V2}, split(0.5)
    new = begun(SHOP, *file)
    end = reverted(new, "v2", "no such file", "Traceback ...", LATER)
    assert everything(end) == everything(SHOP)
    assert end.version == new.version + 1
    assert end.backends["v1"].version == SHOP.backends["v1"].version
    assert end.backends["v1"].config_version == end.version  # replicas with the new configuration get the old one again
    view = view_of(find_operation(end, "op"), end.version)
    assert (view.state, view.object, view.text, view.traceback) == (
        TAKEN_BACK,
        "backend/v2",
        "no such file",
        "Traceback ...",
    )


def test_what_an_apply_does_and_takes_back_is_in_the_history() -> None:
    """Each step when it is made: by whom, and for which file (AD7)."""
    new = begun(SHOP, {"v1": wanted(args=b'["3"]'), "v2": V2}, split(0.5))
    lines = lines_of(complete(new, LATER), since=SHOP)
    assert lines == [
        ("backend/v1", "replaced (args)", "anna", "shop", NOW),
        ("backend/v2", "created", "anna", "shop", NOW),
        ("backend/v1", "num_replicas 2 -> 1", "anna", "shop", LATER),
        ("endpoint/rank", "traffic v1 50 %, v2 50 %", "anna", "shop", LATER),
    ]
    lines = lines_of(reverted(new, "v2", "no such file", "", LATER), since=new)
    assert [(line[0], line[1], line[2]) for line in lines] == [
        ("backend/v1", "taken back: replaced (args)", "the controller"),
        ("backend/v2", "taken back: deleted", "the controller"),
    ]


def lines_of(state: Desired, *, since: Desired) -> list[tuple[str, ...]]:
    """The lines of the history that one state has and an earlier one has not."""
    lines = history_of(state)[len(history_of(since)) :]
    return [(line.object, line.change, line.by, line.owner, line.time) for line in lines]


def test_a_change_that_was_still_under_way_goes_on_when_an_apply_is_taken_back() -> None:
    """The apply takes back what it has done, and not what another has begun."""
    starting = send(SHOP, deploy("mine", traits=TargetTraits(is_class=True)))
    new = begun(starting, {"v1": V1, "mine": wanted("new:Code")}, {"rank": served("/rank", v1=1.0)} | mine())
    end = take_back(new, "backend/mine", "no", now=LATER)
    assert end.fallbacks == starting.fallbacks
    assert everything(end) == everything(starting)
    assert "blob of new:Code[]" not in end.codes()
    assert starting.backends["mine"].code in new.codes()


def mine() -> dict[str, WantedEndpoint]:
    return {"mine": WantedEndpoint(None, ("GET", "POST"), {"mine": 1.0})}


def test_whoever_sent_it_or_another_can_take_it_back() -> None:
    """A model that loads for ever would block its backends for ever (CF8)."""
    new = begun(SHOP, {"v1": V1, "v2": V2}, split(0.5))
    end = send(new, TakeBack("id", "op", by="bob"))
    assert everything(end) == everything(SHOP)
    assert find_operation(end, "op").text == "bob took it back"
    same, note = carry_out(end, TakeBack("id", "op"), ROOM, LATER)
    assert same is end
    assert note == "the apply of 'shop' has ended already: taken back"


def refused(state: Desired, plan: Plan, sentence: str, room: FreeCapacity = ROOM) -> None:
    with pytest.raises((ValueError, NoCapacityError), match=sentence):
        begin(state, apply_of(state, plan), room, NOW)


def test_all_is_checked_before_anything_is_done() -> None:
    """Traffic rules, names, routes, configs and kinds: the command is refused in one sentence (CF7)."""
    apps = wanted(traits=TargetTraits(is_class=True, surface=ASGI))
    for endpoints, sentence in (
        ({"e": served(v1=0.5)}, "must sum to 1"),
        ({"e": served(v1=0.5, gone=0.5)}, "backend 'gone' does not exist"),
        ({"e": served("/rank", v1=1.0)}, "route '/rank' is taken by endpoint 'rank'"),
        ({"e": served(v1=0.5, app=0.5)}, "backends of two kinds"),
        ({"e": WantedEndpoint(None, ("GET",), {"v1": 1.0}, shadows={"v1": 1.5})}, "proportion 1.5"),
        ({"e": served(v1=1.0, pins={"k": "nobody"})}, "backend 'nobody' does not exist"),
        ({"e": WantedEndpoint(None, ("GET",), {})}, "traffic policy is empty"),
    ):
        both = {"rank": served("/rank", v1=1.0), **endpoints}
        refused(SHOP, plan_for(SHOP, {"v1": V1, "app": apps}, both), sentence)
    for backend, sentence in (
        (wanted(max_batch_size=5), "needs code that takes a list"),
        (apps, "backend 'v1' is of another kind"),
    ):
        refused(SHOP, plan_for(SHOP, {"v1": backend}, {"rank": served("/rank", v1=1.0)}), sentence)
    refused(SHOP, Plan(claims={"backend/v9": ("code",)}), "fields of backend/v9, which does not exist")
    refused(SHOP, Plan(delete_backends=("v1",)), "in use by endpoint 'rank'")
    refused(SHOP, Plan(delete_backends=("v9",)), "backend 'v9' does not exist")
    with pytest.raises(ValueError, match="the code of backend 'v2' is missing"):
        begin(SHOP, msgspec.structs.replace(apply_of(SHOP, Plan({"v2": V2})), codes={}), ROOM, NOW)


def test_routes_may_change_places() -> None:
    """Both are checked against the state that the file describes, and not against a half of it."""
    there = applied(EMPTY, {"v1": V1}, {"a": served("/a", v1=1.0), "b": served("/b", v1=1.0)})
    file = {"v1": V1}, {"a": served("/b", v1=1.0), "b": served("/a", v1=1.0)}
    assert everything(applied(there, *file)) == of_file(*file)


def test_resources_count_together() -> None:
    """Two backends that each fit alone and not side by side are refused; the text says what is free (CF7)."""
    two = FreeCapacity(Capacity(num_gpus=2))
    one = wanted(resources=GPU)
    pair = wanted(resources=GPU, num_replicas=2)
    refused(EMPTY, Plan({"a": one, "b": pair}), "Cannot scale backend 'b' to 2 replicas: asked for 2", two)
    assert begin(EMPTY, apply_of(EMPTY, Plan({"b": pair})), two, NOW).backends
    double = wanted(resources=Resources(num_gpus=2))
    there = applied(EMPTY, {"a": one, "b": wanted(args=b'["2"]', resources=GPU)})
    refused(there, Plan({"a": double, "b": double}), "free beside the rest of the plan: num_gpus=0", two)


def test_the_last_operations_are_kept() -> None:
    """Whoever asks late still learns how it ended; the state does not grow for ever."""
    state = SHOP
    for number in range(KEPT_OPERATIONS + 5):
        backends = {"v1": wanted(max_queued_queries=number + 1)}
        state = applied(state, backends, {"rank": served(v1=1.0)}, name=f"op{number}")
    assert list(state.operations) == [f"op{number}" for number in range(5, KEPT_OPERATIONS + 5)]
    with pytest.raises(ValueError, match="there is no apply of id 'op0'"):
        find_operation(state, "op0")


TAGS = ("a", "b", "c")
BACKENDS = st.builds(
    lambda code, replicas, queued: wanted(code, num_replicas=replicas, max_queued_queries=queued),
    st.sampled_from(("m:A", "m:B")),
    st.integers(1, 3),
    st.integers(1, 2),
)


@st.composite
def files(draw: st.DrawFn) -> tuple[dict[str, WantedBackend], dict[str, WantedEndpoint]]:
    """Files of up to three backends, and endpoints of these."""
    backends = draw(st.dictionaries(st.sampled_from(TAGS), BACKENDS))
    if not backends:
        return {}, {}
    tag = st.sampled_from(sorted(backends))
    endpoints = st.builds(
        lambda one, other, share, shadow, route, pin: WantedEndpoint(
            route,
            ("GET",),
            {one: share, other: 1 - share} if one != other else {one: 1.0},
            shadows={shadow: 0.5} if route is None else {},
            pins={"key": pin} if share else {},
        ),
        *(tag, tag, st.sampled_from((0.0, 0.25, 0.5)), tag, st.none(), tag),
    )
    return backends, draw(st.dictionaries(st.sampled_from("ef"), endpoints))


Files = tuple[dict[str, WantedBackend], dict[str, WantedEndpoint]]


@given(files(), files())
def test_in_the_end_all_is_as_in_the_file(one: Files, other: Files) -> None:
    """Whatever was there: begin and complete make what is wanted, in two versions at most, and mark it (CF7, CF10)."""
    before = applied(EMPTY, *one)
    after = applied(before, *other, name="other", owner="other")
    assert everything(after) == of_file(*other)
    assert after.fallbacks == {}
    assert after.running is None
    assert before.version <= after.version <= before.version + 2
    assert set(after.marks) == set(everything(after))
    assert {mark.owner for marks in after.marks.values() for mark in marks.fields.values()} <= {"other"}
    assert begun(after, *other, name="again", owner="other").version == after.version


@given(files(), files())
def test_taken_back_all_is_as_before(one: Files, other: Files) -> None:
    """Whatever was there and is wanted: nothing of an apply that is taken back is left, and versions grow
    (CF7, CF8)."""
    before = applied(EMPTY, *one)
    new = begun(before, *other, name="other", owner="other")
    if new.running is None:
        return
    after = take_back(new, "", "no", now=LATER)
    assert everything(after) == everything(before)
    assert (after.pins, after.histories, after.marks, after.fallbacks) == (
        before.pins,
        before.histories,
        before.marks,
        before.fallbacks,
    )
    assert {tag: spec.version for tag, spec in after.backends.items()} == {
        tag: spec.version for tag, spec in before.backends.items()
    }
    assert after.version == new.version + 1
    assert after.codes() == before.codes()
