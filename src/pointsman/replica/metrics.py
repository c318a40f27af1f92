"""What a replica counts. Two threads write, each into cells of its own: the event loop, and that of sync user code."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property

from pointsman.replica.item import Item
from pointsman.replica.promclient import PrometheusBridge
from pointsman.telemetry import families
from pointsman.telemetry.book import Book, Cells, Histogram


class Recorder:
    """The cells of one thread."""

    def __init__(self, book: Book, backend: str, replica: str) -> None:
        self._book = book
        self._names = names = (backend, replica)
        self._requests = book.counter(families.BACKEND_REQUESTS, backend)
        self._errors = book.counter(families.BACKEND_ERRORS, backend)
        self._queued = book.gauge(families.QUEUED_QUERIES, *names)
        self._processing = book.gauge(families.PROCESSING_QUERIES, *names)
        self._queuing = book.histogram(families.QUEUING_LATENCY, *names)
        self._latencies: Cells[int, Histogram] = Cells(
            lambda size: book.histogram(families.PROCESSING_LATENCY, *names, families.size_label(size))
        )

    @cached_property
    def _sizes(self) -> Histogram:
        """Made with the first batch: most backends have none."""
        return self._book.histogram(families.BATCH_SIZE, *self._names)

    def arrived(self) -> None:
        """A query is in the replica."""
        queued = self._queued
        queued.values[queued.at] += 1.0

    def started(self, items: Sequence[Item], now: float) -> None:
        """User code is about to see these, as one batch."""
        size = len(items)
        queued, processing = self._queued, self._processing
        queued.values[queued.at] -= size
        processing.values[processing.at] += size
        if items[0].method.batches:
            self._sizes.observe(size)
        for item in items:
            self._queuing.observe((now - item.arrived) * 1000.0)

    def ran(self, began: float, size: int) -> None:
        """A call of user code is over, and what it returned or raised was dealt with."""
        self._latencies[size].observe((time.monotonic() - began) * 1000.0)

    def processed(self, item: Item, *, failed: bool) -> None:
        """User code is done with a query. Told before its answer leaves, and once."""
        item.counted = True
        requests = self._requests
        requests.values[requests.at] += 1.0
        if failed:
            self._errors.inc()

    def closed(self, item: Item) -> None:
        """A query is out of the replica, one way or another."""
        gauge = self._processing if item.began else self._queued
        gauge.values[gauge.at] -= 1.0
        if item.began and not item.counted:
            self._requests.inc()

    def failed_late(self, item: Item) -> None:
        """A query that was not counted yet has failed; :meth:`closed` has been told or will be."""
        if item.began and not item.counted:
            self._errors.inc()


class NoRecorder:
    """Stands in for a :class:`Recorder` where nothing is recorded."""

    def arrived(self) -> None: ...

    def started(self, items: Sequence[Item], now: float) -> None: ...

    def ran(self, began: float, size: int) -> None: ...

    def processed(self, item: Item, *, failed: bool) -> None: ...

    def closed(self, item: Item) -> None: ...

    def failed_late(self, item: Item) -> None: ...


class ReplicaMetrics:
    """Both recorders of a replica.

    Args:
        book: the process's; None to record nothing.
        backend, replica: tags of both.
    """

    def __init__(self, book: Book | None, backend: str = "", replica: str = "") -> None:
        self._bridge = PrometheusBridge(book, backend, replica) if book is not None else None
        self.loop: Recorder | NoRecorder = Recorder(book, backend, replica) if book is not None else NoRecorder()
        self.thread: Recorder | NoRecorder = Recorder(book, backend, replica) if book is not None else NoRecorder()

    def start(self) -> None:
        """Look for metrics of user code, too."""
        if self._bridge is not None:
            self._bridge.start()

    def close(self) -> None:
        """Look once more, and end."""
        if self._bridge is not None:
            self._bridge.close()


NO_METRICS = ReplicaMetrics(None)
