"""Reads and checks a whole state from a database, and writes changes to it.

Each row has a checksum. The sum of all checksums, with the number of the change, the version and so on, makes the
digest of the whole state; a sum can be updated for a change without reading all rows again.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pointsman.controller.state import CameUp, Desired, Fallback, Operation, Rollout
from pointsman.controller.store.files import StoreError
from pointsman.model import BackendSpec, ChangeRecord, EndpointSpec, Pins, Scale, Struct, TrafficHistory
from pointsman.model.tokens import Token
from pointsman.usercode.packing import code_digest
from pointsman.wire.apply import Marks
from pointsman.wire.tables import changed

#: The second had no changes, marks and operations, and its objects were JSON; the third had no rollouts, the fourth no
#: scales, and the fifth no tokens.
SCHEMA_VERSION = 6
#: It had no digest of the whole state, and no file of the last acknowledged change.
OLDEST_SCHEMA = 1
BUSY_TIMEOUT_S = 4.0
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS objects (
    kind TEXT, name TEXT, value BLOB NOT NULL, checksum BLOB NOT NULL, PRIMARY KEY (kind, name));
CREATE TABLE IF NOT EXISTS blobs (digest TEXT PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS replies (id TEXT PRIMARY KEY, reply BLOB NOT NULL, position INTEGER NOT NULL);
"""
KINDS: dict[str, type[Struct]] = {
    "backends": BackendSpec,
    "endpoints": EndpointSpec,
    "fallbacks": Fallback,
    "pins": Pins,
    "histories": TrafficHistory,
    "changes": ChangeRecord,
    "marks": Marks,
    "operations": Operation,
    "came_up": CameUp,
    "rollouts": Rollout,
    "scales": Scale,
    "tokens": Token,
}
_MODULUS = 2**256


class Sums:
    """The checksum of each row, and their sum, which does not depend on the order of rows.

    Args:
        base: sums that these are a change of, and that stay as they are until :meth:`settle`. Of thousands of rows a
            transaction changes a few.
    """

    def __init__(self, base: Sums | None = None) -> None:
        self._rows: dict[tuple[str, ...], int] = base._rows if base is not None else {}
        self._changed: dict[tuple[str, ...], int] = {}
        self.total: int = base.total if base is not None else 0

    def put(self, key: tuple[str, ...], checksum: bytes) -> None:
        self._set(key, int.from_bytes(checksum, "big"))

    def drop(self, key: tuple[str, ...]) -> None:
        self._set(key, 0)

    def settle(self) -> Sums:
        """The same, when the transaction is committed; what they are based on must not be used any more."""
        for key, value in self._changed.items():
            if value:
                self._rows[key] = value
            else:
                self._rows.pop(key, None)
        self._changed = {}
        return self

    def _set(self, key: tuple[str, ...], value: int) -> None:
        before = self._changed.get(key, self._rows.get(key, 0))
        self._changed[key] = value
        self.total = (self.total - before + value) % _MODULUS


class Snapshot(NamedTuple):
    """A whole state that was read from disk and is consistent."""

    store: str
    commit: int
    digest: str
    desired: Desired
    replies: dict[str, bytes]
    positions: dict[str, int]
    blobs: frozenset[str]
    epoch: int
    sums: Sums


def empty() -> Snapshot:
    """The state before the first change."""
    return Snapshot("", 0, "", Desired(), {}, {}, frozenset(), 0, Sums())


def look_at(path: Path) -> Snapshot:
    """Read and check a whole database without changing it.

    Raises:
        StoreError: it is damaged, or of an unknown schema; the text names the file.
    """
    if not path.exists():
        raise StoreError(f"{path} is missing")
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)
        try:
            connection.execute("BEGIN")  # one consistent state, even if another process writes meanwhile
            return _read(connection, path)
        finally:
            connection.close()
    except StoreError:
        raise
    except sqlite3.OperationalError as error:
        raise StoreError(f"{path} cannot be read: {error}") from None
    except Exception as error:  # noqa: BLE001 - see below
        # In a damaged file a column may hold a value of any kind, and so anything may be raised here.
        raise StoreError(f"{path} cannot be read, it is damaged: {error}") from None


def _read(connection: sqlite3.Connection, path: Path) -> Snapshot:
    check = connection.execute("PRAGMA quick_check").fetchone()[0]
    if check != "ok":
        raise StoreError(f"{path} is damaged: {check}")
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return empty()
    meta: dict[str, Any] = dict(connection.execute("SELECT key, value FROM meta").fetchall())
    schema = int(meta.get("schema", SCHEMA_VERSION))
    if not OLDEST_SCHEMA <= schema <= SCHEMA_VERSION:
        raise StoreError(f"{path} has schema version {schema}; this pointsman reads {SCHEMA_VERSION}")
    sums = Sums()
    objects: dict[str, dict[str, Struct]] = {kind: {} for kind in KINDS}
    for kind, name, value, checksum in connection.execute("SELECT kind, name, value, checksum FROM objects"):
        if checksum_of(kind, name, value) != checksum or kind not in KINDS:
            raise StoreError(f"{path} is damaged: checksum of {kind} {name!r} is wrong")
        objects[kind][name] = _decoded(value, KINDS[kind])
        sums.put(("objects", kind, name), checksum)
    blobs = set()
    for digest, data in connection.execute("SELECT digest, data FROM blobs"):
        if code_digest(data) != digest:
            raise StoreError(f"{path} is damaged: code {digest[:12]} is not what was stored")
        blobs.add(digest)
        sums.put(("blobs", digest), bytes.fromhex(digest))
    replies, positions = {}, {}
    for key, reply, position in connection.execute("SELECT id, reply, position FROM replies ORDER BY position"):
        replies[key], positions[key] = bytes(reply), int(position)
        sums.put(("replies", key), checksum_of(key, str(position), reply))
    version, epoch, commit = (int(meta.get(key, 0)) for key in ("version", "epoch", "commit"))
    store = meta.get("store", "")
    digest = digest_of(store, commit, version, epoch, sums.total)
    if schema > OLDEST_SCHEMA and meta.get("digest") != digest:
        raise StoreError(f"{path} is damaged: the digest of the whole state is wrong")
    desired = Desired(version, **objects)  # type: ignore[arg-type]  # the kinds are its fields
    return Snapshot(store, commit, digest, desired, replies, positions, frozenset(blobs), epoch, sums.settle())


def _decoded(value: bytes, kind: type[Struct]) -> Struct:
    """A stored object. Until schema 3 it was JSON, which knows no ``math.inf``, the size of a body without a limit."""
    return msgspec.json.decode(value, type=kind) if value[:1] == b"{" else msgspec.msgpack.decode(value, type=kind)


def digest_of(store: str, commit: int, version: int, epoch: int, total: int) -> str:
    """The digest of a whole state."""
    return hashlib.sha256(f"{store} {commit} {version} {epoch} {total:064x}".encode()).hexdigest()


def checksum_of(kind: str, name: str, value: bytes) -> bytes:
    return hashlib.sha256(b"\0".join((kind.encode(), name.encode(), value))).digest()


#: How many replies are kept for commands that are repeated.
KEPT_REPLIES = 1000


class Writer:
    """Writes the difference between two states inside a transaction.

    Args:
        on_disk: the state in the database.
    """

    def __init__(self, connection: sqlite3.Connection, on_disk: Snapshot) -> None:
        self._connection = connection
        self._on_disk = on_disk
        self._sums = Sums(on_disk.sums)

    def write(self, base: Snapshot, desired: Desired, reply_to: str, reply: bytes, codes: Sequence[bytes]) -> Snapshot:
        blobs = self._write_blobs(desired, codes)
        self._write_objects(desired)
        replies, positions = dict(base.replies), dict(base.positions)
        if reply_to:
            replies[reply_to] = reply
            positions[reply_to] = next(reversed(positions.values()), 0) + 1
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
            for name, value in changed(getattr(self._on_disk.desired, kind), getattr(desired, kind)).items():
                if value is None:
                    self._connection.execute("DELETE FROM objects WHERE kind = ? AND name = ?", (kind, name))
                    self._sums.drop(("objects", kind, name))
                    continue
                data = msgspec.msgpack.encode(value)
                checksum = checksum_of(kind, name, data)
                row = (kind, name, data, checksum)
                self._connection.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)", row)
                self._sums.put(("objects", kind, name), checksum)

    def _write_blobs(self, desired: Desired, codes: Sequence[bytes]) -> frozenset[str]:
        before = self._on_disk.desired
        same = desired.backends is before.backends and desired.fallbacks is before.fallbacks
        if same and desired.operations is before.operations and not codes:
            return self._on_disk.blobs
        used = desired.codes()
        there = set(self._on_disk.blobs)
        for code in codes:
            digest = code_digest(code)
            if digest not in there:
                self._connection.execute("INSERT INTO blobs VALUES (?, ?)", (digest, code))
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
