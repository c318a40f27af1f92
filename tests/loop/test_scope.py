"""replica.runtime: the deadline and the request id that inner calls inherit."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pointsman.incoming import CODEC_HTTP, RequestHead
from pointsman.testing import MemoryReplica, real_time
from pointsman.wire.frames import Kind
from pointsman.wire.messages import CallHead, pack
from tests.loop.batch_models import SCOPES, Scoped, ScopedAsync, StreamsLater
from tests.loop.models import JOURNAL, OPEN
from tests.loop.test_runtime import Caller, journal_has, with_replica


@pytest.fixture(autouse=True)
def fresh_journal() -> Iterator[None]:
    JOURNAL.clear()
    SCOPES.clear()
    OPEN.clear()
    yield
    OPEN.set()


def call(caller: Caller, call_id: int, *, method: str = "", budget_s: float = 60.0, body: str = "0") -> int:
    head = CallHead(RequestHead("b", CODEC_HTTP, method, "POST", b"/", request_id=f"r{call_id}"), int(budget_s * 1000))
    caller.stream.send(Kind.CALL, call_id, pack(head), body.encode())
    return call_id


@pytest.mark.parametrize("method", ["", "later"])
def test_a_call_hands_on_its_deadline_and_its_id(method: str) -> None:
    """What user code calls in turn has at most the time that is left, and the same request id (HE2, CO7)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        for call_id, budget_s in ((1, 60.0), (2, 5.0)):
            before = time.monotonic()
            await caller.answer(call(caller, call_id, method=method, budget_s=budget_s))
            scope = SCOPES[-1]
            assert scope is not None
            assert scope.request_id == f"r{call_id}"
            assert before + budget_s <= scope.deadline <= time.monotonic() + budget_s

    with_replica(test, Scoped)


def test_calls_that_run_together_have_their_own() -> None:
    """Two async calls that take turns do not see each other's deadline (HE2)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        calls = [call(caller, call_id, method="later", budget_s=call_id) for call_id in (10, 20, 30)]
        await caller.answers(calls)
        assert [scope and scope.request_id for scope in SCOPES] == ["r10", "r20", "r30"]
        deadlines = [scope.deadline for scope in SCOPES if scope is not None]
        # Between two calls the clock, a real one, goes on.
        assert [deadline - deadlines[0] for deadline in deadlines] == pytest.approx([0, 10, 20], abs=5)

    with_replica(test, ScopedAsync)


@pytest.mark.parametrize("order", [(50, 10), (10, 50)])
def test_a_batch_has_the_latest_deadline(order: tuple[int, int]) -> None:
    """What a batch calls in turn is for all of its members: it may take as long as the most patient one (HE2)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        before = time.monotonic()
        calls = [call(caller, number, method="batch_later", budget_s=s) for number, s in enumerate(order, 1)]
        assert await caller.answers(calls) == [b"2", b"2"]
        (scope,) = SCOPES
        assert scope is not None
        assert before + 50 <= scope.deadline <= time.monotonic() + 50
        assert scope.request_id in ("r1", "r2")

    with_replica(test, ScopedAsync, max_batch_size=2, batch_wait_timeout_s=5.0)


def test_a_batch_of_the_thread_has_the_latest_deadline() -> None:
    """The same for sync code (HE2)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        before = time.monotonic()
        first = call(caller, 9, method="batch", budget_s=30)
        await journal_has("1")
        calls = [call(caller, number, method="batch", budget_s=s) for number, s in ((1, 50), (2, 10))]
        while replica.runtime.load < 3:
            await asyncio.sleep(0.001)
        OPEN.set()
        assert await caller.answers([first, *calls]) == [b"1", b"2", b"2"]
        alone, together = SCOPES
        assert alone is not None
        assert together is not None
        assert alone.request_id == "r9"
        assert before + 50 <= together.deadline <= time.monotonic() + 50

    with_replica(test, Scoped, max_batch_size=2)


@pytest.mark.parametrize("code", [Scoped, ScopedAsync])
def test_nothing_is_left_of_a_call_that_is_over(code: Any) -> None:
    """Calls that ``reconfigure`` makes belong to no request, whatever ran before it (HE2, HA10)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        OPEN.set()
        with real_time():
            for number, method in enumerate(("", "later", "batch", "fails", "stream"), 1):
                await caller.answer(call(caller, number, method=method))
            while replica.runtime.load:
                await asyncio.sleep(0.001)
            await replica.runtime.reconfigure(pickle.dumps(1), timeout_s=20)
        assert SCOPES[-1] is None

    with_replica(test, code)


@pytest.mark.parametrize("method", ["stream", "stream_later"])
def test_a_stream_that_has_begun_may_take_its_time(method: str) -> None:
    """The deadline is one to the first byte: what a stream calls after that has no deadline, but the id (HE2)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        stream = call(caller, 1, method=method, budget_s=60)
        await caller.until(lambda: caller.of(stream) and caller.of(stream)[-1].kind == Kind.END)
        assert [scope and scope.request_id for scope in SCOPES] == ["r1"] * 4
        first, *others = [scope.deadline for scope in SCOPES if scope is not None]
        assert first < float("inf")
        assert others == [float("inf")] * 3
        await caller.answer(call(caller, 2))
        assert SCOPES[-1] is not None
        assert SCOPES[-1].deadline < float("inf")

    with_replica(test, Scoped)


def test_streams_of_sync_callables_have_their_own() -> None:
    """A sync callable that answers with an async stream: what the stream calls is for its own request (CO7)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        calls = [call(caller, number, body=str(number)) for number in (1, 2, 3)]
        await journal_has("called 1")
        OPEN.set()
        # The loop stands still on purpose, until the thread has handed two streams over in one go.
        while "called 3" not in JOURNAL:
            time.sleep(0.001)
        await caller.until(lambda: all(len(caller.of(number)) == 3 for number in calls))
        assert [caller.of(number)[1].body.decode() for number in calls] == ["1 for r1", "2 for r2", "3 for r3"]

    with_replica(test, StreamsLater)
