"""User code that does what nobody expects: it harms its own caller, and nobody else (F39)."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from urllib.parse import urlsplit

import pytest
from starlette.responses import Response

from pointsman.exceptions import RemoteError
from tests.conftest import WAIT_S, http_for


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class Evil:
    def __init__(self):
        self.go = threading.Event()

    def __call__(self, request):
        kind = request.query_params["kind"]
        if kind == "surrogate value":
            return "\ud800"
        if kind == "surrogate text":
            raise ValueError("\udcff")
        if kind == "mute":
            raise Mute
        if kind == "status":
            return Response("x", status_code=999)
        if kind == "model":
            return Model()
        return "fine"


class Model:
    def model_dump(self, mode):
        raise KeyError("surprise")


class AsyncEvil(Evil):
    async def __call__(self, request):
        if request.query_params["kind"] == "cancelled":
            raise asyncio.CancelledError
        return super().__call__(request)


@pytest.mark.parametrize("code", [Evil, AsyncEvil])
def test_the_replica_lives_on(served, http, code):
    """Whatever a request makes the code do, it is a 500 at once, and the next request is served."""
    route = served(code)
    kinds = ["surrogate value", "surrogate text", "mute", "status", "model"]
    for kind in [*kinds, "cancelled"] if code is AsyncEvil else kinds:
        assert http.get(route, params={"kind": kind}).status_code == 500, kind
        assert http.get(route, params={"kind": "fine"}).text == "fine", kind


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, StopIteration])
def test_exits_do_not_travel(served, client, name, error):
    """An exit in a backend does not end the script that called it (HA4)."""

    def leave(request):
        raise error(3)

    served(leave)
    with pytest.raises(RemoteError, match=error.__name__):
        client.get_handle(name).remote().result()


def test_own_timeouts_arrive_as_themselves(served, client, name):
    """A TimeoutError of user code is not mistaken for one of ours (HA4)."""

    def late(request):
        raise TimeoutError("the database")

    served(late)
    with pytest.raises(TimeoutError, match="the database"):
        client.get_handle(name).remote().result()


def test_a_stream_that_fails_at_once_is_an_error(served, http):
    """A generator that raises before its first value is a 500, not a stream that breaks."""

    def stillborn(request):
        raise ValueError("no first")
        yield

    assert http.get(served(stillborn)).status_code == 500


def test_no_body_where_none_may_be(served, client):
    """A 204 with a body does not put that body in front of the next answer (H15)."""
    route = served(lambda request: Response("SMUGGLED", status_code=204))
    with http_for(client) as http:
        for _ in range(3):
            assert http.get(route).status_code == 204


class Slow:
    async def __call__(self, request):
        await asyncio.sleep(0.3)
        return "done"


def test_a_pipelining_client_that_hangs_up_hurts_nobody(served, client):
    """A client that sends three requests at once and leaves costs the others nothing (F26)."""
    route = served(Slow)
    statuses = []

    def ask():
        with http_for(client) as http:
            statuses.append(http.post(route).status_code)

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    address = urlsplit(client.http_address)
    with socket.create_connection((address.hostname, address.port)) as rude:
        rude.sendall(b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n" % route.encode() * 3)
    for thread in threads:
        thread.join()
    assert statuses == [200] * 5


def test_thousands_of_bad_requests_at_once(served, client):
    """A client sends one good request and three thousand bad ones behind it: each gets its answer, in order, on the one
    connection (H6, H7)."""
    route = served(lambda request: "good")
    address = urlsplit(client.http_address)
    good = f"GET {route} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
    last = good.replace(b"host: x", b"host: x\r\nconnection: close")
    everything = good + b"GET /no-such-route HTTP/1.1\r\nhost: x\r\n\r\n" * 3000 + last
    with socket.create_connection((address.hostname, address.port), timeout=30) as one:
        sending = threading.Thread(target=one.sendall, args=(everything,))
        sending.start()
        answers = b"".join(iter(lambda: one.recv(1 << 16), b""))
        sending.join()
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", *[b"404"] * 3000, b"200"]


def test_cancelling_an_awaiting_task_cancels_the_call(served, client, name):
    """asyncio's own time-outs work on handle calls: the task is cancelled, and so is the call (HA6)."""
    served(Waits)
    handle = client.get_handle(name)

    async def give_up():
        future = await client.get_handle(name, sync=False).remote()
        await (await client.get_handle(name, sync=False).options(method_name="has_begun").remote())
        await asyncio.wait_for(future, 0.05)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(give_up())
    assert handle.options(method_name="cancelled").remote().result(WAIT_S) is True


class Waits:
    def __init__(self):
        self.begun, self.over = asyncio.Event(), asyncio.Event()

    async def __call__(self, request):
        self.begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.over.set()
            raise

    async def has_begun(self, request):
        return await self.begun.wait()

    async def cancelled(self, request):
        return await self.over.wait()


def test_large_bodies_run_side_by_side(served, client):
    """Large requests do not queue up behind each other while there is room."""
    route = served(Together, config={"max_concurrent_queries": 8})
    results = []

    def ask():
        with http_for(client) as http:
            results.append(http.post(route, content=b"x" * 3_000_000).text)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["together"] * 3


class Together:
    """Answers once three requests are there at the same time."""

    def __init__(self):
        self.here = 0
        self.all_here = asyncio.Event()

    async def __call__(self, request):
        self.here += 1
        if self.here == 3:
            self.all_here.set()
        await self.all_here.wait()
        return "together"
