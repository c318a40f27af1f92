"""What is to be written to a socket whose other end may not read just now."""

from __future__ import annotations

import contextlib
import socket


class Outbox:
    """Writes as much as goes, never waits, and keeps the rest.

    Args:
        to: written to; made non-blocking.
    """

    def __init__(self, to: socket.socket) -> None:
        to.setblocking(False)
        self._to = to
        self._rest = bytearray()

    @property
    def full(self) -> bool:
        """Whether something is left for :meth:`flush`, once the socket can be written to again."""
        return bool(self._rest)

    def send(self, data: bytes) -> None:
        """Write, behind what is left."""
        self._rest += data
        self.flush()

    def flush(self) -> None:
        """Write what is left, as far as it goes. What an end that is gone has not read is lost."""
        with contextlib.suppress(OSError):
            while self._rest:
                del self._rest[: self._to.send(self._rest)]
