"""What a configuration file changes: pure, from its fields and from what there is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.config import config_spec
from pointsman.configfile.fields import (
    BACKEND_DEFAULTS,
    Json,
    as_json,
    backend_fields,
    config_fields,
    endpoint_defaults,
    endpoint_fields,
    given_config,
)
from pointsman.configfile.plan import Outcome, Packed, Rules, Wanted, merge, plan, to_pack
from pointsman.model import (
    ASGI,
    PLAIN,
    BackendConfigSpec,
    BackendSpec,
    EndpointSpec,
    Origin,
    Pins,
    Resources,
    Source,
    TargetTraits,
    TrafficPolicy,
)
from pointsman.wire.apply import (
    REPLACING,
    Declared,
    Mark,
    Marks,
    WantedBackend,
    declared_endpoint,
)
from pointsman.wire.apply import backend_fields as wire_backend_fields
from pointsman.wire.apply import (
    endpoint_fields as wire_endpoint_fields,
)
from pointsman.wire.handover import StartOptions

OWNER = "shop"
OURS = Mark(OWNER, "anna", "2026-11-28T10:00:00+00:00", 3)
THEIRS = Mark("", "bob", "2026-11-28T11:00:00+00:00", 4)


def backend(tag: str = "a", **changes: Any) -> BackendSpec:
    spec = BackendSpec(
        tag=tag,
        version=1,
        config_version=1,
        code=f"code-{tag}",
        origin=Origin("/there", ()),
        traits=TargetTraits(is_class=True),
        config=config_spec(changes.pop("config", {})),
        resources=changes.pop("resources", Resources()),
        source=Source(**{"path": "ranking:Ranker", "args": b'["w"]', "content": "c1", **changes.pop("source", {})}),
    )
    return msgspec.structs.replace(spec, **changes)


def endpoint(name: str = "e", **changes: Any) -> EndpointSpec:
    weights = changes.pop("weights", {"a": 1.0})
    return EndpointSpec(
        **{"name": name, "route": "/e", "methods": ("GET",), "policy": TrafficPolicy(2, weights), **changes}
    )


REFUSE = Rules()


def declared(
    backends: list[BackendSpec],
    endpoints: Sequence[EndpointSpec] = (),
    marks: dict[str, Marks] | None = None,
    **rest: Any,
) -> Declared:
    """What runs; all fields that are not as by default are the file's, unless ``marks`` say something else."""
    made = {f"backend/{spec.tag}": Marks(OWNER, dict.fromkeys(("code", "args", "content"), OURS)) for spec in backends}
    made.update(
        {f"endpoint/{spec.name}": Marks(OWNER, dict.fromkeys(("route", "traffic"), OURS)) for spec in endpoints}
    )
    return Declared(
        **{
            "version": 7,
            "backends": {spec.tag: spec for spec in backends},
            "endpoints": {spec.name: spec for spec in endpoints},
            "pins": {},
            "marks": {**made, **(marks or {})},
            "operation": None,
            "http": None,
            "start_options": StartOptions(),
            **rest,
        }
    )


BACKEND = {"code": "ranking:Ranker", "args": Json.of(["w"])}
ENDPOINT = {"route": "/e", "traffic": {"a": 1.0}}


def outcome(wanted: Wanted, there: Declared, rules: Rules = REFUSE, content: str = "c1") -> Outcome:
    """The plan, with code of which ``content`` is the digest."""
    packed = {}
    for tag, fields in to_pack(wanted, there, rules).items():
        source = Source(
            path=fields["code"], args=fields["args"].text.encode(), content=content, version=fields["version"]
        )
        made = WantedBackend(
            "new-code",
            Origin("/here", ()),
            TargetTraits(is_class=True),
            BackendConfigSpec(),
            fields["ray_actor_options"],
            source,
        )
        packed[tag] = Packed(made, b"blob")
    return plan(wanted, there, rules, packed)


def wanted(backend: dict[str, Any] | None = None, endpoint: dict[str, Any] | None = None, **rest: Any) -> Wanted:
    return Wanted(
        **{
            "owner": OWNER,
            "backends": {"a": {**BACKEND, **(backend or {})}},
            "endpoints": {"e": {**ENDPOINT, **(endpoint or {})}},
            **rest,
        }
    )


THERE = [backend()], [endpoint()]


def test_the_same_file_again_changes_nothing():
    """A file that was applied has no difference, and the controller need not be told anything (CF6)."""
    made = outcome(wanted(), declared(*THERE))
    assert made.as_json() == {"version": 7, "changes": [], "conflicts": []}
    assert made.unchanged == ("backend/a", "endpoint/e")
    assert made.is_noted
    assert not made.codes


def test_the_first_apply_creates_everything():
    """Into an empty instance a file brings all of its objects, with the fields that it sets (CF5)."""
    made = outcome(wanted({"config.num_replicas": 2}), declared([]))
    assert [change.as_json() for change in made.changes] == [
        {
            "action": "create",
            "object": "backend/a",
            "fields": [
                {"field": "code", "from": None, "to": "ranking:Ranker"},
                {"field": "args", "from": None, "to": ["w"]},
                {"field": "config.num_replicas", "from": None, "to": 2},
            ],
        },
        {
            "action": "create",
            "object": "endpoint/e",
            "fields": [
                {"field": "route", "from": None, "to": "/e"},
                {"field": "traffic", "from": None, "to": {"a": 1.0}},
            ],
        },
    ]
    assert made.plan.backends["a"].config == config_spec({"num_replicas": 2})
    assert made.plan.backends["a"].code == "new-code"
    assert made.codes == {"new-code": b"blob"}
    assert made.plan.endpoints["e"].weights == {"a": 1.0}
    assert made.plan.claims["backend/a"] == ("code", "args", "config.num_replicas", "content")


@pytest.mark.parametrize(
    ("change", "content", "action", "field"),
    [
        ({"code": "ranking:Other"}, "c1", "replace", "code"),
        ({"args": Json.of(["w2"])}, "c1", "replace", "args"),
        ({"env": {"conda": "x"}}, "c1", "replace", "env"),
        ({"ray_actor_options": Resources(num_cpus=2)}, "c1", "replace", "ray_actor_options"),
        ({"version": "2"}, "c1", "replace", "version"),
        ({}, "c2", "replace", "content"),
        ({"config.num_replicas": 3}, "c1", "update", "config.num_replicas"),
        ({"config.user_config": Json.of({"t": 1})}, "c1", "update", "config.user_config"),
    ],
)
def test_what_replaces_replicas(change, content, action, field):
    """New code, arguments, environment, resources or content take new replicas, a new config does not (CF5, CF9)."""
    made = outcome(wanted(change), declared(*THERE), content=content)
    assert [(one.action, one.object, [f.field for f in one.fields]) for one in made.changes] == [
        (action, "backend/a", [field])
    ]
    new = made.plan.backends["a"]
    assert (new.code, new.origin.cwd) == (("new-code", "/here") if action == "replace" else ("code-a", "/there"))
    assert (made.codes == {}) is (action == "update")


def test_another_folder_or_commit_replaces_nothing():
    """A checkout in another folder, with another commit and the same files, touches no replica (CF9)."""
    there = declared([backend(source={"commit": "abc"}, origin=Origin("/elsewhere", ("/elsewhere",)))], [endpoint()])
    assert not outcome(wanted(), there).changes


def test_a_user_config_is_compared_by_value():
    """The pickled ``user_config`` may be of another Python; what counts is its value, and the order of names does not
    (CF6)."""
    there = declared([backend(config={"user_config": {"b": 1, "a": [1.0]}})], [endpoint()])
    assert not outcome(wanted({"config.user_config": Json.of({"a": [1.0], "b": 1})}), there).changes
    assert outcome(wanted({"config.user_config": Json.of({"a": [1], "b": 1})}), there).changes


def test_a_changed_endpoint():
    """Traffic, shadows, pins and options of an endpoint change in place (CF5)."""
    there = declared([backend(), backend("b")], [endpoint()])
    both = {"a": BACKEND, "b": BACKEND}
    change = {"traffic": {"a": 0.5, "b": 0.5}, "shadows": {"b": 0.1}, "pins": {"k": "b"}, "idempotent": True}
    made = outcome(wanted(endpoint=change, backends=both), there)
    assert [(one.action, one.object) for one in made.changes] == [("update", "endpoint/e")]
    assert {one.field: (one.old, one.new) for one in made.changes[0].fields} == {
        "traffic": ({"a": 1.0}, {"a": 0.5, "b": 0.5}),
        "shadows": ({}, {"b": 0.1}),
        "pins": ({}, {"k": "b"}),
        "idempotent": (False, True),
    }


def test_secrets_are_not_shown():
    """A changed variable is a difference, and its values are stars (CF3)."""
    there = declared([backend(resources=Resources(env_vars={"HUB": "old-s3cret"}))], [endpoint()])
    made = outcome(wanted({"ray_actor_options": Resources(env_vars={"HUB": "new-s3cret"})}), there)
    shown = json.dumps(made.as_json())
    assert made.changes[0].action == "replace"
    assert "s3cret" not in shown
    assert '{"HUB": "***"}' in shown


# --- ownership ------------------------------------------------------------------------------------------------


def conflicted() -> Declared:
    """An instance in which bob has set the replicas and the traffic since the file was applied."""
    ours = dict.fromkeys(("code", "args", "content", "route"), OURS)
    marks = {
        "backend/a": Marks(OWNER, {**ours, "config.num_replicas": THEIRS}),
        "endpoint/e": Marks(OWNER, {"route": OURS, "traffic": THEIRS}),
    }
    return declared([backend(config={"num_replicas": 5}), backend("b")], [endpoint(weights={"b": 1.0})], marks)


BOTH = {"a": {**BACKEND, "config.num_replicas": 2}, "b": BACKEND}


def test_a_field_that_another_has_changed_is_a_conflict():
    """What somebody has changed by hand is not overwritten by accident: both values, who and when (CF10)."""
    made = outcome(wanted(backends=BOTH), conflicted())
    assert [one.as_json() for one in made.conflicts] == [
        {
            "object": "backend/a",
            "field": "config.num_replicas",
            "file": 2,
            "live": 5,
            "by": "bob",
            "time": "2026-11-28T11:00:00+00:00",
        },
        {
            "object": "endpoint/e",
            "field": "traffic",
            "file": {"a": 1.0},
            "live": {"b": 1.0},
            "by": "bob",
            "time": "2026-11-28T11:00:00+00:00",
        },
    ]


def test_a_conflict_is_solved_by_overwriting():
    """``--overwrite`` takes the value of the file (CF10)."""
    made = outcome(wanted(backends=BOTH), conflicted(), Rules("overwrite"))
    assert not made.conflicts
    assert made.plan.backends["a"].config.num_replicas == 2
    assert made.plan.endpoints["e"].weights == {"a": 1.0}
    assert "config.num_replicas" in made.plan.claims["backend/a"]


def test_a_conflict_is_solved_by_keeping():
    """``--keep`` leaves the field as it is, and to whom it belongs (CF10)."""
    made = outcome(wanted(backends=BOTH), conflicted(), Rules("keep"))
    assert not made.conflicts
    assert not made.changes
    assert "config.num_replicas" not in made.plan.claims["backend/a"]
    assert "traffic" not in made.plan.claims["endpoint/e"]


def test_a_conflict_is_solved_by_leaving_the_field_out():
    """A field that the file does not have is none of its business (CF10)."""
    later = {"e": {"route": "/e"}}
    made = outcome(wanted(backends={"a": BACKEND, "b": BACKEND}, endpoints=later), conflicted())
    assert not made.conflicts
    assert not made.changes


def test_the_value_of_another_that_is_the_same_is_no_conflict():
    """Who has set by hand what the file says has changed nothing; the field is the file's again (CF10)."""
    there = conflicted()
    made = outcome(
        wanted(
            {"config.num_replicas": 5},
            {"traffic": {"b": 1.0}},
            backends={**BOTH, "a": {**BACKEND, "config.num_replicas": 5}},
        ),
        there,
    )
    assert not made.changes
    assert not made.conflicts
    assert not made.is_noted


def test_a_field_that_is_gone_from_the_file_gets_its_default():
    """A field that the file had set goes back to its default, unless another has set it since (CF10)."""
    for mark, replicas in ((OURS, 1), (THEIRS, 5)):
        marks = {
            "backend/a": Marks(OWNER, {**dict.fromkeys(("code", "args", "content"), OURS), "config.num_replicas": mark})
        }
        made = outcome(wanted(), declared([backend(config={"num_replicas": 5})], [endpoint()], marks))
        assert [one.action for one in made.changes] == (["update"] if replicas == 1 else [])
        assert made.is_noted is (replicas == 5)


def test_an_app_without_methods_gets_all():
    """An endpoint of an app that names no methods is as it should be: an app gets all of them (CF6)."""
    app = backend(traits=TargetTraits(is_class=False, surface=ASGI))
    marks = {"endpoint/e": Marks(OWNER, dict.fromkeys(("route", "traffic", "methods"), OURS))}
    there = declared([app], [endpoint(methods=("*",), surface=ASGI)], marks)
    packed = {"a": Packed(WantedBackend("x", Origin("", ()), app.traits, app.config, app.resources, app.source), b"")}
    made = plan(wanted(), there, Rules(), packed)
    assert not made.changes


def test_initial_traffic_counts_once():
    """``initial_traffic`` is for the creation; afterwards the split is not the file's (CF10)."""
    later = {"e": {"route": "/e"}}
    file = wanted(backends={"a": BACKEND, "b": BACKEND}, endpoints=later, initial_traffic={"e": {"a": 1.0}})
    first = outcome(file, declared([backend(), backend("b")]))
    assert first.plan.endpoints["e"].weights == {"a": 1.0}
    assert "traffic" not in first.plan.claims["endpoint/e"]
    marks = {"endpoint/e": Marks(OWNER, {"route": OURS, "traffic": THEIRS})}
    again = outcome(file, declared([backend(), backend("b")], [endpoint(weights={"b": 1.0})], marks))
    assert not again.changes
    assert not again.conflicts


def test_objects_gone_from_the_file_are_deleted_and_others_stay():
    """What the file has made and no longer has is deleted; objects of other files, and of nobody, stay (CF11)."""
    marks = {"backend/theirs": Marks("other"), "backend/nobodys": Marks()}
    there = declared(
        [backend(), backend("old"), backend("theirs"), backend("nobodys")], [endpoint(), endpoint("gone")], marks
    )
    made = outcome(wanted(), there)
    assert [(one.action, one.object) for one in made.changes] == [
        ("delete", "endpoint/gone"),
        ("delete", "backend/old"),
    ]
    assert made.plan.delete_backends == ("old",)
    assert made.plan.delete_endpoints == ("gone",)


@pytest.mark.parametrize("owner", ["other", ""])
def test_a_name_of_others_is_a_conflict(owner):
    """An object that another file or a call has made is not taken over by accident, but by ``--adopt`` (CF11)."""
    marks = {"backend/a": Marks(owner, {"code": Mark(owner, "bob", "t", 5)})}
    there = declared([backend(config={"num_replicas": 4})], [endpoint()], marks)
    file = wanted({"config.num_replicas": 2})
    [conflict] = outcome(file, there).conflicts
    assert (conflict.object, conflict.field, conflict.file, conflict.live) == (
        "backend/a",
        "owner",
        OWNER,
        owner or None,
    )
    assert (conflict.by, conflict.time) == ("bob", "t")
    adopted = outcome(file, there, Rules(adopt=True))
    assert not adopted.conflicts
    assert [one.object for one in adopted.changes] == ["backend/a"]
    assert adopted.plan.claims["backend/a"]


def test_what_nobody_owns_and_is_as_the_file_has_it_becomes_the_files():
    """A file that was exported from an instance that was set up by hand has no difference (CF11, CF13)."""
    made = outcome(wanted(), declared(*THERE, {"backend/a": Marks(), "endpoint/e": Marks()}))
    assert made.as_json() == {"version": 7, "changes": [], "conflicts": []}
    assert not made.is_noted


def test_code_that_was_sent_by_value():
    """A backend that a notebook has made is replaced by the file's code once it is adopted (CF9)."""
    marks = {"backend/a": Marks("", {"code": THEIRS, "args": THEIRS})}
    there = declared([backend(source={"path": "", "args": None, "content": ""})], [endpoint()], marks)
    made = outcome(wanted(), there, Rules(adopt=True))
    assert [(one.field, one.old, one.new) for one in made.changes[0].fields] == [
        ("code", None, "ranking:Ranker"),
        ("args", "not JSON", ["w"]),
    ]
    kept = outcome(wanted(), there, Rules("keep", adopt=True))
    assert not to_pack(wanted(), there, Rules("keep", adopt=True))
    assert not kept.changes


# --- the whole of it ------------------------------------------------------------------------------------------

VALUES = st.integers(0, 2)
SOME = st.dictionaries(st.sampled_from("xyz"), VALUES)
MARKS = st.dictionaries(st.sampled_from("xyz"), st.sampled_from([OURS, THEIRS]))
DEFAULTS = {"x": 0, "y": 0, "z": 0}


@given(SOME, st.dictionaries(st.sampled_from("xyz"), VALUES, min_size=3), MARKS, st.sampled_from(["overwrite", "keep"]))
def test_after_an_apply_the_same_file_has_no_difference(file, live, marks, on_conflict):
    """Whatever others have set, and however that is solved: once applied, a file has no difference (CF6, CF10)."""
    rules = Rules(on_conflict)
    first = merge("backend/a", file, live, Marks(OWNER, marks), DEFAULTS, owner=OWNER, rules=rules)
    assert not first.conflicts
    after = {field: mark for field, mark in marks.items() if mark is THEIRS and field not in first.claims}
    after.update(dict.fromkeys(first.claims, OURS))
    again = merge("backend/a", file, first.values, Marks(OWNER, after), DEFAULTS, owner=OWNER, rules=rules)
    assert not again.changed
    assert again.claims == first.claims
    for field in "xyz":
        if field not in file and marks.get(field) is THEIRS:
            assert first.values[field] == live[field], "what is not in the file stays"


@given(SOME, st.dictionaries(st.sampled_from("xyz"), VALUES, min_size=3), MARKS)
def test_conflicts_are_what_others_have_set_otherwise(file, live, marks):
    """A conflict is a field of the file that another has set to another value, and nothing else (CF10)."""
    merged = merge("backend/a", file, live, Marks(OWNER, marks), DEFAULTS, owner=OWNER, rules=Rules())
    expected = {f for f in file if file[f] != live[f] and marks.get(f) is THEIRS}
    assert {one.field for one in merged.conflicts} == expected


def test_fields_have_one_set_of_names():
    """The controller marks the fields by the names that a file, a diff and a conflict have (CF10)."""
    ours, theirs = backend_fields(backend()), wire_backend_fields(backend())
    assert set(ours) == set(theirs) == {*BACKEND_DEFAULTS, "code", "content"}
    assert set(REPLACING) == {field for field in ours if not field.startswith("config.")}
    there = endpoint_fields(endpoint(), Pins({"k": "a"}))
    assert (
        set(there)
        == set(wire_endpoint_fields(declared_endpoint(endpoint(), None)))
        == {*endpoint_defaults(PLAIN), "traffic"}
    )


def test_every_option_of_a_config_is_a_field():
    """Each field of a config is compared under the name that users write (CF1)."""
    config = {"num_replicas": 2, "batch_wait_timeout": 0.5, "graceful_shutdown_timeout_s": 3, "user_config": {"a": 1}}
    fields = given_config(config)
    spec = config_spec(config)
    assert fields == {
        "config.num_replicas": 2,
        "config.batch_wait_timeout": 0.5,
        "config.experimental_graceful_shutdown_timeout_s": 3.0,
        "config.user_config": Json.of({"a": 1}),
    }
    assert {name: config_fields(spec)[name] for name in fields} == fields
    assert as_json("config.user_config", fields["config.user_config"]) == {"a": 1}
