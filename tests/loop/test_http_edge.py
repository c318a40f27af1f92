"""ingress.server and ingress.app over connections in memory: in which order a request is checked, and how long it is
waited for. What a router gives a call to is a replica that answers as the test says."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
import pytest

from pointsman.config import (
    DEFAULT_BODY_IDLE_TIMEOUT_S,
    DEFAULT_BODY_MIN_BYTES_PER_S,
    DEFAULT_HEAD_TIMEOUT_S,
    DEFAULT_KEEP_ALIVE_S,
)
from pointsman.ingress.bodylimits import GRACE_S
from pointsman.ingress.server import MAX_DIRECT_BODY, PATIENCE_S, REMAINDER_S
from pointsman.model import Reason
from pointsman.testing import run, settle
from tests.loop.edge import LIMIT, SOON_S, edge

Headers = dict[str, object]
WAYS = pytest.mark.parametrize("middlewares", [False, True], ids=["direct", "with middlewares"])
LARGE, SMALL, CHUNKED = {"content_length": LIMIT}, {"content_length": 2000}, {"transfer_encoding": "chunked"}
BODIES = pytest.mark.parametrize("body", [SMALL, LARGE, CHUNKED], ids=["small", "large", "chunked"])


# --- the order of checks ----------------------------------------------------------------------------------------------

REFUSALS: list[tuple[str, str, Headers, int]] = [
    ("/no-such", "POST", {}, 404),
    ("/no-such", "POST", {"x_serve_timeout_s": "soon"}, 404),
    ("/b", "PUT", {}, 405),
    ("/b", "PUT", {"x_serve_timeout_s": "soon"}, 405),
    ("/b", "POST", {"x_serve_timeout_s": "soon"}, 400),
    ("/b", "POST", {"x_serve_shard_key": "k" * 257}, 400),
    ("/-/no-such", "POST", {}, 404),
    ("/-/routes", "POST", {"x_serve_timeout_s": "soon"}, 405),
]


@BODIES
@WAYS
@pytest.mark.parametrize(("path", "method", "headers", "status"), REFUSALS)
def test_a_refusal_does_not_wait_for_the_body(
    middlewares: bool, body: Headers, path: str, method: str, headers: Headers, status: int
) -> None:
    """Whoever asks for what is not to be had is told so when the head is there: system path, route, method and limits
    are looked at in this order, and before the body (HT7)."""

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            client = await there.client()
            client.head(path, method, **body, **headers)
            assert await there.answered(client) == [status]
            assert client.error["error_id"]
            assert not there.replica.arrived

    run(main())


@WAYS
def test_the_connection_goes_on_after_a_refusal(middlewares: bool) -> None:
    """The body that nobody waited for is thrown away, and the next request on the connection is served (HT7)."""

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            client = await there.client()
            client.head("/no-such", content_length=2000)
            assert await there.answered(client) == [404]
            await client.trickle(b"x" * 400, every_s=0.5, times=5)
            client.head(content_length=2)
            client.send(b"{}")
            assert await there.answered(client, 2) == [404, 200]
            await asyncio.sleep(2 * REMAINDER_S)
            assert client.closed_at is None

    run(main())


@BODIES
@WAYS
def test_a_body_that_nobody_waits_for_is_not_received_for_ever(middlewares: bool, body: Headers) -> None:
    """After its 404 a client goes on sending its body at leisure: the connection is closed, with nothing more said
    (F24)."""

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            client = await there.client()
            client.head("/no-such", **body)
            await client.trickle(b"1\r\nx\r\n", every_s=1, times=60)
            assert client.statuses == [404]
            assert client.closed_at == pytest.approx(REMAINDER_S, abs=1)

    run(main())


@WAYS
@pytest.mark.parametrize("length", [LIMIT + 1, 10 * 2**30])
def test_a_body_that_is_too_large_is_not_read(middlewares: bool, length: int) -> None:
    """A body over the limit is a 413 at its head, and the connection closes (F27)."""

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            client = await there.client()
            client.head(content_length=length)
            assert await there.answered(client) == [413]
            assert client.closed_at is not None

    run(main())


@WAYS
def test_a_limit_below_that_of_the_direct_way_counts(middlewares: bool) -> None:
    """A limit of 1,000 bytes holds for bodies of 1,001, whichever way requests go (S15)."""

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            there.app._settings = msgspec.structs.replace(there.app._settings, max_body_bytes=1000)
            for size, status in ((999, 200), (1000, 200), (1001, 413)):
                client = await there.client()
                client.head(content_length=size)
                client.send(b"x" * size)
                assert await there.answered(client) == [status]

    run(main())


@WAYS
def test_whatever_the_headers_say_health_is_told(middlewares: bool) -> None:
    """System paths come before everything else (HT7)."""

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            client = await there.client()
            client.head("/-/healthz", "GET", x_serve_timeout_s="soon", x_serve_shard_key="k" * 257)
            assert await there.answered(client) == [200]

    run(main())


# --- bodies in pieces -------------------------------------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize("pause_s", [0.0, PATIENCE_S / 2, 1.0])
@pytest.mark.parametrize("size", [1, 2000, MAX_DIRECT_BODY, MAX_DIRECT_BODY + 1, LIMIT])
def test_a_body_arrives_whole_however_it_is_cut(middlewares: bool, size: int, pause_s: float) -> None:
    """Head and body come in one piece, at once one after the other, or with a pause within: it is the same request."""

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            client = await there.client()
            for number in range(3):
                client.head(content_length=size)
                for piece in (b"a" * (size // 2), b"b" * (size - size // 2)):
                    client.send(piece)
                    await asyncio.sleep(pause_s)
                assert await there.answered(client, number + 1) == [200] * (number + 1)
            assert len(there.replica.arrived) == 3

    run(main())


# --- how long is waited -----------------------------------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize("keep_alive_s", [DEFAULT_KEEP_ALIVE_S, 7.5, 650.0])
def test_an_idle_connection(middlewares: bool, keep_alive_s: float) -> None:
    """Between two requests a connection is kept for a minute, or as long as the operator says, since a balancer in
    front wants to be the first to give it up."""

    async def main() -> None:
        async with edge(middlewares=middlewares, keep_alive_s=keep_alive_s) as there:
            client = await there.client()
            for number in range(2):
                client.head(content_length=2)
                client.send(b"{}")
                assert await there.answered(client, number + 1) == [200] * (number + 1)
                began = asyncio.get_running_loop().time()
                await asyncio.sleep(keep_alive_s - 1)
            assert client.closed_at is None
            await asyncio.sleep(2)
            assert client.closed_at == pytest.approx(began + keep_alive_s, abs=1)

    run(main())


@WAYS
@pytest.mark.parametrize(
    ("options", "piece", "every_s", "closed_at"),
    [
        ({"head_timeout_s": 25.0}, b"a", 1.0, 25.0),
        ({"head_timeout_s": 2.5}, b"a", 1.0, 2.5),
        ({"body_idle_timeout_s": 4.0, "body_min_bytes_per_s": 0}, b"a", 5.0, 4.0),
        ({"body_idle_timeout_s": 4.0, "body_min_bytes_per_s": 0}, b"a", 3.0, None),
        ({"body_min_bytes_per_s": 10}, b"a" * 12, 1.0, None),
        ({"body_min_bytes_per_s": 10}, b"a" * 8, 1.0, GRACE_S),
        ({"body_min_bytes_per_s": 4096}, b"a" * 2048, 1.0, GRACE_S),
    ],
)
def test_deadlines_are_the_operators(
    middlewares: bool, options: dict[str, Any], piece: bytes, every_s: float, closed_at: float | None
) -> None:
    """How long a head and the pauses of a body may take, and how slowly it may come, are options (F24)."""

    async def main() -> None:
        async with edge(middlewares=middlewares, **options) as there:
            client = await there.client()
            if "head_timeout_s" in options:
                client.send(b"POST /b HTTP/1.1\r\nx: ")
            else:
                client.head(content_length=LIMIT)
            await client.trickle(piece, every_s=every_s, times=40)
            if closed_at is None:
                assert (client.data, client.closed_at) == (b"", None)
            else:
                assert client.statuses == [408]
                assert client.closed_at == pytest.approx(closed_at, abs=1)

    run(main())


@WAYS
def test_a_client_that_says_nothing(middlewares: bool) -> None:
    """A connection on which nothing is said is closed after ten seconds, without a word (F24)."""

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            client = await there.client()
            await asyncio.sleep(60)
            assert (client.data, client.closed_at) == (b"", pytest.approx(DEFAULT_HEAD_TIMEOUT_S, abs=1))

    run(main())


@WAYS
def test_a_head_that_trickles(middlewares: bool) -> None:
    """A head that comes byte by byte is a 408 after ten seconds (F24)."""

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            client = await there.client()
            client.send(b"POST /b HTTP/1.1\r\nx: ")
            await client.trickle(b"y", every_s=1, times=60)
            assert client.statuses == [408]
            assert client.closed_at == pytest.approx(DEFAULT_HEAD_TIMEOUT_S, abs=1)

    run(main())


@BODIES
@WAYS
def test_a_body_that_trickles(middlewares: bool, body: Headers) -> None:
    """A body that comes byte by byte is a 408 after ten seconds, and never reaches a model (F24)."""

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            client = await there.client()
            client.head(**body)
            await client.trickle(b"1\r\nx\r\n", every_s=1, times=60)
            assert client.statuses == [408]
            assert client.error["reason"] == "deadline"
            assert client.closed_at == pytest.approx(GRACE_S, abs=1)
            assert not there.replica.arrived

    run(main())


@WAYS
def test_a_body_that_stops(middlewares: bool) -> None:
    """A client that has sent much and then stops has half a minute to go on (F24)."""

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            client = await there.client()
            client.head(content_length=LIMIT)
            client.send(b"x" * 50 * DEFAULT_BODY_MIN_BYTES_PER_S)
            await asyncio.sleep(100)
            assert client.statuses == [408]
            assert client.closed_at == pytest.approx(DEFAULT_BODY_IDLE_TIMEOUT_S, abs=1)

    run(main())


@WAYS
def test_a_body_that_is_slow_but_steady(middlewares: bool) -> None:
    """A client on a bad line, at two kilobytes a second, is waited for (F24)."""

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            client = await there.client()
            client.head(content_length=LIMIT)
            await client.trickle(b"x" * 2048, every_s=1, times=LIMIT // 2048)
            assert await there.answered(client) == [200]

    run(main())


@WAYS
def test_what_comes_while_another_request_runs_is_not_late(middlewares: bool) -> None:
    """A second request waits on the connection, half sent, while the first runs for minutes: the server has stopped
    reading, and does not hold that against its client (H7)."""

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            client = await there.client()
            client.head(content_length=2)
            client.send(b"{}")
            client.head(content_length=2000)
            client.send(b"x" * 1000)
            await asyncio.sleep(200)
            assert await there.answered(client) == [200]
            await asyncio.sleep(GRACE_S / 2)
            client.send(b"x" * 1000)
            assert await there.answered(client, 2) == [200, 200]

    run(main())


@BODIES
@WAYS
def test_a_client_that_leaves_within_its_body(middlewares: bool, body: Headers, caplog: Any) -> None:
    """A client hangs up in the middle of its upload: no model hears of it, and no log is full of it (F26)."""

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            client = await there.client()
            client.head(**body)
            client.send(b"1\r\nx\r\n")
            await asyncio.sleep(SOON_S)
            client.leave()
            await asyncio.sleep(60)
            assert (client.data, there.replica.arrived) == (b"", [])

    with caplog.at_level(logging.WARNING):
        run(main())
    assert not caplog.records


@WAYS
def test_a_client_that_leaves_behind_its_body(middlewares: bool) -> None:
    """A client hangs up while a model works on its large body, which came at once: the call is cancelled (F26)."""

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            client = await there.client()
            client.head(**LARGE)
            client.send(b"x" * LIMIT)
            await asyncio.sleep(SOON_S)
            (call_id,) = there.replica.calls
            client.leave()
            await asyncio.sleep(SOON_S)
            assert there.replica.cancelled == [call_id]
            assert there.tasks == 0

    run(main())


@pytest.mark.parametrize("middlewares", [False, True])
def test_a_reader_that_leaves_a_stream_leaves_nothing_behind(middlewares: bool) -> None:
    """A client hangs up while a model makes the next part of its answer: the model is told, and the server's end has
    nothing to wait for (F26, DR3)."""

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            client = await there.client()
            client.head(content_length=0)
            await asyncio.sleep(SOON_S)
            (call_id,) = there.replica.calls
            there.replica.reply(call_id, b"", stream=True)
            there.replica.chunk(call_id, b"one")
            await asyncio.sleep(SOON_S)
            assert b"one" in client.data
            assert there.tasks == 1
            client.leave()
            await asyncio.sleep(SOON_S)
            assert there.replica.cancelled == [call_id]
            assert there.tasks == 0

    run(main())


@pytest.mark.parametrize("middlewares", [False, True])
def test_a_body_that_user_code_cannot_read_is_no_news(middlewares: bool, caplog: Any) -> None:
    """A client sends what is not JSON, and user code lets that through: a 400 that says so, and no line in the log; an
    exception of user code has its line (HE4, HE1)."""

    def ours() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.name.startswith("pointsman")]

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            client = await there.client()
            client.head(content_length=0)
            await asyncio.sleep(SOON_S)
            there.replica.fail(text="the body is not JSON: because", reason=Reason.BAD_BODY)
            await settle()
            assert client.statuses == [400]
            assert client.error["error"] == "the body is not JSON: because"
            assert client.error["reason"] == "bad_body"
            assert not ours()
            client.head(content_length=0)
            await asyncio.sleep(SOON_S)
            there.replica.fail()
            await settle()
            assert client.statuses == [400, 500]
            assert len(ours()) == 1

    with caplog.at_level(logging.INFO):
        run(main())
