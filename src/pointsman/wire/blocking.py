"""A stream without an event loop: one authenticated connection for a thread that must not depend on any loop.

Used by a replica's health thread, which must answer while user code blocks the event loop.
"""

from __future__ import annotations

import secrets
import socket

from pointsman.wire.address import dialer_context, parse_tcp
from pointsman.wire.auth import HELLO_TIMEOUT_S, NONCE_SIZE, Dialer
from pointsman.wire.encoding import FrameDecoder, encode_frame
from pointsman.wire.frames import MAX_PAYLOAD_BEFORE_HELLO, Frame

READ_SIZE = 64 * 1024


class BlockingStream:
    """Connects and authenticates, then sends and receives frames. Not thread-safe.

    Args:
        address: path of a Unix socket, or ``tcp:host:port``.

    Raises:
        OSError: no process listens there, its TLS certificate is not accepted, or the connection was lost.
        WireError: the other end does not hold the key.
    """

    def __init__(self, address: str, *, instance: str, role: str, identity: str, key: bytes) -> None:
        self._socket = _connected(address)
        try:
            hello = Dialer(
                instance=instance, role=role, identity=identity, key=key, nonce=secrets.token_bytes(NONCE_SIZE)
            )
            self._socket.sendall(hello.first())
            self._decoder = FrameDecoder(max_payload=MAX_PAYLOAD_BEFORE_HELLO)
            while not hello.done:
                for frame in self.receive():
                    self._socket.sendall(hello.receive(frame))
            self._socket.settimeout(None)
        except BaseException:
            self._socket.close()
            raise

    def send(self, kind: int, call_id: int, head: bytes = b"") -> None:
        """Send one frame.

        Raises:
            TooLargeError: the frame is over the limit. Nothing was sent.
        """
        self._socket.sendall(encode_frame(kind, call_id, head))

    def receive(self) -> list[Frame]:
        """Wait for the next bytes, and return the frames that they complete, perhaps none."""
        data = self._socket.recv(READ_SIZE)
        if not data:
            raise ConnectionError("the other end closed the connection")
        return self._decoder.feed(data)

    def close(self) -> None:
        self._socket.close()


def _connected(address: str) -> socket.socket:
    place = parse_tcp(address)
    if place is not None:
        connected = socket.create_connection(place, HELLO_TIMEOUT_S)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = dialer_context()
        return connected if context is None else context.wrap_socket(connected, server_hostname=place.host)
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.settimeout(HELLO_TIMEOUT_S)
        connected.connect(address)
    except BaseException:
        connected.close()
        raise
    return connected
