"""wire.stream: two ends in memory, from the handshake to the last frame, on good lines and bad ones."""

from __future__ import annotations

import asyncio

import pytest

from pointsman.testing import Pipe, run, settle
from pointsman.wire.auth import HELLO_TIMEOUT_S, Acceptor, Dialer
from pointsman.wire.encoding import HEADER_SIZE, encode_frame
from pointsman.wire.frames import Frame, Kind, WireError
from pointsman.wire.stream import FLUSH_AT, Stream, new_nonce

KEY = b"k" * 32


class User:
    """Writes down what a stream tells."""

    def __init__(self) -> None:
        self.ready = 0
        self.frames: list[Frame] = []
        self.turns = 0
        self.lost: list[Exception | None] = []

    def stream_ready(self, stream: Stream) -> None:
        self.ready += 1

    def stream_frames(self, stream: Stream, frames: list[Frame]) -> None:
        self.turns += 1
        self.frames += frames

    def stream_lost(self, stream: Stream, error: Exception | None) -> None:
        self.lost.append(error)


class Two:
    """Two streams that are being joined, and their users."""

    def __init__(self, *, dialer_key: bytes = KEY, acceptor_key: bytes | None = KEY, hello: bool = True) -> None:
        self.here, self.there = User(), User()
        dialer = acceptor = None
        if hello:
            dialer = Dialer(instance="i", role="router", identity="7", key=dialer_key, nonce=new_nonce())
            acceptor = Acceptor(instance="i", key_for=lambda role, identity: acceptor_key, nonce=new_nonce())
        self.near, self.far = Stream(self.here, dialer), Stream(self.there, acceptor)
        self.pipe = Pipe(self.near, self.far)


def test_two_streams_shake_hands_and_talk() -> None:
    """A router that holds the key is let in, its role is known, and frames go both ways."""

    async def main() -> None:
        two = Two()
        assert not two.near.ready
        await settle()
        assert (two.here.ready, two.there.ready) == (1, 1)
        assert (two.far.role, two.far.identity) == ("router", "7")
        two.near.send(Kind.CALL, 1, b"head", b"body")
        two.far.send(Kind.TABLE, 0, b"", b"table")
        await settle()
        assert two.there.frames == [Frame(Kind.CALL, 1, b"head", b"body")]
        assert two.here.frames == [Frame(Kind.TABLE, 0, b"", b"table")]

    run(main())


def test_an_inherited_connection_needs_no_handshake() -> None:
    """The controller and its supervisor, who share a socket pair, talk at once."""

    async def main() -> None:
        two = Two(hello=False)
        await settle()
        two.near.send(Kind.LAUNCH, 0, b"order")
        await settle()
        assert two.there.frames == [Frame(Kind.LAUNCH, 0, b"order")]

    run(main())


@pytest.mark.parametrize(("dialer_key", "acceptor_key"), [(b"x" * 32, KEY), (KEY, b"x" * 32), (KEY, None), (KEY, b"")])
def test_a_stranger_is_shut_out(dialer_key: bytes, acceptor_key: bytes | None) -> None:
    """Whoever holds another key, or has a role that is not welcome, gets no further than the hello (S6, S10)."""

    async def main() -> None:
        two = Two(dialer_key=dialer_key, acceptor_key=acceptor_key)
        two.near.send(Kind.CALL, 1, b"", b"too early")
        await settle()
        assert (two.here.ready, two.there.ready, two.there.frames) == (0, 0, [])
        assert two.near.closed
        assert two.far.closed
        assert any(isinstance(error, WireError) for error in two.here.lost + two.there.lost)

    run(main())


def test_a_peer_that_says_nothing_is_dropped_after_two_seconds() -> None:
    """A connection on which nobody finishes the hello does not occupy a process (G9)."""

    async def main() -> None:
        two = Two()
        two.pipe.there.hold()
        loop = asyncio.get_running_loop()
        while not two.far.closed:
            await asyncio.sleep(0.01)
        assert loop.time() == pytest.approx(HELLO_TIMEOUT_S, abs=0.02)
        assert "no complete hello within 2 s" in str(two.there.lost[0])

    run(main())


def test_a_finished_hello_stops_the_clock() -> None:
    """A connection that was let in may be silent for as long as it likes."""

    async def main() -> None:
        two = Two()
        await asyncio.sleep(3600)
        assert not two.near.closed
        assert not two.far.closed

    run(main())


@pytest.mark.parametrize("size", [1, 2, 3, 16, 17, 18, 64])
def test_pieces_of_any_size_make_the_same_frames(size: int) -> None:
    """However the kernel cuts the bytes, hello included, the same calls arrive in the same order (F29)."""
    sent = [(Kind.CALL, number, b"h" * number, b"b" * (number * 7)) for number in range(1, 12)]

    async def main() -> None:
        two = Two()
        two.pipe.split(size)
        await settle()
        for frame in sent:
            two.near.send(*frame)
        await settle()
        assert two.there.frames == [Frame(*frame) for frame in sent]

    run(main())


def test_every_cut_of_a_frame_is_the_same_frame() -> None:
    """A frame that arrives in two parts, cut at any byte, arrives whole and once (F29)."""
    data = encode_frame(Kind.CALL, 5, b"head", b"body")

    async def main() -> None:
        two = Two()
        await settle()
        for cut in range(1, len(data)):
            two.pipe.there.inject(data[:cut])
            two.pipe.there.inject(data[cut:])
        await settle()
        assert two.there.frames == [Frame(Kind.CALL, 5, b"head", b"body")] * (len(data) - 1)

    run(main())


def test_frames_behind_the_hello_in_one_piece_are_kept() -> None:
    """A dialer may speak right behind its proof; nothing of that is lost, or read under the hello's limits."""

    async def main() -> None:
        two = Two()
        two.pipe.there.delay_s = 0.5
        two.pipe.back.delay_s = 0.5
        await asyncio.sleep(1.2)
        assert two.near.ready
        assert not two.far.ready
        proof = two.pipe.there.writes[-1]
        two.pipe.there.clear()
        two.pipe.there.inject(proof + encode_frame(Kind.CALL, 1, b"", b"x" * 10_000))
        await asyncio.sleep(1)
        assert two.there.frames == [Frame(Kind.CALL, 1, b"", b"x" * 10_000)]

    run(main())


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        bytes(HEADER_SIZE),
        b"\xff" * 64,
        encode_frame(Kind.CALL, 1, b"", b"not a hello"),
        encode_frame(Kind.HELLO, 0, b"no msgpack"),
        encode_frame(Kind.HELLO, 0, b"x" * 257),
    ],
)
def test_garbage_closes_that_connection_only(garbage: bytes) -> None:
    """Bytes that are not ours close the connection, before and after the hello, and nobody sees them (F29)."""

    async def main() -> None:
        early, late, other = Two(), Two(), Two()
        early.pipe.there.inject(garbage)
        await settle()
        assert early.far.closed
        assert early.there.frames == []
        if garbage[4] != Kind.CALL and garbage[4] != Kind.HELLO:
            late.pipe.there.inject(garbage)
            await settle()
            assert late.far.closed
            assert isinstance(late.there.lost[0], WireError)
        assert not other.far.closed

    run(main())


def test_frames_of_one_turn_leave_in_one_write() -> None:
    """The answers of one moment cost one system call, a thousand of them a few (decision 0001)."""

    async def main() -> None:
        two = Two()
        await settle()
        before = len(two.pipe.there.writes)
        for number in range(FLUSH_AT - 1):
            two.near.send(Kind.REPLY, number, b"head", b"body")
        await settle()
        assert len(two.pipe.there.writes) == before + 1
        assert [frame.call_id for frame in two.there.frames] == list(range(FLUSH_AT - 1))
        assert two.there.turns == 1
        two.near.send(Kind.REPLY, 1)
        await settle()
        assert len(two.pipe.there.writes) == before + 2
        two.near.send(Kind.REPLY, 2, alone=True)
        assert len(two.pipe.there.writes) == before + 3
        for number in range(1000):
            two.near.send(Kind.REPLY, number, alone=False)
        await settle()
        assert len(two.pipe.there.writes) == before + 3 + -(-1000 // FLUSH_AT)

    run(main())


def test_a_reader_that_stops_is_seen() -> None:
    """A slow reader shows as a stream that is not writable, and as writable when it has caught up (G9)."""

    async def main() -> None:
        two = Two()
        await settle()
        two.pipe.there.hold()
        two.near.send(Kind.CHUNK, 1, b"", b"x" * 100_000)
        await settle()
        assert not two.near.writable
        two.pipe.there.release()
        await settle()
        assert two.near.writable
        assert two.there.frames[0].body == b"x" * 100_000

    run(main())


def test_a_cut_ends_both_ends_once() -> None:
    """When the connection breaks with data under way, each end is told once, with the reason."""

    async def main() -> None:
        two = Two()
        await settle()
        two.pipe.there.hold()
        two.near.send(Kind.CHUNK, 1, b"", b"x" * 100_000)
        await settle()
        two.pipe.cut(ConnectionResetError("cable out"))
        await settle()
        assert [str(error) for error in two.here.lost] == ["cable out"]
        assert len(two.there.lost) == 1

    run(main())


def test_what_was_sent_before_a_close_arrives() -> None:
    """A process that says its last word and closes is heard."""

    async def main() -> None:
        two = Two()
        await settle()
        two.near.send(Kind.END, 9)
        two.near.close()
        two.near.send(Kind.END, 10)
        await settle()
        assert [frame.call_id for frame in two.there.frames] == [9]
        assert two.here.lost == [None]
        assert two.there.lost == [None]
        two.near.send(Kind.END, 11)
        await settle()

    run(main())


def test_an_abort_reports_its_reason_once() -> None:
    """Whoever breaks off a connection says why, and the owner hears the first reason only."""

    async def main() -> None:
        two = Two()
        await settle()
        two.near.abort(WireError("first"))
        two.near.abort(WireError("second"))
        await settle()
        assert [str(error) for error in two.here.lost] == ["first"]
        assert two.far.closed

    run(main())


def test_a_user_that_raises_loses_its_connection() -> None:
    """A bug in one connection's owner shows, and does not leave a connection that nobody reads."""

    class Broken(User):
        def stream_frames(self, stream: Stream, frames: list[Frame]) -> None:
            raise KeyError("a bug")

    streams: list[Stream] = []

    async def main() -> None:
        near, far = Stream(User(), None), Stream(Broken(), None)
        streams.append(far)
        Pipe(near, far)
        await settle()
        near.send(Kind.END, 1)
        await settle()

    with pytest.raises(KeyError, match="a bug"):
        run(main())
    assert streams[0].closed
