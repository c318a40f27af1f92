"""An instance's private folder: sockets, key, logs, store. Only its owner can access it.

<runtime folder>/<name>/    lock   held by the supervisor for as long as the instance lives
                            key    the operator's key, for `connect` and the command line
                            about  JSON: id, HTTP address, supervisor's pid
                            ctl    the controller's socket
                            r/     a socket per replica
                            m/     the metrics files; missing if metrics are switched off
                            t/     the tallies of calls, by which versions are judged
                            k/     what API keys have used up; missing if there are no limits to share
                            c/     counts and examples of compared answers; missing while none were compared
                            table  the newest routing table
                            logs/  a file per process
                            refused   why the controller refuses to start; missing if it does not
                            state.db

One that another release can take over (decision 0104) has its files in a folder of its own, ``.g.<random>``, and its
name is a link to that; there is also

                            upgrade   the supervisor's socket for whoever takes the instance over
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from pointsman.engine.folder import check_name, logs_of, make_private, runtime_folder, take_lock
from pointsman.exceptions import ServeException

ANONYMOUS_PREFIX = ".anonymous."
SCRIPT_PREFIX = "(script) "
#: Of the folders of instances that another release can take over: their names are links to these.
OWN_PREFIX = ".g."
#: Is locked while a name changes hands.
NAMES = ".names"
REFUSAL = "refused"
SWEEP_AGE_S = 60


class About(msgspec.Struct, frozen=True):
    """The content of the file ``about``.

    Attributes:
        pid: of the supervisor.
        secure: whether the HTTP port has TLS.
        console: base URL of the console; empty without one.
        release: of Pointsman that its processes run; empty in files of older versions.
        logs: folder of the log files; empty in files of older versions, where it is in the instance's folder.
    """

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
    secure: bool = False
    console: str = ""
    release: str = ""


class InstanceFolder:
    """One instance's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.control_socket = path / "ctl"
        self.replica_sockets = path / "r"
        self.metrics = path / "m"
        self.upgrade_socket = path / "upgrade"

    @classmethod
    def of(cls, name: str) -> InstanceFolder:
        return cls(runtime_folder() / name)

    @classmethod
    def of_its_own(cls) -> InstanceFolder:
        """A new folder, to which a name can be given by :meth:`claim` or :meth:`take_name`."""
        return cls(runtime_folder() / f"{OWN_PREFIX}{secrets.token_hex(4)}")

    def create(self) -> int:
        """Create the folder and lock it; what an ended instance left there is removed.

        Returns:
            The descriptor that holds the lock.

        Raises:
            ServeException: a live instance holds it.
        """
        with _names_locked(self.path.parent):
            if self.path.is_symlink():
                if self.is_alive():
                    raise ServeException(_runs(self.path.name))
                self.remove()
            make_private(self.path)
            lock = take_lock(self.path / "lock")
        if lock is None:
            raise ServeException(_runs(self.path.name))
        self._clear()
        self.replica_sockets.mkdir(mode=0o700)
        return lock

    def claim(self, name: str) -> None:
        """Have a name lead to this folder; what an ended instance of that name has left is removed.

        Raises:
            ServeException: a live instance has it.
        """
        with _names_locked(self.path.parent):
            before = InstanceFolder(self.path.with_name(name))
            if before.is_alive():
                raise ServeException(_runs(name))
            before.remove()
            self.take_name(name)

    def take_name(self, name: str) -> None:
        """Have a name that leads to another folder, or nowhere, lead to this one, at once.

        Two processes may do so at the same time: at the end of an upgrade the old and the new supervisor do.
        """
        link = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}.link")
        link.symlink_to(self.path.name)
        os.replace(link, self.path.with_name(name))

    def is_alive(self) -> bool:
        """True if an instance holds the lock."""
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
        """Return when the instance has ended: its supervisor holds the lock until it exits. Another release that has
        taken it over has a lock of its own."""
        while self.is_alive():
            with contextlib.suppress(FileNotFoundError):
                lock = os.open(self.path / "lock", os.O_RDWR | os.O_CLOEXEC)
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
        """The folder of the log files; also of an instance that was killed, whose folder stays.

        Raises:
            FileNotFoundError: the instance has shut down, or never existed.
            ServeException: it has only begun to start.
        """
        return Path(self.about().logs or logs_of(str(self.path), ""))

    def forget_replica(self, number: int) -> None:
        """Remove the files of a replica that has exited. Routers keep open what they still read."""
        for path in (self.replica_sockets / str(number), self.replica_sockets / f"{number}.started"):
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove it, and the name that leads to it."""
        real = self.path.resolve()
        with contextlib.suppress(FileNotFoundError):
            for entry in self.path.parent.iterdir():
                if entry.is_symlink() and os.readlink(entry) == real.name:
                    entry.unlink(missing_ok=True)
        shutil.rmtree(real, ignore_errors=True)

    def _clear(self) -> None:
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != "lock":
                entry.unlink()


def _runs(name: str) -> str:
    return f"an instance named {name!r} is running; use connect({name!r}) to attach to it"


@contextlib.contextmanager
def _names_locked(runtime: Path) -> Iterator[None]:
    """In the body no other process claims a name, or makes a folder of it."""
    lock = os.open(runtime / NAMES, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def all_abouts() -> list[About]:
    """The ``about`` of each live instance of this user, anonymous ones included."""
    found = []
    for folder in live_folders():
        try:
            found.append(folder.about())
        except (FileNotFoundError, ServeException):
            continue  # it has just ended, or has only begun to start
    return found


def shown_name(about: About) -> str:
    """The name of an instance for the command line; one of a script is told by its supervisor's pid."""
    return about.name or f"{SCRIPT_PREFIX}{about.pid}"


def folder_named(name: str) -> InstanceFolder:
    """The folder of the instance with that name, or that :func:`shown_name`; it need not exist.

    Raises:
        ServeException: no script's instance is known by that name.
        ValueError: no instance can have that name.
    """
    if not name.startswith(SCRIPT_PREFIX):
        return InstanceFolder.of(check_name(name))
    for folder in live_folders():
        try:
            if shown_name(folder.about()) == name:
                return folder
        except (FileNotFoundError, ServeException):
            continue  # as in all_abouts
    raise ServeException(f"no instance named {name!r} is running; pointsman list shows those that are")


def live_folders() -> list[InstanceFolder]:
    """The folders of all live instances of this user, including anonymous ones, by their names."""
    found = [path for path in sorted(runtime_folder().iterdir()) if path.is_dir()]
    folders = [InstanceFolder(path) for path in found if not path.name.startswith(OWN_PREFIX)]
    return [folder for folder in folders if folder.is_alive()]


def sweep_anonymous() -> None:
    """Remove the folders of anonymous instances whose supervisor was killed, and others to which no name leads.

    Young folders are skipped: another process may have created one and not locked it yet.
    """
    found = list(runtime_folder().iterdir())
    links = [path for path in found if path.is_symlink() and not path.name.startswith(OWN_PREFIX)]
    named = {os.readlink(path) for path in links}
    for path in found:
        if not path.name.startswith((ANONYMOUS_PREFIX, OWN_PREFIX)) or path.name in named or path.is_symlink():
            continue
        folder = InstanceFolder(path)
        with contextlib.suppress(FileNotFoundError):  # its instance has just ended and removed it
            if time.time() - path.lstat().st_mtime > SWEEP_AGE_S and not folder.is_alive():
                folder.remove()


def folder_of(control_path: str) -> InstanceFolder:
    """The folder of the instance whose controller listens at that path."""
    return InstanceFolder(Path(control_path).parent)


def metrics_folder(control_path: str) -> Path:
    """The folder of the instance's metrics files."""
    return folder_of(control_path).metrics


def log_folders(control_path: str) -> dict[str, Path]:
    """The folder of the instance's log files, under an empty name since there is only one node."""
    return {"": folder_of(control_path).logs()}
