"""A stream with two writers: the loop, as with any other, and one thread that may write a frame to the socket itself.

    loop:   take the turn, or leave the frames queued -> transport
    thread: take the turn, if nothing is queued or under way -> socket; what the kernel does not take is queued, first

Bytes reach the kernel only from whoever holds the turn, and the thread writes only when all that was sent before is
there already: so frames are never mixed, whatever the transport, which knows nothing of the thread, does meanwhile.

Neither waits for the turn. A thread that holds it may be stopped for long: the garbage collector runs finalizers of
user code wherever it likes. The loop leaves its frames queued then, and the thread has them flushed after its turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from enum import Enum

from pointsman.wire.auth import Acceptor, Dialer
from pointsman.wire.frames import Body
from pointsman.wire.stream import Stream, StreamUser

NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
"""User code may have given SIGPIPE back its default, by which a caller who leaves would end the process."""
RETRY_S = 0.001


class Sent(Enum):
    """What has become of a frame."""

    NOTHING = 0  # nothing has happened: the loop is to send it
    PART = 1  # the loop sends the rest, before anything else
    ALL = 2  # it has left


class SharedStream(Stream):
    """See the module. Of a stream over TLS the loop stays the only writer: what travels there is not what is sent.

    The thread touches nothing of a stream but :meth:`try_send_now`; all else is the loop's.
    """

    def __init__(self, user: StreamUser, hello: Dialer | Acceptor | None) -> None:
        super().__init__(user, hello)
        self._turn = threading.Lock()
        self._socket: socket.socket | None = None
        """The thread's own, which it may use even as the transport closes its own: the number of a closed one may be
        another connection's by then. Changed only by who holds the turn."""
        self._behind = True
        """Whether the transport may hold bytes that the kernel has not taken yet, as of the loop's last turn. Nothing
        looks again when they have left: the thread's next frame goes by the loop, which then looks."""

    # From the thread

    def try_send_now(self, frame: bytes, first: Callable[[], object]) -> Sent:
        """Write a frame, if nothing else is on its way.

        Args:
            frame: a whole one, encoded; small, since it is copied when the kernel takes only a part.
            first: called when it is sure that the frame will go, before any of it can be seen.
        """
        if self._socket is None or not self._turn.acquire(False):
            return Sent.NOTHING
        try:
            # `_out` is the loop's, which only adds to it without the turn: one that is empty here may be longer in the
            # next moment, but nothing of it leaves before the turn is over.
            if self._behind or self._out or self.closed:
                return Sent.NOTHING
            first()
            rest = self._write(frame)
            if rest:
                self._out.insert(0, rest)
            return Sent.PART if rest else Sent.ALL
        finally:
            self._turn.release()
            # Looked at behind the release: the loop has queued or closed before it tried in vain.
            if self._out or self.closed:
                self._call_loop(self._turn_over)

    def _write(self, frame: bytes) -> bytes:
        """What the kernel has not taken. An error is for the loop to find, which meets it with the rest."""
        assert self._socket is not None
        try:
            return frame[self._socket.send(frame, NO_SIGNAL) :]
        except OSError:  # mostly that there is no room
            return frame

    def _call_loop(self, callback: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            if not self._loop.is_closed():
                raise  # a closed loop means that the process is ending: nobody is left to tell

    # From the loop

    def _turn_over(self) -> None:
        if self.closed:
            self._let_go()
        self.flush()

    def _write_alone(self, parts: list[Body]) -> bool:
        if not self._turn.acquire(False):
            return False
        try:
            # Not if the thread has left something meanwhile.
            return not self._out and super()._write_alone(parts)
        finally:
            self._look_behind()
            self._turn.release()

    def flush(self) -> None:
        if not self._turn.acquire(False):
            return  # the thread has this called again
        try:
            super().flush()
        finally:
            self._look_behind()
            self._turn.release()

    async def flushed(self) -> None:
        self.flush()
        while self._turn.locked() or self._out:  # the thread is about to write, or to say what is left
            await asyncio.sleep(RETRY_S)
            self.flush()
        await super().flushed()

    def close(self) -> None:
        self.flush()
        if (self._turn.locked() or self._out) and not self.closed:  # as above: it is sent before the end
            self._loop.call_later(RETRY_S, self.close)
        else:
            super().close()

    def _look_behind(self) -> None:
        self._behind = self._transport is not None and self._transport.get_write_buffer_size() > 0

    def _become_ready(self) -> None:
        assert self._transport is not None
        mine = self._transport.get_extra_info("socket")
        if mine is not None and self._transport.get_extra_info("sslcontext") is None:
            with contextlib.suppress(OSError):  # no descriptor is left: the loop can do it alone
                self._socket = mine.dup()
        super()._become_ready()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._let_go()
        super().connection_lost(exc)

    def _let_go(self) -> None:
        """Close the thread's socket, without which the other end would not see that the connection is closed."""
        if self._socket is not None and self._turn.acquire(False):  # otherwise the thread has this called again
            self._socket.close()
            self._socket = None
            self._turn.release()
