"""OpenTelemetry: what a collector gets of a request, and that nothing is done where nobody collects."""

from __future__ import annotations

import asyncio
import http.server
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

import pointsman as serve
from tests.conftest import http_for, start_client, wait_until

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACE = f"00-{TRACE_ID}-{PARENT_ID}-01"
ERROR = 2


class Spans:
    """All that a collector was sent."""

    def __init__(self) -> None:
        self.all: list[tuple[str, Any]] = []

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            attributes = {a.key: a.value.string_value for a in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.all += [(attributes["pointsman.process"], span) for span in scope.spans]

    def named(self, name: str, process: str) -> list[Any]:
        return [span for of, span in self.all if of == process and span.name == name]

    def one(self, name: str, process: str) -> Any:
        wait_until(lambda: self.named(name, process), what=f"span {name!r} of the {process}")
        [span] = self.named(name, process)
        assert span.end_time_unix_nano >= span.start_time_unix_nano
        return span

    def child(self, parent: Any, name: str, process: str) -> Any:
        """The one child of that name."""
        found: list[Any] = []

        def look() -> bool:
            found[:] = [span for span in self.named(name, process) if span.parent_span_id == parent.span_id]
            return bool(found)

        wait_until(look, what=f"span {name!r} of the {process} below {parent.name!r}")
        [span] = found
        assert span.trace_id == parent.trace_id
        return span


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """A collector on this machine, and an environment that sends spans there."""
    spans = Spans()

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            spans.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        monkeypatch.delenv("OTEL_SDK_DISABLED", raising=False)
        yield spans
        server.shutdown()


class Outer:
    def __init__(self) -> None:
        self.inner = serve.connect().get_handle("inner")

    def __call__(self, request: serve.Request) -> str:
        from opentelemetry import trace

        with trace.get_tracer("mine").start_as_current_span("own work"):
            return str(self.inner.remote().result())


async def inner(request: Any) -> str:
    await asyncio.sleep(0)
    return "ok"


@serve.accept_batch
def fails(requests: list[serve.Request]) -> list[str]:
    raise ValueError("no")


def test_a_request_is_one_trace(spans: Spans) -> None:
    """A client's trace goes on through ingress, backend, a span of user code, and the backend that this one calls; an
    error of user code is marked (CO7)."""
    with start_client() as client, http_for(client) as http:
        for name, code in (("inner", inner), ("outer", Outer), ("fails", fails)):
            client.create_backend(name, code)
            client.create_endpoint(name, backend=name, route=f"/{name}")
        assert http.get("/outer", headers={"traceparent": TRACE}).text == "ok"
        assert http.get("/fails").status_code == 500

        front = spans.one("GET /outer", "ingress")
        assert (front.trace_id.hex(), front.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
        attributes = {a.key: a.value.string_value or a.value.int_value for a in front.attributes}
        assert attributes["pointsman.backend"] == attributes["pointsman.endpoint"] == "outer"
        assert attributes["http.response.status_code"] == 200
        assert attributes["pointsman.outcome"] == "delivered"
        spans.child(front, "wait for a replica", "ingress")
        outer = spans.child(front, "outer", "replica")
        spans.child(outer, "wait in replica", "replica")
        spans.child(outer, "user code", "replica")
        own = spans.child(outer, "own work", "replica")
        called = spans.child(own, "inner", "replica")
        assert front.start_time_unix_nano <= outer.start_time_unix_nano <= called.start_time_unix_nano

        failed = spans.one("GET /fails", "ingress")
        assert failed.trace_id != front.trace_id
        assert failed.status.code == ERROR
        assert spans.child(failed, "fails", "replica").status.code == ERROR


def test_without_a_collector_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenTelemetry is installed, and nobody has said where spans should go: replicas do not even load it."""
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER"):
        monkeypatch.delenv(name, raising=False)

    def modules(request: serve.Request) -> bool:  # within, so that a replica need not import this file
        return any(name.startswith("opentelemetry") for name in sys.modules)

    with start_client() as client:
        client.create_backend("modules", modules)
        client.create_endpoint("modules", backend="modules")
        assert client.get_handle("modules").remote().result() is False


def test_a_collector_that_is_away_costs_spans_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector is down: requests are answered as ever, and the instance ends in time."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with start_client() as client, http_for(client) as http:
        client.create_backend("inner", inner)
        client.create_endpoint("inner", backend="inner", route="/inner")
        assert [http.get("/inner").text for _ in range(20)] == ["ok"] * 20
