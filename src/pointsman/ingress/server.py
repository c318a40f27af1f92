"""The HTTP server of an ingress: uvicorn on the listening socket that the supervisor owns.

The only module that knows uvicorn. It adds what uvicorn has no setting for: limits on the request's head, a deadline
for its receipt, and word to the app when a client has gone.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import logging
import socket
import termios
from collections.abc import Coroutine
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from pointsman.exceptions import UserCodeError
from pointsman.ingress.app import DISCONNECT_HOOK, REFUSED, ASGIApp, BrokenAnswer, IngressApp
from pointsman.ingress.exchange import Exchange
from pointsman.ingress.rest import Rest
from pointsman.policy.routes import RESERVED_PREFIX
from pointsman.routing.call import Reply

MAX_REQUEST_LINE = 8190
MAX_HEADER_FIELD = 8190
MAX_HEADERS = 100
MAX_HEAD = 32 * 1024
MAX_DIRECT_BODY = 32 * 1024
"""Below uvicorn's high-water mark, over which it stops reading until the app asks for more."""
HEAD_TIMEOUT_S = 10.0
PATIENCE_S = 0.005
"""How long the body of a request that could go the direct way is waited for behind its head."""
REST_S = 10.0
"""How long a client may go on sending a body after its answer, which has not waited for it."""
KEEP_ALIVE_S = 60
LINGER_S = 0.3
"""How long an idle connection is kept when the server is to end: a request may be on its way."""

_REASONS = {408: b"Request Timeout", 414: b"URI Too Long", 431: b"Request Header Fields Too Large"}


def _is_news(record: logging.LogRecord) -> bool:
    # The app cuts a connection by raising, and has said why.
    return not (record.exc_info and record.exc_info[0] is BrokenAnswer)


logging.getLogger("uvicorn.error").addFilter(_is_news)


class HeadTooLarge(Exception):
    """Raised inside the parser's callbacks to stop it."""

    def __init__(self, status: int) -> None:
        self.status = status


class LimitedProtocol(HttpToolsProtocol):
    """One HTTP connection with limits on the request's head."""

    _head_bytes = 0
    _head_fields = 0
    _in_head = False
    _ending = False
    _head_timer: asyncio.TimerHandle | None = None
    _too_large: HeadTooLarge | None = None
    _waits_for_body: RequestResponseCycle | None = None
    _body_timer: asyncio.TimerHandle | None = None
    _running: RequestResponseCycle | None = None
    direct: Any = None
    rest: Rest | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_is_late)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head and self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_is_late)
        if self._waits_for_body is not None and self._body_timer is None:
            self._body_timer = self.loop.call_later(PATIENCE_S, self._body_is_slow)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = self._head_fields = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_REQUEST_LINE - len("OPTIONS  HTTP/1.1"):
            self._stop(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        size = len(name) + len(value)
        self._head_bytes += size
        self._head_fields += 1
        if size > MAX_HEADER_FIELD or self._head_fields > MAX_HEADERS or self._head_bytes > MAX_HEAD:
            self._stop(431)

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Overrides uvicorn's start of a request: the direct way where it can be taken, a task otherwise."""
        self._running = cycle
        if self._ending:
            cycle.keep_alive = False
        if self.direct is None or not self._may_go_direct(cycle):
            super()._start_asgi_task(cycle, app)
        elif cycle.more_body and self._expects_body(cycle):
            self._waits_for_body = cycle
        elif cycle.more_body:
            self._begin(cycle)
        else:
            # Pipelined, and started by the end of the one before it. If this one is answered at once it starts the next
            # in turn, and a thousand bad requests in a row would be a thousand calls deep.
            self.loop.call_soon(self._begin, cycle)

    def _begin(self, cycle: RequestResponseCycle) -> None:
        if not cycle.disconnected:
            self.direct.begin(cycle.scope, bytes(cycle.body), DirectAnswer(self, cycle))

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._stop_body_timer()
        cycle = self._waits_for_body
        if cycle is not None and cycle is self.cycle:
            self._waits_for_body = None
            self._begin(cycle)

    def _body_is_slow(self) -> None:
        """The body has not come with its head: the app looks at the head now, and has deadlines for the rest."""
        self._body_timer = None
        cycle, self._waits_for_body = self._waits_for_body, None
        if cycle is not None and not cycle.disconnected:
            super()._start_asgi_task(cycle, self.app)

    def _rest_is_slow(self) -> None:
        self._body_timer = None
        self.transport.close()

    def _stop_body_timer(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    @staticmethod
    def _may_go_direct(cycle: RequestResponseCycle) -> bool:
        """Small bodies of known length only: with others the app must ask for more, or refuse."""
        if cycle.waiting_for_100_continue or cycle.scope["raw_path"].startswith(RESERVED_PREFIX.encode()):
            return False
        for name, value in cycle.scope["headers"]:
            if name == b"transfer-encoding" or (name == b"content-length" and int(value) > MAX_DIRECT_BODY):
                return False
        return True

    @staticmethod
    def _expects_body(cycle: RequestResponseCycle) -> bool:
        return any(name == b"content-length" and value != b"0" for name, value in cycle.scope["headers"])

    def on_response_complete(self) -> None:
        cycle = self._running
        super().on_response_complete()  # may begin the next one
        if self.rest is not None and cycle is not None and REFUSED in cycle.scope["state"]:
            self.rest.refused(self)
        if self.transport.is_closing() or self._body_timer is not None:
            return
        if self._waits_for_body is not None:  # the next one, whose body has not come with its head
            self._body_timer = self.loop.call_later(PATIENCE_S, self._body_is_slow)
        elif cycle is not None and cycle.more_body and cycle is self.cycle:
            self._body_timer = self.loop.call_later(REST_S, self._rest_is_slow)

    def pause_reading(self) -> None:
        """Read no further request for now."""
        if not self.transport.is_closing():
            self.flow.pause_reading()

    def resume_reading(self) -> None:
        """Read on after :meth:`pause_reading`."""
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def run_task(self, coroutine: Coroutine[Any, Any, None], cycle: RequestResponseCycle) -> None:
        """Finish a request that began directly by a task, as uvicorn would run an app."""
        if cycle.disconnected:
            coroutine.close()
            return

        async def app(scope: object, receive: object, send: object) -> None:
            await coroutine

        super()._start_asgi_task(cycle, app)

    def shutdown(self) -> None:
        """Overrides uvicorn's, which would cut a request that has arrived on an idle connection and was not read."""
        self._ending = True
        if not self._is_idle():
            super().shutdown()  # closes after the answer
        else:
            self.loop.call_later(LINGER_S, self._close_when_idle)

    def _is_idle(self) -> bool:
        return self._running is None or bool(self._running.response_complete)

    def _close_when_idle(self) -> None:
        if self.transport.is_closing() or self._in_head or not self._is_idle():
            return  # what has come meanwhile is answered, and its answer closes
        fd = self.transport.get_extra_info("socket").fileno()
        unread = array.array("i", [0])
        fcntl.ioctl(fd, termios.FIONREAD, unread)
        if not unread[0]:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._stop_body_timer()
        self._waits_for_body = None
        cycle = self._running  # with pipelining, uvicorn's own is the last one parsed, which has not begun
        self.pipeline.clear()
        super().connection_lost(exc)
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            hook = cycle.scope.get("state", {}).get(DISCONNECT_HOOK)
            if hook is not None:
                hook()

    def send_400_response(self, msg: str) -> None:
        if self._too_large is not None:
            self._answer_and_close(self._too_large.status)
        else:
            super().send_400_response(msg)

    def _stop(self, status: int) -> None:
        self._too_large = HeadTooLarge(status)
        raise self._too_large

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._running is not None and not self._running.response_complete:
            # A pipelined head that is late because we have stopped reading: not the client's doing.
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_is_late)
        elif self._in_head:
            self._answer_and_close(408)
        elif self.cycle is None:
            self.transport.close()

    def _answer_and_close(self, status: int) -> None:
        if not self.transport.is_closing():
            head = b"HTTP/1.1 %d %s\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % (
                status,
                _REASONS[status],
            )
            self.transport.write(head)
            self.transport.close()


class DirectAnswer:
    """Stands in for the future of a call and writes its answer in one piece, without a task or ASGI messages.

    Args:
        protocol: the connection.
        cycle: uvicorn's record of the request; kept up to date, so that keep-alive, pipelining and shutdown work as
            for any other request.
    """

    __slots__ = ("_cycle", "_done", "_protocol", "exchange")

    def __init__(self, protocol: LimitedProtocol, cycle: RequestResponseCycle) -> None:
        self._protocol = protocol
        self._cycle = cycle
        self._done = False
        self.exchange: Exchange

    def done(self) -> bool:
        return self._done

    def cancel(self) -> None:
        """The client has gone: there is nobody to answer."""
        self._done = True

    def set_result(self, reply: Reply) -> None:
        self._done = True
        self._answer(reply)

    def set_exception(self, error: BaseException) -> None:
        self._done = True
        self._answer(self._protocol.direct.reply_to(error, self._cycle.scope, self.exchange))

    def _answer(self, reply: Reply) -> None:
        protocol, cycle, exchange = self._protocol, self._cycle, self.exchange
        if protocol.transport.is_closing():
            if reply.stream is not None:
                reply.stream.close()
            exchange.client_left()
            return
        if reply.stream is not None or cycle.flow.write_paused:
            protocol.run_task(protocol.direct.answer(reply, cycle.scope, cycle.send, exchange), cycle)
            return
        head = b"".join([b"%s: %s\r\n" % header for header in reply.headers])
        lines = len(reply.headers)
        if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head:
            # A replica is not trusted to have checked its answer.
            error = UserCodeError("InvalidHeader: a response header holds a line break or NUL")
            self._answer(protocol.direct.reply_to(error, cycle.scope, exchange))
            return
        status_line = STATUS_LINE.get(reply.status, b"HTTP/1.1 500 \r\n")
        head += b"".join([b"%s: %s\r\n" % header for header in protocol.direct.exposed(exchange)])
        bodiless = reply.status in (204, 304)
        body = b"" if bodiless or cycle.scope["method"] == "HEAD" else reply.body
        length = b"" if bodiless else b"content-length: %d\r\n" % len(reply.body)
        # An answer of ours may ask for the close itself.
        closes = not cycle.keep_alive or (b"connection", b"close") in reply.headers
        close = b"connection: close\r\n" if closes and b"connection: close" not in head else b""
        dates = [b"%s: %s\r\n" % header for header in protocol.server_state.default_headers]
        exchange.over(reply.status)  # before it can be read: whoever has the answer finds it counted
        protocol.transport.write(b"".join([status_line, *dates, head, length, close, b"\r\n", body]))
        cycle.response_started = cycle.response_complete = True
        if closes:
            protocol.transport.close()
        protocol.on_response_complete()


class HTTPServer:
    """Serves an ASGI app on an inherited socket until told to stop.

    Args:
        app: the app, middlewares included.
        listener: a listening socket; it stays open in the supervisor.
        drain_s: how long requests under way may take once :meth:`stop` was called.
        direct: the innermost app, where nothing is wrapped around it: small requests then go to it directly.
    """

    def __init__(
        self, app: ASGIApp, listener: socket.socket, *, drain_s: float, direct: IngressApp | None = None
    ) -> None:
        rest = Rest(asyncio.get_running_loop())
        protocol = type("DirectProtocol", (LimitedProtocol,), {"direct": direct, "rest": rest})
        config: Any = uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            loop="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(drain_s)),
        )
        self._server = uvicorn.Server(config)
        self._listener = listener

    async def serve(self) -> None:
        """Serve until :meth:`stop`; then finish what is under way and return."""
        # uvicorn's own `serve` installs signal handlers; signals belong to the process's main function.
        await self._server._serve([self._listener])

    def stop(self, drain_s: float | None = None) -> None:
        """Finish; within ``drain_s`` seconds where that is given."""
        if drain_s is not None:
            self._server.config.timeout_graceful_shutdown = max(1, round(drain_s))
        self._server.should_exit = True
