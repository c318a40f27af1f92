"""The controller's side of the local engine: orders to the supervisor, events from it."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from pointsman.wire.frames import Frame, Kind
from pointsman.wire.handover import Kill, Launch, ProcessEvent, ShutdownOrder, Stop
from pointsman.wire.messages import pack, unpack
from pointsman.wire.stream import Stream

if TYPE_CHECKING:
    from pointsman.engine.base import EventSink


class SupervisorLink:
    """An :class:`~pointsman.engine.base.Engine` whose processes the supervisor runs.

    Args:
        events: told about every event, on the loop.
    """

    def __init__(self, events: EventSink) -> None:
        self._events = events
        self._stream: Stream | None = None

    async def start(self, inherited: socket.socket) -> None:
        """Begin to talk over the inherited end of the socket pair."""
        loop = asyncio.get_running_loop()
        _, self._stream = await loop.create_unix_connection(lambda: Stream(self, None), sock=inherited)

    def launch(self, order: Launch) -> None:
        self._send(Kind.LAUNCH, pack(order))

    def stop(self, number: int) -> None:
        self._send(Kind.STOP, pack(Stop(number)))

    def kill(self, number: int) -> None:
        self._send(Kind.KILL, pack(Kill(number)))

    def is_stopped(self, pid: int) -> bool:
        try:
            status = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            return False  # it has ended, or this system has no such files
        return status.rpartition(b") ")[2][:1] in (b"T", b"t")

    def shutdown(self, order: ShutdownOrder) -> None:
        self._send(Kind.SHUTDOWN, pack(order))

    def _send(self, kind: Kind, head: bytes) -> None:
        assert self._stream is not None
        self._stream.send(kind, 0, head)

    # StreamUser

    def stream_ready(self, stream: Stream) -> None:
        self._stream = stream

    def stream_frames(self, stream: Stream, frames: list[Frame]) -> None:
        for frame in frames:
            self._events(unpack(frame.head, ProcessEvent))

    def stream_lost(self, stream: Stream, error: Exception | None) -> None:
        pass  # the supervisor is gone, and the lifeline ends this process
