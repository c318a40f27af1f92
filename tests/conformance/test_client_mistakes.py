"""What a client has done wrong is answered as such, and is no error of the backend (HE4)."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import fastapi
import httpx
import pytest
from starlette.exceptions import HTTPException

import pointsman as serve
from tests.metrics import scrape, scrape_when

HEADERS = {"WWW-Authenticate": "Basic", "X-Why": "because"}
RAISED = {
    "starlette": (lambda: HTTPException(404, "no such model"), 404, "text/plain; charset=utf-8", "no such model"),
    "by name": (lambda: HTTPException(status_code=402), 402, "text/plain; charset=utf-8", "Payment Required"),
    "fastapi": (
        lambda: fastapi.HTTPException(status_code=422, detail="too long", headers=HEADERS),
        422,
        "application/json",
        '{"detail":"too long"}',
    ),
    "object": (lambda: fastapi.HTTPException(409, {"at": {1}}), 409, "application/json", '{"detail":{"at":[1]}}'),
    "headers": (lambda: HTTPException(401, "who?", headers=HEADERS), 401, "text/plain; charset=utf-8", "who?"),
    "redirect": (lambda: HTTPException(307, "", headers={"location": "/x"}), 307, "text/plain; charset=utf-8", ""),
    "empty": (lambda: HTTPException(304, headers=HEADERS), 304, None, ""),
    "server": (lambda: HTTPException(503, "later", {"retry-after": "7"}), 503, "text/plain; charset=utf-8", "later"),
}


def raise_it(request):
    kind = request.query_params["kind"]
    raise RAISED[kind][0]()


async def raise_it_async(request):
    raise_it(request)


async def raise_in_a_stream(request):
    raise_it(request)
    yield "never"


@serve.accept_batch
def raise_for_a_batch(requests):
    raise_it(requests[0])


@serve.accept_batch
async def give_exceptions(requests):
    return [RAISED[request.query_params["kind"]][0]() for request in requests]


def errors_of(client: serve.Client, name: str) -> float:
    return scrape(client).sum("serve_backend_error_counter", backend=name)


CODES = [raise_it, raise_it_async, raise_in_a_stream, raise_for_a_batch, give_exceptions]


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.__name__)
def test_an_http_exception_is_its_answer(served, http, client, name, code):
    """An HTTPException of Starlette or FastAPI is answered with its status, detail and headers, from whatever kind of
    code, and counts as no error (HE4)."""
    route = served(code)
    for kind, (make, status, content_type, text) in RAISED.items():
        answer = http.get(route, params={"kind": kind})
        assert (answer.status_code, answer.text) == (status, text), kind
        assert answer.headers.get("content-type") == content_type, kind
        for header, value in (make().headers or {}).items():
            assert answer.headers[header] == value, kind
    page = scrape_when(client, len(RAISED), "serve_backend_request_counter", backend=name)
    assert page.sum("serve_backend_error_counter", backend=name) == 0


def test_an_http_exception_that_cannot_be_sent_is_an_error(served, http):
    """A status or header that HTTP does not know is a 500, and the replica lives on (HE4, H13)."""

    def unfit(request):
        if request.query_params.get("header"):
            raise HTTPException(400, "x", headers={"X-A": "a\r\nX-Evil: 1"})
        raise HTTPException(99, "x") if request.query_params else HTTPException(400, "fine")

    route = served(unfit)
    assert http.get(route, params={"status": "1"}).status_code == 500
    evil = http.get(route, params={"header": "1"})
    assert evil.status_code == 500
    assert "x-evil" not in evil.headers
    assert http.get(route).text == "fine"


def raise_what_is_asked(request):
    kind = request.body()
    raise RAISED[kind][0]()


@pytest.mark.parametrize("kind", ["starlette", "by name", "fastapi", "object"])
def test_through_a_handle_it_is_the_exception(shared, standing, client, name, kind):
    """Through a handle the exception is itself, with all that it holds, however it was made (HA4, HE4)."""
    shared(raise_what_is_asked)
    made = RAISED[kind][0]()
    with pytest.raises(type(made)) as caught:
        client.get_handle(name).remote(kind).result()
    assert (caught.value.status_code, caught.value.detail) == (made.status_code, made.detail)
    assert caught.value.headers == made.headers
    assert errors_of(client, standing(raise_what_is_asked)) == 0


def read_body(request):
    kind = request.query_params["kind"]
    if kind == "json":
        return request.json()
    if kind == "field":
        return request.form()["name"]
    if kind == "form":
        return sorted(request.form().keys())
    if kind == "guarded":
        try:
            request.json()
        except ValueError:
            return "guarded"
    if kind == "missing key":
        return request.json()["missing"]
    if kind == "later":
        try:
            request.json()
        except json.JSONDecodeError as error:
            raise ValueError("not today") from error
    return json.loads("{own")


async def read_body_async(request):
    kind = request.query_params["kind"]
    if kind == "json":
        return await request.json()
    if kind == "field":
        return (await request.form())["name"]
    if kind == "form":
        return sorted((await request.form()).keys())
    if kind == "guarded":
        try:
            await request.json()
        except ValueError:
            return "guarded"
    if kind == "missing key":
        return (await request.json())["missing"]
    if kind == "later":
        try:
            await request.json()
        except json.JSONDecodeError as error:
            raise ValueError("not today") from error
    return json.loads("{own")


@serve.accept_batch
def read_bodies(requests):
    return [read_body(request) for request in requests]


@serve.accept_batch
async def read_bodies_async(requests):
    return [await read_body_async(request) for request in requests]


FORM = {"content-type": "application/x-www-form-urlencoded"}
BAD = [
    ("json", b"", {}, "not JSON"),
    ("json", b"{bad", {}, "not JSON"),
    ("json", b'{"a":\xff}', {}, "not utf-8"),
    ("json", b"[" * 200_000, {}, "nested too deep"),
    ("form", b"x", {"content-type": "multipart/form-data"}, "not a form"),
    ("form", b"garbage", {"content-type": "multipart/form-data; boundary=b"}, "not a form"),
    ("form", b"&".join([b"a=1"] * 1001), FORM, "not a form"),
    ("field", b"", {}, "no field 'name'"),
    ("field", b"other=1", FORM, "no field 'name'"),
]
CODES = [read_body, read_body_async, read_bodies, read_bodies_async]


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.__name__)
def test_a_bad_body_is_a_400(served, http, client, name, code):
    """A body that is not what user code reads it as is a 400 that says so, and counts as no error; user code that
    catches it has its way, and any other error stays a 500 (HE4)."""
    route = served(code)
    for kind, body, headers, text in BAD:
        answer = http.post(route, params={"kind": kind}, content=body, headers=headers)
        assert answer.status_code == 400, (kind, body[:20], answer.text)
        assert text in answer.json()["error"], (kind, body[:20], answer.text)
        assert answer.json()["error_id"] == answer.headers["x-request-id"]
    assert http.post(route, params={"kind": "guarded"}, content=b"{bad").text == "guarded"
    assert http.post(route, params={"kind": "json"}, content=b"[1]").json() == [1]
    page = scrape_when(client, len(BAD) + 2, "serve_backend_request_counter", backend=name)
    assert page.sum("serve_backend_error_counter", backend=name) == 0
    assert page.sum("serve_http_outcomes_total", endpoint=name, outcome="delivered", reason="bad_body") == len(BAD)
    for kind in ("own", "later", "missing key"):
        assert http.post(route, params={"kind": kind}, content=b"{}" if "key" in kind else b"{").status_code == 500
    assert errors_of(client, name) == 3


@serve.accept_batch
def parse_all(requests):
    return [request.json() for request in requests]


def test_a_bad_member_of_a_batch_has_a_400_of_its_own(client, http, name):
    """The request whose body is bad is told so; those that the whole batch has failed with it get a 500 (HE4)."""
    config = {"max_batch_size": 2, "batch_wait_timeout": 60}
    client.deploy(name, parse_all, route=f"/{name}", config=config)
    handle = client.get_handle(name)
    with ThreadPoolExecutor(2) as pool:
        bodies = [b"{bad", b"[1]"]
        answers = list(pool.map(lambda body: httpx.post(f"{client.http_address}/{name}", content=body), bodies))
    assert [answer.status_code for answer in answers] == [400, 500]
    futures = [handle.remote(body) for body in bodies]
    for future in futures:
        with pytest.raises(json.JSONDecodeError):
            future.result()
    client.delete_endpoint(name)
    client.delete_backend(name)


class Front:
    """Passes its request on, or bytes of its own."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, request):
        kind = request.query_params["kind"]
        handle = serve.connect().get_handle(self.inner)
        return handle.remote(b"{mine" if kind == "own" else request).result()


def parse(request):
    if request.query_params.get("kind") == "http":
        raise HTTPException(status_code=418, detail="teapot")
    return request.json()


def test_a_request_that_was_passed_on(served, client, http, name):
    """A bad body is the client's fault also where an inner backend finds it in the request that it was given; bytes of
    the front's own are the front's (HE4, RQ5)."""
    inner = f"{name}-inner"
    client.create_backend(inner, parse)
    client.create_endpoint(inner, backend=inner)
    try:
        route = served(Front, inner)
        answer = http.post(route, params={"kind": "json"}, content=b"{bad")
        assert answer.status_code == 400
        assert "not JSON" in answer.json()["error"]
        assert http.post(route, params={"kind": "http"}).text == "teapot"
        assert errors_of(client, name) == errors_of(client, inner) == 0
        assert http.post(route, params={"kind": "own"}, content=b"{bad").status_code == 500
    finally:
        client.delete_endpoint(name)
        client.delete_endpoint(inner)
        client.delete_backend(inner)
