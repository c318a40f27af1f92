"""What is said once models are served, with a curl line that works: a request that fits what a model says of itself.
Pure."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from pointsman.usercode.describing import unpack_description
from pointsman.usercode.models import JSON

Schema = Mapping[str, Any]
MAX_DEPTH = 12
UNTIL_CTRL_C = "Ctrl-C finishes the requests under way and ends it."
FORM = "multipart/form-data"
_FORMATS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "time": "12:00:00",
    "duration": "PT1S",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "email": "ada@example.org",
    "uri": "https://example.org/",
    "ipv4": "127.0.0.1",
    "ipv6": "::1",
    "byte": "aGVsbG8=",
    "binary": "aGVsbG8=",
}
_PARAMETER = re.compile(r"{([^{}:]+)(?::[^{}]*)?}")


def curl_line(
    base: str, route: str, api: bytes, *, key: bool = False, ca: str = "", methods: Sequence[str] = ()
) -> str:
    """A command line that asks an endpoint.

    Args:
        base: URL of the server.
        route: of the endpoint; a template's parameters are filled.
        api: what its backend says of itself, packed; empty if that is nothing.
        key: whether an API key is asked for.
        ca: path of the certificates by which the server is known; empty for those of the system.
        methods: what the route takes; empty for what curl would take. An app says that itself.
    """
    description = unpack_description(api)
    if "openapi" in description:
        return _words(base, *_of_app(route, description["openapi"]), key=key, ca=ca)
    components = description.get("components", {})
    content = description.get("body", {}).get("content", {})
    parameters = description.get("parameters", [])
    path, body = _request(route, parameters, content, components)
    usual = "POST" if body else "GET"
    said = ["-X", methods[0]] if methods and usual not in methods else []
    return _words(base, path, [*said, *body], key=key, ca=ca)


class Served(NamedTuple):
    """A model that is served: its name, its route, what describes it, packed, and the methods that its route takes,
    where they are known."""

    name: str
    route: str
    api: bytes
    methods: tuple[str, ...] = ()


def served_lines(address: str | None, served: list[Served], *, http: Mapping[str, Any], key: bool) -> list[str]:
    """Where models are, and how they are asked.

    Args:
        address: base URL; None without an HTTP server.
        http: fields of HTTPOptions that were given.
        key: whether an API key is asked for.
    """
    if address is None:
        return [f"{one.name} is ready, without an HTTP server." for one in served]
    ca = (http.get("tls") or {}).get("cert", "")
    lines = []
    for one in served:
        lines.append(f"{one.name} is at {address}{one.route}")
        lines.append(f"  Try it:  {curl_line(address, one.route, one.api, key=key, ca=ca, methods=one.methods)}")
        if _takes_array(one.api):
            lines.append("           (put in rows of your own: which shape the model wants is not known)")
    if http.get("docs", True):
        lines.append(f"API page:  {address}/-/docs")
    return lines


def _takes_array(api: bytes) -> bool:
    return _is_array(unpack_description(api).get("body", {}).get("content", {}).get(JSON, {}).get("schema", {}))


def _is_array(schema: Schema) -> bool:
    """Whether it is the schema of a numpy array, which says nothing of its shape."""
    return schema.get("title") == "Array" and schema.get("items") == {}


def _words(base: str, path: str, body: list[str], *, key: bool, ca: str) -> str:
    words = ["curl", *(["--cacert", ca] if ca else []), f"{base}{path}", *body]
    line = shlex.join(words)
    return f'{line} -H "x-api-key: $KEY"' if key else line  # the shell puts the key in


def _of_app(route: str, document: Schema) -> tuple[str, list[str]]:
    """A request to one of an app's routes, one without a body if there is any."""
    components = document.get("components", {}).get("schemas", {})
    found = [
        (method, path, operation)
        for method in ("get", "post")
        for path, operations in document.get("paths", {}).items()
        if isinstance(operation := operations.get(method), dict)
    ]
    if not found:
        return route, []
    method, path, operation = min(found, key=lambda one: (one[0] != "get", "{" in one[1]))
    content = operation.get("requestBody", {}).get("content", {})
    parameters = [one for one in operation.get("parameters", []) if one.get("in") in ("path", "query")]
    path, body = _request(route.rstrip("/") + path, parameters, content, components)
    return path, body or (["-X", "POST"] if method == "post" else [])


def _request(route: str, parameters: list[Schema], content: Schema, components: Schema) -> tuple[str, list[str]]:
    """Path with query, and the words of curl for the body."""
    values = {one["name"]: example(one.get("schema", {}), components) for one in parameters if one.get("required")}
    in_path = set(_PARAMETER.findall(route))
    path = _PARAMETER.sub(lambda found: quote(_text(values.get(found[1], 1)), safe=""), route)
    query = urlencode({name: _text(value) for name, value in values.items() if name not in in_path})
    return f"{path}?{query}" if query else path, _body(content, components)


def _body(content: Schema, components: Schema) -> list[str]:
    if JSON in content:
        body = json.dumps(example(content[JSON].get("schema", {}), components))
        return ["-H", f"content-type: {JSON}", "-d", body]
    if FORM in content:
        schema = content[FORM].get("schema", {})
        names = schema.get("required") or list(schema.get("properties", {}))[:1]
        return [word for name in names for word in ("-F", f"{name}=hello;filename=hello.txt")]
    return []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def example(schema: Schema, components: Schema, depth: int = 0) -> Any:
    """The simplest value that fits a JSON schema, as far as that can be told.

    Args:
        components: the schemas that it refers to, by name.
    """
    if depth > MAX_DEPTH:
        return None
    if "$ref" in schema:
        return example(components.get(schema["$ref"].rpartition("/")[2], {}), components, depth + 1)
    if schema.get("examples"):
        return schema["examples"][0]
    if _is_array(schema):
        return [[1, 2, 3]]  # rows are what most models take
    for word in ("example", "default", "const"):
        if word in schema:
            return schema[word]
    if schema.get("enum"):
        return schema["enum"][0]
    for word in ("anyOf", "oneOf", "allOf"):
        if schema.get(word):
            choice = next((one for one in schema[word] if one.get("type") != "null"), schema[word][0])
            return example(choice, components, depth + 1)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    return _of_kind(kind, schema, components, depth)


def _of_kind(kind: Any, schema: Schema, components: Schema, depth: int) -> Any:
    if kind == "object" or "properties" in schema:
        known = schema.get("properties", {})
        return {name: example(known.get(name, {}), components, depth + 1) for name in schema.get("required", [])}
    if kind == "array":
        first = [example(one, components, depth + 1) for one in schema.get("prefixItems", [])]
        if first:
            return first
        return [example(schema.get("items") or {}, components, depth + 1)] * max(1, schema.get("minItems", 1))
    if kind == "string":
        text = _FORMATS.get(schema.get("format", ""), "text")
        return (text * (1 + schema.get("minLength", 0) // len(text)))[: schema.get("maxLength")] if text else text
    if kind == "boolean":
        return True
    if kind == "null":
        return None
    return _number(kind, schema)


def _number(kind: Any, schema: Schema) -> Any:
    """A number within its bounds; also where nothing is said of the kind."""
    step = schema.get("multipleOf", 1)
    value: Any = step
    if "minimum" in schema or "exclusiveMinimum" in schema:
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        value = low if "minimum" in schema else low + step
        value = -(-value // step) * step
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if high is not None and (value > high or (value == high and "maximum" not in schema)):
        low = schema.get("minimum", schema.get("exclusiveMinimum", high - 1))
        value = high if "maximum" in schema else (low + high) / 2
    return int(value) if kind == "integer" else value
