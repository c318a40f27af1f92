"""Connections in memory with faults, in place of Unix sockets, on any event loop.

    transport.write -> Line (held? split? delayed?) -> protocol at the other end, buffered or not

Used by tests. A :class:`Pipe` connects two protocols; on a :class:`MemoryNetwork` one listens at an address and others
connect. Must not depend on frames: a ``wire.stream.Stream`` is used like any other protocol.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar, cast

P = TypeVar("P", bound=asyncio.BaseProtocol)

HIGH_WATER = 64 * 1024
LOW_WATER = 16 * 1024


class Line:
    """One direction of a pipe. Its attributes may be changed at any time, and apply to data on the way too.

    Attributes:
        delay_s: seconds from a write to its arrival. The order is kept.
        split: the most bytes that arrive at once; None to deliver each write whole.
        high, low: bytes on the way above which the writer is paused, and below which it is resumed.
        writes: all writes so far.
        on_write: called with each write before it is on its way.
    """

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.split: int | None = None
        self.high, self.low = HIGH_WATER, LOW_WATER
        self.writes: list[bytes] = []
        self.on_write: Callable[[bytes], None] | None = None
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[float, bytes | None]] = deque()
        self._held = 0
        self._writer: MemoryTransport | None = None
        self._reader: MemoryTransport | None = None
        self._timer: asyncio.Handle | None = None
        self._paused = False

    @property
    def on_the_way(self) -> int:
        """The number of bytes that were written and have not arrived."""
        return sum(len(data) for _, data in self._queue if data)

    def hold(self) -> None:
        """Deliver nothing until :meth:`release`, as if the reader had stopped reading."""
        self._held += 1

    def release(self) -> None:
        """Deliver again, after as many calls as there were of :meth:`hold`."""
        self._held -= 1
        self._schedule()

    def inject(self, data: bytes) -> None:
        """Send bytes that the writer did not write.

        Args:
            data: the bytes.
        """
        self._queue.append((self._loop.time() + self.delay_s, data))
        self._schedule()

    def join(self, writer: MemoryTransport, reader: MemoryTransport) -> None:
        """Connect the two ends; called by :class:`Pipe`.

        Args:
            writer: the end that writes here.
            reader: the end that data arrives at.
        """
        self._writer, self._reader = writer, reader

    def write(self, data: bytes) -> None:
        """Send bytes; called by the transport.

        Args:
            data: the bytes.
        """
        self.writes.append(data)
        if self.on_write is not None:
            self.on_write(data)
        self.inject(data)
        if not self._paused and self.on_the_way > self.high and self._writer is not None:
            self._paused = True
            self._writer.protocol.pause_writing()

    def end(self) -> None:
        """Send the end of file, behind what is on the way."""
        self._queue.append((self._loop.time() + self.delay_s, None))
        self._schedule()

    def clear(self) -> None:
        """Drop what is on the way."""
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        if self._timer is None and self._queue and not self._held:
            self._timer = self._loop.call_at(max(self._loop.time(), self._queue[0][0]), self._deliver)

    def _deliver(self) -> None:
        """Deliver one piece per turn of the loop, so that other callbacks run between two pieces."""
        self._timer = None
        if self._held or not self._queue:
            return
        due, data = self._queue.popleft()
        if data is not None and self.split is not None and len(data) > self.split:
            self._queue.appendleft((due, data[self.split :]))
            data = data[: self.split]
        self._schedule()
        if self._reader is not None:
            self._reader.arrived(data)
        if self._paused and self.on_the_way <= self.low and self._writer is not None:
            self._paused = False
            if not self._writer.is_closing():
                self._writer.protocol.resume_writing()


class MemoryTransport(asyncio.Transport):
    """One end of a pipe. Made by :class:`Pipe`.

    Attributes:
        protocol: the protocol at this end.
    """

    def __init__(self, protocol: asyncio.BaseProtocol, out: Line, incoming: Line) -> None:
        super().__init__()
        self.protocol = protocol
        self._out = out
        self._in = incoming
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._lost = False
        self._reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, unless the transport is closing.

        Args:
            data: the bytes.

        Raises:
            TypeError: it is no bytes.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"a transport writes bytes, not {type(data).__name__}")
        if data and not self._closing:
            self._out.write(bytes(data))

    def close(self) -> None:
        """Send what is on the way, and close."""
        if not self._closing:
            self._closing = True
            self._out.end()
            self._loop.call_soon(self.lose, None)

    def abort(self) -> None:
        """Close without sending what is on the way."""
        self._closing = True
        self._out.clear()
        self._out.end()
        self._loop.call_soon(self.lose, None)

    def arrived(self, data: bytes | None) -> None:
        """Receive bytes from the line, or None for the end of file.

        Args:
            data: the bytes; None for the end of file.
        """
        if self._closing:
            return
        protocol = cast(asyncio.Protocol, self.protocol)
        try:
            if data is not None:
                self._deliver(data)
            elif not protocol.eof_received():
                self.close()
        except Exception as error:  # noqa: BLE001 - as asyncio does: a protocol that raises loses its connection
            self._loop.call_exception_handler({"message": "protocol failed", "exception": error, "transport": self})
            self.abort()

    def _deliver(self, data: bytes) -> None:
        if not isinstance(self.protocol, asyncio.BufferedProtocol):
            cast(asyncio.Protocol, self.protocol).data_received(data)
            return
        while data and not self._closing:
            buffer = memoryview(self.protocol.get_buffer(len(data)))
            count = min(len(buffer), len(data))
            buffer[:count] = data[:count]
            self.protocol.buffer_updated(count)
            data = data[count:]

    def lose(self, error: Exception | None) -> None:
        """Tell the protocol that the connection is lost, once.

        Args:
            error: what it is told; None for an end in good order.
        """
        if not self._lost:
            self._closing = self._lost = True
            self.protocol.connection_lost(error)

    def is_closing(self) -> bool:
        """Whether it was closed or lost."""
        return self._closing

    def is_reading(self) -> bool:
        """Whether data is delivered to the protocol."""
        return self._reading

    def pause_reading(self) -> None:
        """Deliver nothing to the protocol until :meth:`resume_reading`."""
        if self._reading:
            self._reading = False
            self._in.hold()

    def resume_reading(self) -> None:
        """Deliver to the protocol again."""
        if not self._reading:
            self._reading = True
            self._in.release()

    def can_write_eof(self) -> bool:
        """Whether one direction can be ended alone: it cannot."""
        return False

    def get_write_buffer_size(self) -> int:
        """The number of bytes that were written and have not arrived."""
        return self._out.on_the_way

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """The bytes on the way below which the writer is resumed, and above which it is paused."""
        return self._out.low, self._out.high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set when the writer is paused and resumed.

        Args:
            high: bytes on the way above which it is paused; None for 64 KiB.
            low: bytes on the way below which it is resumed; None for a quarter of ``high``.
        """
        self._out.high = HIGH_WATER if high is None else high
        self._out.low = self._out.high // 4 if low is None else low

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol at this end."""
        return self.protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Have another protocol at this end.

        Args:
            protocol: gets what arrives from now on.
        """
        self.protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What asyncio's transports know of their socket: nothing here.

        Args:
            name: what is asked for.
            default: what is returned.
        """
        return default


class Pipe:
    """A connection between two protocols.

    Args:
        first: the protocol of the client.
        second: the protocol of the server.

    Attributes:
        there: the line from ``first`` to ``second``.
        back: the line from ``second`` to ``first``.

    ``connection_made`` is called in the next turn of the loop, so faults that are set at once apply to all bytes.
    """

    def __init__(self, first: asyncio.BaseProtocol, second: asyncio.BaseProtocol) -> None:
        self.there, self.back = Line(), Line()
        self._ends = (MemoryTransport(first, self.there, self.back), MemoryTransport(second, self.back, self.there))
        self.there.join(*self._ends)
        self.back.join(*reversed(self._ends))
        loop = asyncio.get_running_loop()
        for end in reversed(self._ends):
            loop.call_soon(end.protocol.connection_made, end)

    @property
    def first(self) -> MemoryTransport:
        """The client's end."""
        return self._ends[0]

    @property
    def second(self) -> MemoryTransport:
        """The server's end."""
        return self._ends[1]

    @property
    def open(self) -> bool:
        """Whether neither end is closing."""
        return not any(end.is_closing() for end in self._ends)

    def split(self, size: int) -> None:
        """Split what is written, in both directions, into pieces of at most ``size`` bytes.

        Args:
            size: in bytes.
        """
        self.there.split = self.back.split = size

    def delay(self, seconds: float) -> None:
        """Delay all writes, in both directions, by this long.

        Args:
            seconds: from a write to its arrival.
        """
        self.there.delay_s = self.back.delay_s = seconds

    def cut(self, error: Exception | None = None) -> None:
        """Break the connection now: what is on the way is lost, and both ends get ``error`` (None: an end of file).

        Args:
            error: what both protocols are told.
        """
        self.there.clear()
        self.back.clear()
        for end in self._ends:
            end.lose(error)
