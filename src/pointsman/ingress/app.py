"""The ASGI app of an ingress: system paths, route, method, limits, body, call, answer — in this order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from pointsman.exceptions import ServeException
from pointsman.ingress.asgi import DISCONNECT_HOOK, REFUSED, BrokenAnswer, Receive, Send, as_denial, response_head
from pointsman.ingress.codec import (
    NOWHERE,
    ErrorAnswer,
    Headers,
    KnownHeaders,
    RequestRejected,
    Scope,
    Where,
    answer_for,
    decision_headers,
    error_reply,
    header_lines,
    invalid_header,
    make_call,
    read_headers,
    request_id_of,
    shard_key_of,
    wants_json,
)
from pointsman.ingress.door import check_key
from pointsman.ingress.exchange import Exchange, HTTPMetrics, RequestLog
from pointsman.ingress.passing import SWITCHES, BodyPump, ClientLeft, largest_body, pass_socket, read_body, too_large
from pointsman.ingress.system import SystemPaths, no_route
from pointsman.lock.origins import Preflight
from pointsman.model import ALL_METHODS, PLAIN, EndpointSpec, Reason, RoutingTable
from pointsman.policy.routes import RESERVED_PREFIX, RouteMatcher
from pointsman.routing.call import Call, CallFuture
from pointsman.routing.reply import Reply, ReplyStream, StreamBroken
from pointsman.routing.router import Router
from pointsman.telemetry import tracing
from pointsman.telemetry.logs import FIELDS, WarningBudget
from pointsman.wire.handover import HTTPSettings
from pointsman.wire.messages import BODY, SOCKET, WHOLE
from pointsman.wire.tables import TableChange

log = logging.getLogger(__name__)


class DirectFuture(CallFuture, Protocol):
    """A call's future that writes the answer itself, so it holds the exchange."""

    exchange: Exchange

    def where(self) -> Where:
        """How the client has connected."""


class IngressApp:
    """Turns HTTP requests into calls, by the routes of the routing table.

    Args:
        router: sends the calls. :meth:`apply` updates its table and the app's routes together.
        settings: limits and switches.
        metrics: where requests are counted; None to count nothing.

    Attributes:
        serving: False before the first table and while draining; ``/-/healthz`` then answers 503.
        system: answers what is asked of the server itself.
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
        self._wants_key = settings.lock.wants_key
        shown = settings.expose_headers
        self.system = SystemPaths(docs=settings.docs, shows_backends=shown, wants_key=self._wants_key)
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
                    self._matcher.remove(endpoint.route, prefix=endpoint.surface != PLAIN)
            for new in change.endpoints.values():
                if new is not None and new.route is not None:
                    self._matcher.add(new.route, new, prefix=new.surface != PLAIN)
            self._decisions.clear()
            self.serving = True
            self.has_table.set()

    def connecting(self) -> Awaitable[object] | None:
        """What ends once the table's replicas are connected, or were tried for long enough; None where they are."""
        return None if self._router.is_connected else self._router.connected()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point. Used with middlewares, for large or chunked bodies, and for system paths."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await self._open_socket(scope, receive, send)
            return
        exchange = Exchange(self._metrics, self._log, scope)
        pump: BodyPump | None = None
        try:
            known = read_headers(scope["headers"])
            raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
            path = raw_path.decode("latin-1")
            if path.startswith(RESERVED_PREFIX):
                await self._answer_system(path, scope["method"], send, exchange)
                return
            endpoint, parameters = self._match(path, scope["method"], exchange)
            shard_key = self._check_limits(scope, known, endpoint)
            follows, body = WHOLE, b""
            if known.has_body and endpoint.surface != PLAIN:
                follows = BODY
            elif known.has_body:
                body = await read_body(receive, self._settings, largest_body(endpoint, self._settings))
            future: asyncio.Future[Reply] = self._loop.create_future()
            deadline = self._deadline(endpoint, known)
            call = make_call(
                scope, endpoint, parameters, known, raw_path=raw_path, shard_key=shard_key, body=body,
                deadline=deadline, future=future, timed=self._log is not None,
                where=(scope["scheme"], scope.get("server")), follows=follows,
            )  # fmt: skip
            self._submit(call, scope, exchange)
            if follows == BODY:
                limit = largest_body(endpoint, self._settings)
                pump = BodyPump(call, receive, self._settings, limit, self._router.cancel)
            reply = await self._reply(call, future)
            if pump is not None and reply is not None:
                pump.answer_begins(reply)
            if reply is not None:
                await self.answer(reply, scope, send, exchange)
        except (RequestRejected, ServeException) as error:
            await self.answer(self.reply_to(error, scope, exchange), scope, send, exchange)
        except (asyncio.CancelledError, ClientLeft) as left:
            exchange.client_left()
            if not isinstance(left, ClientLeft):
                raise
        finally:
            if pump is not None:
                pump.end()
            exchange.end()

    async def _reply(self, call: Call, future: asyncio.Future[Reply]) -> Reply | None:
        """The reply to a call; None if the client has left, so that no answer can be sent."""
        try:
            return await future
        except asyncio.CancelledError:
            if future.cancelled():
                return None  # by `client_left`
            self._router.cancel(call)
            raise

    async def _open_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket: its handshake is a call, whose reply accepts it, or is the answer that denies it."""
        exchange = Exchange(self._metrics, self._log, scope)
        deny = as_denial(send)
        try:
            await receive()  # that it wants to connect
            known = read_headers(scope["headers"])
            raw_path: bytes = scope["raw_path"]
            path = raw_path.decode("latin-1")
            if path.startswith(RESERVED_PREFIX):
                raise no_route()
            endpoint, parameters = self._match(path, "GET", exchange)
            if endpoint.surface == PLAIN:
                raise RequestRejected(ErrorAnswer(405, Reason.REJECTED, "the route takes no WebSockets"))
            shard_key = self._check_limits(scope, known, endpoint)
            future: asyncio.Future[Reply] = self._loop.create_future()
            call = make_call(
                scope, endpoint, parameters, known, raw_path=raw_path, shard_key=shard_key, body=b"",
                deadline=self._deadline(endpoint, known), future=future, timed=self._log is not None,
                where=(scope["scheme"], scope.get("server")), follows=SOCKET,
            )  # fmt: skip
            self._submit(call, scope, exchange)
            reply = await self._reply(call, future)
            if reply is not None and reply.status == SWITCHES and call.up is not None:
                decision = self.decision_of(exchange)
                exchange.end(SWITCHES)  # how long it stays open is not the time of a request
                await pass_socket(call.up, reply, receive, send, decision)
            elif reply is not None:
                await self.answer(reply, scope, deny, exchange)
        except (RequestRejected, ServeException) as error:
            await self.answer(self.reply_to(error, scope, exchange), scope, deny, exchange)
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
                where=NOWHERE if endpoint.surface == PLAIN else answer.where(),
            )  # fmt: skip
            self._submit(call, scope, exchange)
        except (RequestRejected, ServeException) as error:
            answer.set_exception(error)

    async def turn_away(self, given: ErrorAnswer | Preflight, scope: Scope, send: Send) -> None:
        """Send the answer of the door to a request that goes no further."""
        exchange = Exchange(self._metrics, self._log, scope)
        read_headers(scope["headers"])
        if isinstance(given, ErrorAnswer):
            reply = self.reply_to(RequestRejected(given), scope, exchange)
        else:
            reply = Reply(given.status, [*given.headers, (b"content-type", b"text/plain; charset=utf-8")], given.text)
        await self.answer(reply, scope, send, exchange)

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
        if answer.reason in (Reason.BAD_BODY, Reason.INVALID, Reason.MEDIA_TYPE):  # a client's mistake is not logged
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
            raise no_route()
        exchange.matched(found[0].route or "", found[0].name)
        methods = found[0].methods
        if method not in methods and not (method == "HEAD" and "GET" in methods) and methods != (ALL_METHODS,):
            allowed = [*methods, "HEAD"] if "GET" in methods and "HEAD" not in methods else methods
            allow = ", ".join(allowed).encode()
            raise RequestRejected(
                ErrorAnswer(405, Reason.REJECTED, "the route does not allow this method", [(b"allow", allow)])
            )
        return found

    def _check_limits(self, scope: Scope, known: KnownHeaders, endpoint: EndpointSpec) -> str | None:
        """Check all that can be checked without the body. Returns the shard key.

        Raises:
            RequestRejected: the endpoint is not for the request's API key, a header is invalid, or the body is
                announced as too large.
        """
        if self._wants_key:
            check_key(scope, endpoint.name)
        if known.problem:
            raise RequestRejected(ErrorAnswer(400, Reason.REJECTED, known.problem))
        if known.content_length and known.content_length > largest_body(endpoint, self._settings):
            raise too_large(largest_body(endpoint, self._settings))
        return shard_key_of(known, endpoint, scope["headers"], scope["query_string"])

    def _deadline(self, endpoint: EndpointSpec, known: KnownHeaders) -> float:
        timeout_s = endpoint.request_timeout_s or self._settings.request_timeout_s
        if known.timeout_s is not None:  # a client may shorten the operator's timeout, not extend it
            timeout_s = min(timeout_s, known.timeout_s)
        return self._loop.time() + timeout_s

    async def _stream(self, chunks: ReplyStream, scope: Scope, send: Send, exchange: Exchange) -> None:
        def client_left() -> None:
            exchange.client_left()
            chunks.close()

        exchange.begins_to_stream()
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

    async def _answer_system(self, path: str, method: str, send: Send, exchange: Exchange) -> None:
        if path in self.system:
            exchange.matched(path)
        if self.check_table is not None and self.system.needs_table(path):
            self.check_table()
        await self.system.answer(path, method, send, table=self._router.table, serving=self.serving)


def _id_of(exchange: Exchange) -> bytes:
    assert exchange.call is not None
    return exchange.call.request.request_id.encode()
