"""The HTTP server of an ingress: uvicorn on the listening socket that the supervisor owns.

The only module that imports uvicorn. It adds what uvicorn has no setting for: limits on a request's head, a deadline
for its arrival, a notification to the app when a client disconnects, and direct answers to small requests.
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
"""How long a request that can be answered directly waits for its body before it becomes a task."""
REMAINDER_S = 10.0
"""How long a client may go on sending a body whose request was answered before the body's end."""
LINGER_S = 0.3
"""How long idle connections stay open at shutdown: a request may be on its way."""

log = logging.getLogger("pointsman.ingress")


def _is_unexplained(record: logging.LogRecord) -> bool:
    # The app raises BrokenAnswer to have the connection cut, after it has logged the reason.
    return not (record.exc_info and record.exc_info[0] is BrokenAnswer)


logging.getLogger("uvicorn.error").addFilter(_is_unexplained)


class LimitedProtocol(Reading, HttpToolsProtocol):
    """One HTTP connection with limits on the request's head.

    It depends on internals of uvicorn's ``HttpToolsProtocol``, since uvicorn has no public hook for these limits, or
    for answers without a task (decision 0009). No version of uvicorn promises them; tests/loop/test_http_edge.py and
    test_http_framing.py fail where one differs. What is relied on:

    - The parser's callbacks are called on this object. In ``on_headers_complete``, which is extended, uvicorn makes
      ``self.cycle``, its state of the request that was parsed last. ``data_received``, ``on_body`` and
      ``on_message_complete`` are replaced, since uvicorn's treat an ``Upgrade`` as the end of a request.
    - uvicorn starts a request by ``_start_asgi_task``, at once or, when earlier requests are unanswered, after it has
      waited in ``self.pipeline`` (newest at the left). So ``_running`` is the cycle that is being answered, and
      ``self.cycle`` may be a later one.
    - ``response_started``, ``response_complete``, ``keep_alive`` and ``more_body`` are the state of a cycle.
      :class:`DirectAnswer` sets them and calls ``on_response_complete``, as the cycle's own ``send`` does.
    - ``flow.pause_reading`` and ``resume_reading`` may be called twice in a row.

    Attributes:
        direct: the app that small requests are given to directly; None if every request becomes a task.
        pauses: pauses connections whose requests were refused.
        warnings: budget of log lines about refused bytes, shared by all connections.
        head_timeout_s: how long a head may take to arrive.
    """

    # Class attributes, since uvicorn makes the protocol objects: `HTTPServer` sets them on a subclass.
    direct: Any = None
    pauses: RefusalPauses | None = None
    warnings: WarningBudget
    head_timeout_s: float

    _deferred_refusal = 0  # status for bytes that are no request, while earlier requests are still to be answered
    _ending = False
    _idle_since: float | None = None  # None while a request, or part of one, is there
    _head_timer: asyncio.TimerHandle | None = None
    _waits_for_body: RequestResponseCycle | None = None
    _body_timer: asyncio.TimerHandle | None = None
    _running: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._head_is_late)

    def data_received(self, data: bytes) -> None:
        """Replaces uvicorn's, which takes the body of a request with an ``Upgrade`` for the next request."""
        if self._unparsed or self._deferred_refusal:
            if self._unparsed:
                self._unparsed += data
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

    def _read_unparsed(self) -> None:
        data, self._unparsed = self._unparsed, b""
        if data and not self.transport.is_closing():
            self.data_received(data)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Replaces uvicorn's start of a request: begins it directly where possible, as a task otherwise."""
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
            self._run_as_task(cycle, app)
        elif cycle.more_body and self._expects_body(cycle):
            self._waits_for_body = cycle
        elif cycle.more_body:
            self._begin_direct(cycle)
        else:
            # Pipelined, and started by the end of the previous request. Called directly it could be answered at once
            # and start the next one: a thousand bad requests in a row would be a thousand stack frames.
            self.loop.call_soon(self._begin_direct, cycle)

    def _run_as_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        send = cycle.send
        if isinstance(send, UnframedSend):
            app = send.around(app)
        super()._start_asgi_task(cycle, app)

    def _begin_direct(self, cycle: RequestResponseCycle) -> None:
        if not cycle.disconnected:
            self.direct.begin(cycle.scope, bytes(cycle.body), DirectAnswer(self, cycle))

    def on_body(self, body: bytes) -> None:
        """Replaces uvicorn's, which ignores the body of a request with an ``Upgrade``."""
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
            self._begin_direct(cycle)

    def _body_is_slow(self) -> None:
        """Run the app as a task: the body has not arrived with its head, and the app has deadlines for it."""
        self._body_timer = None
        cycle, self._waits_for_body = self._waits_for_body, None
        if cycle is not None and not cycle.disconnected:
            self._run_as_task(cycle, self.app)

    def _remainder_is_slow(self) -> None:
        self._body_timer = None
        self.transport.close()

    def _stop_body_timer(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    @staticmethod
    def _may_go_direct(cycle: RequestResponseCycle) -> bool:
        """True for a request without a body, or with a small one of known length. Others are read by the app, which
        may refuse them midway."""
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
        """Replaces uvicorn's, which makes a timer for each request."""
        cycle = self._running
        if not self.transport.is_closing():
            if self._deferred_refusal:
                self._answer_and_close(self._deferred_refusal)
            else:
                self._start_next()
        if self.pauses is not None and cycle is not None and REFUSED in cycle.scope["state"]:
            self.pauses.refused(self)
        if self.transport.is_closing() or self._body_timer is not None:
            return
        if self._waits_for_body is not None:  # the next request, whose body has not arrived with its head
            self._body_timer = self.loop.call_later(PATIENCE_S, self._body_is_slow)
        elif cycle is not None and cycle.more_body and cycle is self.cycle:
            self._body_timer = self.loop.call_later(REMAINDER_S, self._remainder_is_slow)

    def _start_next(self) -> None:
        """Start the next pipelined request, or begin to count idle time."""
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            if self._unparsed and not self.pipeline:
                self.loop.call_soon(self._read_unparsed)
        else:
            self._idle_since = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self._keep_alive_is_due)

    def _keep_alive_is_due(self) -> None:
        # hot: one timer that is moved on when it fires, instead of uvicorn's new one for each request.
        self.timeout_keep_alive_task = None
        if self._idle_since is None or self.transport.is_closing():
            return
        due = self._idle_since + self.timeout_keep_alive
        if self.loop.time() < due:
            self.timeout_keep_alive_task = self.loop.call_at(due, self._keep_alive_is_due)
        else:
            self.transport.close()

    def pause_reading(self) -> None:
        """Stop reading requests until :meth:`resume_reading`."""
        if not self.transport.is_closing():
            self.flow.pause_reading()

    def resume_reading(self) -> None:
        """Read requests again after :meth:`pause_reading`."""
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def run_task(self, coroutine: Coroutine[Any, Any, None], cycle: RequestResponseCycle) -> None:
        """Finish a request that began directly as a task, the way uvicorn runs an app."""
        if cycle.disconnected:
            coroutine.close()
            return

        async def app(scope: object, receive: object, send: object) -> None:
            await coroutine

        self._run_as_task(cycle, app)

    def shutdown(self) -> None:
        """Replaces uvicorn's, which closes an idle connection although a request may have arrived there unread."""
        self._ending = True
        if not self._is_idle():
            super().shutdown()  # closes after the answer
        else:
            self.loop.call_later(LINGER_S, self._close_when_idle)

    def _is_idle(self) -> bool:
        return self._running is None or bool(self._running.response_complete)

    def _close_when_idle(self) -> None:
        if self.transport.is_closing() or self._head_size or not self._is_idle():
            return  # a request has arrived meanwhile; its answer closes the connection
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
        cycle = self._running  # not `self.cycle`: with pipelining that is the last one parsed, which has not begun
        self.pipeline.clear()
        super().connection_lost(exc)
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            hook = cycle.scope.get("state", {}).get(DISCONNECT_HOOK)
            if hook is not None:
                hook()

    def _refuse(self, error: Exception) -> None:
        """Answer bytes that are no request, or none that is served, and close. The answer comes behind those to earlier
        requests; later bytes are ignored."""
        held_back = self.warnings.take("refused", self.loop.time())
        if held_back:
            log.warning("%d more warnings like the next one were held back", held_back)
        if held_back is not None:
            answer = STATUS_LINES[self._status].split(b" ", 1)[1].decode().strip()
            why = "" if isinstance(error, httptools.HttpParserCallbackError) else f": {error}"
            log.warning("what a client sent is not a request that is served, %s%s", answer, why)
        running = self._running
        is_its_body = self._body_open and running is self.cycle
        if running is not None and not running.response_complete and not is_its_body:
            self._deferred_refusal = self._status
            self.flow.pause_reading()
        elif running is not None and is_its_body and running.response_started:
            self.transport.close()  # a second answer would be taken for the answer to another request
        else:
            self._answer_and_close(self._status)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._running is not None and not self._running.response_complete:
            # A pipelined head is late because the server has stopped reading, which is not the client's fault.
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
    """Serves an ASGI app on an inherited socket until :meth:`stop`.

    Args:
        app: the app, middlewares included.
        listener: a listening socket; it stays open in the supervisor.
        drain_s: how long running requests may take after :meth:`stop`.
        settings: deadlines.
        direct: the same app if it has no middlewares; small requests are then given to it directly. None otherwise.
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
        """Serve until :meth:`stop`, then finish running requests and return."""
        # uvicorn's own `serve` installs signal handlers; signals belong to the process's main function.
        await self._server._serve([self._listener])
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()  # the drain time has passed, and the loop is about to close
        await asyncio.sleep(0)

    def stop(self, drain_s: float | None = None) -> None:
        """Stop accepting requests, and have :meth:`serve` finish those that run.

        Args:
            drain_s: how long they may take; None for the time given to the constructor.
        """
        if drain_s is not None:
            self._server.config.timeout_graceful_shutdown = max(1, round(drain_s))
        self._server.should_exit = True
