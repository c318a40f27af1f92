"""The API document of routing tables, as generators of clients and people read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Literal

import fastapi
import fastapi.security
import pytest
from msgspec.structs import replace
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import BaseModel, Field, create_model

from pointsman.ingress.openapi import API_KEYS, ApiDocument, document, page
from pointsman.model import ASGI, BackendRoute, EndpointSpec, RoutingTable, TrafficPolicy
from pointsman.usercode.describing import MAX_DESCRIPTION, pack_description, unpack_description
from pointsman.usercode.mounting import asgi
from pointsman.usercode.packing import inspect_code
from tests.loop import flowers

POST = ("POST",)


def table(version: int = 1, **endpoints: Any) -> RoutingTable:
    """A routing table. Each endpoint is a route, methods, and its backends: code or packed descriptions by weight."""
    specs, backends = {}, {}
    for name, (route, methods, codes) in endpoints.items():
        weights = {}
        for number, (code, weight) in enumerate(codes):
            tag = f"{name}{number}"
            api = code if isinstance(code, bytes) else inspect_code(code, ()).api
            backends[tag] = BackendRoute(tag, (), 100, 100, api=api)
            weights[tag] = weight
        specs[name] = EndpointSpec(name, route, methods, TrafficPolicy(1, weights))
    return RoutingTable(version, specs, backends)


def checked(made: dict[str, Any]) -> dict[str, Any]:
    """A document that a validator finds nothing wrong with."""
    made = json.loads(json.dumps(made))
    assert not list(OpenAPIV31SpecValidator(made).iter_errors())
    return made


def one(code: Any, route: str = "/f", methods: tuple[str, ...] = POST) -> dict[str, Any]:
    """The only operation of a document with one endpoint."""
    made = checked(document(table(e=(route, methods, [(code, 1.0)]))))
    (item,) = made["paths"].values()
    (operation,) = item.values()
    return dict(operation)


KINDS = [
    *(flowers.Model, flowers.pot, flowers.leaf, flowers.garden, flowers.array, flowers.flowers, flowers.named),
    *(flowers.either, flowers.mixed, flowers.maybe, flowers.parts, flowers.upload, flowers.uploads, flowers.Batched),
    *(flowers.maybe_upload, flowers.answers_only, flowers.counts, flowers.untyped),
]


@pytest.mark.parametrize("code", KINDS, ids=lambda code: code.__name__)
def test_every_kind_of_model_is_described(code: Any) -> None:
    """Whatever a model takes and gives, the document is valid (TY7)."""
    one(code)


def test_what_a_model_takes_and_gives_is_there() -> None:
    """Docstring, parameters with defaults, the body's and the answer's schema, and the misfit are described (TY7)."""
    made = checked(document(table(flower=("/f/{id}", POST, [(flowers.Model, 1.0)]))))
    operation = made["paths"]["/f/{id}"]["post"]
    assert (operation["summary"], operation["description"]) == ("Guesses.", "By the length of what it gets.")
    assert [(part["name"], part["in"], part["required"]) for part in operation["parameters"]] == [
        ("id", "path", True),
        ("top", "query", False),
        ("tags", "query", False),
    ]
    assert operation["parameters"][1]["schema"] == {"type": "integer", "default": 3}
    media = {"schema": {"$ref": "#/components/schemas/Flower"}}
    body = {"required": True, "content": {"application/json": media, "application/msgpack": media}}
    assert operation["requestBody"] == body
    answer = operation["responses"]["200"]["content"]["application/json"]
    assert answer == {"schema": {"$ref": "#/components/schemas/Guess"}}
    assert set(operation["responses"]) == {"200", "422", "default"}
    assert {"Flower", "Petal", "Colour", "Guess"} <= set(made["components"]["schemas"])


def test_a_parameter_of_the_path_has_its_type() -> None:
    """A name of the route's template has the type of the parameter that gets it (TY7)."""
    parameters = {part["name"]: part for part in one(flowers.parts, "/f/{id}/{rest:path}")["parameters"]}
    assert (parameters["id"]["in"], parameters["id"]["schema"]) == ("path", {"type": "integer"})
    assert parameters["rest"]["in"] == "path"
    assert parameters["colour"]["schema"]["enum"] == ["red", "blue"]
    assert parameters["colour"]["schema"]["default"] == "red"


def test_files_are_a_form() -> None:
    """An upload is a multipart form with a field of that name (TY7)."""
    form = one(flowers.upload)["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert list(form["properties"]) == form["required"] == ["image"]


def test_methods_that_can_only_fail_are_left_out() -> None:
    """A GET of a model that needs a body is not listed; of one that does not it is (TY7)."""
    methods = ("GET", "POST", "PURGE")
    needs = document(table(e=("/f", methods, [(flowers.Model, 1.0)])))
    assert set(needs["paths"]["/f"]) == {"post"}
    for code in (flowers.untyped, flowers.maybe):
        assert set(checked(document(table(e=("/f", methods, [(code, 1.0)]))))["paths"]["/f"]) == {"get", "post"}


def test_the_backend_with_most_traffic_describes_the_endpoint() -> None:
    """With a canary the document is that of the version that most requests get (TY7)."""
    split = [(flowers.Model, 0.1), (flowers.pot, 0.9)]
    operation = document(table(e=("/f", POST, split)))["paths"]["/f"]["post"]
    assert operation["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Pot"}
    assert operation["x-pointsman-backends"] == {"e0": 0.1, "e1": 0.9}


def test_backends_are_hidden_where_headers_are() -> None:
    """With ``expose_headers`` off the document names no backends either (TY7)."""
    made = document(table(e=("/f", POST, [(flowers.Model, 1.0)])), shows_backends=False)
    assert "x-pointsman-backends" not in made["paths"]["/f"]["post"]


def other_flower() -> Any:
    """A model of the same name with other fields, around one of an equal name."""
    colour = create_model("Colour", hue=(int, ...))
    other = create_model("Flower", colour=(colour, ...))

    def model(flower: other) -> list[other]:  # type: ignore[valid-type]
        return [flower]

    model.__annotations__ = {"flower": other, "return": list[other]}
    return model


def test_models_of_one_name_are_told_apart() -> None:
    """Two backends have different classes called Flower: each route refers to its own (TY7)."""
    code = other_flower()
    names = {"a b": ("/a", POST, [(flowers.Model, 1.0)]), "ü/x": ("/b", POST, [(code, 1.0)])}
    made = checked(document(table(**names)))
    schemas = made["components"]["schemas"]
    first, second = (
        made["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for path in ("/a", "/b")
    )
    assert first == "Flower"
    assert second == "Flower__fc__2f_x"
    assert set(schemas["Flower"]["properties"]) == {"sepal", "petals"}
    assert schemas[second]["properties"]["colour"] == {"$ref": "#/components/schemas/Colour__fc__2f_x"}
    same = checked(document(table(a=("/a", POST, [(flowers.Model, 1.0)]), b=("/b", POST, [(flowers.Model, 1.0)]))))
    assert not [name for name in same["components"]["schemas"] if "_" in name]


class Priced(BaseModel):
    price: Decimal
    parts: list[Priced] = []


def round_trip(value: Priced) -> Priced:
    return value


def test_a_model_that_is_taken_and_given() -> None:
    """A price may come as a number and goes out as text: two schemas, both right (TY7)."""
    operation = one(round_trip)
    taken = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    given = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    assert (taken.rpartition("/")[2], given.rpartition("/")[2]) == ("Priced", "Priced-Answer")


def test_an_endpoint_for_handles_is_not_there() -> None:
    """What has no route is not in the document (TY7)."""
    assert document(table(e=(None, POST, [(flowers.Model, 1.0)])))["paths"] == {}


class Flower(BaseModel):
    hue: int


def test_an_app_lies_under_its_prefix() -> None:
    """The operations of a FastAPI app are there under its route, with its own schemas and security (TY7)."""
    app = fastapi.FastAPI()
    bearer = fastapi.security.HTTPBearer()

    @app.post("/flowers/{name}")
    def add(name: str, flower: Flower, key: Any = fastapi.Depends(bearer)) -> Flower:  # noqa: B008 - as FastAPI has it
        return flower

    @app.get("/")
    def root() -> str:
        return ""

    described = asgi(app)
    made = checked(document(table(a=("/a", POST, [(flowers.Model, 1.0)]), app=("/app", ("*",), [(described, 1.0)]))))
    assert app.openapi_schema is None, "the app itself makes its own anew, under the prefix that it is given"
    assert {"/app/", "/app/flowers/{name}", "/a"} == set(made["paths"])
    assert made["paths"]["/app/"]["get"]["tags"] == ["app"]
    assert "HTTPBearer" in made["components"]["securitySchemes"]
    twice = table(b=("/b", ("*",), [(described, 1.0)]), app=("/app", ("*",), [(described, 1.0)]))
    checked(document(twice))


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


def of_hue() -> Any:
    """Another class named Cat, told apart from a Dog by its kind."""
    other = create_model("Cat", kind=(Literal["cat"], ...), hue=(int, ...))
    return Annotated[other | Dog, Field(discriminator="kind")]


def test_unions_are_told_apart_by_their_own_classes() -> None:
    """Where two backends have a class of one name, the mapping of a union refers to its own, as that does (TY7)."""

    def first(pet: Annotated[Cat | Dog, Field(discriminator="kind")]) -> None: ...
    def second(pet: Any) -> None: ...

    first.__annotations__ = {"pet": Annotated[Cat | Dog, Field(discriminator="kind")]}
    second.__annotations__ = {"pet": of_hue()}
    made = checked(document(table(a=("/a", POST, [(first, 1.0)]), b=("/b", POST, [(second, 1.0)]))))
    for path in ("/a", "/b"):
        schema = made["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert sorted(schema["discriminator"]["mapping"].values()) == sorted(one["$ref"] for one in schema["oneOf"])


def mounted(**endpoints: Any) -> RoutingTable:
    """A table of which those with ``*`` for methods are apps."""
    made = table(**endpoints)
    specs = {
        name: replace(spec, surface=ASGI) if spec.methods == ("*",) else spec for name, spec in made.endpoints.items()
    }
    return replace(made, endpoints=specs)


def locked_app(token: str) -> Any:
    app = fastapi.FastAPI()
    oauth = fastapi.security.OAuth2PasswordBearer(tokenUrl=token)

    @app.get("/me", operation_id="a_get")
    def me(key: Any = fastapi.Depends(oauth)) -> str:  # noqa: B008 - as FastAPI has it
        return ""

    @app.get("/x/y")
    def inner() -> str:
        return "of the app"

    return asgi(app)


def test_two_apps_that_ask_for_tokens() -> None:
    """Each app's operations name its own scheme, beside the server's key where one is needed (TY7, ED2)."""
    apps = {"a": ("/a", ("*",), [(locked_app("/one"), 1.0)]), "b": ("/b", ("*",), [(locked_app("/two"), 1.0)])}
    made = checked(document(mounted(**apps)))
    schemes = made["components"]["securitySchemes"]
    for path, token in (("/a/me", "/one"), ("/b/me", "/two")):
        ((name,),) = made["paths"][path]["get"]["security"]
        assert schemes[name]["flows"]["password"]["tokenUrl"] == token
    made = checked(document(mounted(**apps), security=API_KEYS))
    ours = [set(one) & set(API_KEYS) for one in made["paths"]["/a/me"]["get"]["security"]]
    assert sorted(map(sorted, ours)) == [["bearer"], ["header"]], made["paths"]["/a/me"]


def test_what_a_path_is_in_two_is_that_of_the_route_that_wins() -> None:
    """An exact route and a longer prefix stand in the document as they do in routing, and no two operations share an
    id (TY7, AP1)."""

    def exact() -> None:
        """The exact one."""

    app = locked_app("/t")
    routes = {"root": ("/", ("*",), [(app, 1.0)]), "a": ("/x/y", ("GET",), [(exact, 1.0)])}
    made = checked(document(mounted(**routes, prefix=("/x", ("*",), [(app, 1.0)]))))
    assert made["paths"]["/x/y"]["get"]["tags"] == ["a"]
    assert made["paths"]["/x/me"]["get"]["tags"] == ["prefix"]
    ids = [operation["operationId"] for item in made["paths"].values() for operation in item.values()]
    assert len(ids) == len(set(ids))


def test_routes_that_are_methods_are_described() -> None:
    """Those of a class that has an app take no ``self`` (TY7, AP4)."""
    app = fastapi.FastAPI()

    @asgi(app)
    class Shop:
        @app.get("/price")
        def price(self, of: str) -> int:
            return 1

    made = checked(document(table(shop=("/shop", ("*",), [(Shop, 1.0)]))))
    operation = made["paths"]["/shop/price"]["get"]
    assert [parameter["name"] for parameter in operation["parameters"]] == ["of"]


def test_an_app_without_a_document_is_not_described() -> None:
    """Apps of other frameworks, functions that make one, and apps that publish no document have none here (TY7)."""

    async def other(scope: Any, receive: Any, send: Any) -> None: ...

    for app in (other, lambda: fastapi.FastAPI(), fastapi.FastAPI(openapi_url=None)):
        assert inspect_code(asgi(app), ()).api == b""


def test_security_schemes() -> None:
    """What keys clients need is said of all operations, each of which takes either header (TY7, ED2)."""
    made = checked(document(table(e=("/f", POST, [(flowers.Model, 1.0)])), security=API_KEYS))
    assert made["security"] == [{"bearer": []}, {"header": []}]


def test_the_document_is_made_once_for_a_table() -> None:
    """Asked again it is the same; a new table has a new one (TY7)."""
    api, first = ApiDocument(), table(e=("/f", POST, [(flowers.Model, 1.0)]))
    assert api.data(first) is api.data(first)
    assert b'"/g"' in api.data(table(2, e=("/g", POST, [(flowers.Model, 1.0)])))


def test_descriptions_have_a_limit(caplog: pytest.LogCaptureFixture) -> None:
    """A model with thousands of fields is documented without its schema; it does not weigh on every router (TY7)."""
    fields: dict[str, Any] = {f"a_rather_long_name_of_a_field_{index}": (int, ...) for index in range(5000)}
    large = create_model("Large", **fields)

    def model(large: Any) -> None:
        """Takes much."""

    model.__annotations__["large"] = large
    packed = inspect_code(model, ()).api
    assert unpack_description(packed) == {"doc": "Takes much.", "parameters": [], "components": {}}
    assert "no schemas of it" in caplog.text
    assert pack_description({"doc": "x" * MAX_DESCRIPTION}) is None
    assert unpack_description(b"junk") == unpack_description(b"") == {}


def test_a_model_without_a_schema_is_documented_without() -> None:
    """A field that has no JSON schema is no reason to refuse the model (TY7)."""

    class Odd(BaseModel):
        model_config = {"arbitrary_types_allowed": True}
        then: Callable[[], int]

    def model(odd: Odd) -> None: ...

    model.__annotations__["odd"] = Odd
    assert one(model)["requestBody"]["content"]["application/json"] == {"schema": {}}


def test_untyped_code_is_not_described() -> None:
    """Other backends have nothing that would travel (TY1)."""
    assert inspect_code(flowers.untyped, ()).api == b""


def test_the_page_needs_nothing_from_elsewhere() -> None:
    """The page has no address of another host, and sets what models' authors wrote as text only (TY8)."""
    text = page().decode()
    assert "http://" not in text
    assert "https://" not in text
    assert "innerHTML" not in text
    assert 'fetch("openapi.json")' in text
