"""The fields of backends and endpoints in one form, whether they come from a file or from what runs. Pure.

The form is made for comparison: ``args`` and ``config.user_config`` are :class:`Json`, ``ray_actor_options`` is a
:class:`~pointsman.model.Resources`, and numbers are as the controller keeps them. :func:`as_json` shows a value.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pointsman import config as options
from pointsman.configfile.environment import stored_env
from pointsman.model import (
    ALL_METHODS,
    ANYWHERE,
    ASGI,
    DEFAULT_SHARD_KEY,
    BackendConfigSpec,
    BackendSpec,
    EndpointSpec,
    Pins,
    Resources,
)
from pointsman.model.scaling import Autoscaling, ScalingPolicy
from pointsman.usercode.picklenames import is_plain
from pointsman.wire.apply import AUTO, FILE_NAMES, config_values

Fields = dict[str, Any]

#: The ``code`` of what was sent by value.
BY_VALUE = ""
#: ``args`` or a ``user_config`` that no file can have.
NO_JSON = "not JSON"
HIDDEN = "***"
_SPEC_NAMES = {name: spec for spec, name in FILE_NAMES.items()}
_SHORT = {
    **{name.removeprefix("experimental_"): name for name in FILE_NAMES.values()},
    "autoscaling_config": "autoscaling",
}


@dataclass(frozen=True)
class Json:
    """A value that is JSON; ``text`` decides whether two are equal."""

    text: str
    value: Any = field(compare=False)

    @classmethod
    def of(cls, value: Any) -> Json | None:
        """None for a value of which JSON would make another."""
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True)
            return cls(text, value) if json.loads(text) == value else None
        except (TypeError, ValueError, RecursionError):
            return None


def backend_fields(spec: BackendSpec) -> Fields:
    """The fields of a backend that there is."""
    source = spec.source
    return {
        "code": source.path or BY_VALUE,
        "args": (Json.of(json.loads(source.args)) if source.args is not None else None) or NO_JSON,
        "env": stored_env(source.env),
        "ray_actor_options": spec.resources,
        "version": source.version,
        "content": source.content,
        **config_fields(spec.config),
    }


def config_fields(config: BackendConfigSpec) -> Fields:
    """The fields of a configuration."""
    values = {
        **config_values(config),
        "user_config": _user_config(config),
        "autoscaling": _autoscaling(config.autoscaling),
    }
    return {f"config.{FILE_NAMES.get(name, name)}": value for name, value in values.items()}


def changed_config(
    config: BackendConfigSpec, fields: Mapping[str, Any], folders: tuple[str, ...] = ()
) -> BackendConfigSpec:
    """A configuration with other values of some fields.

    Args:
        folders: where a policy of the user's is found.
    """
    changes = {_spec_name(field): value for field, value in fields.items()}
    if "num_replicas" in changes or "autoscaling" in changes:
        changes.update(_numbers(config, changes, folders))
    user_config = changes.get("user_config")
    if user_config is not None:
        _, changes["user_config"] = options.config_changes({"user_config": user_config.value}, "config")
    return msgspec.structs.replace(config, **changes)


def given_config(config: Mapping[str, Any]) -> Fields:
    """The fields that a file's ``config`` sets."""
    changes, _ = options.config_changes(config, "config")
    if changes.get("autoscaling") is not None:
        changes.update(num_replicas=AUTO, autoscaling=_autoscaling(changes["autoscaling"]))
    if "user_config" in changes:
        changes["user_config"] = Json.of(config["user_config"]) if config["user_config"] is not None else None
    found = {FILE_NAMES.get(name, name): value for name, value in changes.items()}
    order = [_SHORT.get(name, name) for name in config]  # that of the file; the fields that were set are in none
    names = sorted(found, key=lambda name: order.index(name) if name in order else 0)
    return {f"config.{name}": found[name] for name in names}


def endpoint_fields(spec: EndpointSpec, pins: Pins | None) -> Fields:
    """The fields of an endpoint that there is."""
    return {
        "route": spec.route,
        "methods": tuple(sorted(spec.methods)),
        "traffic": dict(spec.policy.weights),
        "shadows": dict(spec.policy.shadows),
        "pins": dict(pins.keys) if pins is not None else {},
        "custom": spec.policy.custom.path if spec.policy.custom is not None else None,
        "shard_key": spec.shard_key,
        "idempotent": spec.idempotent,
        "request_timeout_s": spec.request_timeout_s,
        "max_body_bytes": spec.max_body_bytes,
    }


def endpoint_defaults(surface: str) -> Fields:
    """The fields of an endpoint that a file leaves out; ``traffic`` has no default."""
    return {
        "route": None,
        "methods": (ALL_METHODS,) if surface == ASGI else ("GET",),
        "shadows": {},
        "pins": {},
        "custom": None,
        "shard_key": DEFAULT_SHARD_KEY,
        "idempotent": False,
        "request_timeout_s": None,
        "max_body_bytes": None,
    }


def as_json(name: str, value: Any) -> Any:
    """A value as a file would have it, without secrets."""
    if name == "code":
        return value if value != BY_VALUE else None
    if isinstance(value, Json):
        return value.value
    if name == "ray_actor_options" and value is not None:
        return actor_options(value, hidden=True)
    if isinstance(value, tuple):
        return list(value)
    return "inf" if value == float("inf") else value


def actor_options(resources: Resources, *, hidden: bool) -> dict[str, Any]:
    """``ray_actor_options`` that give these resources.

    Args:
        hidden: put ``***`` in the place of each value of ``env_vars``.
    """
    default = Resources()
    made: dict[str, Any] = {
        name: whole(value)
        for name, value in (
            ("num_cpus", resources.num_cpus),
            ("num_gpus", resources.num_gpus),
            ("memory", resources.memory),
        )
        if value != getattr(default, name)
    }
    if resources.custom:
        made["resources"] = {name: whole(amount) for name, amount in resources.custom.items()}
    if resources.env_vars:
        made["env_vars"] = dict.fromkeys(resources.env_vars, HIDDEN) if hidden else dict(resources.env_vars)
    if resources.working_dir:
        made["working_dir"] = resources.working_dir
    if resources.py_modules:
        made["py_modules"] = list(resources.py_modules)
    if resources.placement != ANYWHERE:
        made.update(_placement(resources))
    return made


def _placement(resources: Resources) -> dict[str, Any]:
    first, *others = resources.placement.labels or ({},)
    if not resources.placement.labels:
        return {"scheduling_strategy": str(resources.placement)}
    return {
        "label_selector": first,
        **({"fallback_strategy": [{"label_selector": other} for other in others]} if others else {}),
    }


def whole(number: float) -> float:
    """A number as an int, if it is one."""
    return int(number) if number == number // 1 and number < 2**63 else number


def _user_config(config: BackendConfigSpec) -> Json | str | None:
    if config.user_config is None:
        return None
    if not is_plain(config.user_config):
        return NO_JSON  # and no code of users runs to find that out
    try:
        value = pickle.loads(config.user_config)
    except Exception:  # noqa: BLE001 - what is no pickle fails in any way
        return NO_JSON
    return Json.of(value) or NO_JSON


def _autoscaling(config: Autoscaling | None) -> Json | None:
    """The fields in which it is not as by default."""
    if config is None:
        return None
    default = Autoscaling()
    values = {name: value for name, value in msgspec.structs.asdict(config).items() if value != getattr(default, name)}
    return Json.of({**values, "policy": config.policy.path} if config.policy is not None else values)


def _numbers(config: BackendConfigSpec, changes: Mapping[str, Any], folders: tuple[str, ...]) -> dict[str, Any]:
    """What is stored of ``num_replicas`` and ``autoscaling``, each of which says what the other is."""
    is_auto = changes["num_replicas"] == AUTO if "num_replicas" in changes else changes["autoscaling"] is not None
    if not is_auto:
        return {"num_replicas": changes.get("num_replicas", 1), "autoscaling": None}
    given = changes.get("autoscaling")
    if given is None:
        return {"num_replicas": 1, "autoscaling": config.autoscaling or Autoscaling()}
    changed, _ = options.config_changes({"autoscaling": given.value}, "config")
    made: Autoscaling = changed["autoscaling"]
    if made.policy is not None:
        old = config.autoscaling.policy if config.autoscaling is not None else None
        same = old is not None and old.path == made.policy.path
        policy = old if same else ScalingPolicy(made.policy.path, folders)
        made = msgspec.structs.replace(made, policy=policy)
    return {"num_replicas": 1, "autoscaling": made}


def _spec_name(field: str) -> str:
    name = field.removeprefix("config.")
    return _SPEC_NAMES.get(name, name)


BACKEND_DEFAULTS: Fields = {
    "args": Json.of([]),
    "env": None,
    "ray_actor_options": Resources(),
    "version": "",
    **config_fields(BackendConfigSpec()),
}
