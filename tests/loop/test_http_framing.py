"""Where one request ends and the next begins, over connections in memory: no body is ever taken for a request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import zlib
from collections.abc import Iterator

import pytest

from pointsman.testing import run, settle
from tests.corpus import CASES, LAST, SECRET, Case, chunks, cuts, post
from tests.loop.edge import SOON_S, Client, Edge, edge

WAYS = pytest.mark.parametrize("middlewares", [False, True], ids=["direct", "with middlewares"])
METHODS = ("GET", "POST", "CONNECT", "OPTIONS")


def anything(middlewares: bool) -> contextlib.AbstractAsyncContextManager[Edge]:
    return edge(middlewares=middlewares, route="/{path:path}", methods=METHODS)


async def told(there: Edge, pieces: list[bytes]) -> Client:
    """A client that sends these and is answered at once."""
    client = await there.client()
    for piece in pieces:
        if client.closed_at is not None:
            break
        client.send(piece)
        await settle()
    await all_answered(there)
    return client


async def all_answered(there: Edge) -> None:
    """Let the replica answer whatever comes for a while."""
    for _ in range(8):
        await asyncio.sleep(SOON_S)
        for call_id in list(there.replica.calls):
            there.replica.reply(call_id)
        await settle()


def served(there: Edge) -> list[tuple[bytes, bytes]]:
    """Path and body of each request that user code has seen."""
    return [(call.request.path, body) for call, body in zip(there.replica.arrived, there.replica.bodies, strict=True)]


@WAYS
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_body_belongs_to_its_request(case: Case, middlewares: bool) -> None:
    """A request whose body looks like a request, with offers of other protocols, tunnels, and lengths and chunks that
    servers read differently: it is served with its whole body, or refused with a 4xx or 501 and the connection closed.
    However it is cut, user code never sees the body as a request (H1, H2, H3, H5, H6, F28)."""

    async def main() -> None:
        for pieces in cuts(case.data, seed=zlib.crc32(case.data)):
            async with anything(middlewares) as there:
                client = await told(there, pieces)
                if case.served is None:
                    assert served(there) == []
                    assert len(client.statuses) == 1, client.data
                    assert 400 <= client.statuses[0] < 500 or client.statuses[0] in (501, 505)
                    assert client.closed_at is not None
                else:
                    assert [body for _, body in served(there)] == list(case.served), client.data
                    assert client.statuses == [200] * len(case.served)
                assert not any(path.startswith(b"/secret") for path, _ in served(there))

    run(main())


@pytest.mark.slow
@WAYS
@pytest.mark.parametrize("seed", range(4))
def test_requests_with_a_byte_changed(seed: int, middlewares: bool) -> None:
    """Thousands of requests with bytes lost, doubled or changed: each is served or refused, and none is a 5xx or
    waits for ever (F28)."""
    chance = random.Random(seed)
    odd = [
        b"\0",
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n\r\n",
        b" ",
        b"\t",
        b"0",
        b";",
        b":",
        b",",
        b"\xff",
        b"Upgrade",
        b"chunked",
    ]

    async def main() -> None:
        async with anything(middlewares) as there:
            for _ in range(500):
                data = bytearray(chance.choice(CASES).data)
                for _ in range(chance.randint(1, 3)):
                    place = chance.randrange(len(data))
                    data[place : place + chance.randint(0, 2)] = chance.choice(odd)
                client = await there.client()
                for piece in random.Random(seed).choice(list(cuts(bytes(data), seed))):
                    client.send(piece)
                await settle()
                for call_id in list(there.replica.calls):
                    there.replica.reply(call_id)
                await settle()
                assert not {status for status in client.statuses if status >= 500} - {501, 505}, bytes(data)
                client.leave()
            await asyncio.sleep(60)
            assert not there.replica.calls

    run(main())


# --- one after the other ----------------------------------------------------------------------------------------------


@WAYS
def test_nothing_runs_ahead(middlewares: bool) -> None:
    """Three requests in one piece: user code gets the next one when the one before it has been answered, and answers
    come in order (H7)."""

    async def main() -> None:
        async with anything(middlewares) as there:
            client = await there.client()
            client.send(b"".join(post(b"content-length: 1", body=b"%d" % number) for number in range(5)))
            for number in range(5):
                await asyncio.sleep(SOON_S)
                assert there.replica.bodies == [b"%d" % seen for seen in range(number + 1)]
                there.replica.reply(body=b"answer %d" % number)
            await asyncio.sleep(SOON_S)
            assert client.statuses == [200] * 5
            assert [client.data.find(b"answer %d" % number) for number in range(5)] == sorted(
                client.data.find(b"answer %d" % number) for number in range(5)
            )

    run(main())


@WAYS
def test_a_crowd_in_one_piece(middlewares: bool) -> None:
    """A thousand requests in one piece are served one after the other, and looked at one after the other: they do not
    all become objects at once (H7, G12)."""

    async def main() -> None:
        async with anything(middlewares) as there:
            client = await there.client()
            client.send(post(b"content-length: 1", body=b"x") * 1000)
            for number in range(1000):
                await settle()
                while not there.replica.calls:
                    await asyncio.sleep(SOON_S)
                assert len(there.replica.arrived) == number + 1
                assert not any(connection._reader.head_size for connection in there.connections)
                there.replica.reply()
            await settle()
            assert client.statuses == [200] * 1000

    run(main())


@WAYS
@pytest.mark.parametrize("bad", [b"BAD\r\n\r\n", post(b"content-length: 1", b"content-length: 1", body=b"x"),
                                 post(b"transfer-encoding: chunked", body=b"z\r\n")])  # fmt: skip
def test_what_was_right_is_answered_before_what_is_wrong_is_refused(bad: bytes, middlewares: bool) -> None:
    """A request, and garbage behind it: the request gets its answer, then the garbage its 400, then the connection
    closes, and nothing behind that is looked at (H6)."""

    async def main() -> None:
        async with anything(middlewares) as there:
            client = await there.client()
            client.send(post(b"content-length: 1", body=b"x") + bad + LAST)
            await asyncio.sleep(SOON_S)
            assert client.statuses == []
            client.send(LAST)
            await all_answered(there)
            assert client.statuses == [200, 400]
            assert client.closed_at is not None
            assert len(there.replica.arrived) == 1

    run(main())


@WAYS
def test_garbage_does_not_fill_the_log(middlewares: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A flood of garbage gets ten lines a second, none of which holds what was sent (H10)."""

    async def main() -> None:
        async with anything(middlewares) as there:
            for seconds in (0, 2):
                await asyncio.sleep(seconds)
                for data in (
                    b"EVIL / HTTP/1.1\r\n\r\n",
                    post(b"transfer-encoding: evil"),
                    post(b"content-length: evil"),
                ):
                    for _ in range(20):
                        client = await there.client()
                        client.send(data)
                        await settle()
                        assert client.statuses in ([400], [501])

    with caplog.at_level(logging.WARNING):
        run(main())
    lines = [record.getMessage() for record in caplog.records]
    assert 20 <= len(lines) <= 22
    assert any("more warnings" in line for line in lines)
    assert not any("evil" in line.lower() for line in lines)


@WAYS
def test_garbage_within_a_body(middlewares: bool) -> None:
    """The request whose own body is malformed is refused, although user code would have been asked already (H6)."""

    async def main() -> None:
        async with anything(middlewares) as there:
            client = await there.client()
            client.send(post(b"transfer-encoding: chunked", body=b"3\r\nabc\r\n"))
            await asyncio.sleep(SOON_S)
            client.send(b"no chunk\r\n" + LAST)
            await all_answered(there)
            assert (client.statuses, there.replica.arrived) == ([400], [])
            assert client.closed_at is not None

    run(main())


@WAYS
def test_garbage_in_a_body_that_nobody_wanted(middlewares: bool) -> None:
    """A request has had its 404 and goes on with a body that is none: there is no second answer, which somebody could
    take for that to the next request; the connection closes (H6)."""

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            client = await there.client()
            client.send(post(b"transfer-encoding: chunked", body=b"3\r\nabc\r\n", path=b"/nowhere"))
            await asyncio.sleep(SOON_S)
            assert client.statuses == [404]
            client.send(b"no chunk\r\n" + LAST)
            await all_answered(there)
            assert client.statuses == [404]
            assert client.closed_at is not None

    run(main())


@WAYS
@pytest.mark.parametrize("path", [b"/nowhere", b"/-/healthz", b"/b"])
def test_nothing_runs_behind_the_last_request(path: bytes, middlewares: bool) -> None:
    """A client says that a request is its last one, and sends another one all the same: that one never runs (H6)."""

    async def main() -> None:
        async with edge(middlewares=middlewares, methods=METHODS) as there:
            last = post(b"connection: close", method=b"GET", path=path)
            client = await told(there, [last + post(b"content-length: 1", body=b"x", path=b"/b")])
            assert len(client.statuses) == 1
            assert client.closed_at is not None
            assert b"x" not in there.replica.bodies

    run(main())


# --- heads and trailers -----------------------------------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize(("count", "size", "status"), [(999, 1, 200), (1000, 1, 400), (1000, 16, 200), (1500, 15, 400)])
def test_a_body_of_crumbs(count: int, size: int, status: int, middlewares: bool) -> None:
    """A body in a thousand chunks of next to nothing costs us much more than its client, and is refused (G12)."""

    async def main() -> None:
        async with anything(middlewares) as there:
            body = chunks(*[b"x" * size] * count)
            client = await told(there, [post(b"transfer-encoding: chunked", body=body)])
            assert client.statuses == [status]
            assert (client.closed_at is None) == (status == 200)

    run(main())


@WAYS
@pytest.mark.parametrize("offer", [(), (b"connection: upgrade", b"upgrade: h2c")], ids=["", "with an offer"])
def test_trailers_are_dropped(offer: tuple[bytes, ...], middlewares: bool) -> None:
    """What comes behind a body is read and checked, and is not among the headers: a front that has checked those must
    be able to rely on it (H5)."""
    trailers = b"x-serve-shard-key: forged\r\nx-forwarded-for: 127.0.0.1\r\n"

    async def main() -> None:
        async with anything(middlewares) as there:
            body = chunks(SECRET, trailers=trailers)
            client = await told(there, [post(*offer, b"transfer-encoding: chunked", body=body) + LAST])
            assert client.statuses == [200, 200]
            names = {name for call in there.replica.arrived for name, _ in call.request.headers}
            assert not names & {b"x-serve-shard-key", b"x-forwarded-for"}
            fields = b"".join(b"a%d: b\r\n" % number for number in range(101))
            client = await told(there, [post(b"transfer-encoding: chunked", body=chunks(b"x", trailers=fields))])
            assert client.statuses == [431]

    run(main())


def padded(before: bytes, size: int, after: bytes = b"") -> bytes:
    return before + b"a" * (size - len(before) - len(after)) + after


def heads() -> Iterator[tuple[str, bytes, int]]:
    """Heads at their limits, one byte or field below and above, and what is answered."""
    for more, status in ((-1, 200), (0, 200), (1, 414)):
        for method in (b"GET", b"OPTIONS"):
            line = padded(method + b" /", 8190 + more, b" HTTP/1.1")
            yield f"line of {method.decode()}", line + b"\r\nhost: x\r\n\r\n", status
    for more, status in ((-1, 200), (0, 200), (1, 431)):
        begin = b"GET /x HTTP/1.1\r\nhost: x\r\n"
        yield "field", begin + padded(b"x-a: ", 8190 + more + len(": ")) + b"\r\n\r\n", status
        yield "fields", begin + b"x: y\r\n" * (99 + more) + b"\r\n", status
        fields = [padded(b"x-a: ", 8000)] * 4
        rest = 32 * 1024 - len("hostx") - sum(len(field) - len(": ") for field in fields)
        fields.append(padded(b"y: ", rest + len(": ") + more))
        yield "head", begin + b"".join(field + b"\r\n" for field in fields) + b"\r\n", status


@WAYS
@pytest.mark.parametrize(("what", "head", "status"), list(heads()))
def test_the_limits_of_heads(what: str, head: bytes, status: int, middlewares: bool) -> None:
    """A request line of 8,190 bytes, a field of as many, a hundred fields, and 32 KiB of them in all are served; one
    more is not."""

    async def main() -> None:
        async with anything(middlewares) as there:
            for pieces in ([head], [head[:5000], head[5000:]]):
                client = await told(there, pieces)
                assert client.statuses == [status], what

    run(main())


@WAYS
@pytest.mark.parametrize("endless", [b"POST /" + b"a" * 500, b"POST / HTTP/1.1\r\nx: " + b"a" * 500, b"\r\n" * 250])
def test_a_head_without_an_end(endless: bytes, middlewares: bool) -> None:
    """A head of one endless line is refused when it is over the limits, and not collected (G12)."""

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            client = await told(there, [endless, *[endless[-500:]] * 100])
            assert client.statuses in ([431], [414])
            assert client.closed_at is not None

    run(main())


@WAYS
def test_empty_lines_do_not_keep_a_connection(middlewares: bool) -> None:
    """A client that sends nothing but a line end behind its request has ten seconds for the rest (F24)."""

    async def main() -> None:
        async with anything(middlewares) as there:
            client = await told(there, [LAST])
            assert client.statuses == [200]
            client.send(b"\r\n")
            await asyncio.sleep(30)
            assert client.closed_at is not None

    run(main())


TARGETS = [(b"http://host", b"/", b""), (b"http://host?a=1", b"/", b"a=1"), (b"https://host:1/x?a", b"/x", b"a")]


@WAYS
@pytest.mark.parametrize(("target", "path", "query"), TARGETS)
def test_targets_in_absolute_form(target: bytes, path: bytes, query: bytes, middlewares: bool) -> None:
    """Proxies write the whole address into the request line; without a path it means ``/``."""

    async def main() -> None:
        async with edge(middlewares=middlewares, route=path.decode(), methods=METHODS) as there:
            client = await told(there, [post(path=target, method=b"GET")])
            assert client.statuses == [200]
            assert [(call.request.path, call.request.query) for call in there.replica.arrived] == [(path, query)]

    run(main())


# --- HTTP/1.0 ---------------------------------------------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize("breaks", [False, True])
def test_a_stream_to_an_old_client(breaks: bool, middlewares: bool) -> None:
    """HTTP/1.0 knows no chunks: an answer in pieces comes as it is, and ends with the connection; one that breaks is
    cut (HT1)."""

    async def main() -> None:
        async with anything(middlewares) as there:
            client = await there.client()
            client.send(LAST.replace(b"HTTP/1.1", b"HTTP/1.0\r\nconnection: keep-alive\r\nexpect: 100-continue"))
            await asyncio.sleep(SOON_S)
            (call_id,) = there.replica.calls
            there.replica.reply(call_id, b"", stream=True)
            there.replica.chunk(call_id, b"one,")
            there.replica.chunk(call_id, b"two")
            await asyncio.sleep(SOON_S)
            if breaks:
                there.replica.fail(call_id)
            else:
                there.replica.end(call_id)
            await asyncio.sleep(SOON_S)
            head, _, body = client.data.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert body == b"one,two"
            assert b"transfer-encoding" not in head
            assert b"connection: close" in head
            assert client.closed_at is not None

    run(main())


# --- a replica that nobody trusts -------------------------------------------------------------------------------------

INJECTIONS = [
    (b"x-a", b"1\r\nx-evil: 1"),
    (b"x-a: 1\r\nx-evil", b"1"),
    (b"x-a", b"1\nx-evil: 1"),
    (b"x-a", b"1\0"),
    (b"x-a", b"\x1b[2J"),
    (b"", b"1"),
    (b"x a", b"1"),
    (b"x-a:", b"1"),
    (b"x-\xe9", b"1"),
]


@WAYS
@pytest.mark.parametrize("header", INJECTIONS)
def test_headers_that_http_does_not_allow(header: tuple[bytes, bytes], middlewares: bool) -> None:
    """A replica sends a header that would end the head, or show a terminal something: the client gets a 500, and never
    the header, whether the answer is whole or a stream (H13)."""

    async def main() -> None:
        async with anything(middlewares) as there:
            for stream in (False, True):
                client = await there.client()
                client.send(LAST)
                await asyncio.sleep(SOON_S)
                there.replica.reply(headers=[(b"x-fine", b"1"), header], stream=stream)
                await asyncio.sleep(SOON_S)
                assert client.statuses == [500]
                assert b"x-evil" not in client.data
                assert b"x-fine" not in client.data

    run(main())


@WAYS
@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize(
    ("request_line", "hosts", "status"),
    [
        (b"GET /x HTTP/1.1", b"", 400),
        (b"GET /x HTTP/1.1", b"host: a\r\nhost: b\r\n", 400),
        (b"GET /x HTTP/1.1", b"host: a\r\nHost: a\r\n", 400),
        (b"GET http://a/x HTTP/1.1", b"", 400),
        (b"GET /x HTTP/1.0", b"host: a\r\nhost: b\r\n", 400),
        (b"GET /x HTTP/1.0", b"", 200),
        (b"GET /x HTTP/1.1", b"host:\r\n", 200),
        (b"CONNECT a:1 HTTP/1.1", b"host: a\r\n", 501),
        (b"GET /x HTTP/2.0", b"host: a\r\n", 505),
    ],
)
def test_a_request_is_for_one_host(
    request_line: bytes, hosts: bytes, status: int, pipelined: bool, middlewares: bool
) -> None:
    """HTTP/1.1 without a ``Host`` header, and any request with two, is a 400, also behind another request, whose answer
    comes first (H6)."""

    async def main() -> None:
        async with anything(middlewares) as there:
            first = LAST if pipelined else b""
            client = await told(there, [first + request_line + b"\r\n" + hosts + b"\r\n"])
            assert client.statuses == [*([200] if pipelined else []), status]
            assert len(served(there)) == pipelined + (status == 200)
            assert (client.closed_at is None) is (status == 200 and b"1.1" in request_line)

    run(main())
