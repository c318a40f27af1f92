"""Counts one process's calls into a file mapped into its memory: the evidence by which versions are judged. What is
written there outlives the process, however it ends, and is read once a second by :mod:`telemetry.counted`.

    file     segments of 64 KiB with five slots each, and the rest of a segment unused
    slot     stamp (8 bytes), size of the key (8 bytes), room for the key, the doubles of a `TallyValues`
    key      msgpack: the fields of a `TallyKey`

A slot is used again for another key. Its stamp is 0 meanwhile, and then one that this file never had: a reader that
finds the same stamp before and after has read all of it for one key. Unlike metrics, whose series are never taken away,
tallies come and go with each version of a traffic policy (decision 0074).
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import secrets
import threading
from bisect import insort
from collections.abc import Callable, Collection
from pathlib import Path
from struct import Struct

import msgspec

from pointsman.model.evidence import TallyKey
from pointsman.telemetry.values import TALLY_WIDTH, TallyValues

log = logging.getLogger(__name__)

SEGMENT = 64 * 1024
SLOTS = 5
DOUBLE = 8
HEAD = Struct("@QQ")
STAMP = Struct("@Q")
SLOT = SEGMENT // SLOTS // DOUBLE * DOUBLE
VALUES_AT = SLOT - TALLY_WIDTH * DOUBLE
MAX_KEY = VALUES_AT - HEAD.size
MAX_SEGMENTS = 1024
"""Of a file, so 64 MiB and 5,120 tallies at once."""

VERSIONS = 4
"""Of each endpoint's traffic policy the tallies of so many versions are kept, the newest."""

NEW = ".new-"
"""Prefix of the names of files that readers must ignore, since they are not complete."""


class TallyFile:
    """The tallies of this process. Thread-safe, but for the values, which have one writing thread each.

    There is no file before the first tally. Where it cannot be made or grow, as on a full disk, tallies are counted in
    private memory, where nobody finds them.

    Args:
        folder: of the instance's tallies; made if it is missing.
        role: ``ingress``, ``client`` or ``replica``.
    """

    def __init__(self, folder: Path, role: str) -> None:
        self.name = f"{role}-{secrets.token_hex(8)}"
        self._folder = folder
        self._lock = threading.Lock()
        self._descriptor = -1
        self._segments: list[tuple[mmap.mmap, memoryview[float]]] = []
        self._free: list[tuple[int, int]] = []
        self._used: dict[TallyValues, tuple[int, int]] = {}
        self._stamp = 0
        self._full = False
        _files.add(self)

    @classmethod
    def open(cls, folder: Path, role: str) -> TallyFile | None:
        """The tallies of this process; None where the instance has no folder on this machine, so that nobody reads."""
        return cls(folder, role) if folder.parent.is_dir() else None

    def take(self, key: TallyKey) -> TallyValues:
        """A new tally, for one thread. Readers add up those with the same key."""
        packed = msgspec.msgpack.encode(key)
        with self._lock:
            place = None if len(packed) > MAX_KEY else self._place()
            if place is None:
                return TallyValues(*_private())
            segment, start = self._segments[place[0]], place[1]
            memory, doubles = segment
            memory[start + HEAD.size : start + SLOT] = packed + bytes(SLOT - HEAD.size - len(packed))
            self._stamp += 1
            HEAD.pack_into(memory, start, 0, len(packed))
            STAMP.pack_into(memory, start, self._stamp)  # last: readers see the slot from here on
            values = TallyValues(doubles, (start + VALUES_AT) // DOUBLE)
            self._used[values] = place
            return values

    def free(self, values: TallyValues) -> None:
        """Forget a tally. What is still counted in it is lost."""
        with self._lock:
            place = self._used.pop(values, None)
            if place is not None:
                STAMP.pack_into(self._segments[place[0]][0], place[1], 0)
                values.values, values.at = _private()
                self._free.append(place)

    def close(self) -> None:
        """Release the file; what it holds goes on being counted."""
        _files.discard(self)
        with self._lock:
            self._full = True
            self._free.clear()
            if self._descriptor >= 0:
                # Closing alone does not release the lock: each mmap holds a duplicate of the descriptor.
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
                os.close(self._descriptor)
                self._descriptor = -1

    def leave_to_parent(self) -> None:
        """Called in a forked child: count in private memory, since each value has one writer only, and close the file,
        whose lock must end with the parent."""
        self._lock = threading.Lock()
        for values in self._used:
            values.values, values.at = _private()
        self._used, self._free, self._full = {}, [], True
        for memory, doubles in self._segments:
            doubles.release()
            memory.close()
        self._segments = []
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _place(self) -> tuple[int, int] | None:
        """The segment and the offset of a slot that nobody uses; None if there is none."""
        if not self._free and not self._full:
            try:
                self._grow()
            except OSError as error:
                log.warning("calls of new traffic policies will not be counted by this process: %s", error)
                self._full = True
        return self._free.pop() if self._free else None

    def _grow(self) -> None:
        number = len(self._segments)
        if number == MAX_SEGMENTS:
            raise OSError(f"{MAX_SEGMENTS * SEGMENT} bytes are taken")
        if number == 0:
            self._create()
        # Allocated, not only extended: on a full disk the first write to a hole would kill the process by SIGBUS.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._descriptor, number * SEGMENT, SEGMENT)
        else:
            os.ftruncate(self._descriptor, (number + 1) * SEGMENT)
        memory = mmap.mmap(self._descriptor, SEGMENT, offset=number * SEGMENT)
        self._segments.append((memory, memoryview(memory).cast("d")))
        self._free = [(number, SLOT * slot) for slot in reversed(range(SLOTS))]

    def _create(self) -> None:
        """Make the file. It gets its name when it is locked: one that is not locked is that of an ended process."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._folder / f"{NEW}{self.name}"
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.rename(self._folder / self.name)


def _private() -> tuple[memoryview[float], int]:
    return memoryview(bytearray(TALLY_WIDTH * DOUBLE)).cast("d"), 0


_files: set[TallyFile] = set()


def _after_fork() -> None:
    for file in list(_files):
        file.leave_to_parent()


os.register_at_fork(after_in_child=_after_fork)


class Tallies:
    """The tallies of one router, used on its loop only. Bounded: of each endpoint those of the newest four versions of
    its policy are kept, and none of an endpoint or a backend that is gone.

    Args:
        file: where they are; None to count nothing that anybody reads.
    """

    def __init__(self, file: TallyFile | None) -> None:
        self._file = file
        self._by_key: dict[TallyKey, TallyValues] = {}
        self._versions: dict[str, list[int]] = {}
        self._unread = TallyValues(*_private())

    def of(self, key: TallyKey) -> TallyValues:
        """The tally of a key; of a version that is too old one that nobody reads."""
        known = self._by_key.get(key)
        if known is not None:
            return known
        versions = self._versions.setdefault(key.endpoint, [])
        if self._file is None or (len(versions) == VERSIONS and key.policy_version < versions[0]):
            return self._unread
        if key.policy_version not in versions:
            insort(versions, key.policy_version)
        if len(versions) > VERSIONS:
            oldest = versions.pop(0)
            self._forget([k for k in self._by_key if k.endpoint == key.endpoint and k.policy_version == oldest])
        values = self._by_key[key] = self._file.take(key)
        return values

    def forget(self, gone: Callable[[TallyKey], bool]) -> None:
        """Forget those whose endpoint or backend is gone."""
        self._forget([key for key in self._by_key if gone(key)])
        left = {key.endpoint for key in self._by_key}
        self._versions = {endpoint: versions for endpoint, versions in self._versions.items() if endpoint in left}

    def _forget(self, keys: Collection[TallyKey]) -> None:
        for key in keys:
            values = self._by_key.pop(key)
            if self._file is not None:
                self._file.free(values)
