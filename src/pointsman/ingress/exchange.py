"""One HTTP request from its arrival to its outcome: counted, logged, traced.

Each request ends in exactly one outcome:

    delivered   user code ran, and its whole answer arrived; an exception of user code counts as an answer
    refused     user code was never called
    failed      user code may have run, and no answer arrived
    aborted     the answer had begun, and broke off

The access log has a line for a sample of all requests; the slow log has one for each slow request, with a breakdown of
its time.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from pointsman.ingress.codec import ErrorAnswer, Scope, request_id_of
from pointsman.model import Reason
from pointsman.model.evidence import Tally
from pointsman.routing.call import Call
from pointsman.telemetry import families
from pointsman.telemetry.families import OUTCOMES
from pointsman.telemetry.logs import FIELDS, WarningBudget, escaped
from pointsman.telemetry.tracing import Span, Tracer
from pointsman.telemetry.values import Counter, Histogram
from pointsman.telemetry.windows import latency_ms
from pointsman.telemetry.writer import ByLabels, MetricsWriter

End = tuple[str, str, str, str, str]
"""Endpoint, route, outcome, reason and backend of a request. The endpoint is empty if no route matched, the backend if
none was chosen."""


class HTTPMetrics:
    """Request metrics by route, endpoint and backend. These are configured names, so the number of series is bounded.

    Args:
        writer: metrics writer of this process.
    """

    def __init__(self, writer: MetricsWriter) -> None:
        self._writer = writer
        self._arrived: ByLabels[str, Counter] = ByLabels(lambda route: writer.counter(families.HTTP_REQUESTS, route))
        self._ends: ByLabels[End, tuple[Counter, Histogram | None]] = ByLabels(self._end)

    def arrived(self, route: str) -> None:
        """Count a request by the route template that it matched."""
        counter = self._arrived[route]
        # hot: written in place; `inc()` is one more method call for each request (decision 0020)
        counter.values[counter.at] += 1.0

    def ended(self, end: End, seconds: float) -> None:
        """Count an outcome, and record the duration if a backend was chosen."""
        counter, duration = self._ends[end]
        counter.values[counter.at] += 1.0
        if duration is not None:
            duration.observe(seconds)

    def _end(self, end: End) -> tuple[Counter, Histogram | None]:
        endpoint, *_, backend = end
        counter = self._writer.counter(families.HTTP_OUTCOMES, *end[:-1])
        return counter, self._writer.histogram(families.HTTP_DURATION, endpoint, backend) if backend else None


access = logging.getLogger("access")
slow = logging.getLogger("pointsman.slow")


class RequestLog:
    """Writes the access log and the slow log.

    Args:
        share: sampled share of requests in the access log, from 0 to 1.
        slow_s: requests that took at least this many seconds are in the slow log, up to 10 a second; None for no slow
            log.
        draw: returns numbers uniform in [0, 1).
    """

    def __init__(self, share: float, slow_s: float | None, *, draw: Callable[[], float] = random.random) -> None:
        self._share = share
        self._slow_s = slow_s
        self._draw = draw
        self._budget = WarningBudget()

    @property
    def is_on(self) -> bool:
        return self._share > 0 or self._slow_s is not None

    def record(
        self, scope: dict[str, Any], call: Call | None, *, began: float, status: int, outcome: str, request_id: str
    ) -> None:
        """Log a request that has ended, if it is slow or sampled; ``began`` is in the time of ``time.monotonic``."""
        now = time.monotonic()
        seconds = now - began
        is_slow = self._slow_s is not None and seconds >= self._slow_s and self._may_warn(now)
        if not is_slow and not (self._share and self._draw() < self._share):
            return
        target: bytes = scope.get("raw_path") or b""
        if scope.get("query_string"):
            target += b"?" + scope["query_string"]
        fields: dict[str, Any] = {
            "request_id": request_id,
            "method": escaped(scope["method"].encode()),
            "target": escaped(target),
            "status": status,
            "outcome": outcome,
            "seconds": round(seconds, 6),
            "endpoint": call.request.endpoint if call is not None else "",
            "backend": call.backend if call is not None else "",
        }
        parts = breakdown_ms(call, began, seconds)
        usual = usual_ms(call) if is_slow else {}
        template = "%s %s -> %d %s in %.1f ms%s"
        where = " (" + ", ".join(f"{name} {ms:.1f}" for name, ms in parts.items()) + ")" if parts else ""
        if usual:
            where += " usual: " + ", ".join(f"{name} {ms:.4g}" for name, ms in usual.items())
            fields["usual_ms"] = usual
        arguments = (fields["method"], fields["target"], status, outcome, 1000 * seconds, where)
        logger, level = (slow, logging.WARNING) if is_slow else (access, logging.INFO)
        logger.log(level, template, *arguments, extra={FIELDS: {**fields, "breakdown_ms": parts}})

    def _may_warn(self, now: float) -> bool:
        held_back = self._budget.take("slow", now)
        if held_back:
            slow.warning("%d more lines about slow requests were held back", held_back)
        return held_back is not None


def breakdown_ms(call: Call | None, began: float, seconds: float) -> dict[str, float]:
    """Where a request's time went, in milliseconds: waiting in the router for a replica, waiting in the replica for its
    turn or batch, in user code, and the remainder, on the network. Empty if it was not sent to a replica."""
    if call is None or not call.sent_at:
        return {}
    parts = {
        "queue": 1000 * max(0.0, call.sent_at - began),
        "batch wait": call.waited_us / 1000,
        "processing": call.ran_us / 1000,
    }
    parts["network"] = max(0.0, 1000 * seconds - sum(parts.values()))
    return {name: round(ms, 3) for name, ms in parts.items()}


def usual_ms(call: Call | None) -> dict[str, float]:
    """Percentiles and mean of the calls that went the same way before, of this process and since the traffic policy was
    changed, in milliseconds, with their count; empty if there were few."""
    tally = call.tally.tally() if call is not None and call.tally is not None else Tally()
    usual = {name: value for name, value in latency_ms(tally).items() if value is not None}
    return usual if usual["count"] >= FEW else {}


FEW = 20
DELIVERED, REFUSED, FAILED, ABORTED = OUTCOMES
UNMATCHED = "unmatched"


def outcome_of(answer: ErrorAnswer) -> str:
    """The outcome of a request that is answered with this error."""
    if answer.status in (502, 504):
        return FAILED
    return DELIVERED if answer.status == 500 or answer.reason is Reason.BAD_BODY else REFUSED


class Exchange:
    """One HTTP request and its outcome.

    Args:
        metrics: where it is counted; None to count nothing.
        log: called when the exchange ends; None disables request logging.
        scope: ASGI scope of the request.

    Attributes:
        call: made of the request; None before, and once the exchange has ended.
        span: of the request; None unless it is traced.
        streams: whether the answer has begun to stream; see :meth:`begins_to_stream`.
    """

    __slots__ = (
        "_arrived",
        "_ended",
        "_endpoint",
        "_first_byte",
        "_log",
        "_metrics",
        "_outcome",
        "_reason",
        "_route",
        "_scope",
        "call",
        "span",
        "streams",
    )

    def __init__(self, metrics: HTTPMetrics | None, log: RequestLog | None, scope: Scope) -> None:
        self._metrics = metrics
        self._log = log
        self._scope: Scope | None = scope if log is not None else None
        self._arrived = time.monotonic()
        self._route = self._endpoint = ""
        self._outcome = DELIVERED
        self._reason = ""
        self._ended = False
        self._first_byte = False
        self.call: Call | None = None
        self.span: Span | None = None
        self.streams = False

    def matched(self, route: str, endpoint: str = "") -> None:
        """Record the request's route, and the endpoint that the route belongs to."""
        self._route, self._endpoint = route, endpoint
        if self._metrics is not None:
            self._metrics.arrived(route)

    def fails_with(self, answer: ErrorAnswer) -> None:
        """Record that the answer is an error."""
        self._outcome, self._reason = outcome_of(answer), answer.reason

    def begins_to_stream(self) -> None:
        """Record that the head of the answer was sent, and its body comes chunk by chunk."""
        self.streams = True
        if self.call is not None and self.call.tally is not None and not self._first_byte:
            self._first_byte = True
            self.call.tally.waited(time.monotonic() - self._arrived)

    def broke(self, reason: Reason) -> None:
        """Record that the answer broke off after it had begun."""
        self._outcome, self._reason = ABORTED, reason

    def client_left(self) -> None:
        """Record that the client disconnected before its answer was complete. Ends the exchange, unless the answer is
        being streamed: then the end of the stream does."""
        if self._ended:
            return
        if self.streams:
            self.broke(Reason.CLIENT_GONE)
            return
        started = self.call is not None and self.call.remote is not None
        self._outcome = FAILED if started else REFUSED
        self._reason = Reason.CLIENT_GONE
        self.end()

    def end(self, status: int = 0) -> None:
        """End the exchange: the answer was written, or never will be. Calls after the first have no effect."""
        if self._ended:
            return
        self._ended = True
        if self._log is not None and self._scope is not None:
            scope, self._scope = self._scope, None
            self._log.record(
                scope,
                self.call,
                began=self._arrived,
                status=status,
                outcome=self._outcome,
                request_id=request_id_of(scope["headers"]),
            )
        if self.span is not None:
            self._end_span(self.span, status)
        call, self.call = self.call, None  # the call's future may refer to the exchange: no cycle may be left
        metrics, now = self._metrics, time.monotonic()
        if call is not None and call.tally is not None:
            # hot: the usual end first
            if not self._first_byte and (self._outcome is DELIVERED or self._reason != Reason.CLIENT_GONE):
                call.tally.count(now - self._arrived, status >= 500)
            elif not self._first_byte:
                call.tally.waited(now - self._arrived)
            elif self._reason != Reason.CLIENT_GONE:
                call.tally.ended(status >= 500 or self._outcome == ABORTED)
        if metrics is None:
            return
        if not self._route:
            self.matched(UNMATCHED)
        backend = call.backend if call is not None else ""
        end = (self._endpoint, self._route, self._outcome, self._reason, backend)
        metrics.ended(end, now - self._arrived)

    def trace(self, tracer: Tracer, call: Call) -> None:
        """Begin the request's span, and put it into the call's headers, so that the replica's span is its child."""
        attributes = {"http.request.method": call.request.http_method, "http.route": self._route}
        name = f"{call.request.http_method} {self._route}"
        self.span = tracer.begin(name, call.request.headers, attributes, began=self._arrived)
        call.request = replace(call.request, headers=self.span.carried(call.request.headers))

    def _end_span(self, span: Span, status: int) -> None:
        call = self.call
        attributes: dict[str, str | int] = {"pointsman.outcome": self._outcome}
        if status:
            attributes["http.response.status_code"] = status
        if call is not None:
            attributes |= {
                "pointsman.endpoint": call.request.endpoint,
                "pointsman.backend": call.backend,
                "pointsman.request_id": call.request.request_id,
            }
            if call.sent_at:
                span.part("wait for a replica", self._arrived, call.sent_at)
        if self._outcome != DELIVERED or status >= 500:
            span.fail()
        span.end(attributes)
