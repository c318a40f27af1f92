"""config: what users write about numbers of replicas that follow the calls; in code, in files, and as it is stored."""

from __future__ import annotations

import math
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pointsman as serve
from pointsman.client.scaling import ScalingOperations, find_policy
from pointsman.config import AutoscalingConfig, BackendConfig, config_changes, config_from_spec, config_spec
from pointsman.configfile.exporting import export
from pointsman.configfile.packing import load_policies
from pointsman.configfile.plan import Rules
from pointsman.configfile.problems import CodeError
from pointsman.configfile.wanting import wanted_of
from pointsman.controller.desired import apply
from pointsman.controller.state import Desired
from pointsman.model import Autoscaling, BackendConfigSpec, BackendSpec, Scale
from pointsman.model.scaling import ScalingPolicy
from pointsman.wire.commands import UpdateBackendConfig
from pointsman.wire.messages import pack, unpack
from tests.properties import examples
from tests.unit.configuring import HEAD, config_of, lines_of
from tests.unit.desiring import ROOM, create
from tests.unit.sentences import sentence
from tests.unit.test_config_export import diff_of
from tests.unit.test_config_plan import OWNER, THEIRS, backend, declared

NUMBERS = (
    "min_replicas",
    "max_replicas",
    "initial_replicas",
    "target_ongoing_requests",
    "target_latency_ms",
    "look_back_period_s",
    "upscaling_factor",
    "downscaling_factor",
    "upscale_delay_s",
    "downscale_delay_s",
    "downscale_to_zero_delay_s",
    "tolerance",
    "priority",
    "season_s",
)
ABOVE_0 = ("target_ongoing_requests", "target_latency_ms", "look_back_period_s", "upscaling_factor", "season_s")
BAD: list[tuple[str, Any]] = [
    *((name, value) for name in NUMBERS for value in ("soon", [1], True, math.nan, math.inf)),
    *((name, value) for name in (*ABOVE_0, "downscaling_factor") for value in (0, -1)),
    *((name, -1) for name in ("min_replicas", "max_replicas", "initial_replicas", "upscale_delay_s", "tolerance")),
    *((name, -0.5) for name in ("downscale_delay_s", "downscale_to_zero_delay_s")),
    *((name, 1.5) for name in ("min_replicas", "max_replicas", "initial_replicas", "priority")),
    ("max_replicas", 0),
    ("max_replicas", 10_001),
    ("tolerance", 1),
    ("policy", ""),
    ("policy", 3),
    ("policy", True),
    ("dry_run", 1),
    ("dry_run", "yes"),
]


@pytest.mark.parametrize(("field", "value"), BAD, ids=repr)
def test_a_bad_value_is_refused_by_name(field: str, value: Any) -> None:
    """A bad value is a ValueError with field and value, in a dict, in a BackendConfig and at assignment (AS1)."""
    with pytest.raises(ValueError) as caught:
        AutoscalingConfig(**{field: value})
    text = sentence(caught.value, field, repr(value))
    for name in ("autoscaling", "autoscaling_config"):
        with pytest.raises(ValueError) as caught:
            config_changes({name: {field: value}}, "config")
        assert str(caught.value) == text
    config = AutoscalingConfig()
    with pytest.raises(ValueError):
        setattr(config, field, value)
    assert config == AutoscalingConfig()


def test_unknown_fields_get_a_hint() -> None:
    """A misspelt field is refused with the one that was meant (AS1)."""
    with pytest.raises(ValueError) as caught:
        BackendConfig(autoscaling={"max_replica": 3})
    sentence(caught.value, "AutoscalingConfig", "'max_replica'", "did you mean 'max_replicas'?")


@pytest.mark.parametrize("value", [3, True, "auto", [("max_replicas", 3)], AutoscalingConfig])
def test_autoscaling_of_another_type(value: Any) -> None:
    """Neither a dict nor an AutoscalingConfig is a TypeError, at construction and at assignment (AS1)."""
    with pytest.raises(TypeError) as caught:
        BackendConfig(autoscaling=value)
    sentence(caught.value, "autoscaling must be a dict or an AutoscalingConfig", repr(value))
    config = BackendConfig()
    with pytest.raises(TypeError):
        config.autoscaling = value
    assert config_changes(config, "config") == ({}, None)


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"min_replicas": 4, "max_replicas": 3}, ["max_replicas", "3", "min_replicas, 4"]),
        ({"initial_replicas": 0}, ["initial_replicas", "0", "min_replicas, 1"]),
        ({"initial_replicas": 5, "max_replicas": 4}, ["initial_replicas", "5", "max_replicas, 4"]),
    ],
)
def test_bounds_that_contradict_each_other(fields: dict[str, int], parts: list[str]) -> None:
    """A largest number below the smallest, or a first one outside both, is refused, and nothing changes (AS1)."""
    with pytest.raises(ValueError) as caught:
        AutoscalingConfig(**fields)
    sentence(caught.value, *parts)
    *before, (name, value) = fields.items()
    config = AutoscalingConfig(**dict(before))
    with pytest.raises(ValueError):
        setattr(config, name, value)
    assert config == AutoscalingConfig(**dict(before))


def test_defaults() -> None:
    """A backend that says only "auto" has one replica at least, rises at once and falls after five minutes (AS1)."""
    config = BackendConfig(num_replicas="auto")
    assert config.autoscaling == AutoscalingConfig()
    assert config.num_replicas == "auto"
    assert config_spec(config) == BackendConfigSpec(autoscaling=Autoscaling())
    assert AutoscalingConfig().spec() == Autoscaling()
    assert (Autoscaling().first_replicas, Autoscaling().bounds(2)) == (1, (1, 2))
    assert Autoscaling(min_replicas=0).bounds(4) == (0, 4)
    assert Autoscaling(min_replicas=0).first_replicas == 1
    assert Autoscaling(initial_replicas=7).bounds(2) == (1, 7)


def test_all_ways_to_say_it_are_one() -> None:
    """ "auto", an empty dict, the alias of Ray Serve, an object: all of them mean the same (AS1)."""
    wanted = config_changes({"num_replicas": "auto"}, "config")
    for config in (
        {"autoscaling": {}},
        {"autoscaling_config": {}},
        {"num_replicas": "auto", "autoscaling": {}},
        {"autoscaling": AutoscalingConfig()},
        BackendConfig(num_replicas="auto"),
        BackendConfig(autoscaling=serve.AutoscalingConfig()),
    ):
        assert config_changes(config, "config") == wanted
    assert wanted == ({"num_replicas": 1, "autoscaling": Autoscaling()}, None)
    assigned = BackendConfig()
    assigned.autoscaling_config = {"max_replicas": 5}
    assert assigned.num_replicas == "auto"
    assert assigned.autoscaling == assigned.autoscaling_config == AutoscalingConfig(max_replicas=5)
    assigned.autoscaling = None
    assert assigned.num_replicas == 1
    assert config_changes(assigned, "config") == ({"autoscaling": None}, None)


def test_a_number_beside_autoscaling_is_refused() -> None:
    """A number of replicas and autoscaling contradict each other, and so do "auto" and none (AS1)."""
    for config, parts in (
        ({"num_replicas": 3, "autoscaling": {}}, ["num_replicas", "3", "'auto'"]),
        ({"num_replicas": "auto", "autoscaling": None}, ["num_replicas", "'auto'", "None"]),
    ):
        with pytest.raises(ValueError) as caught:
            BackendConfig(**config)
        sentence(caught.value, *parts)
    config = BackendConfig(num_replicas="auto")
    with pytest.raises(ValueError) as caught:
        config.num_replicas = 3
    sentence(caught.value, "num_replicas", "3", "autoscaling", "None")
    assert config.num_replicas == "auto"
    config.autoscaling = None
    config.num_replicas = 3
    assert config_changes(config, "config") == ({"num_replicas": 3, "autoscaling": None}, None)


@pytest.mark.parametrize("name", ["metrics_interval_s", "smoothing_factor", "aggregation_function"])
def test_fields_of_ray_serve_without_effect(name: str) -> None:
    """What means nothing here is accepted with a DeprecationWarning that names it, of the line of the user's: Python
    shows those of others to nobody (AS1)."""
    with pytest.warns(DeprecationWarning, match=f"{name} .* has no effect") as warned:
        config = BackendConfig(autoscaling_config={name: 10, "max_replicas": 3})
    assert config.autoscaling == AutoscalingConfig(max_replicas=3)
    assert [one.filename for one in warned] == [__file__]
    with pytest.warns(DeprecationWarning, match="no effect") as warned:
        AutoscalingConfig(**{name: 10})
    assert [one.filename for one in warned] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AutoscalingConfig(look_back_period_s=10, upscaling_factor=2, downscale_to_zero_delay_s=5)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"num_replicas": "Auto"}, "num_replicas of BackendConfig is 'Auto', but should be a whole number or 'auto'"),
        ({"max_replicas": 3}, "has no field 'max_replicas'; it is a field of 'autoscaling'"),
        ({"autoscaling": {"policy": len}}, "but should be the import path of a function, 'module:name'"),
    ],
)
def test_what_would_be_right_is_said(config: dict[str, Any], text: str) -> None:
    """A beginner's mistakes are answered with what was meant (AS1)."""
    with pytest.raises(ValueError, match=re.escape(text)):
        BackendConfig(**config)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "soon", True])
def test_idle_timeouts(value: Any) -> None:
    """An idle_timeout_s is a number of seconds above 0, or None (ID1)."""
    with pytest.raises(ValueError) as caught:
        BackendConfig(idle_timeout_s=value)
    sentence(caught.value, "idle_timeout_s", repr(value))
    assert config_spec({"idle_timeout_s": "30"}).idle_timeout_s == 30.0
    assert config_spec({"idle_timeout_s": None}).idle_timeout_s is None


positive = st.floats(0.01, 1e6)
scalings = st.builds(
    Autoscaling,
    min_replicas=st.integers(0, 3),
    max_replicas=st.none() | st.integers(5, 9),
    initial_replicas=st.none() | st.integers(3, 5),
    target_ongoing_requests=st.none() | positive,
    target_latency_ms=st.none() | positive,
    downscale_delay_s=st.floats(0, 1e4),
    downscale_to_zero_delay_s=st.none() | st.floats(0, 1e4),
    tolerance=st.floats(0, 0.99),
    priority=st.integers(-9, 9),
    season_s=st.none() | positive,
    policy=st.none() | st.just(ScalingPolicy("rules:mine")),
    dry_run=st.booleans(),
)


@examples(100)
@given(scaling=scalings, idle=st.none() | positive)
def test_reading_and_writing_back_changes_nothing(scaling: Autoscaling, idle: float | None) -> None:
    """What get_backend_config shows can be sent back, and stays as it was, on the wire too (AS1, ID1, SO4)."""
    spec = BackendConfigSpec(autoscaling=scaling, idle_timeout_s=idle, max_concurrent_queries=10**7)
    shown = config_from_spec(spec)
    assert shown.num_replicas == "auto"
    changes, _ = config_changes(shown, "config")
    command = unpack(pack(UpdateBackendConfig("id", "a", changes)), UpdateBackendConfig)
    values = {**msgspec.structs.asdict(spec), **command.changes, "user_config": None}
    assert msgspec.convert(values, BackendConfigSpec) == spec


# --- later changes --------------------------------------------------------------------------------------------


def update(state: Desired, **changes: Any) -> BackendConfigSpec:
    """The config of backend "m" after an update, which arrives as the wire brings it."""
    made, user_config = config_changes(changes, "config_options")
    command = unpack(pack(UpdateBackendConfig("id", "m", made, user_config)), UpdateBackendConfig)
    return apply(state, command, ROOM, "2026-11-29T10:00:00+00:00")[0].backends["m"].config


def following(**fields: Any) -> Desired:
    """A state with a backend "m" that is autoscaled."""
    command = create("m", autoscaling=Autoscaling(**fields))
    return apply(Desired(), command, ROOM, "2026-11-29T10:00:00+00:00")[0]


def test_a_number_for_a_backend_that_is_autoscaled() -> None:
    """A number alone is a ValueError; with autoscaling None it is what it says (AS1)."""
    with pytest.raises(ValueError) as caught:
        update(following(), num_replicas=3)
    sentence(caught.value, "'m'", "num_replicas 3", "autoscaling None")
    config = update(following(), num_replicas=3, autoscaling=None)
    assert (config.num_replicas, config.autoscaling) == (3, None)


def test_autoscaling_that_is_turned_off_keeps_the_replicas() -> None:
    """Without a number the backend keeps as many replicas as it was to have, and never none (AS1)."""
    state = following(max_replicas=9)
    for scale, number in ((Scale(6), 6), (Scale(0), 1), (Scale(4, unloaded=True), 1)):
        scaled = msgspec.structs.replace(state, scales={"m": scale})
        config = update(scaled, autoscaling=None)
        assert (config.num_replicas, config.autoscaling) == (number, None)


def test_autoscaling_is_replaced_as_a_whole() -> None:
    """New options are all that there are then; other fields leave them alone (AS1)."""
    state = following(max_replicas=9, priority=3)
    assert update(state, autoscaling={"min_replicas": 2}).autoscaling == Autoscaling(min_replicas=2)
    assert update(state, max_queued_queries=5).autoscaling == Autoscaling(max_replicas=9, priority=3)
    assert update(state, num_replicas="auto").autoscaling == Autoscaling()


def test_a_target_that_no_replica_can_have() -> None:
    """More calls per replica than one takes is refused, whichever of the two numbers came last (AS1)."""
    for changes, limit in (
        ({"autoscaling": {"target_ongoing_requests": 101}}, 100),
        ({"max_concurrent_queries": 1}, 1),
    ):
        with pytest.raises(ValueError) as caught:
            update(following(target_ongoing_requests=2), **changes)
        sentence(caught.value, "target_ongoing_requests", "'m'", "max_concurrent_queries", f"at most {limit}")
    assert update(following(), autoscaling={"target_ongoing_requests": 100}).autoscaling


# --- policies of users ----------------------------------------------------------------------------------------


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path with policies, good and bad."""
    name = f"rules_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(
        "number = 3\ndef good(ctx): return 1\ndef two(ctx, other): pass\nasync def waits(ctx): pass\n"
        "class Rule:\n    def __call__(self, ctx): return 1\nrule = Rule()\n"
    )
    (tmp_path / f"{name}_broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / name


def found(path: str, present: Autoscaling | None = None) -> ScalingPolicy | None:
    """What a client sends for a policy, where the backend has the present one."""
    changes, _ = config_changes({"autoscaling": {"policy": path}}, "config")
    spec = create("m").config if present is None else create("m", autoscaling=present).config
    find_policy(changes, msgspec.structs.replace(backend("m"), config=spec))
    scaling: Autoscaling = changes["autoscaling"]
    return scaling.policy


def test_a_policy_is_found_where_the_caller_finds_it(rules: Path) -> None:
    """A policy is sent with the folders in which the controller finds it: a function, or an object to call (AS13)."""
    for name in ("good", "rule"):
        policy = found(f"{rules.name}:{name}")
        assert policy is not None
        assert policy.path == f"{rules.name}:{name}"
        assert str(rules.parent) in policy.sys_path


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("{}:nothing", ImportError),
        ("{}_broken:rule", ImportError),
        ("no_such_module:rule", ImportError),
        ("nonsense", ImportError),
        ("__main__:rule", ImportError),
        ("{}:number", TypeError),
        ("{}:two", TypeError),
        ("{}:waits", TypeError),
    ],
)
def test_what_is_no_policy_is_refused_at_once(rules: Path, path: str, error: type[Exception]) -> None:
    """What cannot be imported is an ImportError, what cannot be called with a context a TypeError (AS13)."""
    with pytest.raises(error) as caught:
        found(path.format(rules.name))
    sentence(caught.value, "autoscaling policy", path.format(rules.name))


def test_somebody_elses_policy_can_be_sent_back() -> None:
    """Whoever changes another field of a config that was read need not have its policy; a new one is checked (AS13)."""
    theirs = ScalingPolicy("only_there:rule", ("/there",))
    assert found("only_there:rule", Autoscaling(policy=theirs)) == theirs
    with pytest.raises(ImportError):
        found("only_there:other", Autoscaling(policy=theirs))


# --- scale ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "error", "part"),
    [
        (("", 1), ValueError, "backend_tag"),
        ((3, 1), TypeError, "backend_tag"),
        (("m", -1), ValueError, "-1"),
        (("m", 2**63), ValueError, "replicas"),
        (("m", 1.0), TypeError, "1.0"),
        (("m", True), TypeError, "True"),
        (("m", "auto"), TypeError, "'auto'"),
        (("m", 1, 0), ValueError, "hold_s"),
        (("m", 1, math.inf), ValueError, "hold_s"),
        (("m", 1, None), TypeError, "hold_s"),
        (("m", 1, "600"), TypeError, "'600'"),
    ],
)
def test_bad_arguments_of_scale(args: tuple[Any, ...], error: type[Exception], part: str) -> None:
    """A bad name, number or time is refused before anything is sent (AS12)."""
    with pytest.raises(error) as caught:
        ScalingOperations.scale(object.__new__(ScalingOperations), *args)
    sentence(caught.value, part)


# --- configuration files --------------------------------------------------------------------------------------

FILE = HEAD + "backends: {a: {code: 'ranking:Ranker', args: [w], config: %s}}\n"


@pytest.mark.parametrize(
    "config",
    [
        "{num_replicas: auto}",
        "{autoscaling: {}}",
        "{autoscaling_config: {max_replicas: 7, downscale_delay_s: 60}}",
        "{num_replicas: auto, autoscaling: {min_replicas: 0, policy: 'rules:mine'}, idle_timeout_s: 300}",
    ],
)
def test_a_file_with_autoscaling_there_and_back(tmp_path: Path, config: str) -> None:
    """What a file says is stored, exported again, and differs in nothing from the file (AS1, ID1, CF13)."""
    section = config_of(tmp_path, FILE % config).section
    spec = config_spec(section.backends["a"].config)
    there = declared([backend("a", config=section.backends["a"].config)], [])
    exported = export(there, OWNER, "default").content["backends"]["a"]["config"]
    assert exported["num_replicas"] == "auto"
    assert exported.get("autoscaling") != {}
    assert config_spec(exported) == spec
    assert diff_of(FILE % config, there).as_json()["changes"] == []


def changes_of(config: str, live: dict[str, Any]) -> tuple[list[dict[str, Any]], BackendConfigSpec]:
    """What a file changes where a backend has this config now; and what that is then."""
    outcome = diff_of(FILE % config, declared([backend("a", config=live)], []))
    changes = outcome.as_json()["changes"]
    return (changes[0]["fields"] if changes else []), outcome.plan.backends["a"].config


def test_a_file_turns_autoscaling_on_and_off() -> None:
    """The difference reads as the file does, and what is sent is whole (AS1, CF5)."""
    fields, config = changes_of("{autoscaling: {max_replicas: 7}}", {"num_replicas": 3})
    assert fields == [
        {"field": "config.num_replicas", "from": 3, "to": "auto"},
        {"field": "config.autoscaling", "from": None, "to": {"max_replicas": 7}},
    ]
    assert (config.num_replicas, config.autoscaling) == (1, Autoscaling(max_replicas=7))
    fields, config = changes_of("{num_replicas: 2}", {"num_replicas": "auto"})
    assert fields == [{"field": "config.num_replicas", "from": "auto", "to": 2}]
    assert (config.num_replicas, config.autoscaling) == (2, None)
    fields, config = changes_of("{autoscaling: null}", {"autoscaling": {"max_replicas": 7}})
    assert (config.num_replicas, config.autoscaling) == (1, None)
    fields, config = changes_of("{autoscaling: {policy: 'rules:mine'}}", {"num_replicas": "auto"})
    assert config.autoscaling is not None
    assert config.autoscaling.policy is not None
    assert config.autoscaling.policy.sys_path[0] == "/"  # the folder of the file


def test_a_policy_stays_where_it_was_found() -> None:
    """The same policy from another folder is no change of it (AS13)."""
    spec: BackendSpec = backend("a", config={"autoscaling": {"policy": "rules:mine"}})
    policy = ScalingPolicy("rules:mine", ("/first",))
    scaling = Autoscaling(policy=policy)
    spec = msgspec.structs.replace(spec, config=msgspec.structs.replace(spec.config, autoscaling=scaling))
    outcome = diff_of(FILE % "{autoscaling: {policy: 'rules:mine', priority: 1}}", declared([spec], []))
    assert outcome.plan.backends["a"].config.autoscaling == Autoscaling(policy=policy, priority=1)


def test_a_number_set_by_hand_is_a_conflict() -> None:
    """Whoever has set a number by hand is not overruled by a file that says auto (AS1, CF10)."""
    there = declared([backend("a", config={"num_replicas": 4})], [])
    marks = there.marks["backend/a"]
    marks = msgspec.structs.replace(marks, fields={**marks.fields, "config.num_replicas": THEIRS})
    there = msgspec.structs.replace(there, marks={"backend/a": marks})
    outcome = diff_of(FILE % "{num_replicas: auto}", there)
    assert [(one.field, one.file, one.live) for one in outcome.conflicts] == [("config.num_replicas", "auto", 4)]
    assert Rules().on_conflict == "refuse"


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ("{autoscaling: 5}", "autoscaling must be a dict or an AutoscalingConfig, not 5"),
        ("{autoscaling: {max: 5}}", "AutoscalingConfig has no field 'max'"),
        ("{autoscaling: {tolerance: 1}}", "tolerance of AutoscalingConfig is 1, but should be less than 1"),
        ("{num_replicas: 3, autoscaling: {}}", "num_replicas of BackendConfig is 3, but with autoscaling it must be"),
        ("{num_replicas: auto, autoscaling: null}", "num_replicas of BackendConfig is 'auto', but autoscaling is None"),
        ("{idle_timeout_s: 0}", "idle_timeout_s of BackendConfig is 0, but should be greater than 0"),
    ],
)
def test_bad_options_in_a_file(tmp_path: Path, config: str, line: str) -> None:
    """What is wrong with the options is found before anything is sent, at its place in the file (AS1, ID1, CF2)."""
    found = lines_of(tmp_path, FILE % config)
    assert len(found) == 1, found
    assert found[0].startswith("shop.yaml:3:")
    assert line in found[0]


def test_a_policy_in_a_file_is_imported_on_trial(tmp_path: Path) -> None:
    """A policy that cannot be imported is a problem at its place in the file; one beside the file is found (AS13)."""
    (tmp_path / "beside_the_file.py").write_text("def mine(ctx): return 1\n")
    good, bad = (
        config_of(tmp_path, FILE % f"{{autoscaling: {{policy: 'beside_the_file:{name}'}}}}")
        for name in ("mine", "other")
    )
    load_policies(good, wanted_of(good, None))
    with pytest.raises(CodeError, match=r"shop\.yaml:3:\d+: autoscaling policy .* cannot be imported"):
        load_policies(bad, wanted_of(bad, None))
    sys.modules.pop("beside_the_file", None)
    sys.path.remove(str(tmp_path))
