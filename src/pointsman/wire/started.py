"""Which calls a replica has started: a small file in shared memory that outlives the replica (decision 0014).

The replica marks a call right before it calls user code, and clears the mark when the call is over. A router that loses
the replica reads the marks that are left: calls without one never reached user code, so they can be placed on another
replica, whatever their method. No message is needed, and a SIGKILL cannot lose a mark.

    header   overflow: number of started calls that found no free slot and are not over (8 bytes)
    slot     number of the connection, id of the call; an id of 0 means free (16 bytes)
"""

from __future__ import annotations

import mmap
import os
import threading
from struct import Struct

SLOTS = 4096
_number = Struct("<Q")
_slot = Struct("<QQ")
_ID_OFFSET = _number.size


def path_of(address: str) -> str:
    """Path of the file, which is next to the replica's socket."""
    return f"{address}.started"


class StartedCalls:
    """The replica's end: writes marks.

    Args:
        path: the file; created, or emptied, with mode 0600.
    """

    def __init__(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            size = _number.size + SLOTS * _slot.size
            os.ftruncate(descriptor, size)
            self._memory = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self._free = [_number.size + number * _slot.size for number in reversed(range(SLOTS))]
        self._overflow = 0
        self._lock = threading.Lock()

    def begin(self, connection: int, call_id: int) -> int:
        """Mark a call as started. Thread-safe. Returns the mark, for :meth:`end`."""
        try:
            offset = self._free.pop()
        except IndexError:
            self._count_overflow(1)
            return 0
        # The id last: without it the slot counts as free, and user code has not been called yet.
        _number.pack_into(self._memory, offset, connection)
        _number.pack_into(self._memory, offset + _ID_OFFSET, call_id)
        return offset

    def end(self, offset: int) -> None:
        """Clear a mark."""
        if offset:
            _number.pack_into(self._memory, offset + _ID_OFFSET, 0)
            self._free.append(offset)
        else:
            self._count_overflow(-1)

    def _count_overflow(self, change: int) -> None:
        with self._lock:
            self._overflow += change
            _number.pack_into(self._memory, 0, self._overflow)


class StartedReader:
    """A router's end: reads marks. Opened while the replica lives, since the file is removed when it has exited.

    Args:
        path: the file. If it does not exist, every call counts as started.
    """

    def __init__(self, path: str) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            self._descriptor = -1

    def calls(self, connection: int) -> frozenset[int] | None:
        """Ids of the calls of one connection that have started and are not over; None if that is unknown."""
        data = self._read()
        if data is None or _number.unpack_from(data)[0]:
            return None
        slots = _slot.iter_unpack(memoryview(data)[_number.size :])
        return frozenset(call_id for known, call_id in slots if call_id and known == connection)

    def any(self) -> bool:
        """True if any call has started and is not over; False if that is unknown."""
        data = self._read()
        if data is None:
            return False
        slots = _slot.iter_unpack(memoryview(data)[_number.size :])
        return bool(_number.unpack_from(data)[0]) or any(call_id for _, call_id in slots)

    def _read(self) -> bytes | None:
        if self._descriptor < 0:
            return None
        data = os.pread(self._descriptor, _number.size + SLOTS * _slot.size, 0)
        return data if len(data) == _number.size + SLOTS * _slot.size else None

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def has_started_calls(address: str) -> bool:
    """True if a replica has calls that have started and are not over; False if that is unknown, as on another node."""
    reader = StartedReader(path_of(address))
    try:
        return reader.any()
    finally:
        reader.close()
