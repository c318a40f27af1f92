"""The supervisor's end of the socket between it and its controller: orders come in, events go out."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable

from pointsman.engine.local.output import Outbox
from pointsman.engine.orders import ProcessEvent
from pointsman.wire.encoding import FrameDecoder, encode_frame
from pointsman.wire.frames import Frame, Kind
from pointsman.wire.messages import pack


class ControllerLink:
    """See the module. There is none to a controller that has exited: what is sent then is lost, and the next one gets
    ``recovered``.

    Args:
        selector: of the supervisor's loop.
        on_frame: called with each order.
    """

    def __init__(self, selector: selectors.BaseSelector, on_frame: Callable[[Frame], None]) -> None:
        self._selector = selector
        self._on_frame = on_frame
        self._socket: socket.socket | None = None
        self._outbox: Outbox | None = None
        self._decoder = FrameDecoder()

    def open(self, ours: socket.socket) -> None:
        """Use the socket to a new controller."""
        self.close()
        self._socket, self._decoder, self._outbox = ours, FrameDecoder(), Outbox(ours)
        self._selector.register(ours, selectors.EVENT_READ, self._on_ready)

    def send(self, event: ProcessEvent) -> None:
        """Send an event, without blocking."""
        if self._socket is not None:
            self._write(encode_frame(Kind.EVENT, 0, pack(event)))

    def close(self) -> None:
        if self._socket is not None:
            self._selector.unregister(self._socket)
            self._socket.close()
            self._socket = None

    def _on_ready(self) -> None:
        assert self._socket is not None
        self._write()
        try:
            data = self._socket.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        for frame in self._decoder.feed(data):
            self._on_frame(frame)

    def _write(self, data: bytes = b"") -> None:
        """Write what the socket takes; the rest follows when it is writable."""
        assert self._socket is not None
        assert self._outbox is not None
        self._outbox.send(data)
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outbox.full else 0)
        self._selector.modify(self._socket, events, self._on_ready)
