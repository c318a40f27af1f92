"""A recorder that also makes spans; takes the place of another one where the instance is traced."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pointsman.replica.item import Item
from pointsman.replica.metrics import NoRecorder, Recorder
from pointsman.telemetry.tracing import Tracer


class TracedRecorder(NoRecorder):
    """A span for each query, from its arrival until it is out of the replica, with its wait as a part.

    Args:
        recorder: told first.
        tracer: makes the spans.
        backend, replica: attributes of all of them.
        on_thread: whether calls of user code follow each other on one thread; otherwise each has a task of its own,
            which takes its context with it when it ends.
    """

    def __init__(
        self, recorder: Recorder | NoRecorder, tracer: Tracer, backend: str, replica: str, *, on_thread: bool
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
            item.span = self._tracer.begin(self._name, item.head.headers, attributes, began=item.arrived)
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
            item.span.end({"pointsman.request_id": item.head.request_id})
