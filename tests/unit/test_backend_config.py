"""config: what users write about backends is converted where clear, and refused in one sentence where not."""

from __future__ import annotations

import math
import os
import threading
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.actor_options import (
    check_capacity,
    detect_gpus,
    detect_memory,
    parse_actor_options,
    parse_custom_resources,
)
from pointsman.config import (
    BackendConfig,
    HTTPOptions,
    config_changes,
    config_from_spec,
    config_spec,
    parse_http_options,
)
from pointsman.model import BackendConfigSpec, Resources
from tests.properties import examples
from tests.unit.sentences import sentence

BAD_FIELDS: list[tuple[str, Any]] = [
    *((field, value) for field in ("num_replicas", "max_batch_size", "max_concurrent_batches", "max_concurrent_queries")
      for value in (0, -1, "hello", "", 1.5, "1.5", [1], math.inf)),
    *(("num_replicas", value) for value in (None, b"x", {})),
    *(("max_queued_queries", value) for value in (-1, "hello", None, 0.5)),
    *(("batch_wait_timeout", value) for value in (-0.1, math.nan, math.inf, "nan", "inf", "soon", None, [])),
    *((field, value)
      for field in (
          "experimental_graceful_shutdown_wait_loop_s",
          "experimental_graceful_shutdown_timeout_s",
          "graceful_shutdown_wait_loop_s",
          "graceful_shutdown_timeout_s",
      )
      for value in (0, -1, math.nan, math.inf, "soon", None)),
]  # fmt: skip

NUMBERS = [
    "num_replicas",
    "max_batch_size",
    "max_concurrent_batches",
    "max_concurrent_queries",
    "max_queued_queries",
    "batch_wait_timeout",
    "experimental_graceful_shutdown_wait_loop_s",
    "experimental_graceful_shutdown_timeout_s",
]


@pytest.mark.parametrize(("field", "value"), BAD_FIELDS, ids=lambda value: repr(value))
def test_bad_values_are_refused(field: str, value: Any) -> None:
    """A bad value is refused with field and value in the text, in a dict and in a BackendConfig alike (BC1, CB4)."""
    with pytest.raises(ValueError) as caught:
        BackendConfig(**{field: value})
    text = sentence(caught.value, field.removeprefix("experimental_"), repr(value))
    with pytest.raises(ValueError) as caught:
        config_changes({field: value}, "config")
    assert str(caught.value) == text


def test_more_replicas_than_any_machine_has() -> None:
    """A number of replicas with a few zeros too many is refused with the limit in the text; before, the controller
    placed them one by one (BC1)."""
    assert BackendConfig(num_replicas=10_000).num_replicas == 10_000
    for many in (10_001, 100_000_000):
        with pytest.raises(ValueError) as caught:
            BackendConfig(num_replicas=many)
        sentence(caught.value, "num_replicas", str(many), "10000")


@pytest.mark.parametrize(("field", "value"), [pair for pair in BAD_FIELDS if not pair[0].startswith("graceful")])
def test_bad_values_are_refused_at_assignment(field: str, value: Any) -> None:
    """A bad value is refused when it is assigned too, and the old one stays (BC1)."""
    config = BackendConfig()
    before = config.model_dump()
    with pytest.raises(ValueError) as caught:
        setattr(config, field, value)
    sentence(caught.value, field, repr(value))
    assert config.model_dump() == before
    assert config_changes(config, "config") == ({}, None)


@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize("value", [True, False])
def test_bools_are_no_numbers(field: str, value: bool) -> None:
    """A bool where a number belongs is a slip of the pen and is refused (BC1)."""
    with pytest.raises(ValueError) as caught:
        BackendConfig(**{field: value})
    sentence(caught.value, field, value)


@pytest.mark.parametrize(
    ("field", "value", "got"),
    [
        ("num_replicas", "3", 3),
        ("num_replicas", 3.0, 3),
        ("max_batch_size", "4", 4),
        ("max_batch_size", None, None),
        ("max_concurrent_queries", None, None),
        ("max_concurrent_queries", "7", 7),
        ("max_queued_queries", 0, 0),
        ("batch_wait_timeout", "0.5", 0.5),
        ("batch_wait_timeout", 0, 0.0),
        ("experimental_graceful_shutdown_timeout_s", "1", 1.0),
    ],
)
def test_clear_values_are_converted(field: str, value: Any, got: Any) -> None:
    """Numeric strings, as a config file holds them, are converted at construction and at assignment (BC1)."""
    config = BackendConfig(**{field: value})
    assert getattr(config, field) == got
    assert type(getattr(config, field)) is type(got)
    other = BackendConfig()
    setattr(other, field, value)
    assert other == config


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("num_replica", "num_replicas"),
        ("replicas", "num_replicas"),
        ("max_batchsize", "max_batch_size"),
        ("batch_wait_timeout_s", "batch_wait_timeout"),
        ("graceful_shutdown_timeout", "graceful_shutdown_timeout_s"),
        ("User_Config", "user_config"),
    ],
)
def test_near_misses_get_a_hint(name: str, meant: str) -> None:
    """A misspelt field is refused by name, with the one that was probably meant (BC1)."""
    with pytest.raises(ValueError) as caught:
        BackendConfig(**{name: 1})
    sentence(caught.value, f"'{name}'", "did you mean", meant)


@pytest.mark.parametrize("name", ["colour", ""])
def test_wild_guesses_get_the_list(name: str) -> None:
    """A field that resembles none is refused with all that there are (BC1)."""
    with pytest.raises(ValueError) as caught:
        BackendConfig(**{name: 1})
    sentence(caught.value, repr(name), "num_replicas", "user_config")
    with pytest.raises(ValueError) as caught:
        setattr(BackendConfig(), name, 1)
    sentence(caught.value, name)


def test_defaults() -> None:
    """A config that says nothing is one replica with the documented defaults (BC1)."""
    assert BackendConfig().model_dump() == {
        "num_replicas": 1,
        "max_batch_size": None,
        "batch_wait_timeout": 0.0,
        "max_concurrent_batches": 1,
        "max_concurrent_queries": None,
        "max_queued_queries": 1000,
        "target_latency_ms": None,
        "user_config": None,
        "experimental_graceful_shutdown_wait_loop_s": 2.0,
        "experimental_graceful_shutdown_timeout_s": 20.0,
        "health_check_period_s": 2.0,
        "health_check_timeout_s": 3.0,
        "health_check_failures": 3,
        "max_surge": None,
        "max_unavailable": 0,
        "rollout_watch_s": 3.0,
        "http_methods": [],
        "reconfigure_while_running": False,
        "max_websockets": 1000,
        "autoscaling": None,
        "idle_timeout_s": None,
    }
    assert config_spec(None) == config_spec({}) == config_spec(BackendConfig()) == BackendConfigSpec()


@pytest.mark.parametrize("name", ["graceful_shutdown_wait_loop_s", "graceful_shutdown_timeout_s"])
def test_aliases(name: str) -> None:
    """The drain limits can be written and read without their long prefix (BC1)."""
    config = BackendConfig(**{name: 3})
    assert getattr(config, name) == getattr(config, f"experimental_{name}") == 3.0
    assert config == BackendConfig(**{f"experimental_{name}": 3})
    assert config_changes({name: 3}, "config") == config_changes({f"experimental_{name}": 3}, "config")
    assert list(config_changes({name: 3}, "config")[0].values()) == [3.0]


@pytest.mark.parametrize("name", ["graceful_shutdown_wait_loop_s", "graceful_shutdown_timeout_s"])
def test_aliases_can_be_assigned(name: str) -> None:
    """The short names work at assignment as they do at construction, checks included (BC1)."""
    config = BackendConfig()
    setattr(config, name, "3")
    assert config == BackendConfig(**{name: 3})
    with pytest.raises(ValueError) as caught:
        setattr(config, name, -1)
    sentence(caught.value, name, -1)


@pytest.mark.parametrize("value", [[("num_replicas", 2)], "num_replicas=2", 2, object(), HTTPOptions()])
def test_configs_of_another_type(value: Any) -> None:
    """A config that is neither a dict nor a BackendConfig is a TypeError that shows it (CB4)."""
    with pytest.raises(TypeError) as caught:
        config_changes(value, "config_options")
    sentence(caught.value, "config_options", "dict or a BackendConfig", repr(value))


@pytest.mark.parametrize("parse", [lambda d: config_changes(d, "config"), parse_http_options])
def test_option_names_are_str(parse: Any) -> None:
    """A dict with a key that is no text is refused (BC1, IN3)."""
    with pytest.raises(ValueError, match="option name 3"):
        parse({3: 4})


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_replicas": 2},
        {"max_batch_size": None},
        {"num_replicas": "2", "batch_wait_timeout": 1, "max_queued_queries": 0, "user_config": {"a": 1}},
        {"graceful_shutdown_timeout_s": 5, "experimental_graceful_shutdown_wait_loop_s": 1},
    ],
)
def test_both_forms_behave_alike(fields: dict[str, Any]) -> None:
    """A dict and a BackendConfig of the same fields mean the same, and only fields that are given change (CB4, SO4)."""
    from_dict, from_object = config_changes(fields, "config"), config_changes(BackendConfig(**fields), "config")
    assert from_dict == from_object
    assert len(from_dict[0]) == len(fields)
    assert set(from_dict[0]) <= set(BackendConfigSpec.__struct_fields__)


def test_assigned_fields_count_as_given() -> None:
    """A field that was assigned is sent, also when its value is the default (SO4)."""
    config = BackendConfig()
    config.num_replicas = 1
    assert config_changes(config, "config") == ({"num_replicas": 1}, None)


@pytest.mark.parametrize("value", [{}, 0, "", False, [], {"threshold": 0.5}, (1, 2)])
def test_falsy_user_configs_are_real(value: Any) -> None:
    """Any user_config but None is kept and comes back as it was, empty ones included (RC6)."""
    spec = config_spec({"user_config": value})
    assert spec.user_config is not None
    assert config_from_spec(spec).user_config == value
    changes, packed = config_changes({"user_config": value}, "config")
    assert changes == {"user_config": None}
    assert packed == spec.user_config


def test_user_config_of_none_means_none() -> None:
    """Setting user_config to None is a change, and it means that there is none (RC6)."""
    assert config_changes({"user_config": None}, "config") == ({"user_config": None}, None)
    assert config_spec({"user_config": None}).user_config is None


def test_user_configs_must_travel() -> None:
    """A user_config that cannot be pickled is refused at the client (BC1)."""
    with pytest.raises(TypeError) as caught:
        config_changes({"user_config": threading.Lock()}, "config")
    sentence(caught.value, "user_config cannot be pickled", "lock")


specs = st.builds(
    BackendConfigSpec,
    num_replicas=st.integers(1, 9),
    max_batch_size=st.none() | st.integers(1, 900),
    batch_wait_timeout_s=st.floats(0, 10),
    max_concurrent_batches=st.integers(1, 9),
    max_concurrent_queries=st.none() | st.integers(1, 900),
    max_queued_queries=st.integers(0, 9),
    user_config=st.none() | st.sampled_from([{}, 3, "x"]).map(lambda v: config_spec({"user_config": v}).user_config),
    drain_confirm_s=st.floats(0.1, 9),
    drain_timeout_s=st.floats(0.1, 9),
)


@examples(100)
@given(spec=specs)
def test_what_is_shown_is_what_is_in_force(spec: BackendConfigSpec) -> None:
    """The config that a user reads shows each value in force, the default query limit as its number (BC3, SO9)."""
    shown = config_from_spec(spec)
    assert shown.max_concurrent_queries == spec.query_limit
    in_force = msgspec.structs.replace(spec, max_concurrent_queries=spec.query_limit)
    stored = config_spec(shown)
    assert msgspec.structs.replace(stored, max_concurrent_queries=stored.query_limit) == in_force


@examples(100)
@given(spec=specs)
def test_reading_and_writing_back_changes_nothing(spec: BackendConfigSpec) -> None:
    """A user who reads a config, changes a field and sends it back has frozen no default on the way (BC3, SO4)."""
    changes, user_config = config_changes(config_from_spec(spec), "config")
    values = {**msgspec.structs.asdict(spec), **changes, "user_config": user_config}
    assert msgspec.convert(values, BackendConfigSpec) == spec


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, 100),
        ({"max_batch_size": 1}, 100),
        ({"max_batch_size": 50}, 100),
        ({"max_batch_size": 51}, 102),
        ({"max_batch_size": 500, "max_concurrent_queries": 3}, 3),
        ({"max_concurrent_queries": 1}, 1),
        ({"max_batch_size": 500, "max_concurrent_queries": None}, 1000),
    ],
)
def test_query_limit(fields: dict[str, Any], limit: int) -> None:
    """The default limit is twice the batch size and at least 100; an explicit one stays, also when lower (BC3)."""
    spec = config_spec(fields)
    assert spec.query_limit == spec.for_replica().max_concurrent_queries == limit


# --- resources ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_options", "resources"),
    [
        (None, Resources()),
        ({}, Resources()),
        ({"num_cpus": 0}, Resources(num_cpus=0.0)),
        ({"num_cpus": 2.5, "num_gpus": 0.5}, Resources(num_cpus=2.5, num_gpus=0.5)),
        ({"num_gpus": 1}, Resources(num_gpus=1.0)),
        ({"num_gpus": 2.0}, Resources(num_gpus=2.0)),
        ({"memory": 10**9, "object_store_memory": 5}, Resources(memory=1e9)),
        ({"resources": {"tpu": 0.1}}, Resources(custom={"tpu": 0.1})),
        ({"env_vars": {"OMP_NUM_THREADS": "4"}}, Resources(env_vars={"OMP_NUM_THREADS": "4"})),
    ],
)
def test_actor_options(given_options: Any, resources: Resources) -> None:
    """A replica gets one CPU by default and otherwise what the options say; the caller's dict stays (RM1, RM2, CB6)."""
    before = dict(given_options) if given_options is not None else None
    assert parse_actor_options(given_options) == resources
    assert given_options == before


@pytest.mark.parametrize(
    ("given_options", "error", "parts"),
    [
        ([("num_cpus", 1)], TypeError, ["ray_actor_options", "dict"]),
        ("num_cpus", TypeError, ["ray_actor_options", "'num_cpus'"]),
        *(
            ({name: value}, kind, [name, repr(value)])
            for name in ("num_cpus", "num_gpus", "memory", "object_store_memory")
            for value, kind in (
                ("1", TypeError),
                (True, TypeError),
                ([1], TypeError),
                (-1, ValueError),
                (-0.5, ValueError),
                (math.nan, ValueError),
                (math.inf, ValueError),
            )
        ),
        ({"num_gpus": 1.5}, ValueError, ["num_gpus", "1.5", "whole"]),
        ({"num_gpus": 2.0001}, ValueError, ["num_gpus", "2.0001"]),
        ({"resources": ["tpu"]}, TypeError, ["resources", "['tpu']"]),
        ({"resources": {"tpu": "1"}}, TypeError, ["tpu", "'1'"]),
        ({"resources": {"tpu": True}}, TypeError, ["tpu", "True"]),
        ({"resources": {3: 1}}, TypeError, ["resources", "3"]),
        ({"resources": {"tpu": -1}}, ValueError, ["tpu", "-1"]),
        ({"env_vars": "A=1"}, TypeError, ["env_vars", "'A=1'"]),
        ({"env_vars": {"A": 1}}, TypeError, ["env_vars", "'A'", "1"]),
        ({"env_vars": {1: "A"}}, TypeError, ["env_vars", "'A'", "1"]),
        ({"env_vars": {"PYTHONHASHSEED": "0"}}, ValueError, ["PYTHONHASHSEED", "'0'"]),
        ({"env_vars": {"PYTHONHASHSEED": " +00"}}, ValueError, ["PYTHONHASHSEED", "' +00'"]),
        ({"runtime_env": {"env_vars": {"PYTHONHASHSEED": "0"}}}, ValueError, ["PYTHONHASHSEED", "'0'"]),
        *(({name: 1}, ValueError, [name]) for name in ("lifetime", "name", "max_restarts", "placement_group")),
        ({"num_cpu": 1}, ValueError, ["'num_cpu'", "did you mean 'num_cpus'"]),
        ({"wings": 1}, ValueError, ["'wings'", "num_cpus", "env_vars"]),
    ],
)
def test_bad_actor_options(given_options: Any, error: type[Exception], parts: list[str]) -> None:
    """A bad actor option is refused with the class that the contract names, and name and value (RM2, FR3, EN3)."""
    with pytest.raises(error) as caught:
        parse_actor_options(given_options)
    sentence(caught.value, *parts)


@pytest.mark.parametrize("value", [True, "4", [4]])
def test_capacity_of_another_type(value: Any) -> None:
    """What ``start`` may hand out must be a number (IN14)."""
    with pytest.raises(TypeError, match="num_cpus must be an int or float"):
        check_capacity("num_cpus", value)
    assert check_capacity("num_cpus", None) is None
    assert check_capacity("num_cpus", 4) == 4.0
    with pytest.raises(ValueError, match="num_cpus must be finite and at least 0, not -1"):
        check_capacity("num_cpus", -1)


def test_custom_resources_are_named_in_errors() -> None:
    """A bad custom resource is named with the argument that holds it (IN14)."""
    assert parse_custom_resources(None, "resources") == {}
    with pytest.raises(ValueError, match=r"resources\['tpu'\] must be finite and at least 0, not nan"):
        parse_custom_resources({"tpu": math.nan}, "resources")


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        ("", ()),
        ("-1", ()),
        ("0", ("0",)),
        ("2, 3", ("2", "3")),
        ("GPU-8a,GPU-9b", ("GPU-8a", "GPU-9b")),
        ("0,,", ("0",)),
    ],
)
def test_only_visible_gpus_are_handed_out(visible: str, gpus: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a machine's GPUs an instance uses those that its own environment shows (IN14, RM7)."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert detect_gpus() == gpus


def test_memory_is_detected() -> None:
    """An instance that is not told its memory finds it out, and 0 where the system does not say (IN14)."""
    assert detect_memory() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_older_configs_can_be_read() -> None:
    """What an earlier version has stored has the newer fields at their defaults (IN10, BC8, BC9)."""
    stored = msgspec.msgpack.encode({"num_replicas": 3, "rollout_watch_s": 1.0})
    spec = msgspec.msgpack.decode(stored, type=BackendConfigSpec)
    assert (spec.http_methods, spec.reconfigure_while_running) == ((), False)
    assert spec.for_replica().http_methods == ()
