"""One WebSocket at the edge: frames outside, the messages of an ASGI conversation inside.

    bytes ──► frames ──► messages ──► receive      the app of the ingress, in a task
    bytes ◄── frames ◄── messages ◄── send

The frames are those of the package `websockets`, without I/O and without extensions. Nothing that comes is looked at
before the handshake was accepted; a handshake that is denied has an answer, behind which the connection is closed.
Reading stops while the app has enough unread, or the client takes nothing of what was written.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any, Protocol

from websockets.frames import Opcode
from websockets.protocol import SERVER, State
from websockets.protocol import Protocol as Frames

from pointsman.ingress.asgi import DENIAL, DISCONNECT_HOOK, VERSION, ASGIApp, accepting, key_of, socket_part
from pointsman.ingress.codec import Headers, header_lines
from pointsman.ingress.cycle import Cycle
from pointsman.ingress.service import Beginnings

log = logging.getLogger("pointsman.ingress")

PING_S = 20.0
"""How often a ping is sent, and how soon its pong must come."""
CLOSE_S = 10.0
"""How long a client may take to answer a close, and to read what was written before."""
QUIET_S = 0.25
"""How long a client must send nothing until a socket that was failed is closed."""
UNREAD = 256 * 1024
"""Bytes of messages that the app has not asked for; with more of them no more is read."""
EARLY = 64 * 1024
"""Bytes that a client may send before its handshake was accepted."""
MAX_PIECES = 100_000
"""Most frames of one message."""
NO_CODE, ABNORMAL, BAD_TEXT, TOO_BIG, BROKEN, RESTARTS = 1005, 1006, 1007, 1009, 1011, 1012


class Connection(Protocol):
    """What is needed of one."""

    transport: asyncio.Transport
    beginnings: Beginnings
    lines: bytes
    keep_alive: bool
    write_paused: bool
    loop: asyncio.AbstractEventLoop

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    async def drain(self) -> None: ...

    def answered(self, *, refused: bool) -> None: ...

    def close(self) -> None: ...


class ClientGone(OSError):
    """Raised where an app sends to a client that is gone; frameworks know an OSError for that."""


class SocketCycle:
    """See the module.

    Args:
        connection: on which the handshake came.
        scope: of the handshake, as of a request.
        max_message: most bytes of a message.
    """

    def __init__(self, connection: Connection, scope: dict[str, Any], *, max_message: int) -> None:
        self._connection = connection
        self._loop = connection.loop
        self._key = key_of(scope["headers"])
        self._frames = Frames(SERVER, state=State.OPEN, max_size=max_message, logger=_QUIET)
        self._early = b""
        self._messages: deque[tuple[dict[str, Any], int]] = deque([({"type": "websocket.connect"}, 0)])
        self._unread = 0
        self._pieces: list[bytes] = []
        self._is_text = False
        self._waiter: asyncio.Future[None] | None = None
        self._denial: Cycle | None = None
        self._accepted = self._over = self._paused = self._failed = False
        self._dropped = 0
        self._ping: bytes | None = None
        self._held_up = False  # by the app since the last ping, whose pong may stand behind what it has not read
        self._pings = 0
        self._timer: asyncio.TimerHandle | None = None
        self._ending: asyncio.TimerHandle | None = None
        self.scope = {**scope, **socket_part(scope)}

    # --- the connection -----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Something has come."""
        if not self._accepted:
            self._early += data
            if len(self._early) > EARLY:
                self._connection.close()
            else:
                self._connection.pause_reading()
            return
        if self._frames.eof_sent:
            self._dropped += len(data)  # the socket is closed; what still comes is of no interest
            return
        self._frames.receive_data(data)
        for frame in self._frames.events_received():
            self._received(frame)
        if self._frames.parser_exc is not None:
            self._closed_by_us()
        else:
            self._flush()

    def client_left(self) -> None:
        """The connection is gone."""
        hook = self.scope["state"].get(DISCONNECT_HOOK)
        if not self._accepted and hook is not None:
            hook()
        self._disconnected(ABNORMAL)
        for timer in (self._timer, self._ending):
            if timer is not None:
                timer.cancel()
        self._wake()

    def writable(self) -> None:
        """The client reads again."""
        self._may_read()

    def shutdown(self) -> None:
        """The server is to end."""
        if self._accepted and not self._over:
            self._close(RESTARTS, "the server is going away")
            self._disconnected(RESTARTS)

    async def run(self, app: ASGIApp) -> None:
        """Run the app. Never raises: what an app raises denies the handshake, or closes the socket."""
        try:
            if self._key is None:
                await self._refuse()
                return
            await app(self.scope, self.receive, self.send)
        except BaseException as error:
            if not isinstance(error, (asyncio.CancelledError, ClientGone)):
                log.error("the ASGI app raised an exception", exc_info=error)
            await self._fail()
        else:
            if not self._over:
                await self._fail()

    # --- the interface of ASGI ----------------------------------------------------------------------------------------

    async def receive(self) -> dict[str, Any]:
        while not self._messages:
            self._waiter = self._loop.create_future()
            await self._waiter
        message, size = self._messages.popleft()
        if message["type"] == "websocket.disconnect":
            self._messages.append((message, 0))  # whoever asks again hears it again
        self._unread -= size
        self._may_read()
        return message

    async def send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if self._denial is not None:
            await self._denial.send({**message, "type": kind.removeprefix("websocket.")})
            self._over = self._over or not message.get("more_body", kind.endswith(".start"))
        elif not self._accepted:
            await self._answer(kind, message)
        elif kind == "websocket.send":
            await self._send(message)
        elif kind == "websocket.close":
            self._close(message.get("code", 1000), message.get("reason") or "")
        else:
            raise RuntimeError(f"the app sent {kind!r} to a WebSocket that it has accepted")

    async def _answer(self, kind: str, message: dict[str, Any]) -> None:
        if self._over or self._connection.transport.is_closing():
            raise ClientGone("the client has gone before its handshake was answered")
        if kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.close":
            await self._deny(403)
        elif kind == f"{DENIAL}.start":
            self._connection.keep_alive = False
            self._denial = Cycle(self._connection, self.scope, expects_continue=False)
            await self._denial.send({**message, "type": "http.response.start"})
        else:
            raise RuntimeError(f"the app sent {kind!r} to a WebSocket that it has not accepted")

    def _accept(self, message: dict[str, Any]) -> None:
        assert self._key is not None
        headers = accepting(self._key)
        if message.get("subprotocol"):
            headers.append((b"sec-websocket-protocol", message["subprotocol"].encode()))
        lines = header_lines([*headers, *[(name.lower(), value) for name, value in message.get("headers", ())]])
        if lines is None:
            raise RuntimeError("the app sent a header with a name or a value that HTTP does not allow")
        self._accepted = True
        self._connection.transport.write(self._connection.beginnings.of(101) + lines + b"\r\n")
        self._timer = self._loop.call_later(PING_S, self._tick)
        early, self._early = self._early, b""
        self._connection.resume_reading()
        if early:
            self.data_received(early)

    async def _send(self, message: dict[str, Any]) -> None:
        if self._connection.write_paused and not self._over:
            await self._connection.drain()
        if self._over or self._frames.state is not State.OPEN:
            raise ClientGone("the client has closed the WebSocket, or is gone")
        text = message.get("text")
        if text is not None:
            self._frames.send_text(text.encode())
        else:
            self._frames.send_binary(message["bytes"])
        self._flush()

    async def _refuse(self) -> None:
        """The handshake itself is wrong."""
        versions = [value for name, value in self.scope["headers"] if name == b"sec-websocket-version"]
        if versions != [VERSION]:
            await self._deny(426, [(b"sec-websocket-version", VERSION), (b"upgrade", b"websocket")])
        else:
            await self._deny(400)

    async def _deny(self, status: int, headers: Headers = []) -> None:  # noqa: B006 - never changed
        self._connection.keep_alive = False
        self._over = True
        denial = Cycle(self._connection, self.scope, expects_continue=False)
        length = (b"content-length", b"0")
        await denial.send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
        await denial.send({"type": "http.response.body"})

    async def _fail(self) -> None:
        """The app has ended without an end of the socket."""
        if self._accepted:
            self._close(BROKEN)
        elif self._denial is not None or self._connection.transport.is_closing():
            self._connection.close()
        elif not self._over:
            await self._deny(500)

    # --- frames -------------------------------------------------------------------------------------------------------

    def _received(self, frame: Any) -> None:
        if frame.opcode is Opcode.PONG:
            if self._ping is not None and bytes(frame.data) == self._ping:
                self._ping = None
        elif frame.opcode is Opcode.CLOSE:
            close = self._frames.close_rcvd
            assert close is not None
            self._disconnected(close.code, close.reason)
            self._flush()  # the answer to it, behind which the connection is closed
            self._end_soon()
        elif frame.opcode is not Opcode.PING:
            self._message_part(frame)

    def _message_part(self, frame: Any) -> None:
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        if frame.data:
            self._pieces.append(bytes(frame.data))
        if len(self._pieces) > MAX_PIECES:
            self._frames.fail(TOO_BIG, "a message of too many frames")
            self._closed_by_us()
        if not frame.fin or self._over:
            return
        pieces, self._pieces = self._pieces, []
        whole = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        try:
            message = {"text": whole.decode()} if self._is_text else {"bytes": whole}
        except UnicodeDecodeError:
            self._frames.fail(BAD_TEXT, "text that is not UTF-8")
            self._closed_by_us()
            return
        self._messages.append(({"type": "websocket.receive", **message}, len(whole)))
        self._unread += len(whole)
        self._wake()

    def _flush(self) -> None:
        """Write what is to be sent. A client that sends pings and reads no pongs is read no further."""
        transport, ends = self._connection.transport, False
        for data in self._frames.data_to_send():
            if data and not transport.is_closing():
                transport.write(data)
            ends = ends or not data
        if self._failed:
            return
        if ends:
            self._end_soon()
        if self._connection.write_paused or self._unread > UNREAD:
            self._held_up = self._held_up or self._unread > UNREAD
            self._paused = True
            self._connection.pause_reading()

    def _may_read(self) -> None:
        if self._paused and self._unread <= UNREAD and not self._connection.write_paused:
            self._paused = False
            self._connection.resume_reading()

    def _tick(self) -> None:
        """Time for a ping. While nothing is read for the app's sake the pong cannot be seen, and is waited for."""
        self._timer = self._loop.call_later(PING_S, self._tick)
        if self._frames.state is not State.OPEN or (self._paused and not self._connection.write_paused):
            return
        held_up, self._held_up = self._held_up, False
        if self._ping is not None and not held_up:
            self._frames.fail(BROKEN, "no pong came in time")
            self._flush()
            self._disconnected(ABNORMAL)
            self._connection.transport.abort()
            return
        self._pings += 1
        self._ping = b"%d" % self._pings
        self._frames.send_ping(self._ping)
        self._flush()

    # --- the end ------------------------------------------------------------------------------------------------------

    def _close(self, code: int, reason: str = "") -> None:
        """The app closes, or it is closed for it. The client has a while to answer."""
        self._over = True
        if self._frames.state is State.OPEN:
            sendable = 1000 <= code < 5000 and code not in (NO_CODE, ABNORMAL, 1004, 1015)
            self._frames.send_close(code if sendable else 1000, _short(reason) if sendable else "")
            self._flush()
            self._ending = self._loop.call_later(CLOSE_S, self._connection.transport.abort)

    def _closed_by_us(self) -> None:
        """What has come is against the rules, or over a limit: the socket was failed."""
        if self._failed:
            return
        self._failed = True
        self._flush()
        sent = self._frames.close_sent
        self._disconnected(sent.code if sent is not None else ABNORMAL, sent.reason if sent is not None else "")
        # What the client sends meanwhile is read and dropped: a connection that is closed with something unread is
        # reset, and then the client may never see why.
        transport = self._connection.transport
        if transport.can_write_eof() and not transport.is_closing():
            transport.write_eof()
        self._paused = False
        self._connection.resume_reading()
        self._loop.call_later(QUIET_S, self._end_when_quiet, self._dropped)
        if self._ending is None:
            self._ending = self._loop.call_later(CLOSE_S, transport.abort)

    def _end_when_quiet(self, dropped: int) -> None:
        if self._dropped == dropped:
            self._end_soon()
        elif not self._connection.transport.is_closing():
            self._loop.call_later(QUIET_S, self._end_when_quiet, self._dropped)

    def _end_soon(self) -> None:
        self._connection.close()
        if self._ending is None:
            self._ending = self._loop.call_later(CLOSE_S, self._connection.transport.abort)

    def _disconnected(self, code: int, reason: str = "") -> None:
        """Tell the app, once, behind what it has not read."""
        self._over = True
        if not self._messages or self._messages[-1][0]["type"] != "websocket.disconnect":
            self._messages.append(({"type": "websocket.disconnect", "code": code, "reason": reason}, 0))
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


_QUIET = logging.getLogger("pointsman.ingress.frames")
_QUIET.setLevel(logging.CRITICAL)  # what clients do wrong is no news


def _short(reason: str) -> str:
    """A reason that fits a close frame: at most 123 bytes."""
    return reason.encode()[:123].decode("utf-8", "ignore")
