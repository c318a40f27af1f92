"""pointsman.testing.TestClient and serve.Request.of, as a user's own tests use them."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

import pointsman as serve
from pointsman.testing import TestClient
from tests.conftest import family


def greet(request: Any) -> str:
    return "x"


class TooSad(Exception):
    pass


class Greeter:
    """Greets, and notes what it does in a list that a test has given it."""

    def __init__(self, greeting: str, journal: list[str]) -> None:
        if not greeting:
            raise TooSad("no greeting")
        self.greeting, self.journal = greeting, journal

    def __call__(self, request: serve.Request) -> Any:
        if request.json()["name"] == "nobody":
            raise TooSad("nobody is here")
        self.journal.append("called")
        return {"text": f"{self.greeting}, {request.json()['name']}!", "by": serve.get_current_backend_tag()}

    def shout(self, request: serve.Request) -> str:
        return f"{self.greeting.upper()} {request.query_params.getlist('to')}"

    def reconfigure(self, config: dict[str, str]) -> None:
        self.greeting = config["greeting"]

    def close(self) -> None:
        self.journal.append("closed")


def test_a_model_is_served_in_this_process() -> None:
    """The very list that I gave the constructor is filled, no process is started, and ``close`` is called."""
    journal: list[str] = []
    with TestClient(Greeter, "Hello", journal) as client:
        response = client.post("/", json={"name": "Ada"})
        assert response.status_code == 200
        assert response.json() == {"text": "Hello, Ada!", "by": "model"}
        assert response.headers["X-Serve-Backend"] == "model"
        assert journal == ["called"]
        assert not family()
    assert journal == ["called", "closed"]


def test_exceptions_are_those_of_the_model() -> None:
    """What the model raises is raised in my test, its constructor's errors too; or it is a 500, if I ask for that."""
    with TestClient(Greeter, "Hello", []) as client, pytest.raises(TooSad, match="nobody is here"):
        client.post(json={"name": "nobody"})
    with TestClient(Greeter, "Hello", [], raise_server_exceptions=False) as client:
        response = client.post(json={"name": "nobody"})
        assert (response.status_code, response.json()["reason"]) == (500, "user_code")
        assert client.post(content=b"{").status_code == 400
    with pytest.raises(TooSad, match="no greeting"):
        TestClient(Greeter, "", [])


def test_config_holds() -> None:
    """``user_config`` is given to ``reconfigure``, and ``http_methods`` opens methods."""
    config = {"user_config": {"greeting": "Good day"}, "http_methods": ["shout"]}
    with TestClient(Greeter, "Hello", [], config=config) as client:
        assert client.post(json={"name": "Ada"}).json()["text"] == "Good day, Ada!"
        headers = {"X-SERVE-CALL-METHOD": "shout"}
        assert client.get(params={"to": ["a", "b"]}, headers=headers).text == "GOOD DAY ['a', 'b']"
    with pytest.raises(ValueError, match="BackendConfig has no field 'max_batch'"):
        TestClient(Greeter, "Hello", [], config={"max_batch": 1})
    with pytest.raises(TypeError, match="a backend is a plain function or a class"):
        TestClient(3)


def test_routes_and_methods() -> None:
    """Templates, paths that are not served and methods that are not allowed are as in an instance."""

    def model(request: serve.Request) -> Any:
        return [request.method, request.path_params, request.url.path]

    with TestClient(model, route="/flowers/{name}", methods=["GET", "PUT"]) as client:
        assert client.get("/flowers/red%20rose?x=1").json() == ["GET", {"name": "red rose"}, "/flowers/red rose"]
        assert client.put("/flowers/a").json()[0] == "PUT"
        assert client.patch("/flowers/a").status_code == 405
        assert client.delete("/").status_code == 404
        assert client.get("/-/routes").json() == {"/flowers/{name}": ["model", ["GET", "PUT"]]}
        assert client.request("HEAD", "/flowers/a").content == b""


def test_forms_and_files() -> None:
    """Forms and files arrive as a browser sends them."""

    def model(request: serve.Request) -> Any:
        with request.form() as form:
            return {name: value if isinstance(value, str) else value.read().decode() for name, value in form.items()}

    files = {"a": b"1", "b": io.BytesIO(b"2"), "c": ("c.txt", "3", "text/plain")}
    with TestClient(model) as client:
        assert client.post(data={"x": 1}, files=files).json() == {"x": "1", "a": "1", "b": "2", "c": "3"}
        assert client.post(data={"x": "y z"}).json() == {"x": "y z"}


def test_calls_of_several_threads_share_a_batch() -> None:
    """Three threads call at a time, and their requests come as one list."""
    sizes = []

    @serve.accept_batch
    def model(requests: list[Any]) -> list[int]:
        sizes.append(len(requests))
        return [len(request.body()) for request in requests]

    config = {"max_batch_size": 3, "batch_wait_timeout": 60}
    with TestClient(model, config=config) as client, ThreadPoolExecutor(3) as pool:
        answers = pool.map(lambda body: client.post(content=body).json(), ["a", "bb", "ccc"])
        assert list(answers) == [1, 2, 3]
    assert sizes == [3]


def test_streams() -> None:
    """A stream's parts are there; one that breaks raises what the model raised."""

    async def model(request: Any) -> Any:
        yield "a"
        yield "b"
        if request.query_params.get("breaks"):
            raise TooSad("midway")

    with TestClient(model) as client:
        assert client.get().chunks == [b"a", b"b"]
        with pytest.raises(TooSad, match="midway"):
            client.get("/?breaks=1")
    with TestClient(model, raise_server_exceptions=False) as client, pytest.raises(ConnectionError, match="broke off"):
        client.get("/?breaks=1")


def test_a_client_that_was_forgotten_is_collected() -> None:
    """A client that nobody closes leaves no thread behind once it is gone."""
    before = set(threading.enumerate())
    client = TestClient(greet)
    assert client.get().text == "x"
    (thread,) = (t for t in set(threading.enumerate()) - before if t.name == "pointsman-test-client")
    del client
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_a_request_for_unit_tests() -> None:
    """I call my model's methods without any server, with a request that I have made."""
    request = serve.Request.of(json={"name": "Ada"}, headers={"X-Garden": "north"}, query={"to": ["a", "b"]})
    assert request.method == "POST"
    assert request.headers["x-garden"] == "north"
    assert request.query_params.getlist("to") == ["a", "b"]
    assert Greeter("Hello", []).shout(request) == "HELLO ['a', 'b']"
    uploaded = serve.Request.of(files={"image": ("a.png", b"data")}, data={"x": 1}, path="/up", path_params={"i": "1"})
    with uploaded.form() as form:
        assert (form["image"].filename, form["image"].read(), form["x"]) == ("a.png", b"data", "1")
    assert (uploaded.url.path, uploaded.path_params) == ("/up", {"i": "1"})
    assert serve.Request.of(body="x").body() == b"x"
    assert serve.Request.of().method == "GET"


def test_apps_have_clients_of_their_own() -> None:
    """I am told what to test an ASGI app with."""
    with pytest.raises(TypeError, match="test the app itself"):
        TestClient(serve.asgi(lambda: None))


def test_odd_names_and_values_are_sent_as_by_httpx() -> None:
    """Quotes and line ends in names of files stay in their place; truth values, None and bytes are as in httpx."""
    odd = 'a"b\r\nX-Forged: 1.png'
    sent = {"files": {'i"m': (odd, b"data")}, "data": {"on": True, "none": None, "raw": b"\xc3\xa9", "n": 1}}
    ours, theirs = serve.Request.of(**sent), httpx.Request("POST", "http://x", **sent)
    theirs.read()
    there = serve.Request.of(body=theirs.content, headers=dict(theirs.headers))
    with ours.form() as form, there.form() as other:
        assert list(form) == list(other)
        assert form["i%22m"].filename == other["i%22m"].filename == "a%22b%0D%0AX-Forged: 1.png"
        for read in (form, other):
            assert [read[name] for name in sent["data"]] == ["true", "", "é", "1"]
    values = {"on": [True, False], "none": None, "n": 1, "x": 0.5}
    assert serve.Request.of(query=values).scope["query_string"] == httpx.URL("http://x", params=values).query
    plain = serve.Request.of(data=values)
    assert plain.body() == httpx.Request("POST", "http://x", data=values).content


def test_a_request_for_async_code() -> None:
    """``sync=False`` gives what an ``async def`` gets: Starlette's."""

    async def model(request: Any) -> Any:
        return [await request.json(), request.query_params["q"]]

    assert asyncio.run(model(serve.Request.of(json=[1], query={"q": 2}, sync=False))) == [[1], "2"]


def test_files_for_unit_tests() -> None:
    """A typed callable is called with a file that I have made."""
    file = serve.File(b"abc", "a.txt", "text/plain")
    assert (file.read(1), file.read(), file.size) == (b"a", b"bc", 3)
    assert file.seek(0) == 0
    assert file.file.read() == b"abc"
    assert os.path.basename(file.filename) == "a.txt"
    assert repr(file) == "<File 'a.txt', 3 bytes>"
