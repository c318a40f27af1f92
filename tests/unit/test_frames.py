"""wire.frames: whatever way the bytes are cut, the same frames come out; whatever is no frame is refused."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.limits import MAX_HEAD
from pointsman.wire.encoding import HEADER_SIZE, HUGE_BODY, LARGE_BODY, FrameDecoder, encode_frame, encode_parts
from pointsman.wire.frames import MAX_PAYLOAD_BEFORE_HELLO, Frame, Kind, WireError
from tests.properties import examples

frames = st.builds(
    Frame,
    kind=st.sampled_from(Kind).map(int),
    call_id=st.integers(0, 2**64 - 1),
    head=st.binary(max_size=40),
    body=st.binary(max_size=60),
)


def encoded(frame: Frame) -> bytes:
    return encode_frame(frame.kind, frame.call_id, frame.head, bytes(frame.body))


def header(size: int, kind: int, call_id: int, head_size: int) -> bytes:
    """A header as a peer that keeps no rule might send it."""
    return struct.pack("<IBQI", size, kind, call_id, head_size)


def decode(decoder: FrameDecoder, pieces: list[bytes]) -> list[Frame]:
    return [frame for piece in pieces for frame in decoder.feed(piece)]


@examples(60)
@given(sent=st.lists(frames, max_size=4))
def test_any_single_cut_is_harmless(sent: list[Frame]) -> None:
    """However the network cuts a stream in two, the receiver sees the frames that were sent (HT11)."""
    data = b"".join(encoded(frame) for frame in sent)
    for cut in range(len(data) + 1):
        decoder = FrameDecoder()
        assert decode(decoder, [data[:cut], data[cut:]]) == sent
        assert decoder.pending == 0


@examples(100)
@given(sent=st.lists(frames, max_size=8), cuts=st.lists(st.integers(0, 900), max_size=30))
def test_any_cuts_are_harmless(sent: list[Frame], cuts: list[int]) -> None:
    """However often the network cuts a stream, each frame that was sent arrives once and in order (HT11)."""
    data = b"".join(encoded(frame) for frame in sent)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    assert decode(FrameDecoder(), pieces) == sent


@examples(50)
@given(sent=st.lists(frames, max_size=4))
def test_single_bytes_are_harmless(sent: list[Frame]) -> None:
    """A peer that sends byte by byte is understood, and a frame is handed out with its very last byte (HT11)."""
    decoder = FrameDecoder()
    got: list[Frame] = []
    for frame in sent:
        data = encoded(frame)
        assert decode(decoder, [bytes([byte]) for byte in data[:-1]]) == []
        assert decoder.pending == len(data) - 1
        got += decoder.feed(data[-1:])
    assert got == sent


@pytest.mark.parametrize("size", [0, 1, LARGE_BODY - 1, LARGE_BODY, LARGE_BODY + 1])
@pytest.mark.parametrize("view", [bytes, memoryview])
def test_parts_are_the_frame(size: int, view: type) -> None:
    """A large body goes out uncopied, and the receiver cannot tell (HT11)."""
    body = b"x" * size
    parts = encode_parts(Kind.CALL, 7, b"head", view(body))
    assert b"".join(parts) == encode_frame(Kind.CALL, 7, b"head", body)
    assert len(parts) == (2 if size >= LARGE_BODY else 1)
    if len(parts) == 2:
        assert len(parts[0]) == HEADER_SIZE + len(b"head")


@pytest.mark.parametrize("size", [LARGE_BODY - 1, LARGE_BODY, HUGE_BODY - 1, HUGE_BODY, HUGE_BODY + 1])
def test_bodies_are_received_in_place(size: int) -> None:
    """What comes piece by piece into the decoder's own memory is what was sent, as is the frame behind it; a large body
    may be written to (CO2)."""
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    data = encode_frame(Kind.CALL, 1, b"head", body) + encode_frame(Kind.REPLY, 2)
    decoder, got, at = FrameDecoder(), [], 0
    while at < len(data):
        room = decoder.buffer()
        count = min(len(room), len(data) - at, 50_003)
        room[:count] = data[at : at + count]
        got += decoder.received(count)
        at += count
    assert got == [Frame(Kind.CALL, 1, b"head", body), Frame(Kind.REPLY, 2)]
    assert memoryview(got[0].body).readonly is (size < LARGE_BODY)


@examples(200)
@given(pieces=st.lists(st.binary(max_size=80), max_size=12), limit=st.integers(0, 100))
def test_garbage_is_refused_or_waited_for(pieces: list[bytes], limit: int) -> None:
    """Random bytes end in a WireError at worst, and at most one frame's worth of them is kept (S15, F29)."""
    decoder = FrameDecoder(max_payload=limit)
    for piece in pieces:
        try:
            decoder.feed(piece)
        except WireError:
            return
        assert decoder.pending < HEADER_SIZE + limit or decoder.pending < HEADER_SIZE


@examples(200)
@given(
    sent=st.lists(frames, min_size=1, max_size=3),
    flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 300),
)
def test_damaged_frames_raise_nothing_else(sent: list[Frame], flips: list[tuple[int, int]], cut: int) -> None:
    """A stream that lost its footing half way is refused with a WireError and no other exception (F29)."""
    data = bytearray(b"".join(encoded(frame) for frame in sent))
    for position, mask in flips:
        data[position % len(data)] ^= mask
    decoder = FrameDecoder(max_payload=1000)
    try:
        got = decode(decoder, [bytes(data[:cut]), bytes(data[cut:])])
    except WireError:
        return
    assert all(frame.kind in set(Kind) for frame in got)
    assert decoder.pending < HEADER_SIZE + 1000


@pytest.mark.parametrize("limit", [0, 1, MAX_PAYLOAD_BEFORE_HELLO, 5000])
@pytest.mark.parametrize("excess", [-1, 0, 1])
@pytest.mark.parametrize("head_size", [0, None], ids=["all body", "all head"])
@pytest.mark.parametrize("step", [1, HEADER_SIZE, 10_000], ids=["bytes", "header first", "at once"])
def test_payload_limit(limit: int, excess: int, head_size: int | None, step: int) -> None:
    """A payload of exactly the limit passes and one byte more is refused, before its body has been received (S15)."""
    size = max(0, limit + excess)
    head = b"h" * (size if head_size is None else head_size)
    data = encode_frame(Kind.CALL, 1, head, b"b" * (size - len(head)))
    decoder = FrameDecoder(max_payload=limit)
    if size <= limit:
        pieces = [data[at : at + step] for at in range(0, len(data), step)]
        assert decode(decoder, pieces) == [Frame(Kind.CALL, 1, head, b"b" * (size - len(head)))]
        return
    with pytest.raises(WireError, match=f"{size} bytes is over the limit of {limit}"):
        decode(decoder, [data[at : at + step] for at in range(0, HEADER_SIZE, step)])


def test_limit_may_be_raised_on_the_way() -> None:
    """Once the peer is known, larger frames are taken on the same stream, half a frame in the buffer included (S15)."""
    large = encode_frame(Kind.CALL, 1, b"h", b"b" * 300)
    decoder = FrameDecoder(max_payload=MAX_PAYLOAD_BEFORE_HELLO)
    assert decoder.feed(large[: HEADER_SIZE - 1]) == []
    decoder.max_payload = 301
    assert decoder.feed(large[HEADER_SIZE - 1 :]) == [Frame(Kind.CALL, 1, b"h", b"b" * 300)]


@pytest.mark.parametrize("before", [0, 1, HEADER_SIZE - 1], ids=["whole", "after a byte", "last byte missing"])
@pytest.mark.parametrize(
    ("size", "head_size", "fine"),
    [
        (10, 9, True),
        (10, 10, True),
        (10, 11, False),
        (0, 1, False),
        (MAX_HEAD + 2, MAX_HEAD - 1, True),
        (MAX_HEAD + 2, MAX_HEAD, True),
        (MAX_HEAD + 2, MAX_HEAD + 1, False),
        (2**31 - 1, 2**32 - 1, False),
    ],
)
def test_head_limit(size: int, head_size: int, fine: bool, before: int) -> None:
    """A head longer than its frame or than 16 MiB is refused as soon as its header is in (S15)."""
    decoder = FrameDecoder()
    data = header(size, Kind.CALL, 1, head_size)
    pieces = [data[:before], data[before:]] if before else [data]
    if fine:
        assert decode(decoder, pieces) == []
        assert decoder.pending == HEADER_SIZE
    else:
        with pytest.raises(WireError, match=f"head of {head_size} bytes is over the limit"):
            decode(decoder, pieces)


@pytest.mark.parametrize("kind", range(256))
def test_only_known_kinds_pass(kind: int) -> None:
    """A frame kind that no peer of ours sends is refused by number, alone, behind a good one, or in pieces (F29)."""
    good, data = encode_frame(Kind.HEALTH, 0), header(0, kind, 1, 0)
    ways = ([data], [good + data], [data[:1], data[1:]], [good + data[:5], data[5:]])
    for pieces in ways:
        if kind in {int(k) for k in Kind}:
            assert decode(FrameDecoder(), pieces)[-1] == Frame(kind, 1)
        else:
            with pytest.raises(WireError, match=f"kind {kind} is unknown"):
                decode(FrameDecoder(), pieces)


def test_largest_length_is_refused() -> None:
    """A length of 4 GiB is refused at its header; no memory is set aside for it (S15)."""
    with pytest.raises(WireError, match="over the limit of 2147483647"):
        FrameDecoder().feed(header(2**32 - 1, Kind.CALL, 1, 0))
