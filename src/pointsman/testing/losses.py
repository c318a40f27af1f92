"""Internal calls that fail: the request is lost, or its reply, or its reply while its handler still runs.

    Losses(network).arrange(Kind.COMMAND, Kind.REPLY, Loss.REPLY) -> the next such connection breaks at that moment

Our connections lose nothing in their midst: what is lost is lost because a connection breaks. So each failure is a cut
of a pipe in memory, made when the frame is seen that is to be lost. Frames that follow on another connection get
through, and whoever was cut off has to notice, connect again, and say again what may not have arrived.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from functools import partial

from pointsman.limits import MAX_PAYLOAD
from pointsman.testing.pipes import MemoryNetwork, Pipe
from pointsman.wire.frames import Frame, FrameDecoder, Kind

RUNNING_TURNS = 3
"""Turns of the loop that a handler is given before it counts as running."""


class Loss(Enum):
    """What is lost of a call."""

    REQUEST = "request lost"
    REPLY = "reply lost"
    REPLY_WHILE_RUNNING = "reply lost while its handler runs"


class Losses:
    """Breaks connections of a network, each at the moment that was arranged.

    Args:
        network: whose connections, from now on; it is the only one to use its ``on_connect``.

    Attributes:
        cuts: how many connections were broken.
    """

    def __init__(self, network: MemoryNetwork) -> None:
        network.on_connect = self._watch
        self._loop = asyncio.get_running_loop()
        self._wanted: tuple[Kind, Kind, Loss] | None = None
        self._request: tuple[Pipe, int] | None = None
        self.cuts = 0

    def arrange(self, request: Kind, reply: Kind, loss: Loss) -> None:
        """Have the next call fail that a frame of kind ``request`` begins, and the next of kind ``reply`` on the same
        connection would end."""
        self._wanted, self._request = (request, reply, loss), None

    def _watch(self, address: str, pipe: Pipe) -> None:
        for line in (pipe.there, pipe.back):
            line.on_write = partial(self._written, pipe, FrameDecoder(max_payload=MAX_PAYLOAD))

    def _written(self, pipe: Pipe, decoder: FrameDecoder, data: bytes) -> None:
        for frame in decoder.feed(data):
            if self._wanted is not None:
                self._seen(pipe, frame, *self._wanted)

    def _seen(self, pipe: Pipe, frame: Frame, request: Kind, reply: Kind, loss: Loss) -> None:
        if self._request is None and frame.kind == request:
            if loss is Loss.REQUEST:
                self._cut(pipe)
                return
            self._request = (pipe, frame.call_id)
            if loss is Loss.REPLY_WHILE_RUNNING:
                self._loop.call_soon(self._cut_later, pipe, RUNNING_TURNS)
        elif self._request == (pipe, frame.call_id) and frame.kind == reply:
            self._cut(pipe)

    def _cut_later(self, pipe: Pipe, turns: int) -> None:
        """Once all has arrived, and the handler has had its turns; one that was quicker has lost its reply already."""
        if self._request is None:
            return
        if pipe.there.on_the_way or pipe.back.on_the_way:
            self._loop.call_soon(self._cut_later, pipe, turns)
        elif turns:
            self._loop.call_soon(self._cut_later, pipe, turns - 1)
        else:
            self._cut(pipe)

    def _cut(self, pipe: Pipe) -> None:
        self._wanted = self._request = None
        self.cuts += 1
        self._loop.call_soon(pipe.cut)  # before anything arrives that was written in this turn
