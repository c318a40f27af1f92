"""replica.runtime: how queries go together in batches, on the thread and on the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from pointsman.model import ReplicaConfig
from pointsman.testing import MemoryReplica, settle
from pointsman.wire.frames import Kind
from pointsman.wire.messages import FailureHead, unpack
from tests.loop import models
from tests.loop.models import JOURNAL, OPEN
from tests.loop.test_runtime import Caller, journal_has, with_replica


@pytest.fixture(autouse=True)
def fresh_journal() -> Iterator[None]:
    JOURNAL.clear()
    OPEN.clear()
    yield
    OPEN.set()


def test_nine_queries_against_a_busy_sync_replica_make_three_batches() -> None:
    """The first goes alone since the replica is idle; the eight that wait make two full batches: 1, 4, 4 (BA10)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        calls = [caller.call("0")]
        await journal_has("0")
        calls += [caller.call(str(number)) for number in range(1, 9)]
        while replica.runtime.load < 9:
            await asyncio.sleep(0.001)
        OPEN.set()
        assert await caller.answers(calls) == [b"1"] + [b"4"] * 8
        assert JOURNAL == ["0", "1,2,3,4", "5,6,7,8"]

    with_replica(test, models.batch_sync, max_batch_size=4)


def test_async_batches_run_one_at_a_time_and_fill_meanwhile() -> None:
    """While one batch runs, the next fills: nine queries at 4 make 1, 4, 4 here too (BA14, BA10)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        calls = [caller.call("0")]
        await settle()
        calls += [caller.call(str(number)) for number in range(1, 9)]
        await caller.answers(calls)
        assert JOURNAL == ["0", "1,2,3,4", "5,6,7,8"]
        assert asyncio.get_running_loop().time() == pytest.approx(3, abs=0.1)

    with_replica(test, models.batch_async, max_batch_size=4)


def test_async_batches_may_overlap() -> None:
    """With ``max_concurrent_batches=2`` two batches run at once, and the third waits for one of them (BA14)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        calls = [caller.call(str(number)) for number in range(6)]
        await settle()
        assert len(JOURNAL) == 2
        await caller.answers(calls)
        assert asyncio.get_running_loop().time() == pytest.approx(2, abs=0.1)

    with_replica(test, models.batch_async, max_batch_size=2, max_concurrent_batches=2)


def test_a_batch_waits_for_company_from_its_first_query_on() -> None:
    """Max 2, wait 10 s, three queries: sizes 2, 2, 1, and the last goes 10 s after it came (BA2, BA11)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        calls = [caller.call(str(number)) for number in range(3)]
        assert await caller.answers(calls) == [b"2", b"2", b"1"]
        assert asyncio.get_running_loop().time() == pytest.approx(11, abs=0.1)

    with_replica(test, models.batch_async, max_batch_size=2, batch_wait_timeout_s=10.0)


def test_a_new_batch_size_holds_for_the_next_batch() -> None:
    """Three queries that wait go together once the limit is raised, without a new replica (BA12, BC7)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        first = caller.call("0")
        await settle()
        calls = [caller.call(str(number)) for number in range(1, 4)]
        await settle()
        replica.runtime.configure(ReplicaConfig(max_batch_size=8))
        await caller.answers([first, *calls])
        assert JOURNAL == ["0", "1,2,3"]

    with_replica(test, models.batch_async, max_batch_size=1)


@pytest.mark.parametrize("code", [models.batch_sync, models.batch_async])
def test_a_member_that_has_gone_is_left_out(code: object) -> None:
    """A query that is cancelled before its batch formed is not in it; the others are (BA15)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        first = caller.call("0")
        await journal_has("0")
        calls = [caller.call(str(number)) for number in range(1, 5)]
        caller.stream.send(Kind.CANCEL, calls[1])
        await settle()
        OPEN.set()
        await caller.answers([first, calls[0], calls[2], calls[3]])
        assert JOURNAL == ["0", "1,3,4"]
        assert caller.of(calls[1]) == []

    with_replica(test, code, max_batch_size=4)


def test_a_member_that_goes_while_its_batch_runs_does_not_stop_it() -> None:
    """The others of a running batch get their answers; the one that has gone gets none (HA6, BA3)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        first = caller.call("0")
        await settle()
        calls = [caller.call(str(number)) for number in range(1, 4)]
        await caller.answer(first)
        await journal_has("1,2,3")
        caller.stream.send(Kind.CANCEL, calls[1])
        await settle()
        assert await caller.answers([calls[0], calls[2]]) == [b"3", b"3"]
        assert caller.of(calls[1]) == []
        assert replica.runtime.load == 0

    with_replica(test, models.batch_async, max_batch_size=4)


@pytest.mark.parametrize(("body", "text"), [("short", "doesn't preserve batch size"), ("x", "bad batch")])
def test_a_bad_batch_fails_its_members_only(body: str, text: str) -> None:
    """Every member of a batch that goes wrong hears why; the next batch is a new one (BA4, BA5)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        calls = [caller.call(body) for _ in range(5)]
        for call in calls[1:] if body == "short" else calls:  # the first is a batch by itself, and of the right size
            failure = unpack((await caller.answer(call)).head, FailureHead)
            assert text in failure.text
        assert replica.runtime.load == 0

    with_replica(test, models.batch_badly, max_batch_size=2)
