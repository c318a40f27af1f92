"""Frames to bytes, and bytes to frames. No I/O."""

from __future__ import annotations

import contextlib
import mmap
from struct import Struct as Layout

from pointsman.limits import MAX_HEAD, MAX_PAYLOAD, check_size
from pointsman.wire.frames import KINDS, Body, Frame, Kind, WireError

_LAYOUT = Layout("<IBQI")  # head + body length, kind, call id, head length
HEADER_SIZE = _LAYOUT.size
LARGE_BODY = 64 * 1024
"""Bodies below this many bytes are copied: next to their header when sent, and out of the shared buffer when received.
Larger ones are sent as they are, and received into their own memory (decision 0027)."""
HUGE_BODY = 4 * 1024 * 1024
"""Bodies of at least this many bytes are received into memory with large pages."""
RECEIVE_BYTES = 256 * 1024
"""Size of the buffer that is shared by all frames with a smaller body."""


def encode_frame(kind: int, call_id: int, head: bytes = b"", body: bytes = b"") -> bytes:
    """A frame as one byte string. Raises as :func:`encode_parts`."""
    return b"".join(encode_parts(kind, call_id, head, body))


def encode_parts(kind: int, call_id: int, head: bytes, body: Body) -> list[Body]:
    """A frame as one or two pieces. A large body is not copied.

    Raises:
        TooLargeError: head or body is over its limit. A receiver would close the connection, which other calls share.
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
    """Splits a byte stream into frames.

    Received bytes are given to :meth:`feed`. Or they are received into :meth:`buffer`, and :meth:`received` is called
    with their number: then a large body is received into its own memory, without another copy.

    After a :class:`WireError` the decoder cannot be used: the borders of frames are lost.

    Args:
        max_payload: largest head + body accepted, in bytes.
    """

    __slots__ = ("_buffer", "_large", "_shared", "max_payload")

    def __init__(self, *, max_payload: int = MAX_PAYLOAD) -> None:
        self._buffer = b""
        self._large: _LargeBody | None = None
        self._shared: memoryview | None = None
        self.max_payload = max_payload

    def buffer(self) -> memoryview:
        """The memory to receive the next bytes into."""
        if self._large is not None:
            return self._large.rest()
        if self._shared is None:
            self._shared = memoryview(bytearray(RECEIVE_BYTES))
        return self._shared

    def received(self, count: int) -> list[Frame]:
        """Process ``count`` bytes that were received into :meth:`buffer`. Returns and raises as :meth:`feed`."""
        if self._large is not None:
            return self._filled(count)
        assert self._shared is not None
        return self.feed(bytes(self._shared[:count]))

    def feed(self, data: bytes) -> list[Frame]:
        """Process the next bytes of the stream, and return the frames that they complete, in order.

        Raises:
            WireError: a length is over its limit, or a kind unknown.
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
        """Bytes received of a frame that is not complete yet."""
        if self._large is not None:
            return HEADER_SIZE + len(self._large.head) + len(self._large.body) - self._large.missing
        return len(self._buffer)


class _LargeBody:
    """A frame whose body is being received into its own memory."""

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
    """Memory in pages of 2 MiB if the system has them. With pages of 4 KiB the first touch of each page took twice as
    long as all further processing of its bytes."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)
