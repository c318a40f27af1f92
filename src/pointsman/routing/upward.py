"""What a caller sends behind its call: a body in parts, or the messages of a WebSocket.

    push -> kept, while the call may be sent again -> parts that wait for credit -> CHUNK frames -> END

A replica that has not begun a call may send it back, or die with it: then the call goes elsewhere with all that was
sent so far. That is at most a window of bytes, since credit for more comes only from an app that has begun to read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from pointsman.wire.frames import Body, Kind
from pointsman.wire.messages import MORE, PART, WINDOW

SendFrame = Callable[[Kind, bytes, Body], None]


class Upward:
    """The data behind one call. Its caller pushes, the connection to a replica sends.

    Args:
        keeps: whether it may be sent again; a WebSocket's messages are not.

    Attributes:
        size: bytes pushed so far.
        ended: whether the end was pushed.
    """

    def __init__(self, *, keeps: bool = True) -> None:
        self.size = 0
        self.ended = False
        self._granted = 0
        self._credit = WINDOW
        self._kept: list[tuple[Kind, bytes, bytes]] | None = [] if keeps else None
        self._waiting: deque[tuple[Kind, bytes, bytes]] = deque()
        self._send: SendFrame | None = None
        self._over = False
        self._waiter: asyncio.Future[None] | None = None
        self._whole: list[Callable[[bytes | None], None]] = []

    def push(self, data: bytes, head: bytes = b"") -> None:
        """Add a part, cut if it is large. Nothing is refused: whoever pushes waits for :meth:`room` before.

        Args:
            head: flags, where it is a message or the end of one.
        """
        if self._over or self.ended:
            return
        self.size += len(data)
        last = max(0, len(data) - 1) // PART * PART
        for at in range(0, last, PART):
            self._add(Kind.CHUNK, bytes([head[0] | MORE]) if head else head, data[at : at + PART])
        self._add(Kind.CHUNK, head, data[last:] if last else data)
        self._forget()

    def end(self, head: bytes = b"") -> None:
        """No more parts come."""
        if self._over or self.ended:
            return
        self.ended = True
        self._add(Kind.END, head, b"")
        whole = None if self._kept is None else b"".join([data for _, _, data in self._kept])
        for callback in self._pop_callbacks():
            callback(whole)

    @property
    def can_be_sent_again(self) -> bool:
        """Whether all of it has come, and all of it is still here."""
        return self.ended and self._kept is not None and self.size <= WINDOW

    def when_whole(self, callback: Callable[[bytes | None], None]) -> None:
        """Have ``callback`` called with all of the data once it has ended; with None where it is over a window."""
        self._whole.append(callback)

    async def room(self) -> bool:
        """Wait until less than a window of bytes is unread; False once nobody will read any more."""
        while not self._over and self.size - self._granted >= WINDOW:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return not self._over

    def over(self) -> None:
        """The call has its outcome, or was given up: nobody reads what would still come."""
        self._over = True
        self._send = None
        self._kept = None
        self._waiting.clear()
        for callback in self._pop_callbacks():
            callback(None)
        self._wake()

    # The connection to a replica

    def begin(self, send: SendFrame) -> None:
        """The call was sent to a replica: what there is follows."""
        self._send, self._credit, self._granted = send, WINDOW, 0
        if self._kept is not None:
            self._waiting = deque(self._kept)
        self._flush()

    def stop(self) -> None:
        """The call is with that replica no more."""
        self._send = None

    def grant(self, size: int) -> None:
        """The replica has read ``size`` bytes."""
        self._granted += size
        self._credit += size
        self._forget()
        self._flush()
        self._wake()

    def _add(self, kind: Kind, head: bytes, data: bytes) -> None:
        part = kind, head, data
        if self._kept is not None:
            self._kept.append(part)
        if self._send is not None:
            self._waiting.append(part)
            self._flush()

    def _flush(self) -> None:
        waiting = self._waiting
        while waiting and self._send is not None:
            kind, head, data = waiting[0]
            if len(data) > self._credit:
                if self._credit <= 0 or head:  # a message's part has a head, which must not be doubled
                    return
                waiting[0] = kind, head, data[self._credit :]
                data = data[: self._credit]
            else:
                waiting.popleft()
            self._credit -= len(data)
            self._send(kind, head, data)

    def _forget(self) -> None:
        """More than a window is kept for nobody: credit for it came from an app that has begun."""
        if self.size > WINDOW and self._granted and self._kept is not None:
            self._kept = None
            for callback in self._pop_callbacks():
                callback(None)

    def _pop_callbacks(self) -> list[Callable[[bytes | None], None]]:
        callbacks, self._whole = self._whole, []
        return callbacks

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
