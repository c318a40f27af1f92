"""Which calls a replica has started: a small file in shared memory that outlives the replica.

The replica notes a call right before it calls user code and strikes it out when the call is over. A router that loses
the replica reads what was left: calls that are not in it never reached user code, so that they can be placed elsewhere,
whatever their method. No message is needed, and a SIGKILL cannot get in between.

    header   overflow: calls that were started while all slots were taken and are not over (8 bytes)
    slot     the connection's number, the call's id; an id of 0 means free (16 bytes)
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
    """The file beside a replica's socket."""
    return f"{address}.started"


class StartedCalls:
    """The replica's end.

    Args:
        path: the file, made anew, mode 0600.
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
        """Note a call, from any thread; give the answer back to :meth:`end`."""
        try:
            offset = self._free.pop()
        except IndexError:
            self._count_overflow(1)
            return 0
        # The id last: until it is there the slot is free, and user code has not been called.
        _number.pack_into(self._memory, offset, connection)
        _number.pack_into(self._memory, offset + _ID_OFFSET, call_id)
        return offset

    def end(self, offset: int) -> None:
        """Strike a call out."""
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
    """A router's end. Opened while the replica lives, so that the file can be read after it was removed.

    Args:
        path: the file; where there is none, every call counts as started.
    """

    def __init__(self, path: str) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            self._descriptor = -1

    def calls(self, connection: int) -> frozenset[int] | None:
        """Ids of the calls of one connection that were started and not over; None when that cannot be known."""
        data = self._read()
        if data is None or _number.unpack_from(data)[0]:
            return None
        slots = _slot.iter_unpack(memoryview(data)[_number.size :])
        return frozenset(call_id for known, call_id in slots if call_id and known == connection)

    def any(self) -> bool:
        """Whether any call was started and is not over; False when that cannot be known."""
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
    """Whether a replica has noted that calls have started and are not over; False when that cannot be known, as of one
    on another node."""
    reader = StartedReader(path_of(address))
    try:
        return reader.any()
    finally:
        reader.close()
