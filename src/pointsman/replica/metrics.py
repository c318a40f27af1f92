"""Metrics of a replica, and its spans if the instance is traced.

Two threads write, each its own values: the event loop, and the thread of sync user code. Metrics that user code makes
with prometheus-client are copied once a second, if user code has imported that library; otherwise it is not imported.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pointsman.replica.item import Item
from pointsman.replica.recorder import Recorder
from pointsman.telemetry import families, tracing
from pointsman.telemetry.families import Kind
from pointsman.telemetry.tracing import Tracer
from pointsman.telemetry.values import SeriesValues
from pointsman.telemetry.writer import LoopLag, MetricsWriter, Series, set_process_writer

if TYPE_CHECKING:
    from pointsman.telemetry.collector import Labels, Numbers

log = logging.getLogger(__name__)

EVERY_S = 1.0
LIBRARY = "prometheus_client"
_OURS = frozenset(family.name for family in families.ALL_FAMILIES)

Found = tuple[str, Kind, str, "Labels", tuple[float, ...], "Numbers"]


class PrometheusBridge:
    """Copies the default registry of prometheus-client into the metrics file.

    Args:
        writer: the replica's metrics writer.
        backend, replica: tags that each series gets, unless it has them.
    """

    def __init__(self, writer: MetricsWriter, backend: str, replica: str) -> None:
        self._writer = writer
        self._tags = (("backend", backend), ("replica", replica))
        self._known: dict[tuple[str, Labels], tuple[SeriesValues, int]] = {}
        self._own: frozenset[str] = frozenset()
        self._ended = threading.Event()
        # A thread, since collectors are user code and may be slow.
        self._thread = threading.Thread(target=self._run, name="pointsman-prometheus", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Copy once more, and end the thread."""
        self._ended.set()
        self._thread.join(timeout=EVERY_S)

    def _run(self) -> None:
        ended = False
        while not ended:
            ended = self._ended.wait(EVERY_S)
            library = sys.modules.get(LIBRARY)
            if library is not None and hasattr(library, "REGISTRY"):
                try:
                    self._copy(library)
                except Exception as error:  # noqa: BLE001 - collectors are user code; the next turn may go better
                    log.warning("metrics of prometheus-client cannot be copied: %r", error)

    def _copy(self, library: Any) -> None:
        if not self._own:  # the library's own metrics of the process and of Python are not copied
            collectors = (library.PROCESS_COLLECTOR, library.PLATFORM_COLLECTOR, library.GC_COLLECTOR)
            self._own = frozenset(metric.name for collector in collectors for metric in collector.collect()) | {""}
        for metric in library.REGISTRY.collect():
            if metric.name not in self._own:
                for found in series_of(metric):
                    self._put(*found)

    def _put(
        self, name: str, kind: Kind, text: str, labels: Labels, bounds: tuple[float, ...], numbers: Numbers
    ) -> None:
        if name in _OURS:
            return
        known = self._known.get((name, labels))
        if known is None:
            have = dict(labels)
            tags = (*labels, *(tag for tag in self._tags if tag[0] not in have))
            series = Series(name, kind, text, tags, bounds, user=True)
            known = self._known[name, labels] = (self._writer.series(series), series.width)
        values, width = known
        if len(numbers) == width:
            values.fill(numbers)


def series_of(metric: Any) -> Iterator[Found]:
    """The series of one metric family of prometheus-client, in the form of metrics files. Pure."""
    if metric.type == "histogram":
        yield from _histograms(metric)
        return
    for sample in metric.samples:
        if sample.name.endswith("_created"):
            continue
        counts = metric.type == "counter" or (metric.type == "summary" and sample.name != metric.name)
        labels = tuple(sample.labels.items())
        yield sample.name, "counter" if counts else "gauge", metric.documentation, labels, (), (float(sample.value),)


def _histograms(metric: Any) -> Iterator[Found]:
    buckets: dict[Labels, list[tuple[float, float]]] = {}
    sums: dict[Labels, float] = {}
    for sample in metric.samples:
        labels = tuple((key, value) for key, value in sample.labels.items() if key != "le")
        if sample.name == f"{metric.name}_bucket":
            buckets.setdefault(labels, []).append((float(sample.labels["le"]), float(sample.value)))
        elif sample.name == f"{metric.name}_sum":
            sums[labels] = float(sample.value)
    for labels, cumulative in buckets.items():
        cumulative.sort()
        bounds = tuple(bound for bound, _ in cumulative[:-1])
        numbers = (*_steps(count for _, count in cumulative), sums.get(labels, 0.0))
        yield metric.name, "histogram", metric.documentation, labels, bounds, numbers


def _steps(cumulative: Iterable[float]) -> Iterator[float]:
    before = 0.0
    for count in cumulative:
        yield count - before
        before = count


class NullRecorder:
    """Stands in for a :class:`Recorder` where nothing is recorded."""

    def arrived(self) -> None: ...

    def started(self, items: Sequence[Item], now: float) -> None: ...

    def ran(self, began: float, size: int) -> None: ...

    def processed(self, item: Item, *, failed: bool) -> None: ...

    def closed(self, item: Item) -> None: ...

    def failed_late(self, item: Item) -> None: ...


class ModelRecorder:
    """Counts the loads of models, on the loop.

    Args:
        writer: metrics writer of this process; None to record nothing.
        names: tags of backend and replica.
    """

    def __init__(self, writer: MetricsWriter | None, *names: str) -> None:
        self._writer = writer
        if writer is not None:
            self._models = writer.gauge(families.MODELS, *names)
            self._loads = writer.counter(families.MODEL_LOADS, *names)
            self._unloads = writer.counter(families.MODEL_UNLOADS, *names)
            self._latency = writer.histogram(families.MODEL_LOAD_LATENCY, *names)

    def loaded(self, seconds: float, number: int) -> None:
        """A model was loaded in so many seconds, and there are ``number`` now."""
        if self._writer is not None:
            self._loads.inc()
            self._latency.observe(seconds * 1000.0)
            self._models.set(number)

    def unloaded(self, number: int) -> None:
        """A model was unloaded, and there are ``number`` now."""
        if self._writer is not None:
            self._unloads.inc()
            self._models.set(number)


class ReplicaMetrics:
    """Metrics of a replica: a recorder for each of its two threads, and the copy of user code's metrics.

    Args:
        writer: metrics writer of this process; None to record nothing.
        backend, replica: tags of all series.
    """

    def __init__(self, writer: MetricsWriter | None, backend: str = "", replica: str = "") -> None:
        self._bridge = PrometheusBridge(writer, backend, replica) if writer is not None else None
        self.loop: Recorder | NullRecorder = (
            Recorder(writer, backend, replica) if writer is not None else NullRecorder()
        )
        self.thread: Recorder | NullRecorder = (
            Recorder(writer, backend, replica) if writer is not None else NullRecorder()
        )

        self._of_models = writer, backend, replica

    def of_models(self) -> ModelRecorder:
        """A recorder of the replica's models."""
        return ModelRecorder(*self._of_models)

    def start(self) -> None:
        """Begin to copy metrics of user code."""
        if self._bridge is not None:
            self._bridge.start()

    def close(self) -> None:
        """Copy metrics of user code once more, and end."""
        if self._bridge is not None:
            self._bridge.close()


NO_METRICS = ReplicaMetrics(None)


class TracedRecorder(NullRecorder):
    """Makes a span for each call, from its arrival until it leaves the replica, with child spans for its wait and for
    user code.

    Args:
        recorder: records the metrics.
        tracer: makes the spans.
        backend, replica: attributes of all spans.
        on_thread: whether calls run one after the other on a thread, whose context must be restored after each.
            Otherwise each call has its own task, and the context ends with it.
    """

    def __init__(
        self, recorder: Recorder | NullRecorder, tracer: Tracer, backend: str, replica: str, *, on_thread: bool
    ) -> None:
        self._recorder = recorder
        self._tracer = tracer
        self._attributes = {"pointsman.backend": backend, "pointsman.replica": replica}
        self._name = backend
        self._on_thread = on_thread
        self._entered: tuple[Item, object] | None = None

    def arrived(self) -> None:
        self._recorder.arrived()

    def started(self, items: Sequence[Item], now: float) -> None:
        self._recorder.started(items, now)
        for item in items:
            attributes: dict[str, str | int] = {**self._attributes, "pointsman.batch_size": len(items)}
            item.span = self._tracer.begin(self._name, item.request.headers, attributes, began=item.arrived)
            item.span.part("wait in replica", item.arrived, now)
        first = items[0]
        assert first.span is not None
        entered = first.span.enter()
        if self._on_thread:
            self._entered = (first, entered)

    def ran(self, began: float, size: int) -> None:
        if self._entered is not None:
            item, entered = self._entered
            self._entered = None
            assert item.span is not None
            item.span.leave(entered)
        self._recorder.ran(began, size)

    def processed(self, item: Item, *, failed: bool) -> None:
        self._recorder.processed(item, failed=failed)
        if failed and item.span is not None:
            item.span.fail()

    def failed_late(self, item: Item) -> None:
        self._recorder.failed_late(item)
        if item.span is not None:
            item.span.fail()

    def closed(self, item: Item) -> None:
        self._recorder.closed(item)
        if item.span is not None:
            item.span.part("user code", item.began, time.monotonic())
            item.span.end({"pointsman.request_id": item.request.request_id})


def open_metrics(folder: Path, backend: str, replica: str, start_reason: str) -> ReplicaMetrics:
    """Open this process's metrics file, also for metrics of user code, and count the replica's start. Makes spans too
    if the process is traced."""
    writer = MetricsWriter.open(folder, "replica")
    set_process_writer(writer)
    metrics = ReplicaMetrics(writer, backend, replica)
    tracer = tracing.tracer()
    if tracer is not None:
        metrics.loop = TracedRecorder(metrics.loop, tracer, backend, replica, on_thread=False)
        metrics.thread = TracedRecorder(metrics.thread, tracer, backend, replica, on_thread=True)
    if writer is not None:
        writer.counter(families.REPLICA_STARTS, backend, replica, start_reason).inc()
        LoopLag(writer.gauge(families.LOOP_LAG, "replica"))
        metrics.start()
    return metrics
