"""The wire both ways: bodies that come behind their call, answers that begin before, and credit in bytes."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.exceptions import BackpressureError, DeadlineExceededError, ReplicaDiedError, UserCodeError
from pointsman.incoming import RequestHead
from pointsman.model import Reason
from pointsman.replica.apps import GRACE_S
from pointsman.routing.reply import JOINED, ByteStream, StreamBroken
from pointsman.routing.router import Router
from pointsman.testing import MemoryReplica, ScriptedReplica, run, settle, table_of
from pointsman.wire.encoding import encode_frame
from pointsman.wire.frames import Kind
from pointsman.wire.messages import PART, SOCKET, WINDOW, AppCallHead, CallHead, pack, unpack
from tests.loop import app_models as apps
from tests.loop.app_models import SEEN, gate
from tests.loop.apps import app_call, body_of, fresh_apps, with_app
from tests.loop.routers import routed, splitting
from tests.properties import examples

__all__ = ["fresh_apps"]

PIECES = st.lists(st.integers(0, 3 * PART), min_size=0, max_size=8)


def unread(replica: MemoryReplica) -> int:
    return sum(item.inbox.unread for item in replica.runtime._ledger.items())  # type: ignore[attr-defined]


def split(replica: MemoryReplica, size: int) -> None:
    assert replica.server is not None
    for pipe in replica.server.pipes:
        pipe.split(size)


@pytest.mark.slow
@examples(100)
@given(sizes=PIECES, cut=st.sampled_from([None, 1000, 70_000]), app=st.sampled_from([apps.echo, apps.mirror]))
def test_a_body_comes_back_as_it_was_sent(sizes: list[int], cut: int | None, app: object) -> None:
    """A body in pieces of any size, on a connection that cuts it anywhere, comes back whole and in order, from an app
    that reads it first, and from one that answers as it reads (AP6, AP7)."""

    async def test(router: Router, replica: MemoryReplica) -> None:
        if cut is not None:
            split(replica, cut)
        call = app_call()
        router.submit(call)
        body = b"".join(bytes([65 + number]) * size for number, size in enumerate(sizes))

        async def push() -> None:
            assert call.up is not None
            for number, size in enumerate(sizes):
                call.up.push(bytes([65 + number]) * size)
                assert await call.up.room()
                assert unread(replica) <= WINDOW
            call.up.end()

        pushing = asyncio.ensure_future(push())
        assert call.future is not None
        reply = await call.future  # type: ignore[misc]
        assert await body_of(reply) == body
        await pushing

    with_app(app, test)


def test_an_app_that_does_not_read_has_a_window_ahead_of_it() -> None:
    """A 60 MB upload to an app that reads nothing: 1 MiB of it is on the way, the client waits with the rest; when the
    app reads, all of it comes (AP6)."""

    async def test(router: Router, replica: MemoryReplica) -> None:
        call = app_call()
        router.submit(call)
        assert call.up is not None
        pushed = 0

        async def push() -> None:
            nonlocal pushed
            assert call.up is not None
            for _ in range(240):
                call.up.push(b"x" * 250_000)
                pushed += 250_000
                if not await call.up.room():
                    return
            call.up.end()

        pushing = asyncio.ensure_future(push())
        await asyncio.sleep(5)
        assert pushed <= WINDOW + 250_000
        assert unread(replica) <= WINDOW
        gate("read").set()
        assert len(await body_of(await call.future)) == 60_000_000  # type: ignore[misc]
        await pushing

    with_app(apps.patient, test)


def test_an_answer_waits_for_its_reader() -> None:
    """An answer of 6.4 MB whose client does not read: the app's send waits when 1 MiB is unread, and goes on with the
    reader (AP7)."""

    async def test(router: Router, replica: MemoryReplica) -> None:
        call = app_call(0)
        router.submit(call)
        reply = await call.future  # type: ignore[misc]
        await asyncio.sleep(1)
        assert len(SEEN) == WINDOW // 100_000
        assert await body_of(reply) == b"".join(bytes([number]) * 100_000 for number in range(64))

    with_app(apps.big, test)


def test_two_tasks_send_in_turn() -> None:
    """Two tasks of an app send at once: nothing is sent in the middle of another part, and none is overtaken (AP7)."""

    async def test(router: Router, replica: MemoryReplica) -> None:
        call = app_call(0)
        router.submit(call)
        reply = await call.future  # type: ignore[misc]
        assert await body_of(reply) == b"A" * 3_000_000 + b"BC"

    with_app(apps.crowded, test)


class Credited:
    """The replica of a stream, which notes the credit that it is given."""

    def __init__(self) -> None:
        self.credit = 0

    def grant_credit(self, call_id: int, amount: int) -> None:
        self.credit += amount

    def drop_stream(self, call_id: int) -> None: ...


def test_small_parts_that_have_come_are_one_piece() -> None:
    """A reader that is behind gets small parts of an answer joined, large ones as they are; it gives credit for all of
    them, and messages of a WebSocket stay apart (AP7)."""

    async def main() -> None:
        replica = Credited()
        stream = ByteStream(replica, 1)
        for part in (b"a", b"b", b"c" * JOINED, b"d" * JOINED, b"e"):
            stream.feed(part)
        pieces = [await stream.__anext__() for _ in range(3)]
        assert pieces == [b"ab" + b"c" * JOINED, b"d" * JOINED, b"e"]
        for _ in range(WINDOW // 1024):
            stream.feed(b"f" * 1024)
        stream.finish()
        assert b"".join([bytes(piece) async for piece in stream]) == b"f" * WINDOW
        assert replica.credit > WINDOW - ByteStream.CREDIT_STEP
        messages = ByteStream(replica, 2)
        messages.feed(b"one", b"1")
        messages.feed(b"two", b"2")
        assert [await messages.part(), await messages.part()] == [(b"1", b"one"), (b"2", b"two")]

    run(main())


@pytest.mark.slow
@examples(60)
@given(
    steps=st.integers(0, 40), size=st.integers(0, 3 * WINDOW), app=st.sampled_from([apps.echo, apps.mirror, apps.big])
)
def test_a_call_can_be_given_up_at_any_moment(steps: int, size: int, app: object) -> None:
    """A client that leaves at any moment, before, within or behind its body and its answer: the replica has its slot
    back, and whoever waits to send more is told (AP9, HT10)."""

    async def test(router: Router, replica: MemoryReplica) -> None:
        call = app_call()
        router.submit(call)
        assert call.up is not None
        call.up.push(b"x" * size)
        for _ in range(steps):
            await asyncio.sleep(0)
        future = call.future
        assert future is not None
        if future.done() and not future.cancelled():  # type: ignore[attr-defined]
            stream = future.result().stream  # type: ignore[attr-defined]
            if stream is not None:
                stream.close()
        else:
            router.cancel(call)
        await asyncio.sleep(2 * GRACE_S)
        assert replica.runtime.load == 0
        call.up.over()
        assert not await call.up.room()

    with_app(app, test)


@pytest.mark.parametrize(("path", "seen"), [("/b", ["disconnect"]), ("/stays", ["disconnect", "cancelled"])])
def test_an_app_hears_that_its_client_has_gone(path: str, seen: list[str]) -> None:
    """A client leaves: the app gets `http.disconnect`; one that goes on is cancelled a moment later (AP9)."""

    async def test(router: Router, replica: MemoryReplica) -> None:
        call = app_call(path=path)
        router.submit(call)
        await settle()
        router.cancel(call)
        await asyncio.sleep(2 * GRACE_S)
        assert seen == SEEN

    with_app(apps.listening, test)


def test_a_refused_call_takes_its_body_along() -> None:
    """A replica sends a call back, of whose body 1 MiB was on the way: the other one gets all of it (SU4)."""

    async def main() -> None:
        full, free = ScriptedReplica(), ScriptedReplica()
        async with routed(full, free) as router:
            call = app_call()
            router.submit(call)
            assert call.up is not None
            call.up.push(b"a" * 600_000)
            call.up.push(b"b" * 600_000)
            await settle()
            first, other = (full, free) if full.calls else (free, full)
            (old,) = first.calls
            assert sum(len(body) for _, _, body in first.behind[old]) == WINDOW
            first.refuse(reason=Reason.DRAINING)
            await settle()
            (new,) = other.calls
            assert sum(len(body) for _, _, body in other.behind[new]) == WINDOW
            other.credit(new, WINDOW)
            call.up.end()
            await settle()
            assert b"".join(body for _, _, body in other.behind[new]) == b"a" * 600_000 + b"b" * 600_000
            assert other.behind[new][-1][0] == Kind.END
            other.reply(new)
            assert (await call.future).status == 200  # type: ignore[misc]

    run(main())


@pytest.mark.parametrize(
    ("size", "whole", "repeated"), [(1000, True, True), (1000, False, False), (WINDOW + 1, True, False)]
)
def test_a_body_that_has_begun_is_not_repeated(size: int, whole: bool, repeated: bool) -> None:
    """A replica dies with an idempotent call that it may have started: it runs again if its body was whole and at most
    1 MiB; otherwise its client hears of it (SU4)."""

    async def main() -> None:
        dying, other = ScriptedReplica(), ScriptedReplica()
        async with routed(dying, other) as router:
            call = app_call(idempotent=True)
            router.submit(call)
            assert call.up is not None
            call.up.push(b"x" * size)
            await settle()
            first, second = (dying, other) if dying.calls else (other, dying)
            (call_id,) = first.calls
            first.credit(call_id, min(size, WINDOW))
            await settle()
            if whole:
                call.up.end()
            await settle()
            first.die()
            await settle()
            if repeated:
                second.reply()
                assert (await call.future).status == 200  # type: ignore[misc]
            else:
                with pytest.raises(ReplicaDiedError):
                    await call.future  # type: ignore[misc]

    run(main())


@pytest.mark.parametrize(("size", "copied"), [(WINDOW, True), (WINDOW + 1, False)])
def test_bodies_over_the_window_are_not_mirrored(size: int, copied: bool) -> None:
    """A shadow of an app gets a body of up to 1 MiB whole; a larger one is counted as dropped (SU5)."""

    async def main() -> None:
        real, shadow = ScriptedReplica("b"), ScriptedReplica("s")
        table = table_of(1, {"b": [real], "s": [shadow]}, endpoints={"b": {"b": 1.0}}, shadows={"s": 1.0})
        async with splitting(table) as router:
            call = app_call()
            router.submit(call)
            assert call.up is not None
            call.up.push(b"x" * size)
            await settle()
            (call_id,) = real.calls
            real.credit(call_id, 1000)
            await settle()
            call.up.end()
            await settle()
            assert [len(body) for body in shadow.bodies] == ([size] if copied else [])
            (statistics,) = router.shadow_statistics()
            assert statistics.dropped == (0 if copied else 1)
            if copied:
                shadow.reply()
            real.reply(call_id)
            await call.future  # type: ignore[misc]

    run(main())


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/returns", "without sending a whole answer"),
        ("/raises", "told"),
        ("/body-first", "'http.response.start' comes next"),
        ("/short", "content-length"),
    ],
)
def test_an_app_that_gives_no_answer_fails_its_call(path: str, text: str) -> None:
    """An app that returns, raises or sends nonsense before its answer can be seen: its client gets a 500 (AP11)."""

    async def test(router: Router, replica: MemoryReplica) -> None:
        call = app_call(0, path=path)
        router.submit(call)
        with pytest.raises(UserCodeError, match=text):
            await call.future  # type: ignore[misc]

    with_app(apps.odd, test)


def test_an_app_that_sends_behind_the_end_has_answered() -> None:
    """What an app sends behind the end of its answer is its error, in its log: the client has the answer (AP11)."""

    async def test(router: Router, replica: MemoryReplica) -> None:
        call = app_call(0, path="/after")
        router.submit(call)
        assert await body_of(await call.future) == b"whole"  # type: ignore[misc]

    with_app(apps.odd, test)


def test_an_answer_that_breaks_is_cut() -> None:
    """An app raises in the middle of its answer: the answer breaks off, and does not look whole (AP7)."""

    async def test(router: Router, replica: MemoryReplica) -> None:
        call = app_call(0, path="/breaks")
        router.submit(call)
        reply = await call.future  # type: ignore[misc]
        with pytest.raises(StreamBroken):
            await body_of(reply)

    with_app(apps.odd, test)


def test_an_app_that_never_begins_meets_the_deadline() -> None:
    """An app that sends nothing is cancelled at the deadline of its call (AP10)."""

    async def test(router: Router, replica: MemoryReplica) -> None:
        call = app_call(path="/never", timeout_s=2.0)
        router.submit(call)
        with pytest.raises(DeadlineExceededError):
            await call.future  # type: ignore[misc]
        await asyncio.sleep(2 * GRACE_S)

    with_app(apps.odd, test)


def test_work_behind_an_answer_goes_on_and_a_drain_waits_for_it() -> None:
    """An app works on behind its whole answer: its client has the answer, no slot is taken, and a drain waits (AP9)."""

    async def test(router: Router, replica: MemoryReplica) -> None:
        call = app_call(0, path="/works")
        router.submit(call)
        assert await body_of(await call.future) == b"whole"  # type: ignore[misc]
        assert replica.runtime.load == 0
        draining = asyncio.ensure_future(replica.runtime.drain())
        await asyncio.sleep(1)
        assert not draining.done()
        gate("work").set()
        await draining
        assert SEEN == ["worked"]

    with_app(apps.odd, test)


def test_calls_of_others_are_sent_as_before() -> None:
    """A call without data behind it is the same bytes on the wire as before there was any (decision 0060)."""
    head = CallHead(RequestHead("b", path=b"/b"), 1000, True, False)
    assert encode_frame(Kind.CALL, 7, pack(head), b"x")[17:] == pack(head) + b"x"
    assert pack(head)[:1] == b"\x94"  # an array of four
    read = unpack(pack(head), AppCallHead)
    assert (read.request, read.budget_ms, read.shadow, read.timed, read.app) == (head.request, 1000, True, False, None)


@pytest.mark.parametrize("reads", [False, True])
def test_a_socket_is_never_repeated(reads: bool) -> None:
    """A replica dies with a socket that it may have started: its client hears of it. One that was refused goes to the
    other replica (SU4)."""

    async def main() -> None:
        dying, other = ScriptedReplica(), ScriptedReplica()
        async with routed(dying, other) as router:
            call = app_call(SOCKET, idempotent=True, http_method="GET")
            router.submit(call)
            await settle()
            first, second = (dying, other) if dying.calls else (other, dying)
            if reads:
                first.die()
                await settle()
                with pytest.raises(ReplicaDiedError):
                    await call.future  # type: ignore[misc]
                assert not second.calls
            else:
                first.refuse(reason=Reason.QUEUE_FULL)
                await settle()
                assert len(second.calls) == 1
                second.refuse(reason=Reason.QUEUE_FULL)
                await settle()
                with pytest.raises(BackpressureError, match="max_websockets"):
                    await call.future  # type: ignore[misc]

    run(main())


def test_sockets_are_spread_by_their_number_and_not_mirrored() -> None:
    """Sockets go to the replica that has the fewest, and shadows get none: they count as dropped (SU3, SU5)."""

    async def main() -> None:
        first, second, shadow = ScriptedReplica("b"), ScriptedReplica("b"), ScriptedReplica("s")
        table = table_of(1, {"b": [first, second], "s": [shadow]}, endpoints={"b": {"b": 1.0}}, shadows={"s": 1.0})
        async with splitting(table) as router:
            for _ in range(10):
                router.submit(app_call(SOCKET, http_method="GET"))
            await settle()
            assert (len(first.calls), len(second.calls), len(shadow.calls)) == (5, 5, 0)
            (statistics,) = router.shadow_statistics()
            assert statistics.dropped == 10

    run(main())
