"""The replica's note of what it has started, kept until the callers have been told.

A call may be struck out only when its answer has left this process: before that, a SIGKILL would take the answer along,
and the router would believe that the call had never begun.
"""

from __future__ import annotations

import asyncio

from pointsman.wire.started import StartedCalls
from pointsman.wire.stream import Stream

RETRY_S = 0.005
AFTER_LOSS_S = 60.0
"""A router whose connection broke reads the note at once; until it has, the calls stay in it."""


class StartedUntilTold:
    """See the module.

    Args:
        calls: the file that routers read.
    """

    def __init__(self, calls: StartedCalls) -> None:
        self._calls = calls
        self._loop = asyncio.get_running_loop()
        self._over: list[tuple[int, Stream]] = []
        self.begin = calls.begin

    def end_when_told(self, mark: int, stream: Stream) -> None:
        """The call is over, and its answer, if any, was given to the stream before. On the loop."""
        if not self._over:
            if not (stream.unsent or stream.closed):  # it was alone, and has left
                self._calls.end(mark)
                return
            self._loop.call_soon(self._strike_out)  # behind the stream's own flush, which was asked for before
        self._over.append((mark, stream))

    def _strike_out(self) -> None:
        over, self._over = self._over, []
        for mark, stream in over:
            if stream.closed:
                self._loop.call_later(AFTER_LOSS_S, self._calls.end, mark)
            elif stream.unsent:
                self._over.append((mark, stream))
            else:
                self._calls.end(mark)
        if self._over:
            self._loop.call_later(RETRY_S, self._strike_out)
