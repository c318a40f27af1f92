"""replica.runtime: admission, drain, cancellation, reconfiguration, streams and batches, as a router sees them."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pointsman.incoming import CODEC_HTTP, RequestHead
from pointsman.model import Reason, ReplicaConfig
from pointsman.replica.metrics import NO_METRICS, NullRecorder, ReplicaMetrics
from pointsman.replica.streams import STREAM_WINDOW
from pointsman.testing import INSTANCE, MemoryReplica, real_time, run, settle
from pointsman.testing.replicas import KEY
from pointsman.wire.auth import ROLE_ROUTER
from pointsman.wire.frames import Frame, Kind
from pointsman.wire.messages import CallHead, CreditHead, FailureHead, RefuseHead, pack, unpack
from pointsman.wire.stream import Stream, dial
from tests.loop import models
from tests.loop.models import JOURNAL, OPEN


@pytest.fixture(autouse=True)
def fresh_journal() -> Iterator[None]:
    JOURNAL.clear()
    OPEN.clear()
    yield
    OPEN.set()


class Caller:
    """A router's end of a connection, frame by frame."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self._changed = asyncio.Event()
        self._next = 0
        self._stream: Stream | None = None

    async def connect(self, replica: MemoryReplica) -> Caller:
        address = replica.ref.address
        self._stream = await dial(address, self, instance=INSTANCE, role=ROLE_ROUTER, identity="", key=KEY)
        await settle()
        return self

    @property
    def stream(self) -> Stream:
        assert self._stream is not None
        return self._stream

    def call(self, body: str = "0", *, method: str = "") -> int:
        self._next += 1
        head = CallHead(RequestHead("b", CODEC_HTTP, method, "POST", b"/", request_id=f"r{self._next}"), 60_000)
        self.stream.send(Kind.CALL, self._next, pack(head), body.encode())
        return self._next

    def of(self, call_id: int) -> list[Frame]:
        return [frame for frame in self.frames if frame.call_id == call_id]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until a frame makes the condition true."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def answer(self, call_id: int) -> Frame:
        await self.until(lambda: self.of(call_id))
        return self.of(call_id)[0]

    async def answers(self, call_ids: list[int]) -> list[bytes]:
        return [(await self.answer(call_id)).body for call_id in call_ids]

    def stream_ready(self, stream: Stream) -> None:
        pass

    def stream_frames(self, stream: Stream, frames: list[Frame]) -> None:
        self.frames += frames
        self._changed.set()

    def stream_lost(self, stream: Stream, error: Exception | None) -> None:
        self._changed.set()


def metrics_of(recorder: NullRecorder) -> ReplicaMetrics:
    """Have one recorder told of everything."""
    metrics = ReplicaMetrics(None)
    metrics.loop = metrics.thread = recorder
    return metrics


def with_replica(
    test: Callable[[MemoryReplica, Caller], Any], code: Any, metrics: ReplicaMetrics = NO_METRICS, **config: Any
) -> None:
    """Run a test against one replica and one connection to it."""

    async def main() -> None:
        limits = ReplicaConfig(**{"http_methods": ("*",), **config})
        async with MemoryReplica(code, config=limits, metrics=metrics) as replica:
            try:
                await test(replica, await Caller().connect(replica))
            finally:
                OPEN.set()

    run(main())


async def journal_has(line: str) -> None:
    """Wait for user code on the thread, which tells nobody that it has begun."""
    while line not in JOURNAL:
        await asyncio.sleep(0.001)


# --- admission and drain -------------------------------------------------------------------------------------------


def test_a_replica_admits_its_limit_and_sends_back_the_rest() -> None:
    """At limit - 1 and limit a query runs; the one over it comes back as not started, with the load (BC2)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        first, second, third = (caller.call("5") for _ in range(3))
        await settle()
        (refused,) = [frame for frame in caller.frames if frame.kind != Kind.FREE]
        assert (refused.kind, refused.call_id) == (Kind.REFUSE, third)
        assert unpack(refused.head, RefuseHead) == RefuseHead(Reason.QUEUE_FULL, 2)
        assert len(JOURNAL) == 2
        await caller.answers([first, second])
        fourth = caller.call("1")
        assert (await caller.answer(fourth)).kind == Kind.REPLY

    with_replica(test, models.Slow, max_concurrent_queries=2)


def test_the_limit_counts_what_waits_for_the_thread() -> None:
    """A sync replica runs one query and holds the others; together they are its limit (BC2, BC4)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        calls = [caller.call(str(number)) for number in range(4)]
        await caller.until(lambda: caller.frames)
        assert [(frame.kind, frame.call_id) for frame in caller.frames] == [(Kind.REFUSE, calls[3])]
        await journal_has("begin 0")
        assert JOURNAL == ["begin 0"]
        OPEN.set()
        assert await caller.answers(calls[:3]) == [b"done"] * 3

    with_replica(test, models.blocks, max_concurrent_queries=3)


def test_a_draining_replica_refuses_new_work_and_finishes_its_own() -> None:
    """The drain is over exactly when the last query has been answered (DR3, DR5)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        running = caller.call("7")
        await settle()
        drained = asyncio.ensure_future(replica.runtime.drain())
        await settle()
        late = caller.call("1")
        await settle()
        assert unpack(caller.of(late)[0].head, RefuseHead).reason is Reason.DRAINING
        assert not drained.done()
        await drained
        assert asyncio.get_running_loop().time() == pytest.approx(7, abs=0.1)
        assert (await caller.answer(running)).kind == Kind.REPLY
        await replica.runtime.drain()

    with_replica(test, models.Slow)


def test_an_open_stream_keeps_a_drain_waiting() -> None:
    """A reader of a stream is not cut off by a drain; when it has left, the drain is over (DR3)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        stream = caller.call()
        await settle()
        drained = asyncio.ensure_future(replica.runtime.drain())
        await asyncio.sleep(60)
        assert not drained.done()
        caller.stream.send(Kind.CANCEL, stream)
        await drained

    with_replica(test, models.Numbers)


def test_a_closed_method_is_refused_in_words() -> None:
    """A caller that names a method that is not there hears which one."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        for method in ("nope", "reconfigure", "_secret"):
            failure = unpack((await caller.answer(caller.call(method=method))).head, FailureHead)
            assert failure.reason is Reason.REJECTED
            assert method in failure.text
        assert replica.runtime.load == 0

    with_replica(test, models.Slow)


def test_a_class_without_call_is_the_backends_fault() -> None:
    """A call that names no method, of a class without ``__call__``: the answer says what is missing, the log has it,
    and it counts as an error (HE1, MO3)."""
    failures: list[int] = []

    class Counts(NullRecorder):
        def failed_late(self, item: Any) -> None:
            failures.append(item.call_id)

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        call = caller.call()
        failure = unpack((await caller.answer(call)).head, FailureHead)
        assert (failure.reason, failure.error) == (Reason.USER_CODE, "AnswerError")
        assert "__call__" in failure.text
        assert failures == [call]
        assert replica.runtime.load == 0

    with_replica(test, models.NoCall, metrics_of(Counts()))


# --- cancellation -----------------------------------------------------------------------------------------------


def test_a_running_coroutine_is_cancelled() -> None:
    """When the client goes, async user code is cancelled and its slot is free; nothing is sent any more (F26)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        call = caller.call("50")
        await settle()
        caller.stream.send(Kind.CANCEL, call)
        await settle()
        assert JOURNAL == ["begin 50", "cancelled 50"]
        assert replica.runtime.load == 0
        assert caller.of(call) == []

    with_replica(test, models.Slow)


class StreamsLater:
    """Streams, after as many seconds as the body says."""

    async def __call__(self, request: Any) -> Any:
        await asyncio.sleep(float(await request.body()))
        yield "one"
        yield "two"


@pytest.mark.parametrize("how", ["answered", "failed", "streamed"])
def test_a_replica_has_answered_once_a_call_has_ended(how: str) -> None:
    """A value, an exception or a whole stream: from then on its death is no start that failed. A call that is refused,
    unknown, or given up by its client proves nothing (F1, F6)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        given_up = caller.call("50")
        await settle()
        caller.stream.send(Kind.CANCEL, given_up)
        await caller.answer(caller.call(method="_private"))
        await settle()
        assert not replica.runtime.has_answered
        call = caller.call("bad" if how == "failed" else "0")
        await caller.until(lambda: any(f.kind in (Kind.END, Kind.FAILURE, Kind.REPLY) for f in caller.of(call)))
        await caller.until(lambda: replica.runtime.has_answered)

    with_replica(test, {"answered": models.Slow, "failed": models.Slow, "streamed": StreamsLater}[how])


def test_a_waiting_sync_call_is_removed_unseen() -> None:
    """A query that waits for the thread and is cancelled never reaches user code, and its slot is free (F26, HA6)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        first, gone, last = (caller.call(str(number)) for number in range(3))
        await journal_has("begin 0")
        caller.stream.send(Kind.CANCEL, gone)
        await settle()
        assert replica.runtime.load == 2
        OPEN.set()
        await caller.answers([first, last])
        assert "begin 1" not in JOURNAL
        assert caller.of(gone) == []

    with_replica(test, models.blocks)


def test_the_answer_of_a_running_sync_call_is_dropped() -> None:
    """Sync code cannot be stopped: it keeps its slot until it ends, and nobody gets the answer (HA6, BC2)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        gone = caller.call("0")
        await journal_has("begin 0")
        caller.stream.send(Kind.CANCEL, gone)
        await settle()
        assert replica.runtime.load == 1
        OPEN.set()
        await caller.answer(caller.call("1"))
        assert replica.runtime.load == 0
        assert caller.of(gone) == []

    with_replica(test, models.blocks)


def test_a_router_that_dies_cancels_its_calls_only() -> None:
    """Calls of a broken connection end; those of other routers go on (F26)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        other = await Caller().connect(replica)
        other.call("50")
        kept = caller.call("5")
        await settle()
        replica.pipes[1].cut()
        await settle()
        assert "cancelled 50" in JOURNAL
        assert replica.runtime.load == 1
        assert (await caller.answer(kept)).kind == Kind.REPLY

    with_replica(test, models.Slow)


# --- reconfiguration --------------------------------------------------------------------------------------------


def test_reconfigure_runs_alone() -> None:
    """No request sees half a change: what runs is finished first, what comes meanwhile waits (RC9, RC8)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        with real_time():  # the user's reconfigure is called on the thread
            before = caller.call("0.05")
            await settle()
            change = asyncio.ensure_future(replica.runtime.reconfigure(pickle.dumps("new"), timeout_s=20))
            await settle()
            during = caller.call("0")
            await change
            assert await caller.answers([before, during]) == [b"old old", b"new new"]
        assert JOURNAL == ["begin 0.05", "end 0.05", "begin reconfigure", "end reconfigure", "begin 0", "end 0"]

    with_replica(test, models.Slow)


def test_reconfigure_gives_up_at_its_limit_and_work_goes_on() -> None:
    """A request that outlasts the limit makes the update fail with TimeoutError, and nothing has changed (RC9)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        long = caller.call("50")
        await settle()
        change = asyncio.ensure_future(replica.runtime.reconfigure(pickle.dumps("new"), timeout_s=10))
        await asyncio.sleep(1)
        waiting = caller.call("1")
        with pytest.raises(TimeoutError, match="after 10 s"):
            await change
        assert await caller.answers([waiting, long]) == [b"old old", b"old old"]
        assert "begin reconfigure" not in JOURNAL

    with_replica(test, models.Slow)


def test_others_take_what_comes_during_reconfigure() -> None:
    """Where there are other replicas, what waits here goes to them, and so does what comes until the change is made;
    what runs is finished (RC9)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        running, *waiting = (caller.call(str(number)) for number in range(3))
        await journal_has("begin 0")
        change = asyncio.ensure_future(replica.runtime.reconfigure(pickle.dumps("new"), timeout_s=20, others=True))
        await settle()
        late = caller.call("3")
        await caller.until(lambda: caller.of(late))
        refused = [frame.call_id for frame in caller.frames if frame.kind == Kind.REFUSE]
        assert refused == [*waiting, late]
        assert unpack(caller.of(late)[0].head, RefuseHead).reason is Reason.RECONFIGURING
        OPEN.set()
        await change
        assert (await caller.answer(running)).body == b"old old"
        assert (await caller.answer(caller.call("4"))).body == b"new new"
        assert JOURNAL == ["begin 0", "end 0", "reconfigured", "begin 4", "end 4"]

    with_replica(test, models.BlocksUntilOpen)


def test_no_request_meets_half_a_change() -> None:
    """After a ``reconfigure`` that raised nothing is started until another one has succeeded (RC9, RC10)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        with real_time():
            with pytest.raises(ValueError, match="bad"):
                await replica.runtime.reconfigure(pickle.dumps("bad"), timeout_s=20)
            call = caller.call("0")
            await asyncio.sleep(0.05)
            assert not caller.of(call)
            await replica.runtime.reconfigure(pickle.dumps("good"), timeout_s=20)
            assert (await caller.answer(call)).body == b"good good"

    with_replica(test, models.Picky)


def test_what_a_half_changed_replica_has_not_started_goes_elsewhere() -> None:
    """A replica that cannot be restored and is to go gives back what waits in it (RC10, DR5, G2)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        with real_time(), pytest.raises(ValueError, match="bad"):
            await replica.runtime.reconfigure(pickle.dumps("bad"), timeout_s=20)
        call = caller.call("0")
        await settle()
        await replica.runtime.drain()
        assert unpack((await caller.answer(call)).head, RefuseHead).reason is Reason.DRAINING

    with_replica(test, models.Picky)


def test_reconfigure_waits_for_streams() -> None:
    """An open stream is a request that runs: ``reconfigure`` comes after its end (RC9)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        stream = caller.call()
        await settle()
        change = asyncio.ensure_future(replica.runtime.reconfigure(pickle.dumps(1), timeout_s=20))
        await asyncio.sleep(5)
        assert "reconfigured" not in JOURNAL
        caller.stream.send(Kind.CANCEL, stream)
        with real_time():
            await change
        assert "reconfigured" in JOURNAL

    with_replica(test, models.Numbers)


@pytest.mark.parametrize("moment", ["while it waits", "while it runs"])
def test_a_call_that_came_during_reconfigure_can_be_cancelled(moment: str) -> None:
    """A client that goes during or after a reconfiguration costs nothing more either (RC9, F26)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        with real_time():
            change = asyncio.ensure_future(replica.runtime.reconfigure(pickle.dumps("new"), timeout_s=20))
            await settle()
            call = caller.call("50")
            await settle()
            if moment == "while it runs":
                await change
                await settle()
                assert JOURNAL[-1] == "begin 50"
            caller.stream.send(Kind.CANCEL, call)
            await change
        await settle()
        assert replica.runtime.load == 0
        assert ("cancelled 50" in JOURNAL) == ("begin 50" in JOURNAL)

    with_replica(test, models.Slow)


def test_reconfigure_waits_for_streams_of_sync_callables() -> None:
    """A sync callable that answers with an asynchronous stream is a request that runs, too (RC9)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        stream = caller.call()
        await caller.until(lambda: len(caller.of(stream)) == STREAM_WINDOW + 1)
        change = asyncio.ensure_future(replica.runtime.reconfigure(pickle.dumps(1), timeout_s=0.2))
        with pytest.raises(TimeoutError):
            await change
        assert JOURNAL == []

    with_replica(test, models.StreamLater)


# --- streams ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [models.Numbers, models.numbers_sync])
def test_a_stream_runs_no_further_ahead_than_its_window(code: Any) -> None:
    """A slow reader stops the producer, whatever kind; each credit lets it go on by that much (G9)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        stream = caller.call()
        for window in (STREAM_WINDOW, STREAM_WINDOW + 8):
            await caller.until(lambda window=window: len(caller.of(stream)) > window)  # type: ignore[misc]
            await journal_has(f"made {window}")
            await settle()
            assert [frame.body.decode() for frame in caller.of(stream)[1:]] == [str(n) for n in range(window)]
            assert f"made {window + 1}" not in JOURNAL
            caller.stream.send(Kind.CREDIT, stream, pack(CreditHead(8)))

    with_replica(test, code)


@pytest.mark.parametrize("code", [models.Numbers, models.numbers_sync])
def test_a_reader_that_leaves_closes_the_producer(code: Any) -> None:
    """When the reader goes, the user's generator is closed, ``finally`` included, and the slot is free (F26)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        stream = caller.call()
        await caller.until(lambda: len(caller.of(stream)) > STREAM_WINDOW)
        caller.stream.send(Kind.CANCEL, stream)
        while replica.runtime.load:
            await asyncio.sleep(0.001)
        await settle()
        assert JOURNAL[-1] == "closed"
        assert caller.of(stream)[-1].kind == Kind.CHUNK

    with_replica(test, code)


# --- what is counted -----------------------------------------------------------------------------------------------


class HeldUp(NullRecorder):
    """Takes its time to note that a call of user code is over."""

    def __init__(self) -> None:
        self.told, self.may_go_on = threading.Event(), threading.Event()

    def ran(self, began: float, size: int) -> None:
        self.told.set()
        self.may_go_on.wait()


def test_a_sync_call_is_counted_before_its_caller_hears() -> None:
    """Whoever has an answer finds its call counted: while it is not, the answer stays here (MO1)."""
    held_up = HeldUp()

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        call = caller.call()
        while not held_up.told.is_set():
            await asyncio.sleep(0.001)
        await settle()
        assert not caller.frames
        held_up.may_go_on.set()
        assert (await caller.answer(call)).kind == Kind.REPLY

    with_replica(test, models.echo_sync, metrics=metrics_of(held_up))


def test_an_async_call_is_counted_before_its_caller_hears() -> None:
    """The same on the loop, where an answer leaves at once when it is the only one (MO1)."""

    class Notes(NullRecorder):
        def ran(self, began: float, size: int) -> None:
            (pipe,) = replicas[0].pipes
            JOURNAL.append(f"{len(pipe.back.writes)} writes")

    replicas: list[MemoryReplica] = []

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        replicas.append(replica)
        (pipe,) = replica.pipes
        before = len(pipe.back.writes)
        assert (await caller.answer(caller.call())).kind == Kind.REPLY
        assert [f"{before} writes"] == JOURNAL

    with_replica(test, models.echo_async, metrics=metrics_of(Notes()))
