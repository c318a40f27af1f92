"""OpenTelemetry spans: one for each request in the ingress and one for each call in a replica, each with its time in
the queue. Spans of user code are children of the replica's span.

Spans are recorded only if the ``otel`` extra is installed and OpenTelemetry's variables name an exporter (decision
0028); otherwise nothing is imported. The only module that imports OpenTelemetry. Times are those of ``time.monotonic``.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

log = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]
Attributes = Mapping[str, "str | int | float | bool"]

#: The headers of W3C Trace Context, which link the spans of a request.
TRACE_HEADERS = frozenset((b"traceparent", b"tracestate"))
#: Each of these variables switches tracing on.
WHERE = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
API = "opentelemetry.trace"
FLUSH_S = 1.0


class Span:
    """A started span.

    Args:
        tracer: the OpenTelemetry tracer.
        span: the OpenTelemetry span.
    """

    def __init__(self, tracer: Any, span: Any) -> None:
        self._tracer = tracer
        self._span = span

    def carried(self, headers: Sequence[tuple[bytes, bytes]]) -> Headers:
        """The headers with this span as the parent, for whoever handles the request next."""
        return [*(header for header in headers if header[0] not in TRACE_HEADERS), *_headers_of(self._span)]

    def part(self, name: str, began: float, ended: float) -> None:
        """Record a child span that has ended."""
        context = _api().set_span_in_context(self._span)
        self._tracer.start_span(name, context=context, start_time=_epoch_ns(began)).end(_epoch_ns(ended))

    def enter(self) -> object:
        """Make this the current span. Returns the token for :meth:`leave`."""
        from opentelemetry import context

        return context.attach(_api().set_span_in_context(self._span))

    def leave(self, entered: object) -> None:
        from opentelemetry import context

        context.detach(entered)  # type: ignore[arg-type]

    def fail(self) -> None:
        """Mark the span as failed."""
        self._span.set_status(_api().Status(_api().StatusCode.ERROR))

    def end(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)
        self._span.end()


class Tracer:
    """Starts spans.

    Args:
        provider: the OpenTelemetry tracer provider, with its exporter.
    """

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("pointsman")

    def begin(self, name: str, headers: Sequence[tuple[bytes, bytes]], attributes: Attributes, *, began: float) -> Span:
        """Start the span of a request, as a child of the span in its headers."""
        from opentelemetry.propagate import extract

        carrier = {key.decode("latin-1"): value.decode("latin-1") for key, value in headers if key in TRACE_HEADERS}
        span = self._tracer.start_span(
            name,
            context=extract(carrier),
            kind=_api().SpanKind.SERVER,
            attributes=attributes,
            start_time=_epoch_ns(began),
        )
        return Span(self._tracer, span)

    def close(self) -> None:
        """Export pending spans, for at most a second: an unreachable collector must not keep a process from exiting."""
        flushing = threading.Thread(target=self._provider.force_flush, name="pointsman-spans", daemon=True)
        flushing.start()
        flushing.join(FLUSH_S)


def current_headers() -> Headers:
    """Headers that make a call a child of the current span of user code; empty if there is none."""
    api = sys.modules.get(API)
    return [] if api is None else _headers_of(api.get_current_span())


_tracer: Tracer | None = None


def tracer() -> Tracer | None:
    """The tracer of this process; None if nothing is traced."""
    return _tracer


def set_up(process: str) -> None:
    """Set up tracing in this process, if it is switched on and OpenTelemetry is installed.

    Args:
        process: the role of this process, such as ``ingress``.
    """
    global _tracer
    wanted = [name for name in WHERE if os.environ.get(name, "none") != "none"]
    if not wanted or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    if importlib.util.find_spec("opentelemetry") is None:
        log.debug("%s is set, and OpenTelemetry is not installed; in a clone: pip install '.[otel]'", wanted[0])
        return
    try:
        _tracer = Tracer(_provider(process))
    except ImportError as error:
        log.warning("%s is set, and nothing can be traced: %s", wanted[0], error)


def close() -> None:
    """Export pending spans."""
    if _tracer is not None:
        _tracer.close()


def _provider(process: str) -> Any:
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

    resource = Resource.create({"pointsman.process": process})
    if os.environ.get("OTEL_SERVICE_NAME") is None and resource.attributes["service.name"] == "unknown_service":
        resource = resource.merge(Resource({"service.name": "pointsman"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    if os.environ.get("OTEL_TRACES_EXPORTER") == "console":
        exporter: Any = ConsoleSpanExporter()
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)  # so that spans of user code go to the same exporter
    return provider


def _api() -> Any:
    return sys.modules[API]


def _headers_of(span: Any) -> Headers:
    context = span.get_span_context()
    if not context.is_valid:
        return []
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    state = context.trace_state.to_header()
    headers = [(b"traceparent", parent.encode())]
    return [*headers, (b"tracestate", state.encode())] if state else headers


def _epoch_ns(monotonic_s: float) -> int:
    return time.time_ns() - int((time.monotonic() - monotonic_s) * 1e9)
