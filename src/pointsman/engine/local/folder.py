"""An instance's private folder: sockets, key, logs, store. Only its owner may look in.

<runtime folder>/<name>/    lock   held by the supervisor for as long as the instance lives
                            key    the operator's key, for `connect` and the command line
                            about  JSON: id, HTTP address, supervisor's pid
                            ctl    the controller's socket
                            r/     a socket per replica
                            m/     what each process counts; missing where nothing is to be counted
                            table  the newest routing table
                            logs/  a file per process
                            refused   why the controller does not come up; missing where it does
                            state.db
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from pathlib import Path
from typing import BinaryIO

import msgspec

from pointsman.engine.folder import logs_of, make_private, runtime_folder, take_lock
from pointsman.exceptions import ServeException

ANONYMOUS_PREFIX = ".anonymous."
REFUSAL = "refused"
SWEEP_AGE_S = 60


class About(msgspec.Struct, frozen=True):
    """What a folder says of its instance."""

    instance: str
    name: str
    pid: int
    http_host: str | None
    http_port: int
    request_timeout_s: float
    ingresses: int
    metrics_host: str | None = None
    metrics_port: int = 0
    logs: str = ""
    """Folder of its log files; empty where who wrote this did not know of it, which is where they lie in the folder."""


class InstanceFolder:
    """One instance's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.control_socket = path / "ctl"
        self.replica_sockets = path / "r"
        self.metrics = path / "m"

    @classmethod
    def of(cls, name: str) -> InstanceFolder:
        return cls(runtime_folder() / name)

    def create(self) -> int:
        """Make the folder and take its lock; what a dead instance left there is removed.

        Returns:
            The descriptor that holds the lock.

        Raises:
            ServeException: a live instance holds it.
        """
        make_private(self.path)
        lock = take_lock(self.path / "lock")
        if lock is None:
            raise ServeException(
                f"an instance named {self.path.name!r} is running; use connect({self.path.name!r}) to attach to it"
            )
        self._clear()
        self.replica_sockets.mkdir(mode=0o700)
        return lock

    def is_alive(self) -> bool:
        """Whether an instance holds the lock."""
        try:
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(lock)
        return False

    def wait_for_end(self) -> None:
        """Return when the instance has ended: its supervisor holds the lock until its last breath."""
        try:
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)
        finally:
            os.close(lock)

    def write(self, name: str, data: bytes) -> None:
        """Write a private file."""
        descriptor = os.open(self.path / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)

    def read(self, name: str) -> bytes:
        """Read a file of the folder.

        Raises:
            ServeException: it is empty, or others can read it.
        """
        with self.open(name) as file:
            return file.read()

    def open(self, name: str) -> BinaryIO:
        """Open a file of the folder for reading.

        Raises:
            ServeException: it is empty, or others can read it.
        """
        file = os.fdopen(os.open(self.path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
        status = os.fstat(file.fileno())
        if not status.st_size or status.st_mode & 0o077 or status.st_uid != os.getuid():
            file.close()
            raise ServeException(f"{self.path / name} is empty, or not private to this user; refusing to use it")
        return file

    def about(self) -> About:
        return msgspec.json.decode(self.read("about"), type=About)

    def logs(self) -> Path:
        """Where the log files of the instance are, also of one that was killed: its folder stays.

        Raises:
            FileNotFoundError: it has ended in good order, or there was none.
            ServeException: it has only begun to start.
        """
        return Path(self.about().logs or logs_of(str(self.path), ""))

    def forget_replica(self, number: int) -> None:
        """Remove what a dead replica has left here. Routers that knew it hold what they still read open."""
        for path in (self.replica_sockets / str(number), self.replica_sockets / f"{number}.started"):
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def _clear(self) -> None:
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != "lock":
                entry.unlink()


def live_instances() -> list[str]:
    """Names of the live named instances of this user."""
    names = [folder.path.name for folder in live_folders()]
    return [name for name in names if not name.startswith(ANONYMOUS_PREFIX)]


def abouts() -> list[About]:
    """What is known of the live named instances of this user."""
    found = []
    for name in live_instances():
        try:
            found.append(InstanceFolder.of(name).about())
        except (FileNotFoundError, ServeException):
            continue  # it ended just now, or has only begun to start
    return found


def live_folders() -> list[InstanceFolder]:
    """Folders of all live instances of this user, anonymous ones too."""
    folders = [InstanceFolder(path) for path in sorted(runtime_folder().iterdir()) if path.is_dir()]
    return [folder for folder in folders if folder.is_alive()]


def sweep_anonymous() -> None:
    """Remove folders of anonymous instances whose supervisor was killed before it could.

    Young folders are left alone: another start may be between making its folder and locking it.
    """
    for path in runtime_folder().glob(f"{ANONYMOUS_PREFIX}*"):
        folder = InstanceFolder(path)
        with contextlib.suppress(FileNotFoundError):  # its instance has ended just now, and removed it
            if time.time() - path.lstat().st_mtime > SWEEP_AGE_S and not folder.is_alive():
                folder.remove()


def folder_of(control_path: str) -> InstanceFolder:
    """The folder of the instance whose controller listens at that path."""
    return InstanceFolder(Path(control_path).parent)


def metrics_folder(control_path: str) -> Path:
    """What the processes of the instance count."""
    return folder_of(control_path).metrics


def log_folders(control_path: str) -> dict[str, Path]:
    """The folder of the instance's log files; it has no name, since there is one."""
    return {"": folder_of(control_path).logs()}
