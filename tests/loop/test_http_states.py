"""ingress.protocol and ingress.states: what a connection does when, over connections in memory."""

from __future__ import annotations

import asyncio
import zlib
from typing import Any

import pytest

from pointsman.exceptions import BackpressureError
from pointsman.ingress.protocol import HIGH_WATER, LINGER_S, MAX_DIRECT_BODY, HTTPProtocol
from pointsman.ingress.states import APP, BODY, DIRECT, HEAD, IDLE, NEXT, OVER, TOGETHER, WAITS
from pointsman.testing import run, settle
from tests.conftest import PURE_ONLY
from tests.corpus import CASES, LAST, chunks, cuts, post
from tests.loop.edge import SOON_S, Edge, edge
from tests.loop.socket_client import connect

WAYS = pytest.mark.parametrize("middlewares", [False, True], ids=["direct", "with middlewares"])
ONE = post(b"content-length: 1", body=b"x", path=b"/b")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> set[tuple[int, int]]:
    """The steps that connections take, each held against the table."""
    taken: set[tuple[int, int]] = set()
    slot: Any = HTTPProtocol.__dict__["state"]

    def change(connection: HTTPProtocol, state: int) -> None:
        try:
            before = slot.__get__(connection)
        except AttributeError:  # at the beginning
            before = state
        assert state == before or state in NEXT[before], f"from {before} to {state}"
        taken.add((before, state))
        slot.__set__(connection, state)

    monkeypatch.setattr(HTTPProtocol, "state", property(slot.__get__, change))
    reads = HTTPProtocol.data_received

    def data_received(connection: HTTPProtocol, data: bytes) -> None:
        reads(connection, data)
        assert connection._reader.state in TOGETHER[connection.state]

    monkeypatch.setattr(HTTPProtocol, "data_received", data_received)
    return taken


def answer_all(there: Edge) -> None:
    for call_id in list(there.replica.calls):
        there.replica.reply(call_id)


@PURE_ONLY
def test_connections_keep_to_the_states(steps: set[tuple[int, int]]) -> None:
    """Whatever clients send, however it is cut, and whenever they leave or the server ends: a connection goes from
    state to state as the table says."""

    async def main() -> None:
        for number, case in enumerate(CASES):
            for pieces in list(cuts(case.data, seed=zlib.crc32(case.data)))[:: 1 + number % 3]:
                async with edge(middlewares=number % 4 == 3, route="/{path:path}", methods=("GET", "POST")) as there:
                    client = await there.client()
                    for piece in pieces:
                        client.send(piece)
                        await settle()
                        if number % 2:
                            await asyncio.sleep(SOON_S)
                            answer_all(there)
                    answer_all(there)
                    await settle()
                    if number % 5 == 0:
                        there.connections[0].shutdown()
                        await asyncio.sleep(2 * LINGER_S)
                    client.leave()
        async with edge() as there:
            client = await there.client()
            client.send(ONE)
            await asyncio.sleep(SOON_S)
            (call_id,) = there.replica.calls
            there.replica.reply(call_id, b"", stream=True)
            there.replica.end(call_id)
            await asyncio.sleep(SOON_S)
            assert client.statuses == [200]
            client.send(ONE[:-1])
            await settle()
            client.leave()
            socket, _ = await connect(there, "/b")
            await asyncio.sleep(SOON_S)
            assert socket.status == 405

    run(main())
    wanted = {(before, after) for before, states in NEXT.items() for after in states}
    assert wanted - steps == set()


@WAYS
def test_what_comes_meanwhile_is_held(middlewares: bool, steps: set[tuple[int, int]]) -> None:
    """While a request runs, what its client sends behind it is neither looked at nor read any further (G12, H7)."""

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            client = await there.client()
            client.send(ONE)
            await asyncio.sleep(SOON_S)
            (connection,) = there.connections
            for _ in range(10):
                client.send(ONE * 10)
                await settle()
            assert (connection.state, connection._reader.state) == (APP if middlewares else DIRECT, HEAD)
            assert len(connection._held) == len(ONE) * 10
            assert not connection.transport.is_reading()
            for number in range(101):
                await asyncio.sleep(SOON_S)
                assert len(there.replica.arrived) == number + 1
                there.replica.reply()
            await asyncio.sleep(SOON_S)
            assert client.statuses == [200] * 101
            assert connection.transport.is_reading()

    run(main())


@WAYS
def test_pipelines_with_a_bad_end(middlewares: bool, steps: set[tuple[int, int]]) -> None:
    """Whatever is wrong with a request, those before it in the same pipeline are answered, in order; then it is
    refused, once, and nothing behind it runs (H6, F28)."""

    async def main() -> None:
        bad = [case for case in CASES if case.served is None]
        for number, case in enumerate(bad):
            data = ONE * 2 + LAST + case.data + ONE
            start = number * len(data) // len(bad)
            for pieces in ([data], [data[:start], data[start:]]):
                async with edge(middlewares=middlewares) as there:
                    client = await there.client()
                    for piece in pieces:
                        client.send(piece)
                    for _ in range(5):
                        await asyncio.sleep(SOON_S)
                        answer_all(there)
                    *before, refusal = client.statuses
                    assert before == [200, 200, 404], case.name
                    assert 400 <= refusal < 500 or refusal in (501, 505)
                    assert len(there.replica.arrived) == 2
                    assert client.closed_at is not None

    run(main())


@WAYS
def test_every_body_belongs_to_its_request_each_time(middlewares: bool) -> None:
    """Requests of the corpus three times on one connection, however they are cut: each is served with its whole body,
    also where its head is the last one again (H1, F28)."""

    async def main() -> None:
        for case in (case for case in CASES if case.served is not None and len(case.served) > 1):
            for pieces in cuts(case.data, seed=zlib.crc32(case.data)):
                async with edge(middlewares=middlewares, route="/{path:path}", methods=("GET", "POST")) as there:
                    client = await there.client()
                    for piece in pieces * 3:
                        client.send(piece)
                    while there.replica.calls or len(there.replica.bodies) < 3 * len(case.served):
                        await asyncio.sleep(SOON_S)
                        answer_all(there)
                        assert client.closed_at is None, case.name
                    await settle()
                    assert there.replica.bodies == [*case.served] * 3, case.name
                    assert client.statuses == [200] * len(there.replica.bodies)

    run(main())


@WAYS
@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_a_line_end_behind_a_body_is_no_request(end: bytes, middlewares: bool) -> None:
    """Some clients end a body with a line end that they do not count; when they leave, their request is cancelled as
    that of others is (HT10)."""

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            client = await there.client()
            client.send(ONE + end)
            await asyncio.sleep(SOON_S)
            answer_all(there)
            await settle()
            client.send(ONE + end)
            await asyncio.sleep(SOON_S)
            (call_id,) = there.replica.calls
            client.leave()
            await asyncio.sleep(SOON_S)
            assert client.statuses == [200]
            assert there.replica.cancelled == [call_id]

    run(main())


def test_an_answer_is_one_write() -> None:
    """Head and body of a small answer leave in one piece, those of a refusal and of an error, too."""

    async def main() -> None:
        async with edge() as there:
            client = await there.client()
            client.send(ONE)
            await asyncio.sleep(SOON_S)
            there.replica.reply(body=b"fine", headers=[(b"x-a", b"1")])
            client.send(ONE)
            await asyncio.sleep(SOON_S)
            there.replica.fail()
            await asyncio.sleep(SOON_S)
            client.send(post(path=b"/no-such"))
            await asyncio.sleep(SOON_S)
            writes = there.connections[0].transport._out.writes
            assert [write[9:12] for write in writes] == [b"200", b"500", b"404"]
            assert writes[0].endswith(b"content-length: 4\r\n\r\nfine")

    run(main())


@WAYS
@pytest.mark.parametrize("status", [200, 204, 304, 599])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_answers_without_a_body(method: bytes, status: int, middlewares: bool) -> None:
    """A HEAD has the length of the body of a GET, 204 and 304 have neither; the connection goes on (HT5)."""

    async def main() -> None:
        async with edge(middlewares=middlewares, methods=("GET",)) as there:
            client = await there.client()
            for _ in range(2):
                client.send(post(method=method, path=b"/b"))
                await asyncio.sleep(SOON_S)
                there.replica.reply(body=b"twelve bytes", status=status)
                await asyncio.sleep(SOON_S)
            assert client.statuses == [status] * 2
            bodiless = status in (204, 304)
            assert client.data.count(b"content-length: 12\r\n") == (0 if bodiless else 2)
            assert client.data.count(b"twelve bytes") == (0 if bodiless or method == b"HEAD" else 2)
            assert b"chunked" not in client.data
            assert client.closed_at is None

    run(main())


@WAYS
@pytest.mark.parametrize("old", [False, True])
def test_a_client_that_waits_to_be_told(old: bool, middlewares: bool) -> None:
    """With ``Expect: 100-continue`` a body is asked for when its head was found right, and not otherwise; HTTP/1.0 does
    not know the word."""

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            for path, told in ((b"/no-such", b""), (b"/b", b"" if old else b"HTTP/1.1 100 Continue\r\n\r\n")):
                client = await there.client()
                head = post(b"content-length: 1", b"Expect: 100-Continue", path=path)
                client.send(head.replace(b"HTTP/1.1", b"HTTP/1.0") if old else head)
                await asyncio.sleep(SOON_S)
                if path == b"/no-such":
                    assert client.statuses == [404]
                    continue
                assert client.data == told
                await asyncio.sleep(1)
                client.send(b"x")
                await asyncio.sleep(SOON_S)
                answer_all(there)
                await settle()
                assert client.statuses == ([200] if old else [100, 200])
                assert (client.closed_at is not None) is old

    run(main())


@WAYS
def test_a_large_body_waits_for_its_app(middlewares: bool) -> None:
    """A body that its app does not read fast enough is read no further than to a mark (G12)."""

    class Slow:
        def __init__(self) -> None:
            self.sizes: list[int] = []

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            while True:
                await asyncio.sleep(1)
                message = await receive()
                self.sizes.append(len(message["body"]))
                if not message["more_body"]:
                    break
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body"})

    async def main() -> None:
        app = Slow()
        async with edge(middlewares=middlewares, app=app) as there:
            client = await there.client()
            client.head(content_length=50 * MAX_DIRECT_BODY)
            for _ in range(50):
                client.send(b"x" * MAX_DIRECT_BODY)
            await asyncio.sleep(120)
            assert client.statuses == [200]
            assert sum(app.sizes) == 50 * MAX_DIRECT_BODY
            assert max(app.sizes) <= HIGH_WATER + MAX_DIRECT_BODY

    run(main())


# --- apps that fail ---------------------------------------------------------------------------------------------------

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]}
PIECE = {"type": "http.response.body", "body": b"ab", "more_body": True}


@pytest.mark.parametrize(
    ("messages", "seen"),
    [
        ([], b"500"),
        ([PIECE], b"500"),
        ([{**START, "headers": [(b"x a", b"1")]}], b"500"),
        ([{**START, "headers": [(b"x", b"1\r\ny: 2")]}], b"500"),
        ([START], b"200"),
        ([START, PIECE], b"200"),
        ([START, START], b"200"),
        ([START, {**PIECE, "more_body": False}], b"200"),
        ([START, {**PIECE, "body": b"abcde"}], b"200"),
    ],
)
@pytest.mark.parametrize("raises", [False, True])
def test_a_middleware_that_fails(messages: list[dict[str, Any]], seen: bytes, raises: bool, caplog: Any) -> None:
    """An operator's middleware raises, forgets to answer, or answers what HTTP does not allow: the client gets a 500,
    or what has been sent and the end of the connection, and the log says so (HT9)."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)
        if raises:
            raise ValueError("of the operator")

    async def main() -> None:
        async with edge(middlewares=True, app=app) as there:
            client = await there.client()
            client.send(ONE + ONE)
            await asyncio.sleep(SOON_S)
            assert client.data[9:12] == seen
            assert len(client.statuses) == 1
            assert client.closed_at is not None
            assert there.tasks == 0

    run(main())
    assert [record.levelname for record in caplog.records] == ["ERROR"]


# --- the end of the server --------------------------------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize(
    ("behind", "statuses"),
    [(b"", [200]), (ONE, [200, 200]), (ONE[:20], [200]), (b"\r\n\r\n", [200]), (b"\0" * 9, [200, 400])],
)
def test_the_end_of_a_busy_connection(behind: bytes, statuses: list[int], middlewares: bool) -> None:
    """When the server is to end, requests that have arrived are answered, and the connection closes (DR1)."""

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            client = await there.client()
            client.send(ONE + behind)
            await asyncio.sleep(SOON_S)
            there.connections[0].shutdown()
            for _ in range(3):
                await asyncio.sleep(SOON_S)
                answer_all(there)
            await asyncio.sleep(SOON_S)
            assert client.statuses == statuses
            assert client.data.count(b"connection: close") == (1 if behind in (b"", ONE, b"\0" * 9) else 0)
            assert client.closed_at is not None

    run(main())


@WAYS
def test_the_end_of_an_idle_connection(middlewares: bool) -> None:
    """A request that comes just before an idle connection is closed is answered (DR1)."""

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            for waits, statuses in ((LINGER_S / 2, [200, 200]), (LINGER_S * 2, [200])):
                client = await there.client()
                client.send(ONE)
                await asyncio.sleep(SOON_S)
                answer_all(there)
                await settle()
                there.connections[-1].shutdown()
                await asyncio.sleep(waits)
                client.send(ONE)
                await asyncio.sleep(SOON_S)
                answer_all(there)
                await asyncio.sleep(SOON_S)
                assert client.statuses == statuses
                assert client.closed_at is not None

    run(main())


# --- clients that leave, and clients that do not read -----------------------------------------------------------------


@WAYS
def test_a_client_that_does_not_read(middlewares: bool) -> None:
    """Answers to a client that reads nothing are not piled up: the next one waits in a task, and its requests with it
    (G12)."""

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            client = await there.client()
            (connection,) = there.connections
            connection.transport._out.hold()
            for number in range(3):
                client.send(ONE)
                await asyncio.sleep(SOON_S)
                assert connection.state == (APP if middlewares else DIRECT)
                there.replica.reply(body=b"x" * 50_000)
                await settle()
                assert connection.write_paused == (number >= 1)
            assert (connection.state, there.tasks) == (APP, 1)
            connection.transport._out.release()
            await asyncio.sleep(SOON_S)
            assert client.statuses == [200] * 3
            assert (connection.state, there.tasks) == (IDLE, 0)

    run(main())


@WAYS
def test_a_client_that_never_reads_and_leaves(middlewares: bool) -> None:
    """A client leaves that has not read what it was sent: the task that waited for it ends."""

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            client = await there.client()
            (connection,) = there.connections
            connection.transport._out.hold()
            for _ in range(3):
                client.send(ONE)
                await asyncio.sleep(SOON_S)
                there.replica.reply(body=b"x" * 50_000)
                await asyncio.sleep(SOON_S)
            assert there.tasks == 1
            client.leave()
            await asyncio.sleep(SOON_S)
            assert (there.tasks, connection.state) == (0, OVER)

    run(main())


@WAYS
def test_states_of_a_body_that_is_late(middlewares: bool) -> None:
    """A small body that does not come with its head is waited for by the app."""

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            client = await there.client()
            client.send(ONE[:-1])
            await settle()
            (connection,) = there.connections
            assert (connection.state, connection._reader.state) == (APP if middlewares else WAITS, BODY)
            await asyncio.sleep(SOON_S)
            assert (connection.state, connection._reader.state) == (APP, BODY)
            client.send(ONE[-1:])
            await asyncio.sleep(SOON_S)
            answer_all(there)
            await settle()
            assert (client.statuses, connection.state) == ([200], IDLE)

    run(main())


@WAYS
def test_idle_behind_a_body_that_nobody_wanted(middlewares: bool) -> None:
    """A connection on which a body ends long behind its answer is idle from then on, and is not kept for ever."""

    async def main() -> None:
        async with edge(middlewares=middlewares, keep_alive_s=4.0) as there:
            client = await there.client()
            client.head("/no-such", content_length=2)
            client.send(b"x")
            await asyncio.sleep(6)
            assert client.closed_at is None
            client.send(b"x")
            await asyncio.sleep(3)
            assert client.closed_at is None
            await asyncio.sleep(2)
            assert (client.statuses, client.closed_at is None) == ([404], False)

    run(main())


@WAYS
def test_a_chunk_that_has_not_come_is_no_news(middlewares: bool) -> None:
    """A client sends the sizes of its chunks and nothing else: for the deadlines of a body nothing has come (F24)."""

    async def main() -> None:
        async with edge(middlewares=middlewares, body_idle_timeout_s=3.0, body_min_bytes_per_s=0) as there:
            client = await there.client()
            client.send(post(b"transfer-encoding: chunked", path=b"/b") + b"5")
            for _ in range(6):
                await asyncio.sleep(1)
                client.send(b"0")
            assert client.statuses == [408]

    run(main())


def test_refused_for_want_of_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections whose requests are refused are told to those that make them pause, on both ways (BC5)."""

    async def main() -> None:
        for middlewares in (False, True):
            async with edge(middlewares=middlewares) as there:
                client = await there.client()
                (connection,) = there.connections
                refused: list[Any] = []
                monkeypatch.setattr(connection._service.pauses, "refused", refused.append)

                def full(head: object) -> None:
                    raise BackpressureError("too many wait", retry_after=1.0)

                monkeypatch.setattr("pointsman.routing.remote.pack", full)
                client.send(ONE)
                await asyncio.sleep(SOON_S)
                client.send(post(path=b"/no-such"))
                await asyncio.sleep(SOON_S)
                assert client.statuses == [503, 404]
                assert refused == [connection]

    run(main())


@WAYS
def test_chunks_go_through_the_app(middlewares: bool) -> None:
    """A small body without a length is the app's to ask for."""

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            client = await there.client()
            client.send(post(b"transfer-encoding: chunked", body=chunks(b"x"), path=b"/b") + LAST)
            await asyncio.sleep(SOON_S)
            assert there.connections[0].state == APP
            answer_all(there)
            await asyncio.sleep(SOON_S)
            assert client.statuses == [200, 404]

    run(main())
