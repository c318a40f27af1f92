"""The form of a configuration file: which fields there are, and the types of their values. Pure.

The names are those of the arguments of ``create_backend``, ``create_endpoint`` and ``start``; a test holds them
together. What a type does not say is checked in :mod:`pointsman.configfile.checking`.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationInfo, WithJsonSchema, field_validator

from pointsman.config import BackendConfig, ConsoleOptions, HTTPOptions

#: The newest format that is read.
FORMAT = 1

_SHARE = {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "string", "pattern": r"^[0-9.]+ ?%$"}]}
_ENV = {
    "anyOf": [
        {"type": "string"},
        *(
            {"type": "object", "properties": fields, "required": [first], "additionalProperties": False}
            for first, fields in (
                ("conda", {"conda": {"type": "string"}}),
                ("virtualenv", {"virtualenv": {"type": "string"}}),
                (
                    "requirements",
                    {
                        "requirements": {"type": "array", "items": {"type": "string"}},
                        "python": {"type": "string"},
                    },
                ),
            )
        ),
        {"type": "null"},
    ]
}

#: Shares of traffic by backend, as they are written: numbers from 0 to 1, or texts such as ``5%``.
Shares = Annotated[dict[str, Any], WithJsonSchema({"type": "object", "additionalProperties": _SHARE})]


_BOOLS = ("idempotent", "allow_insecure_cluster", "client_in_replicas")


class Section(BaseModel):
    """A part of a file. Unknown fields are refused; a number may be written as a text, as a variable is."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and info.field_name not in _BOOLS:
            raise ValueError("a bool is none of its values")
        return value


class BackendSection(Section):
    """A backend, as ``create_backend`` makes one."""

    code: str
    """Import path of the function or class: ``module:Name``. The file's folder is searched first."""
    args: list[Any] = []
    """Positional arguments of the class's constructor; values that are JSON."""
    config: dict[str, Any] = {}
    """How the backend runs: fields of `BackendConfig`. A change restarts no replica."""
    ray_actor_options: dict[str, Any] = {}
    """What each replica needs: `num_cpus`, `num_gpus`, `memory`, `resources`, `env_vars`, `working_dir`, `py_modules`;
    on a Ray cluster also on which nodes. Values of `env_vars` are never shown."""
    env: Annotated[Any, WithJsonSchema(_ENV)] = None
    """The Python environment: the name of a conda environment, `{conda: NAME}`, `{virtualenv: FOLDER}`, or
    `{requirements: [...], python: PATH}`. That of the command if left out."""
    version: str = ""
    """A word of your own. A new one replaces the replicas, for what files do not show, such as new weights."""


class EndpointSection(Section):
    """An endpoint, as ``create_endpoint`` makes one, and its traffic. One of ``backend``, ``traffic`` and
    ``initial_traffic`` must be there."""

    backend: str | None = None
    """The backend that gets all traffic; short for `traffic: {BACKEND: 1}`."""
    traffic: Shares | None = None
    """The share of each backend: numbers that sum to 1, or texts such as `5%`."""
    initial_traffic: Shares | None = None
    """The same, but only when the endpoint is made: later the shares are somebody else's."""
    shadows: Shares | None = None
    """Backends that get copies of calls, and of which share of them."""
    pins: dict[str, str] | None = None
    """Shard keys whose calls all go to one backend."""
    custom: str | None = None
    """Import path of a traffic policy of your own: `module:name`."""
    route: str | None = None
    """HTTP path or template; without it the endpoint is for handles only."""
    methods: list[str] | None = None
    """HTTP methods; GET if left out. An app gets all of them."""
    idempotent: bool = False
    """Whether a request that had started may be repeated when its replica dies."""
    shard_key: str | None = None
    """Where a request has its shard key: `header:NAME`, `cookie:NAME` or `query:NAME`."""
    request_timeout_s: float | None = None
    """Deadline of a call in seconds, to the first byte of its answer."""
    max_body_bytes: float | None = None
    """Largest body of a request, in bytes; `.inf` for none, which only apps can have."""


class InstanceSection(Section):
    """Options of the instance, for ``pointsman run``: the arguments of ``start``. Other commands compare what they can
    see of them with what runs."""

    http: dict[str, Any] = {}
    """Host, port and limits of the HTTP servers: fields of `HTTPOptions`."""
    console: dict[str, Any] = {}
    """Where the page is, and what it asks: `port`, null for none, and fields of `ConsoleOptions`."""
    name: str | None = None
    """Of the instance. The commands use it too where no `--name` is given."""
    engine: Literal["local", "ray"] | None = None
    """`local`, this machine; or `ray`, a Ray cluster."""
    address: str | None = None
    """Of the Ray cluster."""
    state_dir: str | None = None
    """Folder for the state, over restarts."""
    num_cpus: float | None = None
    """CPUs that replicas may use in all."""
    num_gpus: float | None = None
    """GPUs that replicas may use."""
    memory: float | None = None
    """Bytes that replicas may request in all."""
    resources: dict[str, float] | None = None
    """Amounts of custom resources, by name."""
    metrics_export_port: int | None = None
    """Where Prometheus finds metrics; 0 for any free port, null for none."""
    wait_for_resources_s: float | None = None
    """Seconds that a change may wait for nodes to join a Ray cluster."""
    allow_insecure_cluster: bool | None = None
    """Join a Ray cluster that others reach and that has no token authentication."""
    log_format: Literal["text", "json"] | None = None
    """Of the log."""
    client_in_replicas: bool | None = None
    """Whether user code may use the instance that it runs in."""
    spare_replicas: int | None = None
    """Processes that wait for a backend, so that its replicas start earlier; on the local engine."""
    api_keys: str | None = None
    """Path of a JSON file with the keys of HTTP clients."""


class ConfigSection(Section):
    """A whole configuration file."""

    pointsman: Annotated[int, WithJsonSchema({"const": FORMAT})]
    """The format of the file: 1."""
    name: str
    """Whose objects these are. Objects of this name that are no longer in the file are deleted."""
    instance: InstanceSection | None = None
    """Options of the instance."""
    python_path: list[str] = []
    """Folders that code is imported from, after the file's own; relative to it."""
    backends: dict[str, BackendSection] = {}
    """Backends by their tags."""
    endpoints: dict[str, EndpointSection] = {}
    """Endpoints by their names."""


def json_schema() -> dict[str, Any]:
    """The JSON Schema, 2020-12, of a file before its variables are put in: a text with ``${X}`` may stand for any
    number, bool or chosen word."""
    schema = ConfigSection.model_json_schema()
    definitions = schema["$defs"]
    for options, section, field in (
        (BackendConfig, BackendSection, "config"),
        (HTTPOptions, InstanceSection, "http"),
        (ConsoleOptions, InstanceSection, "console"),
    ):
        inner = options.model_json_schema()
        definitions.update(inner.pop("$defs", {}))
        definitions[options.__name__] = inner
        description = section.model_fields[field].description
        definitions[section.__name__]["properties"][field] = {
            "description": description,
            "$ref": f"#/$defs/{options.__name__}",
        }
    config = definitions["BackendConfig"]["properties"]
    for name in [name for name in config if name.startswith("experimental_")]:
        config[name.removeprefix("experimental_")] = config[name]
    config["autoscaling_config"] = config["autoscaling"]
    definitions["HTTPOptions"]["properties"].pop("middlewares")
    port = {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 65535}, {"type": "null"}], "default": 8070}
    definitions["ConsoleOptions"]["properties"]["port"] = port
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of a Pointsman instance",
        **{name: value for name, value in _with_references(schema).items() if name != "title"},
    }


_REFERENCE = {"type": "string", "pattern": r"\$\{"}


def _with_references(schema: Any) -> Any:
    """A schema in which a text with a variable stands for any value that is no text, list or mapping."""
    if isinstance(schema, list):
        return [_with_references(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {
        name: {key: _with_references(value) for key, value in part.items()}
        if name in ("properties", "$defs") and isinstance(part, dict)
        else _with_references(part)
        for name, part in schema.items()
    }
    if inner.get("type") in ("integer", "number", "boolean") or "enum" in inner or "const" in inner:
        told = {name: inner.pop(name) for name in ("title", "description", "default") if name in inner}
        return {**told, "anyOf": [inner, _REFERENCE]}
    return inner


_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*%")


def parse_share(value: Any) -> float:
    """A share as a number.

    Raises:
        ValueError: it is none, or not between 0 and 1.
    """
    share = _number(value)
    if share is None:
        raise ValueError(f"a share is a number from 0 to 1, or a text such as '5%', not {json.dumps(value)}")
    if not 0 <= share <= 1:
        raise ValueError(f"a share is between 0 and 1, and this is {str(value)[:20]}")
    return share


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(min(max(value, -2), 2)) if isinstance(value, int) else value  # a longer one would be no float
    if not isinstance(value, str):
        return None
    if match := _PERCENT.fullmatch(value.strip()):
        return float(match[1]) / 100
    try:
        return float(value)
    except ValueError:
        return None
