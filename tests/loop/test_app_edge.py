"""Requests of apps at the edge: limits of bodies, clocks, clients that leave, and what the app is told."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pointsman.model import ASGI
from pointsman.replica.apps import GRACE_S
from pointsman.replica.flow import STALL_S
from pointsman.replica.lifespan import Lifespan, StartupFailed, app_of
from pointsman.routing.reply import StreamBroken
from pointsman.testing import MemoryReplica, run
from pointsman.usercode.mounting import asgi
from tests.loop import app_models as apps
from tests.loop.app_models import SEEN, gate
from tests.loop.apps import app_call, body_of, fresh_apps
from tests.loop.edge import LIMIT, Edge, edge
from tests.loop.routers import routed

__all__ = ["fresh_apps"]

BOTH = pytest.mark.parametrize("middlewares", [False, True], ids=["direct", "with middlewares"])


def at_the_edge(app: Any, test: Callable[[Edge, MemoryReplica], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        async with MemoryReplica(asgi(app)) as replica:
            async with edge(replica=replica, surface=ASGI, methods=("*",), **options) as there:
                await test(there, replica)
            await asyncio.sleep(1)
            assert replica.runtime.load == 0, "a slot was not given back"

    run(main())


@BOTH
def test_small_requests_follow_each_other(middlewares: bool) -> None:
    """Requests with and without a body on one connection are answered in order, whole (AP6, AP7)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client = await there.client()
        for body in (b"one", b"", b"three" * 1000):
            client.head("/b/x", content_length=len(body))
            client.send(body)
        await asyncio.sleep(0.2)
        assert client.statuses == [200, 200, 200]
        assert client.data.count(b"content-length: 3\r\n") == client.data.count(b"content-length: 5000\r\n") == 1
        assert client.data.endswith(b"three")

    at_the_edge(apps.echo, test, middlewares=middlewares)


@BOTH
def test_a_declared_body_over_the_limit_is_refused_unseen(middlewares: bool) -> None:
    """A body that is announced as too large is a 413, and no app runs (AP8)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client = await there.client()
        client.head("/b/x", content_length=LIMIT + 1)
        await asyncio.sleep(0.1)
        assert client.statuses == [413]
        assert SEEN == []

    at_the_edge(apps.patient, test, middlewares=middlewares)


@pytest.mark.parametrize("begun", [False, True])
def test_a_body_that_grows_over_the_limit(begun: bool) -> None:
    """A chunked body goes over the limit: a 413 while no answer has begun, else the connection is cut; the app is told
    that its client has gone (AP8)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client = await there.client()
        client.head("/b/x", transfer_encoding="chunked")
        for _ in range(LIMIT // 10_000 + 1):
            client.send(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
            await asyncio.sleep(0.01)
        await asyncio.sleep(2 * GRACE_S)
        if begun:
            assert client.statuses == [200]
            assert not client.data.endswith(b"0\r\n\r\n")
            assert client.closed_at is not None
        else:
            assert client.statuses == [413]

    at_the_edge(apps.mirror if begun else apps.echo, test)


def test_a_body_that_does_not_come() -> None:
    """A client stops in the middle of its body: a 408 after the pause that is allowed (AP6, decision 0035)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client = await there.client()
        client.head("/b/x", content_length=60_000)
        client.send(b"x" * 100)
        await asyncio.sleep(2.5)
        assert client.statuses == []
        await asyncio.sleep(1)
        assert client.statuses == [408]

    at_the_edge(apps.echo, test, body_idle_timeout_s=3.0)


def test_a_slow_app_is_not_the_clients_fault() -> None:
    """An app lets a client wait with its body for longer than the client may pause: nobody is late (AP6)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client = await there.client()
        size = 3_000_000
        client.head("/b/x", content_length=size)
        client.send(b"x" * size)
        await asyncio.sleep(20)
        gate("read").set()
        await asyncio.sleep(1)
        assert client.statuses == [200]
        assert client.data.count(b"x") >= size

    at_the_edge(apps.patient, test, body_idle_timeout_s=3.0, limit=math.inf)


@pytest.mark.parametrize(("limit", "status"), [(None, 413), (2 * LIMIT, 200), (math.inf, 200), (10, 413)])
@pytest.mark.parametrize("declared", [True, False])
def test_an_endpoint_has_a_limit_of_its_own(limit: float | None, status: int, declared: bool) -> None:
    """The largest body of an endpoint may be more, or less, than the instance's (AP8)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client = await there.client()
        body = b"x" * (LIMIT + 1)
        if declared:
            client.head("/b/x", content_length=len(body))
            client.send(body)
        else:
            client.head("/b/x", transfer_encoding="chunked")
            client.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        await asyncio.sleep(0.5)
        assert client.statuses == [status]

    at_the_edge(apps.echo, test, limit=limit)


@BOTH
@pytest.mark.parametrize("size", [0, 100, 60_000])
def test_a_client_that_leaves_is_told_to_the_app(middlewares: bool, size: int) -> None:
    """A client leaves while its app waits: `http.disconnect`, whatever its body (AP9)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client = await there.client()
        client.head("/b/x", content_length=size)
        client.send(b"x" * size)
        await asyncio.sleep(0.1)
        client.leave()
        await asyncio.sleep(0.4)
        assert SEEN == ["disconnect"]

    at_the_edge(apps.listening, test, middlewares=middlewares)


def test_an_app_that_never_answers_is_a_504() -> None:
    """The deadline passes before the answer has begun: 504 (AP10)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client = await there.client()
        client.head("/never", "GET", x_serve_timeout_s="2")
        await asyncio.sleep(2.5)
        assert client.statuses == [504]

    at_the_edge(apps.odd, test, route="/")


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [("/returns", 500, "user_code"), ("/raises", 500, "user_code"), ("/number", 500, "user_code"), ("/after", 200, "")],
)
def test_failures_of_an_app(path: str, status: int, reason: str) -> None:
    """What an app does wrong is an error of the backend's, and the connection goes on (AP11)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client = await there.client()
        client.head(path, "GET")
        await asyncio.sleep(0.1)
        assert client.statuses == [status]
        if reason:
            assert client.error["reason"] == reason
        client.head("/whole", "GET")
        await asyncio.sleep(0.1)
        assert client.statuses == [status, 200]

    at_the_edge(apps.odd, test, route="/")


@pytest.mark.parametrize("failed", [False, True])
def test_a_lifespan_that_never_returns(failed: bool) -> None:
    """An app that goes on asking once it has said that its startup failed, or its shutdown is complete, keeps nobody
    waiting (AP5)."""

    async def main() -> None:
        if failed:
            gate("failed").set()
        life = Lifespan(apps.stubborn)
        if failed:
            with pytest.raises(StartupFailed, match="no database"):
                await asyncio.wait_for(life.start(), 3)
        else:
            await asyncio.wait_for(life.start(), 3)
            await asyncio.wait_for(life.stop(), 3)
        assert SEEN == ["lifespan.startup"] if failed else ["lifespan.startup", "lifespan.shutdown"]

    run(main())


def test_an_exception_at_startup_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """An app that raises at its startup, and does not say that it has failed, is served as by uvicorn; the log says
    what it raised. One that knows no lifespan is nothing to tell (AP5)."""

    async def raises(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise ValueError("no database")

    async def main() -> None:
        for app in (apps.odd, raises):
            assert not caplog.records
            await Lifespan(app).start()
        assert "no database" in caplog.text

    run(main())


@pytest.mark.parametrize("path", ["os:path", "fastapi:FastAPI"])
def test_an_import_path_that_leads_to_no_app(path: str) -> None:
    """A module or a class is no app, and no replica is ready with it (AP3)."""
    with pytest.raises(TypeError, match="no ASGI app"):
        app_of(asgi(path), None)


@pytest.mark.parametrize("path", ["name", ":name", "module:"])
def test_an_import_path_that_is_none(path: str) -> None:
    """What is no import path is refused where it is given (AP3)."""
    with pytest.raises(TypeError, match="'module:name'"):
        asgi(path)


@BOTH
def test_the_scope_is_that_of_uvicorn(middlewares: bool) -> None:
    """Full path, raw path, query, headers, client and server are told, and the prefix as `root_path` (AP2)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client = await there.client()
        client.head("/b/a%20b?x=1%20", "GET", x_own="v", x_serve_call_method="other")
        await asyncio.sleep(0.1)
        scope = client.error
        assert (scope["type"], scope["http_version"], scope["method"], scope["scheme"]) == (
            "http",
            "1.1",
            "GET",
            "http",
        )
        assert (scope["path"], scope["raw_path"], scope["root_path"]) == ("/b/a b", "/b/a%20b", "/b")
        assert scope["query_string"] == "x=1%20"
        assert ["x-own", "v"] in scope["headers"]
        assert ["host", "x"] in scope["headers"]
        assert scope["state"] == {"from": "lifespan"}

    at_the_edge(apps.describe, test, middlewares=middlewares)


def test_routes_of_apps_are_prefixes() -> None:
    """Paths below the prefix, and no others; never system paths (AP1)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client = await there.client()
        for path in ("/b", "/b/", "/b/c", "/bc", "/", "/-/nothing", "/%2D/nothing"):
            client.head(path, "GET")
        await asyncio.sleep(0.2)
        assert client.statuses == [200, 200, 200, 404, 404, 404, 404]

    at_the_edge(apps.describe, test)


def test_a_client_that_takes_nothing_gives_its_slot_back() -> None:
    """A client asks for 6.4 MB and reads nothing: after a minute the app's slot is another caller's (AP7)."""

    async def main() -> None:
        async with MemoryReplica(asgi(apps.big)) as replica, routed(replica) as router:
            call = app_call(0)
            router.submit(call)
            reply = await call.future  # type: ignore[misc]
            await asyncio.sleep(STALL_S - 1)
            assert replica.runtime.load == 1
            await asyncio.sleep(2)
            assert replica.runtime.load == 0
            with pytest.raises(StreamBroken):
                await body_of(reply)

    run(main())
