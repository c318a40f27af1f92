"""What the processes of a node have counted since the last look, read beside the collectors that merge their files.

Nothing here writes. A count is compared with what its own file had before, so it does not matter when a collector
merges the file of an ended process: what that had counted was heard while it lived, and at the last look after its end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from struct import Struct
from typing import Generic, NamedTuple, TypeVar

from pointsman.model.evidence import Tally, TallyKey
from pointsman.telemetry import families
from pointsman.telemetry.collector import RETIRED, BrokenMetricsError, Labels, MetricsReader, Numbers
from pointsman.telemetry.counted import BEGAN, read_key
from pointsman.telemetry.reports import Reading
from pointsman.telemetry.tallies import DOUBLE, HEAD, MAX_KEY, NEW, SEGMENT, SLOT, SLOTS, STAMP, VALUES_AT
from pointsman.telemetry.values import BUCKETS, ERRORS, LOWEST, TALLY_WIDTH
from pointsman.telemetry.writer import Series

GAUGES = (families.ROUTER_QUEUED, families.QUEUED_QUERIES, families.PROCESSING_QUERIES)
COUNTS = (families.BATCH_SIZE, families.SHADOW_DROPPED)
NAMES = frozenset(family.name for family in (*GAUGES, *COUNTS))

MAX_COUNT = 2**53
"""So many calls are none: user code has written there, whose process maps the file."""
_FIRST = Struct(f"@{BUCKETS}d")
"""The values of a tally before its buckets."""
_CHUNK = 16 * DOUBLE
"""Bytes of buckets that are compared at once: most are what they were."""
_ZEROS = bytes(TALLY_WIDTH * DOUBLE)

R = TypeVar("R", "FreshTallyReader", MetricsReader)


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


class _Slot:
    """What was read of a slot: its first values, and the bytes of its buckets from the first to the last used one."""

    __slots__ = ("buckets", "first", "key", "low", "stamp")

    def __init__(self, stamp: int, key: TallyKey | None) -> None:
        self.stamp = stamp
        self.key = key
        self.first = (0.0,) * BUCKETS
        self.low = 0
        self.buckets = b""


class FreshTallyReader:
    """Reads the tallies of another process, and says what has grown. A file is read and not mapped: of a thousand
    endpoints it is 13 MB, which would count as this process's memory. What cannot be read is left out.

    Args:
        path: of the file.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._slots: dict[int, _Slot] = {}

    def read(self, segment: bytearray) -> Iterator[tuple[TallyKey, Tally]]:
        """What each tally has grown by since the last call.

        Args:
            segment: a buffer of one segment, to be used.
        """
        for at in range(0, os.fstat(self._descriptor).st_size // SEGMENT * SEGMENT, SEGMENT):
            if os.preadv(self._descriptor, [segment], at) < SEGMENT:
                return
            for start in range(0, SLOTS * SLOT, SLOT):
                slot = self._slot(segment, start, at + start)
                if slot is not None and slot.key is not None:
                    tally = _grown(slot, segment, start + VALUES_AT)
                    if tally is not None:
                        yield slot.key, tally

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _slot(self, segment: bytearray, start: int, place: int) -> _Slot | None:
        """The slot there, if it has new values."""
        stamp, key_size = HEAD.unpack_from(segment, start)
        if not stamp:
            self._slots.pop(place, None)
            return None
        slot = self._slots.get(place)
        if slot is None or slot.stamp != stamp:
            packed = bytes(segment[start + HEAD.size : start + HEAD.size + min(key_size, MAX_KEY)])
            slot = self._slots[place] = _Slot(stamp, read_key(packed))
        elif slot.first == _FIRST.unpack_from(segment, start + VALUES_AT):
            return None
        if STAMP.unpack(os.pread(self._descriptor, STAMP.size, place))[0] != stamp:
            return None  # it is used for another key now
        return slot


def _grown(slot: _Slot, segment: bytearray, at: int) -> Tally | None:
    """What has come to a slot, whose values are there, which are kept for the next time."""
    first, whole = _FIRST.unpack_from(segment, at), segment[at + _FIRST.size : at + TALLY_WIDTH * DOUBLE]
    low, high = slot.low, slot.low + len(slot.buckets)
    if whole[:low] != _ZEROS[:low] or whole[high:] != _ZEROS[: len(whole) - high]:
        low, high = _used(whole)
    buckets = bytes(whole[low:high])
    try:
        latencies = dict(_more(slot, low, buckets))
        ok, errors = int(first[0] - slot.first[0]), int(first[ERRORS] - slot.first[ERRORS])
    except (ValueError, OverflowError):  # no number, or one without end
        slot.key = None
        return None
    if max(ok, errors, *latencies.values()) > MAX_COUNT:
        slot.key = None
        return None
    slot.first, slot.low, slot.buckets = first, low, buckets
    if min(ok, errors) < 0 or not (ok or errors or latencies):
        return None
    return Tally(ok + errors, errors, latencies)


def _used(whole: bytearray) -> tuple[int, int]:
    """Where the first chunk of buckets that is not all zero begins, and where the last one ends."""
    used = [
        at for at in range(0, len(whole), _CHUNK) if whole[at : at + _CHUNK] != _ZEROS[: len(whole[at : at + _CHUNK])]
    ]
    return (used[0], used[-1] + _CHUNK) if used else (0, 0)


def _more(slot: _Slot, low: int, buckets: bytes) -> Iterator[tuple[int, int]]:
    """The buckets that have grown, and by how much."""
    for start in range(0, len(buckets), _CHUNK):
        now, at = buckets[start : start + _CHUNK], low + start - slot.low
        then = slot.buckets[at : at + _CHUNK] if at >= 0 else b""
        if now != then:
            before = memoryview(then or _ZEROS[: len(now)]).cast("d")
            for place, count in enumerate(memoryview(now).cast("d")):
                if count > before[place]:
                    yield LOWEST + (low + start) // DOUBLE + place, int(count - before[place])


class FreshTallies(_Folder[FreshTallyReader]):
    """What was counted of calls since the last look. Not thread-safe.

    Args:
        folder: of the tallies.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._segment = bytearray(SEGMENT)
        self._began = False

    def open(self, path: Path) -> FreshTallyReader:
        return FreshTallyReader(path)

    def read(self) -> list[tuple[TallyKey, Tally]]:
        """What has come since the last call, of each process for itself; nothing at the first one.

        Raises:
            OSError: the folder cannot be read.
        """
        gone, fresh = self.look(), []
        for reader in self._readers.values():
            for grown in reader.read(self._segment):
                if self._began:
                    fresh.append(grown)
        for name in gone:
            self._readers.pop(name).close()
        self._began = True
        return fresh


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


NO_GAUGES = Gauges({}, {}, {}, {}, {}, {})
"""Those of an instance that records no metrics."""


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
            reader.rest()
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
