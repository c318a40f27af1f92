"""The OpenAPI document of the API, made of the table of its calls. Pure."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from pointsman.console.bodies import SUFFIXES, ConfigFile
from pointsman.console.problems import MEDIA_TYPE
from pointsman.console.table import PREFIX, Call, Query
from pointsman.version import VERSION

OPERATIONS = "/operations/{id}"
PROBLEM = {
    "type": "object",
    "required": ["title", "status", "detail"],
    "properties": {"title": {"type": "string"}, "status": {"type": "integer"}, "detail": {"type": "string"}},
}
OF_PROBLEM = {"$ref": "#/components/schemas/Problem"}
OPERATION = {
    "type": "object",
    "required": ["id", "state"],
    "properties": {"id": {"type": "string"}, "state": {"const": "running"}},
}
IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "schema": {"type": "string"},
    "description": "The ETag of an earlier answer: the change is refused if the object has another version now.",
}
KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "pattern": "^[!-~]{1,200}$"},
    "description": "A word of your own for this change, which is then carried out once, however often it is sent.",
}
REFUSALS = {
    400: "The request makes no sense.",
    401: "The token is missing, unknown, revoked or has ended.",
    403: "The role does not include that.",
    404: "What the path names does not exist.",
    409: "In use, in conflict, busy, or there is no room.",
    412: "The object has another version now.",
    413: "The body is over 1 MiB.",
    415: "The body is of another media type.",
    422: "A value or field is refused.",
    503: "No controller answers.",
}


def document(calls: Iterable[Call]) -> dict[str, Any]:
    """The document.

    Args:
        calls: in the order in which they are shown.
    """
    calls = list(calls)
    bodies = [call.body for call in calls if call.body not in (None, ConfigFile)]
    _, schemas = msgspec.json.schema_components(bodies, ref_template="#/components/schemas/{name}")
    paths: dict[str, dict[str, Any]] = {}
    for call in calls:
        paths.setdefault(PREFIX + call.path, {})[call.method.lower()] = _operation(call)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Pointsman console",
            "version": VERSION,
            "description": "Reads an instance and changes it. Names in paths are percent-encoded.",
        },
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Problem": PROBLEM, "Operation": OPERATION},
            "responses": {str(status): _answer(text, MEDIA_TYPE, OF_PROBLEM) for status, text in REFUSALS.items()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _operation(call: Call) -> dict[str, Any]:
    parameters = [_of_path(name) for name in call.names] + [_of_query(query) for query in call.query]
    made: dict[str, Any] = {
        "operationId": _id_of(call),
        "summary": call.text,
        "responses": _responses(call),
    }
    if call.is_open:
        made["security"] = []
    else:
        made["description"] = f"Needs a token for {call.role}."
    if call.is_change:
        parameters += [IF_MATCH, KEY]
    if parameters:
        made["parameters"] = parameters
    if call.body is not None:
        made["requestBody"] = {"required": True, "content": _content(call.body)}
    return made


def _content(body: Any) -> dict[str, Any]:
    """A body, by its media types."""
    if body is ConfigFile:
        return {
            kind: {"schema": {"type": "object" if suffix == ".json" else "string"}} for kind, suffix in SUFFIXES.items()
        }
    (schema,), _ = msgspec.json.schema_components([body], ref_template="#/components/schemas/{name}")
    return {"application/json": {"schema": schema}}


def _responses(call: Call) -> dict[str, Any]:
    kind = "text/event-stream" if inspect.iscoroutinefunction(call.handler) else "application/json"
    made: dict[str, Any] = {"200": _answer("Done.", kind, call.answer)}
    if call.is_change or call.path == OPERATIONS:
        there = _answer("It lasts, and goes on.", "application/json", {"$ref": "#/components/schemas/Operation"})
        there["headers"] = {"Location": {"schema": {"type": "string"}, "description": "Where to see how it stands."}}
        made["202"] = there
    refusals = [400, 503]
    refusals += [] if call.is_open else [401, 403]
    refusals += [404] if call.names else []
    refusals += [409, 412] if call.is_change else []
    refusals += [413, 415] if call.body is not None else []
    refusals += [422] if call.body is not None or call.query else []
    made.update({str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(refusals)})
    return made


def _answer(text: str, kind: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {kind: {"schema": dict(schema)}}}


def _of_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _of_query(query: Query) -> dict[str, Any]:
    return {"name": query.name, "in": "query", "schema": dict(query.schema), "description": query.text}


def _id_of(call: Call) -> str:
    words = [part.strip("{}") for part in call.path.split("/") if part]
    return "_".join([call.method.lower(), *words]).replace(".", "_")
