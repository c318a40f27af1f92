"""Metrics that user code makes with prometheus-client: once a second they are copied into the replica's book.

Nothing is done, and nothing imported, unless user code has imported it.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from pointsman.telemetry import families
from pointsman.telemetry.book import Book, Cell, Series
from pointsman.telemetry.collector import Labels, Numbers
from pointsman.telemetry.families import Kind

log = logging.getLogger(__name__)

EVERY_S = 1.0
LIBRARY = "prometheus_client"
_OURS = frozenset(family.name for family in families.ALL_FAMILIES)

Found = tuple[str, Kind, str, Labels, tuple[float, ...], Numbers]


class PrometheusBridge:
    """Copies the library's default registry.

    Args:
        book: the replica's.
        backend, replica: tags that each series gets, unless it has them.
    """

    def __init__(self, book: Book, backend: str, replica: str) -> None:
        self._book = book
        self._tags = (("backend", backend), ("replica", replica))
        self._cells: dict[tuple[str, Labels], tuple[Cell, int]] = {}
        self._own: frozenset[str] = frozenset()
        self._ended = threading.Event()
        # A thread, since collectors of the user's may take their time.
        self._thread = threading.Thread(target=self._run, name="pointsman-prometheus", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Copy once more, and end."""
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
        if not self._own:  # what the library says of the process and of Python is not what user code counts
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
        known = self._cells.get((name, labels))
        if known is None:
            have = dict(labels)
            tags = (*labels, *(tag for tag in self._tags if tag[0] not in have))
            series = Series(name, kind, text, tags, bounds, user=True)
            known = self._cells[name, labels] = (self._book.series(series), series.width)
        cell, width = known
        if len(numbers) == width:
            cell.fill(numbers)


def series_of(metric: Any) -> Iterator[Found]:
    """The series of one of the library's metric families, as books hold them. Pure."""
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
