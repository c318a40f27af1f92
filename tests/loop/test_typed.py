"""Typed callables as clients see them: bodies, parameters, misfits, answers, batches."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import fastapi
import msgspec
import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from starlette.responses import JSONResponse

import pointsman as serve
from pointsman.exceptions import AnswerError
from pointsman.testing import TestClient, run
from tests.loop import flowers
from tests.loop.edge import SOON_S, edge
from tests.loop.flowers import SEEN, Flower
from tests.properties import examples

GOOD = {"sepal": 5.5}


@pytest.fixture(autouse=True)
def fresh() -> None:
    SEEN.clear()


def post(model: Any, body: Any = GOOD, **options: Any) -> Any:
    """The JSON of the answer, or its text; with a status that is no 200 the whole answer."""
    served = {name: options.pop(name) for name in ("route", "config") if name in options}
    with TestClient(model, **served) as client:
        response = client.post(options.pop("url", "/"), **({} if body is None else {"json": body}), **options)
    if response.status_code != 200:
        return response
    return response.json() if "json" in response.headers["content-type"] else response.text


def npy(array: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def test_a_model_gets_the_decoded_body_and_parameters_of_the_query() -> None:
    """My model takes a Flower and ``top``, and gets both, converted (TY1)."""
    answer = post(flowers.Model, params={"top": "5", "tags": ["a", "b"]})
    assert answer == {"label": "Flower 5 ['a', 'b']", "score": 5.5}
    assert isinstance(SEEN[0], Flower)


@pytest.mark.parametrize(
    ("model", "body", "answer"),
    [
        (flowers.pot, {"size": 1, "inner": [{"size": 2}]}, {"size": 1, "inner": [{"size": 2, "inner": []}]}),
        (flowers.leaf, {"length": 1, "x": 1}, {"length": 1, "veins": [], "edge": "smooth"}),
        (flowers.garden, {"soil": {"ph": 7}, "x": 1}, {"soil": {"ph": 7.0}}),
        (flowers.array, [[1, 2], [3, 4.5]], [[2.0, 4.0], [6.0, 9.0]]),
        (flowers.whole_numbers, [1, 2], "int64"),
        (flowers.some_numbers, [1, 2], "float64"),
        (flowers.small_numbers, [1, 255], [1, 255]),
        (flowers.several_arrays, {"a": [1], "b": []}, [{"a": [1.0], "b": []}, "float32"]),
        (flowers.maybe_array, None, [0]),
        (flowers.maybe_array, [1, 2], [2]),
        (flowers.flowers, [GOOD, GOOD], 2),
        (flowers.named, {"b": GOOD, "a": GOOD}, ["a", "b"]),
        (flowers.either, {"kind": "dog", "age": 3}, "Dog"),
        (flowers.mixed, GOOD, "Flower"),
        (flowers.mixed, {"length": 2}, "Leaf"),
        (flowers.maybe, None, "none"),
        (flowers.maybe, GOOD, "one"),
    ],
)
def test_every_kind_of_annotation(model: Any, body: Any, answer: Any) -> None:
    """Dataclasses, Structs, typed dicts, arrays, and lists, dicts and unions of models are decoded (TY1)."""
    assert post(model, body) == answer


def test_async_code_and_keywords() -> None:
    """An ``async def`` with a parameter behind ``*`` is called as it asks (TY1)."""
    assert post(flowers.asynchronous, params={"top": 2}) == [5.5, 2]


def test_a_second_parameter_may_be_the_request() -> None:
    """Headers and query are there beside the model (TY1)."""
    assert post(flowers.with_request, headers={"x-garden": "north"}, params={"q": "1"}) == [5.5, "north", "1"]


def test_parameters_of_the_path() -> None:
    """A name of the route's template is read from the path, converted as one of the query (TY1)."""
    url, route = "/f/7?on=yes&colour=blue", "/f/{id}"
    assert post(flowers.parts, url=url, route=route) == [7, True, "blue"]
    response = post(flowers.parts, url="/f/seven?on=perhaps", route=route)
    assert [detail["loc"] for detail in response.json()["detail"]] == [["path", "id"], ["query", "on"]]


def test_uploads() -> None:
    """A ``serve.File`` is the uploaded file of that field (TY1)."""
    files = {"image": ("a.png", b"data", "image/png")}
    assert post(flowers.upload, None, files=files, params={"top": 2}) == ["a.png", "image/png", "data", 2]
    several = [("images", ("a", b"")), ("images", ("b", b"1"))]
    assert post(flowers.uploads, None, files=several) == ["a", "b"]
    assert post(flowers.maybe_upload, None) == -1
    missing = post(flowers.upload, None, files={"other": b"1"})
    assert missing.json()["detail"] == [{"loc": ["body", "image"], "msg": "Field required", "type": "missing"}]
    assert post(flowers.upload, {"image": 1}).status_code == 415


def timed(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Decorated:
    """Typed behind a decorator, with a helper whose parameters no call can give, and methods of other kinds."""

    @timed
    def __call__(self, flower: Flower, *, top: int = 3) -> float:
        return self.helped(flower, flower) + top

    def helped(self, first: Flower, second: Flower) -> float:
        return first.sepal + second.sepal

    @staticmethod
    def still(flower: Flower) -> float:
        return flower.sepal

    @classmethod
    def of_class(cls, flower: Flower) -> str:
        return f"{cls.__name__} {flower.sepal}"


def test_decorated_and_other_methods() -> None:
    """The parameters of what a decorator wraps count; static and class methods are typed as others are (TY1)."""
    config = {"http_methods": "*"}
    with TestClient(Decorated, config=config) as client:
        assert client.post(json=GOOD, params={"top": 1}).json() == 12.0
        for method, answer in (("still", "5.5"), ("of_class", "Decorated 5.5")):
            assert client.post(json=GOOD, headers={"x-serve-call-method": method}).text == answer
        misfit = client.post(json={}, headers={"x-serve-call-method": "still"})
        assert misfit.json()["detail"][0]["loc"] == ["body", "sepal"]


def test_a_typed_callable_with_a_form_of_its_own() -> None:
    """A field that the form does not have is the client's mistake in a typed callable as well (HE4)."""

    def model(image: serve.File, request: serve.Request) -> Any:
        with request.form() as form:
            return form["other"]

    assert post(model, None, files={"image": b"1"}).status_code == 400


def test_code_that_takes_a_request_stays_as_it_is() -> None:
    """Annotations that are no models change nothing: ``request: dict`` still gets the request (TY1)."""
    assert post(flowers.untyped, headers={"content-type": "text/plain"}) == "Request"


def test_bodies_in_msgpack_and_npy() -> None:
    """Clients may send msgpack and arrays as npy files (TY2)."""
    packed = {"content": msgspec.msgpack.encode(GOOD), "headers": {"content-type": "application/msgpack"}}
    assert post(flowers.Model, None, **packed)["score"] == 5.5
    as_npy = {"headers": {"content-type": "application/x-npy"}}
    assert post(flowers.array, None, content=npy(np.array([[1, 2]])), **as_npy) == [[2.0, 4.0]]
    assert post(flowers.maybe_array, None, content=npy(np.arange(3)), **as_npy) == [3]
    turned = np.asfortranarray(np.array([[1, 2], [3, 4]]))
    assert post(flowers.array, None, content=npy(turned), **as_npy) == [[2.0, 4.0], [6.0, 8.0]]


@pytest.mark.parametrize(
    ("media", "status"),
    [
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/x-npy", 415),
        ("application/json; charset=utf-8", 200),
        ("application/problem+json", 200),
    ],
)
def test_other_media_types(media: str, status: int) -> None:
    """A body that is said to be something else is a 415; a Flower is no array (TY2)."""
    with TestClient(flowers.Model) as client:
        response = client.post(json=GOOD, headers={"content-type": media})
    assert response.status_code == status
    if status == 415:
        assert response.json()["reason"] == "media_type"
        assert "detail" not in response.json()
        assert not SEEN


@pytest.mark.parametrize(
    "data",
    [
        npy(np.array([object()]), allow_pickle=True),
        npy(np.arange(4))[:-1],
        npy(np.arange(4)) + b"1",
        npy(np.arange(4)).replace(b"(4,)", b"(-4,)"),
        b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f8', 'fortran_order': False, 'shape': (10**15,), }".ljust(90),
        b"\x93NUMPY\x03\x00",
        b"PK",
    ],
)
def test_npy_files_that_lie(data: bytes) -> None:
    """A file with pickled objects, or of another size than it claims, is refused (TY2)."""
    response = post(flowers.array, None, content=data, headers={"content-type": "application/x-npy"})
    assert (response.status_code, response.json()["detail"][0]["type"]) == (422, "npy_invalid")


@pytest.mark.parametrize("encode", [msgspec.json.encode, msgspec.msgpack.encode])
def test_text_that_would_be_terabytes_as_an_array(encode: Any) -> None:
    """One long text and many empty ones are refused before memory is asked for; text that fits is an array (TY1)."""
    media = "json" if encode is msgspec.json.encode else "msgpack"
    headers = {"content-type": f"application/{media}"}
    with TestClient(flowers.some_numbers) as numbers, TestClient(text_array) as texts:
        for nested in (["x" * 1_000_000, *[""] * 1_000_000], [["x" * 20_000_000], [1]], [["x"], [1.0] * 1_000_000]):
            for client in (numbers, texts):
                response = client.post(content=encode(nested), headers=headers)
                assert [detail["type"] for detail in response.json()["detail"]] == ["array_text"]
        assert texts.post(content=encode(["a", "bcd"]), headers=headers).json() == ["a", "bcd"]


def text_array(texts: NDArray[np.str_]) -> Any:
    return texts


def test_a_misfit_is_told_as_fastapi_tells_it() -> None:
    """I see where my body does not fit, what is wrong, and not what I had sent; the model sees nothing (TY3)."""
    body = {"sepal": "secret", "petals": [{"width": 1, "colour": "secret"}, {}]}
    response = post(flowers.Model, body, params={"top": "secret"})
    told = response.json()
    assert response.status_code == 422
    assert told["reason"] == "invalid"
    assert told["error_id"] == response.headers["x-request-id"]
    assert [(detail["loc"], detail["type"]) for detail in told["detail"]] == [
        (["body", "sepal"], "float_parsing"),
        (["body", "petals", 0, "colour"], "enum"),
        (["body", "petals", 1, "width"], "missing"),
        (["query", "top"], "int_parsing"),
    ]
    assert set(told["detail"][0]) == {"loc", "msg", "type"}
    assert "secret" not in response.text
    assert not SEEN


@pytest.mark.parametrize(
    ("model", "body", "loc", "kind"),
    [
        (flowers.Model, b'{"sepal":', ["body"], "json_invalid"),
        (flowers.Model, b"\xff", ["body"], "json_invalid"),
        (flowers.Model, b"[" * 100_000, ["body"], "json_invalid"),
        (flowers.Model, b"", ["body"], "missing"),
        (flowers.Model, b"null", ["body"], "model_type"),
        (flowers.Model, b'{"sepal": -1}', ["body", "sepal"], "value_error"),
        (flowers.either, b'{"kind": "secret"}', ["body"], "union_tag_invalid"),
        (flowers.leaf, b'{"length":', ["body"], "json_invalid"),
        (flowers.leaf, b"{}", ["body", "length"], "missing"),
        (flowers.leaf, b'{"length": 1, "edge": "secret"}', ["body", "edge"], "value_error"),
        (flowers.leaf, b'{"length": 1, "veins": [{"length": "secret"}]}', ["body", "veins", 0, "length"], "type_error"),
        (flowers.array, b"[[1], [2, 3]]", ["body"], "array_type"),
        (flowers.array, b'["secret"]', ["body"], "array_dtype"),
        (flowers.array, b"[" * 100_000, ["body"], "recursion_loop"),
        (flowers.array, b'{"a": 1}', ["body"], "array_type"),
        (flowers.whole_numbers, b"[1.5]", ["body"], "array_dtype"),
        (flowers.whole_numbers, b"[1e300]", ["body"], "array_dtype"),
        (flowers.small_numbers, b"[1, 300]", ["body"], "array_range"),
        (flowers.small_numbers, b"[-1]", ["body"], "array_range"),
        (flowers.array, b"[1e300]", ["body"], "array_range"),
        (flowers.several_arrays, b'{"a": [[1], [2, 3]]}', ["body", "a"], "array_type"),
        (flowers.garden, b'{"name": "x"}', ["body", "soil"], "missing"),
    ],
)
def test_bodies_that_do_not_fit(model: Any, body: bytes, loc: list[Any], kind: str) -> None:
    """Bad JSON, missing fields, wrong types: each is a 422 with its place, without the value (TY3)."""
    response = post(model, None, content=body)
    assert response.status_code == 422
    detail = response.json()["detail"][0]
    assert (detail["loc"], detail["type"]) == (loc, kind)
    assert not any(word in response.text for word in ("secret", "str192"))  # nor numpy's name of text


def test_a_body_of_mistakes_is_answered_briefly() -> None:
    """A body with a million mistakes is refused at the first bad item, and a small one lists at most 100 (TY3)."""
    many = post(flowers.flowers, None, content=b"[" + b"{}," * 300_000 + b"{}]")
    assert len(many.json()["detail"]) == 1
    some = post(flowers.flowers, None, content=b"[" + b"{}," * 150 + b"{}]")
    assert len(some.json()["detail"]) == 100
    both = post(flowers.both, None, content=b"[" + b"{}," * 150 + b"{}]", params={"top": "x"})
    assert len(both.json()["detail"]) == 100
    large = post(flowers.flowers, [GOOD] * 5000)
    assert large == 5000
    name = "x" * 5000
    assert len(post(flowers.named, {name: {}}).text) < 1000


def test_a_misfit_fails_alone_before_the_batch_forms() -> None:
    """Of five requests one does not fit: the other four share a batch of four (TY4)."""
    bodies = [{"sepal": 1}, {"sepal": 2}, {"sepal": "x"}, {"sepal": 3}, {"sepal": 4}]
    for model in (flowers.Batched, flowers.batched_later):
        SEEN.clear()
        config = {"max_batch_size": 4, "batch_wait_timeout": 60}
        with TestClient(model, config=config) as client, ThreadPoolExecutor(5) as pool:
            responses = list(pool.map(lambda body: client.post(json=body), bodies))
        assert [response.status_code for response in responses] == [200, 200, 422, 200, 200]
        assert responses[4].json() == {"label": "4", "score": 4.0}
        assert SEEN == [4]


def test_answers_by_the_return_annotation() -> None:
    """Keys that the annotation does not have are dropped; numbers of numpy are numbers (TY5)."""
    assert post(flowers.answers_only) == {"label": "x", "score": 0.5}
    assert post(flowers.counts) == {"n": 3}
    assert post(flowers.stream) == "ab"


def test_return_annotations_that_cannot_be_checked() -> None:
    """An annotation of a class that cannot be validated changes nothing; a Response passes by it (TY5)."""

    @dataclasses.dataclass
    class Odd:
        values: np.ndarray[Any, Any]

    def odd(request: serve.Request) -> Odd:
        return Odd(np.arange(2))

    def either(flower: Flower) -> Flower | JSONResponse:
        return JSONResponse({"x": 1}, 201) if flower.sepal > 1 else {"sepal": 1, "secret": 2}  # type: ignore[return-value]

    assert post(odd) == {"values": [0, 1]}
    assert post(either, {"sepal": 1}) == {"sepal": 1.0, "petals": []}
    assert post(either, {"sepal": 2}).status_code == 201


KEYS = st.sampled_from(["sepal", "petals", "width", "length", "x"])
BODIES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner)
)


@pytest.mark.slow
@examples(40)
@given(body=BODIES)
def test_whatever_is_sent_is_no_error_of_the_model(clients: list[TestClient], body: Any) -> None:
    """JSON of any shape fits or is a misfit; user code never fails of it (TY3)."""
    for client in clients:
        for options in ({"content": json.dumps(body)}, {"content": msgspec.msgpack.encode(body), "headers": MSGPACK}):
            response = client.post(**options)
            assert response.status_code in (200, 422)


MSGPACK = {"content-type": "application/msgpack"}
CODES = (flowers.mixed, flowers.maybe, flowers.some_numbers, flowers.whole_numbers, flowers.flowers, flowers.pot)


@pytest.fixture(scope="module")
def clients() -> Iterator[list[TestClient]]:
    clients = [TestClient(code) for code in CODES]
    yield clients
    for client in clients:
        client.close()


def test_an_answer_that_does_not_fit_is_the_models_fault() -> None:
    """It is a 500 that names the field, not the value (TY5)."""
    with (
        TestClient(flowers.misfit_answer) as client,
        pytest.raises(AnswerError, match=r"answer\.score: Input should be"),
    ):
        client.post(json=GOOD)
    with TestClient(flowers.misfit_answer, raise_server_exceptions=False) as client:
        response = client.post(json=GOOD)
    assert response.status_code == 500
    assert "answer.score" in response.json()["error"]


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ("application/msgpack", "application/msgpack"),
        ("application/json;q=0.5, application/msgpack", "application/msgpack"),
        ("application/msgpack;q=0.5, */*", "application/json"),
        ("application/x-npy", "application/json"),
        ("text/html, application/msgpack;q=x", "application/json"),
        ("*/*", "application/json"),
    ],
)
def test_clients_choose_the_form_of_the_answer(accept: str, media: str) -> None:
    """``Accept`` chooses JSON or msgpack; what cannot be had is JSON (TY2)."""
    for model in (flowers.Model, flowers.anything):
        with TestClient(model) as client:
            response = client.post(json=GOOD, headers={"accept": accept})
        assert response.headers["content-type"] == media
        value = msgspec.msgpack.decode(response.content) if "msgpack" in media else response.json()
        assert value in ({"label": "Flower 3 []", "score": 5.5}, {"values": [0, 1], "text": "x"})


def test_arrays_go_out_as_they_come_in() -> None:
    """A client that accepts npy gets an array as an npy file (TY2)."""
    with TestClient(flowers.array) as client:
        response = client.post(json=[1, 2], headers={"accept": "application/x-npy"})
    assert response.headers["content-type"] == "application/x-npy"
    assert np.load(io.BytesIO(response.content)).tolist() == [2.0, 4.0]


def two_bodies(a: Flower, b: Flower) -> None: ...


def body_and_file(a: Flower, b: serve.File) -> None: ...


def unknown_parameter(a: Flower, b: dict[str, int]) -> None: ...


def no_annotation(a: Flower, b) -> None: ...  # type: ignore[no-untyped-def]


@serve.accept_batch
def no_list(flower: Flower) -> list[int]: ...  # type: ignore[empty-body]


@serve.accept_batch
def query_in_a_batch(flowers: list[Flower], top: int) -> list[int]: ...  # type: ignore[empty-body]


def upload_of_fastapi(image: Annotated[fastapi.UploadFile | None, fastapi.File()] = None) -> None: ...


def query_of_fastapi(a: Flower, top: int = fastapi.Query(3)) -> None: ...


def body_of_fastapi(a: Flower = fastapi.Body()) -> None: ...  # noqa: B008 - as FastAPI has it


def header_of_fastapi(a: Flower, token: Annotated[str, fastapi.Header()] = "") -> None: ...


def dependency_of_fastapi(a: Flower, user: Any = fastapi.Depends(str)) -> None: ...  # noqa: B008 - as FastAPI has it


def field_of_pydantic(a: Flower, top: int = pydantic.Field(3, ge=1)) -> None: ...


class Unknown:
    pass


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (upload_of_fastapi, "upload_of_fastapi takes an UploadFile, which is FastAPI's"),
        (query_of_fastapi, "parameter 'top' of query_of_fastapi is declared by Query"),
        (body_of_fastapi, "parameter 'a' of body_of_fastapi is declared by Body"),
        (header_of_fastapi, "parameter 'token' of header_of_fastapi is declared by Header"),
        (dependency_of_fastapi, "parameter 'user' of dependency_of_fastapi is declared by Depends"),
        (field_of_pydantic, "parameter 'top' of field_of_pydantic is declared by FieldInfo"),
        (two_bodies, "takes a, b from it; put them into one model"),
        (body_and_file, "takes a, b from it"),
        (unknown_parameter, "parameter 'b' of unknown_parameter has the annotation dict"),
        (no_annotation, "parameter 'b' of no_annotation has no annotation"),
        (no_list, "no_list takes a batch; annotate what it takes as list"),
        (query_in_a_batch, "a batching callable takes list"),
    ],
)
def test_signatures_that_cannot_work_are_refused(model: Any, text: str) -> None:
    """I am told at once which parameter can get nothing, and what would be right (TY1)."""
    with pytest.raises(TypeError, match=text):
        TestClient(model)


def test_an_annotation_that_cannot_be_resolved_is_told() -> None:
    """A text that names nothing leaves the callable untyped, with a warning (TY1)."""

    def model(flower: Missing) -> str:  # type: ignore[name-defined] # noqa: F821
        return type(flower).__name__

    with pytest.warns(UserWarning, match="'Missing' of parameter 'flower'"):
        assert post(model) == "Request"


def test_classes_inside_a_function() -> None:
    """A class that is local to the function that deploys the model is found, though its annotation is text (TY1)."""
    from pydantic import BaseModel

    class Local(BaseModel):
        size: int

    def model(local: Local) -> int:
        return local.size

    assert post(model, {"size": 3}) == 3


class Secret(flowers.Leaf):
    password: str = "secret"


def with_secrets(flower: Flower) -> list[flowers.Leaf]:
    return [Secret(length=1)]


def anything(flower: Flower) -> dict[str, Any]:
    return {"array": np.arange(2), "petals": flower.petals}


def complex_numbers(flower: Flower) -> np.ndarray[Any, Any]:
    return np.array([1j])


def test_answers_have_the_fields_of_the_annotation() -> None:
    """Fields that only a subclass has stay where they are, in each form of the answer (TY5)."""
    for accept in ("application/json", "application/msgpack"):
        with TestClient(with_secrets) as client:
            answer = client.post(json=GOOD, headers={"accept": accept})
        assert answer.status_code == 200
        assert b"length" in answer.content
        assert b"secret" not in answer.content


def test_answers_in_msgpack_go_as_far_as_those_in_json() -> None:
    """What has a form in JSON has one in msgpack; what has none is an error that says so (TY2)."""
    headers = {"accept": "application/msgpack, application/json;q=0.5"}
    with TestClient(anything) as client:
        answer = client.post(json=GOOD, headers=headers)
        assert msgspec.msgpack.decode(answer.content)["array"] == client.post(json=GOOD).json()["array"] == [0, 1]
    with TestClient(complex_numbers, raise_server_exceptions=False) as client:
        assert "no msgpack form" in client.post(json=GOOD, headers=headers).json()["error"]


def test_errors_of_a_validator_that_is_broken_are_the_backends() -> None:
    """A validator that raises something else than ValueError is a bug of the model (TY3)."""
    from pydantic import BaseModel, field_validator

    class Broken(BaseModel):
        size: int

        @field_validator("size")
        @classmethod
        def check(cls, value: int) -> int:
            raise KeyError("bug")

    def model(broken: Broken) -> int:
        return broken.size

    with TestClient(model) as client, pytest.raises(KeyError, match="bug"):
        client.post(json={"size": 1})


def test_the_line_of_an_error_is_short() -> None:
    """However long the names are that a client sends, the line that says what is wrong is not (HE1)."""
    response = post(flowers.flowers, [{"x" * 300: 1}] * 50)
    assert len(json.loads(response.content)["error"]) < 500


def test_the_document_is_served_beside_the_model() -> None:
    """``/-/openapi.json`` describes what is served, and ``/-/docs`` is a page that shows it (TY7, TY8)."""
    with TestClient(flowers.Model, route="/flowers/{id}") as client:
        found = client.get("/-/openapi.json")
        page = client.get("/-/docs")
        assert client.post("/-/docs").status_code == 405
        assert client.get("/-/docs/").status_code == 404
        head = client.request("HEAD", "/-/openapi.json")
    assert list(found.json()["paths"]) == ["/flowers/{id}"]
    assert head.headers["content-length"] == str(len(found.content))
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "connect-src 'self'" in page.headers["content-security-policy"]


def test_without_docs_there_is_nothing_to_read() -> None:
    """With ``docs=False`` both are as any path that is not there (TY8)."""

    async def look() -> None:
        async with edge(docs=False) as without, edge() as usual:
            for path in ("/-/openapi.json", "/-/docs"):
                for there, status in ((without, 404), (usual, 200)):
                    client = await there.client()
                    client.head(path, "GET")
                    await asyncio.sleep(SOON_S)
                    assert client.statuses == [status]

    run(look())


def test_docs_is_an_option() -> None:
    """``http_options={"docs": False}`` is taken, anything but a bool is not (IN3)."""
    assert serve.HTTPOptions(docs=False).docs is False
    with pytest.raises(ValueError, match="docs of HTTPOptions"):
        serve.HTTPOptions(docs="no")
