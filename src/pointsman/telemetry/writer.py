"""Writes one process's metrics to a file mapped into its memory (decision 0020). Written values are in the kernel's
page cache at once, so they outlive the process, however it ends.

    file      segments of 64 KiB; records do not cross their borders
    record    size (4 bytes, a multiple of 8), size of the key (4 bytes), the key, padding, doubles
    key       msgpack: an `Owner` in the first record, a `Series` in the others

A size of 0 ends a segment. The size is written last, so that readers see a whole record or none. The process holds a
lock on the file while it lives, so a reader learns whether it has exited by one attempt to lock. Values are doubles in
the machine's byte order, each written by one thread only: adding to one takes 0.1 µs, without a lock or a system call.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import mmap
import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from struct import Struct
from typing import TypeVar

import msgspec

from pointsman.telemetry.families import Family, Kind
from pointsman.telemetry.values import Counter, Gauge, Histogram, SeriesValues

log = logging.getLogger(__name__)

SEGMENT = 64 * 1024
MAX_SEGMENTS = 512
RECORD = Struct("@II")
SIZE = Struct("@I")
DOUBLE = 8
#: Prefix of the names of files that readers must ignore, since they are not complete.
NEW = ".new-"

C = TypeVar("C", bound="SeriesValues")
K = TypeVar("K")
V = TypeVar("V")


class Owner(msgspec.Struct, array_like=True, frozen=True):
    """The process that writes a metrics file.

    Attributes:
        role: ``replica``, ``ingress``, ``controller``, ``client`` or ``retired``.
        merged: names of the files whose counts a ``retired`` file contains.
    """

    role: str
    pid: int
    merged: tuple[str, ...] = ()


class Series(msgspec.Struct, array_like=True, frozen=True):
    """The description of one series of a metric."""

    name: str
    kind: Kind
    help: str
    labels: tuple[tuple[str, str], ...]
    bounds: tuple[float, ...] = ()
    user: bool = False

    @property
    def width(self) -> int:
        """The number of its values: for a histogram the buckets, with the infinite one, and the sum."""
        return len(self.bounds) + 2 if self.kind == "histogram" else 1


class ByLabels(dict[K, V]):
    """A dict of series values, or groups of them, by label values; a missing item is created on access."""

    def __init__(self, make: Callable[[K], V]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: K) -> V:
        value = self[key] = self._make(key)
        return value


class MetricsWriter:
    """Writes this process's metrics file.

    Args:
        folder: of the instance's metrics files; None for private memory, which nobody reads.
        role, merged: see :class:`Owner`.
        hidden: keep the name that readers ignore; the caller renames the file.
    """

    def __init__(self, folder: Path | None, role: str, *, merged: tuple[str, ...] = (), hidden: bool = False) -> None:
        self.name = f"{role}-{secrets.token_hex(8)}"
        self._lock = threading.Lock()
        self._handed_out: list[SeriesValues] = []
        self._segments: list[tuple[mmap.mmap, memoryview[float]]] = []
        self._full = False
        self._descriptor = -1
        self._map: mmap.mmap | bytearray = bytearray()
        self._values: memoryview[float] = memoryview(bytearray()).cast("d")
        self._used = 0
        owner = msgspec.msgpack.encode(Owner(role, os.getpid(), merged))
        if folder is not None:
            self.path = folder / f"{NEW}{self.name}"
            self._create(self.path)
        self._record(owner, 0)
        # Renamed only when it is locked and has its first record: a reader takes a file that is not locked for that of
        # an exited process, and one without an owner for damaged.
        if folder is not None and not hidden:
            self.path = self.path.rename(folder / self.name)
        _writers.add(self)

    @classmethod
    def open(cls, folder: Path, role: str) -> MetricsWriter | None:
        """The writer of this process; None if the folder does not exist, which means that metrics are switched off."""
        return cls(folder, role) if folder.is_dir() else None

    @property
    def complete(self) -> bool:
        """Whether all that was counted is in the file; not where it could not grow, as on a full disk."""
        return not self._full

    def counter(self, family: Family, *labels: str) -> Counter:
        """A new counter for one thread. Readers sum counters with the same labels."""
        return self._series(family, labels, Counter)

    def gauge(self, family: Family, *labels: str) -> Gauge:
        """A new gauge for one thread, as :meth:`counter`."""
        return self._series(family, labels, Gauge)

    def histogram(self, family: Family, *labels: str) -> Histogram:
        """A new histogram for one thread, as :meth:`counter`."""
        return self._series(family, labels, lambda values, at: Histogram(values, at, family.bounds))

    def series(self, series: Series) -> SeriesValues:
        """A new series of any kind, to be filled."""
        return self._place(series, SeriesValues)

    def close(self) -> None:
        """Release the file, which the collector then merges like that of an exited process."""
        _writers.discard(self)
        if self._descriptor >= 0:
            # Closing alone does not release the lock: each mmap holds a duplicate of the descriptor.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = -1

    def _series(self, family: Family, labels: tuple[str, ...], make: Callable[[memoryview[float], int], C]) -> C:
        pairs = tuple(zip(family.labels, labels, strict=True))
        return self._place(Series(family.name, family.kind, family.help, pairs, family.bounds, family.user), make)

    def _place(self, series: Series, make: Callable[[memoryview[float], int], C]) -> C:
        with self._lock:
            at = self._record(msgspec.msgpack.encode(series), series.width)
            values = make(self._values, at)
            self._handed_out.append(values)
            return values

    def _create(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _record(self, key: bytes, width: int) -> int:
        """Append a record. Returns the index of its first value in the segment, in doubles."""
        padded = -(-len(key) // DOUBLE) * DOUBLE
        size = RECORD.size + padded + width * DOUBLE
        if size > SEGMENT:
            raise ValueError(f"name, labels and buckets of a series take {size} bytes, over the limit of {SEGMENT}")
        if self._used + size > len(self._map):
            self._grow()
        start = self._used
        self._map[start + RECORD.size : start + RECORD.size + len(key)] = key
        RECORD.pack_into(self._map, start, 0, len(key))
        SIZE.pack_into(self._map, start, size)  # last, and in one write: readers see the record from here on
        self._used += size
        return (start + RECORD.size + padded) // DOUBLE

    def _grow(self) -> None:
        segment = None if self._descriptor < 0 or self._full else self._new_segment()
        self._map = bytearray(SEGMENT) if segment is None else segment
        self._values = memoryview(self._map).cast("d")
        self._used = 0
        if segment is not None:
            self._segments.append((segment, self._values))

    def _new_segment(self) -> mmap.mmap | None:
        """Map the next segment of the file; None if the file or the disk is full."""
        offset = len(self._segments) * SEGMENT
        try:
            if len(self._segments) == MAX_SEGMENTS:
                raise OSError(f"{MAX_SEGMENTS * SEGMENT} bytes are taken")
            _reserve(self._descriptor, offset)
            return mmap.mmap(self._descriptor, SEGMENT, offset=offset)
        except OSError as error:
            log.warning("metrics that are new from here on will not be exported: %s", error)
            self._full = True
            return None

    def leave_to_parent(self) -> None:
        """Called in a forked child: continue in private memory, since each value has one writer only, and close the
        file, whose lock must end with the parent."""
        self._lock = threading.Lock()
        copies: dict[int, memoryview[float]] = {}
        for values in self._handed_out:
            key = id(values.values)
            if key not in copies:
                copies[key] = memoryview(bytearray(values.values.cast("B"))).cast("d")
            values.values = copies[key]
        self._map, self._used, self._values = bytearray(), 0, memoryview(bytearray()).cast("d")
        for segment, doubles in self._segments:
            doubles.release()
            segment.close()
        self._segments.clear()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _reserve(descriptor: int, offset: int) -> None:
    # Allocated, not only extended: on a full disk the first write to a hole would kill the process by SIGBUS.
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, offset, SEGMENT)
    else:
        os.ftruncate(descriptor, offset + SEGMENT)


#: All open writers, for :func:`_after_fork`.
_writers: set[MetricsWriter] = set()
_process_writer: MetricsWriter | None = None


def set_process_writer(writer: MetricsWriter | None) -> None:
    """Set the writer for metrics of user code."""
    global _process_writer
    _process_writer = writer


def process_writer() -> MetricsWriter | None:
    """The writer for metrics of user code; None outside replicas, and if metrics are switched off."""
    return _process_writer


def _after_fork() -> None:
    for writer in list(_writers):
        writer.leave_to_parent()


os.register_at_fork(after_in_child=_after_fork)


EVERY_S = 0.5
#: Number of measurements of which the worst is shown: those of the last 5 s.
WINDOW = 10


class LoopLag:
    """Measures how late the running loop calls its timers.

    Args:
        gauge: is set to the worst delay of the last 5 s, in seconds.
    """

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._loop = asyncio.get_running_loop()
        self._recent: list[float] = []
        self._due = self._loop.time() + EVERY_S
        self._timer = self._loop.call_at(self._due, self._measure)

    def _measure(self) -> None:
        now = self._loop.time()
        self._recent = [*self._recent[1 - WINDOW :], max(0.0, now - self._due)]
        self._gauge.set(max(self._recent))
        self._due = now + EVERY_S
        self._timer = self._loop.call_at(self._due, self._measure)

    def close(self) -> None:
        self._timer.cancel()
