"""What the processes of a node have counted since the last look, read beside the collectors that merge their files.

Nothing here writes. A count is compared with what its own file had before, so it does not matter when a collector
merges the file of an ended process: what that had counted was heard while it lived, and at the last look after its end.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from math import isfinite
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from pointsman.model.evidence import Tally, TallyKey
from pointsman.telemetry import families
from pointsman.telemetry.collector import RETIRED, BrokenMetricsError, Labels, MetricsReader, Numbers
from pointsman.telemetry.counted import BEGAN, TallyReader
from pointsman.telemetry.reports import Reading
from pointsman.telemetry.tallies import NEW
from pointsman.telemetry.writer import Series

GAUGES = (families.ROUTER_QUEUED, families.QUEUED_QUERIES, families.PROCESSING_QUERIES)
COUNTS = (families.BATCH_SIZE, families.SHADOW_DROPPED)
NAMES = frozenset(family.name for family in (*GAUGES, *COUNTS))

R = TypeVar("R", TallyReader, MetricsReader)


class _Folder(Generic[R]):
    """The files of a folder, each with what was read of it before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._readers: dict[str, R] = {}
        self._unreadable: set[str] = set()

    def look(self) -> list[str]:
        """Open new files. Returns the names of those that are gone, whose readers are still open."""
        try:
            names = {name for name in os.listdir(self._folder) if not name.startswith(NEW)} - {RETIRED, BEGAN}
        except FileNotFoundError:  # nothing was counted yet
            names = set()
        for name in names - self._readers.keys() - self._unreadable:
            try:
                self._readers[name] = self.open(self._folder / name)
            except FileNotFoundError:
                pass  # it was merged just now
            except (OSError, BrokenMetricsError):
                self._unreadable.add(name)  # its collector says so in the log
        return [name for name in self._readers if name not in names]

    def open(self, path: Path) -> R:
        raise NotImplementedError

    def close(self) -> None:
        """Close all files."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()


class FreshTallies(_Folder[TallyReader]):
    """What was counted of calls since the last look. Not thread-safe.

    Args:
        folder: of the tallies.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._before: dict[str, dict[TallyKey, Tally]] = {}
        self._began = False

    def open(self, path: Path) -> TallyReader:
        return TallyReader(path)

    def read(self) -> list[tuple[TallyKey, Tally]]:
        """What has come since the last call, of each process for itself; nothing at the first one.

        Raises:
            OSError: the folder cannot be read.
        """
        gone = self.look()
        fresh: list[tuple[TallyKey, Tally]] = []
        for name, reader in self._readers.items():
            before, now = self._before.get(name, {}), dict(reader.read())
            if self._began:
                fresh += _grown(before, now.items())
            self._before[name] = now
        for name in gone:
            self._readers.pop(name).close()
            self._before.pop(name, None)
        self._began = True
        return fresh


def _grown(before: dict[TallyKey, Tally], now: Iterable[tuple[TallyKey, Tally]]) -> Iterator[tuple[TallyKey, Tally]]:
    for key, tally in now:
        earlier = before.get(key)
        if earlier is tally:
            continue
        if earlier is None or earlier.requests > tally.requests:  # its process has begun to count anew
            earlier = Tally()
        more = tally.since(earlier)
        if more.requests or more.latencies:
            yield key, more


class Gauges(NamedTuple):
    """How things stand now, and two counts since the last look.

    Attributes:
        waiting: calls that wait in routers, by endpoint and backend.
        queued, processing: calls in replicas that wait, and that user code works on, by backend.
        replicas: names of the live ones, by backend.
        batches: how many batches there were and how many calls in them, by backend.
        dropped: copies for a shadow that were not sent, by endpoint and shadow.
    """

    waiting: dict[tuple[str, str], int]
    queued: dict[str, int]
    processing: dict[str, int]
    replicas: dict[str, set[str]]
    batches: dict[str, tuple[int, float]]
    dropped: dict[tuple[str, str], int]


class FreshMetrics(_Folder[MetricsReader]):
    """The gauges of living processes, and what was counted since the last look. Not thread-safe.

    Args:
        folder: of the metrics files.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._before: dict[tuple[str, int], Numbers] = {}
        self._began = False

    def open(self, path: Path) -> MetricsReader:
        return MetricsReader(path, NAMES)

    def read(self) -> Gauges:
        """The gauges now; the counts are those since the last call, none at the first one.

        Raises:
            OSError: the folder cannot be read.
        """
        for name in self.look():
            self._readers.pop(name).close()
        gauges, counted = Gauges({}, {}, {}, {}, {}, {}), {}
        for name, reader in self._readers.items():
            if reader.ended:
                continue
            for place, (series, numbers) in enumerate(reader.read()):
                if series.kind == "gauge":
                    _add_gauge(gauges, series, numbers[0])
                elif any(numbers):
                    counted[name, place] = numbers
                    before = self._before.get((name, place)) if self._began else numbers
                    if before != numbers:
                        _add_count(gauges, series, numbers, before)
        self._before, self._began = counted, True
        return gauges


def _add_gauge(gauges: Gauges, series: Series, value: float) -> None:
    if not isfinite(value) or (not value and series.name == families.ROUTER_QUEUED.name):
        return
    labels = dict(series.labels)
    endpoint, backend = labels.get("endpoint", ""), labels.get("backend", "")
    if series.name == families.ROUTER_QUEUED.name:
        gauges.waiting[endpoint, backend] = gauges.waiting.get((endpoint, backend), 0) + int(value)
    elif series.name == families.QUEUED_QUERIES.name:
        gauges.queued[backend] = gauges.queued.get(backend, 0) + int(value)
    else:
        gauges.processing[backend] = gauges.processing.get(backend, 0) + int(value)
        gauges.replicas.setdefault(backend, set()).add(labels.get("replica", ""))


def _add_count(gauges: Gauges, series: Series, numbers: Numbers, before: Numbers | None) -> None:
    more = numbers if before is None else tuple(map(float.__sub__, numbers, before))
    if not all(map(isfinite, more)):
        return
    labels = dict(series.labels)
    endpoint, backend = labels.get("endpoint", ""), labels.get("backend", "")
    if series.name == families.SHADOW_DROPPED.name:
        gauges.dropped[endpoint, backend] = gauges.dropped.get((endpoint, backend), 0) + int(more[0])
    else:
        batches, calls = gauges.batches.get(backend, (0, 0.0))
        gauges.batches[backend] = batches + int(sum(more[:-1])), calls + more[-1]


def gauges_in(reading: Reading, before: Reading | None) -> Gauges:
    """The same, of two readings of the metrics of several nodes."""
    gauges = Gauges({}, {}, {}, {}, {}, {})
    for family in GAUGES:
        for labels, numbers in reading.metrics.get(family.name, []):
            _add_gauge(gauges, Series(family.name, family.kind, "", labels), numbers[0])
    if before is not None:
        for family in COUNTS:
            earlier = _totals(before, family.name)
            for labels, numbers in _totals(reading, family.name).items():
                _add_count(gauges, Series(family.name, family.kind, "", labels), numbers, earlier.get(labels))
    return gauges


def _totals(reading: Reading, name: str) -> dict[Labels, Numbers]:
    """By labels without that of the replica, since a replica's counts go on under another name when it has ended."""
    totals: dict[Labels, Numbers] = {}
    for labels, numbers in reading.metrics.get(name, []):
        kept = tuple(label for label in labels if label[0] != "replica")
        totals[kept] = tuple(map(float.__add__, totals[kept], numbers)) if kept in totals else numbers
    return totals
