"""The reading end of a book: another process's file, looked at as often as one likes.

Keys never change once written, so each is decoded once; what is left to do at a scrape is to copy numbers. The writer
is not trusted: whatever does not fit together ends the reading of its book, and nobody else's.
"""

from __future__ import annotations

import fcntl
import logging
import math
import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path
from struct import Struct

import msgspec

from pointsman.telemetry.book import DOUBLE, RECORD, SEGMENT, Owner, Series

log = logging.getLogger(__name__)

METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL_NAME = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")

_owner = msgspec.msgpack.Decoder(Owner)
_series = msgspec.msgpack.Decoder(Series)


class BrokenBookError(Exception):
    """The file is not what a book looks like."""


class Shelf:
    """One book, open for reading.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be opened.
        BrokenBookError: it does not begin like a book.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
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
        """Whether the writer has ended, or has closed the book."""
        if not self._ended:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self._ended = True
        return True

    def read(self) -> Iterator[tuple[Series, tuple[float, ...]]]:
        """Every series with its values as they are now."""
        if not self._broken:
            try:
                self._read_keys()
            except (BrokenBookError, msgspec.DecodeError, ValueError) as error:
                self._broken = True
                log.warning("metrics file %s is damaged, and what follows in it is not read: %s", self.name, error)
        for series, layout, offset in self._series:
            assert self._map is not None
            yield series, layout.unpack_from(self._map, offset)

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
            raise BrokenBookError(f"{self.name} has no beginning")
        self._next, key, _ = record
        try:
            return _owner.decode(key)
        except msgspec.DecodeError as error:
            raise BrokenBookError(f"{self.name} does not say whose it is: {error}") from None

    def _read_keys(self) -> None:
        # The size first: where a further segment is there, what is empty in the one before stays empty.
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
                raise BrokenBookError(f"{series.name} has {end - values_at} bytes of values")
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
        """Where the record ends, its key, and where its values begin; None where there is none (yet)."""
        if self._map is None or start % SEGMENT + RECORD.size > SEGMENT or start + RECORD.size > self._size:
            return None
        size, key_size = RECORD.unpack_from(self._map, start)
        if not size:
            return None
        values_at = start + RECORD.size + -(-key_size // DOUBLE) * DOUBLE
        if size % DOUBLE or start % SEGMENT + size > SEGMENT or values_at > start + size:
            raise BrokenBookError(f"a record of {size} bytes at {start} does not fit")
        key = self._map[start + RECORD.size : start + RECORD.size + key_size]
        return start + size, key, values_at


def _checked(series: Series) -> Series:
    if not METRIC_NAME.fullmatch(series.name):
        raise BrokenBookError(f"{series.name!r} cannot name a metric")
    if any(not LABEL_NAME.fullmatch(label) for label, _ in series.labels):
        raise BrokenBookError(f"{series.name} has labels {series.labels!r}")
    if list(series.bounds) != sorted(set(series.bounds)) or not all(map(math.isfinite, series.bounds)):
        raise BrokenBookError(f"{series.name} has buckets {series.bounds!r}")
    return series
