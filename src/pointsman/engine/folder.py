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
import re
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

import msgspec

from pointsman.exceptions import ServeException

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
ANONYMOUS_PREFIX = ".anonymous."
REFUSAL = "refused"
LOCK_TRIES = 5
LOCK_PAUSE_S = 0.005
SWEEP_AGE_S = 60
MAX_SOCKET_PATH = 100
"""The system's limit is 108 bytes on Linux and 104 on macOS, the final NUL included."""


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


def check_name(name: str) -> str:
    """The name itself.

    Raises:
        ValueError: it cannot name an instance.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"instance name {name!r} is not 1-64 characters of A-Z a-z 0-9 _ . - without a leading dot")
    return name


def runtime_folder() -> Path:
    """Where instances of this user live; made on first use."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    longest = "/" + "n" * 64 + "/r/999999"
    candidates = [Path(base) / "pointsman"] if base and os.access(base, os.W_OK) else []
    candidates += [Path(folder) / f"pointsman-{os.getuid()}" for folder in (tempfile.gettempdir(), "/tmp")]
    for folder in candidates:
        if len(os.fsencode(folder)) + len(longest) <= MAX_SOCKET_PATH:
            return make_private(folder)
    return make_private(candidates[-1])


NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "lustre", "glusterfs"})


def lock_state_folder(folder: Path) -> int:
    """Make sure that a state folder is private, local and not in use, and take it.

    Returns:
        The descriptor that holds its lock.

    Raises:
        ServeException: it is not; the text names the cause.
    """
    make_private(folder)
    kind = _file_system(folder)
    if kind in NETWORK_FILE_SYSTEMS or kind.startswith("fuse.sshfs"):
        raise ServeException(f"state_dir {folder} is on a network file system ({kind}), where locks and syncs may lie")
    lock = take_lock(folder / "lock")
    if lock is None:
        raise ServeException(f"state_dir {folder} is in use by a live instance")
    return lock


def missing_folders(folder: Path) -> list[Path]:
    """The folder and those above it as far as they are yet to be made, the deepest first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    return missing


def remove_new(folders: list[Path]) -> None:
    """Remove folders that :func:`missing_folders` has found missing, with the lock of the first; others stay."""
    for folder in folders:
        with contextlib.suppress(OSError):  # it was not made after all, or somebody has put something into it
            if folder is folders[0]:
                (folder / "lock").unlink(missing_ok=True)
            folder.rmdir()


def logs_of(folder: str, state_dir: str) -> Path:
    """Where the log files of an instance are: with its stored state, where that is kept, since they are of use then."""
    return Path(state_dir or folder) / "logs"


def forget_state(folder: Path) -> None:
    """Remove what is stored in a state folder, whose lock we hold."""
    for path in folder.glob("state.db*"):
        path.unlink()


def _file_system(path: Path) -> str:
    """The type of the file system that holds a path, as Linux names it; empty on systems that do not say."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return ""
    real = path.resolve()
    holding = [(len(mount[1]), mount[2]) for mount in mounts if real.is_relative_to(mount[1])]
    return max(holding, default=(0, ""))[1]


def make_private(folder: Path) -> Path:
    """Make sure that a folder exists and is only ours.

    Raises:
        ServeException: it is a symlink, somebody else's, or open to others.
    """
    with contextlib.suppress(FileExistsError):  # it is a file, or a symlink to nowhere
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise ServeException(f"{folder} is not a folder (a symlink is not followed)")
    if status.st_uid != os.getuid():
        raise ServeException(f"{folder} belongs to user {status.st_uid}, not to this user ({os.getuid()})")
    if status.st_mode & 0o077:
        raise ServeException(f"{folder} is open to other users (mode {status.st_mode & 0o777:o}); make it 0700")
    return folder


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


def take_lock(path: Path) -> int | None:
    """Take an exclusive lock on a file, made when it is missing; None when somebody holds it.

    The lock belongs to the open file, so that it can be inherited: it lasts until the last process that holds the
    descriptor has ended.
    """
    for attempt in range(LOCK_TRIES):
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(path) and os.path.samestat(os.fstat(lock), os.stat(path)):
                return lock
        except OSError:
            # It may be held for a moment only, by someone who looks whether the instance is alive.
            time.sleep(LOCK_PAUSE_S * attempt)
        os.close(lock)  # held, or the file of an instance that was just removing it
    return None


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
