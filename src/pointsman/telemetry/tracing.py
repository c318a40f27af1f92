"""OpenTelemetry spans: one for each request in the ingress, with its wait for a replica, and one for each query in a
replica, with its wait there. Spans of user code become children of the latter.

Only where the ``otel`` extra is installed and the variables of OpenTelemetry say where spans go; elsewhere nothing is
imported and nothing is done. The only module that knows OpenTelemetry. Times are in the time of ``time.monotonic``.
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

TRACE_HEADERS = frozenset((b"traceparent", b"tracestate"))
"""W3C Trace Context: what ties the spans of a request together."""
WHERE = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Any of these variables switches tracing on."""
API = "opentelemetry.trace"
FLUSH_S = 1.0


class Span:
    """A span that has begun.

    Args:
        tracer: OpenTelemetry's.
        span: its span.
    """

    def __init__(self, tracer: Any, span: Any) -> None:
        self._tracer = tracer
        self._span = span

    def carried(self, headers: Sequence[tuple[bytes, bytes]]) -> Headers:
        """A request's headers as they go on from here: whoever gets them is a child of this span."""
        return [*(header for header in headers if header[0] not in TRACE_HEADERS), *_headers_of(self._span)]

    def part(self, name: str, began: float, ended: float) -> None:
        """A child that is over."""
        context = _api().set_span_in_context(self._span)
        self._tracer.start_span(name, context=context, start_time=_epoch_ns(began)).end(_epoch_ns(ended))

    def enter(self) -> object:
        """Make this the span of which others that begin here are children; gives what :meth:`leave` wants."""
        from opentelemetry import context

        return context.attach(_api().set_span_in_context(self._span))

    def leave(self, entered: object) -> None:
        from opentelemetry import context

        context.detach(entered)  # type: ignore[arg-type]

    def fail(self) -> None:
        """What this span stands for went wrong."""
        self._span.set_status(_api().Status(_api().StatusCode.ERROR))

    def end(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)
        self._span.end()


class Tracer:
    """Begins spans.

    Args:
        provider: OpenTelemetry's, with its exporter.
    """

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("pointsman")

    def begin(self, name: str, headers: Sequence[tuple[bytes, bytes]], attributes: Attributes, *, began: float) -> Span:
        """Begin the span of a request, as a child of what its headers name."""
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
        """Send what has not left yet, within a second: a collector that is away must not keep a process from ending."""
        flushing = threading.Thread(target=self._provider.force_flush, name="pointsman-spans", daemon=True)
        flushing.start()
        flushing.join(FLUSH_S)


def current_headers() -> Headers:
    """Headers that make a call a child of the present span of user code; none where there is no such span."""
    api = sys.modules.get(API)
    return [] if api is None else _headers_of(api.get_current_span())


_tracer: Tracer | None = None


def tracer() -> Tracer | None:
    """This process's tracer; None where nothing is traced."""
    return _tracer


def set_up(process: str) -> None:
    """Begin to trace in this process, if that is wanted and can be done.

    Args:
        process: what this process is, such as ``ingress``.
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
    """Send what has not left yet."""
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
    trace.set_tracer_provider(provider)  # so that spans of user code leave by the same door
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
