"""Calls of apps, for tests: made as an ingress makes them, over a router to replicas in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pointsman.incoming import RequestHead
from pointsman.model import ReplicaConfig
from pointsman.routing.appcalls import AppCall
from pointsman.routing.reply import ByteStream, Reply
from pointsman.routing.router import Router
from pointsman.testing import MemoryReplica, run, settle
from pointsman.usercode.mounting import asgi
from pointsman.wire.messages import BODY, AppPart
from tests.loop import app_models
from tests.loop.routers import routed


@pytest.fixture(autouse=True)
def fresh_apps() -> None:
    app_models.SEEN.clear()
    app_models.GATES.clear()


def app_call(
    follows: int = BODY, *, path: str = "/b", timeout_s: float = 60.0, body: bytes = b"", **fields: Any
) -> AppCall:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Reply] = loop.create_future()
    method = fields.pop("http_method", "POST")
    request = RequestHead("b", http_method=method, path=path.encode(), request_id="r")
    app = AppPart("/b", "1.1", "http", ("x", 80), follows)
    return AppCall(request, body, app=app, deadline=loop.time() + timeout_s, future=future, **fields)


async def body_of(reply: Reply) -> bytes:
    if reply.stream is None:
        return bytes(reply.body)
    assert isinstance(reply.stream, ByteStream)
    return b"".join([bytes(part) async for part in reply.stream])


def with_app(
    app: Any,
    test: Callable[[Router, MemoryReplica], Coroutine[Any, Any, None]],
    *,
    config: ReplicaConfig | None = None,
) -> None:
    """Run a test with a router to one replica of an app."""

    async def main() -> None:
        async with MemoryReplica(asgi(app), config=config) as replica, routed(replica) as router:
            await test(router, replica)
            await settle()
            assert not replica.runtime.load, "a slot was not given back"

    run(main())
