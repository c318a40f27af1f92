"""Reads and adds up what the processes of a node have counted by :mod:`telemetry.tallies`, and keeps what ended ones
have counted. One collector per folder.

    folder/<role>-<random>   one file per process, of living and of ended ones
    folder/retired           the counts of ended processes, whose files are removed
    folder/began             names the counting: another name says that it has begun afresh

Counts never fall: a sum has all processes in it that ever were, and a key is left out for good once newer versions of
its endpoint's policy are counted, which is before any process gives up its slot (:data:`tallies.VERSIONS`).
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from struct import Struct
from typing import NamedTuple

import msgspec

from pointsman.model.evidence import MetricKey, MetricTally, Tally, TallyKey
from pointsman.telemetry.collector import Metric
from pointsman.telemetry.tallies import (
    HEAD,
    MAX_KEY,
    NEW,
    SEGMENT,
    SLOT,
    SLOTS,
    STAMP,
    VALUES_AT,
    VERSIONS,
)
from pointsman.telemetry.values import BUCKETS, tally_of

log = logging.getLogger(__name__)

RETIRED, BEGAN = "retired", "began"
MAX_RETIRED = 2000
"""Of ended processes so many tallies are kept, those of the newest policies."""

_key = msgspec.msgpack.Decoder(TallyKey)
_FIRST = Struct(f"@{BUCKETS}d")


class Counted(msgspec.Struct, frozen=True):
    """What was counted on one node.

    Attributes:
        began: names the counting; under another name it has begun afresh.
        metrics: those of user code that were asked for.
    """

    began: str
    tallies: list[tuple[TallyKey, Tally]] = []
    metrics: list[tuple[MetricKey, MetricTally]] = []


class Retired(msgspec.Struct, frozen=True):
    """The counts of ended processes.

    Attributes:
        merged: names of the files that they come from, as far as those may still be there.
    """

    merged: list[str]
    tallies: list[tuple[TallyKey, Tally]]


class Slot(NamedTuple):
    """What was last read of a slot."""

    stamp: int
    first: tuple[float, ...]
    key: TallyKey | None
    tally: Tally


class TallyReader:
    """Reads the tallies of another process, any number of times. The process is not trusted, since user code may run in
    it: a tally that cannot be read is left out.

    Args:
        path: of the file.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._map: mmap.mmap | None = None
        self._size = 0
        self._slots: dict[int, Slot] = {}
        self._ended = False

    @property
    def ended(self) -> bool:
        """True if the process has ended, or has closed its file."""
        if not self._ended:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self._ended = True
        return True

    def read(self) -> Iterator[tuple[TallyKey, Tally]]:
        """All tallies. One that has not changed is the same object as before."""
        self._remap()
        for segment in range(0, self._size, SEGMENT):
            for start in range(segment, segment + SLOTS * SLOT, SLOT):
                slot = self._read_slot(start)
                if slot is not None and slot.key is not None:
                    yield slot.key, slot.tally

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _remap(self) -> None:
        size = os.fstat(self._descriptor).st_size // SEGMENT * SEGMENT
        if size > self._size:
            if self._map is not None:
                self._map.close()
            self._map = mmap.mmap(self._descriptor, size, prot=mmap.PROT_READ)
            self._size = size

    def _read_slot(self, start: int) -> Slot | None:
        """What is in a slot; None if nothing is, or if it is being used again just now."""
        memory, before = self._map, self._slots.get(start)
        assert memory is not None
        stamp, key_size = HEAD.unpack_from(memory, start)
        if not stamp:
            self._slots.pop(start, None)
            return None
        first = _FIRST.unpack_from(memory, start + VALUES_AT)
        known = before if before is not None and before.stamp == stamp else None
        if known is not None and known.first == first:
            return known
        packed = memory[start + HEAD.size : start + HEAD.size + min(key_size, MAX_KEY)]
        values = memory[start + VALUES_AT : start + SLOT]
        if STAMP.unpack_from(memory, start)[0] != stamp:
            return None
        key = known.key if known is not None else read_key(packed)
        try:
            tally = tally_of(values)
        except (ValueError, OverflowError) as error:  # no number, or one without end
            if key is not None:
                log.warning("a tally of endpoint %r is left out: %s", key.endpoint, error)
            key, tally = None, Tally()
        slot = self._slots[start] = Slot(stamp, first, key, tally)
        return slot


def read_key(packed: bytes) -> TallyKey | None:
    """The key with these bytes; None if there is none in them."""
    try:
        return _key.decode(packed)
    except msgspec.DecodeError as error:
        log.warning("a tally cannot be read: %s", error)
        return None


class TallyCollector:
    """Reads and adds up the tallies of a folder. Not thread-safe.

    Args:
        folder: of the tallies; made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._readers: dict[str, TallyReader] = {}
        self._retired: dict[TallyKey, Tally] = {}
        self._sums: dict[TallyKey, tuple[list[Tally], Tally]] = {}
        self._merged: list[str] = []
        self._unreadable: set[str] = set()
        self._began = ""

    def collect(self) -> Counted:
        """What was counted up to now.

        Raises:
            OSError: the folder cannot be read.
        """
        if not self._began:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._read_retired()
            self._began = self._named()
        self._look()
        counted = self._added_up()
        self._retire()
        return Counted(self._began, list(counted.items()))

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def _look(self) -> None:
        """Open new files."""
        for name in sorted(os.listdir(self._folder)):
            if name in (RETIRED, BEGAN) or name.startswith(NEW) or name in self._readers or name in self._merged:
                continue
            try:
                self._readers[name] = TallyReader(self._folder / name)
            except OSError as error:
                if name not in self._unreadable:
                    log.warning("the tallies in %s cannot be read now: %s", name, error)
                self._unreadable.add(name)

    def _added_up(self) -> dict[TallyKey, Tally]:
        parts: dict[TallyKey, list[Tally]] = {key: [tally] for key, tally in self._retired.items()}
        for reader in self._readers.values():
            for key, tally in reader.read():
                parts.setdefault(key, []).append(tally)
        sums: dict[TallyKey, tuple[list[Tally], Tally]] = {}
        for key in newest(parts):
            mine, before = parts[key], self._sums.get(key)
            if before is not None and len(before[0]) == len(mine) and all(map(_is, before[0], mine)):
                sums[key] = before
                continue
            total = mine[0]
            for part in mine[1:]:
                total = total.plus(part)
            sums[key] = mine, total
        self._sums = sums
        return {key: total for key, (_, total) in sums.items()}

    def _retire(self) -> None:
        """Keep the counts of processes that have ended, and remove their files."""
        ended = [name for name, reader in self._readers.items() if reader.ended]
        if not ended:
            return
        kept: dict[TallyKey, Tally] = dict(self._retired)
        for name in ended:
            for key, tally in self._readers[name].read():
                kept[key] = kept[key].plus(tally) if key in kept else tally
        kept = {key: kept[key] for key in newest(kept)[-MAX_RETIRED:]}
        merged = [name for name in self._merged if (self._folder / name).exists()] + ended
        if not self._write_retired(merged, kept):
            return
        # One that could not be removed before is merged already, too.
        self._retired, self._merged = kept, merged
        for name in ended:
            self._readers.pop(name).close()
        for name in merged:
            (self._folder / name).unlink(missing_ok=True)

    def _write_retired(self, merged: list[str], kept: Mapping[TallyKey, Tally]) -> bool:
        """Store these counts. They take effect by a rename, and name the files that they contain: who is killed before
        these are removed loses nothing, and counts nothing twice."""
        path = self._folder / f"{NEW}{RETIRED}"
        try:
            path.write_bytes(msgspec.msgpack.encode(Retired(merged, list(kept.items()))))
            path.replace(self._folder / RETIRED)
        except OSError as error:
            log.warning("the tallies of ended processes cannot be merged now: %s", error)
            return False
        return True

    def _read_retired(self) -> None:
        try:
            found = msgspec.msgpack.decode((self._folder / RETIRED).read_bytes(), type=Retired)
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError) as error:
            log.error("the tallies of ended processes cannot be read, and are lost: %s", error)
            return
        self._retired = dict(found.tallies)
        self._merged = found.merged
        for name in found.merged:
            (self._folder / name).unlink(missing_ok=True)

    def _named(self) -> str:
        """The name of this counting: made by the first who reads the folder, and found by all later ones."""
        path = self._folder / BEGAN
        path.touch(mode=0o600)
        name = path.read_text()
        if not name:
            name = secrets.token_hex(8)
            path.write_text(name)
        return name


def metrics_in(collected: Mapping[str, Metric], names: Collection[str]) -> list[tuple[MetricKey, MetricTally]]:
    """How many values each backend has observed of these histograms of user code, and their sum."""
    found: dict[MetricKey, MetricTally] = {}
    for name in names:
        metric = collected.get(name)
        if metric is None or not metric.about.user or metric.about.kind != "histogram":
            continue
        for labels, numbers in metric.series.items():
            key = MetricKey(dict(labels).get("backend", ""), name)
            found[key] = found.get(key, MetricTally()).plus(MetricTally(int(sum(numbers[:-1])), numbers[-1]))
    return list(found.items())


def _is(one: object, other: object) -> bool:
    return one is other


def newest(keys: Iterable[TallyKey], versions: int = VERSIONS) -> list[TallyKey]:
    """Those of the newest versions of each endpoint's policy, oldest first."""
    found: dict[str, set[int]] = {}
    keys = list(keys)
    for key in keys:
        found.setdefault(key.endpoint, set()).add(key.policy_version)
    oldest = {endpoint: sorted(numbers)[-versions:][0] for endpoint, numbers in found.items()}
    kept = [key for key in keys if key.policy_version >= oldest[key.endpoint]]
    return sorted(kept, key=lambda key: key.policy_version)
