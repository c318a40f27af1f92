"""Reads and merges all metrics files of a node, and replaces those of exited processes by one file. One collector per
folder.

    folder/<role>-<random>   one file per process, of living and of exited ones
    folder/retired           the counts of exited processes whose files were removed

Counts of exited processes stay in the sums, which never fall. Their gauges are left out: nothing waits in an exited
process. Five minutes after a replica has exited its label is dropped, and its counts go to ``replica="retired"``.
"""

from __future__ import annotations

import fcntl
import logging
import math
import mmap
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from struct import Struct
from typing import NamedTuple

import msgspec

from pointsman.telemetry.writer import DOUBLE, NEW, RECORD, SEGMENT, MetricsWriter, Owner, Series

METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL_NAME = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")

_owner = msgspec.msgpack.Decoder(Owner)
_series = msgspec.msgpack.Decoder(Series)


class BrokenMetricsError(Exception):
    """The file is not a metrics file."""


class MetricsReader:
    """Reads the metrics file of another process, any number of times.

    Keys never change once written, so each is decoded once; later scrapes only copy values. The writing process is not
    trusted, since user code runs in it: an inconsistent record ends the reading of this file only.

    Args:
        path: of the file.
        names: of the metrics that are kept; None for all.

    Raises:
        OSError: it cannot be opened.
        BrokenMetricsError: it does not begin like a metrics file.
    """

    def __init__(self, path: Path, names: Collection[str] | None = None) -> None:
        self.name = path.name
        self._names = names
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._size = 0
        self._map: mmap.mmap | None = None
        self._next = 0
        self._series: list[tuple[Series, Struct, int]] = []
        self._broken = False
        self._ended = False
        try:
            self.owner = self._read_owner()
        except BaseException:
            self.close()
            raise

    @property
    def ended(self) -> bool:
        """True if the process has exited, or has closed its file."""
        if not self._ended:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self._ended = True
        return True

    def read(self) -> Iterator[tuple[Series, tuple[float, ...]]]:
        """All series with their current values."""
        if not self._broken:
            try:
                self._read_keys()
            except (BrokenMetricsError, msgspec.DecodeError, ValueError) as error:
                self._broken = True
                log.warning("metrics file %s is damaged, and what follows in it is not read: %s", self.name, error)
        for series, layout, offset in self._series:
            assert self._map is not None
            yield series, layout.unpack_from(self._map, offset)

    def rest(self) -> None:
        """Let the file take no memory of this process until it is read again."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _read_owner(self) -> Owner:
        self._remap()
        record = self._record_at(0)
        if record is None:
            raise BrokenMetricsError(f"{self.name} has no beginning")
        self._next, key, _ = record
        try:
            return _owner.decode(key)
        except msgspec.DecodeError as error:
            raise BrokenMetricsError(f"{self.name} does not say whose it is: {error}") from None

    def _read_keys(self) -> None:
        # The size is read first: the writer adds a segment only when it is done with the one before, so a gap at the
        # end of that one is final.
        self._remap()
        while True:
            record = self._record_at(self._next)
            if record is None:
                border = -(-(self._next + 1) // SEGMENT) * SEGMENT
                if border >= self._size:
                    return
                self._next = border
                continue
            end, key, values_at = record
            series = _checked(_series.decode(key))
            if end - values_at != series.width * DOUBLE:
                raise BrokenMetricsError(f"{series.name} has {end - values_at} bytes of values")
            if self._names is None or series.name in self._names:
                self._series.append((series, Struct(f"@{series.width}d"), values_at))
            self._next = end

    def _remap(self) -> None:
        size = os.fstat(self._descriptor).st_size // SEGMENT * SEGMENT
        if size > self._size:
            if self._map is not None:
                self._map.close()
            self._map = mmap.mmap(self._descriptor, size, prot=mmap.PROT_READ)
            self._size = size

    def _record_at(self, start: int) -> tuple[int, bytes, int] | None:
        """The end of a record, its key, and the offset of its values; None if there is no record yet."""
        if self._map is None or start % SEGMENT + RECORD.size > SEGMENT or start + RECORD.size > self._size:
            return None
        size, key_size = RECORD.unpack_from(self._map, start)
        if not size:
            return None
        values_at = start + RECORD.size + -(-key_size // DOUBLE) * DOUBLE
        if size % DOUBLE or start % SEGMENT + size > SEGMENT or values_at > start + size:
            raise BrokenMetricsError(f"a record of {size} bytes at {start} does not fit")
        key = self._map[start + RECORD.size : start + RECORD.size + key_size]
        return start + size, key, values_at


def _checked(series: Series) -> Series:
    if not METRIC_NAME.fullmatch(series.name):
        raise BrokenMetricsError(f"{series.name!r} cannot name a metric")
    if any(not LABEL_NAME.fullmatch(label) for label, _ in series.labels):
        raise BrokenMetricsError(f"{series.name} has labels {series.labels!r}")
    if list(series.bounds) != sorted(set(series.bounds)) or not all(map(math.isfinite, series.bounds)):
        raise BrokenMetricsError(f"{series.name} has buckets {series.bounds!r}")
    return series


log = logging.getLogger(__name__)

RETIRE_AFTER_S = 300.0
#: Seconds until files are merged again that could not be, since the disk was full.
MERGE_AGAIN_S = 60.0
#: The value of the ``replica`` label for counts of replicas that exited long ago, and the name of their file.
RETIRED = "retired"
MAX_USER_SERIES = 2000
OVERFLOW = "overflow"

Labels = tuple[tuple[str, str], ...]
Numbers = tuple[float, ...]


class Metric(NamedTuple):
    """One metric of the node.

    Attributes:
        about: its description, from the first process that has it.
        series: values by labels.
    """

    about: Series
    series: dict[Labels, Numbers]


def merge(entries: Iterable[tuple[Series, Numbers]]) -> dict[str, Metric]:
    """Merge the series of many processes, by name. Pure.

    Series whose kind or buckets differ from the first of that name are left out. A metric of user code may have 2000
    series; the values of further ones are merged into one.
    """
    metrics: dict[str, Metric] = {}
    for about, numbers in entries:
        metric = metrics.get(about.name)
        if metric is None:
            metric = metrics[about.name] = Metric(about, {})
        elif (metric.about.kind, metric.about.bounds) != (about.kind, about.bounds):
            continue
        series, labels = metric.series, about.labels
        before = series.get(labels)
        if before is None and about.user and len(series) >= MAX_USER_SERIES:
            labels = tuple((name, OVERFLOW) for name, _ in labels)
            before = series.get(labels)
        if before is None:
            series[labels] = numbers
        elif about.kind == "largest":
            series[labels] = max(before, numbers)
        else:
            series[labels] = tuple(map(float.__add__, before, numbers))
    return metrics


class Collector:
    """Reads and merges the metrics files of a folder. Not thread-safe.

    Args:
        folder: of the metrics files.
        clock: returns monotonic time in seconds.
        retire_after_s: how long exited replicas keep their labels.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float], retire_after_s: float = RETIRE_AFTER_S) -> None:
        self._folder = folder
        self._clock = clock
        self._retire_after_s = retire_after_s
        self._readers: dict[str, MetricsReader] = {}
        self._ended: dict[str, float] = {}
        self._unreadable: set[str] = set()
        self._merge_at = float("-inf")

    def collect(self) -> dict[str, Metric]:
        """All current metrics, by name."""
        self._look()
        self._retire()
        return merge(self._entries())

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def _entries(self) -> Iterator[tuple[Series, Numbers]]:
        for name, reader in self._readers.items():
            for series, numbers in reader.read():
                if name not in self._ended or series.kind in ("counter", "histogram"):
                    yield series, numbers

    def _look(self) -> None:
        """Open new metrics files, close those that were removed, and record which processes have exited."""
        names = [name for name in sorted(os.listdir(self._folder)) if not name.startswith(NEW)]
        for name in self._readers.keys() - set(names):
            self._readers.pop(name).close()
            self._ended.pop(name, None)
        for name in names:
            if name not in self._readers and name not in self._unreadable:
                self._open(name)
        retired = self._readers.get(RETIRED)
        if retired is not None:
            # A collector was killed after it wrote ``retired`` and before it removed these: they would count twice.
            for name in retired.owner.merged:
                if name in self._readers:
                    self._forget(name)
        now = self._clock()
        for name, reader in self._readers.items():
            if name not in self._ended and reader.ended:
                self._ended[name] = now

    def _open(self, name: str) -> None:
        try:
            self._readers[name] = MetricsReader(self._folder / name)
        except FileNotFoundError:
            pass  # another collector has just merged it
        except (OSError, BrokenMetricsError) as error:
            self._unreadable.add(name)
            log.warning("metrics file %s cannot be read: %s", name, error)

    def _retire(self) -> None:
        """Merge the files of processes that exited long enough ago; at once if no label names the process."""
        now = self._clock()
        if now < self._merge_at:
            return
        due = [
            name
            for name, ended in self._ended.items()
            if name != RETIRED
            and (now >= ended + self._retire_after_s or self._readers[name].owner.role not in ("replica", RETIRED))
        ]
        if not due:
            return
        kept = [name for name in (RETIRED, *due) if name in self._readers]
        entries = [(_retired(series), numbers) for name in kept for series, numbers in self._readers[name].read()]
        writer = MetricsWriter(self._folder, RETIRED, merged=tuple(due), hidden=True)
        for metric in merge(entry for entry in entries if entry[0].kind in ("counter", "histogram")).values():
            for labels, numbers in metric.series.items():
                writer.series(_with_labels(metric.about, labels)).fill(numbers)
        writer.close()
        if not writer.complete:  # the disk is full: what is there stays, and is merged when there is space
            writer.path.unlink(missing_ok=True)
            self._merge_at = now + MERGE_AGAIN_S
            return
        # The new file takes effect by this rename, and names the files that it contains. They are removed afterwards: a
        # collector that is killed in between loses nothing, and the next one removes them (see ``_look``).
        writer.path.replace(self._folder / RETIRED)
        for name in (RETIRED, *due):
            self._forget(name, unlink=name != RETIRED)
        self._open(RETIRED)
        self._ended[RETIRED] = now

    def _forget(self, name: str, *, unlink: bool = True) -> None:
        if unlink:
            (self._folder / name).unlink(missing_ok=True)
        reader = self._readers.pop(name, None)
        if reader is not None:
            reader.close()
        self._ended.pop(name, None)


def _retired(series: Series) -> Series:
    return _with_labels(series, tuple((k, RETIRED if k == "replica" else v) for k, v in series.labels))


def _with_labels(series: Series, labels: Labels) -> Series:
    return Series(series.name, series.kind, series.help, labels, series.bounds, series.user)
