"""Routes, methods, system paths, limits and error answers."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from tests.conftest import WAIT_S, http_for, start_client, wait_until


class Passes:
    """A middleware that does nothing, so that every request goes by ASGI."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)


@pytest.fixture(scope="module", params=[False, True], ids=["direct", "with a middleware"])
def client(request, engine, client):
    """The suite's instance, whose small requests go the direct way, and one on which none does."""
    if not request.param:
        yield client
        return
    with start_client(engine, middlewares=[Middleware(Passes)]) as client:
        yield client


@pytest.fixture(scope="module", name="http")
def over_http(client):
    with http_for(client) as http:
        yield http


def where(request):
    return {"params": request.path_params, "path": request.url.path}


def where_to(client):
    """Host and port."""
    address = urlsplit(client.http_address)
    return address.hostname, address.port


def raw(client, data: bytes) -> bytes:
    """Send bytes as they are and read until the server closes."""
    with socket.create_connection(where_to(client), timeout=WAIT_S) as connection:
        connection.sendall(data)
        answer = b""
        while more := connection.recv(65536):
            answer += more
        return answer


def test_http_1_1_and_nothing_else(served, client):
    """HTTP/1.1 is spoken here, and HTTP/1.0 by those who know no better; neither TLS nor WebSockets (HT1)."""
    route = served(lambda request: "here").encode()
    keeps = raw(client, b"GET %s HTTP/1.1\r\nhost: x\r\n\r\nGET %s HTTP/1.0\r\n\r\n" % (route, route))
    first, second = keeps.split(b"HTTP/1.1 200 OK")[1:]
    assert (b"connection: close" in first, b"connection: close" in second) == (False, True)
    wishes = (
        b"connection: upgrade, close\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: k\r\n"
    )
    assert raw(client, b"GET %s HTTP/1.1\r\nhost: x\r\n%s\r\n" % (route, wishes)).startswith(b"HTTP/1.1 200")
    assert raw(client, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").startswith(b"HTTP/1.1 400")
    with pytest.raises(ssl.SSLError), socket.create_connection(where_to(client), timeout=WAIT_S) as plain:
        ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")


def test_exact_routes(shared, http, name):
    """A route matches its path and nothing else (HT2)."""
    route = shared(where)
    assert http.get(route).status_code == 200
    assert http.get(route + "?a=1").status_code == 200
    for other in (route + "/", route + "/more", route[:-1], route.upper()):
        assert http.get(other).status_code == 404, other


@pytest.mark.parametrize(
    ("template", "path", "params"),
    [
        ("/{id}", "/5", {"id": "5"}),
        ("/{id}/end", "/a%20b/end", {"id": "a b"}),
        ("/{id}", "/a%2Fb", {"id": "a/b"}),
        ("/files/{rest:path}", "/files/a/b%20c/d", {"rest": "a/b c/d"}),
        ("/{a}/{b}", "/x/y", {"a": "x", "b": "y"}),
    ],
)
def test_templates(client, http, standing, name, template, path, params):
    """Parameters of a template arrive decoded (HT3)."""
    client.create_endpoint(name, backend=standing(where), route=f"/{name}{template}")
    assert http.get(f"/{name}{path}").json()["params"] == params
    client.delete_endpoint(name)


@pytest.mark.parametrize("path", ["/", "//", "/a/b", ""])
def test_a_parameter_is_one_segment(client, http, standing, name, path):
    """A parameter takes one segment, and not an empty one (HT3)."""
    client.create_endpoint(name, backend=standing(where), route=f"/{name}/{{id}}")
    assert http.get(f"/{name}{path}").status_code == 404
    client.delete_endpoint(name)


def test_precedence(client, http, name):
    """An exact route beats a template, and more literal segments from the left beat fewer (HT4)."""
    client.create_backend(name, lambda request: "")
    routes = {"exact": "/a/b", "left": "/a/{x}", "right": "/{x}/b", "rest": "/{x:path}"}

    def answering(label):
        return lambda request: label

    for label, route in routes.items():
        client.create_backend(f"{name}-{label}", answering(label))
        client.create_endpoint(f"{name}-{label}", backend=f"{name}-{label}", route=f"/{name}{route}")
    expected = {"/a/b": "exact", "/a/c": "left", "/c/b": "right", "/c/d": "rest", "/x/y/z": "rest"}
    assert {path: http.get(f"/{name}{path}").text for path in expected} == expected
    for label in routes:
        client.delete_endpoint(f"{name}-{label}")
        client.delete_backend(f"{name}-{label}", force=True)
    client.delete_backend(name)


def test_not_found(http):
    """An unknown path is a 404 that points to the list of routes and does not repeat the path (H15)."""
    answer = http.get("/no/such/path-<x>")
    assert answer.status_code == 404
    assert "/-/routes" in answer.json()["error"]
    assert "path-" not in answer.text


def test_method_not_allowed(shared, http):
    """A method that the route does not allow is a 405 that names those it does (HT5, H15)."""
    route = shared(where, methods=("GET", "put"))
    answer = http.post(route)
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "PUT", "HEAD"}
    assert http.put(route).status_code == 200


def test_head(served, http):
    """HEAD answers as GET does, without a body (HT5)."""
    route = served(lambda request: "abc", methods=("GET",))
    answer = http.head(route)
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "3")
    assert answer.headers["content-type"] == http.get(route).headers["content-type"]


def test_head_needs_get(shared, http):
    """A route without GET has no HEAD either (HT5)."""
    assert http.head(shared(where, methods=("POST",))).status_code == 405


def test_system_paths(served, client, http, name):
    """The routes are listed, headless endpoints are not, health is told, and that it is ready, the rest is 404 (HT6,
    PK3, CL2)."""
    client.create_backend(name, where)
    client.create_endpoint(name, backend=name)
    client.create_endpoint(f"{name}-routed", backend=name, route=f"/{name}", methods=["GET", "post"])
    routes = http.get("/-/routes").json()
    assert routes[f"/{name}"] == [f"{name}-routed", ["GET", "POST"]]
    assert name not in routes
    assert http.get("/-/healthz").status_code == 200
    assert (http.get("/-/readyz").status_code, http.get("/-/readyz").json()) == (200, {"ready": True})
    assert http.get("/-/other").status_code == 404
    assert http.post("/-/routes").status_code == 405
    client.delete_endpoint(f"{name}-routed")
    assert f"/{name}" not in http.get("/-/routes").json()


def test_request_ids(served, http):
    """A client's own request id is kept when it is harmless, and replaced otherwise."""
    route = served(lambda request: 1 / 0)
    assert http.get(route, headers={"x-request-id": "my-id.1"}).json()["error_id"] == "my-id.1"
    assert http.get(route, headers={"x-request-id": "evil\tid"}).json()["error_id"] != "evil\tid"


def test_head_limits(client):
    """Over-long request lines and heads are refused, and the connection closes (414, 431)."""
    fine = b"GET /-/healthz?" + b"a" * 8000 + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    assert raw(client, fine).startswith(b"HTTP/1.1 200")
    long_line = b"GET /" + b"a" * 8190 + b" HTTP/1.1\r\nhost: x\r\n\r\n"
    assert raw(client, long_line).startswith(b"HTTP/1.1 414")
    long_field = b"GET / HTTP/1.1\r\nhost: x\r\nx-a: " + b"a" * 8190 + b"\r\n\r\n"
    assert raw(client, long_field).startswith(b"HTTP/1.1 431")
    many = b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 101 + b"\r\n"
    assert raw(client, many).startswith(b"HTTP/1.1 431")
    large = b"GET / HTTP/1.1\r\n" + b"a: " + b"b" * 8000 + b"\r\n"
    assert raw(client, large + (b"c: " + b"b" * 8000 + b"\r\n") * 4 + b"\r\n").startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize(
    "data",
    [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nbad header\r\n\r\n", b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n"],
)
def test_malformed_requests(client, data):
    """A request that is not HTTP is a 400, and the connection closes (H6)."""
    assert raw(client, data).startswith(b"HTTP/1.1 400")


def test_pipelined_rest_of_a_bad_request_never_runs(served, client, http):
    """What follows a malformed request on its connection is thrown away (H6)."""

    class Count:
        calls = 0

        def __call__(self, request):
            self.calls += 1
            return self.calls

    route = served(Count)
    answer = raw(client, b"BAD\r\n\r\nGET " + route.encode() + b" HTTP/1.1\r\nhost: x\r\n\r\n")
    assert answer.count(b"HTTP/1.1") == 1
    assert http.get(route).json() == 1


def seen(request):
    return [request.method, request.url.path, request.body().decode()]


@pytest.mark.parametrize("offer", [b"h2c", b"websocket", b"foo/1"])
@pytest.mark.parametrize("chunked", [False, True])
def test_an_offer_of_another_protocol(shared, client, offer, chunked):
    """`curl --http2 -d ...` and whoever else offers to switch is shared by HTTP/1.1, and the body, which comes in a
    piece of its own, is the body of that request and not the next one (HT1, F28)."""
    route = shared(seen, methods=("GET", "POST")).encode()
    body = b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n" % route
    framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % len(body)
    head = b"POST %s HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: %s\r\n%s\r\n\r\n"
    last = b"GET %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % route
    with socket.create_connection(where_to(client), timeout=WAIT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(head % (route, offer, framing))
        connection.sendall((b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body) + last)
        answers = connection.makefile("rb").read().split(b"HTTP/1.1 200 OK")[1:]
    bodies = [json.loads(answer.partition(b"\r\n\r\n")[2]) for answer in answers]
    assert bodies == [["POST", route.decode(), body.decode()], ["GET", route.decode(), ""]]


def test_no_tunnels(shared, client):
    """CONNECT is refused, and what follows it is not a request (HT1, F28)."""
    route = shared(seen, methods=("GET", "CONNECT")).encode()
    inner = b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n" % route
    for target in (route, b"example.org:443"):
        for length in (b"", b"content-length: %d\r\n" % len(inner)):
            answer = raw(client, b"CONNECT %s HTTP/1.1\r\nhost: x\r\n%s\r\n%s" % (target, length, inner))
            assert answer.startswith(b"HTTP/1.1 501")
            assert answer.count(b"HTTP/1.1") == 1


def test_the_whole_address_as_a_target(shared, client):
    """A target may name the host, as proxies write it (HT2)."""
    route = shared(seen).encode()
    answer = raw(client, b"GET http://some.host%s HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % route)
    assert answer.endswith(b'["GET","%s",""]' % route)
    answer = raw(client, b"GET http://some.host?a=1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 200"))


def test_a_stream_to_an_old_client(served, client):
    """HTTP/1.0 knows no chunks: pieces come as they are, and the connection ends with the answer (HT1)."""

    def pieces(request):
        yield "one,"
        yield "two"

    answer = raw(client, b"GET %s HTTP/1.0\r\n\r\n" % served(pieces).encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert (b"transfer-encoding" in head.lower(), b"connection: close" in head, body) == (False, True, b"one,two")


def test_a_stream_to_an_old_client_that_breaks(served, client):
    """Without chunks only a reset tells an answer that broke from one that ended (HT1)."""

    def pieces(request):
        yield "one,"
        raise ValueError("broken")

    with pytest.raises(ConnectionResetError):
        raw(client, b"GET %s HTTP/1.0\r\n\r\n" % served(pieces).encode())


def test_two_requests_on_one_connection(served, client):
    """Pipelined requests are answered in order, and each answer is its own."""
    route = served(lambda request: request.query_params["n"])
    request = b"GET %s?n=%d HTTP/1.1\r\nhost: x\r\nconnection: %s\r\n\r\n"
    path = route.encode()
    answer = raw(client, request % (path, 1, b"keep-alive") + request % (path, 2, b"close"))
    assert [line[-1:] for line in answer.split(b"HTTP/1.1 200 OK")[1:]] == [b"1", b"2"]


DEADLINE_S = 1.0


@pytest.fixture(scope="module")
def small(engine):
    """An instance with small limits, a debug switch and a middleware. Where a test is not about the deadline its
    endpoint has a longer one, since a busy machine may take its time."""
    cors = Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"])
    limits = {"max_body_bytes": 1000, "request_timeout_s": DEADLINE_S}
    client = start_client(engine, debug=True, middlewares=[cors], processes=2, **limits)
    yield client
    client.shutdown()


def test_body_limit(small, name):
    """A body over the limit is a 413, with or without a declared length; one at the limit is served (413)."""
    small.create_backend(name, lambda request: len(request.body()))
    small.create_endpoint(name, backend=name, route=f"/{name}", methods=["POST"], request_timeout_s=WAIT_S)
    with http_for(small) as http:
        assert http.post(f"/{name}", content=b"x" * 1000).json() == 1000
        assert http.post(f"/{name}", content=b"x" * 1001).status_code == 413
        assert http.post(f"/{name}", content=iter([b"x" * 600, b"x" * 600])).status_code == 413


def test_a_refused_body_is_not_asked_for(small, name):
    """A client that announces too much is not told to continue (F27)."""
    small.create_backend(name, lambda request: "")
    small.create_endpoint(name, backend=name, route=f"/{name}", methods=["POST"])
    head = b"POST /%s HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 10737418240\r\n\r\n"
    answer = raw(small, head % name.encode())
    assert answer.startswith(b"HTTP/1.1 413")


def test_deadline_of_a_running_request(small, name):
    """A request that runs past its deadline is a 504 (HE2)."""
    small.create_backend(name, Slow)
    small.create_endpoint(name, backend=name, route=f"/{name}")
    with http_for(small) as http:
        answer = http.get(f"/{name}")
        assert answer.status_code == 504
        assert answer.json()["reason"] == "deadline"


def test_deadline_of_a_waiting_request(small, name):
    """A request that never got a replica before its deadline is a 503 with Retry-After (HE2)."""
    small.create_backend(name, Slow, config={"max_concurrent_queries": 1})
    small.create_endpoint(name, backend=name, route=f"/{name}")
    answers: list[httpx.Response] = []

    def ask():
        with http_for(small) as http:
            answers.append(http.get(f"/{name}"))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Which of them ran is not told: when the first gives up, the next may be sent in its last millisecond.
    assert {answer.status_code for answer in answers} <= {503, 504}
    assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 503)


class Slow:
    """Answers only when it is cancelled, or after a minute."""

    async def __call__(self, request):
        import asyncio

        await asyncio.sleep(60)


def test_full_queue(small, name):
    """With no room in the queue a request is refused at once, with Retry-After (BC5)."""
    small.create_backend(name, Slow, config={"max_concurrent_queries": 1, "max_queued_queries": 0})
    small.create_endpoint(name, backend=name, route=f"/{name}")
    address = urlsplit(small.http_address)
    busy = [http.client.HTTPConnection(address.hostname, address.port) for _ in range(8)]
    for connection in busy:
        connection.request("GET", f"/{name}")
    statuses = [connection.getresponse() for connection in busy]
    refused = [answer for answer in statuses if answer.status == 503]
    assert refused
    assert all(answer.headers["retry-after"] for answer in refused)


def test_debug_shows_tracebacks(small, name):
    """With the debug switch the body has the traceback (HE1)."""

    def fail(request):
        raise ValueError("detail")

    small.create_backend(name, fail)
    small.create_endpoint(name, backend=name, route=f"/{name}", request_timeout_s=WAIT_S)
    with http_for(small) as http:
        assert "in fail" in http.get(f"/{name}").json()["traceback"]


def test_middleware_sees_everything(small):
    """A CORS middleware answers OPTIONS and covers the system paths (LO4, HT9)."""
    with http_for(small) as http:
        headers = {"origin": "http://a.b", "access-control-request-method": "GET"}
        assert http.options("/-/routes", headers=headers).status_code == 200
        assert http.get("/-/routes", headers=headers).headers["access-control-allow-origin"] == "*"


class Signs:
    """Writes its name into each answer's header, behind the names that are there."""

    def __init__(self, app, name):
        self.app = app
        self.name = name

    async def __call__(self, scope, receive, send):
        async def sign(message):
            if message["type"] == "http.response.start":
                before = dict(message["headers"]).get(b"x-signed", b"")
                others = [header for header in message["headers"] if header[0] != b"x-signed"]
                message = {**message, "headers": [*others, (b"x-signed", before + self.name.encode())]}
            await send(message)

        await self.app(scope, receive, sign)


def test_middlewares_wrap_in_list_order(engine):
    """The first middleware is next to the app, the last one sees everything first and last; also what goes wrong, and
    system paths (HT9)."""
    with start_client(engine, middlewares=[Middleware(Signs, name="a"), Middleware(Signs, name="b")]) as client:
        client.deploy("here", lambda request: "here", route="/here")
        with http_for(client) as http:
            for path, status in (("/here", 200), ("/no-such", 404), ("/-/routes", 200)):
                answer = http.get(path)
                assert (answer.status_code, answer.headers["x-signed"]) == (status, "ab")


def test_two_ingress_processes(small, name):
    """Every process that shares the port knows a new route when create_endpoint returns (CL4, CE9)."""
    assert len(small.status()["http"]["ingresses"]) == 2
    small.create_backend(name, lambda request: "here")
    for number in range(5):
        small.create_endpoint(f"{name}{number}", backend=name, route=f"/{name}/{number}", request_timeout_s=WAIT_S)
        for _ in range(8):
            with http_for(small) as fresh_connection:
                assert fresh_connection.get(f"/{name}/{number}").text == "here"


class Witness:
    """Notes whether its requests were cancelled."""

    def __init__(self):
        self.running = 0
        self.cancelled = 0

    async def __call__(self, request):
        import asyncio

        self.running += 1
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    def counts(self, request):
        return {"running": self.running, "cancelled": self.cancelled}


def test_a_client_that_leaves_cancels_its_request(served, client, http):
    """When the client disconnects, the async callable is cancelled and the slot returned (HT10)."""
    route = served(Witness, config={"max_concurrent_queries": 2, "http_methods": ["counts"]})

    def counts():
        return http.get(route, headers={"x-serve-call-method": "counts"}).json()

    connection = socket.create_connection(where_to(client))
    connection.sendall(b"GET " + route.encode() + b" HTTP/1.1\r\nhost: x\r\n\r\n")
    wait_until(lambda: counts()["running"] == 1, what="the request runs")
    connection.close()
    wait_until(lambda: counts() == {"running": 0, "cancelled": 1}, what="the request is cancelled")
