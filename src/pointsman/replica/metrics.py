"""What a replica counts. Two threads write, each into cells of its own: the event loop, and that of sync user code."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pointsman.replica.item import Item
from pointsman.replica.promclient import PrometheusBridge
from pointsman.telemetry import families
from pointsman.telemetry.book import Book, Histogram


class Recorder:
    """The cells of one thread."""

    def __init__(self, book: Book, backend: str, replica: str) -> None:
        self._book = book
        self._names = (backend, replica)
        self._requests = book.counter(families.BACKEND_REQUESTS, backend)
        self._errors = book.counter(families.BACKEND_ERRORS, backend)
        self._queued = book.gauge(families.QUEUED_QUERIES, *self._names)
        self._processing = book.gauge(families.PROCESSING_QUERIES, *self._names)
        self._queuing = book.histogram(families.QUEUING_LATENCY, *self._names)
        self._sizes = book.histogram(families.BATCH_SIZE, *self._names)
        self._latencies: dict[int, Histogram] = {}

    def arrived(self) -> None:
        """A query is in the replica."""
        self._queued.add(1.0)

    def started(self, items: Sequence[Item], now: float) -> None:
        """User code is about to see these, as one batch."""
        self._queued.add(-len(items))
        self._processing.add(len(items))
        self._sizes.observe(len(items))
        for item in items:
            self._queuing.observe((now - item.arrived) * 1000.0)

    def ran(self, began: float, size: int) -> None:
        """A call of user code is over, and what it returned or raised was dealt with."""
        latency = self._latencies.get(size)
        if latency is None:
            label = families.size_label(size)
            latency = self._book.histogram(families.PROCESSING_LATENCY, *self._names, label)
            self._latencies[size] = latency
        latency.observe((time.monotonic() - began) * 1000.0)

    def processed(self, item: Item, *, failed: bool) -> None:
        """User code is done with a query. Told before its answer leaves, and once."""
        item.counted = True
        self._requests.inc()
        if failed:
            self._errors.inc()

    def closed(self, item: Item) -> None:
        """A query is out of the replica, one way or another."""
        if not item.began:
            self._queued.add(-1.0)
            return
        self._processing.add(-1.0)
        if not item.counted:
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
