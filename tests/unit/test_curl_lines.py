"""The curl line that `pointsman run` prints."""

from __future__ import annotations

import json
import shlex
from typing import Annotated, Any

import numpy as np
import pytest
from fastapi import FastAPI
from numpy.typing import NDArray
from pydantic import BaseModel, Field

import pointsman as serve
from pointsman.running.example import Served, curl_line, example, served_lines
from pointsman.usercode.packing import inspect_code

BASE = "http://127.0.0.1:8000"


class Flower(BaseModel):
    sepal: Annotated[float, Field(gt=0)]
    name: str
    tags: list[str] = []


class Ranker:
    def __call__(self, flower: Flower, limit: int, colour: str = "red") -> dict[str, float]:
        return {}


def line_of(model: Any, route: str = "/m", **options: Any) -> str:
    return curl_line(BASE, route, inspect_code(model, ()).api, **options)


def test_a_typed_model_gets_a_body_that_fits():
    """The line has a body with all that a typed model requires, and its parameters (RN1)."""
    words = shlex.split(line_of(Ranker))
    assert words[:2] == ["curl", f"{BASE}/m?limit=1"]
    assert words[2:5] == ["-H", "content-type: application/json", "-d"]
    assert Flower.model_validate(json.loads(words[5])) == Flower(sepal=1, name="text")


def test_an_array_is_rows_and_its_shape_is_left_to_me():
    """A model that takes an array gets rows, and a line says that their shape is mine to put in (RN1)."""

    def rows(rows: NDArray[np.float64]) -> str:
        return "hello"

    assert shlex.split(line_of(rows))[-1] == "[[1, 2, 3]]"
    served = [Served("rows", "/m", inspect_code(rows, ()).api), Served("ranker", "/r", inspect_code(Ranker, ()).api)]
    lines = served_lines(BASE, served, http={}, key=False)
    assert [index for index, line in enumerate(lines) if "shape" in line] == [2]


def test_a_template_is_filled():
    """Parameters of the route are filled in, those that a model names and others (RN1)."""
    assert line_of(Ranker, "/x/{limit}/{rest:path}").startswith(f"curl {BASE}/x/1/1 ")


def test_a_model_without_annotations():
    """Of a model that takes the request as it is nothing is known: the line asks for its route (RN1)."""

    def plain(request: serve.Request) -> str:
        return "hello"

    assert line_of(plain) == f"curl {BASE}/m"
    assert line_of(plain, key=True) == f'curl {BASE}/m -H "x-api-key: $KEY"'
    assert line_of(plain, ca="my ca.pem") == f"curl --cacert 'my ca.pem' {BASE}/m"


def test_a_route_that_takes_no_get():
    """The line asks by a method that the route takes, and leaves out one that curl takes by itself (RN1)."""

    def plain(request: serve.Request) -> str:
        return "hello"

    assert line_of(plain, methods=("POST", "PUT")) == f"curl {BASE}/m -X POST"
    assert line_of(plain, methods=("POST", "GET")) == f"curl {BASE}/m"
    assert "-X" not in line_of(Ranker, methods=("POST",))
    assert f"curl {BASE}/m?limit=1 -X PUT -H " in line_of(Ranker, methods=("PUT",)).replace("'", "")


def test_a_file_is_sent_as_a_form():
    """A model that takes a file gets one (RN1)."""

    def read(picture: serve.File) -> int:
        return 0

    assert line_of(read) == f"curl {BASE}/m -F 'picture=hello;filename=hello.txt'"


def test_an_app_is_asked_by_a_route_of_its_own():
    """Of a FastAPI app the line asks a route without parameters, below the app's own (RN1)."""
    app = FastAPI()

    @app.get("/items/{item}")
    def item(item: int) -> int:
        return item

    @app.post("/rank")
    def rank(flower: Flower) -> int:
        return 0

    assert line_of(serve.asgi(app), "/shop") == f"curl {BASE}/shop/items/1"

    @app.get("/ready")
    def ready() -> str:
        return "yes"

    assert line_of(serve.asgi(app), "/") == f"curl {BASE}/ready"
    assert line_of(serve.asgi(FastAPI()), "/shop") == f"curl {BASE}/shop"


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({}, 1),
        ({"type": "integer", "minimum": 5}, 5),
        ({"type": "integer", "exclusiveMinimum": 5, "multipleOf": 4}, 12),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, 0.5),
        ({"type": "integer", "maximum": -2}, -2),
        ({"type": "string", "minLength": 6, "maxLength": 7}, "texttex"),
        ({"type": "string", "format": "date"}, "2026-01-31"),
        ({"enum": ["a", "b"]}, "a"),
        ({"const": 4}, 4),
        ({"type": "string", "examples": ["red"]}, "red"),
        ({"anyOf": [{"type": "null"}, {"type": "boolean"}]}, True),
        ({"type": ["null", "string"]}, "text"),
        ({"type": "null"}, None),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [1, 1]),
        ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]}, [1, "text"]),
        ({"type": "object"}, {}),
        ({"$ref": "#/components/schemas/missing"}, 1),
    ],
)
def test_examples(schema: dict[str, Any], value: Any):
    """Each kind of schema has a value that fits it (RN1)."""
    assert example(schema, {}) == value


def test_models_that_contain_themselves():
    """A model that may contain one of its kind has an example that ends (RN1)."""
    components = {"Node": {"required": ["next"], "properties": {"next": {"$ref": "#/x/Node"}}}}
    assert "next" in json.dumps(example({"$ref": "#/x/Node"}, components))
