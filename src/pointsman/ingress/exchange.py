"""One HTTP request from its arrival until it is known what became of it.

Each ends in exactly one outcome:

    delivered   user code ran, and its answer arrived whole; an exception of user code is an answer, too
    refused     never given to user code
    failed      may have run, and there is no answer to be had
    aborted     the answer had begun, and broke
"""

from __future__ import annotations

import time

from pointsman.ingress.codec import ErrorAnswer, Scope, request_id_of
from pointsman.ingress.metrics import HTTPMetrics
from pointsman.ingress.requestlog import RequestLog
from pointsman.model import Reason
from pointsman.routing.call import Call
from pointsman.telemetry.families import OUTCOMES
from pointsman.telemetry.tracing import Span, Tracer

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
        attributes = {"http.request.method": call.http_method, "http.route": self._route}
        name = f"{call.http_method} {self._route}"
        self.span = tracer.begin(name, call.headers, attributes, began=self._arrived)
        call.headers = self.span.carried(call.headers)

    def _end_span(self, span: Span, status: int) -> None:
        call = self.call
        attributes: dict[str, str | int] = {"pointsman.outcome": self._outcome}
        if status:
            attributes["http.response.status_code"] = status
        if call is not None:
            attributes |= {
                "pointsman.endpoint": call.endpoint,
                "pointsman.backend": call.backend,
                "pointsman.request_id": call.request_id,
            }
            if call.sent_at:
                span.part("wait for a replica", self._arrived, call.sent_at)
        if self._outcome != DELIVERED or status >= 500:
            span.fail()
        span.end(attributes)
