"""Writes a new state over the one that is in the database: the rows that differ, and the digest of the whole."""

from __future__ import annotations

import sqlite3

import msgspec

from pointsman.controller.state import Desired
from pointsman.controller.store.snapshot import KINDS, SCHEMA_VERSION, Snapshot, checksum_of, digest_of
from pointsman.usercode.packing import code_digest

KEPT_REPLIES = 1000


class Writer:
    """Writes the difference between two states inside a transaction.

    Args:
        on_disk: what the database holds.
    """

    def __init__(self, connection: sqlite3.Connection, on_disk: Snapshot) -> None:
        self._connection = connection
        self._on_disk = on_disk
        self._sums = on_disk.sums.copy()

    def write(self, base: Snapshot, desired: Desired, reply_to: str, reply: bytes, blob: bytes) -> Snapshot:
        blobs = self._write_blobs(desired, blob)
        self._write_objects(desired)
        replies, positions = dict(base.replies), dict(base.positions)
        if reply_to:
            replies[reply_to] = reply
            positions[reply_to] = max(positions.values(), default=0) + 1
            if len(replies) > KEPT_REPLIES:
                oldest = next(iter(replies))
                del replies[oldest], positions[oldest]
        self._write_replies(replies, positions)
        commit = max(base.commit, self._on_disk.commit) + 1
        digest = digest_of(base.store, commit, desired.version, base.epoch, self._sums.total)
        meta = {
            "schema": SCHEMA_VERSION,
            "store": base.store,
            "version": desired.version,
            "epoch": base.epoch,
            "commit": commit,
            "digest": digest,
        }
        self._connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", meta.items())
        return Snapshot(base.store, commit, digest, desired, replies, positions, blobs, base.epoch, self._sums)

    def _write_objects(self, desired: Desired) -> None:
        for kind in KINDS:
            old, new = getattr(self._on_disk.desired, kind), getattr(desired, kind)
            for name in old.keys() - new.keys():
                self._connection.execute("DELETE FROM objects WHERE kind = ? AND name = ?", (kind, name))
                self._sums.drop(("objects", kind, name))
            for name, value in new.items():
                if old.get(name) != value:
                    data = msgspec.json.encode(value)
                    checksum = checksum_of(kind, name, data)
                    row = (kind, name, data, checksum)
                    self._connection.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)", row)
                    self._sums.put(("objects", kind, name), checksum)

    def _write_blobs(self, desired: Desired, blob: bytes) -> frozenset[str]:
        used = {spec.code for spec in desired.backends.values()}
        used |= {fallback.spec.code for fallback in desired.fallbacks.values() if fallback.spec}
        there = set(self._on_disk.blobs)
        if blob and code_digest(blob) not in there:
            digest = code_digest(blob)
            self._connection.execute("INSERT INTO blobs VALUES (?, ?)", (digest, blob))
            self._sums.put(("blobs", digest), bytes.fromhex(digest))
            there.add(digest)
        for digest in there - used:
            self._connection.execute("DELETE FROM blobs WHERE digest = ?", (digest,))
            self._sums.drop(("blobs", digest))
        return frozenset(there & used)

    def _write_replies(self, replies: dict[str, bytes], positions: dict[str, int]) -> None:
        before = self._on_disk.positions
        for key in before.keys() - positions.keys():
            self._connection.execute("DELETE FROM replies WHERE id = ?", (key,))
            self._sums.drop(("replies", key))
        for key in positions.keys() - before.keys():
            self._connection.execute("INSERT INTO replies VALUES (?, ?, ?)", (key, replies[key], positions[key]))
            self._sums.put(("replies", key), checksum_of(key, str(positions[key]), replies[key]))
