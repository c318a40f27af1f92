"""WebSockets from the frames at the edge to an app in a replica, over connections in memory and in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.middleware.trustedhost import TrustedHostMiddleware

from pointsman.ingress.sockets import PING_S, QUIET_S
from pointsman.model import ASGI, ReplicaConfig
from pointsman.replica.apps import GOODBYE_S
from pointsman.testing import MemoryReplica, run, settle
from pointsman.usercode.mounting import asgi
from tests.loop.app_models import SEEN, gate, talk
from tests.loop.apps import fresh_apps
from tests.loop.edge import Client, Edge, edge
from tests.loop.socket_client import connect
from tests.properties import examples

__all__ = ["fresh_apps"]

Test = Callable[[Edge, MemoryReplica], Coroutine[Any, Any, None]]


def at_the_edge(
    test: Test, *, app: Any = talk, config: ReplicaConfig | None = None, surface: str = ASGI, **options: Any
) -> None:
    """Run a test with an edge in front of one replica of an app."""

    async def main() -> None:
        async with MemoryReplica(asgi(app), config=config) as replica:
            async with edge(replica=replica, surface=surface, methods=("*",), **options) as there:
                await test(there, replica)
            await asyncio.sleep(40)
            assert replica.runtime._apps is not None
            assert replica.runtime._apps.sockets == replica.runtime.load == 0, "a place was not given back"

    run(main())


@pytest.mark.parametrize("middlewares", [False, True])
def test_messages_go_both_ways(middlewares: bool) -> None:
    """Text, bytes and fragments come back from an app as they were sent; subprotocol and headers of its handshake,
    close code and reason arrive (WS1)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client, _ = await connect(there, subprotocols=["one", "two"])
        assert client.status == 101
        assert client.response.headers["sec-websocket-protocol"] == "one"
        assert client.response.headers["x-app"] == "yes"
        assert client.response.headers["x-serve-backend"] == "b"
        client.say("grüße")
        client.say(b"\x00" * 700_000)
        client.protocol.send_text(b"a", fin=False)
        client.protocol.send_continuation(b"b", fin=True)
        client.flush()
        await asyncio.sleep(0.1)
        assert client.messages == ["grüße", b"\x00" * 700_000, "ab"]
        client.say("close")
        await asyncio.sleep(0.1)
        assert (client.close_code, client.close_reason) == (4001, "asked to")
        assert client.closed_at is not None

    at_the_edge(test, middlewares=middlewares)


@pytest.mark.slow
@examples(60)
@given(
    messages=st.lists(st.one_of(st.binary(max_size=300), st.text(max_size=50), st.integers(0, 900_000)), max_size=6),
    cut=st.sampled_from([None, 1, 7, 3000]),
)
def test_messages_survive_any_cut(messages: list[bytes | str | int], cut: int | None) -> None:
    """Messages of any size, on a connection that cuts them anywhere, come back in order (WS1)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client, pipe = await connect(there)
        said: list[str | bytes] = [b"n" * each if isinstance(each, int) else each for each in messages]
        if cut is not None:
            if sum(map(len, said)) / cut > 3000:
                pipe.split(3000)
            else:
                pipe.split(cut)
        for message in said:
            client.say(message)
        await asyncio.sleep(5)
        assert client.messages == said
        client.close()
        await asyncio.sleep(0.1)
        assert SEEN[-1:] == [(1000, "")]

    SEEN.clear()
    at_the_edge(test)


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/b/rejects", 403, b""),
        ("/b/denies", 402, b"pay "),
        ("/b/denies-in-parts", 402, b"pay more"),
        ("/b/raises", 500, None),
        ("/c", 404, None),
        ("/-/healthz", 404, None),
    ],
)
def test_a_handshake_can_be_denied(path: str, status: int, body: bytes | None) -> None:
    """What an app says in place of an accept is the answer, and the connection ends behind it (WS1)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client, _ = await connect(there, path)
        await asyncio.sleep(0.5)
        assert client.status == status
        if body is not None:
            assert bytes(client.response.body) == body
        assert client.closed_at is not None

    at_the_edge(test)


def test_routes_of_other_backends_take_no_sockets() -> None:
    """A handshake on the route of a backend that is no app is a 405 (WS1)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client, _ = await connect(there, "/b")
        assert client.status == 405

    at_the_edge(test, surface="plain")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec_WebSocket_Version": "12", "Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAA=="}, 426),
        ({"Sec_WebSocket_Version": "13", "Sec_WebSocket_Key": "!" * 24}, 400),
        ({"Sec_WebSocket_Version": "13", "Sec_WebSocket_Key": "short"}, 200),
        ({"Sec_WebSocket_Version": "13"}, 200),
    ],
)
def test_a_handshake_that_is_none(headers: dict[str, str], status: int) -> None:
    """A handshake of another version is a 426, one with a wrong key a 400; without a whole key it is a request like any
    other, and what follows is the next one (WS1, decision 0037)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client = await there.client()
        client.head("/b/x", "GET", Upgrade="websocket", Connection="Upgrade", **headers)
        await asyncio.sleep(0.5)
        assert client.statuses == [status]
        assert (client.closed_at is None) == (status == 200)

    at_the_edge(test)


def test_what_follows_a_denied_handshake_is_no_request() -> None:
    """A request behind a handshake that is denied never runs: it may have been meant as frames (decision 0037)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client: Client = await there.client()
        key = {"Sec_WebSocket_Version": "13", "Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
        client.head("/b/rejects", "GET", Upgrade="websocket", Connection="Upgrade", **key)
        client.head("/b/smuggled", "GET")
        await asyncio.sleep(0.5)
        assert client.statuses == [403]

    at_the_edge(test)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x82\xfe\x10\x01\x00\x00\x00\x00" + b"x" * 4097, 1009),
        (b"\x02\xfe\x08\x00\x00\x00\x00\x00" + b"x" * 2048 + b"\x80\xfe\x08\x01\x00\x00\x00\x00" + b"x" * 2049, 1009),
        (b"\x81\x82\x00\x00\x00\x00\xff\xff", 1007),
        (b"\x83\x80\x00\x00\x00\x00", 1002),
        (b"\x81\x01x", 1002),
    ],
)
def test_bad_frames_close_with_their_code(data: bytes, code: int) -> None:
    """A message over the limit, whole or in fragments, closes with 1009; text that is no text with 1007; frames against
    the rules with 1002. The app hears the same code (WS3)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client, _ = await connect(there)
        client.transport.write(data)
        await asyncio.sleep(3 * QUIET_S)
        assert client.close_code == code
        assert client.closed_at is not None
        assert [seen for seen, _ in SEEN] == [code]

    at_the_edge(test, ws_max_message_bytes=4096)


def test_a_client_that_closes_is_answered() -> None:
    """A client that closes hears its own code back, and then the end of the connection (WS1)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        for code, reason in ((1000, ""), (4000, "bye")):
            client, _ = await connect(there)
            client.close(code, reason)
            await asyncio.sleep(0.1)
            assert (client.close_code, client.close_reason) == (code, reason)
            assert client.closed_at is not None
        assert SEEN == [(1000, ""), (4000, "bye")]

    at_the_edge(test)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "websocket.close", "code": 99999}, 1000),
        ({"type": "websocket.close", "code": None, "reason": None}, 1000),
        ({"type": "websocket.close", "code": "x"}, 1011),
        ({"type": "websocket.close", "reason": "\ud800"}, 1011),
        ({"type": "websocket.send", "text": "\ud800"}, 1011),
        ({"type": "websocket.send", "bytes": 10}, 1011),
        ({"type": "websocket.send"}, 1011),
    ],
)
def test_what_an_app_cannot_say(message: dict[str, Any], code: int) -> None:
    """An app that sends what no client can get closes its WebSocket, and the client waits for nothing (WS1)."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "websocket", "no lifespan"
        await send({"type": "websocket.accept"})
        await send(message)

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client, _ = await connect(there)
        await asyncio.sleep(0.1)
        assert (client.close_code, client.messages) == (code, [])

    at_the_edge(test, app=app)


def test_who_is_told_of_a_mistake_may_go_on_sending() -> None:
    """A message over the limit is dropped to its end, not cut: a connection that is reset loses what the client was
    told. It lasts 10 s at most (WS3)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client, pipe = await connect(there)
        for _ in range(50):
            client.transport.write(b"\x82\xfe\x10\x01\x00\x00\x00\x00" + b"x" * 4097)
            await asyncio.sleep(0.1)
        assert client.close_code == 1009
        assert pipe.there.on_the_way == 0, "what came was not read"
        for _ in range(60):
            client.transport.write(b"x")
            await asyncio.sleep(0.1)
        assert not there._uvicorn.server_state.connections

    at_the_edge(test, ws_max_message_bytes=4096)


def test_a_client_that_is_lost() -> None:
    """The connection of a client breaks: its app gets `websocket.disconnect` with 1006 at once (WS4)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        _, pipe = await connect(there)
        pipe.cut()
        await asyncio.sleep(0.1)
        assert SEEN == [(1006, "")]

    at_the_edge(test)


@pytest.mark.parametrize("path", ["/b/x", "/b/deaf"])
@pytest.mark.parametrize("half", [b"", b"\x82\xfe\x10\x00\x00\x00"])
def test_a_silent_client_is_let_go(path: str, half: bytes) -> None:
    """A client that answers no ping, whatever part of a frame it has sent, is gone after two times 20 s; a live one
    stays (WS4)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        silent, _ = await connect(there, path)
        live, _ = await connect(there)
        silent.pongs = False
        silent.transport.write(half)
        await asyncio.sleep(2 * PING_S + 1)
        assert silent.closed_at is not None
        await asyncio.sleep(3 * PING_S)
        assert live.pings >= 4
        assert live.closed_at is None
        live.say("still there")
        await asyncio.sleep(0.1)
        assert live.messages == ["still there"]
        live.close()

    at_the_edge(test)


def test_a_pong_behind_what_an_app_has_not_read() -> None:
    """A client whose pong waits behind its messages, since the app has read nothing for a while, stays (WS4)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client, pipe = await connect(there, "/b/late")
        await asyncio.sleep(PING_S - 1)
        pipe.there.hold()
        for _ in range(4):
            client.say(b"x" * 1_000_000)
        await asyncio.sleep(2)
        assert client.pings == 1, "its pong is on the way, behind the messages"
        pipe.there.release()
        await asyncio.sleep(PING_S - 3)
        pipe.there.hold()
        gate("late").set()
        await asyncio.sleep(4)
        pipe.there.release()
        await asyncio.sleep(4 * PING_S)
        assert client.closed_at is None
        client.close()

    at_the_edge(test)


def test_an_app_that_reads_nothing_stops_its_client() -> None:
    """A client sends 60 MB to an app that reads nothing: little more than 1 MiB is taken (AP6, WS1)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client, pipe = await connect(there, "/b/deaf")
        for _ in range(60):
            client.say(b"x" * 1_000_000)
        await asyncio.sleep(10)
        assert pipe.there.on_the_way > 55_000_000
        pipe.cut()

    at_the_edge(test)


def test_a_client_that_reads_nothing_stops_its_app() -> None:
    """An app sends 4 MiB to a client that takes nothing: it waits behind a window, and is over when the client is given
    up, 40 s later (AP7, WS4)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client, pipe = await connect(there)
        pipe.back.hold()
        client.say("flood")
        await asyncio.sleep(5)
        assert len(SEEN) < 40
        await asyncio.sleep(3 * PING_S)
        pipe.cut()

    at_the_edge(test)


def test_a_flood_of_pings() -> None:
    """A client sends pings without end and reads no pongs: it is read no further (WS4)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client, pipe = await connect(there)
        pipe.back.hold()
        ping = b"\x89\xfd\x00\x00\x00\x00" + b"p" * 125
        for _ in range(2000):
            client.transport.write(ping * 50)
        await asyncio.sleep(5)
        assert pipe.there.on_the_way > 10_000_000
        pipe.cut()

    at_the_edge(test)


def test_sockets_have_places_of_their_own() -> None:
    """With `max_websockets=2` and one call at a time: two sockets are open, the third is a 503, and calls run beside
    them; when one has closed, another fits (WS6)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        first, _ = await connect(there)
        second, _ = await connect(there)
        third, _ = await connect(there)
        assert [first.status, second.status, third.status] == [101, 101, 503]
        http = await there.client()
        http.head("/b/x", "GET")
        await asyncio.sleep(0.1)
        assert http.statuses == [200]
        first.close()
        await asyncio.sleep(0.1)
        fourth, _ = await connect(there)
        assert fourth.status == 101
        second.close()
        fourth.close()

    at_the_edge(test, config=ReplicaConfig(max_websockets=2, max_concurrent_queries=1))


def test_open_sockets_do_not_delay_a_reconfigure() -> None:
    """`reconfigure` waits for calls, not for sockets (WS6)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client, _ = await connect(there)
        await asyncio.wait_for(replica.runtime._hold_all(), 1)
        replica.runtime._resume()
        client.close()

    at_the_edge(test)


def test_a_replica_that_dies_closes_its_sockets() -> None:
    """A replica dies: its clients get 1011 within a second (WS5)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client, _ = await connect(there)
        replica.die()
        await asyncio.sleep(0.9)
        assert client.close_code == 1011

    at_the_edge(test)


def test_a_drain_keeps_sockets_to_its_limit() -> None:
    """A replica that drains keeps its sockets until shortly before its limit; then both ends get 1012 (WS5)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client, _ = await connect(there)
        draining = asyncio.ensure_future(replica.runtime.drain())
        await asyncio.sleep(10 - 2 * GOODBYE_S)
        client.say("still there")
        await asyncio.sleep(0.1)
        assert client.messages == ["still there"]
        refused, _ = await connect(there)
        assert refused.status is None
        refused.transport.close()
        await asyncio.wait_for(draining, 2 * GOODBYE_S)
        await asyncio.sleep(0.1)
        assert client.close_code == 1012
        assert [code for code, _ in SEEN] == [1012]

    at_the_edge(test, config=ReplicaConfig(drain_timeout_s=10.0))


def test_a_patient_drain_keeps_sockets_to_their_end() -> None:
    """A replica that leaves since fewer are needed keeps its sockets, until it is given a limit after all (AS7)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client, _ = await connect(there)
        draining = asyncio.ensure_future(replica.runtime.drain(patient=True))
        await asyncio.sleep(60.0)
        client.say("still there")
        await asyncio.sleep(0.1)
        assert client.messages == ["still there"]
        limited = asyncio.ensure_future(replica.runtime.drain())
        await asyncio.wait_for(asyncio.gather(draining, limited), 10.0)
        await asyncio.sleep(0.1)
        assert client.close_code == 1012

    at_the_edge(test, config=ReplicaConfig(drain_timeout_s=10.0))


@pytest.mark.parametrize(("said", "code"), [("raise", 1011), ("return", 1000)])
def test_an_app_that_ends_without_a_close(said: str, code: int) -> None:
    """An app that raises closes its socket with 1011, one that returns with 1000 (WS1)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client, _ = await connect(there)
        client.say(said)
        await asyncio.sleep(0.1)
        assert client.close_code == code

    at_the_edge(test)


def test_the_end_of_the_server_closes_sockets() -> None:
    """The HTTP server ends: its sockets are closed with 1012 at once, both ways (WS5)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client, _ = await connect(there)
        for connection in there.connections:
            connection.shutdown()
        await asyncio.sleep(0.1)
        assert client.close_code == 1012
        assert [code for code, _ in SEEN] == [1012]

    at_the_edge(test)


def test_middlewares_see_sockets() -> None:
    """An operator's middleware decides about sockets, too (HT9)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client, _ = await connect(there)
        await settle()
        assert client.status == 400

    async def main() -> None:
        async with MemoryReplica(asgi(talk)) as replica:
            plain = Edge(middlewares=True, route="/b", methods=("*",), app=None, replica=replica, surface=ASGI)
            wrapped = TrustedHostMiddleware(plain.app, allowed_hosts=["other.example"])
            async with edge(middlewares=True, app=wrapped, replica=replica, surface=ASGI, methods=("*",)) as there:
                await test(there, replica)
            await plain.router.aclose()

    run(main())


def test_tasks_of_an_app_send_at_once() -> None:
    """Several tasks of an app send large messages to one client, at the same time: each arrives whole (WS1)."""

    async def test(there: Edge, replica: MemoryReplica) -> None:
        client, _ = await connect(there)
        client.say("crowd")
        await asyncio.sleep(1)
        assert sorted(message[:1] for message in client.messages) == [b"0", b"1", b"2", b"3"]  # type: ignore[type-var]
        assert all(message == message[:1] * 900_000 for message in client.messages)  # type: ignore[operator]
        client.close()

    at_the_edge(test)
