"""replica.streams and replica.responses: what streams obeys the same rules, however user code says it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pointsman.incoming import CODEC_HTTP, RequestHead
from pointsman.replica.streams import STREAM_WINDOW
from pointsman.testing import MemoryReplica, real_time, settle
from pointsman.wire.frames import Kind
from pointsman.wire.messages import CallHead, CreditHead, FailureHead, ReplyHead, pack, unpack
from tests.loop import stream_models as models
from tests.loop.models import JOURNAL
from tests.loop.test_runtime import Caller, fresh_journal, journal_has, with_replica

__all__ = ["fresh_journal"]


def serving(code: Any, test: Callable[[MemoryReplica, Caller], Any]) -> None:
    """Run a test against one replica; in real time, since Starlette's threads are of a kind that no clock knows."""

    async def in_real_time(replica: MemoryReplica, caller: Caller) -> None:
        with real_time():
            await test(replica, caller)

    with_replica(in_real_time, code)


def named(function: Callable[..., Any]) -> str:
    return function.__name__


@pytest.mark.parametrize("code", models.SYNC, ids=named)
def test_sync_code_streams_one_at_a_time(code: Any) -> None:
    """Two clients ask one replica of sync code for a stream, a generator's, any other iterator's or a response's: the
    second begins when the first is over; one that leaves ends its own at once (RP4, BC4, F26)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        first, second = caller.call("first"), caller.call("second")
        await caller.until(lambda: len(caller.of(first)) > STREAM_WINDOW)
        await settle()
        assert JOURNAL == ["begin first"]
        assert caller.of(second) == []
        caller.stream.send(Kind.CANCEL, first)
        await caller.until(lambda: len(caller.of(second)) > STREAM_WINDOW)
        assert JOURNAL == ["begin first", "closed first", "begin second"]
        caller.stream.send(Kind.CANCEL, second)
        await journal_has("closed second")
        while replica.runtime.load:
            await asyncio.sleep(0.001)

    serving(code, test)


@pytest.mark.parametrize("code", [*models.SYNC, *models.ASYNC], ids=named)
def test_a_reader_that_leaves_closes_what_streams(code: Any) -> None:
    """When the reader goes, what user code iterates is closed, ``finally`` included, before the slot is free (F26)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        stream = caller.call("it")
        await caller.until(lambda: len(caller.of(stream)) > STREAM_WINDOW)
        caller.stream.send(Kind.CANCEL, stream)
        while replica.runtime.load:
            await asyncio.sleep(0.001)
        assert JOURNAL == ["begin it", "closed it"]

    serving(code, test)


@pytest.mark.parametrize("code", [*models.SYNC, *models.ASYNC], ids=named)
def test_a_stream_arrives_whole(code: Any) -> None:
    """A reader that keeps reading gets every chunk, in order, and the end (RP4)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        if code is models.own:
            return  # never ends by itself
        stream = caller.call("it")
        await caller.until(lambda: caller.of(stream))
        caller.stream.send(Kind.CREDIT, stream, pack(CreditHead(models.MANY)))
        await caller.until(lambda: caller.of(stream)[-1].kind != Kind.CHUNK and len(caller.of(stream)) > 1)
        head, *chunks, end = caller.of(stream)
        assert unpack(head.head, ReplyHead).status == (201 if code is models.response_of_steps else 200)
        assert [chunk.body.decode() for chunk in chunks] == [str(number) for number in range(models.MANY)]
        assert end.kind == Kind.END
        assert JOURNAL == ["begin it", "closed it"]

    serving(code, test)


@pytest.mark.parametrize("code", [*models.SYNC, *models.ASYNC], ids=named)
def test_head_ends_with_the_head(code: Any) -> None:
    """A HEAD of an endless stream has its head and no chunk, and what would stream is closed (HT5)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        head = CallHead(RequestHead("b", CODEC_HTTP, "", "HEAD", b"/", request_id="r"), 60_000)
        caller.stream.send(Kind.CALL, 1, pack(head), b"it")
        await caller.until(lambda: len(caller.of(1)) > 1)
        assert [frame.kind for frame in caller.of(1)] == [Kind.REPLY, Kind.END]
        while replica.runtime.load:
            await asyncio.sleep(0.001)
        await journal_has("closed it")  # by the thread, a `map` a moment later
        assert JOURNAL == ["begin it", "closed it"]

    serving(code, test)


def test_a_response_that_fails_before_its_first_chunk_is_a_failure() -> None:
    """What a streamed response of sync code raises before its first chunk can still be told as an error; later it
    breaks the stream (RP4, HE3)."""

    async def failed(replica: MemoryReplica, caller: Caller) -> None:
        (frame,) = [await caller.answer(caller.call())]
        failure = unpack(frame.head, FailureHead)
        assert (frame.kind, failure.error, failure.text) == (Kind.FAILURE, "LookupError", "before the first")
        assert "in failing" in failure.traceback

    async def broke(replica: MemoryReplica, caller: Caller) -> None:
        stream = caller.call()
        await caller.until(lambda: len(caller.of(stream)) == 3)
        assert [frame.kind for frame in caller.of(stream)] == [Kind.REPLY, Kind.CHUNK, Kind.FAILURE]
        assert unpack(caller.of(stream)[2].head, FailureHead).text == "after the first"

    serving(models.fails_at_once, failed)
    serving(models.fails_in_the_middle, broke)


def test_user_code_learns_that_its_client_has_left() -> None:
    """A ``def`` that asks ``request.is_disconnected()`` can stop when nobody waits for its answer any more; a batch can
    leave out those who have left (HT10, RQ1)."""

    async def alone(replica: MemoryReplica, caller: Caller) -> None:
        call = caller.call()
        await journal_has("begin")
        caller.stream.send(Kind.CANCEL, call)
        await journal_has("left")
        while replica.runtime.load:
            await asyncio.sleep(0.001)
        assert caller.of(call) == []

    async def in_a_batch(replica: MemoryReplica, caller: Caller) -> None:
        gone, here = caller.call("gone"), caller.call("here")
        await journal_has("begin 2")
        caller.stream.send(Kind.CANCEL, gone)
        assert (await caller.answer(here)).body == b"here"
        assert "left [True, False]" in JOURNAL

    serving(models.asks_until_left, alone)
    with_replica(in_a_batch, models.asks_for_each, max_batch_size=2, batch_wait_timeout_s=60.0)


@pytest.mark.parametrize("code", [models.bodiless, models.bodiless_async], ids=named)
@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_streams_none(code: Any, status: int) -> None:
    """A streamed 204 or 304 is its head alone, whatever its content-length and its iterator say (H15, RP3)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        call = caller.call(str(status))
        await caller.until(lambda: caller.of(call) and caller.of(call)[-1].kind == Kind.END)
        head, *rest = caller.of(call)
        told = unpack(head.head, ReplyHead)
        assert told.status == status
        assert b"content-length" not in dict(told.headers)
        assert [frame.kind for frame in rest] == [Kind.END]

    serving(code, test)


def test_what_async_code_streams_is_closed_beside_the_loop() -> None:
    """A client leaves what an ``async def`` streams from a sync generator: its ``finally`` runs on a thread, and
    keeps nobody else waiting (F26)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        call = caller.call("x")
        await caller.until(lambda: len(caller.of(call)) > STREAM_WINDOW)
        caller.stream.send(Kind.CANCEL, call)
        await journal_has("elsewhere")
        while replica.runtime.load:
            await asyncio.sleep(0.001)

    serving(models.closed_elsewhere, test)


def test_a_temporary_file_is_streamed() -> None:
    """``tempfile``'s files are answers as other files are (RP4)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        call = caller.call("x")
        await caller.until(lambda: caller.of(call) and caller.of(call)[-1].kind in (Kind.END, Kind.FAILURE))
        assert [frame.body for frame in caller.of(call)[1:-1]] == [b"a\n", b"b\n"]

    serving(models.temporary, test)


def test_members_of_a_batch_stream_in_their_own_names() -> None:
    """Each generator that a batch is answered with finds the request id and the deadline of its own call (BA4, RQ7)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        calls = [caller.call("x"), caller.call("y")]
        for call in calls:
            await caller.until(lambda call=call: caller.of(call) and caller.of(call)[-1].kind == Kind.END)
        assert [caller.of(call)[1].body.decode() for call in calls] == ["r1 True", "r2 True"]

    async def in_real_time(replica: MemoryReplica, caller: Caller) -> None:
        with real_time():
            await test(replica, caller)

    with_replica(in_real_time, models.scopes, max_batch_size=2, batch_wait_timeout_s=5.0)
