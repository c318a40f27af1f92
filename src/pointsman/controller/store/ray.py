"""The store of the Ray engine: desired state in the cluster's key-value store (decision 0025).

The whole state is one value, so that a change is written whole or not at all; each code blob has a key of its own, its
digest. As in :class:`~pointsman.controller.store.Store`, methods block and are called on one thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from pointsman.controller.state import Desired
from pointsman.controller.store import KEPT_REPLIES, Loaded, StoreError
from pointsman.engine.ray.cluster import KeyValueError, KeyValues
from pointsman.usercode.packing import code_digest

STATE = "state"
CODE = "code/"


class StoredState(msgspec.Struct, frozen=True):
    """The content of that value."""

    epoch: int
    desired: Desired
    replies: dict[str, bytes]


class StoredEpoch(msgspec.Struct, frozen=True):
    """The part of that value that each change looks at: the rest of a large state takes ten times longer to decode."""

    epoch: int


class KeyValueStore:
    """The state of one instance.

    Args:
        values: the instance's keys.
    """

    def __init__(self, values: KeyValues) -> None:
        self._values = values
        self._stored = StoredState(0, Desired(), {})
        self._doubtful = False  # True while a write was not answered: it may yet be carried out

    def open(self) -> Loaded:
        """Read the state, and begin a new epoch.

        Raises:
            StoreError: the cluster does not answer, or the value is damaged.
        """
        kept = self._read()
        self._write(msgspec.structs.replace(kept, epoch=kept.epoch + 1))
        return Loaded(kept.desired, dict(kept.replies), self._stored.epoch)

    def commit(
        self,
        desired: Desired,
        *,
        reply_to: str = "",
        reply: bytes = b"",
        codes: Sequence[bytes] = (),
        acknowledged: bool = True,
    ) -> None:
        """Make a state durable, whole or not at all; see :meth:`pointsman.controller.store.Store.commit`.

        Raises:
            StoreError: nothing was written. Where the cluster did not answer, the next commit overwrites what may have
                been.
        """
        if self._doubtful:
            self._write(self._stored)  # overwrite what the unanswered write may have left
        elif self._stored_epoch() > self._stored.epoch:
            raise StoreError("another controller has taken over this instance")
        replies = dict(self._stored.replies)
        if reply_to:
            replies[reply_to] = reply
            while len(replies) > KEPT_REPLIES:
                del replies[next(iter(replies))]
        for code in codes:
            self._put(CODE + code_digest(code), code)
        before = self._stored
        self._write(StoredState(before.epoch, desired, replies))
        for digest in before.desired.codes() - desired.codes():
            try:
                self._values.delete(CODE + digest)
            except KeyValueError:
                pass  # it stays in the cluster until the instance ends, and is never read

    def blob(self, digest: str) -> bytes:
        """Code by its digest. Raises StoreError: it is missing, or not what the digest says."""
        try:
            data = self._values.get(CODE + digest)
        except KeyValueError as error:
            raise StoreError(f"code {digest[:12]} cannot be read: {error}") from None
        if data is None or code_digest(data) != digest:
            raise StoreError(f"code {digest[:12]} is missing from the cluster, or damaged")
        return data

    def copy(self) -> None:
        """Does nothing: durability is up to the cluster."""

    def close(self) -> None:
        """Does nothing: no connection is held."""

    def _stored_epoch(self) -> int:
        try:
            data = self._read_bytes()
        except StoreError as error:
            raise StoreError(f"the change is not durable and was not made: {error}") from None
        return msgspec.msgpack.decode(data, type=StoredEpoch).epoch if data is not None else 0

    def _read(self) -> StoredState:
        data = self._read_bytes()
        return msgspec.msgpack.decode(data, type=StoredState) if data is not None else StoredState(0, Desired(), {})

    def _read_bytes(self) -> bytes | None:
        """The value without its checksum; None if there is none.

        Raises:
            StoreError: the cluster does not answer, or the value is damaged.
        """
        try:
            value = self._values.get(STATE)
        except KeyValueError as error:
            raise StoreError(f"the state cannot be read: {error}") from None
        if value is None:
            return None
        checksum, data = value[:32], value[32:]
        if hashlib.sha256(data).digest() != checksum:
            raise StoreError("the state in the cluster's key-value store is damaged: its checksum is wrong")
        return data

    def _write(self, kept: StoredState) -> None:
        data = msgspec.msgpack.encode(kept)
        self._put(STATE, hashlib.sha256(data).digest() + data)
        self._stored = kept

    def _put(self, key: str, value: bytes) -> None:
        self._doubtful = True
        try:
            self._values.put(key, value)
        except KeyValueError as error:
            raise StoreError(f"the change is not durable and was not made: {error}") from None
        self._doubtful = False
