"""One HTTP connection: what comes is read, one request at a time is given to the app, and its answer is written.

bytes ──► reading ──► head ──► small? ──► the app itself, and an answer in one piece     (the direct way)
                                 ├──────► a cycle, which runs an ASGI app in a task      (every other request)
                                 └──────► a WebSocket, which has the connection from then on

:mod:`ingress.states` says what a connection may be doing. This module moves it from state to state, and has its clocks:

    head         from the first byte of a head, or from the beginning of the connection, to the end of that head
    body         PATIENCE_S for a small one, REMAINDER_S for the rest behind an answer; on its way to an app that counts
    idle         from an answer to the next request
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, cast

import httptools

from pointsman.ingress.asgi import DISCONNECT_HOOK, ASGIApp, whole_scope
from pointsman.ingress.codec import Where, address_of
from pointsman.ingress.cycle import Cycle
from pointsman.ingress.exchange import Exchange
from pointsman.ingress.framing import BadFraming
from pointsman.ingress.reading import Reader
from pointsman.ingress.sending import DirectAnswer
from pointsman.ingress.service import STATUS_LINES, Service, has_unread
from pointsman.ingress.sockets import SocketCycle
from pointsman.ingress.states import APP, BODY, DIRECT, HEAD, IDLE, OVER, SOCKET, WAITS
from pointsman.lock.meters import Meter
from pointsman.policy.routes import RESERVED_PREFIX

MAX_DIRECT_BODY = 32 * 1024
HIGH_WATER = 64 * 1024
"""Bytes of a body that an app has not asked for; with more of them no more is read."""
PATIENCE_S = 0.005
"""How long the body of a request that could go the direct way is waited for behind its head."""
REMAINDER_S = 10.0
"""How long a client may go on sending a body after its answer, which has not waited for it."""
LINGER_S = 0.3
"""How long an idle connection is kept when the server is to end: a request may be on its way."""
_RESERVED = RESERVED_PREFIX.encode()


class HTTPProtocol(asyncio.Protocol):
    """See the module.

    Args:
        service: what this connection shares with others.

    Attributes:
        state: what the server does, by :mod:`ingress.states`.
        direct: the innermost app; None where every request goes through ASGI.
        beginnings: of answers.
        keep_alive: whether the connection goes on behind the answer to the running request.
        lines: for the head of that answer, beside its own.
        meter: which counts the running request for its API key.
        write_paused: whether the client reads too slowly for more to be written.
    """

    __slots__ = (
        "_answer", "_body_timer", "_cycle", "_ending", "_entrance", "_head_timer", "_held", "_held_at", "_idle_since",
        "_idle_timer", "_read_paused", "_reader", "_scope", "_service", "_socket", "_writable", "beginnings", "direct",
        "keep_alive", "lines", "loop", "meter", "state", "transport", "where", "write_paused",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, service: Service) -> None:
        self._service = service
        self.direct = service.direct
        self._entrance = service.entrance
        self.beginnings = service.beginnings
        self.loop = asyncio.get_running_loop()
        self.state = IDLE
        self.keep_alive = True
        self.lines = b""
        self.where: Where | None = None  # how the client has connected, once an app was told
        self.meter: Meter | None = None
        self._scope: dict[str, Any] = {}  # of the request that waits for its body
        self._answer: DirectAnswer | None = None
        self._cycle: Cycle | None = None
        self._socket: SocketCycle | None = None
        self._held, self._held_at = b"", 0  # what came while a request ran, and from where on nobody has looked at it
        self._ending = False
        self._read_paused = self.write_paused = False
        self._writable = asyncio.Event()
        self._idle_since = 0.0
        self._head_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None

    # --- reading ------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._reader = Reader(address_of(self.transport, "peername"))
        self._service.connections.add(self)
        self._head_timer = self.loop.call_later(self._service.head_timeout_s, self._head_is_late)

    def data_received(self, data: bytes) -> None:
        if self._held:
            self._hold(data, 0)
        else:
            self._read(data, 0)

    def _read(self, data: bytes, position: int) -> None:
        """Read on, until there is nothing left or a request has to be answered first."""
        reader, size = self._reader, len(data)
        try:
            while position < size:
                if reader.state == BODY:
                    position = reader.read(data, position)
                    self._body_goes_on()
                elif self.state == IDLE:
                    position = reader.read(data, position)
                    if reader.scope is not None:
                        self._begin(reader.scope)
                elif self._socket is not None:
                    self._socket.data_received(data[position:])
                    return
                else:
                    self._hold(data, position)
                    return
        except (httptools.HttpParserError, BadFraming) as error:
            self._refuse(error)
            return
        if reader.head_size and self._head_timer is None:
            self._head_timer = self.loop.call_later(self._service.head_timeout_s, self._head_is_late)
        if self.state == WAITS and self._body_timer is None:
            self._body_timer = self.loop.call_later(PATIENCE_S, self._body_is_slow)

    def _hold(self, data: bytes, position: int) -> None:
        """Keep what has come while a request runs, and read no more."""
        if self.state == OVER:
            return
        if self._held:
            self._held, self._held_at = self._held[self._held_at :] + data, 0
        elif len(data) - position <= 2 and not data[position:].strip(b"\r\n"):
            return  # some clients end a body with a line end; it is no request, and who sends it may still leave
        else:
            self._held, self._held_at = data, position
        self.pause_reading()

    def _read_held(self) -> None:
        data, position = self._held, self._held_at
        self._held, self._held_at = b"", 0
        if self.state == OVER or self.transport.is_closing():
            return
        self.resume_reading()
        self._read(data, position)
        if self._ending and self.state == IDLE:
            self.close()  # what was held was no whole head

    def pause_reading(self) -> None:
        """Read no further for now."""
        if not self._read_paused and not self.transport.is_closing():
            self._read_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on after :meth:`pause_reading`."""
        if self._read_paused and not self.transport.is_closing():
            self._read_paused = False
            self.transport.resume_reading()

    # --- requests -----------------------------------------------------------------------------------------------------

    def _begin(self, scope: dict[str, Any]) -> None:
        """A head has ended: which way does its request go?"""
        reader = self._reader
        reader.scope = None
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self.keep_alive = reader.keep_alive and not self._ending
        if self._entrance is not None and (refusal := self._entrance.refuses(self, scope)) is not None:
            self._turn_away(scope, refusal)
            return
        if (
            self.direct is None
            or reader.chunked
            or reader.expects_continue
            or reader.is_handshake
            or reader.length > MAX_DIRECT_BODY  # the app must look at the head, and ask for the body or refuse
            or scope["raw_path"].startswith(_RESERVED)
        ):
            self._run_app(scope)
        elif reader.state == HEAD:
            self._go_direct(scope, reader.take_body())
        else:
            self.state = WAITS
            self._scope = scope

    def _turn_away(self, scope: dict[str, Any], refusal: ASGIApp) -> None:
        reader = self._reader
        large = reader.chunked or reader.expects_continue or reader.length > MAX_DIRECT_BODY
        if reader.is_handshake or (reader.state == BODY and large):
            self.keep_alive = False  # nothing large is received of strangers; behind a handshake comes no request
        self._run(self._new_cycle(whole_scope(scope, self.transport)), refusal)

    def _go_direct(self, scope: dict[str, Any], body: bytes) -> None:
        assert self.direct is not None
        self.state = DIRECT
        self._answer = answer = DirectAnswer(self, scope)
        self.direct.begin(scope, body, answer)

    def _run_app(self, scope: dict[str, Any]) -> None:
        whole = whole_scope(scope, self.transport)
        if self._reader.is_handshake:
            self.state = SOCKET
            self._socket = SocketCycle(self, whole, max_message=self._service.max_message)
        self._run(self._socket or self._new_cycle(whole), self._service.app)

    def _new_cycle(self, scope: dict[str, Any]) -> Cycle:
        self.state = APP
        cycle = self._cycle = Cycle(self, scope, expects_continue=(reader := self._reader).expects_continue)
        if reader.pieces or reader.state == HEAD:
            cycle.feed(reader.take_body(), more=reader.state == BODY)
        return cycle

    def _run(self, cycle: Cycle | SocketCycle, app: ASGIApp) -> None:
        self._service.run(cycle.run(app))

    def run_answer(
        self, scope: dict[str, Any], exchange: Exchange, answer: Callable[[Any], Coroutine[Any, Any, None]]
    ) -> None:
        """Finish a request that went the direct way by a task: its answer cannot leave in one piece.

        Args:
            answer: given a ``send``, sends it.
        """
        assert self.direct is not None
        self._answer = None
        scope["state"] = {DISCONNECT_HOOK: partial(self.direct.client_left, exchange)}

        async def app(scope: object, receive: object, send: object) -> None:
            await answer(send)

        self._run(self._new_cycle(scope), app)

    def _body_goes_on(self) -> None:
        """More of a body has come, perhaps its end."""
        reader = self._reader
        whole = reader.state == HEAD
        if whole and self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None
        if self.state == WAITS:
            if whole:
                self._go_direct(self._scope, reader.take_body())
        elif self._cycle is None:
            reader.pieces.clear()  # its answer has left
            if whole:
                self._begin_to_idle()
        elif reader.pieces or whole:
            self._cycle.feed(reader.take_body(), more=not whole)
            if not whole and len(self._cycle.body) > HIGH_WATER:  # behind its end, only reading tells that it left
                self.pause_reading()

    # --- answers ------------------------------------------------------------------------------------------------------

    def answered(self, *, refused: bool) -> None:
        """The answer to the running request has been written, all of it.

        Args:
            refused: whether it was refused for want of room.
        """
        self._answer = self._cycle = None
        self._end_meter()
        if not self.keep_alive:
            self.close()
        elif self.state != OVER:
            self.state = IDLE
            if self._held:  # by the loop: a thousand of them must not be a thousand calls deep
                self.loop.call_soon(self._read_held)
            else:
                self._begin_to_idle()
                if self._read_paused:
                    self.resume_reading()
            if self._reader.state == BODY:
                self._body_timer = self.loop.call_later(REMAINDER_S, self._rest_is_slow)
        if refused:
            self._service.pauses.refused(self)

    def _end_meter(self) -> None:
        if self.meter is not None:
            self.meter.end()
            self.meter = None

    def close(self) -> None:
        """Nothing more is read or answered. What was written still leaves."""
        self.state = OVER
        if not (self.write_paused and self._service.secure):  # else later: TLS gives what is unsent 30 s, and no more
            self.transport.close()

    def _refuse(self, error: Exception) -> None:
        """What has come is no request that we serve: say so, and close. Nothing that comes after it is looked at."""
        status = self._reader.status
        self._service.warn_of("" if isinstance(error, httptools.HttpParserCallbackError) else f": {error}", status)
        in_body = self._reader.state == BODY
        if in_body and (self.state == IDLE or (self._cycle is not None and self._cycle.response_started)):
            self.close()  # a second answer to it would be taken for that of another one
        else:
            self._answer_and_close(status)

    def _answer_and_close(self, status: int) -> None:
        if not self.transport.is_closing():
            self.transport.write(STATUS_LINES[status] + b"content-length: 0\r\nconnection: close\r\n\r\n")
        self.close()

    def pause_writing(self) -> None:
        self.write_paused = True
        self._writable.clear()

    def resume_writing(self) -> None:
        self.write_paused = False
        self._writable.set()
        if self._socket is not None:
            self._socket.writable()
        if self.state == OVER:
            self.transport.close()

    async def drain(self) -> None:
        """Wait until more may be written; not for ever, where the client leaves."""
        await self._writable.wait()

    # --- clocks -------------------------------------------------------------------------------------------------------

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._reader.head_size:
            self._answer_and_close(408)
        else:
            self.close()  # a new connection on which nothing was said

    def _body_is_slow(self) -> None:
        """The body has not come with its head: the app looks at the head now, and has deadlines for the rest."""
        self._body_timer = None
        if self.state == WAITS:
            self._run_app(self._scope)

    def _rest_is_slow(self) -> None:
        self._body_timer = None
        self.close()

    def _begin_to_idle(self) -> None:
        # One timer, which moves on when it is due, rather than one for each request.
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self._service.keep_alive_s, self._may_be_idle)

    def _may_be_idle(self) -> None:
        self._idle_timer = None
        if self.state != IDLE or self._reader.state == BODY or self._reader.head_size or self._held:
            return  # the end of what is there begins it anew
        due = self._idle_since + self._service.keep_alive_s
        if self.loop.time() < due:
            self._idle_timer = self.loop.call_at(due, self._may_be_idle)
        else:
            self.close()

    # --- the end ------------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """The server is to end: answer what is there, and close."""
        self._ending = True
        if self.state == IDLE:
            self.loop.call_later(self._service.linger_s or LINGER_S, self._close_when_idle)
        elif self._socket is not None:
            self._socket.shutdown()
        elif not self._held:
            self.keep_alive = False

    def _close_when_idle(self) -> None:
        if self.state != IDLE or self._reader.head_size or self._held:
            return  # what has come meanwhile is answered, and its answer closes
        if not has_unread(self.transport):
            self.close()
            if self._service.secure:  # a client that does not look does not say goodbye, for which TLS would wait
                self.loop.call_later(LINGER_S, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = OVER
        self._held = b""
        self._service.connections.discard(self)
        self._end_meter()
        for timer in (self._head_timer, self._body_timer, self._idle_timer):
            if timer is not None:
                timer.cancel()
        self._writable.set()
        self._reader.close()
        left = (self._answer, self._cycle, self._socket)
        self._answer = self._cycle = self._socket = None
        for one in left:
            if one is not None:
                one.client_left()
