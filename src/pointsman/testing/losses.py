"""Makes internal calls fail: the request is lost, or its reply, or its reply while the handler still runs.

    Losses(network).arrange(Kind.COMMAND, Kind.REPLY, Loss.REPLY) -> the next such connection breaks at that moment

A connection loses frames only by breaking. So each failure cuts a pipe in memory when the frame to be lost is written.
Frames on later connections arrive; the peer that was cut off has to reconnect, and repeat what may not have arrived.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from functools import partial

from pointsman.limits import MAX_PAYLOAD
from pointsman.testing.networks import MemoryNetwork
from pointsman.testing.pipes import Pipe
from pointsman.wire.encoding import FrameDecoder
from pointsman.wire.frames import Frame, Kind

#: Turns of the loop that a handler is given before it counts as running.
RUNNING_TURNS = 3


class Loss(Enum):
    """Which part of a call is lost.

    Attributes:
        REQUEST: the request.
        REPLY: the reply.
        REPLY_WHILE_RUNNING: the reply, while the handler still runs.
    """

    REQUEST = "request lost"
    REPLY = "reply lost"
    REPLY_WHILE_RUNNING = "reply lost while its handler runs"


class Losses:
    """Breaks connections of a network at chosen moments.

    Args:
        network: its later connections are watched. Sets ``on_connect``, which nothing else may use.

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
        """Make the next call fail that begins with a frame of kind ``request`` and ends with one of kind ``reply``.

        Args:
            request: kind of the first frame.
            reply: kind of the last frame.
            loss: what of the call is lost.
        """
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
        """Cut when all frames have arrived and the handler has had its turns. If the handler has replied before, the
        reply was cut off."""
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
        self._loop.call_soon(pipe.cut)  # before data that was written in this turn of the loop arrives
