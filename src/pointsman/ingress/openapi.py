"""The API document: OpenAPI 3.1 of the instance, put together from what backends say of themselves. Pure, but for the
page that shows it, which is read from a file.

One path for each route. What an endpoint takes and gives is described by its backend with the largest weight.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from pointsman.model import PLAIN, EndpointSpec, RoutingTable
from pointsman.policy.routes import parse_route
from pointsman.usercode.describing import renamed, unpack_description
from pointsman.version import VERSION

METHODS = ("GET", "PUT", "POST", "DELETE", "OPTIONS", "PATCH", "TRACE")
"""Methods that an OpenAPI document knows, but for HEAD, which is served wherever GET is."""
WITH_BODY = ("PUT", "POST", "PATCH")
Document = dict[str, Any]
API_KEYS: Document = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
"""Security schemes of a port that asks for API keys: either of them will do."""

_ERROR = {
    "type": "object",
    "title": "Error of the server",
    "required": ["error", "reason", "error_id"],
    "properties": {
        "error": {"type": "string", "description": "What went wrong."},
        "reason": {"type": "string", "description": "The same as one of a few words."},
        "error_id": {"type": "string", "description": "The request's id, which is in the logs."},
    },
}
_DETAIL = {
    "type": "object",
    "required": ["loc", "msg", "type"],
    "properties": {
        "loc": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
        "msg": {"type": "string"},
        "type": {"type": "string"},
    },
}
_MISFIT = {
    **_ERROR,
    "title": "Misfit",
    "properties": {**_ERROR["properties"], "detail": {"type": "array", "items": _DETAIL, "maxItems": 100}},  # type: ignore[dict-item]
}


def _response(description: str, name: str) -> Document:
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}},
    }


class ApiDocument:
    """The document of an instance, made when it is asked for, and once for each routing table.

    Args:
        security: security schemes by name, which all operations ask for; None for none.
        shows_backends: whether it says which backends an endpoint has, as headers of answers do.
    """

    def __init__(self, security: Document | None = None, *, shows_backends: bool = True) -> None:
        self._security = security
        self._shows_backends = shows_backends
        self._made: tuple[int, bytes] | None = None

    def data(self, table: RoutingTable) -> bytes:
        """The document as JSON."""
        if self._made is None or self._made[0] != table.version:
            made = document(table, security=self._security, shows_backends=self._shows_backends)
            self._made = table.version, msgspec.json.encode(made)
        return self._made[1]


@cache
def page() -> bytes:
    """The page that shows the document. It needs nothing from elsewhere."""
    return Path(__file__).with_name("docs.html").read_bytes()


def document(table: RoutingTable, *, security: Document | None = None, shows_backends: bool = True) -> Document:
    """The OpenAPI document of a routing table.

    Args:
        security: security schemes by name, which all operations ask for.
        shows_backends: whether it says which backends an endpoint has.
    """
    made: Document = {
        "openapi": "3.1.0",
        "info": {"title": "Pointsman", "version": VERSION, "description": "The models of this instance."},
        "paths": {},
        "components": {
            "schemas": {"ServeError": _ERROR, "ServeMisfit": _MISFIT},
            "responses": {
                "Error": _response("The request was not answered.", "ServeError"),
                "Misfit": _response("The request does not fit, and the model has not seen it.", "ServeMisfit"),
            },
        },
    }
    if security:
        made["components"]["securitySchemes"] = {**security}
        made["security"] = [{name: []} for name in security]
    for endpoint in sorted(table.endpoints.values(), key=_precedence):
        if endpoint.route is not None:
            _add_endpoint(made, endpoint, _description_of(table, endpoint))
    _tell_operations_apart(made)
    if not shows_backends:
        for item in made["paths"].values():
            for operation in _operations(item):
                operation.pop("x-pointsman-backends", None)
    return made


def _precedence(endpoint: EndpointSpec) -> tuple[bool, int, str]:
    """As routes win: those that match whole paths, then the longest prefix. What a path is in two is the first's."""
    route = endpoint.route or ""
    return (False, 0, route) if endpoint.surface == PLAIN else (True, -len(route), route)


def _tell_operations_apart(made: Document) -> None:
    taken: set[str] = set()
    for item in made["paths"].values():
        for operation in _operations(item):
            name, count = operation.get("operationId"), 1
            while operation.get("operationId") in taken:
                count += 1
                operation["operationId"] = f"{name}_{count}"
            if name is not None:
                taken.add(operation["operationId"])


def merge_app(made: Document, prefix: str, name: str, app: Document) -> None:
    """Add the document of an app that is served under a prefix.

    Args:
        name: of the endpoint; schemas and operations are named after it where their own name is taken.
        app: its OpenAPI document, 3.0 or 3.1.
    """
    parts: Document = app.get("components") or {}
    names = _take_schemas(made, name, parts.get("schemas") or {})
    schemes = _take_schemes(made, name, parts.get("securitySchemes") or {})
    for kind, members in parts.items():
        if kind not in ("schemas", "securitySchemes"):
            made["components"].setdefault(kind, {})
            for member, value in members.items():
                made["components"][kind].setdefault(member, renamed(value, names))
    taken = {operation.get("operationId") for item in made["paths"].values() for operation in _operations(item)}
    for path, item in (app.get("paths") or {}).items():
        item = renamed(item, names)
        for operation in _operations(item):
            operation.setdefault("tags", [name])
            wanted = operation.get("security", app.get("security"))
            if wanted:
                operation["security"] = _both(wanted, schemes, made.get("security") or [{}])
            if operation.get("operationId") in taken:
                operation["operationId"] = f"{_plain(name)}_{operation['operationId']}"
        made["paths"].setdefault(prefix.rstrip("/") + path, item)


def _description_of(table: RoutingTable, endpoint: EndpointSpec) -> Document:
    weights = endpoint.policy.weights
    tag = min(weights, key=lambda tag: (-weights[tag], tag), default="")
    backend = table.backends.get(tag)
    return unpack_description(backend.api) if backend is not None else {}


def _add_endpoint(made: Document, endpoint: EndpointSpec, description: Document) -> None:
    assert endpoint.route is not None
    if "openapi" in description:
        merge_app(made, endpoint.route, endpoint.name, description["openapi"])
        return
    template = parse_route(endpoint.route)
    parameters = [segment.text for segment in template.segments if segment.kind]
    path = re.sub(r"\{(\w+):path\}", r"{\1}", endpoint.route)
    names = _take_schemas(made, endpoint.name, description.get("components") or {})
    described = renamed(description, names)
    item = made["paths"].setdefault(path, {})
    body_is_needed = (described.get("body") or {}).get("required", False)
    for method in METHODS:
        if method in endpoint.methods and (method in WITH_BODY or not body_is_needed):
            item.setdefault(method.lower(), _operation(endpoint, method, parameters, described))


def _operation(endpoint: EndpointSpec, method: str, in_path: list[str], described: Document) -> Document:
    summary, _, rest = str(described.get("doc") or "").partition("\n")
    operation: Document = {
        "operationId": f"{_plain(endpoint.name)}_{method.lower()}",
        "tags": [endpoint.name],
        "summary": summary.strip() or endpoint.name,
        "x-pointsman-backends": endpoint.policy.weights,
    }
    if rest.strip():
        operation["description"] = rest.strip()
    schemas = {parameter["name"]: parameter for parameter in described.get("parameters", ())}
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": schemas.pop(name, {}).get("schema") or {"type": "string"},
        }
        for name in in_path
    ]
    parameters += [{**parameter, "in": "query"} for parameter in schemas.values()]
    if parameters:
        operation["parameters"] = parameters
    body = described.get("body") if described else {"required": False, "content": {"*/*": {}}}
    if body and method in WITH_BODY:
        operation["requestBody"] = body
    answer: Document = {"description": "The answer of the model."}
    if described.get("answer"):
        answer["content"] = described["answer"]
    operation["responses"] = {"200": answer}
    if described:
        operation["responses"] |= {"422": {"$ref": "#/components/responses/Misfit"}}
    operation["responses"]["default"] = {"$ref": "#/components/responses/Error"}
    return operation


def _take_schemas(made: Document, owner: str, schemas: Document) -> dict[str, str]:
    """Add schemas to the document. Returns new names for those whose name another schema has."""
    taken: Document = made["components"]["schemas"]
    differs = {name for name, schema in schemas.items() if taken.get(name, schema) != schema}
    while True:  # what refers to one of them differs, too
        more = {name for name in schemas if name in taken and name not in differs and _refers(schemas[name], differs)}
        if not more:
            break
        differs |= more
    names = {}
    for name in differs:
        names[name] = new = f"{name}_{_plain(owner)}"
        count = 1
        while names[name] in taken:
            count += 1
            names[name] = f"{new}_{count}"
    for name, schema in schemas.items():
        taken[names.get(name, name)] = renamed(schema, names)
    return names


def _take_schemes(made: Document, owner: str, schemes: Document) -> dict[str, str]:
    """Add the security schemes of an app to the document. Returns new names as :func:`_take_schemas`."""
    names: dict[str, str] = {}
    if schemes:
        taken: Document = made["components"].setdefault("securitySchemes", {})
        for name, scheme in schemes.items():
            if taken.get(name, scheme) != scheme:
                names[name] = f"{name}_{_plain(owner)}"
            taken.setdefault(names.get(name, name), scheme)
    return names


def _both(wanted: list[Document], names: dict[str, str], ours: list[Document]) -> list[Document]:
    """What an app asks for, by its new names, and what the server asks for before it."""
    return [
        {**{names.get(name, name): scopes for name, scopes in one.items()}, **own} for one in wanted for own in ours
    ]


def _refers(schema: Any, names: set[str]) -> bool:
    if isinstance(schema, dict):
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference.rpartition("/")[2] in names:
            return True
        return any(_refers(part, names) for part in schema.values())
    return isinstance(schema, list) and any(_refers(part, names) for part in schema)


def _operations(item: Document) -> Iterator[Document]:
    known = {method.lower() for method in (*METHODS, "HEAD")}
    return (operation for method, operation in item.items() if method in known and isinstance(operation, dict))


def _plain(name: str) -> str:
    """A name with only the characters that names of schemas and operations may have."""
    return re.sub(r"[^A-Za-z0-9._-]", lambda match: f"_{ord(match[0]):x}_", name)
