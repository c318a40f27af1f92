"""The HTTP server of an ingress: uvicorn on the listening socket that the supervisor owns.

The only module that knows uvicorn. It adds what uvicorn has no setting for: limits on the request's head, a deadline
for its arrival, and word to the app when a client has gone.
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

import httptools
import uvicorn
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from pointsman.ingress.app import DISCONNECT_HOOK, REFUSED, ASGIApp, BrokenAnswer, IngressApp
from pointsman.ingress.bodylimits import RefusalPauses
from pointsman.ingress.framing import BadFraming
from pointsman.ingress.reading import Reading
from pointsman.ingress.sending import STATUS_LINES, DirectAnswer, UnframedSend
from pointsman.policy.routes import RESERVED_PREFIX
from pointsman.telemetry.logs import WarningBudget
from pointsman.wire.handover import HTTPSettings

MAX_DIRECT_BODY = 32 * 1024
"""Below uvicorn's high-water mark, over which it stops reading until the app asks for more."""
PATIENCE_S = 0.005
"""How long the body of a request that could go the direct way is waited for behind its head."""
REST_S = 10.0
"""How long a client may go on sending a body after its answer, which has not waited for it."""
LINGER_S = 0.3
"""How long an idle connection is kept when the server is to end: a request may be on its way."""

log = logging.getLogger("pointsman.ingress")


def _is_news(record: logging.LogRecord) -> bool:
    # The app cuts a connection by raising, and has said why.
    return not (record.exc_info and record.exc_info[0] is BrokenAnswer)


logging.getLogger("uvicorn.error").addFilter(_is_news)


class LimitedProtocol(Reading, HttpToolsProtocol):
    """One HTTP connection with limits on the request's head."""

    direct: Any = None
    pauses: RefusalPauses | None = None
    warnings: WarningBudget
    head_timeout_s: float

    _late_refusal = 0
    """The status for what is no request, while requests before it are still to be answered."""
    _ending = False
    _idle_since: float | None = None
    """Since when no request is there; None while one is, or part of one."""
    _head_timer: asyncio.TimerHandle | None = None
    _waits_for_body: RequestResponseCycle | None = None
    _body_timer: asyncio.TimerHandle | None = None
    _running: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._head_is_late)

    def data_received(self, data: bytes) -> None:
        """Overrides uvicorn's, which takes the body of a request that offers another protocol for the next request."""
        if self._ahead or self._late_refusal:
            if self._ahead:
                self._ahead += data
            self.flow.pause_reading()
            return
        self._idle_since = None
        try:
            self._read(data)
        except (httptools.HttpParserError, BadFraming) as error:
            self._refuse(error)
            return
        if self._head_size and self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_timeout_s, self._head_is_late)
        if self._waits_for_body is not None and self._body_timer is None:
            self._body_timer = self.loop.call_later(PATIENCE_S, self._body_is_slow)

    def _read_ahead(self) -> None:
        data, self._ahead = self._ahead, b""
        if data and not self.transport.is_closing():
            self.data_received(data)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Overrides uvicorn's start of a request: the direct way where it can be taken, a task otherwise."""
        self._running = cycle
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if self._ending:
            cycle.keep_alive = False
        if cycle.scope["http_version"] == "1.0":
            old: Any = cycle
            old.send = UnframedSend(cycle)
            old.waiting_for_100_continue = False
        if self.direct is None or not self._may_go_direct(cycle):
            self._run(cycle, app)
        elif cycle.more_body and self._expects_body(cycle):
            self._waits_for_body = cycle
        elif cycle.more_body:
            self._begin(cycle)
        else:
            # Pipelined, and started by the end of the one before it. If this one is answered at once it starts the next
            # in turn, and a thousand bad requests in a row would be a thousand calls deep.
            self.loop.call_soon(self._begin, cycle)

    def _run(self, cycle: RequestResponseCycle, app: Any) -> None:
        send = cycle.send
        if isinstance(send, UnframedSend):
            app = send.around(app)
        super()._start_asgi_task(cycle, app)

    def _begin(self, cycle: RequestResponseCycle) -> None:
        if not cycle.disconnected:
            self.direct.begin(cycle.scope, bytes(cycle.body), DirectAnswer(self, cycle))

    def on_body(self, body: bytes) -> None:
        """Overrides uvicorn's, as do all callbacks that it would first ask for an offer of another protocol."""
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.body += body
            cycle.message_event.set()
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()

    def on_message_complete(self) -> None:
        if not self._is_whole():
            return
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()
        if self._body_timer is not None:
            self._stop_body_timer()
        if cycle is self._waits_for_body:
            self._waits_for_body = None
            self._begin(cycle)

    def _body_is_slow(self) -> None:
        """The body has not come with its head: the app looks at the head now, and has deadlines for the rest."""
        self._body_timer = None
        cycle, self._waits_for_body = self._waits_for_body, None
        if cycle is not None and not cycle.disconnected:
            self._run(cycle, self.app)

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
        """Overrides uvicorn's, which makes a timer for each request."""
        cycle = self._running
        if not self.transport.is_closing():
            if self._late_refusal:
                self._answer_and_close(self._late_refusal)
            else:
                self._next()
        if self.pauses is not None and cycle is not None and REFUSED in cycle.scope["state"]:
            self.pauses.refused(self)
        if self.transport.is_closing() or self._body_timer is not None:
            return
        if self._waits_for_body is not None:  # the next one, whose body has not come with its head
            self._body_timer = self.loop.call_later(PATIENCE_S, self._body_is_slow)
        elif cycle is not None and cycle.more_body and cycle is self.cycle:
            self._body_timer = self.loop.call_later(REST_S, self._rest_is_slow)

    def _next(self) -> None:
        """Begin the next request, or wait for it."""
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            if self._ahead and not self.pipeline:
                self.loop.call_soon(self._read_ahead)
        else:
            self._idle_since = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self._may_be_idle)

    def _may_be_idle(self) -> None:
        # One timer, which moves on when it is due, rather than one for each request.
        self.timeout_keep_alive_task = None
        if self._idle_since is None or self.transport.is_closing():
            return
        due = self._idle_since + self.timeout_keep_alive
        if self.loop.time() < due:
            self.timeout_keep_alive_task = self.loop.call_at(due, self._may_be_idle)
        else:
            self.transport.close()

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

        self._run(cycle, app)

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
        if self.transport.is_closing() or self._head_size or not self._is_idle():
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

    def _refuse(self, error: Exception) -> None:
        """What has come is no request, or none that we serve: say so behind the answers to those before it, and close.
        Nothing that comes after it is looked at."""
        held_back = self.warnings.take("refused", self.loop.time())
        if held_back:
            log.warning("%d more warnings like the next one were held back", held_back)
        if held_back is not None:
            answer = STATUS_LINES[self._status].split(b" ", 1)[1].decode().strip()
            why = "" if isinstance(error, httptools.HttpParserCallbackError) else f": {error}"
            log.warning("what a client sent is not a request that is served, %s%s", answer, why)
        running = self._running
        is_its_body = self._open and running is self.cycle
        if running is not None and not running.response_complete and not is_its_body:
            self._late_refusal = self._status
            self.flow.pause_reading()
        elif running is not None and is_its_body and running.response_started:
            self.transport.close()  # a second answer to it would be taken for that of another one
        else:
            self._answer_and_close(self._status)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._running is not None and not self._running.response_complete:
            # A pipelined head that is late because we have stopped reading: not the client's doing.
            self._head_timer = self.loop.call_later(self.head_timeout_s, self._head_is_late)
        elif self._head_size:
            self._answer_and_close(408)
        elif self.cycle is None:
            self.transport.close()

    def _answer_and_close(self, status: int) -> None:
        if not self.transport.is_closing():
            self.transport.write(STATUS_LINES[status] + b"content-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()


class HTTPServer:
    """Serves an ASGI app on an inherited socket until told to stop.

    Args:
        app: the app, middlewares included.
        listener: a listening socket; it stays open in the supervisor.
        drain_s: how long requests under way may take once :meth:`stop` was called.
        settings: deadlines.
        direct: the innermost app, where nothing is wrapped around it: small requests then go to it directly.
    """

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        *,
        drain_s: float,
        settings: HTTPSettings,
        direct: IngressApp | None = None,
    ) -> None:
        pauses = RefusalPauses(asyncio.get_running_loop())
        own = {
            "direct": direct,
            "pauses": pauses,
            "head_timeout_s": settings.head_timeout_s,
            "warnings": WarningBudget(),
        }
        protocol = type("DirectProtocol", (LimitedProtocol,), own)
        make: Any = uvicorn.Config
        config = make(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            loop="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=settings.keep_alive_s,
            timeout_graceful_shutdown=max(1, round(drain_s)),
        )
        self._server = uvicorn.Server(config)
        self._listener = listener

    async def serve(self) -> None:
        """Serve until :meth:`stop`; then finish what is under way and return."""
        # uvicorn's own `serve` installs signal handlers; signals belong to the process's main function.
        await self._server._serve([self._listener])
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()  # the drain is over, and the loop ends with us
        await asyncio.sleep(0)

    def stop(self, drain_s: float | None = None) -> None:
        """Finish; within ``drain_s`` seconds where that is given."""
        if drain_s is not None:
            self._server.config.timeout_graceful_shutdown = max(1, round(drain_s))
        self._server.should_exit = True
