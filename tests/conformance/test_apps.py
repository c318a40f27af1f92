"""The tests of an app pass against bare uvicorn and against the app mounted here: what works there works here."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import pointsman as serve
from tests.conformance.shop import FILE, make
from tests.conftest import wait_until

SERVERS = ("uvicorn", "mounted", "mounted by value")
_numbers = itertools.count(1)


@contextlib.contextmanager
def bare_uvicorn() -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(make(), port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, what="the start of uvicorn")
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@contextlib.contextmanager
def mounted(client: serve.Client, app: Any) -> Iterator[str]:
    name = f"shop{next(_numbers)}"
    client.create_backend(name, serve.asgi(app))
    client.create_endpoint(name, backend=name, route=f"/{name}")
    yield f"{client.http_address}/{name}"
    client.delete_endpoint(name)
    client.delete_backend(name, force=True)


@pytest.fixture(scope="module", params=SERVERS)
def base(request: pytest.FixtureRequest, client: serve.Client, engine: str) -> Iterator[str]:
    """Where the app is."""
    if request.param == "uvicorn":
        if engine != "local":
            pytest.skip("uvicorn needs no engine")
        with bare_uvicorn() as address:
            yield address
    elif request.param == "mounted":
        with mounted(client, "tests.conformance.shop:make") as address:
            yield address
    else:
        with mounted(client, make()) as address:
            yield address


@pytest.fixture(scope="module")
def shop(base: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=base, timeout=30) as http:
        yield http


@pytest.fixture
def socket(base: str) -> Any:
    def to(path: str, **more: Any) -> ClientConnection:
        return connect(base.replace("http", "ws", 1) + path, compression=None, max_size=None, **more)

    return to


def test_items(shop: httpx.Client, base: str) -> None:
    """A life of an item: made, found where the answer says, changed, listed, dropped (AP2, AP11)."""
    made = shop.post("/items/", json={"name": "pen", "price": 2.5})
    assert made.status_code == 201
    assert made.headers["location"] == f"{base}/items/{made.json()['number']}"
    assert shop.get(made.headers["location"]).json() == {"name": "pen", "price": 2.5, "tags": []}
    number = made.json()["number"]
    assert shop.put(f"/items/{number}", json={"name": "pen", "price": 3, "tags": ["a"]}).json()["tags"] == ["a"]
    assert shop.get("/items/", params={"limit": 1}).json() == [{"name": "pen", "price": 3.0, "tags": ["a"]}]
    gone = shop.delete(f"/items/{number}")
    assert (gone.status_code, gone.content) == (204, b"")
    missing = shop.get(f"/items/{number}")
    assert (missing.status_code, missing.headers["x-why"]) == (404, "unknown")


def test_validation_is_the_frameworks(shop: httpx.Client) -> None:
    """A misfit is a 422 of FastAPI's, in body, path, query and header (AP11)."""
    assert shop.post("/items/", json={"name": "", "price": -1}).status_code == 422
    broken = shop.post("/items/", content=b"{", headers={"content-type": "application/json"})
    assert broken.json()["detail"][0]["type"] == "json_invalid"
    assert shop.get("/items/x").status_code == 422
    assert shop.get("/items/", params={"limit": "x"}).status_code == 422
    assert shop.get("/headers").json()["detail"][0]["loc"] == ["header", "x-token"]


def test_a_missing_slash_is_redirected(shop: httpx.Client, base: str) -> None:
    """The framework's redirects lead to where the app is (AP2)."""
    redirected = shop.get("/items")
    assert (redirected.status_code, redirected.headers["location"]) == (307, f"{base}/items/")
    assert shop.get("/old").headers["location"] == f"{base}/"
    assert shop.get("/old", follow_redirects=True).text == "<h1>Shop</h1>"


def test_the_documentation_page(shop: httpx.Client, base: str) -> None:
    """`/docs` and `/openapi.json` are there, and know where the app is (AP2)."""
    prefix = base.split("/", 3)[3] if base.count("/") > 2 else ""
    page = shop.get("/docs")
    assert page.status_code == 200
    assert f"{'/' + prefix if prefix else ''}/openapi.json" in page.text
    document = shop.get("/openapi.json").json()
    assert "/items/{number}" in document["paths"]
    assert document.get("servers", []) == ([{"url": f"/{prefix}"}] if prefix else [])


def test_a_mounted_app_within_the_app(shop: httpx.Client, base: str) -> None:
    """An app within the app has both prefixes (AP2)."""
    there = shop.get("/inner/where").json()
    assert there["url"] == f"{base}/inner/where"
    assert there["root"].endswith("/inner")


def test_the_state_of_the_lifespan(shop: httpx.Client) -> None:
    """Startup has run before the first request, and its state is in each (AP5)."""
    assert shop.get("/state").json() == {"started": True, "client": True}


def test_headers_and_cookies(shop: httpx.Client) -> None:
    """Repeated headers arrive, and two cookies are set (AP11)."""
    many = shop.get("/headers", headers=[("x-token", "t"), ("x-many", "a"), ("x-many", "b")])
    assert many.json() == {"token": "t", "many": ["a", "b"]}
    first = shop.get("/cookies")
    assert len(first.headers.get_list("set-cookie")) == 2
    assert shop.get("/cookies").json() == {"seen": "yes"}
    shop.cookies.clear()


def test_statuses_and_errors(shop: httpx.Client) -> None:
    """Statuses, a handler of the app's own exception, and an error that nobody handles (AP11)."""
    teapot = shop.get("/teapot")
    assert (teapot.status_code, teapot.text, teapot.headers["x-kind"]) == (418, "short and stout", "teapot")
    assert (shop.get("/stock").status_code, shop.get("/stock").json()) == (409, {"stock": 0})
    broken = shop.get("/broken", headers={"connection": "close"})  # which uvicorn does anyway
    assert (broken.status_code, broken.text) == (500, "Internal Server Error")
    assert shop.get("/nowhere").json() == {"detail": "Not Found"}
    assert shop.post("/teapot").status_code == 405


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_all_methods_arrive(shop: httpx.Client, method: str) -> None:
    """The app decides about methods (AP1)."""
    assert shop.request(method, "/any").json() == method
    assert shop.request("PURGE", "/any").status_code == 405


def test_heads_have_no_body(shop: httpx.Client) -> None:
    """HEAD: the length is that of the body which is left out (AP11)."""
    answer = shop.head("/only-head")
    assert (answer.status_code, answer.headers["content-length"], answer.headers["x-size"]) == (200, "12", "12")
    assert answer.content == b""
    assert shop.head("/file").status_code in (200, 405)


def test_a_not_modified_answer(shop: httpx.Client) -> None:
    """ETag and 304 (AP11)."""
    etag = shop.get("/cached").headers["etag"]
    again = shop.get("/cached", headers={"if-none-match": etag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert shop.get("/cached").text == "content"  # the connection goes on


def test_work_behind_an_answer(shop: httpx.Client) -> None:
    """Background tasks run (AP9)."""
    before = shop.get("/noted").json()
    assert wait_until(lambda: shop.get("/noted").json() > before) is True


@pytest.mark.parametrize("raw", ["a/b", "a%20b", "a%2Fb", "%E2%82%AC", "a+b?x=1&y=%26"])
def test_paths_and_queries(shop: httpx.Client, raw: str) -> None:
    """The path arrives decoded once, the query as it was (AP2)."""
    seen = shop.get(f"/path/{raw}").json()
    path, _, query = raw.partition("?")
    decoded = {"a%20b": "a b", "a%2Fb": "a/b", "%E2%82%AC": "€"}.get(path, path)
    assert seen == {"rest": decoded, "query": query, "scheme": "http"}


def test_a_dependency_that_yields(shop: httpx.Client) -> None:
    """Dependencies with an end of their own work (AP11)."""
    assert shop.get("/depends").json() == "open"


def test_forms_and_uploads(shop: httpx.Client) -> None:
    """Forms, multipart with a file of some megabytes, and a chunked body are read by the app (AP6, AP11)."""
    assert shop.post("/form", data={"name": "ä", "age": "3"}).json() == {"name": "ä", "age": 3}
    upload = shop.post("/upload", files={"file": ("f.bin", b"x" * 3_000_000, "image/png")}, data={"note": "n"})
    assert upload.json() == {"name": "f.bin", "size": 3_000_000, "type": "image/png", "note": "n"}
    assert shop.post("/count", content=b"x" * 5_000_000).json() == {"size": 5_000_000}
    assert shop.post("/count", content=(b"y" * 1000 for _ in range(500))).json() == {"size": 500_000}
    assert shop.post("/count").json() == {"size": 0}
    body = bytes(range(256)) * 100
    assert shop.post("/echo", content=body, headers={"content-type": "a/b"}).content == body


def test_a_body_that_nobody_reads(shop: httpx.Client) -> None:
    """The app refuses a large body without reading it: its answer arrives (AP6)."""
    with contextlib.suppress(httpx.WriteError, httpx.ReadError):  # its connection may be closed under the client
        assert shop.post("/refuse", content=b"x" * 20_000_000).status_code == 413
    assert shop.get("/").status_code == 200


def test_files_and_ranges(shop: httpx.Client) -> None:
    """A file, whole and in part, with its name (AP11)."""
    whole = shop.get("/file")
    assert whole.content == FILE
    assert "shop.bin" in whole.headers["content-disposition"]
    part = shop.get("/file", headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, FILE[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(FILE)}"
    assert shop.get("/file", headers={"range": "bytes=999999-"}).status_code == 416


def test_streams(shop: httpx.Client) -> None:
    """Answers stream, of sync and async generators, with a content type of their own (AP7)."""
    assert shop.get("/lines", params={"count": 3}).text == "line 0\nline 1\nline 2\n"
    events = shop.get("/events")
    assert events.headers["content-type"].startswith("text/event-stream")
    assert [json.loads(line[6:])["number"] for line in events.text.split("\n\n") if line] == [0, 1, 2]
    assert len(shop.get("/big").content) == 4_000_000


def test_middlewares_of_the_app(shop: httpx.Client) -> None:
    """CORS and compression of the app work (AP11)."""
    origin = {"origin": "https://shop.example"}
    preflight = shop.options("/items/", headers={**origin, "access-control-request-method": "POST"})
    assert preflight.headers["access-control-allow-origin"] == "https://shop.example"
    assert shop.get("/", headers=origin).headers["access-control-allow-origin"] == "https://shop.example"
    packed = shop.get("/lines", params={"count": 2000}, headers={"accept-encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.text.endswith("line 1999\n")


def test_sockets_echo(socket: Any) -> None:
    """Text, bytes, fragments and a large message come back (WS1)."""
    with socket("/ws/echo") as there:
        for message in ("grüße", b"\x00\x01", "", b"", b"x" * 2_000_000):
            there.send(message)
            assert there.recv(timeout=30) == message
        there.send(["a", "b", "c"])
        assert there.recv(timeout=30) == "abc"
        pong = there.ping()
        assert pong.wait(30)


def test_sockets_have_parameters_headers_and_a_reason(socket: Any) -> None:
    """Path, query and headers of a handshake, headers of its answer, code and reason of the close (WS1)."""
    with socket("/ws/rooms/red?q=3", additional_headers={"x-name": "me"}) as there:
        assert there.response.headers["x-room"] == "red"
        assert json.loads(there.recv(timeout=30)) == {"room": "red", "q": 3, "name": "me", "items": True}
        with pytest.raises(ConnectionClosed) as closed:
            there.recv(timeout=30)
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4000, "done")  # type: ignore[union-attr]


def test_sockets_have_subprotocols(socket: Any) -> None:
    """The app chooses a subprotocol of those that are offered (WS1)."""
    with socket("/ws/chat", subprotocols=["chat.v1", "chat.v2"]) as there:
        assert there.subprotocol == "chat.v2"
        there.send('{"a": 1}')
        assert json.loads(there.recv(timeout=30)) == {"said": {"a": 1}}


@pytest.mark.parametrize(("path", "status"), [("/ws/private", 403), ("/ws/rooms/red?q=x", 403), ("/ws/nowhere", 403)])
def test_sockets_can_be_refused(socket: Any, path: str, status: int) -> None:
    """A handshake that the framework does not accept is a 403 (WS1)."""
    with pytest.raises(InvalidStatus) as refused:
        socket(path)
    assert refused.value.response.status_code == status


def test_sockets_can_be_denied_with_an_answer(socket: Any) -> None:
    """A denial response arrives with status, headers and body (WS1)."""
    with pytest.raises(InvalidStatus) as denied:
        socket("/ws/denied")
    response = denied.value.response
    assert (response.status_code, response.headers["x-why"], response.body) == (402, "closed", b'{"why":"closed"}')


def test_sockets_are_pushed_to(socket: Any) -> None:
    """Many messages arrive in order, and the close behind them (WS1)."""
    with socket("/ws/push?count=500") as there:
        assert [message[0] for message in there] == [number % 256 for number in range(500)]


def test_an_app_that_fails_closes_its_socket(socket: Any) -> None:
    """An app that raises: its socket is closed, here with 1011, where uvicorn cuts the connection (WS1)."""
    with socket("/ws/fails") as there:
        there.send("x")
        with pytest.raises(ConnectionClosed) as closed:
            there.recv(timeout=30)
    assert closed.value.rcvd is None or closed.value.rcvd.code == 1011
