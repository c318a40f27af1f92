"""What watches a replica at work: its book of metrics, and its tracer."""

from __future__ import annotations

from pathlib import Path

from pointsman.replica.metrics import ReplicaMetrics
from pointsman.replica.traced import TracedRecorder
from pointsman.telemetry import families, tracing
from pointsman.telemetry.book import Book, set_process_book
from pointsman.telemetry.lag import LoopLag


def open_metrics(folder: Path, backend: str, replica: str, start_reason: str) -> ReplicaMetrics:
    """Open this process's book, from now on also for metrics of user code, and note the replica's start; make spans
    beside, where the process traces."""
    book = Book.open(folder, "replica")
    set_process_book(book)
    metrics = ReplicaMetrics(book, backend, replica)
    tracer = tracing.tracer()
    if tracer is not None:
        metrics.loop = TracedRecorder(metrics.loop, tracer, backend, replica, on_thread=False)
        metrics.thread = TracedRecorder(metrics.thread, tracer, backend, replica, on_thread=True)
    if book is not None:
        book.counter(families.REPLICA_STARTS, backend, replica, start_reason).inc()
        LoopLag(book.gauge(families.LOOP_LAG, "replica"))
        metrics.start()
    return metrics
