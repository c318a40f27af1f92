"""ingress.door on connections: who is let in, what user code learns of them, and what everybody else is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import pointsman as serve
from pointsman.ingress.door import OPEN_PATHS
from pointsman.lock.keys import specs_of
from pointsman.lock.origins import CorsSpec
from pointsman.testing import run, settle
from pointsman.wire.handover import LockSettings
from tests.loop.edge import LIMIT, SOON_S, Client, Edge, edge

WAYS = pytest.mark.parametrize("middlewares", [False, True], ids=["direct", "with middlewares"])
ANN, BOB = "anns-secret", "bobs-secret"


def keys(**limits: Any) -> LockSettings:
    """Ann opens everything; Bob opens what the limits say."""
    return LockSettings(keys=specs_of([serve.ApiKey("ann", ANN), serve.ApiKey("bob", BOB, **limits)]))


def headers_of(there: Edge, index: int = -1) -> list[tuple[str, str]]:
    """What user code gets of a request."""
    got = there.replica.arrived[index].request.headers
    return [(name.decode(), value.decode("latin-1")) for name, value in got if name != b"x-request-id"]


def line(client: Client, name: str) -> list[str]:
    """Values of a header in the answers."""
    lines = [line.partition(": ") for line in client.data.decode("latin-1").split("\r\n")]
    return [value for found, _, value in lines if found.lower() == name]


async def ask(there: Edge, *lines: str, path: str = "/b", method: str = "POST") -> tuple[int, Client]:
    """Send one request with these lines on a connection of its own."""
    client = await there.client()
    client.send("\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode("latin-1"))
    return (await there.answered(client))[0], client


# --- keys -------------------------------------------------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize(
    "lines",
    [
        [f"Authorization: Bearer {ANN}"],
        [f"AUTHORIZATION: bEaReR   {ANN}  "],
        [f"X-API-Key: {ANN}"],
        [f"x-api-key: {ANN}", f"authorization: Bearer {ANN}"],
    ],
)
def test_a_key_lets_in_and_goes_no_further(middlewares: bool, lines: list[str]) -> None:
    """User code gets the name of the key, and the key nowhere (ED2, ED3)."""

    async def main() -> None:
        async with edge(middlewares=middlewares, lock=keys()) as there:
            for _ in range(2):  # the second one is known already
                status, _ = await ask(there, *lines, "X-Other: y")
                assert status == 200
                got = headers_of(there)
                assert got.count(("x-serve-key-name", "ann")) == 1
                assert ("x-other", "y") in got
                assert not any(ANN in value for _, value in got)

    run(main())


@WAYS
@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["Authorization: Bearer"],
        ["Authorization: Bearer "],
        ["X-API-Key: "],
        [f"Authorization: {ANN}"],
        [f"Authorization: Basic {ANN}"],
        [f"Authorization: Bearer {ANN}x"],
        [f"Authorization: Bearer {ANN[:-1]}"],
        [f"Authorization: Bearer {ANN.upper()}"],
        [f"Authorization: Bearer {ANN},{ANN}"],
        [f"Authorization: Bearer {ANN}", f"Authorization: Bearer {ANN}"],
        [f"Authorization: Bearer {ANN}", "Authorization: Bearer no"],
        [f"X-API-Key: {ANN}", f"X-API-Key: {BOB}"],
        [f"X-API-Key: {ANN}", f"Authorization: Bearer {BOB}"],
        [f"X-API-Key: Bearer {ANN}"],
        [f"X_API_Key: {ANN}"],
        ["X-API-Key: \xff\xfe\xe4"],
        [f"X-API-Key: {'k' * 8000}"],
        ["X-Serve-Key-Name: ann"],
    ],
)
def test_whoever_shows_no_key_is_told_how(middlewares: bool, lines: list[str]) -> None:
    """No key, a wrong one, two of them, or one at another place: 401, before anything is known of routes (ED2)."""

    async def main() -> None:
        async with edge(middlewares=middlewares, lock=keys()) as there:
            for path in ("/b", "/no-such", "/-/routes", "/-/healthz/", "//-/healthz", "/-/health%7A"):
                status, client = await ask(there, *lines, path=path)
                assert status == 401, path
                assert line(client, "www-authenticate") == ['Bearer realm="pointsman"']
                assert client.error["error_id"]
                assert ANN not in client.data.decode("latin-1")
            assert not there.replica.arrived

    run(main())


@WAYS
def test_a_token_of_user_code_stays_where_it_is(middlewares: bool) -> None:
    """Of the two headers one may hold what user code asks for itself; it gets that (ED2, ED3)."""

    async def main() -> None:
        async with edge(middlewares=middlewares, lock=keys()) as there:
            await ask(there, f"X-API-Key: {ANN}", "Authorization: Bearer a.jwt")
            assert ("authorization", "Bearer a.jwt") in headers_of(there)
            await ask(there, "X-API-Key: theirs", f"Authorization: Bearer {BOB}")
            assert ("x-api-key", "theirs") in headers_of(there)
            assert ("x-serve-key-name", "bob") in headers_of(there)

    run(main())


@WAYS
@pytest.mark.parametrize("lock", [LockSettings(), keys()], ids=["open", "keys"])
@pytest.mark.parametrize("name", ["X-Serve-Key-Name", "x-serve-key-name", "X_SERVE_KEY_NAME", "x-serve_key-name"])
def test_nobody_says_whose_key_it_is(middlewares: bool, lock: LockSettings, name: str) -> None:
    """A client's own ``x-serve-key-name`` never reaches user code, however it is written, keys or no keys (ED3)."""

    async def main() -> None:
        async with edge(middlewares=middlewares, lock=lock) as there:
            status, _ = await ask(there, f"{name}: root", f"Authorization: Bearer {ANN}", f"{name}: root")
            assert status == 200
            names = [value for name, value in headers_of(there) if name.replace("_", "-") == "x-serve-key-name"]
            assert names == ([] if lock.is_open else ["ann"])

    run(main())


@WAYS
def test_health_is_told_to_everybody(middlewares: bool) -> None:
    """A balancer needs no key to ask for health, and a browser none to ask before it asks (ED2)."""

    async def main() -> None:
        async with edge(middlewares=middlewares, lock=keys()) as there:
            assert (await ask(there, path="/-/healthz", method="GET"))[0] == 200
            assert (await ask(there, path="/-/healthz?x=y", method="HEAD"))[0] == 200
            assert (await ask(there, path="/v2/health/live", method="GET"))[0] == 404, "the routes decide"
            asks = ["Origin: https://a.b", "Access-Control-Request-Method: POST"]
            assert (await ask(there, *asks, method="OPTIONS"))[0] == 405
            assert (await ask(there, asks[0], method="OPTIONS"))[0] == 401
            assert (await ask(there, *asks, method="POST"))[0] == 401

    run(main())
    assert {path.decode() for path in OPEN_PATHS} == {"/-/healthz", "/-/readyz", "/v2/health/live", "/v2/health/ready"}


@pytest.mark.parametrize("twice", [False, True])
def test_what_needs_no_key_does_not_pass_it_on(twice: bool) -> None:
    """A preflight that reaches user code, and shows a key that nobody has asked for, does not show it there (ED3)."""

    async def main() -> None:
        async with edge(methods=("OPTIONS",), lock=keys()) as there:
            lines = [f"Authorization: bearer {ANN}", f"X-API-Key: {BOB}", "X-API-Key: theirs"] * (2 if twice else 1)
            asks = ["Origin: https://a.b", "Access-Control-Request-Method: POST"]
            assert (await ask(there, *asks, *lines, method="OPTIONS"))[0] == 200
            got = headers_of(there)
            assert not [value for _, value in got if ANN in value or BOB in value]
            assert ("x-api-key", "theirs") in got

    run(main())


@WAYS
def test_a_key_for_other_endpoints(middlewares: bool) -> None:
    """A key opens the endpoints that it names: elsewhere 403, where nothing is 404 (ED2)."""

    async def main() -> None:
        async with edge(middlewares=middlewares, lock=keys(endpoints=["not-there-yet"])) as there:
            status, client = await ask(there, f"X-API-Key: {BOB}")
            assert (status, client.error["reason"]) == (403, "rejected")
            assert (await ask(there, f"X-API-Key: {BOB}", path="/no-such"))[0] == 404
            assert (await ask(there, f"X-API-Key: {ANN}"))[0] == 200
        async with edge(middlewares=middlewares, lock=keys(endpoints=["b"])) as there:
            assert (await ask(there, f"X-API-Key: {BOB}"))[0] == 200

    run(main())


def test_a_middleware_that_forgets_the_key() -> None:
    """A middleware that makes another scope opens nothing: the app does not find who has asked (ED2)."""

    async def main() -> None:
        async def forgetful(scope: dict[str, Any], receive: Any, send: Any) -> None:
            await there.app({name: scope[name] for name in scope if not name.startswith("pointsman.")}, receive, send)

        async with edge(middlewares=True, app=forgetful, lock=keys()) as there:
            assert (await ask(there, f"X-API-Key: {ANN}"))[0] == 401
            assert not there.replica.arrived

    run(main())


@WAYS
def test_new_keys_count_from_then_on(middlewares: bool) -> None:
    """A key that was taken away opens nothing, also on a connection that is open; what is used up stays so (ED2)."""

    async def main() -> None:
        async with edge(middlewares=middlewares, lock=keys(rate=0.001)) as there:
            client = await there.client()
            client.head(x_api_key=ANN)
            assert await there.answered(client) == [200]
            assert (await ask(there, f"X-API-Key: {BOB}"))[0] == 200
            there.door.use_keys(specs_of([serve.ApiKey("bob", BOB, rate=0.001), serve.ApiKey("eve", "new")]))
            client.head(x_api_key=ANN)
            assert await there.answered(client, 2) == [200, 401]
            assert (await ask(there, f"X-API-Key: {BOB}"))[0] == 429
            assert (await ask(there, "X-API-Key: new"))[0] == 200

    run(main())


@WAYS
@pytest.mark.parametrize(
    ("size", "goes_on"),
    [("Content-Length: 5", True), (f"Content-Length: {LIMIT}", False), ("Expect: 100-continue", False)],
)
def test_nothing_large_is_received_of_strangers(middlewares: bool, size: str, goes_on: bool) -> None:
    """Whoever is not let in is told so before the body, and a connection on which a large one comes is closed (ED2)."""

    async def main() -> None:
        async with edge(middlewares=middlewares, lock=keys()) as there:
            client = await there.client()
            length = "" if size.startswith("Content-Length") else "Content-Length: 5\r\n"
            client.send(f"POST /b HTTP/1.1\r\nHost: x\r\n{length}{size}\r\n\r\n".encode())
            await asyncio.sleep(SOON_S)
            assert client.statuses == [401]
            assert b"100 Continue" not in client.data
            assert (client.closed_at is None) is goes_on
            if goes_on:
                client.send(b"12345")
                client.head(x_api_key=ANN, method="POST")
                assert await there.answered(client, 2) == [401, 200]

    run(main())


# --- limits -----------------------------------------------------------------------------------------------------------


@WAYS
def test_a_rate(middlewares: bool) -> None:
    """Behind its burst a key is let in as its rate says, and told when to come again; others are not held up (ED4)."""

    async def main() -> None:
        async with edge(middlewares=middlewares, lock=keys(rate=0.5, burst=2)) as there:
            loop, seen = asyncio.get_running_loop(), []
            began = loop.time()
            while loop.time() < began + 20:
                seen.append(await ask(there, f"X-API-Key: {BOB}"))
            let_in = [status for status, _ in seen if status == 200]
            assert len(let_in) == pytest.approx(2 + 10, abs=1)
            refused = [client for status, client in seen if status == 429]
            assert len(let_in) + len(refused) == len(seen)
            assert {value for client in refused for value in line(client, "retry-after")} == {"1", "2"}
            assert (await ask(there, f"X-API-Key: {ANN}"))[0] == 200

    run(main())


@WAYS
def test_requests_under_way(middlewares: bool) -> None:
    """As many requests of a key are under way as it says; each end makes room, also that of a client that leaves
    (ED4)."""

    async def main() -> None:
        async with edge(middlewares=middlewares, lock=keys(max_in_flight=2)) as there:
            clients = [await there.client() for _ in range(3)]
            for client in clients:
                client.head(x_api_key=BOB)
                await asyncio.sleep(SOON_S)
            assert [client.statuses for client in clients] == [[], [], [429]]
            assert line(clients[2], "retry-after") == ["1"]
            clients[0].leave()
            await asyncio.sleep(SOON_S)
            clients[2].head(x_api_key=BOB)
            await asyncio.sleep(SOON_S)
            assert clients[2].statuses == [429]
            there.replica.calls.pop(next(iter(there.replica.cancelled)), None)
            assert await there.answered(clients[1]) == [200]
            assert clients[2].statuses == [429, 200]
            for _ in range(5):
                assert (await ask(there, f"X-API-Key: {BOB}", path="/no-such"))[0] == 404, "which ends, too"

    run(main())


# --- pages ------------------------------------------------------------------------------------------------------------

PAGES = LockSettings(keys=keys().keys, cors=CorsSpec(("https://a.b",), ("POST",), allow_credentials=True))


@WAYS
def test_every_answer_says_which_page_may_read_it(middlewares: bool) -> None:
    """Answers of user code and errors of ours have the headers of CORS, and those of user code give way (ED5)."""

    async def main() -> None:
        async with edge(middlewares=middlewares, lock=PAGES) as there:
            page, key = "Origin: https://a.b", f"X-API-Key: {ANN}"
            for status, lines, path in ((200, [page, key], "/b"), (401, [page], "/b"), (404, [page, key], "/no")):
                found, client = await ask(there, *lines, path=path)
                assert found == status
                assert line(client, "access-control-allow-origin") == ["https://a.b"]
                assert line(client, "access-control-allow-credentials") == ["true"]
                assert line(client, "vary") == ["Origin"]
            for lines in ([key], [key, "Origin: https://evil"], [key, "Origin: null"]):
                found, client = await ask(there, *lines)
                assert found == 200
                assert not line(client, "access-control-allow-origin")
                assert line(client, "vary") == ["Origin"]
            client = await there.client()
            client.head(x_api_key=ANN, origin="https://a.b")
            await asyncio.sleep(SOON_S)
            there.replica.reply(headers=[(b"access-control-allow-origin", b"*"), (b"vary", b"accept")])
            await settle()
            assert line(client, "access-control-allow-origin") == ["https://a.b"]
            assert sorted(line(client, "vary")) == ["Origin", "accept"]

    run(main())


@WAYS
def test_preflights_are_answered_at_the_edge(middlewares: bool) -> None:
    """A browser that asks before it asks gets its answer without a key, on every path (ED5)."""

    async def main() -> None:
        async with edge(middlewares=middlewares, lock=PAGES) as there:
            asks = ["Access-Control-Request-Method: POST", "Access-Control-Request-Headers: content-type"]
            for path in ("/b", "/no-such", "/-/routes"):
                status, client = await ask(there, "Origin: https://a.b", *asks, method="OPTIONS", path=path)
                assert status == 200
                assert line(client, "access-control-allow-origin") == ["https://a.b"]
                assert line(client, "access-control-allow-methods") == ["POST"]
            status, client = await ask(there, "Origin: https://evil", *asks, method="OPTIONS")
            assert status == 400
            assert client.data.endswith(b"Disallowed CORS origin")
            assert not line(client, "access-control-allow-origin")
            assert not there.replica.arrived

    run(main())


@WAYS
@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://a.b", 200),
        ("http://X", 200),
        ("https://evil", 403),
        ("null", 403),
        ("", 403),
        ("x", 403),
        ("://x", 403),
    ],
)
def test_pages_of_other_origins_get_no_socket(middlewares: bool, origin: str, status: int) -> None:
    """A browser lets any page open a socket, so the server asks where it comes from: from itself, or from an origin
    that CORS allows (ED5)."""

    async def main() -> None:
        async with edge(middlewares=middlewares, lock=PAGES) as there:
            upgrade = ["Upgrade: WebSocket", "Connection: Upgrade", f"X-API-Key: {ANN}"]
            assert (await ask(there, f"Origin: {origin}", *upgrade))[0] == status
            assert (await ask(there, *upgrade))[0] == 200, "no browser"

    run(main())


@WAYS
@pytest.mark.parametrize("lines", [["Origin: https://a.b"], ["Origin: https://evil", f"X-API-Key: {ANN}"]])
def test_what_follows_a_handshake_that_is_not_let_in_is_no_request(middlewares: bool, lines: list[str]) -> None:
    """A request behind a handshake without a key, or from another origin, never runs: a proxy may have taken it for
    frames, and not looked at it (ED2, ED5)."""
    key = ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]

    async def main() -> None:
        async with edge(middlewares=middlewares, lock=PAGES) as there:
            _, client = await ask(there, "Upgrade: websocket", "Connection: Upgrade", *key, *lines, method="GET")
            client.send(f"POST /b HTTP/1.1\r\nHost: x\r\nX-API-Key: {ANN}\r\n\r\n".encode())
            await asyncio.sleep(1)
            assert len(client.statuses) == 1
            assert client.closed_at is not None

    run(main())


# --- hosts and proxies ------------------------------------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize(
    ("request_line", "host", "status"),
    [
        ("POST /b HTTP/1.1", "a.b:8000", 200),
        ("POST /b HTTP/1.1", "A.B", 200),
        ("POST /b HTTP/1.1", "[::1]:8000", 200),
        ("POST /b HTTP/1.1", "evil", 400),
        ("POST /b HTTP/1.1", "", 400),
        ("POST http://a.b/b HTTP/1.1", "evil", 400),
        ("GET /-/healthz HTTP/1.1", "evil", 400),
        ("POST /b HTTP/1.0", "a.b", 200),
        ("POST /b HTTP/1.0", None, 400),
    ],
)
def test_hosts(middlewares: bool, request_line: str, host: str | None, status: int) -> None:
    """A request for another host is refused, as is one of HTTP/1.0 that names none (ED6)."""

    async def main() -> None:
        async with edge(middlewares=middlewares, lock=LockSettings(allowed_hosts=("a.b", "[::1]"))) as there:
            client = await there.client()
            lines = [request_line, *([] if host is None else [f"Host: {host}"]), "", ""]
            client.send("\r\n".join(lines).encode())
            assert await there.answered(client) == [status]

    run(main())


@WAYS
@pytest.mark.parametrize("trusted", [(), ("*",), ("10.0.0.0/8",)])
def test_the_word_of_proxies(middlewares: bool, trusted: tuple[str, ...]) -> None:
    """Client and scheme are what a trusted proxy says; nobody else's word counts (ED6)."""

    async def main() -> None:
        async with edge(middlewares=middlewares, lock=LockSettings(trusted_proxies=trusted)) as there:
            await ask(there, "X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https")
            got = there.replica.arrived[0].request
            assert (got.client, got.scheme) == (
                (("6.6.6.6", 0), "https") if trusted == ("*",) else (got.client, "http")
            )
            assert trusted == ("*",) or got.client != ("6.6.6.6", 0)

    run(main())


# --- TLS --------------------------------------------------------------------------------------------------------------


def test_a_slow_reader_gets_all_of_a_last_answer() -> None:
    """An answer behind which the connection ends is not cut though its reader takes longer than TLS waits at its end
    (ED1)."""

    async def main() -> None:
        async with edge() as there:
            client = await there.client()
            connection = there.connections[-1]
            connection._service.secure = True
            client.send(b"POST /b HTTP/1.0\r\nHost: x\r\n\r\n")
            await asyncio.sleep(SOON_S)
            connection.pause_writing()  # as the transport does while its client does not read
            there.replica.reply()
            await asyncio.sleep(60)
            assert client.closed_at is None
            connection.resume_writing()
            assert await there.answered(client) == [200]
            await asyncio.sleep(1)
            assert client.closed_at is not None

    run(main())
