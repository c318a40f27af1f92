"""Streams that one call reads from another, and how they end."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

import pytest
from starlette.responses import StreamingResponse

from tests.conftest import wait_until

DEADLINE_S = 2.0
"""A deadline that user code begins before, on a busy machine too."""


class Streams:
    """Streams numbers, and tells what it made and whether it was closed."""

    def __init__(self):
        self.made = 0
        self.closed = 0

    def __call__(self, request):
        try:
            for number in range(request.body()):
                self.made += 1
                yield number
        finally:
            self.closed += 1

    async def later(self, request):
        try:
            for number in range(await request.body()):
                self.made += 1
                yield number
        finally:
            self.closed += 1

    def plain(self, request):
        return "no stream"

    def breaks(self, request):
        yield 0
        raise LookupError("in the middle")

    async def state(self, request):
        return self.made, self.closed


@pytest.mark.parametrize("method", [None, "later"], ids=["def", "async"])
def test_for_chunk_in_a_call(served, client, name, method):
    """``for chunk in handle.options(stream=True).remote()`` gives the values themselves, in order (RP5)."""
    served(Streams)
    handle = client.get_handle(name).options(stream=True, method_name=method)
    assert list(handle.remote(100)) == list(range(100))
    assert list(handle.remote(0)) == []
    future = handle.remote(3)
    assert next(iter(future.result())) == 0


def test_async_for_chunk_in_a_call(served, client, name):
    """An async handle's call can be iterated at once, or awaited first (RP5, HA1)."""
    served(Streams)

    async def use():
        handle = client.get_handle(name, sync=False).options(stream=True)
        at_once = [chunk async for chunk in handle.remote(50)]
        future = await handle.remote(50)
        awaited_once = [chunk async for chunk in future]
        awaited_twice = [chunk async for chunk in await (await handle.remote(50))]
        side_by_side = await asyncio.gather(*[collect(handle.remote(n)) for n in range(5)])
        return at_once, awaited_once, awaited_twice, side_by_side

    async def collect(stream):
        return [chunk async for chunk in stream]

    expected = list(range(50))
    assert asyncio.run(use()) == (expected, expected, expected, [list(range(n)) for n in range(5)])


def test_an_answer_that_is_no_stream(served, client, name):
    """Iterating a call that gave a plain value is a TypeError that says what came (RP5)."""
    served(Streams)
    handle = client.get_handle(name).options(stream=True, method_name="plain")
    with pytest.raises(TypeError, match="str"):
        list(handle.remote())
    assert handle.remote().result() == "no stream"

    async def use(handle):
        return [chunk async for chunk in handle.remote()]

    asynchronous = client.get_handle(name, sync=False).options(method_name="plain")
    with pytest.raises(TypeError, match="str"):
        asyncio.run(use(asynchronous.options(stream=True)))
    with pytest.raises(TypeError, match=r"options\(stream=True\)"):
        asyncio.run(use(asynchronous))


@pytest.mark.parametrize("method", [None, "later"], ids=["def", "async"])
def test_who_leaves_a_stream_early_closes_it(served, client, name, method):
    """A loop that breaks off ends the generator in the replica, ``finally`` included (RP4, F26)."""
    served(Streams)
    handle = client.get_handle(name)
    for chunk in handle.options(stream=True, method_name=method).remote(10**9):
        if chunk == 20:
            break
    state = handle.options(method_name="state")
    wait_until(lambda: state.remote().result()[1] == 1, what="the generator is closed")
    assert state.remote().result()[0] < 1000, "it ran ahead of its reader"


def test_who_leaves_an_async_loop_early_closes_it(served, client, name):
    """The same for ``async for`` (RP4, F26)."""
    served(Streams)

    async def use():
        handle = client.get_handle(name, sync=False).options(stream=True, method_name="later")
        async for chunk in handle.remote(10**9):
            if chunk == 20:
                return

    asyncio.run(use())
    state = client.get_handle(name).options(method_name="state")
    wait_until(lambda: state.remote().result()[1] == 1, what="the generator is closed")


def test_a_stream_may_outlast_the_deadline(client, http, name):
    """The deadline is one to the first byte: a stream that has begun goes on (HE2)."""

    class Drips:
        async def __call__(self, request):
            for number in range(5):
                yield f"{number} "
                await asyncio.sleep(DEADLINE_S / 4)

    client.create_backend(name, Drips)
    client.create_endpoint(name, backend=name, route=f"/{name}", request_timeout_s=DEADLINE_S)
    assert http.get(f"/{name}").text == "0 1 2 3 4 "
    assert "".join(client.get_handle(name).options(stream=True).remote()) == "0 1 2 3 4 "
    client.delete_endpoint(name)
    client.delete_backend(name)


def test_a_stream_that_breaks_raises_where_it_broke(served, client, name):
    """The user's exception comes after the values that came before it (RP5, HA4)."""
    served(Streams)
    seen = []

    def iterate():
        for chunk in client.get_handle(name).options(stream=True, method_name="breaks").remote():
            seen.append(chunk)

    with pytest.raises(LookupError, match="in the middle"):
        iterate()
    assert seen == [0]


def events(request):
    return StreamingResponse((f"data: {n}\n\n" for n in range(3)), media_type="text/event-stream")


def test_server_sent_events(served, http):
    """``text/event-stream`` goes through as it is, event by event (RP2, RP4)."""
    with http.stream("GET", served(events)) as answer:
        assert answer.headers["content-type"].partition(";")[0] == "text/event-stream"
        assert "content-length" not in answer.headers
        assert "".join(answer.iter_text()) == "data: 0\n\ndata: 1\n\ndata: 2\n\n"


@pytest.mark.parametrize("fails", [True, False], ids=["breaks", "ends"])
def test_the_last_chunk_says_that_all_is_there(served, client, fails):
    """A stream that fails in the middle is cut without HTTP's last chunk, and only then (HE3)."""

    def stream(request):
        yield "some"
        if fails:
            raise RuntimeError("broke")

    route = served(stream)
    address = urlsplit(client.http_address)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(f"GET {route} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        answer = b""
        while more := connection.recv(65536):
            answer += more
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"transfer-encoding: chunked" in head.lower()
    assert body == (b"4\r\nsome\r\n" if fails else b"4\r\nsome\r\n0\r\n\r\n")
