"""replica.runtime: what a replica sends back when a router recalls it, and what it says of its calls' run time."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from pointsman.model import Reason
from pointsman.policy.balance import GOES_ON
from pointsman.testing import MemoryReplica, settle
from pointsman.wire.frames import Kind
from pointsman.wire.messages import FailureHead, FreeHead, RefuseHead, ReplyHead, unpack
from tests.loop import models
from tests.loop.models import JOURNAL, OPEN
from tests.loop.test_runtime import Caller, fresh_journal, journal_has, with_replica

__all__ = ["fresh_journal"]


def test_a_replica_sends_back_what_it_has_not_begun() -> None:
    """A recall takes what waits and leaves what runs, of its own connection only; the replica says when it is free
    (BC6)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        other = await Caller().connect(replica)
        running, *waiting = (caller.call(str(number)) for number in range(3))
        await journal_has("begin 0")
        theirs = other.call("theirs")
        caller.stream.send(Kind.RECALL, 0)
        await caller.until(lambda: len(caller.frames) == 2)
        assert [(frame.call_id, frame.kind) for frame in caller.frames] == [(one, Kind.REFUSE) for one in waiting]
        assert unpack(caller.frames[0].head, RefuseHead) == RefuseHead(Reason.RECALLED, 3)
        OPEN.set()
        await caller.until(lambda: len(caller.frames) == 4)
        assert [(frame.call_id, frame.kind) for frame in caller.frames[2:]] == [(running, Kind.REPLY), (0, Kind.FREE)]
        assert unpack(caller.frames[3].head, FreeHead).run_us > 0
        assert (await other.answer(theirs)).kind == Kind.REPLY
        assert JOURNAL == ["begin 0", "end 0", "begin theirs", "end theirs"]
        assert [frame.kind for frame in other.frames] == [Kind.REPLY]

    with_replica(test, models.BlocksUntilOpen)


def test_what_waits_for_short_calls_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recall finds a call that has not run for long: what waits behind it, of whichever router, is next (BC6)."""
    monkeypatch.setattr("pointsman.replica.recalls.LEAD_S", 60.0)

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        other = await Caller().connect(replica)
        caller.call("0")
        await journal_has("begin 0")
        waiting = other.call("1")
        other.stream.send(Kind.RECALL, 0)
        await settle()
        OPEN.set()
        await other.answer(waiting)
        assert [frame.kind for frame in other.frames] == [Kind.FREE, Kind.REPLY]

    with_replica(test, models.BlocksUntilOpen)


def test_a_replica_that_runs_nothing_says_so_at_once() -> None:
    """A recall that comes when all is done is answered all the same (BC6)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        caller.stream.send(Kind.RECALL, 0)
        assert unpack((await caller.answer(0)).head, FreeHead) == FreeHead(0, 0, idle=True)

    with_replica(test, models.echo_sync)


def test_a_replica_that_runs_nothing_keeps_what_comes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica was asked while it was idle, and has said so: a call that comes then and waits behind a short one keeps
    its place (BC6)."""
    monkeypatch.setattr("pointsman.replica.recalls.LEAD_S", 0.05)

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        other = await Caller().connect(replica)
        caller.stream.send(Kind.RECALL, 0)
        await caller.answer(0)
        running = other.call("0")
        await journal_has("begin 0")
        waiting = caller.call("1")
        await asyncio.sleep(0.2)
        assert not caller.of(waiting)
        OPEN.set()
        assert (await other.answer(running)).kind == Kind.REPLY
        assert (await caller.answer(waiting)).kind == Kind.REPLY

    with_replica(test, models.BlocksUntilOpen)


def test_a_replica_that_takes_a_new_config_is_not_free() -> None:
    """While calls are held back for ``reconfigure`` the replica does not say that another can begin (RC9, BC6)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        caller.call("0")
        await journal_has("begin 0")
        change = asyncio.ensure_future(replica.runtime.reconfigure(pickle.dumps("new"), timeout_s=20))
        await settle()
        waiting = caller.call("1")
        caller.stream.send(Kind.RECALL, 0)
        assert unpack((await caller.answer(waiting)).head, RefuseHead).reason is Reason.RECALLED
        assert not caller.of(0)
        OPEN.set()
        await change
        await caller.answer(0)
        assert JOURNAL == ["begin 0", "end 0", "reconfigured"]

    with_replica(test, models.BlocksUntilOpen)


def test_replies_say_what_calls_take() -> None:
    """Those of sync code do; async calls do not wait for one another, and their replica says so, at once too to who has
    just connected: it may be an old one of a backend whose new code is sync (BC6)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        reply = unpack((await caller.answer(caller.call())).head, ReplyHead)
        assert reply.run_us > 0

    with_replica(test, models.echo_sync)

    async def test_async(replica: MemoryReplica, caller: Caller) -> None:
        assert unpack((await caller.answer(0)).head, FreeHead) == FreeHead(0, GOES_ON)
        assert unpack((await caller.answer(caller.call())).head, ReplyHead).run_us == GOES_ON

    with_replica(test_async, models.echo_async)


def test_failures_say_what_calls_take_and_what_is_there() -> None:
    """A router learns from a failure what it learns from an answer: how long sync calls take, and how many others the
    replica has (BC6)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        first, second = caller.call("1"), caller.call("2")
        OPEN.set()
        told = unpack((await caller.answer(first)).head, FailureHead)
        assert (told.run_us > 0, told.load) == (True, 1)
        assert unpack((await caller.answer(second)).head, FailureHead).load == 0

    with_replica(test, models.fails_when_open)


@pytest.mark.parametrize("code", [models.returns_a_coroutine, models.returns_an_async_generator])
def test_sync_code_that_returns_what_has_to_be_awaited_is_known_by_it(code: Any) -> None:
    """A ``def`` that returns a coroutine, or an async generator, keeps nobody waiting: its replica tells all routers so
    while the first one runs (BC2, BC6)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        caller.call("5")
        assert unpack((await caller.answer(0)).head, FreeHead) == FreeHead(1, GOES_ON)
        caller.call("6")
        await journal_has("begin 6")
        later = await Caller().connect(replica)
        assert unpack((await later.answer(0)).head, FreeHead) == FreeHead(2, GOES_ON)

    with_replica(test, code)


@pytest.mark.parametrize("method", ["ask_async", "ask_many"])
def test_a_method_that_only_the_object_has_is_known_by_its_first_call(method: str) -> None:
    """A constructor makes an async or a batching method, of which the class of sync code knows nothing: the replica
    tells routers at the first call that it takes others beside it, and goes on saying so (BC2, BA5, BC6)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        await caller.answer(caller.call())
        caller.call(method=method)
        assert unpack((await caller.answer(0)).head, FreeHead) == FreeHead(1, GOES_ON)
        caller.call(method=method)
        OPEN.set()
        reply = unpack((await caller.answer(caller.call())).head, ReplyHead)
        assert reply.run_us == GOES_ON
        assert len(caller.of(0)) == 1

    with_replica(test, models.MakesItsMethods, http_methods=(method,))
