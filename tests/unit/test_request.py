"""request: what a ``def`` callable can ask its request, over HTTP and through a handle, beside Starlette's own."""

from __future__ import annotations

import asyncio
import copy
import json
import sys
import weakref
from collections.abc import Mapping
from typing import Any

import pytest
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request as StarletteRequest

from pointsman.exceptions import ServeException
from pointsman.incoming import Incoming, RequestHead
from pointsman.replica.methods import WrappedRequest
from pointsman.replica.mistakes import bad_body
from pointsman.request import Request, async_request

PARTS = b"""--XX\r
Content-Disposition: form-data; name="file"; filename="n.txt"\r
Content-Type: text/x\r
\r
%s\r
--XX\r
Content-Disposition: form-data; name="text"\r
\r
value\r
--XX--\r
"""
MULTIPART = [(b"content-type", b"multipart/form-data; boundary=XX")]


def incoming(
    data: Any = b"", headers: list[tuple[bytes, bytes]] | None = None, kwargs: dict[str, Any] | None = None
) -> Incoming:
    """A POST to ``/x/y z?q=1``, or a handle call."""
    head = RequestHead(
        endpoint="end",
        http_method="POST",
        path=b"/x/y%20z" if kwargs is None else b"",
        query=b"q=1" if kwargs is None else b"",
        headers=[(b"host", b"example:80"), (b"cookie", b"a=b; c=d"), *(headers or [])],
        path_params={"k": "v"} if kwargs is None else {},
        client=("1.2.3.4", 5) if kwargs is None else None,
        request_id="r",
    )
    return Incoming(head, data, kwargs)


def test_a_request_has_all_that_starlettes_has() -> None:
    """Whatever the installed Starlette's request has by name, the one of ``def`` callables has too (RQ1)."""
    theirs = {name for name in dir(StarletteRequest) if not name.startswith("_")}
    assert theirs - set(dir(Request)) == set()


def test_attributes_are_as_in_starlette() -> None:
    """Cookies, URLs, client, state and the scope are what an ``async def`` callable would see (RQ1)."""
    request, theirs = Request(incoming()), async_request(incoming())
    for name in ("cookies", "url", "base_url", "client", "method", "path_params", "query_params", "headers"):
        assert getattr(request, name) == getattr(theirs, name), name
    assert request.cookies == {"a": "b", "c": "d"}
    assert str(request.base_url) == "http://example:80/"
    assert (request.client.host, request.client.port) == ("1.2.3.4", 5) == request.client
    request.state.user = "u"
    assert request.state.user == "u" == request["state"]["user"]
    assert request["path"] == "/x/y z" == request.scope["path"]
    assert isinstance(request, Mapping)
    assert "path" in request
    assert "app" not in request
    assert request.get("app", 5) == 5
    assert dict(request) == dict(request.items()) == request.scope
    assert len(request) == len(request.scope)
    assert copy.copy(request).cookies == request.cookies


@pytest.mark.parametrize("name", ["session", "auth", "user", "app"])
def test_what_only_an_application_has_is_an_error_as_in_starlette(name: str) -> None:
    """Without the middleware that sets it, an attribute raises what Starlette raises (RQ1)."""
    with pytest.raises(Exception) as theirs:
        getattr(async_request(incoming()), name)
    with pytest.raises(theirs.type, match=str(theirs.value)[:30]):
        getattr(Request(incoming()), name)


def test_url_for_needs_an_application() -> None:
    """``url_for`` says that there is no router, as Starlette does outside of one (RQ1)."""
    with pytest.raises(RuntimeError, match="router"):
        Request(incoming()).url_for("x")


def test_a_handle_call_has_the_attributes_too() -> None:
    """A call through a handle has cookies of its headers, state and a scope, sync and async (RQ2, RQ4)."""
    for request in (Request(incoming({"d": 1}, kwargs={"k": 2})), async_request(incoming({"d": 1}, kwargs={"k": 2}))):
        assert request.cookies["a"] == "b"
        assert str(request.base_url) == "serve:///"
        assert str(request.url) == "serve:///end"
        assert request.client is None
        assert request["type"] == "http"
        request.state.x = 1
        assert request.state.x == 1


def test_streams_are_sync() -> None:
    """``stream()`` gives the body in ``def``; of a handle call it needs bytes (RQ1)."""
    assert b"".join(Request(incoming(b"abc")).stream()) == b"abc"
    assert b"".join(Request(incoming(b"abc", kwargs={})).stream()) == b"abc"
    with pytest.raises(ServeException, match="dict"):
        list(Request(incoming({}, kwargs={})).stream())

    async def pieces(request: StarletteRequest) -> bytes:
        return b"".join([piece async for piece in request.stream()])

    assert asyncio.run(pieces(async_request(incoming(b"abc", kwargs={})))) == b"abc"


def test_user_code_can_ask_whether_the_client_has_left() -> None:
    """``is_disconnected()`` is a truth value in ``def``, which can also be awaited (RQ1, HT10)."""
    call = incoming(b"body")
    request, theirs = Request(call), async_request(call)
    assert not request.is_disconnected()
    assert asyncio.run(theirs.is_disconnected()) is False
    call.left = True
    assert request.is_disconnected()
    assert asyncio.run(request.is_disconnected()) is True
    assert asyncio.run(theirs.is_disconnected()) is True
    assert asyncio.run(async_request(call).body()) == b"body"
    handle = incoming(kwargs={})
    assert asyncio.run(async_request(handle).is_disconnected()) is False


@pytest.mark.parametrize("size", [5, 2_000_000], ids=["in memory", "on disk"])
def test_files_of_a_form_are_read_at_once(size: int) -> None:
    """An uploaded file has a sync read, seek and close in ``def`` (RQ1)."""
    request = Request(incoming(PARTS % (b"c" * size), MULTIPART))
    form = request.form()
    file = form["file"]
    assert isinstance(file, UploadFile)
    assert (file.filename, file.size, file.content_type) == ("n.txt", size, "text/x")
    assert file.read(2) + file.read() == b"c" * size
    file.seek(1)
    assert len(file.read()) == size - 1
    assert form["text"] == "value"
    assert request.form() is form
    request.close()
    assert file.file.closed
    with request.form() as again:
        assert again is form
    file.close()


def test_limits_of_a_form() -> None:
    """``form`` takes Starlette's limits (RQ1)."""
    call = incoming(PARTS % b"content", MULTIPART)
    assert len(Request(call).form(max_files=1, max_fields=1, max_part_size=5)) == 2
    for limits in ({"max_files": 0}, {"max_fields": 0}, {"max_part_size": 4}):
        with pytest.raises(MultiPartException):
            Request(call).form(**limits)


def test_a_form_is_read_on_a_loop_too() -> None:
    """``bucket_by`` runs on the loop of the replica, and may read a form; what is wrong with one is raised there."""

    async def read(call: Incoming) -> Any:
        return Request(call).form()["text"]

    assert asyncio.run(read(incoming(PARTS % b"content", MULTIPART))) == "value"
    with pytest.raises(MultiPartException):
        asyncio.run(read(incoming(b"", [(b"content-type", b"multipart/form-data")])))


def test_the_form_of_a_handle_call() -> None:
    """A dict passed through a handle is its form, awaited or entered (RQ3)."""
    assert Request(incoming({"a": 1}, kwargs={})).form(max_files=1) == {"a": 1}

    async def read(request: Any) -> Any:
        async with request.form(max_files=1) as form:
            return form, await request.form()

    assert asyncio.run(read(async_request(incoming({"a": 1}, kwargs={})))) == ({"a": 1}, {"a": 1})


def test_a_decorator_sees_what_starlettes_request_has() -> None:
    """A ``def`` around an ``async def``: attributes and the scope are there on both sides, and are the same; the form
    is closed on both, and a field that it lacks is the client's mistake (RQ1, RQ6)."""
    call = incoming(PARTS % b"content", MULTIPART)
    request = WrappedRequest(call)
    assert (request.cookies, request["path"], str(request.base_url)) == (
        {"a": "b", "c": "d"},
        "/x/y z",
        "http://example:80/",
    )
    assert request.get("path") == request.scope["path"]
    assert len(request) == len(list(request))
    assert b"".join(request.stream()) == call.data
    request.state.seen = "outside"
    form: Any = request.form()

    async def wrapped() -> None:
        both: Any = request
        assert request.state.seen == "outside"
        assert await both.body() == call.data
        assert b"".join([piece async for piece in both.stream()]) == call.data
        file = (await both.form())["file"]
        await both.close()
        assert file.file.closed
        assert form["file"].file.closed
        (await both.form())["nope"]

    with pytest.raises(KeyError) as missing:
        asyncio.run(wrapped())
    assert bad_body(missing.value, call, request) == "the form has no field 'nope'"
    with pytest.raises(KeyError) as missing:
        form["nope"]
    assert bad_body(missing.value, call, request) == "the form has no field 'nope'"


def test_a_form_leaves_the_event_loop_of_the_thread_alone() -> None:
    """User code that has set an event loop in its constructor finds it after ``form()`` (RQ1)."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        assert Request(incoming(PARTS % b"content", MULTIPART)).form()["text"] == "value"
        assert asyncio.get_event_loop() is loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def test_a_request_can_be_referred_to_weakly() -> None:
    """``weakref.ref(request)`` works, as for Starlette's; and a client that is there is 0 in JSON (RQ1)."""
    request = Request(incoming(b""))
    assert weakref.ref(request)() is request
    assert json.dumps(request.is_disconnected()) == "0"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no groups of exceptions")
def test_what_a_task_group_read_is_the_clients_mistake_too() -> None:
    """Bad JSON that was read in a task of ``asyncio.TaskGroup`` is told as such, but not beside another error (RQ1)."""
    call = incoming(b"{")
    request = async_request(call)

    async def read(other: bool) -> None:
        groups: Any = asyncio
        async with groups.TaskGroup() as group:
            group.create_task(request.json())
            if other:
                group.create_task(fails())

    async def fails() -> None:
        raise LookupError

    for other in (False, True):
        with pytest.raises(Exception, match="unhandled errors") as caught:
            asyncio.run(read(other))
        assert bad_body(caught.value, call, request).startswith("the body is not JSON") is not other
