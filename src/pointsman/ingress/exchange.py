"""One HTTP request from its arrival until it is known what became of it: counted, logged, traced.

Each ends in exactly one outcome:

    delivered   user code ran, and its answer arrived whole; an exception of user code is an answer, too
    refused     never given to user code
    failed      may have run, and there is no answer to be had
    aborted     the answer had begun, and broke

A sample of all requests gets a log line, and those that took long get one that says where their time went.
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
from pointsman.routing.call import Call
from pointsman.telemetry import families
from pointsman.telemetry.families import OUTCOMES
from pointsman.telemetry.logs import FIELDS, WarningBudget, escaped
from pointsman.telemetry.tracing import Span, Tracer
from pointsman.telemetry.writer import ByLabels, Counter, Histogram, MetricsWriter

End = tuple[str, str, str, str, str]
"""Endpoint, route, outcome and reason of a request, and its backend; the first is empty where the route is none's, and
the last where it has not got as far as that."""


class HTTPMetrics:
    """Values by route, endpoint and backend; those are configured names, so their number is bounded.

    Args:
        writer: the process's.
    """

    def __init__(self, writer: MetricsWriter) -> None:
        self._writer = writer
        self._arrived: ByLabels[str, Counter] = ByLabels(lambda route: writer.counter(families.HTTP_REQUESTS, route))
        self._ends: ByLabels[End, tuple[Counter, Histogram | None]] = ByLabels(self._end)

    def arrived(self, route: str) -> None:
        """A request, by the template that it matched."""
        counter = self._arrived[route]
        counter.values[counter.at] += 1.0

    def ended(self, end: End, seconds: float) -> None:
        """What became of a request, and how long it took if it had got as far as to a backend."""
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
    """Decides what is said of a request that is over.

    Args:
        share: of the requests that get a line, from 0 to 1.
        slow_s: requests that took at least so many seconds get a line, up to 10 a second; None for none.
        draw: gives numbers uniform in [0, 1).
    """

    def __init__(self, share: float, slow_s: float | None, *, draw: Callable[[], float] = random.random) -> None:
        self._share = share
        self._slow_s = slow_s
        self._draw = draw
        self._budget = WarningBudget()

    @property
    def is_on(self) -> bool:
        return self._share > 0 or self._slow_s is not None

    def over(
        self, scope: dict[str, Any], call: Call | None, *, began: float, status: int, outcome: str, request_id: str
    ) -> None:
        """A request is over; ``began`` is in the time of ``time.monotonic``."""
        now = time.monotonic()
        seconds = now - began
        is_slow = self._slow_s is not None and seconds >= self._slow_s and self._may_warn(now)
        if not is_slow and not (self._share and self._draw() < self._share):
            return
        target: bytes = scope.get("raw_path") or b""
        if scope.get("query_string"):
            target += b"?" + scope["query_string"]
        fields = {
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
        said = "%s %s -> %d %s in %.1f ms%s"
        where = " (" + ", ".join(f"{name} {ms:.1f}" for name, ms in parts.items()) + ")" if parts else ""
        arguments = (fields["method"], fields["target"], status, outcome, 1000 * seconds, where)
        logger, level = (slow, logging.WARNING) if is_slow else (access, logging.INFO)
        logger.log(level, said, *arguments, extra={FIELDS: {**fields, "breakdown_ms": parts}})

    def _may_warn(self, now: float) -> bool:
        held_back = self._budget.take("slow", now)
        if held_back:
            slow.warning("%d more lines about slow requests were held back", held_back)
        return held_back is not None


def breakdown_ms(call: Call | None, began: float, seconds: float) -> dict[str, float]:
    """Where a request's time went, as far as that is known: waiting in the router for a replica, waiting in the replica
    for its turn or batch, in user code, and on the way, which is the rest."""
    if call is None or not call.sent_at:
        return {}
    parts = {
        "queue": 1000 * max(0.0, call.sent_at - began),
        "batch wait": call.waited_us / 1000,
        "processing": call.ran_us / 1000,
    }
    parts["network"] = max(0.0, 1000 * seconds - sum(parts.values()))
    return {name: round(ms, 3) for name, ms in parts.items()}


DELIVERED, REFUSED, FAILED, ABORTED = OUTCOMES
UNMATCHED = "unmatched"


def outcome_of(answer: ErrorAnswer) -> str:
    """Which outcome an error answer of ours stands for."""
    if answer.status in (502, 504):
        return FAILED
    return DELIVERED if answer.status == 500 or answer.reason is Reason.BAD_BODY else REFUSED


class Exchange:
    """See the module.

    Args:
        metrics: where it is counted; None to count nothing.
        log: told when it is over; None where nothing is to be said.
        scope: the request.
    """

    __slots__ = (
        "_arrived",
        "_endpoint",
        "_log",
        "_metrics",
        "_outcome",
        "_over",
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
        self._over = False
        self.call: Call | None = None
        """What was made of it; None before, and once the exchange is over."""
        self.span: Span | None = None
        self.streams = False
        """Whether the answer has begun to stream."""

    def matched(self, route: str, endpoint: str = "") -> None:
        """It is known which route the request is for, and whose that is."""
        self._route, self._endpoint = route, endpoint
        if self._metrics is not None:
            self._metrics.arrived(route)

    def fails_with(self, answer: ErrorAnswer) -> None:
        """The client will be told of an error."""
        self._outcome, self._reason = outcome_of(answer), answer.reason

    def broke(self, reason: Reason) -> None:
        """The answer had begun, and cannot go on."""
        self._outcome, self._reason = ABORTED, reason

    def client_left(self) -> None:
        """The client has gone before its answer was whole. Ends the exchange unless the answer is being streamed."""
        if self._over:
            return
        if self.streams:
            self.broke(Reason.CLIENT_GONE)
            return
        started = self.call is not None and self.call.remote is not None
        self._outcome = FAILED if started else REFUSED
        self._reason = Reason.CLIENT_GONE
        self.over()

    def over(self, status: int = 0) -> None:
        """The answer was written, or never will be."""
        if self._over:
            return
        self._over = True
        if self._log is not None and self._scope is not None:
            scope, self._scope = self._scope, None
            self._log.over(
                scope,
                self.call,
                began=self._arrived,
                status=status,
                outcome=self._outcome,
                request_id=request_id_of(scope["headers"]),
            )
        if self.span is not None:
            self._end_span(self.span, status)
        call, self.call = self.call, None  # the call's future may point here: a cycle would wait for its collector
        metrics = self._metrics
        if metrics is None:
            return
        if not self._route:
            self.matched(UNMATCHED)
        backend = call.backend if call is not None else ""
        end = (self._endpoint, self._route, self._outcome, self._reason, backend)
        metrics.ended(end, time.monotonic() - self._arrived)

    def trace(self, tracer: Tracer, call: Call) -> None:
        """Begin a span, and send the call on as a part of it."""
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
