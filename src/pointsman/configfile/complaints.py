"""What is wrong with the form of a configuration file, in words; and how values are shown in messages. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import ValidationError

from pointsman.arguments import nearest
from pointsman.configfile.models import BackendSection, ConfigSection, EndpointSection, InstanceSection, Section
from pointsman.configfile.tree import Keys

#: Options of a replica that hold texts which are never shown.
SECRET = ("env_vars", "override_environment_variables", "password")
#: Mappings that have those in them, and so may a text or a list in their place.
_AROUND_SECRET = ("ray_actor_options", "runtime_env", "tls")
#: Shorter texts are not looked for in messages: they would be found in words.
MIN_SECRET = 4
_TYPES = {
    "string_type": "a text; write it in quotes",
    "list_type": "a list",
    "dict_type": "a mapping of names to values",
    "model_type": "a mapping of fields to values",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}


class Fault(NamedTuple):
    """What is wrong with the value at the end of ``keys``, or with its name."""

    keys: Keys
    text: str
    of_name: bool = False


def faults_of_form(model: type[Section], value: Any, keys: Keys) -> Iterator[Fault]:
    """What is wrong with the names and types of fields in a part of a file, which stands at the end of ``keys``."""
    try:
        model.model_validate(value)
    except ValidationError as error:
        for one in error.errors(include_url=False, include_context=False):
            yield _fault_of((*keys, *one["loc"]), one["type"], one["msg"], one.get("input"))


def _fault_of(keys: Keys, kind: str, message: str, given: Any) -> Fault:
    """A complaint of pydantic in our words."""
    *above, field = keys or ("the file",)
    what, fields = _part(tuple(above))
    if kind == "missing":
        return Fault(tuple(above), f"{what} has no {field!r}, and needs it", of_name=True)
    if kind == "extra_forbidden":
        return Fault(keys, f"{what} has no field {field!r}{nearest(str(field), fields)}", of_name=True)
    if kind == "literal_error":
        return Fault(keys, f"{field!r} must be {message.removeprefix('Input should be ')}, not {shown(given)}")
    wanted = _TYPES.get(kind)
    if wanted is None:
        return Fault(keys, f"{field!r} cannot be {shown(given)}: {message.removeprefix('Value error, ')}")
    return Fault(keys, f"{field!r} must be {wanted}, not {shown(given)}")


def _part(keys: Keys) -> tuple[str, list[str]]:
    """A part of a file in words, and the names of its fields."""
    model: type[Section] = ConfigSection
    what = "the file"
    if keys[:1] == ("instance",):
        what, model = "instance", InstanceSection
    elif len(keys) > 1 and keys[0] in ("backends", "endpoints"):
        model = BackendSection if keys[0] == "backends" else EndpointSection
        what = f"{str(keys[0])[:-1]} {keys[1]!r}"
    return what, list(model.model_fields)


def shown(value: Any) -> str:
    """A value of a file for a message, shortened; secrets are hidden before that, since half of one is one, too."""
    text = json.dumps(_hidden(value), ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _hidden(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: "***" if _is_secret(name, inner) else _hidden(inner) for name, inner in value.items()}
    return [_hidden(inner) for inner in value] if isinstance(value, list) else value


def _is_secret(name: str, value: Any) -> bool:
    return name in SECRET or (name in _AROUND_SECRET and not isinstance(value, dict))


def secrets_of(value: Any, *, is_secret: bool = False) -> set[str]:
    """The texts that must be in no message: all within ``env_vars``, wherever that stands, and whatever stands
    where it belongs."""
    if isinstance(value, dict):
        return {
            secret
            for name, inner in value.items()
            for secret in secrets_of(inner, is_secret=is_secret or _is_secret(name, inner))
        }
    if isinstance(value, list):
        return {s for inner in value for s in secrets_of(inner, is_secret=is_secret)}
    return {value} if is_secret and isinstance(value, str) and len(value) >= MIN_SECRET else set()


def without(text: str, secrets: set[str]) -> str:
    """A message without these texts, also as they stand in a ``repr``."""
    for secret in sorted(secrets, key=len, reverse=True):
        for shape in (secret, repr(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]):
            text = text.replace(shape, "***")
    return text
