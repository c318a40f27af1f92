"""ASGI apps as backends: how they are given, where their routes are, how they start and end, and what they share with
other backends."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, WebSocket
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

import pointsman as serve
from pointsman.exceptions import BackendStartError, ServeException
from tests.conftest import wait_until

Mount = Callable[..., str]


@pytest.fixture
def mount(client: serve.Client, name: str) -> Iterator[Mount]:
    """Serves an app under a prefix of its own, which it returns; takes it down afterwards."""

    def serve_it(app: Any, *init_args: Any, **config: Any) -> str:
        client.create_backend(name, app, *init_args, config=config)
        client.create_endpoint(name, backend=name, route=f"/{name}")
        return f"/{name}"

    yield serve_it
    client.delete_endpoint(name)
    client.delete_backend(name, force=True)


def socket_to(client: serve.Client, path: str) -> ClientConnection:
    assert client.http_address is not None
    return connect(client.http_address.replace("http", "ws", 1) + path, compression=None)


def small(text: str = "small") -> FastAPI:
    app = FastAPI()

    @app.get("/text")
    def answer() -> str:
        return text

    @app.get("/pid")
    def pid() -> int:
        return os.getpid()

    @app.websocket("/socket")
    async def socket(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(text)
        async for message in socket.iter_text():
            if message == "die":
                os._exit(1)
            await socket.send_text(message)

    return app


# --- how an app is given ----------------------------------------------------------------------------------------------


def test_a_class_has_an_app(client: serve.Client, http: httpx.Client, mount: Mount, name: str) -> None:
    """FastAPI's routes are methods of a class with init args and a `reconfigure`; its other methods are called by
    handle, and the handle's default call is refused (AP4)."""
    app = FastAPI()

    @serve.ingress(app)
    class Counter:
        def __init__(self, start: int) -> None:
            self.count = start
            self.step = 1

        def reconfigure(self, config: dict[str, int]) -> None:
            self.step = config["step"]

        @app.post("/add/{times}")
        def add(self, times: int, twice: bool = False) -> dict[str, int]:
            self.count += times * self.step * (1 + twice)
            return {"count": self.count}

        @app.websocket("/watch")
        async def watch(self, socket: WebSocket) -> None:
            await socket.accept()
            await socket.send_text(str(self.count))
            await socket.close()

        def read(self, request: Any) -> int:
            return self.count

    route = mount(Counter, 10, user_config={"step": 5})
    assert http.post(f"{route}/add/2").json() == {"count": 20}
    assert http.post(f"{route}/add/1", params={"twice": True}).json() == {"count": 30}
    assert http.post(f"{route}/add/x").status_code == 422
    told = http.get(f"{route}/openapi.json").json()["paths"]["/add/{times}"]["post"]["parameters"]
    assert [parameter["name"] for parameter in told] == ["times", "twice"]
    with socket_to(client, f"{route}/watch") as socket:
        assert socket.recv(timeout=30) == "30"
    handle = client.get_handle(name)
    assert serve.get(handle.options(method_name="read").remote()) == 30
    with pytest.raises(ServeException, match="ASGI app"):
        serve.get(handle.remote())


def test_an_app_is_made_in_the_replica(http: httpx.Client, mount: Mount) -> None:
    """A function without parameters makes the app; for a class one that takes its object (AP3)."""

    def make(model: Any) -> FastAPI:
        app = small(model.text)
        app.state.lock = threading.RLock()
        return app

    @serve.asgi(make)
    class Model:
        def __init__(self) -> None:
            self.text = "of the object"

    assert http.get(f"{mount(Model)}/text").json() == "of the object"


def test_an_app_is_shipped_with_what_it_holds(http: httpx.Client, mount: Mount) -> None:
    """An app of the script, with locks in it, arrives; its locks are free (AP3)."""
    app = small()
    app.state.lock, app.state.reentrant = threading.Lock(), threading.RLock()
    app.state.lock.acquire()

    @app.get("/free")
    def free() -> bool:
        free_one: bool = app.state.lock.acquire(blocking=False)
        return free_one

    assert http.get(f"{mount(serve.asgi(app))}/free").json() is True


def test_what_is_no_app_is_refused(client: serve.Client, name: str) -> None:
    """What cannot be an app, or cannot be shipped, is a TypeError that says what would be right (AP3)."""
    for wrong in (3, FastAPI, "module", lambda a, b: None):
        with pytest.raises(TypeError):
            serve.asgi(wrong)
    app = small()
    app.state.values = (number for number in ())
    with pytest.raises(TypeError, match="function that makes the app"):
        client.create_backend(name, serve.asgi(app))
    with pytest.raises(TypeError, match="decorate a class"):
        client.create_backend(name, serve.asgi(lambda model: small()))
    with pytest.raises(BackendStartError, match="nothing_there"):
        client.create_backend(name, serve.asgi("tests.conformance.shop:nothing_there"))


# --- routes and surfaces ----------------------------------------------------------------------------------------------


def test_routes_beside_a_prefix(client: serve.Client, http: httpx.Client, mount: Mount, name: str) -> None:
    """Below an app's prefix an exact route and a template win; of two prefixes the longer one; `methods` is refused,
    and the list of routes says that the app takes all (AP1)."""
    route = mount(serve.asgi(small("outer")))
    others = {"exact": f"{route}/text/exact", "template": f"{route}/x/{{rest:path}}", "inner": f"{route}/inner"}
    try:
        for kind, path in others.items():
            code = serve.asgi(small("inner")) if kind == "inner" else (lambda request, kind=kind: kind)
            client.create_backend(f"{name}-{kind}", code)
            client.create_endpoint(f"{name}-{kind}", backend=f"{name}-{kind}", route=path)
        assert http.get(f"{route}/text").json() == "outer"
        assert http.get(f"{route}/text/exact").text == "exact"
        assert http.get(f"{route}/x/text").text == "template"
        assert http.get(f"{route}/inner/text").json() == "inner"
        assert http.get(f"{route}/innermost").status_code == 404
        assert http.get("/-/routes").json()[route] == [name, ["*"]]
        with pytest.raises(ValueError, match="methods"):
            client.create_endpoint(f"{name}-more", backend=name, route=f"{route}-more", methods=["GET"])
        with pytest.raises(ValueError, match="prefix"):
            client.create_endpoint(f"{name}-more", backend=name, route=f"{route}-more/{{x}}")
    finally:
        for kind in others:
            client.delete_endpoint(f"{name}-{kind}")
            client.delete_backend(f"{name}-{kind}", force=True)


def test_an_endpoint_has_backends_of_one_kind(
    client: serve.Client, http: httpx.Client, mount: Mount, name: str
) -> None:
    """An app and another backend do not share an endpoint, by weight, shadow, pin or deploy: ValueError, and nothing
    has changed (SU1)."""
    route = mount(serve.asgi(small()))
    other = f"{name}-other"
    client.create_backend(other, lambda request: "plain")
    try:
        for change in (
            lambda: client.set_traffic(name, {name: 0.5, other: 0.5}),
            lambda: client.shadow_traffic(name, other, 0.5),
            lambda: client.pin(name, "key", other),
            lambda: client.deploy(name, lambda request: "plain"),
        ):
            with pytest.raises(ValueError):
                change()
        assert client.get_traffic(name)["weights"] == {name: 1.0}
        assert http.get(f"{route}/text").json() == "small"
    finally:
        client.delete_backend(other, force=True)


def test_traffic_is_split_and_sticky(client: serve.Client, http: httpx.Client, mount: Mount, name: str) -> None:
    """Weights and shard keys decide for apps as for others (SU3)."""
    route = mount(serve.asgi(small("one")))
    client.create_backend(f"{name}-two", serve.asgi(small("two")))
    try:
        client.set_traffic(name, {name: 0.5, f"{name}-two": 0.5})
        assert {http.get(f"{route}/text").json() for _ in range(60)} == {"one", "two"}
        keyed = [http.get(f"{route}/text", headers={"x-serve-shard-key": "k"}).json() for _ in range(20)]
        assert len(set(keyed)) == 1
        answer = http.get(f"{route}/text")
        assert answer.headers["x-serve-backend"] in (name, f"{name}-two")
    finally:
        client.set_traffic(name, {name: 1.0})
        client.delete_backend(f"{name}-two", force=True)


# --- start and end ----------------------------------------------------------------------------------------------------


def test_an_app_that_fails_to_start(client: serve.Client, name: str) -> None:
    """A startup that raises fails the replica with the app's own exception (AP5, CB10)."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        raise ValueError("no database")
        yield

    with pytest.raises(BackendStartError, match="no database"):
        client.create_backend(name, serve.asgi(FastAPI(lifespan=lifespan)))
    assert name not in client.list_backends()


def test_startup_and_shutdown(client: serve.Client, http: httpx.Client, name: str, tmp_path: Path) -> None:
    """Startup has run when a replica is ready; shutdown runs when it ends (AP5)."""
    file = tmp_path / "log"

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        file.write_text("up")
        yield
        file.write_text("down")

    client.create_backend(name, serve.asgi(FastAPI(lifespan=lifespan)))
    assert file.read_text() == "up"
    client.delete_backend(name)
    assert file.read_text() == "down"


def test_an_app_without_a_lifespan(http: httpx.Client, mount: Mount) -> None:
    """An app that raises on the lifespan's scope has none, and serves (AP5)."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"bare"})

    assert http.get(mount(serve.asgi(app))).text == "bare"


def test_an_update_leaves_sockets_until_the_drain_limit(client: serve.Client, http: httpx.Client, name: str) -> None:
    """A new version of an app: an open socket goes on with the old one until shortly before the drain limit, then it is
    told to come again; new ones meet the new version (WS2, WS5)."""
    config = {"graceful_shutdown_timeout_s": 2.0, "rollout_watch_s": 0}
    client.deploy(name, serve.asgi(small("old")), route=f"/{name}", config=config)
    try:
        with socket_to(client, f"/{name}/socket") as old:
            assert old.recv(timeout=30) == "old"
            deploying = threading.Thread(target=client.deploy, args=(name, serve.asgi(small("new"))))
            deploying.start()
            wait_until(lambda: http.get(f"/{name}/text").json() == "new", what="the new version")
            with socket_to(client, f"/{name}/socket") as new:
                assert new.recv(timeout=30) == "new"
            with pytest.raises(ConnectionClosed) as closed:
                old.recv(timeout=30)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
            deploying.join()
    finally:
        client.delete_endpoint(name)
        client.delete_backend(name, force=True)


def test_a_replica_that_dies_takes_its_sockets_along(client: serve.Client, mount: Mount) -> None:
    """A replica is gone: its sockets are closed with 1011, and a new one is there soon (WS5)."""
    route = mount(serve.asgi(small()))
    with socket_to(client, f"{route}/socket") as socket:
        assert socket.recv(timeout=30) == "small"
        socket.send("die")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=10)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1011


# --- other frameworks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", ["starlette", "litestar", "django"])
def test_frameworks_work_as_they_are(client: serve.Client, http: httpx.Client, mount: Mount, framework: str) -> None:
    """Apps of Starlette, Litestar and Django: paths, addresses of their own, bodies and sockets (AP2, AP11)."""
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    route = mount(serve.asgi(f"tests.conformance.frameworks:{framework}_app"))
    assert http.get(f"{route}/hello/a").json() == {"hello": "a", "url": f"{client.http_address}{route}/hello/b"}
    assert http.post(f"{route}/size", content=b"x" * 3_000_000).json() == {"size": 3_000_000}
    if framework != "django":
        with socket_to(client, f"{route}/echo") as socket:
            socket.send("hi")
            assert socket.recv(timeout=30) == "hi"
