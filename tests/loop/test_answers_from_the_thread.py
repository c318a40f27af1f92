"""replica.ledger and replica.thread: the answer of a sync call that is alone leaves from the thread that has run it."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import random
import select
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from pointsman.incoming import CODEC_HTTP, CODEC_OBJECT, RequestHead
from pointsman.model import Reason, ReplicaConfig
from pointsman.replica.ledger import StartedLedger
from pointsman.replica.metrics import NO_METRICS, NullRecorder, ReplicaMetrics
from pointsman.replica.runtime import Runtime
from pointsman.request import accept_batch
from pointsman.usercode.packing import inspect_code, pack_code
from pointsman.wire.encoding import FrameDecoder, encode_frame
from pointsman.wire.frames import Frame, Kind
from pointsman.wire.messages import CallHead, RefuseHead, ReplyHead, pack, unpack
from pointsman.wire.shared import SharedStream
from pointsman.wire.started import StartedCalls, StartedReader
from tests.loop import models
from tests.loop.models import JOURNAL, OPEN
from tests.loop.test_shared_stream import LIMIT_S, LOOPS, SMALL_ROOM, NewLoop, many_switches

__all__ = ["many_switches"]

pytestmark = pytest.mark.parametrize("new_loop", LOOPS)


@pytest.fixture(autouse=True)
def fresh_journal() -> Iterator[None]:
    JOURNAL.clear()
    OPEN.clear()
    yield
    OPEN.set()


class RouterEnd:
    """A router's end of a connection, frame by frame. To read from it blocks whoever does, the event loop too.

    Attributes:
        free: how often the replica has said that another call can begin.
    """

    def __init__(self, peer: socket.socket, stream: SharedStream) -> None:
        self.peer, self.stream = peer, stream
        self._decoder = FrameDecoder()
        self._last = 0
        self.free = 0

    def call(self, body: str = "0", *, method: str = "", codec: int = CODEC_HTTP) -> int:
        self.peer.sendall(self.frame(body, method=method, codec=codec))
        return self._last

    def frame(self, body: str, *, method: str = "", codec: int = CODEC_HTTP) -> bytes:
        self._last += 1
        head = CallHead(RequestHead("b", codec, method, "POST", b"/", request_id=f"r{self._last}"), 60_000)
        data = body.encode() if codec == CODEC_HTTP else pickle.dumps((body, {}))
        return encode_frame(Kind.CALL, self._last, pack(head), data)

    def cancel(self, call_id: int) -> None:
        self.peer.sendall(encode_frame(Kind.CANCEL, call_id))

    def recall(self) -> None:
        self.peer.sendall(encode_frame(Kind.RECALL, 0))

    def read(self) -> list[Frame]:
        data = self.peer.recv(1 << 16)
        assert data, "the replica has closed the connection"
        frames = self._decoder.feed(data)
        answers = [frame for frame in frames if frame.kind != Kind.FREE]
        self.free += len(frames) - len(answers)
        return answers

    def answer(self) -> Frame:
        frames: list[Frame] = []
        while not frames:
            frames = self.read()
        (frame,) = frames
        return frame

    async def answered(self) -> Frame:
        return await asyncio.to_thread(self.answer)


class Replica:
    """A runtime, and the routers that are connected to it by sockets."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.routers: list[RouterEnd] = []

    async def router(self, room: int | None = None) -> RouterEnd:
        here, peer = socket.socketpair()
        peer.settimeout(LIMIT_S)
        if room is not None:
            here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
        loop = asyncio.get_running_loop()
        _, stream = await loop.connect_accepted_socket(lambda: SharedStream(self.runtime, None), here)
        router = RouterEnd(peer, stream)
        self.routers.append(router)
        return router

    async def idle(self) -> None:
        """Return when no call is left."""
        await until(lambda: not self.runtime.load)


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def served(code: Any, started: str | None, metrics: ReplicaMetrics, **config: Any) -> AsyncIterator[Replica]:
    limits = ReplicaConfig(**{"http_methods": ("*",), **config})
    note = StartedLedger(StartedCalls(started)) if started is not None else None
    runtime = Runtime(limits, started=note, metrics=metrics)
    await runtime.load_code(pack_code(code, ()), inspect_code(code, ()))
    replica = Replica(runtime)
    try:
        yield replica
    finally:
        OPEN.set()
        for router in replica.routers:
            if not router.stream.closed:
                router.stream.abort()
            router.peer.close()
        await asyncio.sleep(0)
        await runtime.release_code()


def on(
    new_loop: NewLoop,
    test: Callable[[Replica, RouterEnd], Coroutine[Any, Any, None]],
    code: Any,
    *,
    started: str | None = None,
    metrics: ReplicaMetrics = NO_METRICS,
    room: int | None = None,
    **config: Any,
) -> None:
    """Run a test with a replica that has answered its first call, and one router."""

    async def main() -> None:
        async with served(code, started, metrics, **config) as replica:
            router = await replica.router(room)
            OPEN.set()
            router.call("first")
            assert (await router.answered()).kind == Kind.REPLY
            await replica.idle()
            OPEN.clear()
            await asyncio.wait_for(test(replica, router), LIMIT_S)

    loop = new_loop()
    try:
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


class StoppedAt(NullRecorder):
    """Stops the thread, once it is told to, when a call's slot is being given back: its answer is about to leave."""

    def __init__(self) -> None:
        self.stops = False
        self.reached, self.go_on = threading.Event(), threading.Event()

    def closed(self, item: Any) -> None:
        if self.stops:
            self.reached.set()
            assert self.go_on.wait(LIMIT_S)


def recorded(recorder: NullRecorder) -> ReplicaMetrics:
    metrics = ReplicaMetrics(None)
    metrics.thread = recorder
    return metrics


def test_an_answer_leaves_while_the_loop_is_busy(new_loop: NewLoop) -> None:
    """Nothing of a sync call that is alone waits for the event loop once user code runs. Its slot is free when its
    caller hears (BC2, BC4)."""

    async def test(replica: Replica, router: RouterEnd) -> None:
        call = router.call("1")
        await until(lambda: "begin 1" in JOURNAL)
        assert replica.runtime.load == 1
        OPEN.set()
        frame = router.answer()  # blocks the loop
        assert (frame.kind, frame.call_id, frame.body) == (Kind.REPLY, call, b"done")
        assert unpack(frame.head, ReplyHead).load == 0
        assert replica.runtime.load == 0

    on(new_loop, test, models.blocks)


def test_one_call_after_the_other_finds_room(new_loop: NewLoop) -> None:
    """With a limit of one, a caller who has an answer may call again at once (BC2)."""

    async def test(replica: Replica, router: RouterEnd) -> None:
        for number in range(200):
            router.call(str(number), codec=CODEC_OBJECT if number % 2 else CODEC_HTTP)
            frame = await router.answered()
            assert frame.kind == Kind.REPLY
            assert (pickle.loads(frame.body) if number % 2 else frame.body.decode()) == f"<{number}>"  # type: ignore[union-attr]

    on(new_loop, test, quoted, max_concurrent_queries=1)


def quoted(request: Any) -> str:
    body = request.data if hasattr(request, "data") else request.body()
    return f"<{body.decode() if isinstance(body, bytes) else body}>"


def test_a_call_is_counted_before_its_caller_hears(new_loop: NewLoop) -> None:
    """Until the slot is given back and counted nothing of the answer can be seen (MO1, BC2)."""
    counts = StoppedAt()

    async def test(replica: Replica, router: RouterEnd) -> None:
        counts.stops = True
        router.call()
        await asyncio.to_thread(counts.reached.wait, LIMIT_S)
        router.peer.setblocking(False)
        with pytest.raises(BlockingIOError):
            router.peer.recv(1)
        router.peer.settimeout(LIMIT_S)
        counts.go_on.set()
        assert router.answer().kind == Kind.REPLY

    on(new_loop, test, models.echo_sync, metrics=recorded(counts))


def test_calls_that_are_not_alone_are_answered_by_the_loop(new_loop: NewLoop) -> None:
    """Many answers share a system call, as ever, and nothing of them leaves while the loop is busy."""

    async def test(replica: Replica, router: RouterEnd) -> None:
        first, second = router.call("1"), router.call("2")
        await until(lambda: replica.runtime.load == 2)
        OPEN.set()
        while "end 2" not in JOURNAL:
            pass  # the loop is busy
        router.peer.setblocking(False)
        with pytest.raises(BlockingIOError):
            router.peer.recv(1)
        router.peer.settimeout(LIMIT_S)
        frames: list[Frame] = []
        while len(frames) < 2:
            frames += await asyncio.to_thread(router.read)
        assert [frame.call_id for frame in frames] == [first, second]

    on(new_loop, test, models.blocks)


NEXT = threading.Event()


def waits_for_next(request: Any) -> bytes:
    if request.body() == b"second":
        assert NEXT.wait(LIMIT_S)
    return models.echo_sync(request)  # type: ignore[no-any-return]


def test_an_answer_does_not_overtake_the_one_before(new_loop: NewLoop) -> None:
    """A call that has become alone, since the loop is about to send the answer before it, is answered behind that."""
    done: list[Callable[[], object]] = []

    class HoldsTheLoop(NullRecorder):
        def closed(self, item: Any) -> None:
            NEXT.set()
            while done and not done[0]():
                pass
            done.clear()

    metrics = ReplicaMetrics(None)
    metrics.loop = HoldsTheLoop()

    async def test(replica: Replica, router: RouterEnd) -> None:
        NEXT.clear()
        # The thread has posted the second answer behind the first, or has sent it.
        posts = replica.runtime._worker._posts
        done.append(lambda: len(posts) == 2 or select.select([router.peer], [], [], 0)[0])
        # In one piece, so that the first is not alone.
        router.peer.sendall(router.frame("first") + router.frame("second"))
        await until(lambda: not done)
        frames: list[Frame] = []
        while len(frames) < 2:
            frames += await asyncio.to_thread(router.read)
        assert [frame.body for frame in frames] == [b"first", b"second"]

    on(new_loop, test, waits_for_next, metrics=metrics)


def test_a_drain_waits_for_an_answer_that_is_about_to_leave(new_loop: NewLoop) -> None:
    """A drain that begins when the slot is given back, and the answer is not sent, is over behind it (DR3)."""
    counts = StoppedAt()

    async def test(replica: Replica, router: RouterEnd) -> None:
        counts.stops = True
        call = router.call()
        await asyncio.to_thread(counts.reached.wait, LIMIT_S)
        drained = asyncio.ensure_future(replica.runtime.drain())
        for _ in range(20):
            await asyncio.sleep(0)
        assert replica.runtime.load == 0
        assert not drained.done()
        counts.go_on.set()
        await drained
        router.peer.setblocking(False)
        assert router.answer().call_id == call

    on(new_loop, test, models.echo_sync, metrics=recorded(counts))


def test_a_drain_that_begins_while_a_call_runs_waits_for_its_answer(new_loop: NewLoop) -> None:
    """What runs when a drain begins is answered, and then the drain is over (DR3, DR5)."""

    async def test(replica: Replica, router: RouterEnd) -> None:
        call = router.call("1")
        await until(lambda: "begin 1" in JOURNAL)
        drained = asyncio.ensure_future(replica.runtime.drain())
        await asyncio.sleep(0)
        OPEN.set()
        await drained
        router.peer.setblocking(False)
        assert router.answer().call_id == call

    on(new_loop, test, models.blocks)


@pytest.mark.usefixtures("many_switches")
def test_a_drain_begins_at_any_moment(new_loop: NewLoop) -> None:
    """However a drain meets a call that ends, the call is answered and the drain is over (DR3)."""

    async def once(number: int) -> None:
        async with served(models.echo_sync, None, NO_METRICS) as replica:
            router = await replica.router()
            router.call("first")
            await router.answered()
            await replica.idle()
            router.call("1")
            for _ in range(number % 10):
                await asyncio.sleep(0)
            await asyncio.wait_for(replica.runtime.drain(), LIMIT_S)
            router.peer.setblocking(False)
            try:
                frame = router.answer()
            except BlockingIOError:  # the call has come too late
                router.peer.settimeout(LIMIT_S)
                frame = await router.answered()
                assert frame.kind == Kind.REFUSE
            assert frame.kind in (Kind.REPLY, Kind.REFUSE)
            assert not replica.runtime.load

    loop = new_loop()
    for number in range(20):
        loop.run_until_complete(once(number))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.mark.parametrize("room", [None, SMALL_ROOM])
def test_a_call_is_struck_out_when_its_answer_has_left(new_loop: NewLoop, tmp_path: Path, room: int | None) -> None:
    """A router that loses the replica before it has the answer finds the call among those that had started (G2, F1)."""
    path = str(tmp_path / "started")

    async def test(replica: Replica, router: RouterEnd) -> None:
        reader = StartedReader(path)
        await until(lambda: not reader.any())
        router.call("x" * 60_000)
        await replica.idle()
        if room is not None:  # a part is still here
            for _ in range(10):
                await asyncio.sleep(0.01)
                assert reader.any()
        assert len((await router.answered()).body) == 60_000
        await until(lambda: not reader.any())

    on(new_loop, test, models.echo_sync, started=path, room=room)


def test_a_router_that_goes_while_its_answer_leaves_frees_the_slot(new_loop: NewLoop) -> None:
    """The slot is given back once, and another router is served (F26)."""
    counts = StoppedAt()

    async def test(replica: Replica, router: RouterEnd) -> None:
        other = await replica.router()
        counts.stops = True
        router.call()
        await asyncio.to_thread(counts.reached.wait, LIMIT_S)
        router.peer.close()
        await until(lambda: router.stream.closed)
        counts.stops = False
        counts.go_on.set()
        await replica.idle()
        assert other.call() == 1
        assert (await other.answered()).kind == Kind.REPLY

    on(new_loop, test, models.echo_sync, metrics=recorded(counts))


@pytest.mark.usefixtures("many_switches")
@pytest.mark.parametrize("seed", range(3))
def test_callers_that_give_up_at_any_moment_cost_nothing_more(new_loop: NewLoop, seed: int) -> None:
    """A call is answered once or not at all, and its slot is free in the end, whenever it is given up (F26, HA6)."""

    async def test(replica: Replica, router: RouterEnd) -> None:
        chance = random.Random(seed)
        given_up: set[int] = set()
        seen: list[int] = []
        router.peer.setblocking(False)

        def look() -> None:
            with contextlib.suppress(BlockingIOError):
                seen.extend(frame.call_id for frame in router.read())

        for _ in range(300):
            call = router.call()
            for _ in range(chance.randrange(12)):
                await asyncio.sleep(0)
            if chance.random() < 0.8:
                router.cancel(call)
                given_up.add(call)
            if chance.random() < 0.7:
                await replica.idle()
            look()
        await until(lambda: look() or set(range(2, 302)) - given_up <= set(seen))
        await replica.idle()
        assert len(seen) == len(set(seen))

    on(new_loop, test, models.echo_sync)


class Mixed:
    """Answers of every kind, by what the body says."""

    def __call__(self, request: Any) -> Any:
        kind, _, number = request.body().decode().partition(" ")
        if kind == "fails":
            raise ValueError(number)
        if kind == "large":
            return number.ljust(200_000)
        if kind == "stream":
            return (f"{number}:{part}" for part in range(3))
        return number

    @accept_batch
    def batch(self, requests: list[Any]) -> list[str]:
        return [request.body().decode().partition(" ")[2] for request in requests]


def test_an_answer_from_the_thread_says_what_calls_take(new_loop: NewLoop) -> None:
    """What waited is sent back, so that the call that runs is alone: its answer leaves from the thread, with the run
    time, and then the router hears that the replica is free (BC6)."""

    async def test(replica: Replica, router: RouterEnd) -> None:
        running = router.call("1")
        await until(lambda: "begin 1" in JOURNAL)
        waiting = router.call("2")
        await until(lambda: replica.runtime.load == 2)
        router.recall()
        refused = await router.answered()
        assert (refused.call_id, refused.kind) == (waiting, Kind.REFUSE)
        assert not router.free
        OPEN.set()
        reply = router.answer()  # this blocks the loop
        assert (reply.call_id, reply.kind) == (running, Kind.REPLY)
        assert unpack(reply.head, ReplyHead).run_us > 0
        assert not router.free
        while not router.free:
            assert await asyncio.to_thread(router.read) == []
        await replica.idle()
        assert "begin 2" not in JOURNAL

    on(new_loop, test, models.BlocksUntilOpen)


RAN: list[str] = []


def runs(request: Any) -> str:
    body: str = request.body().decode()
    RAN.append(body)
    return body


@pytest.mark.usefixtures("many_switches")
@pytest.mark.parametrize("seed", range(3))
def test_a_recall_comes_at_any_moment(new_loop: NewLoop, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call has run and is answered, by the thread or by the loop, or has not run and is sent back; none is both,
    and each recall is answered once (BC6)."""
    monkeypatch.setattr("pointsman.replica.recalls.LEAD_S", 0.0)  # all that waits is sent back at once

    async def test(replica: Replica, router: RouterEnd) -> None:
        chance = random.Random(seed)
        for number in range(100):
            RAN.clear()
            router.free = 0
            calls = [router.call(f"{number}") for _ in range(chance.choice((1, 1, 2, 4)))]
            await asyncio.sleep(chance.choice((0, 0, 0.0002, 0.0005)))
            router.recall()
            frames: list[Frame] = []
            while len(frames) < len(calls) or not router.free:
                frames += await asyncio.to_thread(router.read)
            assert sorted(frame.call_id for frame in frames) == calls
            back = [frame for frame in frames if frame.kind == Kind.REFUSE]
            assert {unpack(frame.head, RefuseHead).reason for frame in back} <= {Reason.RECALLED}
            assert {frame.kind for frame in frames} <= {Kind.REFUSE, Kind.REPLY}
            await replica.idle()
            assert len(RAN) == len(calls) - len(back)
            assert router.free == 1

    on(new_loop, test, runs)


@pytest.mark.usefixtures("many_switches")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("room", [None, SMALL_ROOM])
def test_answers_of_every_kind_come_whole_and_in_order(new_loop: NewLoop, seed: int, room: int | None) -> None:
    """Small answers, large ones, streams, failures and batches, one at a time and several: each call gets its own, and
    those of one connection and method come in the order of the calls."""
    kinds = {"small": Kind.REPLY, "fails": Kind.FAILURE, "large": Kind.REPLY, "stream": Kind.REPLY}

    def check(kind: str, number: int, frames: list[Frame]) -> None:
        assert frames[0].kind == kinds.get(kind, Kind.REPLY), frames
        if kind == "stream":
            assert [frame.kind for frame in frames[1:]] == [Kind.CHUNK] * 3 + [Kind.END]
            assert [frame.body for frame in frames[1:4]] == [b"%d:%d" % (number, part) for part in range(3)]
        else:
            assert len(frames) == 1
            assert kind == "fails" or frames[0].body.strip() == b"%d" % number

    async def test(replica: Replica, router: RouterEnd) -> None:
        chance = random.Random(seed)
        for _ in range(60):
            calls = {}
            for number in range(chance.choice((1, 1, 1, 2, 5))):
                kind = chance.choice(("small", "small", "small", "large", "stream", "fails", "batch"))
                calls[router.call(f"{kind} {number}", method="batch" if kind == "batch" else "")] = kind, number
            last: list[int] = []
            frames: list[Frame] = []
            while len(last) < len(calls):
                new = await asyncio.to_thread(router.read)
                frames += new
                last += [f.call_id for f in new if f.kind == Kind.END or not (f.kind == Kind.CHUNK or streams(f))]
            for call, (kind, number) in calls.items():
                check(kind, number, [frame for frame in frames if frame.call_id == call])
            others = [call for call in last if calls[call][0] != "batch"]
            assert others == sorted(others)
            await replica.idle()

    on(new_loop, test, Mixed, room=room)


def streams(frame: Frame) -> bool:
    return frame.kind == Kind.REPLY and unpack(frame.head, ReplyHead).stream
