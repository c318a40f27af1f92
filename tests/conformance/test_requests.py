"""What user code receives, over HTTP and through handles."""

from __future__ import annotations

from http.client import HTTPConnection
from typing import Any

import numpy as np
import pytest

import pointsman as serve
from pointsman.exceptions import ServeException
from tests.conftest import WAIT_S

LIMIT = 64 * 1024 * 1024
"""On the body, where nothing else is said."""


def describe(request: Any) -> dict[str, Any]:
    return {
        "kind": type(request).__name__,
        "method": request.method,
        "query": dict(request.query_params),
        "header": request.headers.get("X-Test"),
        "path": request.url.path,
        "params": request.path_params,
    }


async def describe_async(request: Any) -> dict[str, Any]:
    return {**describe(request), "json": await request.json()}


def test_def_gets_values(served, http):
    """A plain function reads the body without await (RQ1, RQ2)."""

    def echo(request):
        return {**describe(request), "json": request.json(), "body": len(request.body())}

    answer = http.post(served(echo), params={"a": "1"}, headers={"x-test": "yes"}, json={"k": [1]}).json()
    assert answer["kind"] == "Request"
    assert answer["json"] == {"k": [1]}
    assert answer["query"] == {"a": "1"}
    assert answer["header"] == "yes"
    assert answer["method"] == "POST"


def test_async_def_gets_starlette(served, http):
    """An async function gets Starlette's own request (RQ1, RQ3)."""
    answer = http.post(served(describe_async), json=[1, 2]).json()
    assert answer["kind"] == "Request"
    assert answer["json"] == [1, 2]


def test_form(served, http):
    """A form arrives parsed, urlencoded or multipart (RQ1)."""

    def fields(request):
        form = request.form()
        upload = form.get("file")
        return {"name": form["name"], "file": upload.file.read() if upload else None}

    route = served(fields)
    assert http.post(route, data={"name": "x y"}).json() == {"name": "x y", "file": None}
    answer = http.post(route, data={"name": "z"}, files={"file": ("f.txt", b"content")}).json()
    assert answer == {"name": "z", "file": "content"}


def echo(request):
    return request.body()


@pytest.mark.parametrize("size", [0, 1, 640 * 1024, 64 * 1024 * 1024])
def test_body_echoes_intact(shared, http, size):
    """A body comes back byte for byte, up to the limit; one byte more is a 413 (HT11, RQ9)."""

    route, body = shared(echo), np.random.default_rng(size).bytes(size)
    assert http.post(route, content=body).content == body
    if size == LIMIT:
        connection = HTTPConnection(http.base_url.host, http.base_url.port, timeout=WAIT_S)
        connection.putrequest("POST", route)
        connection.putheader("content-length", str(size + 1))
        connection.endheaders()
        assert connection.getresponse().status == 413
        connection.close()


def test_chunked_body_is_complete(shared, http):
    """A body without a length is complete before the callable runs (RQ9)."""

    parts = [b"a" * 1000, b"b" * 70000, b"c"]
    assert http.post(shared(echo), content=iter(parts)).content == b"".join(parts)


def test_no_argument(served, http):
    """A callable that takes no argument is called without one (RQ6)."""

    def nothing():
        return "none needed"

    assert http.get(served(nothing)).text == "none needed"


class Methods:
    calls = 0

    def __call__(self, request):
        return "call"

    def other(self, request):
        return "other"

    async def slow(self, request):
        return "async " + (await request.body()).decode()

    def no_argument(self):
        return "bare"

    def _private(self, request):
        return "private"

    def reconfigure(self, config):
        raise AssertionError("called from outside")

    def close(self):
        pass


def test_call_method(served, http, client, name):
    """A header or option picks the class's method (RQ7, HT8)."""
    route = served(Methods, config={"http_methods": ["other", "slow", "no_argument"]})
    assert http.get(route).text == "call"
    assert http.get(route, headers={"X-SERVE-CALL-METHOD": "other"}).text == "other"
    assert http.post(route, headers={"X-SERVE-CALL-METHOD": "slow"}, content=b"x").text == "async x"
    assert http.get(route, headers={"X-SERVE-CALL-METHOD": "no_argument"}).text == "bare"
    assert client.get_handle(name).options(method_name="other").remote().result() == "other"


@pytest.mark.parametrize("method", ["missing", "_private", "__init__", "__class__", "reconfigure", "close"])
def test_closed_methods(shared, http, client, name, method):
    """Names that are missing, private or ours are refused, and nothing of them is called (RQ7)."""
    route = shared(Methods, http_methods="*")
    answer = http.get(route, headers={"X-SERVE-CALL-METHOD": method})
    assert answer.status_code == 400
    assert answer.json()["error_id"]
    with pytest.raises(ServeException, match=method):
        client.get_handle(name).options(method_name=method).remote().result()
    assert http.get(route).text == "call"


def test_functions_ignore_the_method_choice(served, http):
    """A function backend has one way in (RQ8)."""

    def only(request):
        return "only"

    assert http.get(served(only), headers={"X-SERVE-CALL-METHOD": "other"}).text == "only"


def test_handle_request(served, client, name):
    """Through a handle the body is the very object, and keyword arguments keep their types (RQ3, RQ4, LC4)."""

    def look(request):
        body = request.body()
        return {
            "type": type(body).__name__,
            "sum": float(body.sum()),
            "dtype": str(body.dtype),
            "q": request.query_params["q"],
            "list": request.query_params.getlist("q"),
            "method": request.method,
            "url": str(request.url),
            "header": request.headers["x-a"],
        }

    served(look)
    handle = client.get_handle(name).options(http_headers={"X-A": "b"}, http_method="PUT")
    answer = handle.remote(np.arange(4, dtype="float32"), q=2.5).result()
    assert answer == {
        "type": "ndarray",
        "sum": 6.0,
        "dtype": "float32",
        "q": 2.5,
        "list": [2.5],
        "method": "PUT",
        "url": f"serve:///{name}",
        "header": "b",
    }


@pytest.mark.parametrize("is_async", [False, True])
def test_requests_of_handles_by_their_old_name(client, http, name, is_async):
    """Code of 1.x tells handle calls from HTTP requests by their type, in both kinds of callables; the URL of an
    endpoint with a slash in its name has one segment (RQ3, CL1)."""

    def look(request):
        return [isinstance(request, serve.utils.ServeRequest), str(request.url)]

    async def look_async(request):
        return look(request)

    slashed = f"/{name}/x"
    client.create_backend(slashed, look_async if is_async else look)
    client.create_endpoint(slashed, backend=slashed, route=f"/{name}")
    assert client.get_handle(slashed).remote(1).result() == [True, f"serve:///%2F{name}%2Fx"]
    answer = http.get(f"/{name}")
    assert answer.json()[0] is False
    assert answer.headers["x-serve-backend"] == f"%2F{name}%2Fx"
    client.delete_endpoint(slashed)
    client.delete_backend(slashed)


async def json_of(request):
    return await request.json()


@pytest.mark.parametrize("data", [{"a": 1}, [1], "text", 3, 2.5, True, None, b'{"a": 1}'])
def test_handle_json(shared, client, name, data):
    """json() of a handle call gives plain values as they are and parses bytes (RQ3)."""

    shared(json_of)
    expected = {"a": 1} if isinstance(data, bytes) else data
    assert client.get_handle(name).remote(data).result() == expected


def test_handle_json_of_other_objects(served, client, name):
    """json() of something without a JSON form is an error that names the type (RQ3)."""

    def value(request):
        return request.json()

    served(value)
    with pytest.raises(ServeException, match="complex"):
        client.get_handle(name).remote(1j).result()


def test_tags_inside(served, http, client, name):
    """User code knows its backend and replica, already in its constructor (IN13)."""

    class Tagged:
        def __init__(self):
            self.tags = [serve.get_current_backend_tag(), serve.get_current_replica_tag()]

        def __call__(self, request):
            return self.tags

    backend, replica = http.get(served(Tagged)).json()
    assert backend == name
    prefix, letters = replica.rsplit("#", 1)
    assert prefix == name
    assert len(letters) == 6
    assert letters.isalpha()


@pytest.mark.parametrize("function", [serve.get_current_backend_tag, serve.get_current_replica_tag])
def test_tags_outside(function):
    """Outside a backend the tags are an error (IN13)."""
    with pytest.raises(ServeException, match="inside a backend"):
        function()
