"""The store: desired state on disk, SQLite in WAL mode with full syncs. The only module that knows sqlite3.

One transaction per change: the rows that changed, the version, and the reply that makes a repeated command harmless.
Values are JSON with a checksum; code is an opaque blob under its digest and is never decoded here. All methods block;
the controller calls them on one thread of their own.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from pointsman.controller.state import Desired, Fallback
from pointsman.exceptions import ServeException
from pointsman.model import BackendSpec, EndpointSpec, Pins, Struct, TrafficHistory
from pointsman.usercode import code_digest

T = TypeVar("T")

SCHEMA_VERSION = 1
KEPT_REPLIES = 1000
BUSY_TIMEOUT_S = 4.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS objects (
    kind TEXT, name TEXT, value BLOB NOT NULL, checksum BLOB NOT NULL, PRIMARY KEY (kind, name));
CREATE TABLE IF NOT EXISTS blobs (digest TEXT PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS replies (id TEXT PRIMARY KEY, reply BLOB NOT NULL, position INTEGER NOT NULL);
"""
_KINDS: dict[str, type[Struct]] = {
    "backends": BackendSpec,
    "endpoints": EndpointSpec,
    "fallbacks": Fallback,
    "pins": Pins,
    "histories": TrafficHistory,
}


class StoreError(ServeException):
    """The store cannot be read or written; nothing has changed."""


class Loaded(NamedTuple):
    """What a new controller starts from."""

    desired: Desired
    replies: dict[str, bytes]
    epoch: int


class Store:
    """The state of one instance.

    Args:
        path: the database file; made on first use, mode 0600.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._stored = Desired()
        self._position = 0

    def open(self) -> Loaded:
        """Open, check and read everything; counts this opening as a new epoch.

        Raises:
            StoreError: the file is damaged, of a newer schema, or not private to this user.
        """
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
        status = self._path.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise StoreError(
                f"{self._path} is not private to this user (mode {status.st_mode & 0o777:o}); make it 0600"
            )
        try:
            connection = self._connection = sqlite3.connect(
                self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            check = connection.execute("PRAGMA quick_check").fetchone()[0]
            if check != "ok":
                raise StoreError(f"{self._path} is damaged: {check}")
            connection.executescript(_SCHEMA)
            return self._load(connection)
        except sqlite3.Error as error:
            raise StoreError(f"{self._path} cannot be read: {error}") from None

    def commit(self, desired: Desired, *, reply_to: str = "", reply: bytes = b"", blob: bytes = b"") -> None:
        """Make a state durable, whole or not at all.

        Args:
            desired: the new state.
            reply_to: id of the command that led to it, with the ``reply`` that was or will be sent.
            blob: code that the state refers to by digest.

        Raises:
            StoreError: nothing was written.
        """
        connection = self._connection
        assert connection is not None
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                self._write(connection, desired, reply_to, reply, blob)
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StoreError(f"the change is not durable and was not made: {error}") from None
        self._stored = desired

    def blob(self, digest: str) -> bytes:
        """Code by its digest.

        Raises:
            StoreError: it is missing, or not what the digest says.
        """
        assert self._connection is not None
        try:
            row = self._connection.execute("SELECT data FROM blobs WHERE digest = ?", (digest,)).fetchone()
        except sqlite3.Error as error:
            raise StoreError(f"code {digest[:12]} cannot be read: {error}") from None
        if row is None or code_digest(row[0]) != digest:
            raise StoreError(f"code {digest[:12]} is missing from {self._path}, or damaged")
        return bytes(row[0])

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _load(self, connection: sqlite3.Connection) -> Loaded:
        meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
        schema = int(meta.get("schema", SCHEMA_VERSION))
        if schema != SCHEMA_VERSION:
            raise StoreError(f"{self._path} has schema version {schema}; this pointsman reads {SCHEMA_VERSION}")
        tables: dict[str, dict[str, Struct]] = {kind: {} for kind in _KINDS}
        for kind, name, value, checksum in connection.execute("SELECT kind, name, value, checksum FROM objects"):
            if _checksum(kind, name, value) != checksum or kind not in _KINDS:
                raise StoreError(f"{self._path} is damaged: checksum of {kind} {name!r} is wrong")
            tables[kind][name] = msgspec.json.decode(value, type=_KINDS[kind])
        self._stored = msgspec.convert(
            {"version": int(meta.get("version", 0)), **tables}, Desired, from_attributes=True
        )
        epoch = int(meta.get("epoch", 0)) + 1
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('schema', ?), ('epoch', ?)", (SCHEMA_VERSION, epoch))
        rows = connection.execute("SELECT id, reply, position FROM replies ORDER BY position").fetchall()
        self._position = rows[-1][2] if rows else 0
        return Loaded(self._stored, {row[0]: bytes(row[1]) for row in rows}, epoch)

    def _write(
        self, connection: sqlite3.Connection, desired: Desired, reply_to: str, reply: bytes, blob: bytes
    ) -> None:
        if blob:
            connection.execute("INSERT OR IGNORE INTO blobs VALUES (?, ?)", (code_digest(blob), blob))
        for kind in _KINDS:
            old, new = getattr(self._stored, kind), getattr(desired, kind)
            for name in old.keys() - new.keys():
                connection.execute("DELETE FROM objects WHERE kind = ? AND name = ?", (kind, name))
            for name, value in new.items():
                if old.get(name) != value:
                    data = msgspec.json.encode(value)
                    row = (kind, name, data, _checksum(kind, name, data))
                    connection.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)", row)
        used = {spec.code for spec in desired.backends.values()}
        used |= {fallback.spec.code for fallback in desired.fallbacks.values() if fallback.spec}
        for (digest,) in connection.execute("SELECT digest FROM blobs").fetchall():
            if digest not in used:
                connection.execute("DELETE FROM blobs WHERE digest = ?", (digest,))
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('version', ?)", (desired.version,))
        if reply_to:
            self._position += 1
            connection.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?)", (reply_to, reply, self._position))
            connection.execute("DELETE FROM replies WHERE position <= ?", (self._position - KEPT_REPLIES,))


def _checksum(kind: str, name: str, value: bytes) -> bytes:
    return hashlib.sha256(b"\0".join((kind.encode(), name.encode(), value))).digest()
