"""The store: desired state on disk, in SQLite in WAL mode with full syncs (decision 0019). Only this package uses
sqlite3.

    open    read the file -> no older than acknowledged? -> use it
                             otherwise use the last verified copy, if that is; else refuse, naming the file
    commit  changed rows, reply, number and digest of the state in one transaction -> acknowledge

SQLite alone does not suffice: a damaged frame in its log silently ends the log there, so that an older state opens
without an error, and a damaged value passes its checks. So each row has a checksum, the whole state has a digest, and a
separate file says which state was acknowledged last. Code is an opaque blob under its digest and is never decoded here.
All methods block; the controller calls them on one thread.
"""

from __future__ import annotations

import logging
import os
import secrets
import sqlite3
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from pointsman.controller.state import Desired
from pointsman.controller.store.files import (
    AckFile,
    Acknowledged,
    StoreError,
    check_private,
    files_of,
    put_in_place,
    sync,
)
from pointsman.controller.store.snapshot import BUSY_TIMEOUT_S, SCHEMA, Snapshot, Writer, empty, look_at
from pointsman.usercode.packing import code_digest

log = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """The state that a new controller begins with."""

    desired: Desired
    replies: dict[str, bytes]
    epoch: int


class Store:
    """The state of one instance.

    Args:
        path: the database file; created on first use with mode 0600.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._copy = path.with_name(path.name + ".copy")
        self._ack = AckFile(path.with_name(path.name + ".ack"))
        self._connection: sqlite3.Connection | None = None
        self._now = empty()
        self._copied = -1
        # True after a disk error: what was written is unknown, so the file is read again before the next change.
        self._doubtful = False

    def open(self) -> Loaded:
        """Find the last good state, and begin a new epoch.

        Raises:
            StoreError: no state is known to be good; the text names the file and what is wrong with it.
        """
        found = self._find()
        try:
            self._connect()
            self._now = found
            epoch = found.epoch + 1
            store = found.store or secrets.token_hex(16)
            self._transact(found._replace(store=store, epoch=epoch), found.desired, "", b"", ())
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise StoreError(f"{self._path} cannot be written: {error}") from None
        return Loaded(self._now.desired, dict(self._now.replies), epoch)

    def commit(
        self,
        desired: Desired,
        *,
        reply_to: str = "",
        reply: bytes = b"",
        codes: Sequence[bytes] = (),
        acknowledged: bool = True,
    ) -> None:
        """Make a state durable, whole or not at all.

        Args:
            desired: the new state.
            reply_to: id of the command that caused it; ``reply`` is what a repetition of the command gets.
            codes: code blobs that the state refers to by digest.
            acknowledged: whether anybody is told of the change. A copy that lacks one of which nobody was is as good.

        Raises:
            StoreError: nothing was written, or it was undone.
        """
        try:
            if self._was_replaced():
                self.close()
            if self._doubtful or self._connection is None:
                self._reopen()
        except (sqlite3.Error, OSError, StoreError) as error:
            raise StoreError(f"the change is not durable and was not made: {error}") from None
        try:
            self._transact(self._now, desired, reply_to, reply, codes, acknowledged=acknowledged)
        except (sqlite3.Error, OSError) as error:
            self._doubtful = True
            try:
                # At once, and not before the next commit: should this process end now, a change that was refused must
                # not be found on disk.
                self._reopen()
            except (sqlite3.Error, OSError, StoreError) as again:
                log.error("%s is not usable at present: %s", self._path, again)
            raise StoreError(f"the change is not durable and was not made: {error}") from None

    def blob(self, digest: str) -> bytes:
        """Code by its digest.

        Raises:
            StoreError: it is missing, or not what the digest says.
        """
        try:
            if self._connection is None:
                self._reopen()
            assert self._connection is not None
            row = self._connection.execute("SELECT data FROM blobs WHERE digest = ?", (digest,)).fetchone()
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"code {digest[:12]} cannot be read: {error}") from None
        if row is None or code_digest(row[0]) != digest:
            raise StoreError(f"code {digest[:12]} is missing from {self._path}, or damaged")
        return bytes(row[0])

    def copy(self) -> None:
        """Update the copy, if it is not up to date.

        Raises:
            StoreError: it could not be made; the previous copy is still there.
        """
        if self._connection is None or self._copied == self._now.commit:
            return
        fresh = self._copy.with_name(self._copy.name + ".new")
        try:
            fresh.unlink(missing_ok=True)
            os.close(os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            target = sqlite3.connect(fresh)
            try:
                self._connection.backup(target)
                target.execute("PRAGMA journal_mode=DELETE")  # a single file
            finally:
                target.close()
            if look_at(fresh).digest != self._now.digest:
                raise StoreError(f"the copy of {self._path} is not what was written")
            sync(fresh)
            os.replace(fresh, self._copy)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self._path} could not be copied: {error}") from None
        self._copied = self._now.commit

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # Finding

    def _find(self) -> Snapshot:
        if not any(file.exists() for file in (self._path, self._copy, self._ack.path)):
            return empty()
        check_private(self._path)
        try:
            return self._acceptable(self._path)
        except StoreError as error:
            problem = error
        try:
            check_private(self._copy)
            good = self._acceptable(self._copy)
        except StoreError as other:
            raise StoreError(f"{problem}; and there is no copy to go back to: {other}") from None
        try:
            kept = put_in_place(self._copy, self._path, datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ"))
        except OSError as error:
            raise StoreError(f"{problem}; and its copy cannot be put in its place: {error}") from None
        log.warning(
            "%s; the copy is as good as what was acknowledged last (version %d, change %d) and is used; nothing was"
            " dropped, and what was found is kept as %s",
            problem,
            good.desired.version,
            good.commit,
            ", ".join(map(str, kept)) or "(it was missing)",
        )
        return good

    def _acceptable(self, path: Path) -> Snapshot:
        """The state in a file, if it is no older than the acknowledged one.

        Raises:
            StoreError: it is older, of another store, or damaged.
        """
        found = look_at(path)
        ack: Acknowledged | None = None
        try:
            ack = self._ack.read()
            missing = "is missing"
        except StoreError as error:
            missing = str(error)
        if ack is None:
            # Before the first change there is nothing to lose. Later a missing acknowledgement is tolerated only if
            # database and copy agree: one of them alone may be old.
            if found.commit > 1 and not self._agree():
                raise StoreError(f"{self._ack.path}, which says how new {path} must be, {missing}")
            return found
        if found.store != ack.store:
            raise StoreError(f"{path} belongs to another store than {self._ack.path}")
        if found.commit < ack.commit:
            raise StoreError(
                f"{path} is damaged: it holds version {found.desired.version} (change {found.commit}), and change"
                f" {ack.commit} was acknowledged"
            )
        if found.commit == ack.commit and found.digest != ack.digest:
            raise StoreError(f"{path} is damaged: it is not the state that was acknowledged")
        return found

    def _agree(self) -> bool:
        """True if database and copy hold the same state."""
        try:
            return look_at(self._path).digest == look_at(self._copy).digest
        except StoreError:
            return False

    # Writing

    def _connect(self) -> None:
        """Open a new connection, then close the old one, so that code can still be read if opening fails."""
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
        connection = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.executescript(SCHEMA)
        except BaseException:
            connection.close()
            raise
        self.close()
        self._connection = connection

    def _reopen(self) -> None:
        """Read the database again, and write the state that is in force where it differs."""
        wanted, self._doubtful = self._now, True
        try:
            found = self._now = look_at(self._path)
            self._connect()
            if found.digest != wanted.digest:
                log.warning("%s did not hold what is in force (version %d)", self._path, wanted.desired.version)
                if lost := wanted.blobs - found.blobs:
                    raise StoreError(f"{self._path} has lost the code {', '.join(digest[:12] for digest in lost)}")
                self._transact(wanted, wanted.desired, "", b"", ())
        except BaseException:
            self._now = wanted
            raise
        self._doubtful = False

    def _was_replaced(self) -> bool:
        """True if the files were removed or moved: SQLite would go on writing to the deleted ones."""
        return not all(file.exists() for file in files_of(self._path)[:2])

    def _transact(
        self,
        base: Snapshot,
        desired: Desired,
        reply_to: str,
        reply: bytes,
        codes: Sequence[bytes],
        *,
        acknowledged: bool = True,
    ) -> None:
        """Write the difference to the state on disk. ``base`` has the replies, store id and epoch of the new state."""
        connection = self._connection
        assert connection is not None
        connection.execute("BEGIN IMMEDIATE")
        try:
            new = Writer(connection, self._now).write(base, desired, reply_to, reply, codes)
            # Written before the commit: the rename that publishes it afterwards cannot fail for want of disk space.
            if acknowledged:
                self._ack.prepare(Acknowledged(new.store, new.commit, new.digest))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._now = new._replace(sums=new.sums.settle())
        if acknowledged:
            self._ack.publish()


def copy_state(source: Path, target: Path) -> None:
    """Copy a database as it is at some moment during this call, with its acknowledgement. Its controller goes on.

    Args:
        target: is created with mode 0600.

    Raises:
        StoreError: it cannot be read or written, or this release does not know its form.
    """
    try:
        os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        read = sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)
        try:
            written = sqlite3.connect(target)
            try:
                read.backup(written)
                written.execute("PRAGMA journal_mode=DELETE")  # a single file
            finally:
                written.close()
        finally:
            read.close()
        found = look_at(target)
        ack = AckFile(target.with_name(f"{target.name}.ack"))
        ack.prepare(Acknowledged(found.store, found.commit, found.digest))
        ack.publish()
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{source} could not be copied: {error}") from None
