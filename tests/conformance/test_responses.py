"""What user code may return, and what HTTP clients see of it."""

from __future__ import annotations

import collections
import datetime
import json
import threading
from http import HTTPStatus

import httpx
import numpy as np
import pytest
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse

import pointsman as serve
from pointsman.exceptions import ServeException, UserCodeError
from tests.conformance.records import Model, Point
from tests.conftest import WAIT_S

CASES = {
    "none": (None, "text/plain", b""),
    "bytes": (b"\x00\xff", "text/plain", b"\x00\xff"),
    "str": ("hällo", "text/plain; charset=utf-8", "hällo".encode()),
    "dict": ({"a": [1, 2.5, None, True]}, "application/json", {"a": [1, 2.5, None, True]}),
    "int": (5, "application/json", 5),
    "false": (False, "application/json", False),
    "dataclass": (Point(1, Point(2, b"inner")), "application/json", {"x": 1, "y": {"x": 2, "y": "inner"}}),
    "pydantic": ([Model(name="n", values=[1.0])], "application/json", [{"name": "n", "values": [1.0]}]),
    "array": ({"a": np.eye(2, dtype="int8")}, "application/json", {"a": [[1, 0], [0, 1]]}),
    "float32": (np.float32(0.5), "application/json", 0.5),
    "float16": ([np.float16(0.5)], "application/json", [0.5]),
    "int64": ({"n": np.int64(2**60)}, "application/json", {"n": 2**60}),
    "uint8": (np.uint8(255), "application/json", 255),
    "bool_": (np.bool_(True), "application/json", True),
    "keys": ({np.int64(1): {np.bool_(True): 2}}, "application/json", {"1": {"true": 2}}),
    "day": ({"at": datetime.date(2026, 1, 2)}, "application/json", {"at": "2026-01-02"}),
    "set": ({"a": {3, 1}}, "application/json", {"a": [1, 3]}),
}


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async"])
def test_values(served, http, is_async):
    """Each kind of value has one form over HTTP (RP1, RP3)."""

    def pick(request):
        return CASES[request.query_params["case"]][0]

    async def pick_async(request):
        return CASES[request.query_params["case"]][0]

    route = served(pick_async if is_async else pick)
    for case, (_, content_type, expected) in CASES.items():
        answer = http.get(route, params={"case": case})
        assert answer.status_code == 200, (case, answer.text)
        assert answer.headers["content-type"] == content_type, case
        assert (answer.json() if content_type == "application/json" else answer.content) == expected, case


def test_starlette_responses(served, http):
    """A Starlette response keeps status, headers, cookies and redirects (RP2)."""

    def respond(request):
        kind = request.query_params["kind"]
        if kind == "html":
            return HTMLResponse("<p>", status_code=201, headers={"X-A": "1"})
        if kind == "redirect":
            return RedirectResponse("/elsewhere")
        if kind == "empty":
            return Response(status_code=204)
        response = JSONResponse({"a": 1})
        response.set_cookie("c1", "v1")
        response.set_cookie("c2", "v2")
        return response

    route = served(respond)
    html = http.get(route, params={"kind": "html"})
    assert (html.status_code, html.text, html.headers["x-a"]) == (201, "<p>", "1")
    redirect = http.get(route, params={"kind": "redirect"})
    assert (redirect.status_code, redirect.headers["location"]) == (307, "/elsewhere")
    empty = http.get(route, params={"kind": "empty"})
    assert (empty.status_code, empty.content) == (204, b"")
    cookies = http.get(route, params={"kind": "cookies"}).headers.get_list("set-cookie")
    assert [cookie.split(";")[0] for cookie in cookies] == ["c1=v1", "c2=v2"]
    http.cookies.clear()


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async"])
def test_response_with_background_task(served, http, is_async):
    """A background task of a response runs (RP2)."""

    class Background:
        def __init__(self):
            self.ran = threading.Event()

        def ran_yet(self, request):
            return self.ran.wait(WAIT_S)

        def respond(self, request):
            return Response("sent", background=BackgroundTask(self.ran.set))

        async def respond_async(self, request):
            return Response("sent", background=BackgroundTask(self.ran.set))

    route = served(Background, config={"http_methods": "*"})
    method = "respond_async" if is_async else "respond"
    assert http.get(route, headers={"x-serve-call-method": method}).text == "sent"
    assert http.get(route, headers={"x-serve-call-method": "ran_yet"}).json() is True


def with_a_header(request):
    given = request.query_params
    response = StreamingResponse(iter(["x"])) if given["stream"] else Response("x")
    response.raw_headers.append((given["header"].encode(), given["value"].encode()))
    return response


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-a", "a\r\nX-Evil: 1"),
        ("x-a", "a\nb"),
        ("x-a", "a\0b"),
        ("x-a", "\x1b[2J"),
        ("x a", "b"),
        ("x-a: 1\r\nX-Evil", "b"),
        ("", "b"),
    ],
)
def test_header_injection_is_an_error(shared, http, header, value, stream):
    """A control character in a header of user code, or a name that is none, is a 500, never a header (RP2, H13)."""

    given = {"header": header, "value": value, "stream": "1" if stream else ""}
    answer = http.get(shared(with_a_header), params=given)
    assert answer.status_code == 500
    assert "x-evil" not in answer.headers


def give_without_form(request):
    values = {"object": object(), "lock": threading.Lock(), "nan": float("nan"), "fine": "fine"}
    return values[request.query_params["kind"]]


@pytest.mark.parametrize("kind", ["object", "lock", "nan"])
def test_values_without_a_form(shared, http, kind):
    """A value that has no JSON form is a 500, and the replica lives on (RP3)."""

    route = shared(give_without_form)
    assert http.get(route, params={"kind": kind}).status_code == 500
    assert http.get(route, params={"kind": "fine"}).text == "fine"


PAIRS = {
    "dict": ({"error": "none"}, 404),
    "created": ({"id": 1}, 201),
    "none": (None, 204),
    "status": (5, HTTPStatus.CONFLICT),
    "response": (Response("x"), 404),
    "headers": ("x", 400, {"x-a": "1"}),
    "model": (Model(name="n", values=[]), 422),
}
FINE = {
    "numbers": (1, 404),
    "text": ("not found", 404),
    "label": ("apples", 199),
    "strings": ("a", "b"),
    "no status": ("cat", 7),
    "a truth": ("cat", True),
    "three": ("a", 404, 5),
    "list": ["not found", 404],
    "named": collections.namedtuple("Count", "label n")("cat", 404),
    "inside": [("cat", 404)],
}


def pick_tuple(request):
    kind = request.body() if isinstance(request.body(), str) else request.query_params["kind"]
    return {**PAIRS, **FINE}[kind]


@serve.accept_batch
def pick_tuples(requests):
    return [pick_tuple(request) for request in requests]


@pytest.mark.parametrize("code", [pick_tuple, pick_tuples])
def test_a_body_and_a_status_is_an_error(served, http, client, name, code):
    """``return {...}, 404`` is a 500 that says what would be right; other tuples are lists, a label and a count
    whatever the count is, and through a handle a tuple is itself (RP3, RP5)."""
    route = served(code)
    for kind in PAIRS:
        answer = http.get(route, params={"kind": kind})
        assert answer.status_code == 500, kind
        assert "JSONResponse(body, status_code=" in answer.json()["error"], kind
    for kind, value in FINE.items():
        assert http.get(route, params={"kind": kind}).json() == json.loads(json.dumps(value)), kind
    assert client.get_handle(name).remote("text").result() == ("not found", 404)


def test_the_error_says_where_a_value_has_no_form(served, http):
    """What user code returned and HTTP cannot carry is named in the error, with its place (RP3, HE1)."""

    def give(request):
        return {"scores": [1.0, float("nan")]}

    answer = http.get(served(give))
    assert answer.status_code == 500
    assert "$.scores[1] is nan" in answer.json()["error"]


class Predicts:
    def predict(self, request):
        return "predicted"


def test_a_class_without_call(served, http, client, name):
    """Where a call names no method and the class has no ``__call__``, the error says what the class lacks (RQ7)."""
    answer = http.get(served(Predicts))
    assert answer.status_code == 500
    assert "'__call__(self, request)'" in answer.json()["error"]
    assert "predict" in answer.json()["error"]
    handle = client.get_handle(name)
    assert handle.options(method_name="predict").remote().result() == "predicted"
    with pytest.raises(ServeException, match="__call__"):
        handle.remote().result()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "page.txt"
    path.write_bytes(bytes(range(256)) * 1000)
    return str(path)


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async"])
def test_a_file_has_its_length_and_its_ranges(served, http, page, is_async):
    """A FileResponse keeps its content-length, answers ranges with 206 and bad ones with 416, and HEAD with the same
    headers as GET and no body (RP2, HT5)."""

    def give(request):
        return FileResponse(page)

    async def give_async(request):
        return FileResponse(page)

    route, content = served(give_async if is_async else give), bytes(range(256)) * 1000
    whole = http.get(route)
    assert (whole.status_code, whole.content) == (200, content)
    assert whole.headers["content-length"] == str(len(content))
    assert "transfer-encoding" not in whole.headers
    for given, status, expected in [
        ("bytes=0-9", 206, content[:10]),
        ("bytes=-5", 206, content[-5:]),
        ("bytes=255990-", 206, content[255990:]),
        ("bytes=256000-", 416, None),
        (f"bytes=0-{len(content)}", 206, content),
    ]:
        part = http.get(route, headers={"range": given})
        assert part.status_code == status, given
        if expected is None:
            assert part.headers["content-range"] == f"bytes */{len(content)}"
        else:
            assert part.content == expected, given
            assert part.headers["content-length"] == str(len(expected)), given
            assert part.headers["content-range"].startswith("bytes "), given
    several = http.get(route, headers={"range": "bytes=0-1,5-6"})
    assert several.headers["content-type"].startswith("multipart/byteranges")
    assert several.headers["content-length"] == str(len(several.content))
    stale = http.get(route, headers={"range": "bytes=0-9", "if-range": '"other"'})
    assert (stale.status_code, len(stale.content)) == (200, len(content))
    for headers in ({}, {"range": "bytes=0-9"}, {"range": "bytes=256000-"}):
        get, head = http.get(route, headers=headers), http.head(route, headers=headers)
        assert (head.status_code, head.content) == (get.status_code, b"")
        assert _lasting(head.headers) == _lasting(get.headers)


def _lasting(headers):
    """Headers that do not change from one answer to the next."""
    return {name: value for name, value in headers.items() if name not in ("date", "x-serve-request-id")}


def test_head_of_any_answer(served, http):
    """HEAD has the status and the headers of GET and no body, also where user code answers it by itself (HT5)."""

    def give(request):
        kind = request.query_params["kind"]
        if kind == "own":  # it does not make the body that it tells the length of
            known = Response(headers={"content-length": "5", "x-own": "1"})
            return known if request.method == "HEAD" else Response(b"12345", headers={"x-own": "1"})
        return {"json": {"a": 1}, "stream": StreamingResponse(iter(["a"]), headers={"x-a": "1"}), "none": None}[kind]

    route = served(give)
    for kind in ("own", "json", "none", "stream"):
        get, head = http.get(route, params={"kind": kind}), http.head(route, params={"kind": kind})
        assert (head.status_code, head.content) == (200, b"")
        theirs = _lasting(get.headers)
        theirs.pop("transfer-encoding", None)  # of a body that is not there
        assert _lasting(head.headers) == theirs
        assert http.get(route, params={"kind": "json"}).json() == {"a": 1}, "the connection goes on"


class Shouting(Response):
    """Sends itself in its own way."""

    async def __call__(self, scope, receive, send):
        headers = [(b"x-path", scope["path"].encode()), (b"content-length", b"4")]
        await send({"type": "http.response.start", "status": 203, "headers": headers})
        await send({"type": "http.response.body", "body": self.body.upper()})


class Wrapped(JSONResponse):
    """Adds to what its base sends."""

    async def __call__(self, scope, receive, send):
        async def send_more(message):
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-more", b"1"))
            await send(message)

        await super().__call__(scope, receive, send_more)


class Silent(Response):
    async def __call__(self, scope, receive, send):
        """Sends nothing."""


class Broken(Response):
    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"less"})


OWN = {"shouting": lambda: Shouting("text"), "wrapped": lambda: Wrapped({"a": 1}), "silent": Silent, "broken": Broken}


def pick_own(request):
    return OWN[request.query_params["kind"]]()


async def pick_own_async(request):
    return pick_own(request)


@pytest.mark.parametrize("code", [pick_own, pick_own_async])
def test_a_response_that_sends_itself(served, http, name, code):
    """A Response subclass with its own ``__call__`` is run; one that sends no whole answer is an error (RP2)."""
    route = served(code)
    shouting = http.get(route, params={"kind": "shouting"})
    assert (shouting.status_code, shouting.text, shouting.headers["x-path"]) == (203, "TEXT", f"/{name}")
    assert shouting.headers["content-length"] == "4"
    wrapped = http.get(route, params={"kind": "wrapped"})
    assert (wrapped.json(), wrapped.headers["x-more"]) == ({"a": 1}, "1")
    assert http.get(route, params={"kind": "silent"}).status_code == 500
    with pytest.raises(httpx.RemoteProtocolError):
        http.get(route, params={"kind": "broken"})


def test_errors_of_user_code(served, http, client, name):
    """An exception is a 500 without inner details; through a handle it is itself (HE1, HA4, S13)."""

    class Whoops(Exception):
        pass

    def fail(request):
        raise Whoops("secret /etc/path")

    answer = http.get(served(fail))
    assert answer.status_code == 500
    body = answer.json()
    assert body["error_id"] == answer.headers["x-request-id"]
    assert "Whoops" in body["error"]
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    plain = http.get(f"/{name}", headers={"accept": "text/plain"})
    assert plain.headers["content-type"].startswith("text/plain")
    with pytest.raises(Whoops, match="secret") as caught:
        client.get_handle(name).remote().result()
    assert "in fail" in str(caught.value.__cause__)


def test_exits_are_contained(served, http):
    """User code that calls sys.exit fails its own request only (F39)."""

    def leave(request):
        if request.query_params.get("leave"):
            raise SystemExit(3)
        return "here"

    route = served(leave)
    assert http.get(route, params={"leave": "1"}).status_code == 500
    assert http.get(route).text == "here"


def test_unjsonable_through_a_handle(served, client, name):
    """Through a handle any picklable object arrives; one that is not says so (RP5)."""

    def give(request):
        return {1, 2} if request.body() else threading.Lock()

    served(give)
    assert client.get_handle(name).remote(1).result() == {1, 2}
    with pytest.raises(UserCodeError, match="pickled"):
        client.get_handle(name).remote(0).result()
