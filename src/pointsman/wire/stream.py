"""A stream: one authenticated connection that carries frames, on an asyncio loop.

Routers connect to replicas, all processes to the controller. Frames that are sent in one iteration of the loop are
written by one system call, except single frames, which are written at once. This module turns received bytes into
``stream_frames`` calls and frames into bytes; it does not know their meaning.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from pointsman.limits import MAX_PAYLOAD
from pointsman.wire.address import acceptor_context, dialer_context, parse_tcp
from pointsman.wire.auth import HELLO_TIMEOUT_S, NONCE_SIZE, Acceptor, Dialer
from pointsman.wire.descriptors import keep_standard_descriptors
from pointsman.wire.encoding import LARGE_BODY, FrameDecoder, encode_parts
from pointsman.wire.frames import MAX_PAYLOAD_BEFORE_HELLO, Body, Frame, WireError

BACKLOG = 2048
DIAL_TIMEOUT_S = 30.0
SILENT_PEER_S = 20
"""How long a TCP peer may leave sent bytes unacknowledged."""
KEEPALIVE_S, KEEPALIVE_PAUSE_S, KEEPALIVE_TRIES = 15, 5, 3
CLOSE_TIMEOUT_S = 1.0
"""How long a closed stream waits for its peer to read what was sent."""
FLUSH_AT = 64
"""Most pieces of frames that are written together."""


class SilentPeerError(WireError):
    """The other end accepted the connection, but did not complete the handshake in time."""


class StreamUser(Protocol):
    """The owner of a stream. Called in this order: ready once, frames any number of times, lost once."""

    def stream_ready(self, stream: Stream) -> None: ...

    def stream_frames(self, stream: Stream, frames: list[Frame]) -> None: ...

    def stream_lost(self, stream: Stream, error: Exception | None) -> None: ...


class Stream(asyncio.BufferedProtocol):
    """One connection.

    Args:
        user: its owner.
        hello: this end of the handshake; None for an inherited connection, which needs none.

    Attributes:
        writable: False while the peer reads slower than this end writes; another peer should be preferred.
        on_writable: called when the peer has caught up.
        among: the open streams of the gate that has accepted it.
    """

    def __init__(self, user: StreamUser, hello: Dialer | Acceptor | None) -> None:
        self._user = user
        self._hello = hello
        self._decoder = FrameDecoder(max_payload=MAX_PAYLOAD_BEFORE_HELLO if hello else MAX_PAYLOAD)
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._out: list[Body] = []
        self._large_out = False
        self._hello_timer: asyncio.TimerHandle | None = None
        self._error: Exception | None = None
        self.ready = False
        self.closed = False
        self.writable = True
        self.on_writable: Callable[[], None] | None = None
        self.among: set[Stream] | None = None
        self._all_written: asyncio.Future[None] | None = None
        self._gone: asyncio.Future[None] | None = None

    @property
    def role(self) -> str:
        return self._hello.role if isinstance(self._hello, Acceptor) else ""

    @property
    def identity(self) -> str:
        return self._hello.identity if isinstance(self._hello, Acceptor) else ""

    def send(self, kind: int, call_id: int, head: bytes = b"", body: Body = b"", *, alone: bool = False) -> None:
        """Send one frame. It is written at the end of this iteration of the loop. No effect on a closed stream.

        Args:
            alone: write it at once, since no other frame is likely to be sent in this iteration.

        Raises:
            TooLargeError: head or body is over its limit. Nothing was sent, and the stream can still be used.
        """
        # hot: two ways to write. With one call at a time the wait for the end of the iteration was a tenth of the
        # latency; with many, a system call for each frame was a third of the cost. uvloop joins writes only while the
        # reader is behind.
        if self.closed:
            return
        parts = encode_parts(kind, call_id, head, body)
        if not self._out:
            if alone and self._write_alone(parts):
                return
            self._loop.call_soon(self.flush)
        self._out += parts
        if len(body) >= LARGE_BODY:
            self._large_out = True
        if len(self._out) >= FLUSH_AT:
            self.flush()  # so that the other end can begin while this iteration goes on

    def _write_alone(self, parts: list[Body]) -> bool:
        """Write one frame at once; False when it has to be queued."""
        if self._transport is None:
            return False
        for part in parts:
            self._transport.write(part)
        return True

    def flush(self) -> None:
        """Write out what is queued."""
        out, self._out = self._out, []
        large, self._large_out = self._large_out, False
        if out and self._transport is not None and not self.closed:
            if large:
                self._transport.writelines(out)
            else:
                self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    async def flushed(self) -> None:
        """Return when all sent frames have left this process, or the stream is lost."""
        self.flush()
        if self._transport is None or self.closed:
            return
        self._all_written = self._loop.create_future()
        self._transport.set_write_buffer_limits(high=0)
        if not self.writable:  # with a limit of 0 the transport calls `pause_writing` and, when empty, `resume_writing`
            await self._all_written

    @property
    def unsent(self) -> bool:
        """True if a sent frame has not left this process yet."""
        return bool(self._out) or (self._transport is not None and self._transport.get_write_buffer_size() > 0)

    def close(self) -> None:
        """Write what is queued, then close."""
        if not self.closed and self._transport is not None:
            self.flush()
            self._transport.close()

    async def gone(self, deadline: float) -> None:
        """Return when a closed stream's connection is gone; abort it at ``deadline``."""
        if self._transport is None or self.closed:
            return
        self._gone = self._gone or self._loop.create_future()
        if not (await asyncio.wait({self._gone}, timeout=max(0.0, deadline - self._loop.time())))[0]:
            self.abort()
            await self._gone

    def abort(self, error: Exception | None = None) -> None:
        """Close at once; ``stream_lost`` gets ``error``."""
        self._error = self._error or error
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self.among is not None:
            self.among.add(self)
        set_tcp_options(transport)
        if isinstance(self._hello, Acceptor) and not _is_same_user(transport):
            self.abort(WireError("the peer is another user of this machine"))
            return
        if self._hello is None:
            self._become_ready()
            return
        # A dialer has more time: it may wait in the backlog of a process that is still starting, on a busy machine.
        limit_s = HELLO_TIMEOUT_S if isinstance(self._hello, Acceptor) else DIAL_TIMEOUT_S
        self._hello_timer = self._loop.call_later(
            limit_s, self.abort, SilentPeerError(f"no complete hello within {limit_s:g} s")
        )
        if isinstance(self._hello, Dialer):
            self._transport.write(self._hello.first())

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._decoder.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            if self.ready:
                frames = self._decoder.received(nbytes)
            else:
                frames = self._receive_hello(bytes(self._decoder.buffer()[:nbytes]))
            if frames:
                self._user.stream_frames(self, frames)
        except WireError as error:
            self.abort(error)

    def _receive_hello(self, data: bytes) -> list[Frame]:
        rest = self._shake_hands(data)
        return self._decoder.feed(rest) if self.ready else []

    def _shake_hands(self, data: bytes) -> bytes:
        """Process hello frames one by one; return the bytes behind the last of them."""
        assert self._hello is not None
        assert self._transport is not None
        # Byte by byte, so that no byte behind the last hello is decoded before the peer is authenticated, and none
        # before it with the larger limits. A handshake is only a few hundred bytes.
        for position in range(len(data)):
            for frame in self._decoder.feed(data[position : position + 1]):
                answer = self._hello.receive(frame)
                if answer:
                    self._transport.write(answer)
                if self._hello.done:
                    self._decoder = FrameDecoder(max_payload=MAX_PAYLOAD)
                    self._become_ready()
                    return data[position + 1 :]
        return b""

    def _become_ready(self) -> None:
        if self._hello_timer is not None:
            self._hello_timer.cancel()
        self.ready = True
        self._user.stream_ready(self)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._hello_timer is not None:
            self._hello_timer.cancel()
        self.closed = True
        if self.among is not None:
            self.among.discard(self)
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
        if self._all_written is not None and not self._all_written.done():
            self._all_written.set_result(None)
        self._user.stream_lost(self, self._error or exc)

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if self._all_written is not None and not self._all_written.done():
            self._all_written.set_result(None)
        if self.on_writable is not None and not self.closed:
            self.on_writable()


def _is_same_user(transport: asyncio.BaseTransport) -> bool:
    """True if the other end of a Unix socket is this user or root, or if the system cannot tell."""
    peer = transport.get_extra_info("socket")
    if peer is None or peer.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return True  # the socket's folder is private; over TCP the handshake decides
    _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return uid in (os.getuid(), 0)


def new_nonce() -> bytes:
    return secrets.token_bytes(NONCE_SIZE)


async def dial(address: str, user: StreamUser, *, instance: str, role: str, identity: str, key: bytes) -> Stream:
    """Connect to a listener of ours and begin the handshake; ``user.stream_ready`` is called when it is done.

    Args:
        address: path of a Unix socket, or ``tcp:host:port``.

    Raises:
        OSError: no process listens there; with TLS also if a certificate is not accepted, or ours cannot be used.
    """
    keep_standard_descriptors()
    hello = Dialer(instance=instance, role=role, identity=identity, key=key, nonce=new_nonce())
    loop = asyncio.get_running_loop()
    place = parse_tcp(address)
    if place is None:
        _, stream = await loop.create_unix_connection(lambda: Stream(user, hello), address)
    else:
        connecting = loop.create_connection(lambda: Stream(user, hello), *place, ssl=dialer_context())
        _, stream = await asyncio.wait_for(connecting, HELLO_TIMEOUT_S)
    return stream


def listen_private(path: str) -> socket.socket:
    """A listening Unix socket that only this user may connect to."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # a later `chmod` would leave a moment in which others can connect
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    return listener


def listen_tcp(host: str) -> socket.socket:
    """A listening TCP socket on one address and any free port. Protected by the handshake only."""
    return socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG)


class Gate:
    """An accepting listener. Keep a reference: an asyncio server closes when it is garbage-collected.

    Args:
        server: listens.
        streams: those that it has accepted, while they are open.
    """

    def __init__(self, server: asyncio.Server, streams: set[Stream]) -> None:
        self._server = server
        self._streams = streams

    def close(self) -> None:
        """Accept no more connections."""
        self._server.close()

    async def aclose(self) -> None:
        """Accept no more connections, and close the accepted ones once all sent frames have left."""
        self.close()
        await close_streams(list(self._streams))


async def accept(
    listener: socket.socket,
    user: StreamUser,
    *,
    instance: str,
    key_for: Callable[[str, str], bytes | None],
    kind: type[Stream] = Stream,
) -> Gate:
    """Accept connections on a listening socket.

    Args:
        user: owner of the streams.
        key_for: returns the key that a dialer of a role and identity must prove to hold; None refuses it.
        kind: class of the streams.

    Raises:
        OSError: the cluster uses TLS, and its certificates cannot be used.
    """
    # No weak references: mypyc counts those to an instance of a class like Stream as owned by it, and frees them.
    streams: set[Stream] = set()
    make = acceptor(user, instance=instance, key_for=key_for, kind=kind)

    def factory() -> Stream:
        stream = make()
        stream.among = streams
        return stream

    loop = asyncio.get_running_loop()
    if listener.family == socket.AF_UNIX:
        return Gate(await loop.create_unix_server(factory, sock=listener), streams)
    context = acceptor_context()
    limit_s = HELLO_TIMEOUT_S if context is not None else None
    server = await loop.create_server(factory, sock=listener, ssl=context, ssl_handshake_timeout=limit_s)
    return Gate(server, streams)


async def close_streams(streams: Sequence[Stream], timeout_s: float = CLOSE_TIMEOUT_S) -> None:
    """Close streams and return when they are gone, before the loop is closed; aborts those whose peer does not read."""
    for stream in streams:
        stream.close()
    deadline = asyncio.get_running_loop().time() + timeout_s
    for stream in streams:
        await stream.gone(deadline)


def acceptor(
    user: StreamUser, *, instance: str, key_for: Callable[[str, str], bytes | None], kind: type[Stream] = Stream
) -> Callable[[], Stream]:
    """A protocol factory for listeners."""
    return lambda: kind(user, Acceptor(instance=instance, key_for=key_for, nonce=new_nonce()))


def set_tcp_options(transport: asyncio.BaseTransport) -> None:
    """Have the kernel close TCP connections with a silent peer (a cut cable), and send small frames at once."""
    peer = transport.get_extra_info("socket")
    if peer is None or peer.family == socket.AF_UNIX:
        return
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_NODELAY", 1),
        ("TCP_KEEPIDLE", KEEPALIVE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_PAUSE_S),
        ("TCP_KEEPCNT", KEEPALIVE_TRIES),
        ("TCP_USER_TIMEOUT", SILENT_PEER_S * 1000),
    ):
        if hasattr(socket, name):  # Linux has all of them
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
