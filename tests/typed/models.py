"""What a type checker makes of typed models and of the client for tests. Checked, never run."""

from __future__ import annotations

import dataclasses
from typing import Any

from starlette.datastructures import Headers
from typing_extensions import assert_type

import pointsman as serve
from pointsman.testing import TestClient, TestResponse


@dataclasses.dataclass
class Flower:
    sepal: float


class Iris:
    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, flower: Flower, request: serve.Request, top: int = 3) -> list[float]:
        return [flower.sepal * self.scale] * top


@serve.accept_batch
def batch(flowers: list[Flower]) -> list[float]:
    return [flower.sepal for flower in flowers]


def upload(image: serve.File) -> int:
    assert_type(image.read(), bytes)
    assert_type(image.data, bytes)
    assert_type(image.filename, str)
    return image.size


client = TestClient(Iris, 2.0, config=serve.BackendConfig(max_queued_queries=1), methods=["POST"])
assert_type(client.post("/", json={"sepal": 1.0}, headers={"x": "y"}), TestResponse)
assert_type(client.request("POST", "/", files={"image": b"1"}, params={"top": 1}), TestResponse)
with TestClient(batch, config={"max_batch_size": 2}) as other:
    response = other.get()
    assert_type(response.status_code, int)
    assert_type(response.headers, Headers)
    assert_type(response.content, bytes)
    assert_type(response.text, str)
    assert_type(response.chunks, list[bytes])
    assert_type(response.json(), Any)

request: serve.Request = serve.Request.of(json={"name": "Ada"}, query={"q": 1}, headers={"x": "y"}, path="/p")
upload(serve.File(b"1", "a.png", "image/png"))
serve.HTTPOptions(docs=False)

# What must not pass: each of these has to be an error, or the comment on it is one.
client.request("POST", "/", body=b"1")  # type: ignore[call-arg]
serve.Request.of({"name": "Ada"})  # type: ignore[call-arg]
serve.File("text")  # type: ignore[arg-type]
TestClient(Iris, raise_server_exceptions="no")  # type: ignore[arg-type]
