"""Checks a configuration file that was read, and finds all that is wrong with it at once. Imports no code of users."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from pointsman import actor_options, arguments
from pointsman.arguments import nearest
from pointsman.backends import ImportedBackend
from pointsman.client.listening import check_port
from pointsman.config import BackendConfig, ConfigError, ConsoleOptions, HTTPOptions, parse_console_options
from pointsman.configfile.complaints import SECRET, Fault, faults_of_form, secrets_of, shown, without
from pointsman.configfile.environment import PORT, console_options, env_kind, http_options, under
from pointsman.configfile.models import (
    FORMAT,
    BackendSection,
    ConfigSection,
    EndpointSection,
    InstanceSection,
    Section,
    parse_share,
)
from pointsman.configfile.problems import BadFileError, sentence
from pointsman.configfile.reading import Document, read_document
from pointsman.configfile.tree import Keys, interpolate
from pointsman.engine.folder import check_name
from pointsman.policy.routes import anonymous
from pointsman.policy.shardkey import MAX_PINS, check_key, check_source
from pointsman.policy.traffic import normalised

S = TypeVar("S", bound=Section)

#: In the place of a ``code`` that is missing, which is the only field that a section requires.
_ANY_CODE = "module:Name"


class Config(NamedTuple):
    """A configuration file that was read and checked.

    Attributes:
        document: as it was read, before variables were put in.
        section: its content.
        folders: where its code is imported from first: its own folder, then ``python_path``.
    """

    document: Document
    section: ConfigSection
    folders: tuple[str, ...]

    @property
    def owner(self) -> str:
        """The ``name`` in it."""
        return self.section.name

    @property
    def folder(self) -> Path:
        """The file's own folder, absolute."""
        return self.document.folder

    def instance_options(self) -> dict[str, Any]:
        """Its options of the instance: arguments of :func:`pointsman.start`, and ``name``."""
        section = self.section.instance
        if section is None:
            return {}
        given = {name: getattr(section, name) for name in section.model_fields_set - {"http", "console"}}
        options = {
            name: under(self.folder, value) if name in ("state_dir", "api_keys") else value
            for name, value in given.items()
            if value is not None or name == "metrics_export_port"
        }
        if section.http:
            options["http_options"] = http_options(section.http, self.folder)
        page = console_options(section.console, self.folder)
        if PORT in page:
            options["console_port"] = page.pop(PORT)
        return {**options, "console_options": page} if page else options


def load(path: str | os.PathLike[str], variables: Mapping[str, str] = os.environ) -> Config:
    """Read a file and check it.

    Args:
        variables: what ``${X}`` in it stands for.

    Raises:
        BadFileError: something is wrong with it; the error has all of it.
    """
    return check(read_document(path), variables)


def check(document: Document, variables: Mapping[str, str]) -> Config:
    """Check a file that was read. Raises :class:`BadFileError`."""
    raw = document.tree.value
    if not isinstance(raw, dict):
        what = "it is empty" if raw is None else "it is no mapping of fields to values"
        raise BadFileError([document.problem((), f"{what}; the first line is 'pointsman: {FORMAT}'")])
    form = _format(raw.get("pointsman"))
    if form > FORMAT:
        text = f"format {form} is newer than this version of Pointsman, which reads format {FORMAT}; update Pointsman"
        raise BadFileError([document.problem(("pointsman",), text)])
    value, unset = interpolate(raw, variables)
    faults = [Fault(*one) for one in unset]
    known = {fault.keys for fault in faults}
    faults += [fault for fault in _faults(value, document.folder) if fault.keys not in known]
    if faults:
        secrets = secrets_of(value)
        raise BadFileError(
            document.problem(one.keys, without(one.text, secrets), of_name=one.of_name) for one in faults
        )
    section = ConfigSection.model_validate(value)
    path = [under(document.folder, folder) for folder in section.python_path]
    return Config(document, section, (str(document.folder), *path))


def _format(value: Any) -> int:
    """The format of a file, however it is written; the present one for what is none, which other checks refuse."""
    try:
        return int(value) if not isinstance(value, bool) else FORMAT
    except (TypeError, ValueError):
        return FORMAT


def _faults(value: dict[str, Any], folder: Path) -> Iterator[Fault]:
    """All that is wrong with a file's values. A part whose form is wrong is not looked at more closely."""
    yield from faults_of_form(ConfigSection, value, ())
    if (form := _format(value.get("pointsman"))) != FORMAT:
        what = "newer than this version of Pointsman" if form > FORMAT else "none"
        yield Fault(("pointsman",), f"format {form} is {what}; the first is {FORMAT}")
    if isinstance(value.get("name"), str):
        yield from _of(("name",), arguments.check_object_name, value["name"], "name")
    for _, instance in _sections(InstanceSection, {"instance": value.get("instance")}, ()):
        yield from _of_instance(instance, folder)
    tags = value["backends"] if isinstance(value.get("backends"), dict) else {}
    for keys, backend in _sections(BackendSection, tags, ("backends",)):
        yield from _of_backend(keys, backend, folder)
    for keys, endpoint in _sections(EndpointSection, value.get("endpoints"), ("endpoints",)):
        yield from _of_endpoint(keys, endpoint, tags)
    yield from _of_routes(value.get("endpoints"))
    for kind in ("backends", "endpoints"):
        for name in value[kind] if isinstance(value.get(kind), dict) else ():
            yield from _of((kind, name), arguments.check_object_name, name, f"the name of one of {kind}", of_name=True)


def _sections(model: type[S], values: Any, keys: Keys) -> Iterator[tuple[Keys, S]]:
    """The sections of a mapping, without the fields that are wrong in their form."""
    for name, value in values.items() if isinstance(values, dict) else ():
        if not isinstance(value, dict):
            continue
        try:
            yield (*keys, name), model.model_validate(value)
        except ValidationError as error:
            wrong = {one["loc"][0] for one in error.errors() if one["loc"]}
            rest = {field: inner for field, inner in value.items() if field not in wrong}
            required = {field: _ANY_CODE for field, info in model.model_fields.items() if info.is_required()}
            yield (*keys, name), model.model_validate({**required, **rest})


def _of(keys: Keys, checked: Any, *args: Any, of_name: bool = False) -> Iterator[Fault]:
    """The fault that a function raises for a value."""
    try:
        checked(*args)
    except (TypeError, ValueError) as error:
        yield Fault(keys, sentence(error), of_name)


# --- backends -------------------------------------------------------------------------------------------------


def _of_backend(keys: Keys, section: BackendSection, folder: Path) -> Iterator[Fault]:
    yield from _of((*keys, "code"), import_path, section.code)
    yield from _of((*keys, "env"), env_kind, section.env, folder)
    for name, value in section.config.items():
        # One field at a time, so that all that is wrong is found; only num_replicas and autoscaling depend on another.
        yield from _of_option(BackendConfig, (*keys, "config", name), name, value, name not in _CONFIG)
    yield from _of_replicas((*keys, "config"), section.config)
    yield from _of_actor_options((*keys, "ray_actor_options"), section.ray_actor_options, folder)
    yield from _of((*keys, "version"), arguments.check_version, section.version)


def import_path(code: str) -> str:
    """An import path in its usual form, ``package.module:Name``.

    Raises:
        ValueError: it is none.
    """
    path = ImportedBackend(code).path
    return path if ":" in path else ":".join(path.rpartition(".")[::2])


_CONFIG = frozenset(
    other for name in BackendConfig.model_fields for other in (name, name.removeprefix("experimental_"))
) | {"autoscaling_config"}


def _of_replicas(keys: Keys, config: Mapping[str, Any]) -> Iterator[Fault]:
    """The fault of a number of replicas that does not go with the autoscaling."""
    pair = {name: config[name] for name in ("num_replicas", *_AUTOSCALING) if name in config}
    if len(pair) > 1 and all(_is_valid({name: value}) for name, value in pair.items()):
        try:
            BackendConfig(**pair)
        except ConfigError as error:
            yield Fault((*keys, next(iter(pair))), str(error))


_AUTOSCALING = ("autoscaling", "autoscaling_config")


def _is_valid(config: dict[str, Any]) -> bool:
    try:
        BackendConfig(**config)
    except (ConfigError, TypeError):
        return False
    return True


def _of_option(model: Any, keys: Keys, name: str, value: Any, of_name: bool) -> Iterator[Fault]:
    try:
        model(**{name: value})
    except (ConfigError, TypeError) as error:
        yield Fault(keys, sentence(error), of_name)


def _of_actor_options(keys: Keys, options: dict[str, Any], folder: Path) -> Iterator[Fault]:
    """Faults of ``ray_actor_options``. Those about nodes of a cluster are checked by the engine, once that is known."""
    known = (*actor_options.KNOWN, *actor_options.PLACES)
    found = False
    for name, value in options.items():
        if name in actor_options.PLACES:
            continue
        if name not in known and name not in actor_options.REFUSED:
            text = f"ray_actor_options has no option {name!r}{nearest(name, known)}"
            faults = [Fault((*keys, name), text, of_name=True)]
        elif name in SECRET:
            faults = list(_of_variables((*keys, name), value))
        elif name == "runtime_env" and not isinstance(value, dict):
            faults = [Fault((*keys, name), f"runtime_env must be a mapping, not {shown(value)}")]
        elif name == "runtime_env":
            variables = _of_variables((*keys, name, "env_vars"), value.get("env_vars", {}))
            rest = {inner: value[inner] for inner in value if inner != "env_vars"}
            checked = _of((*keys, name), actor_options.parse_actor_options, absolute_options({name: rest}, folder))
            faults = [*variables, *checked]
        else:
            faults = list(
                _of((*keys, name), actor_options.parse_actor_options, absolute_options({name: value}, folder))
            )
        found = found or bool(faults)
        yield from faults
    if not found:
        rest = {name: value for name, value in options.items() if name not in actor_options.PLACES}
        yield from _of(keys, actor_options.parse_actor_options, absolute_options(rest, folder))


def _of_variables(keys: Keys, variables: Any) -> Iterator[Fault]:
    """Faults of ``env_vars``; no value is in their texts."""
    if not isinstance(variables, dict):
        yield Fault(keys, "env_vars must be a mapping of names to texts")
        return
    for name, value in variables.items():
        if not isinstance(value, str):
            yield Fault((*keys, name), f"variable {name!r} of env_vars must be a text; write it in quotes")
        elif not name or "=" in name or "\0" in name + value:
            yield Fault((*keys, name), f"variable {name!r} of env_vars has a character that no variable can have")
        else:
            yield from _of((*keys, name), actor_options.parse_actor_options, {"env_vars": {name: value}})


def absolute_options(options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """``ray_actor_options`` with absolute paths."""
    made = dict(options)
    if isinstance(made.get("runtime_env"), dict):
        made["runtime_env"] = absolute_options(made["runtime_env"], folder)
    if isinstance(made.get("working_dir"), str):
        made["working_dir"] = under(folder, made["working_dir"])
    if isinstance(made.get("py_modules"), list):
        made["py_modules"] = [under(folder, one) if isinstance(one, str) else one for one in made["py_modules"]]
    return made


# --- endpoints ------------------------------------------------------------------------------------------------


def _of_endpoint(keys: Keys, section: EndpointSection, tags: Mapping[str, Any]) -> Iterator[Fault]:
    yield from _of_traffic(keys, section, tags)
    for name, backend in (section.pins or {}).items():
        yield from _of((*keys, "pins", name), check_key, name, "a key of pins", of_name=True)
        yield from _of_tag((*keys, "pins", name), backend, tags)
    if len(section.pins or {}) > MAX_PINS:
        yield Fault((*keys, "pins"), f"{len(section.pins or {})} keys are pinned, and {MAX_PINS} may be")
    yield from _of((*keys, "route"), arguments.check_route, section.route)
    yield from _of((*keys, "methods"), arguments.check_methods, section.methods, ())
    yield from _of(
        (*keys, "request_timeout_s"), arguments.check_timeout, section.request_timeout_s, "request_timeout_s"
    )
    yield from _of((*keys, "max_body_bytes"), arguments.check_max_body, whole(section.max_body_bytes))
    if section.shard_key is not None:
        yield from _of((*keys, "shard_key"), check_source, section.shard_key)
    if section.custom is not None:
        yield from _of((*keys, "custom"), import_path, section.custom)


def whole(number: float | None) -> float | None:
    """A number as an int, if it is one."""
    return int(number) if number is not None and number.is_integer() else number


def _of_traffic(keys: Keys, section: EndpointSection, tags: Mapping[str, Any]) -> Iterator[Fault]:
    ways = [name for name in ("backend", "traffic", "initial_traffic") if getattr(section, name) is not None]
    if len(ways) != 1:
        given = f"has {' and '.join(ways)}" if ways else "has none of them"
        yield Fault(
            keys, f"endpoint {keys[-1]!r} must have one of backend, traffic, initial_traffic, and {given}", True
        )
    if section.backend is not None:
        yield from _of_tag((*keys, "backend"), section.backend, tags)
    for field in ("traffic", "initial_traffic", "shadows"):
        shares, found = getattr(section, field), False
        for tag, share in (shares or {}).items():
            faults = [
                *_of_tag((*keys, field, tag), tag, tags, of_name=True),
                *_of((*keys, field, tag), parse_share, share),
            ]
            found = found or bool(faults)
            yield from faults
        if shares is not None and not found and field != "shadows":
            yield from _of((*keys, field), normalised, {tag: parse_share(share) for tag, share in shares.items()})


def _of_tag(keys: Keys, tag: str, tags: Mapping[str, Any], *, of_name: bool = False) -> Iterator[Fault]:
    if tag not in tags:
        others = nearest(tag, tags) if tags else "; it has no backends"
        yield Fault(keys, f"backend {tag!r} is not in this file{others}", of_name)


def _of_routes(endpoints: Any) -> Iterator[Fault]:
    """Faults of endpoints with one route. The prefixes of apps are compared once it is known what is an app."""
    owners: dict[str, str] = {}
    for keys, section in _sections(EndpointSection, endpoints, ("endpoints",)):
        if section.route is not None:
            name = str(keys[-1])
            first = owners.setdefault(anonymous(section.route), name)
            if first != name:
                text = f"route {section.route!r} of endpoint {name!r} is that of {first!r}, too; give it another"
                yield Fault((*keys, "route"), text)


# --- the instance ---------------------------------------------------------------------------------------------


def _of_instance(section: InstanceSection, folder: Path) -> Iterator[Fault]:
    for name, value in section.http.items():
        keys = ("instance", "http", name)
        if name == "middlewares":
            yield Fault(keys, "middlewares are objects, which a file cannot hold; give them to pointsman.start()", True)
            continue
        yield from _of_option(HTTPOptions, keys, name, http_options({name: value}, folder)[name], name not in _HTTP)
    yield from _of_console(section.console, folder)
    if section.name is not None:
        yield from _of(("instance", "name"), check_name, section.name)
    for name in ("num_cpus", "num_gpus", "memory", "wait_for_resources_s"):
        yield from _of(("instance", name), actor_options.check_capacity, name, getattr(section, name))
    yield from _of(("instance", "resources"), actor_options.parse_custom_resources, section.resources, "resources")
    port = section.metrics_export_port
    if port is not None and not 0 <= port <= 65535:
        yield Fault(("instance", "metrics_export_port"), f"metrics_export_port {port} is not between 0 and 65535")


def _of_console(given: Mapping[str, Any], folder: Path) -> Iterator[Fault]:
    keys, options = ("instance", "console"), console_options(given, folder)
    yield from _of((*keys, PORT), check_port, options.pop(PORT, None), PORT)
    wrong = [
        fault
        for name, value in options.items()
        for fault in _of_option(ConsoleOptions, (*keys, name), name, value, name not in ConsoleOptions.model_fields)
    ]
    yield from wrong or _of(keys, parse_console_options, options)


_HTTP = frozenset(HTTPOptions.model_fields)
