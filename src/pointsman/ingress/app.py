"""The ASGI app of an ingress: system paths, route, method, limits, body, call, answer — in this order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

import msgspec

from pointsman.exceptions import ServeException
from pointsman.ingress.bodylimits import BodyDeadlines, BodyIsLateError
from pointsman.ingress.codec import (
    ErrorAnswer,
    Headers,
    KnownHeaders,
    RequestRejected,
    Scope,
    answer_for,
    decision_headers,
    error_reply,
    header_lines,
    invalid_header,
    make_call,
    read_headers,
    request_id_of,
    response_head,
    shard_key_of,
    wants_json,
)
from pointsman.ingress.exchange import Exchange, HTTPMetrics, RequestLog
from pointsman.model import EndpointSpec, Reason, RoutingTable
from pointsman.policy.routes import RESERVED_PREFIX, RouteMatcher
from pointsman.routing.call import Call, CallFuture
from pointsman.routing.reply import Reply, ReplyStream, StreamBroken
from pointsman.routing.router import Router
from pointsman.telemetry import tracing
from pointsman.telemetry.logs import FIELDS, WarningBudget
from pointsman.wire.handover import HTTPSettings
from pointsman.wire.tables import TableChange

log = logging.getLogger(__name__)

SYSTEM_PATHS = ("/-/routes", "/-/healthz")
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

DISCONNECT_HOOK = "pointsman.on_disconnect"
"""Key in ``scope["state"]`` of the function that the server calls when the client has disconnected."""
CLOSE: Headers = [(b"connection", b"close")]
"""Header of an answer that is sent before the body has ended: otherwise the server would read and drop the rest."""
REFUSED = "pointsman.refused"
"""Key in ``scope["state"]`` that marks a request refused for lack of free capacity."""


class DirectFuture(CallFuture, Protocol):
    """A call's future that writes the answer itself, so it holds the exchange."""

    exchange: Exchange


class BrokenAnswer(Exception):
    """A streamed answer broke; raised out of the app so that the server cuts the connection."""


class IngressApp:
    """Turns HTTP requests into calls, by the routes of the routing table.

    Args:
        router: sends the calls. :meth:`apply` updates its table and the app's routes together.
        settings: limits and switches.
        metrics: where requests are counted; None to count nothing.

    Attributes:
        serving: False before the first table and while draining; ``/-/healthz`` then answers 503.
        has_table: set once there is a table, or once the app is to stop.
        check_table: called before each look-up in the table while the controller does not know this process; None
            otherwise.
    """

    def __init__(self, router: Router, settings: HTTPSettings, metrics: HTTPMetrics | None = None) -> None:
        self._router = router
        self._metrics = metrics
        requests = RequestLog(settings.access_log, settings.slow_request_s)
        self._log = requests if requests.is_on else None
        self._tracer = tracing.tracer()
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._matcher: RouteMatcher[EndpointSpec] = RouteMatcher()
        self._budget = WarningBudget()
        self._decisions: dict[tuple[int, str], tuple[Headers, bytes]] = {}
        self.serving = False
        self.has_table = asyncio.Event()
        self.check_table: Callable[[], None] | None = None

    def apply(self, table: RoutingTable, change: TableChange | None = None) -> None:
        """Switch routes and traffic policies to ``table`` together. Ignores a table that is not newer. For ``change``
        see :meth:`Router.apply <pointsman.routing.router.Router.apply>`."""
        old, change = self._router.table.endpoints, self._router.apply(table, change)
        if change is not None:
            before = [old[name] for name in change.endpoints if name in old]
            for endpoint in before:  # first: another endpoint may have got its route
                if endpoint.route is not None:
                    self._matcher.remove(endpoint.route)
            for new in change.endpoints.values():
                if new is not None and new.route is not None:
                    self._matcher.add(new.route, new)
            self._decisions.clear()
            self.serving = True
            self.has_table.set()

    def connecting(self) -> Awaitable[object] | None:
        """What ends once the table's replicas are connected, or were tried for long enough; None where they are."""
        return None if self._router.is_connected else self._router.connected()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point. Used with middlewares, for large or chunked bodies, and for system paths."""
        if scope["type"] != "http":
            await self._refuse_protocol(scope, receive, send)
            return
        exchange = Exchange(self._metrics, self._log, scope)
        try:
            known = read_headers(scope["headers"])
            raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
            path = raw_path.decode("latin-1")
            if path.startswith(RESERVED_PREFIX):
                await self._system(path, scope["method"], send, exchange)
                return
            endpoint, parameters = self._match(path, scope["method"], exchange)
            shard_key = self._check_limits(scope, known, endpoint)
            body = await self._read_body(receive) if known.has_body else b""
            if body is None:
                exchange.client_left()
                return
            future: asyncio.Future[Reply] = self._loop.create_future()
            deadline = self._deadline(endpoint, known)
            call = make_call(
                scope, endpoint, parameters, known, raw_path=raw_path, shard_key=shard_key, body=body,
                deadline=deadline, future=future, timed=self._log is not None,
            )  # fmt: skip
            self._submit(call, scope, exchange)
            try:
                reply = await future
            except asyncio.CancelledError:
                if future.cancelled():
                    return  # by `_client_left`; no answer can be sent
                self._router.cancel(call)
                raise
            await self.answer(reply, scope, send, exchange)
        except (RequestRejected, ServeException) as error:
            await self.answer(self.reply_to(error, scope, exchange), scope, send, exchange)
        except asyncio.CancelledError:
            exchange.client_left()
            raise
        finally:
            exchange.end()

    def begin(self, scope: Scope, body: bytes, answer: DirectFuture) -> None:
        """Direct entry point, without a task and ASGI messages, for requests whose body has arrived.

        ``answer`` serves as the call's future. Errors that :meth:`reply_to` can answer are set on it, not raised.
        """
        # hot: the same steps as above, without ASGI, which takes close to half of a request's time (decision 0009)
        exchange = answer.exchange = Exchange(self._metrics, self._log, scope)
        try:
            known = read_headers(scope["headers"])
            raw_path: bytes = scope["raw_path"]
            endpoint, parameters = self._match(raw_path.decode("latin-1"), scope["method"], exchange)
            shard_key = self._check_limits(scope, known, endpoint)
            deadline = self._deadline(endpoint, known)
            call = make_call(
                scope, endpoint, parameters, known, raw_path=raw_path, shard_key=shard_key, body=body,
                deadline=deadline, future=answer, timed=self._log is not None,
            )  # fmt: skip
            self._submit(call, scope, exchange)
        except (RequestRejected, ServeException) as error:
            answer.set_exception(error)

    def decision_of(self, exchange: Exchange) -> Headers:
        """The ``x-serve-*`` headers that name backend, policy version and request id. Empty before a backend was
        chosen, and where ``expose_headers`` is off."""
        decision = self._decision(exchange.call)
        return [] if decision is None else [*decision[0], (b"x-serve-request-id", _id_of(exchange))]

    def decision_lines(self, exchange: Exchange) -> bytes:
        """The same, as lines of a head."""
        decision = self._decision(exchange.call)
        return b"" if decision is None else b"%sx-serve-request-id: %s\r\n" % (decision[1], _id_of(exchange))

    def _decision(self, call: Call | None) -> tuple[Headers, bytes] | None:
        """Headers and lines of a decision: the same for all calls of a backend and a policy version."""
        if call is None or not call.backend or not self._settings.expose_headers:
            return None
        key = (call.policy_version, call.backend)
        found = self._decisions.get(key)
        if found is None:
            headers = decision_headers(call)
            found = self._decisions[key] = headers, b"".join([b"%s: %s\r\n" % header for header in headers])
        return found

    async def answer(self, reply: Reply, scope: Scope, send: Send, exchange: Exchange) -> None:
        """Send an answer to the client, whole or chunk by chunk. Ends the exchange."""
        if header_lines(reply.headers) is None:
            if reply.stream is not None:
                reply.stream.close()
            reply = self.reply_to(invalid_header(), scope, exchange)
        try:
            await send(response_head(reply, self.decision_of(exchange)))
            body = b""
            if reply.stream is not None:
                await self._stream(reply.stream, scope, send, exchange)
            elif reply.status not in (204, 304):
                body = bytes(reply.body)
            exchange.end(reply.status)  # before the last bytes leave: a client that has the answer finds it counted
            await send({"type": "http.response.body", "body": body})
        finally:
            exchange.end(reply.status)

    def reply_to(self, error: BaseException, scope: Scope, exchange: Exchange) -> Reply:
        """The error answer for the client. Logs the error too, with more detail."""
        headers: Headers = scope["headers"]
        request_id = request_id_of(headers)
        if isinstance(error, RequestRejected):
            answer = error.answer
        else:
            answer = answer_for(error)
            if answer.status == 503 and "state" in scope:
                scope["state"][REFUSED] = True
            self._log_failure(answer, error, request_id, exchange)
        exchange.fails_with(answer)
        return error_reply(answer, request_id=request_id, json=wants_json(headers), debug=self._settings.debug)

    def _log_failure(self, answer: ErrorAnswer, error: BaseException, request_id: str, exchange: Exchange) -> None:
        if answer.reason is Reason.BAD_BODY:  # the client's mistake is not logged
            return
        backend = exchange.call.backend if exchange.call is not None else ""
        if answer.reason is Reason.USER_CODE:  # the replica has logged the traceback
            self._log_limited(logging.INFO, answer.reason, request_id, f"failed with 500 in backend {backend!r}")
        else:
            self._log_limited(logging.WARNING, answer.reason, request_id, f"failed with {answer.status}: {error}")

    def _log_limited(self, level: int, kind: str, request_id: str, text: str) -> None:
        held_back = self._budget.take(kind, self._loop.time())
        if held_back:
            log.log(level, "%d more lines like the next one were held back", held_back)
        if held_back is not None:
            log.log(level, "the request %s", text, extra={FIELDS: {"request_id": request_id}})

    def _submit(self, call: Call, scope: Scope, exchange: Exchange) -> None:
        exchange.call = call
        if self._tracer is not None:
            exchange.trace(self._tracer, call)
        if "state" in scope:
            # For the ASGI way; a connection knows whom to tell of a request that goes the direct way. The hook refers
            # to the exchange, which drops its call when it ends: a cycle for each request would need the garbage
            # collector.
            scope["state"][DISCONNECT_HOOK] = partial(self.client_left, exchange)
        self._router.submit(call)

    def client_left(self, exchange: Exchange) -> None:
        """The client of a request has gone: nobody waits for its answer."""
        call = exchange.call
        exchange.client_left()
        if call is not None:
            self._router.cancel(call)

    def _match(self, path: str, method: str, exchange: Exchange) -> tuple[EndpointSpec, dict[str, str]]:
        if self.check_table is not None:
            self.check_table()
        found = self._matcher.match(path)
        if found is None:
            raise RequestRejected(ErrorAnswer(404, Reason.NO_SUCH_ENDPOINT, "no such route; GET /-/routes lists them"))
        exchange.matched(found[0].route or "", found[0].name)
        methods = found[0].methods
        if method not in methods and not (method == "HEAD" and "GET" in methods):
            allowed = [*methods, "HEAD"] if "GET" in methods and "HEAD" not in methods else methods
            allow = ", ".join(allowed).encode()
            raise RequestRejected(
                ErrorAnswer(405, Reason.REJECTED, "the route does not allow this method", [(b"allow", allow)])
            )
        return found

    def _check_limits(self, scope: Scope, known: KnownHeaders, endpoint: EndpointSpec) -> str | None:
        """Check all that can be checked without the body. Returns the shard key.

        Raises:
            RequestRejected: a header is invalid, or the body is announced as too large.
        """
        if known.problem:
            raise RequestRejected(ErrorAnswer(400, Reason.REJECTED, known.problem))
        if known.content_length > self._settings.max_body_bytes:
            raise self._too_large()
        return shard_key_of(known, endpoint, scope["headers"], scope["query_string"])

    def _deadline(self, endpoint: EndpointSpec, known: KnownHeaders) -> float:
        timeout_s = endpoint.request_timeout_s or self._settings.request_timeout_s
        if known.timeout_s is not None:  # a client may shorten the operator's timeout, not extend it
            timeout_s = min(timeout_s, known.timeout_s)
        return self._loop.time() + timeout_s

    async def _read_body(self, receive: Receive) -> bytes | None:
        """The body; None when the client disconnects before all of it has arrived."""
        chunks: list[bytes] = []
        size = 0
        try:
            with BodyDeadlines(self._settings.body_idle_timeout_s, self._settings.body_min_bytes_per_s) as deadlines:
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    if size > self._settings.max_body_bytes:
                        raise self._too_large()
                    deadlines.received(len(chunk))
                    chunks.append(chunk)
                    if not message.get("more_body", False):
                        return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        except BodyIsLateError:
            raise RequestRejected(ErrorAnswer(408, Reason.DEADLINE, "the body did not come in time", CLOSE)) from None

    def _too_large(self) -> RequestRejected:
        text = f"the body is over {self._settings.max_body_bytes} bytes"
        return RequestRejected(ErrorAnswer(413, Reason.REJECTED, text, CLOSE))

    async def _stream(self, chunks: ReplyStream, scope: Scope, send: Send, exchange: Exchange) -> None:
        def client_left() -> None:
            exchange.client_left()
            chunks.close()

        exchange.streams = True
        if "state" in scope:
            scope["state"][DISCONNECT_HOOK] = client_left
        try:
            async for chunk in chunks:
                if chunk:
                    await send({"type": "http.response.body", "body": bytes(chunk), "more_body": True})
        except StreamBroken as broken:
            exchange.broke(Reason.STREAM_BROKEN)
            by_user_code = broken.failure is not None and broken.failure.reason is Reason.USER_CODE
            level, why = (logging.INFO, "by its backend") if by_user_code else (logging.WARNING, str(broken))
            self._log_limited(
                level, f"stream {level}", request_id_of(scope["headers"]), f"broke while streaming: {why}"
            )
            raise BrokenAnswer from None
        finally:
            chunks.close()

    async def _system(self, path: str, method: str, send: Send, exchange: Exchange) -> None:
        if path in SYSTEM_PATHS:
            exchange.matched(path)
        if path == "/-/routes" and method in ("GET", "HEAD"):
            if self.check_table is not None:
                self.check_table()
            endpoints = self._router.table.endpoints.values()
            await _send_json(send, 200, {e.route: [e.name, list(e.methods)] for e in endpoints if e.route is not None})
        elif path == "/-/healthz" and method in ("GET", "HEAD"):
            await _send_json(send, 200 if self.serving else 503, {"serving": self.serving})
        elif path in SYSTEM_PATHS:
            text = "the route does not allow this method"
            raise RequestRejected(ErrorAnswer(405, Reason.REJECTED, text, [(b"allow", b"GET, HEAD")]))
        else:
            raise RequestRejected(ErrorAnswer(404, Reason.NO_SUCH_ENDPOINT, "no such route; GET /-/routes lists them"))

    async def _refuse_protocol(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1003})


async def _send_json(send: Send, status: int, value: object) -> None:
    body = msgspec.json.encode(value)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _id_of(exchange: Exchange) -> bytes:
    assert exchange.call is not None
    return exchange.call.request.request_id.encode()
