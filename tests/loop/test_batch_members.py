"""replica.runtime: which queries may share a batch, and that what one of them does is not the others' harm."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pointsman.incoming import CODEC_OBJECT, RequestHead
from pointsman.model import Reason
from pointsman.testing import MemoryReplica, settle
from pointsman.wire.frames import Kind
from pointsman.wire.messages import CallHead, FailureHead, pack, unpack
from tests.loop import batch_models, test_runtime
from tests.loop.models import JOURNAL, OPEN
from tests.loop.test_runtime import Caller, journal_has


@pytest.fixture(autouse=True)
def fresh_journal() -> Iterator[None]:
    JOURNAL.clear()
    OPEN.clear()
    yield
    OPEN.set()


def with_replica(test: Callable[[MemoryReplica, Caller], Any], code: Any, **config: Any) -> None:
    test_runtime.with_replica(test, code, max_batch_size=8, **config)


def call_object(caller: Caller, data: Any) -> int:
    """A handle's call; its numbers are above those of HTTP calls."""
    call_id = 1000 + len(caller.frames) + len(str(data))
    while call_id in _object_ids:
        call_id += 1
    _object_ids.add(call_id)
    head = CallHead(RequestHead("b", CODEC_OBJECT, request_id=f"o{call_id}"), 60_000)
    caller.stream.send(Kind.CALL, call_id, pack(head), pickle.dumps((data, {})))
    return call_id


_object_ids: set[int] = set()


async def failure(caller: Caller, call_id: int) -> FailureHead:
    frame = await caller.answer(call_id)
    assert frame.kind == Kind.FAILURE, frame
    return unpack(frame.head, FailureHead)


# --- buckets ----------------------------------------------------------------------------------------------------


def test_only_like_items_share_a_batch() -> None:
    """With ``bucket_by`` long and short texts that wait together leave in batches of their own (BA6)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        bodies = ["a", "bbb", "c", "ddd", "e"]
        calls = [caller.call(body) for body in bodies]
        assert await caller.answers(calls) == [body.encode() for body in bodies]
        assert sorted(JOURNAL) == ["a,c,e", "bbb,ddd"]

    with_replica(test, batch_models.by_length_async, batch_wait_timeout_s=10.0)


def test_only_like_items_share_a_batch_of_the_thread() -> None:
    """Sync code gets batches of one bucket, too, the one that waited longest first (BA6)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        first = caller.call("the first")
        await journal_has("the first")
        bodies = ["a", "bbb", "c", "ddd"]
        calls = [caller.call(body) for body in bodies]
        while replica.runtime.load < 5:
            await asyncio.sleep(0.001)
        OPEN.set()
        assert await caller.answers([first, *calls]) == [b"the first", *(body.encode() for body in bodies)]
        assert JOURNAL == ["the first", "a,c", "bbb,ddd"]

    with_replica(test, batch_models.by_length_sync)


@pytest.mark.parametrize("code", [batch_models.by_length_async, batch_models.by_length_sync])
@pytest.mark.parametrize(
    ("body", "name", "text"),
    [("raise", "ValueError", "no bucket"), ("exit", "SystemExit", "no bucket"), ("unhashable", "TypeError", "list")],
)
def test_a_request_without_a_bucket_fails_alone(code: Any, body: str, name: str, text: str) -> None:
    """What ``bucket_by`` raises, or a value that is no key, is that one caller's error; the others are served."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        OPEN.set()
        calls = [caller.call("a"), caller.call(body), caller.call("b"), caller.call(body)]
        for bad in (calls[1], calls[3]):
            head = await failure(caller, bad)
            assert (head.reason, head.error) == (Reason.USER_CODE, name)
            assert text in head.text
        assert await caller.answers([calls[0], calls[2]]) == [b"a", b"b"]
        assert replica.runtime.load == 0
        assert await caller.answers([caller.call("c")]) == [b"c"]

    with_replica(test, code)


@pytest.mark.parametrize("code", [batch_models.by_length_async, batch_models.by_length_sync])
def test_buckets_that_cannot_be_compared_harm_nobody_else(code: Any) -> None:
    """A bucket whose ``==`` raises is its caller's error; the connection and all other calls live on (F39)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        calls = [caller.call("a"), caller.call("hostile"), caller.call("hostile"), caller.call("b")]
        await settle()
        OPEN.set()
        assert not caller.stream.closed
        assert await caller.answers([calls[0], calls[3]]) == [b"a", b"b"]
        assert [(await caller.answer(call)).kind in (Kind.REPLY, Kind.FAILURE) for call in calls[1:3]] == [True, True]
        assert replica.runtime.load == 0

    with_replica(test, code, batch_wait_timeout_s=0.2)


# --- failures of single members -----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [batch_models.some_fail_async, batch_models.some_fail_sync])
@pytest.mark.parametrize("kind", batch_models.OBJECTS)
def test_an_exception_among_the_answers_fails_its_own_item(code: Any, kind: str) -> None:
    """A batch that holds an exception object in place of an answer fails that request only, HTTP or handle (BA5)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        error = batch_models.OBJECTS[kind]
        calls = [caller.call("a"), caller.call(kind), caller.call("b")]
        objects = [call_object(caller, "c"), call_object(caller, kind)]
        await settle()
        OPEN.set()
        assert await caller.answers([calls[0], calls[2]]) == [b"fine a", b"fine b"]
        assert pickle.loads((await caller.answer(objects[0])).body) == "fine c"
        for call in (calls[1], objects[1]):
            head = await failure(caller, call)
            assert (head.reason, head.error) == (Reason.USER_CODE, type(error).__name__)
        assert (await caller.answer(calls[1])).body == b"", "an HTTP caller gets no pickle"
        pickled = (await caller.answer(objects[1])).body
        if kind in ("own", "key"):
            assert type(pickle.loads(pickled)) is type(error)
        else:
            assert pickled == b"", "an exit would do to the caller what it was meant to do here"
        assert replica.runtime.load == 0

    with_replica(test, code, batch_wait_timeout_s=0.05)


@pytest.mark.parametrize("code", [batch_models.raises_async, batch_models.raises_sync])
@pytest.mark.parametrize("kind", batch_models.OBJECTS)
def test_nothing_that_a_batch_raises_ends_the_replica(code: Any, kind: str) -> None:
    """Whatever class a batch raises, its members hear of it, and the next batch is a new one (BA5, F39)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        for _ in range(2):
            calls = [caller.call(kind), caller.call(kind)]
            for call in calls:
                head = await failure(caller, call)
                assert head.reason is Reason.USER_CODE
                expected = type(batch_models.OBJECTS[kind]).__name__
                # An async callable that raises StopIteration or cancels itself is told apart by nobody but Python.
                assert head.error == expected or (head.error == "RuntimeError" and kind in ("cancelled", "stop"))
            assert await caller.answers([caller.call("fine")]) == [b"fine"]
        assert replica.runtime.load == 0

    with_replica(test, code)
