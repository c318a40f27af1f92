"""Makes a file of what runs, whose diff is empty. Pure, but for folders that it looks for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from pointsman.configfile.fields import (
    BACKEND_DEFAULTS,
    BY_VALUE,
    NO_JSON,
    Fields,
    Json,
    actor_options,
    backend_fields,
    endpoint_defaults,
    endpoint_fields,
)
from pointsman.configfile.models import FORMAT
from pointsman.configfile.tree import escaped, mapped
from pointsman.model import ANYWHERE, BackendSpec, CustomPolicy, EndpointSpec, Resources
from pointsman.model.scaling import ScalingPolicy
from pointsman.usercode.findable import is_installed
from pointsman.usercode.paths import PACKAGE
from pointsman.wire.apply import Declared

#: What everyone has who reads the file.
OURS = os.path.dirname(PACKAGE)
ALL_DEFAULT = Json.of({})
"""``autoscaling`` of which nothing was set; ``num_replicas`` says that there is some."""


class Export(NamedTuple):
    """What a file can say of what runs.

    Attributes:
        content: of the file.
        left_out: objects that no file can have, each with why.
    """

    content: dict[str, Any]
    left_out: dict[str, str]


def export(declared: Declared, owner: str | None, name: str) -> Export:
    """A file of the objects of an owner.

    Args:
        owner: whose; None for the only file that owns any, and for all that no file owns.
        name: of the file, if no file owns anything.

    Raises:
        ValueError: that owner has no objects; or none is given, and several have.
    """
    owners = sorted({marks.owner for marks in declared.marks.values() if marks.owner})
    if owner is None and len(owners) > 1:
        raise ValueError(f"objects of several files are here: {', '.join(owners)}; say whose to export")
    if owner is not None and owner not in owners:
        raise ValueError(f"no object is of a file {owner!r}; {_there_are(owners)}")
    whose = owner or (owners[0] if owners else name)
    names = {
        kind: [one for one in there if declared.owner_of(f"{kind}/{one}") in ((owner,) if owner else (whose, ""))]
        for kind, there in (("backend", declared.backends), ("endpoint", declared.endpoints))
    }
    endpoints = {one: declared.endpoints[one] for one in names["endpoint"]}
    # Backends that nobody owns and the endpoints use: without them the file would not be whole.
    used = {tag for one, spec in endpoints.items() for tag in _used(one, spec, declared)}
    tags = [tag for tag in declared.backends if tag in names["backend"] or tag in used]
    left_out: dict[str, str] = {}
    backends: dict[str, Any] = {}
    for tag in tags:
        why = _impossible(declared.backends[tag], declared.owner_of(f"backend/{tag}"), whose)
        if why:
            left_out[f"backend/{tag}"] = why
        else:
            backends[tag] = _backend(declared.backends[tag])
    made: dict[str, Any] = {}
    for one, spec in endpoints.items():
        missing = [tag for tag in _used(one, spec, declared) if tag not in backends]
        if missing:
            left_out[f"endpoint/{one}"] = f"it uses {', '.join(missing)}"
        else:
            made[one] = _endpoint(one, spec, declared)
    policies: list[CustomPolicy | ScalingPolicy | None] = [endpoints[one].policy.custom for one in made]
    scalings = [declared.backends[tag].config.autoscaling for tag in backends]
    policies += [scaling.policy for scaling in scalings if scaling is not None]
    path = _python_path([declared.backends[tag] for tag in backends], filter(None, policies))
    content: dict[str, Any] = {"pointsman": FORMAT, "name": whose}
    content.update({"python_path": path} if path else {})
    content.update({"backends": backends} if backends else {})
    content.update({"endpoints": made} if made else {})
    return Export(content, left_out)


def _there_are(owners: list[str]) -> str:
    return f"there are objects of {', '.join(owners)}" if owners else "no file has been applied here"


def _used(name: str, spec: EndpointSpec, declared: Declared) -> list[str]:
    """The backends that an endpoint uses."""
    pins = declared.pins[name].keys.values() if name in declared.pins else ()
    return list(dict.fromkeys([*spec.policy.weights, *spec.policy.shadows, *pins]))


def _impossible(spec: BackendSpec, owner: str, whose: str) -> str:
    """Why no file can have a backend; empty if one can."""
    fields = backend_fields(spec)
    if owner not in ("", whose):
        return f"it is of the file {owner!r}"
    if fields["code"] == BY_VALUE:
        return "its code was sent by value; put it into a module, and deploy it by its name"
    if fields["args"] == NO_JSON:
        return "its arguments are not JSON, or over 16 KiB of it"
    if fields["config.user_config"] == NO_JSON:
        return "its user_config is not JSON"
    if spec.resources.placement != ANYWHERE and not spec.resources.placement.labels:
        return f"it is placed on {spec.resources.placement}, which no file can say"
    return ""


def _backend(spec: BackendSpec) -> dict[str, Any]:
    fields = {
        name: value
        for name, value in backend_fields(spec).items()
        if value != BACKEND_DEFAULTS.get(name) and name != "content"
    }
    made: dict[str, Any] = {}
    config: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Resources):
            made[name] = _actor_options(value)
        elif name.startswith("config."):
            if value != ALL_DEFAULT:
                config[name.removeprefix("config.")] = _plain(value)
        else:
            made[name] = _plain(value)
    return {**made, **({"config": config} if config else {})}


def _actor_options(resources: Resources) -> dict[str, Any]:
    options: dict[str, Any] = _plain(actor_options(resources, hidden=True))
    if resources.env_vars:
        options["env_vars"] = {name: f"${{{variable_of(name)}}}" for name in resources.env_vars}
    return options


def variable_of(name: str) -> str:
    """The variable of the command that gives the value of one of ``env_vars``, which may have any name."""
    made = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return f"_{made}" if made[0].isdigit() else made


def _endpoint(name: str, spec: EndpointSpec, declared: Declared) -> dict[str, Any]:
    defaults = endpoint_defaults(spec.surface)
    fields: Fields = endpoint_fields(spec, declared.pins.get(name))
    made = {field: value for field, value in fields.items() if field not in defaults or value != defaults[field]}
    return {name: _plain(value) for name, value in made.items()}


def _plain(value: Any) -> Any:
    """A field as it is written."""
    value = value.value if isinstance(value, Json) else list(value) if isinstance(value, tuple) else value
    return mapped(value, lambda _, one: escaped(one) if isinstance(one, str) else one)


def _python_path(specs: Iterable[BackendSpec], policies: Iterable[CustomPolicy | ScalingPolicy]) -> list[str]:
    """Folders that a file must name so that the same modules are found: all but those of installed packages."""
    searched = [folder for policy in policies for folder in policy.sys_path]
    for spec in specs:
        own = (spec.resources.working_dir, *map(os.path.dirname, spec.resources.py_modules))
        searched += [folder for folder in (*spec.origin.sys_path, spec.origin.cwd) if folder not in own]
    return [
        folder
        for folder in dict.fromkeys(searched)
        if folder != OURS
        and "site-packages" not in folder
        and not is_installed(f"{folder}/_")
        and os.path.isdir(folder)
    ]
