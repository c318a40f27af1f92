"""Streams that user code returns, as HTTP clients and handles see them."""

from __future__ import annotations

import asyncio
import socket

import httpx
import numpy as np
import pytest
from starlette.responses import StreamingResponse

import pointsman as serve
from tests.conformance.records import Model, Point
from tests.conftest import http_for, wait_until


def generate(request):
    yield "one,"
    yield b"two,"
    yield {"n": 3}


async def generate_async(request):
    for part in generate(request):
        yield part


def return_generator(request):
    return (str(i) for i in range(3))


def return_streaming(request):
    return StreamingResponse(iter(["a", "b"]), media_type="text/event-stream", headers={"x-s": "1"})


class Steps:
    """An iterator by hand, without ``__iter__``."""

    def __init__(self, *values):
        self.values = list(values)

    def __next__(self):
        if not self.values:
            raise StopIteration
        return self.values.pop(0)


class AsyncSteps(Steps):
    """The same for ``async for``."""

    __next__ = None

    async def __anext__(self):
        if not self.values:
            raise StopAsyncIteration
        return self.values.pop(0)


def records():
    yield {"n": np.int64(1)}
    yield Point(1, {2})
    yield Model(name="m", values=[])


async def records_async():
    for record in records():
        yield record


LINES = '{"n":1}\n{"x":1,"y":[2]}\n{"name":"m","values":[]}\n'
STREAMS = {
    "map": (lambda: map(str.upper, ["a", "b"]), "text/plain; charset=utf-8", "AB"),
    "filter": (lambda: filter(None, [b"a", b"", b"b"]), "text/plain; charset=utf-8", "ab"),
    "list iterator": (lambda: iter(["a", "b"]), "text/plain; charset=utf-8", "ab"),
    "by hand": (lambda: Steps("a", "b"), "text/plain; charset=utf-8", "ab"),
    "async by hand": (lambda: AsyncSteps("a", "b"), "text/plain; charset=utf-8", "ab"),
    "empty": (lambda: iter([]), "text/plain; charset=utf-8", ""),
    "records": (records, "application/x-ndjson", LINES),
    "async records": (records_async, "application/x-ndjson", LINES),
    "map of records": (
        lambda: map(dict, [[("a", 1)], [("a", "b\nc")]]),
        "application/x-ndjson",
        '{"a":1}\n{"a":"b\\nc"}\n',
    ),
    "lists": (lambda: zip([1, 2], "ab", strict=True), "application/x-ndjson", '[1,"a"]\n[2,"b"]\n'),
    "numbers by hand": (lambda: AsyncSteps(1, 2), "application/x-ndjson", "1\n2\n"),
    "record, then text": (lambda: Steps({"a": 1}, "end", b"!"), "application/x-ndjson", '{"a":1}\nend!'),
    "text, then record": (lambda: Steps("data: ", {"a": 1}), "text/plain; charset=utf-8", 'data: {"a":1}'),
}


def pick_stream(request):
    return STREAMS[request.query_params.get("case") or request.body()][0]()


async def pick_stream_async(request):
    return STREAMS[request.query_params.get("case") or await request.body()][0]()


@pytest.mark.parametrize("code", [pick_stream, pick_stream_async])
def test_iterators_of_any_kind_are_streams(served, http, client, name, code):
    """What is no generator and gives one value after the other is streamed all the same; what is no text is a line of
    JSON each; through a handle the values arrive one by one (RP4, RP5)."""
    route = served(code)
    for case, (_, content_type, expected) in STREAMS.items():
        with http.stream("GET", route, params={"case": case}) as answer:
            text = answer.read().decode()
        assert (answer.headers["content-type"], text) == (content_type, expected), case
        assert "content-length" not in answer.headers, case
    handle = client.get_handle(name)
    assert list(handle.remote("map").result()) == ["A", "B"]
    assert list(handle.remote("async by hand").result()) == ["a", "b"]
    assert list(handle.remote("lists").result()) == [(1, "a"), (2, "b")]
    assert list(handle.options(stream=True).remote("by hand")) == ["a", "b"]


@serve.accept_batch
def stream_to_members(requests):
    return [Steps(request.body().decode(), "!") for request in requests]


def test_members_of_a_batch_have_streams_too(served, http):
    """An iterator among the answers of a batch is that member's stream (RP4, BA4)."""
    assert http.post(served(stream_to_members), content=b"a").text == "a!"


def test_a_first_value_without_a_form_is_a_500(served, http):
    """A stream whose first value cannot be sent is an error, not a broken answer (RP3, HE3)."""

    def give(request):
        yield {"a": float("nan")}

    answer = http.get(served(give))
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/json"


def streaming_response(request):
    return StreamingResponse(map(str, range(3)), status_code=201)


async def streaming_response_async(request):
    return StreamingResponse(generate_text())


async def generate_text():
    for number in range(3):
        yield str(number)


@pytest.mark.parametrize("code", [streaming_response, streaming_response_async])
def test_a_streamed_response_through_a_handle(served, client, name, code):
    """What a StreamingResponse would stream arrives as an iterator, as a bare generator does (RP5)."""
    served(code)
    assert list(client.get_handle(name).remote().result()) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (generate, 'one,two,{"n":3}'),
        (generate_async, 'one,two,{"n":3}'),
        (return_generator, "012"),
        (return_streaming, "ab"),
    ],
)
def test_streams(shared, http, code, expected):
    """Generators and StreamingResponse arrive whole, chunk by chunk (RP4)."""
    answer = http.get(shared(code))
    assert answer.text == expected
    if code is return_streaming:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-s"] == "1"


class Gate:
    """Streams a second chunk only when it is told that the first has been seen."""

    def __init__(self):
        self.seen = asyncio.Event()

    async def __call__(self, request):
        yield "first"
        await self.seen.wait()
        yield "second"

    async def go(self, request):
        self.seen.set()


def test_first_chunk_comes_before_the_last_is_made(served, http, client):
    """The reader has the first chunk while the producer still waits (RP4)."""
    route = served(Gate, config={"http_methods": ["go"]})
    with http.stream("GET", route) as answer:
        chunks = answer.iter_text()
        assert next(chunks) == "first"
        with http_for(client) as other:
            assert other.get(route, headers={"x-serve-call-method": "go"}).status_code == 200
        assert "".join(chunks) == "second"


class Endless:
    """Streams for ever, and tells how much it has made."""

    def __init__(self):
        self.made = 0
        self.closed = False

    def __call__(self, request):
        try:
            while True:
                self.made += 1
                yield b"x" * 65536
        finally:
            self.closed = True

    async def later(self, request):
        for chunk in self(request):
            yield chunk
            await asyncio.sleep(0)

    async def state(self, request):
        return self.made, self.closed


@pytest.mark.parametrize("method", ["__call__", "later"], ids=["def", "async"])
def test_a_slow_reader_slows_the_producer_down(served, client, name, method):
    """A reader takes the head and then nothing more: the producer stops when what lies between is full, and is closed
    when the reader goes (RP4)."""
    route = served(Endless, config={"http_methods": ["later"]})
    state = client.get_handle(name).options(method_name="state")
    host, _, port = client.http_address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as reader:
        reader.sendall(f"GET {route} HTTP/1.1\r\nhost: x\r\nx-serve-call-method: {method}\r\n\r\n".encode())
        assert reader.recv(15) == b"HTTP/1.1 200 OK"
        made = [-1]

        def stands_still():
            made.append(state.remote().result()[0])
            return len(made) > 50 and len(set(made[-50:])) == 1

        wait_until(stands_still, what="the producer waits")
        assert made[-1] < 1000  # 64 MB, and the system's buffers hold some
    wait_until(lambda: state.remote().result()[1], what="the generator is closed")


def break_off(request):
    yield "some"
    raise RuntimeError("broke")


async def break_off_async(request):
    yield "some"
    raise RuntimeError("broke")


@pytest.mark.parametrize("code", [break_off, break_off_async])
def test_a_broken_stream_never_ends_cleanly(shared, http, code):
    """A stream that breaks is cut without its end marker (HE3)."""
    with pytest.raises(httpx.RemoteProtocolError), http.stream("GET", shared(code)) as answer:
        list(answer.iter_bytes())


@pytest.mark.parametrize("code", [generate, generate_async])
def test_streams_through_handles(shared, client, name, code):
    """Through a handle a generator arrives as an iterator of objects (RP5)."""
    shared(code)
    assert list(client.get_handle(name).remote().result()) == ["one,", b"two,", {"n": 3}]


def test_stream_error_through_handles(shared, client, name):
    """The user's exception surfaces where the stream broke (RP5, HA4)."""
    shared(break_off)
    values = client.get_handle(name).remote().result()
    assert next(values) == "some"
    with pytest.raises(RuntimeError, match="broke"):
        next(values)
