"""Typed callables over HTTP and through handles, on both engines."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import BaseModel

import pointsman as serve


class Flower(BaseModel):
    sepal: float


class Guess(BaseModel):
    label: str
    score: float


@dataclasses.dataclass
class Pot:
    size: int


class Iris:
    """Guesses which iris it is."""

    def __call__(self, flower: Flower, top: int = 3) -> Guess:
        return {"label": f"{type(flower).__name__} {top}", "score": flower.sepal, "secret": 1}  # type: ignore[return-value]

    def again(self, flower: Flower) -> bool:
        return type(flower) is Flower

    async def pot(self, pot: Pot, request: serve.Request) -> list[Any]:
        return [pot.size, request.headers.get("x-garden", "")]


class Plural:
    @serve.accept_batch
    def __call__(self, flowers: list[Flower]) -> list[float]:
        return [flower.sepal for flower in flowers]


class Outer:
    """Passes what it gets on to a typed backend."""

    def __init__(self, name: str) -> None:
        self.inner = serve.connect().get_handle(name)

    def __call__(self, request: Any) -> Any:
        if request.query_params.get("whole"):
            return self.inner.remote(request).result()
        return self.inner.remote(request.json()).result()


@pytest.fixture
def iris(shared: Callable[..., str], name: str) -> str:
    return shared(Iris, http_methods=("pot",))


def test_a_typed_model_over_http(iris: str, http: httpx.Client) -> None:
    """A body that fits is decoded, one that does not is a 422 with what is wrong (TY1, TY3, TY5)."""
    assert http.post(iris, json={"sepal": 1}, params={"top": 5}).json() == {"label": "Flower 5", "score": 1.0}
    response = http.post(iris, json={"sepal": "x"})
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", "sepal"]
    assert response.json()["error_id"] == response.headers["x-request-id"]
    assert "x-serve-backend" in response.headers
    assert http.post(iris, content=b"1", headers={"content-type": "text/plain"}).status_code == 415
    text = http.post(iris, json={}, headers={"accept": "text/plain"})
    assert (text.status_code, text.headers["content-type"]) == (422, "text/plain; charset=utf-8")
    packed = http.post(iris, json={"sepal": 1}, headers={"accept": "application/msgpack"})
    assert msgspec.msgpack.decode(packed.content) == {"label": "Flower 3", "score": 1.0}
    other = http.post(iris, json={"size": 2}, headers={"x-serve-call-method": "pot", "x-garden": "north"})
    assert other.json() == [2, "north"]


def size_of_one(first: serve.File, second: serve.File | None = None) -> list[Any]:
    return [first.size, second is None]


def test_files_through_a_handle(client: serve.Client, name: str) -> None:
    """What is passed by position is the first file alone (TY6)."""
    client.create_backend(name, size_of_one)
    client.create_endpoint(name, backend=name)
    try:
        handle = client.get_handle(name)
        assert handle.remote(b"12345").result() == [5, True]
        assert handle.remote(b"12345", second=b"").result() == [5, False]
        assert handle.remote(second=b"1", first=serve.File(b"12")).result() == [2, False]
    finally:
        client.delete_endpoint(name)
        client.delete_backend(name)


def test_a_typed_model_through_a_handle(iris: str, client: serve.Client, name: str) -> None:
    """An instance passes as it is, a dict or JSON is validated, and a misfit is my ValueError (TY6)."""
    handle = client.get_handle(name)
    answer = {"label": "Flower 3", "score": 1.0, "secret": 1}
    for flower in (Flower(sepal=1), {"sepal": 1}, b'{"sepal": 1}'):
        assert handle.remote(flower).result() == answer
    assert handle.remote(flower={"sepal": 1}, top=4).result()["label"] == "Flower 4"
    with pytest.raises(ValueError, match=r"does not fit: body\.sepal: Input should be a valid number"):
        handle.remote({"sepal": "x"}).result()
    with pytest.raises(ValueError, match=r"query\.top"):
        handle.remote({"sepal": 1}, top="x").result()
    with pytest.raises(ValueError, match=r"body: Input should be"):
        handle.remote().result()
    assert handle.options(method_name="again").remote({"sepal": 2}).result() is True


def test_batches_of_models(shared: Callable[..., str], http: httpx.Client, client: serve.Client, name: str) -> None:
    """A batching model gets models; what does not fit is refused alone (TY4, TY6)."""
    route = shared(Plural, max_batch_size=4)
    assert http.post(route, json={"sepal": 1}).json() == 1.0
    assert http.post(route, json={"sepal": "x"}).status_code == 422
    with pytest.raises(ValueError, match=r"body\.sepal"):
        client.get_handle(name).remote({"sepal": "x"}).result()


def test_a_request_that_is_passed_on(
    iris: str, client: serve.Client, http: httpx.Client, name: str, served: Callable[..., str]
) -> None:
    """A misfit inside is the client's mistake only where its request was passed on whole (TY3, TY6)."""
    outer = f"{name}-outer"
    client.create_backend(outer, Outer, name)
    client.create_endpoint(outer, backend=outer, route=f"/{outer}", methods=["POST"])
    try:
        assert http.post(f"/{outer}", json={"sepal": 1}).json()["score"] == 1.0
        assert http.post(f"/{outer}?whole=1", json={"sepal": 1}).json()["score"] == 1.0
        assert http.post(f"/{outer}?whole=1", json={"sepal": "x"}).status_code == 400
        assert http.post(f"/{outer}", json={"sepal": "x"}).status_code == 500
    finally:
        client.delete_endpoint(outer)
        client.delete_backend(outer, force=True)


def test_misfits_count_as_refused(iris: str, client: serve.Client, http: httpx.Client, name: str) -> None:
    """A misfit is no error of the backend (TY3)."""
    http.post(iris, json={"sepal": "x"})
    http.post(iris, content=b"1", headers={"content-type": "text/plain"})
    http.post(iris, json={"sepal": 1})
    stats = client.stats()["endpoints"][name]
    assert stats["http_outcomes"] == {"delivered": 1, "refused": 2, "failed": 0, "aborted": 0}


def test_the_document_is_current(iris: str, client: serve.Client, http: httpx.Client, name: str) -> None:
    """When a call returns, the document has its effect; and it is valid (TY7, CL4)."""
    found = http.get("/-/openapi.json").json()
    assert not list(OpenAPIV31SpecValidator(found).iter_errors())
    operation = found["paths"][iris]["post"]
    assert operation["summary"] == "Guesses which iris it is."
    assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].startswith("#/components/schemas/")
    client.create_endpoint(f"{name}2", backend=next(iter(operation["x-pointsman-backends"])), route=f"{iris}/2")
    assert f"{iris}/2" in http.get("/-/openapi.json").json()["paths"]
    client.delete_endpoint(f"{name}2")
    assert f"{iris}/2" not in http.get("/-/openapi.json").json()["paths"]
    assert "<!doctype html>" in http.get("/-/docs").text


def test_signatures_that_cannot_work_change_nothing(client: serve.Client, name: str) -> None:
    """A parameter that can get nothing is refused before anything is registered (TY1, CB2)."""

    def model(flower: Flower, other: Pot) -> None: ...

    with pytest.raises(TypeError, match="takes flower, other from it"):
        client.create_backend(name, model)
    assert name not in client.list_backends()
