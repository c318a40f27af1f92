"""What a typed callable takes and gives, as JSON schemas for the API document. Made once, by the client, from the
signature; it travels packed with the backend, and HTTP servers only put the parts together.

A description is a dict:

    doc         the docstring
    parameters  of path or query: name, required, schema
    body        required, and content: a schema by media type; missing if there is none
    answer      a schema by media type; missing where nothing is said of it
    components  the schemas that the others refer to
    openapi     in place of all of these: the document of an app, whose paths lie under the endpoint's route
"""

from __future__ import annotations

import enum
import logging
import re
import zlib
from typing import Any

import msgspec

from pointsman.usercode.models import JSON, MSGPACK, NPY, REF, Described, Form
from pointsman.usercode.mounting import is_fastapi
from pointsman.usercode.signatures import FIELD, FILE, Parameter, Signature

log = logging.getLogger(__name__)

MAX_DESCRIPTION = 256 * 1024
"""Bytes of a description as JSON. Every router holds those of all backends, packed to a fifth or less."""
_BINARY = {"type": "string", "contentMediaType": "application/octet-stream"}


def describe(signature: Signature, doc: str = "") -> bytes:
    """The packed description of a typed callable. What has no schema is described by an empty one.

    Args:
        doc: for a callable that has no docstring.
    """
    components: dict[str, Any] = {}
    description: dict[str, Any] = {"doc": signature.doc or doc, "parameters": []}
    for parameter in signature.of_role(FIELD):
        assert parameter.form is not None
        schema = {**_schema(parameter.form, components), **_default_of(parameter)}
        description["parameters"].append({"name": parameter.name, "required": parameter.required, "schema": schema})
    files = signature.of_role(FILE)
    if signature.body is not None and signature.body.form is not None:
        content = _content(signature.body.form, components)
        description["body"] = {"required": signature.body.required, "content": content}
    elif files:
        required = [file.name for file in files if file.required]
        properties = {file.name: {"type": "array", "items": _BINARY} if file.many else _BINARY for file in files}
        form = {"type": "object", "properties": properties, **({"required": required} if required else {})}
        description["body"] = {"required": bool(required), "content": {"multipart/form-data": {"schema": form}}}
    if signature.returns is not None:
        description["answer"] = _content(signature.returns, components, answer=True)
    description["components"] = components
    packed = pack_description(description)
    if packed is None:
        log.warning("what describes this callable takes over %d bytes: /-/docs has no schemas of it", MAX_DESCRIPTION)
        packed = pack_description({"doc": (signature.doc or doc)[:1000], "parameters": [], "components": {}})
    return packed or b""


def describe_app(app: Any) -> bytes:
    """The packed description of a FastAPI app; empty for other apps, and for one that publishes no document."""
    if not is_fastapi(app) or app.openapi_url is None:
        return b""
    kept = app.openapi_schema
    try:
        document = app.openapi()
        packed = pack_description({"openapi": document})
    except Exception as error:  # noqa: BLE001 - models and routes are user code, which FastAPI asks
        log.info("a FastAPI app has no document, and is served without: %s", error)
        return b""
    finally:
        app.openapi_schema = kept  # else a replica's app would not say under which prefix it is
    if packed is None:
        log.warning("the document of a FastAPI app takes over %d bytes: /-/docs is without it", MAX_DESCRIPTION)
    return packed or b""


def pack_description(description: dict[str, Any]) -> bytes | None:
    """A description as it travels; None if it is over the limit."""
    data = msgspec.json.encode(description)
    return zlib.compress(data) if len(data) <= MAX_DESCRIPTION else None


def unpack_description(packed: bytes) -> dict[str, Any]:
    """The reverse. A description of another version, or none, is empty."""
    if not packed:
        return {}
    try:
        data = zlib.decompressobj().decompress(packed, MAX_DESCRIPTION)
        found: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
    except (zlib.error, msgspec.DecodeError):
        return {}
    return found


def _content(form: Form, components: dict[str, Any], *, answer: bool = False) -> dict[str, Any]:
    schema = _schema(form, components, answer=answer)
    return {media: {} if media == NPY else {"schema": schema} for media in (JSON, MSGPACK, NPY) if media in form.medias}


def _schema(form: Form, components: dict[str, Any], *, answer: bool = False) -> dict[str, Any]:
    try:
        described: Described = form.describe(answer=answer)
        msgspec.json.encode(described)
    except Exception as error:  # noqa: BLE001 - a model may have any field, and make its own schema in user code
        log.info("a model has no JSON schema, and is documented without: %s", error)
        return {}
    schema, others = _named(*described)
    if not set(others).isdisjoint(components) and any(
        components.get(name, other) != other for name, other in others.items()
    ):
        schema, others = _told_apart(schema, others)  # as an input, and as an answer with its defaults
    components.update(others)
    return schema


def _named(schema: dict[str, Any], others: dict[str, Any]) -> Described:
    """A model on its own is among the components, too, under its name."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", str(schema.get("title", "")))
    if "properties" not in schema or not name or name in others:
        return schema, others
    return {"$ref": REF.format(name)}, {**others, name: schema}


def _told_apart(schema: Any, others: dict[str, Any]) -> Described:
    names = {name: f"{name}-Answer" for name in others}
    return renamed(schema, names), {names[name]: renamed(other, names) for name, other in others.items()}


def renamed(schema: Any, names: dict[str, str]) -> Any:
    """A part of a document with references to schemas under their new names."""
    if isinstance(schema, dict):
        return {key: _RENAMERS.get(key, renamed)(part, names) for key, part in schema.items()}
    return [renamed(part, names) for part in schema] if isinstance(schema, list) else schema


def _reference(reference: Any, names: dict[str, str]) -> Any:
    if not isinstance(reference, str):
        return renamed(reference, names)  # a property of that name
    before, slash, name = reference.rpartition("/")
    return f"{before}{slash}{names.get(name, name)}" if f"{before}{slash}" == _SCHEMAS else reference


def _discriminator(part: Any, names: dict[str, str]) -> Any:
    """What tells the members of a union apart refers to them, too, but not by ``$ref``."""
    mapping = part.get("mapping") if isinstance(part, dict) else None
    if not isinstance(mapping, dict):
        return renamed(part, names)
    return {**renamed(part, names), "mapping": {value: _reference(to, names) for value, to in mapping.items()}}


_SCHEMAS = REF.partition("{")[0]
_RENAMERS = {"$ref": _reference, "discriminator": _discriminator}


def _default_of(parameter: Parameter) -> dict[str, Any]:
    value = parameter.default.value if isinstance(parameter.default, enum.Enum) else parameter.default
    return {"default": value} if isinstance(value, (str, int, float, bool)) else {}
