"""wire.shared: a loop and a thread write to one socket, on the event loops that replicas run on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from pointsman.testing import Pipe, run, settle
from pointsman.wire.encoding import FrameDecoder, encode_frame
from pointsman.wire.frames import Frame, Kind
from pointsman.wire.shared import Sent, SharedStream
from pointsman.wire.stream import Stream

NewLoop = Callable[[], asyncio.AbstractEventLoop]
LIMIT_S = 60.0
LOOPS = [pytest.param(asyncio.new_event_loop, id="asyncio"), pytest.param(uvloop.new_event_loop, id="uvloop")]
SMALL_ROOM = 4096
"""Bytes of a socket's buffer; the system makes a few thousand of it."""


@pytest.fixture(params=LOOPS)
def new_loop(request: pytest.FixtureRequest) -> NewLoop:
    loop: NewLoop = request.param
    return loop


@pytest.fixture
def many_switches() -> Iterator[None]:
    """Let threads take turns a hundred times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 100)
    yield
    sys.setswitchinterval(before)


class User:
    """Writes down what a stream tells."""

    def __init__(self) -> None:
        self.lost = 0

    def stream_ready(self, stream: Stream) -> None: ...

    def stream_frames(self, stream: Stream, frames: list[Frame]) -> None: ...

    def stream_lost(self, stream: Stream, error: Exception | None) -> None:
        self.lost += 1


class Ends:
    """A shared stream and, at the other end, a plain socket."""

    def __init__(self, stream: SharedStream, user: User, peer: socket.socket) -> None:
        self.stream, self.user, self.peer = stream, user, peer
        self.closed = False
        self._decoder = FrameDecoder()

    def read(self, size: int = 1 << 16) -> list[Frame]:
        """Wait for bytes; the frames that they complete. None at the end of file."""
        data = self.peer.recv(size)
        self.closed = not data
        return self._decoder.feed(data)

    def read_ids(self, count: int) -> list[int]:
        ids: list[int] = []
        while len(ids) < count and not self.closed:
            ids += [frame.call_id for frame in self.read()]
        return ids

    def read_all(self) -> list[int]:
        """Until the end of file, behind which no piece of a frame may be left."""
        ids: list[int] = []
        while not self.closed:
            ids += [frame.call_id for frame in self.read()]
        assert not self._decoder.pending
        return ids


async def opened(room: int | None = None) -> Ends:
    here, peer = socket.socketpair()
    peer.settimeout(LIMIT_S)
    if room is not None:
        here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
    user = User()
    loop = asyncio.get_running_loop()
    _, stream = await loop.connect_accepted_socket(lambda: SharedStream(user, None), here)
    stream.flush()
    return Ends(stream, user, peer)


def on(new_loop: NewLoop, test: Callable[[Ends], Coroutine[Any, Any, None]], room: int | None = None) -> None:
    """Run a test with both ends of a connection."""

    async def main() -> None:
        ends = await opened(room)
        try:
            await asyncio.wait_for(test(ends), LIMIT_S)
        finally:
            ends.peer.close()
            if not ends.user.lost:
                ends.stream.abort()
            await asyncio.sleep(0)

    loop = new_loop()
    try:
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


def frame_of(number: int, size: int = 10) -> bytes:
    return encode_frame(Kind.REPLY, number, b"head", b"x" * size)


class Held:
    """The thread, stopped when it is sure that its frame will go, and before any of it has."""

    def __init__(self, stream: SharedStream, frame: bytes) -> None:
        self._reached, self._go_on = threading.Event(), threading.Event()
        self.result = asyncio.ensure_future(asyncio.to_thread(stream.try_send_now, frame, self._first))

    def _first(self) -> None:
        self._reached.set()
        assert self._go_on.wait(LIMIT_S)

    async def reached(self) -> None:
        await asyncio.to_thread(self._reached.wait, LIMIT_S)

    async def finish(self) -> Sent:
        self._go_on.set()
        return await self.result


async def held(ends: Ends, frame: bytes) -> Held:
    thread = Held(ends.stream, frame)
    await thread.reached()
    return thread


def test_the_thread_writes_past_the_loop(new_loop: NewLoop) -> None:
    """A frame is at the other end though the loop has not turned since (BC4)."""

    async def test(ends: Ends) -> None:
        calls: list[int] = []
        thread = threading.Thread(
            target=lambda: calls.append(ends.stream.try_send_now(frame_of(1), lambda: calls.append(0)) is Sent.ALL)
        )
        thread.start()
        assert ends.read_ids(1) == [1]  # this blocks the loop
        thread.join()
        assert calls == [0, True]

    on(new_loop, test)


def test_the_rest_of_a_frame_leaves_before_anything_else(new_loop: NewLoop) -> None:
    """What the kernel does not take of the thread's frame is sent by the loop, in front of later frames of both."""

    async def test(ends: Ends) -> None:
        thread = await held(ends, frame_of(1, 60_000))
        ends.stream.send(Kind.REPLY, 2, alone=True)
        ends.stream.send(Kind.REPLY, 3)
        assert await thread.finish() is Sent.PART
        ends.stream.send(Kind.REPLY, 4, alone=True)
        assert await asyncio.to_thread(ends.stream.try_send_now, frame_of(5), lambda: None) is Sent.NOTHING
        assert ends.stream.unsent
        ends.stream.send(Kind.REPLY, 5)
        assert await asyncio.to_thread(ends.read_ids, 5) == [1, 2, 3, 4, 5]
        await ends.stream.flushed()
        assert not ends.stream.unsent

    on(new_loop, test, SMALL_ROOM)


def test_a_thread_that_finds_no_room_at_all_loses_nothing(new_loop: NewLoop) -> None:
    """Frames that fill the kernel's buffer, the last of which may not begin to leave, arrive whole."""

    async def test(ends: Ends) -> None:
        def fill() -> int:
            number = 0
            while True:
                number += 1
                if ends.stream.try_send_now(frame_of(number), lambda: None) is not Sent.ALL:
                    return number

        last = await asyncio.to_thread(fill)
        assert await asyncio.to_thread(ends.read_ids, last) == list(range(1, last + 1))

    on(new_loop, test, SMALL_ROOM)


def test_a_thread_does_not_write_past_what_the_loop_has_sent(new_loop: NewLoop) -> None:
    """While frames of the loop are queued, or with the transport since the reader is slow, the thread leaves its own to
    the loop; when they have left it writes again."""

    async def test(ends: Ends) -> None:
        def attempt() -> Sent:
            return ends.stream.try_send_now(frame_of(9), lambda: None)

        ends.stream.send(Kind.REPLY, 1, b"", b"x" * 500_000, alone=True)
        assert await asyncio.to_thread(attempt) is Sent.NOTHING
        assert await asyncio.to_thread(ends.read_ids, 1) == [1]
        await ends.stream.flushed()
        ends.stream.send(Kind.REPLY, 8, alone=True)  # now it sees that all has left
        assert await asyncio.to_thread(attempt) is Sent.ALL
        ends.stream.send(Kind.REPLY, 2)
        found: list[Sent] = []
        thread = threading.Thread(target=lambda: found.append(attempt()))
        thread.start()
        thread.join()  # the loop has not turned, and the second is queued
        assert found == [Sent.NOTHING]
        assert await asyncio.to_thread(ends.read_ids, 3) == [8, 9, 2]

    on(new_loop, test)


def test_the_loop_does_not_wait_for_the_thread(new_loop: NewLoop) -> None:
    """A thread that is stopped in the middle of an answer holds up neither the loop nor other answers for good (G8)."""

    async def test(ends: Ends) -> None:
        thread = await held(ends, frame_of(1))
        for number in range(2, 200):
            ends.stream.send(Kind.REPLY, number, alone=number % 3 == 0)
            ends.stream.flush()
            await asyncio.sleep(0)
        assert await asyncio.to_thread(ends.stream.try_send_now, frame_of(0), lambda: None) is Sent.NOTHING
        assert await thread.finish() is Sent.ALL
        assert await asyncio.to_thread(ends.read_ids, 199) == list(range(1, 200))

    on(new_loop, test)


def test_who_waits_for_the_last_answer_waits_for_the_threads(new_loop: NewLoop) -> None:
    """An answer that the thread is about to write counts as not sent yet (DR3)."""

    async def test(ends: Ends) -> None:
        thread = await held(ends, frame_of(1))
        flushed = asyncio.ensure_future(ends.stream.flushed())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not flushed.done()
        await thread.finish()
        await flushed
        ends.peer.setblocking(False)
        assert ends.read_ids(1) == [1]

    on(new_loop, test)


@pytest.mark.parametrize("room", [None, SMALL_ROOM])
def test_what_the_thread_was_writing_arrives_before_the_end(new_loop: NewLoop, room: int | None) -> None:
    """A connection that is closed meanwhile ends behind the whole frame, and the other end sees that it ends."""

    async def test(ends: Ends) -> None:
        thread = await held(ends, frame_of(1, 60_000))
        ends.stream.send(Kind.REPLY, 2)
        ends.stream.close()
        await asyncio.sleep(0)
        assert not ends.user.lost
        await thread.finish()
        assert await asyncio.to_thread(ends.read_all) == [1, 2]
        while not ends.user.lost:
            await asyncio.sleep(0)

    on(new_loop, test, room)


def test_a_closed_connection_ends_at_once(new_loop: NewLoop) -> None:
    """That the thread has a socket of its own does not keep the connection open."""

    async def test(ends: Ends) -> None:
        await asyncio.to_thread(ends.stream.try_send_now, frame_of(1), lambda: None)
        ends.stream.close()
        assert await asyncio.to_thread(ends.read_all) == [1]
        assert await asyncio.to_thread(ends.stream.try_send_now, frame_of(2), lambda: None) is Sent.NOTHING
        assert ends.user.lost == 1

    on(new_loop, test)


@pytest.mark.parametrize("moment", ["before", "while it is sure to write"])
def test_a_caller_that_goes_costs_its_answer_only(new_loop: NewLoop, moment: str) -> None:
    """The thread writes to a connection that breaks: nobody hears an exception, it is lost once, and nothing is left
    open, though user code may have made SIGPIPE deadly (F26)."""

    async def test(ends: Ends) -> None:
        before = len(os.listdir("/proc/self/fd"))
        thread = await held(ends, frame_of(1)) if moment != "before" else None
        ends.peer.close()
        while thread is not None and not ends.user.lost:
            await asyncio.sleep(0)
        if thread is None:
            thread = Held(ends.stream, frame_of(1))
        await thread.finish()
        while not ends.user.lost or len(os.listdir("/proc/self/fd")) > before - 3:  # two here, one there
            await asyncio.sleep(0)
        assert await asyncio.to_thread(ends.stream.try_send_now, frame_of(2), lambda: None) is Sent.NOTHING
        assert ends.user.lost == 1

    on(new_loop, test)


def test_a_connection_that_is_cut_while_the_thread_writes_ends(new_loop: NewLoop) -> None:
    """The thread's socket is closed when its turn is over, and the other end sees the end."""

    async def test(ends: Ends) -> None:
        thread = await held(ends, frame_of(1))
        ends.stream.abort()
        while not ends.user.lost:
            await asyncio.sleep(0)
        assert await thread.finish() is Sent.ALL
        assert await asyncio.to_thread(ends.read_all) == [1]

    on(new_loop, test)


class Overtaken:
    """The turn of a stream, of which the thread has had all before the loop gets it."""

    def __init__(self, stream: SharedStream, before: Callable[[], object]) -> None:
        self._turn, self._before = stream._turn, before
        self._overtaken = False
        stream._turn = self  # type: ignore[assignment]

    def acquire(self, blocking: bool) -> bool:
        if not self._overtaken:
            self._overtaken = True
            thread = threading.Thread(target=self._before)
            thread.start()
            thread.join()
        return self._turn.acquire(blocking)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._turn, name)


def test_the_loop_sees_what_the_thread_has_left_a_moment_ago(new_loop: NewLoop) -> None:
    """Between the loop's look at its queue and its turn the thread has had one, and has left the rest of a frame."""

    async def test(ends: Ends) -> None:
        stream = ends.stream
        Overtaken(stream, lambda: stream.try_send_now(frame_of(1, 60_000), lambda: None))
        stream.send(Kind.REPLY, 2, alone=True)
        assert await asyncio.to_thread(ends.read_ids, 2) == [1, 2]

    on(new_loop, test, SMALL_ROOM)


def test_a_connection_without_a_socket_has_one_writer() -> None:
    """In memory, and where no descriptor is left, the loop writes all."""

    async def main() -> None:
        far = SharedStream(User(), None)
        Pipe(Stream(User(), None), far)
        await settle()
        far.flush()
        assert far.try_send_now(frame_of(1), lambda: None) is Sent.NOTHING

    run(main())


def test_a_thread_may_be_the_last_of_its_process(new_loop: NewLoop) -> None:
    """A thread that outlives the loop ends its turn in peace."""
    stopped: list[Held] = []
    peers: list[socket.socket] = []

    async def main() -> None:
        ends = await opened()
        stopped.append(await held(ends, frame_of(1)))
        peers.append(ends.peer)
        ends.stream.send(Kind.REPLY, 2)
        ends.stream.abort()
        for _ in range(3):
            await asyncio.sleep(0)

    loop = new_loop()
    loop.run_until_complete(main())
    with contextlib.suppress(RuntimeError):
        loop.close()
    stopped[0]._go_on.set()
    peers[0].close()


@pytest.mark.usefixtures("many_switches")
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("room", [None, SMALL_ROOM])
def test_frames_of_two_writers_are_never_mixed(new_loop: NewLoop, seed: int, room: int | None) -> None:
    """Loop and thread write as they like, to a reader that is slow at times: every frame arrives whole and once, those
    of each writer in the order in which they were sent."""
    count = 400
    results: list[Sent] = []

    def write(stream: SharedStream, loop: asyncio.AbstractEventLoop) -> None:
        chance = random.Random(seed)
        for number in range(count):
            body = bytes([number % 251]) * chance.choice((0, 10, 1000, 9000))
            sent = stream.try_send_now(encode_frame(Kind.CHUNK, number, b"t", body), lambda: None)
            results.append(sent)
            if sent is Sent.NOTHING:
                told = threading.Event()

                def tell(number: int = number, body: bytes = body, told: threading.Event = told) -> None:
                    stream.send(Kind.CHUNK, number, b"t", body)
                    told.set()

                loop.call_soon_threadsafe(tell)
                assert told.wait(LIMIT_S)

    def read(ends: Ends) -> list[Frame]:
        chance = random.Random(seed + 1)
        frames: list[Frame] = []
        while len(frames) < 2 * count:
            frames += ends.read(chance.choice((1, 100, 5000, 1 << 18)))
        return frames

    async def test(ends: Ends) -> None:
        chance = random.Random(seed + 2)
        loop = asyncio.get_running_loop()
        reading = loop.run_in_executor(None, read, ends)
        writing = loop.run_in_executor(None, write, ends.stream, loop)
        for number in range(count):
            size = chance.choice((0, 10, 1000, 9000, 70_000))
            ends.stream.send(Kind.REPLY, number, b"l", bytes([number % 251]) * size, alone=chance.random() < 0.5)
            rests = chance.random() < 0.5
            while rests and ends.stream.unsent:
                await asyncio.sleep(0)
            for _ in range(chance.choice((0, 0, 1, 3, 20))):
                await asyncio.sleep(0)
        await writing
        frames = await reading
        for kind in (Kind.CHUNK, Kind.REPLY):
            mine = [frame for frame in frames if frame.kind == kind]
            assert [frame.call_id for frame in mine] == list(range(count))
            assert all(set(frame.body) <= {frame.call_id % 251} for frame in mine)

    on(new_loop, test, room)
    assert len(results) == count
