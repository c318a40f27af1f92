"""The controller's side of the local engine: orders to the supervisor, events from it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from pointsman.engine.base import ONE_NODE, EventSink
from pointsman.engine.orders import KillOrder, LaunchOrder, ProcessEvent, ShutdownOrder
from pointsman.engine.process import is_stopped
from pointsman.exceptions import TooLargeError
from pointsman.wire.frames import Frame, Kind
from pointsman.wire.messages import pack, unpack
from pointsman.wire.stream import Stream, close_streams


class SupervisorLink:
    """An :class:`~pointsman.engine.base.Engine` whose processes the supervisor runs.

    Args:
        events: called with every event, on the loop.
        inherited: this process's end of the socket pair.
        ingresses_wanted: how many ingress processes the supervisor keeps.
    """

    def __init__(self, events: EventSink, inherited: socket.socket, *, ingresses_wanted: int) -> None:
        self.ingresses_wanted = ingresses_wanted
        self.nodes = ONE_NODE
        self._events = events
        self._inherited = inherited
        self._stream: Stream | None = None
        self._what_runs: Callable[[], bytes] | None = None
        self._is_asked = False

    def tell_what_runs(self, what_runs: Callable[[], bytes]) -> None:
        """From now on answer the supervisor's question what runs (see :mod:`~pointsman.engine.local.upgradelink`)."""
        self._what_runs = what_runs
        if self._is_asked:
            self._send(Kind.REPORT, b"", what_runs())

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        _, self._stream = await loop.create_unix_connection(lambda: Stream(self, None), sock=self._inherited)

    def launch(self, order: LaunchOrder) -> None:
        try:
            self._send(Kind.LAUNCH, pack(order))
        except TooLargeError as error:  # reported like a process that the supervisor cannot start
            event = ProcessEvent("exited", order.number, 0, f"could not be started: {error}")
            asyncio.get_running_loop().call_soon(self._events, event)

    def kill(self, number: int) -> None:
        self._send(Kind.KILL, pack(KillOrder(number)))

    def is_stopped(self, pid: int) -> bool:
        return is_stopped(pid)

    def shutdown(self, order: ShutdownOrder) -> None:
        self._send(Kind.SHUTDOWN, pack(order))

    async def aclose(self) -> None:
        if self._stream is not None:
            await close_streams([self._stream])

    def _send(self, kind: Kind, head: bytes, body: bytes = b"") -> None:
        assert self._stream is not None
        self._stream.send(kind, 0, head, body)

    # StreamUser

    def stream_ready(self, stream: Stream) -> None:
        self._stream = stream

    def stream_frames(self, stream: Stream, frames: list[Frame]) -> None:
        for frame in frames:
            event = unpack(frame.head, ProcessEvent)
            if event.event != "asked_what_runs":
                self._events(event)
            elif self._what_runs is not None:
                self._send(Kind.REPORT, b"", self._what_runs())
            else:  # it has not adopted what runs yet
                self._is_asked = True

    def stream_lost(self, stream: Stream, error: Exception | None) -> None:
        pass  # the supervisor has exited, and the lifeline ends this process
