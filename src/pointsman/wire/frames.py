"""Frames: bytes in, frames out. No I/O.

A frame is a fixed header (length of what follows, kind, call id, length of the head) and two byte strings: the
*head*, a msgpack message that ``wire.messages`` describes, and the *body*, opaque bytes that no router looks into.
"""

from __future__ import annotations

import contextlib
import mmap
from enum import IntEnum
from struct import Struct as Layout
from typing import TypeAlias

import msgspec

from pointsman.exceptions import ServeException
from pointsman.limits import MAX_HEAD, MAX_PAYLOAD, check_size

PROTOCOL_VERSION = 3
"""Spoken in every hello; two processes with different versions refuse each other."""

_LAYOUT = Layout("<IBQI")  # head + body length, kind, call id, head length
HEADER_SIZE = _LAYOUT.size
MAX_PAYLOAD_BEFORE_HELLO = 256
LARGE_BODY = 64 * 1024
"""Bodies below this many bytes are copied: behind their header when they are sent, out of what came when they are
received. Larger ones are sent as they are, and received where they will stay."""
HUGE_BODY = 4 * 1024 * 1024
"""Bodies from this many bytes on are received in memory that comes in large pages."""
RECEIVE_BYTES = 256 * 1024
"""Most that is received at once into the buffer that all frames share."""


class WireError(ServeException):
    """The peer sent bytes that are not ours; the connection is closed. The peer's fault."""


class Kind(IntEnum):
    """What a frame is. The comment says who sends it to whom."""

    HELLO = 1  # both ways, before anything else
    CALL = 2  # router -> replica
    REPLY = 3  # replica -> router; controller -> client, its body is the reply
    CHUNK = 4  # replica -> router, part of a stream; controller -> client, progress
    END = 5  # replica -> router, the stream is complete
    FAILURE = 6  # replica -> router; controller -> client
    CANCEL = 7  # router -> replica; client -> controller
    REFUSE = 8  # replica -> router: not started, place it elsewhere
    CREDIT = 9  # router -> replica: the reader has room for this many more chunks
    CONFIGURE = 10  # controller -> replica
    DRAIN = 11  # controller -> replica
    HEALTH = 12  # controller -> health thread of a replica, and back
    REPORT = 13  # replica -> controller: who I am and how I am
    COMMAND = 14  # client -> controller
    SUBSCRIBE = 15  # router's process -> controller
    TABLE = 16  # controller -> router's process
    CONFIRM = 17  # router's process -> controller: this table is in use; and back: changes wait for it from now on
    LAUNCH = 18  # controller -> supervisor
    STOP = 19  # controller -> HTTP servers and replicas
    KILL = 20  # controller -> supervisor
    EVENT = 21  # supervisor -> controller
    SHUTDOWN = 22  # controller -> supervisor
    ASSIGN = 23  # controller -> replica: what to run
    TAKEN = 24  # controller -> client: the command has arrived


Body: TypeAlias = "bytes | bytearray | memoryview"

KINDS: dict[int, Kind] = {int(kind): kind for kind in Kind}


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One unit on the wire. ``call_id`` ties answers to calls; 0 where there is no call.

    A body is a bytearray or writable memory of its own when it was large and came in pieces.
    """

    kind: int
    call_id: int
    head: bytes = b""
    body: Body = b""


def encode_frame(kind: int, call_id: int, head: bytes = b"", body: bytes = b"") -> bytes:
    """The whole frame as one byte string. Raises as :func:`encode_parts`."""
    return b"".join(encode_parts(kind, call_id, head, body))


def encode_parts(kind: int, call_id: int, head: bytes, body: Body) -> list[Body]:
    """The frame as one or two pieces; a large body is not copied.

    Raises:
        TooLargeError: no receiver would take it: it would close the connection, which others share.
    """
    head_size = len(head)
    size = head_size + len(body)
    if size >= LARGE_BODY:
        check_size(f"the head of a {Kind(kind).name} frame, which is all but its body, takes", head_size, MAX_HEAD)
        check_size(f"a {Kind(kind).name} frame takes", size, MAX_PAYLOAD)
        header = _LAYOUT.pack(size, kind, call_id, head_size)
        return [header + head, body] if size - head_size >= LARGE_BODY else [b"".join((header, head, body))]
    return [b"".join((_LAYOUT.pack(size, kind, call_id, head_size), head, body))]


class FrameDecoder:
    """Cuts a byte stream into frames.

    The bytes may be fed as they come. Or they are received where :meth:`buffer` says, and :meth:`received` is told how
    many they were: a large body then goes where it will stay, without another copy.

    Args:
        max_payload: largest head + body accepted, in bytes; raised once the peer is known.

    After :class:`WireError` the decoder is spent: the stream has lost its footing.
    """

    __slots__ = ("_buffer", "_large", "_shared", "max_payload")

    def __init__(self, *, max_payload: int = MAX_PAYLOAD) -> None:
        self._buffer = b""
        self._large: _LargeBody | None = None
        self._shared: memoryview | None = None
        self.max_payload = max_payload

    def buffer(self) -> memoryview:
        """Where the next bytes of the stream may be received."""
        if self._large is not None:
            return self._large.rest()
        if self._shared is None:
            self._shared = memoryview(bytearray(RECEIVE_BYTES))
        return self._shared

    def received(self, count: int) -> list[Frame]:
        """So many bytes have been put into :meth:`buffer`. Returns and raises as :meth:`feed`."""
        if self._large is not None:
            return self._filled(count)
        assert self._shared is not None
        return self.feed(bytes(self._shared[:count]))

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes of the stream and return the frames that they complete, in order.

        Raises:
            WireError: a length or kind that no peer of ours sends.
        """
        frames: list[Frame] = []
        if self._large is not None:
            count = min(len(data), self._large.missing)
            self._large.rest()[:count] = data[:count]
            frames = self._filled(count)
            data = data[count:]
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        position, end = 0, len(data)
        unpack = _LAYOUT.unpack_from
        while end - position >= HEADER_SIZE:
            size, kind, call_id, head_size = unpack(data, position)
            if size > self.max_payload or head_size > size or kind not in KINDS or head_size > MAX_HEAD:
                self._check(size, kind, head_size)
            start = position + HEADER_SIZE
            split = start + head_size
            if end - start < size:
                if split <= end and size - head_size >= LARGE_BODY:
                    self._large = _LargeBody(kind, call_id, data[start:split], size - head_size, data[split:])
                    return frames
                break
            position = start + size
            frames.append(Frame(kind, call_id, data[start:split], data[split:position]))
        if position < end:
            self._buffer = data[position:]
        return frames

    def _filled(self, count: int) -> list[Frame]:
        large = self._large
        assert large is not None
        large.missing -= count
        if large.missing:
            return []
        self._large = None
        return [Frame(large.kind, large.call_id, large.head, large.body)]

    def _check(self, size: int, kind: int, head_size: int) -> None:
        if kind not in KINDS:
            raise WireError(f"frame kind {kind} is unknown")
        if size > self.max_payload:
            raise WireError(f"frame of {size} bytes is over the limit of {self.max_payload}")
        if head_size > min(size, MAX_HEAD):
            raise WireError(f"frame head of {head_size} bytes is over the limit of {min(size, MAX_HEAD)}")

    @property
    def pending(self) -> int:
        """Bytes that have come of a frame that is not complete yet."""
        if self._large is not None:
            return HEADER_SIZE + len(self._large.head) + len(self._large.body) - self._large.missing
        return len(self._buffer)


class _LargeBody:
    """A frame whose body is being received in place."""

    __slots__ = ("_view", "body", "call_id", "head", "kind", "missing")

    def __init__(self, kind: int, call_id: int, head: bytes, size: int, begin: bytes) -> None:
        self.kind = kind
        self.call_id = call_id
        self.head = head
        self.body: bytearray | memoryview = bytearray(size) if size < HUGE_BODY else _huge_memory(size)
        self.body[: len(begin)] = begin
        self.missing = size - len(begin)
        self._view = memoryview(self.body)

    def rest(self) -> memoryview:
        return self._view[len(self.body) - self.missing :]


def _huge_memory(size: int) -> memoryview:
    """Memory that the system hands out in pages of 2 MiB where it can: with those of 4 KiB the first touch of each page
    took twice as long as all that was done with its bytes."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)
