"""Metrics of a replica, as one of its threads writes them with each call."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pointsman.replica.item import Item
from pointsman.telemetry import families
from pointsman.telemetry.values import Histogram
from pointsman.telemetry.writer import ByLabels, MetricsWriter


class Recorder:
    """Metrics written by one thread."""

    # hot: values are written in place where each call does it; `inc()` is one more method call (decision 0020)

    def __init__(self, writer: MetricsWriter, backend: str, replica: str) -> None:
        self._writer = writer
        self._names = names = (backend, replica)
        self._requests = writer.counter(families.BACKEND_REQUESTS, backend)
        self._errors = writer.counter(families.BACKEND_ERRORS, backend)
        self._queued = writer.gauge(families.QUEUED_QUERIES, *names)
        self._processing = writer.gauge(families.PROCESSING_QUERIES, *names)
        self._sizes: Histogram | None = None  # made at the first batch, since most backends do not batch
        self._queuing = writer.histogram(families.QUEUING_LATENCY, *names)
        self._latencies: ByLabels[int, Histogram] = ByLabels(
            lambda size: writer.histogram(families.PROCESSING_LATENCY, *names, families.size_label(size))
        )

    def arrived(self) -> None:
        """Count a call that was admitted."""
        queued = self._queued
        queued.values[queued.at] += 1.0

    def started(self, items: Sequence[Item], now: float) -> None:
        """Record that user code is about to be called with these, as one batch."""
        size = len(items)
        queued, processing = self._queued, self._processing
        queued.values[queued.at] -= size
        processing.values[processing.at] += size
        if items[0].method.batches:
            if self._sizes is None:
                self._sizes = self._writer.histogram(families.BATCH_SIZE, *self._names)
            self._sizes.observe(size)
        for item in items:
            self._queuing.observe((now - item.arrived) * 1000.0)

    def ran(self, began: float, size: int) -> None:
        """Record that one call of user code has ended, and its result was processed."""
        self._latencies[size].observe((time.monotonic() - began) * 1000.0)

    def processed(self, item: Item, *, failed: bool) -> None:
        """Count a call that user code has processed. Called once, before its answer is sent."""
        item.counted = True
        requests = self._requests
        requests.values[requests.at] += 1.0
        if failed:
            self._errors.inc()

    def closed(self, item: Item) -> None:
        """Record that a call has left the replica."""
        gauge = self._processing if item.began else self._queued
        gauge.values[gauge.at] -= 1.0
        if item.began and not item.counted:
            self._requests.inc()

    def failed_late(self, item: Item) -> None:
        """Count the error of a call that :meth:`processed` has not counted."""
        if item.began and not item.counted:
            self._errors.inc()
