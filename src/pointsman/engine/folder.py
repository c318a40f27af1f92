"""The private folders of instances, of stored state and of the cache, and their locks. Only their owner can access
them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from pathlib import Path

from pointsman.exceptions import ServeException

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
LOCK_TRIES = 5
LOCK_PAUSE_S = 0.005
#: In a state folder: its files as they were before another release took the instance over.
BEFORE_UPGRADE = "before-upgrade"
#: In it and in the state folder: the files of the state.
DATABASE = "state.db*"
#: The system's limit is 108 bytes on Linux and 104 on macOS, the final NUL included.
MAX_SOCKET_PATH = 100


def check_name(name: str) -> str:
    """Check the name of an instance, and return it.

    Raises:
        ValueError: an instance cannot have that name.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"instance name {name!r} is not 1-64 characters of A-Z a-z 0-9 _ . - without a leading dot")
    return name


def runtime_folder() -> Path:
    """The folder that contains the folders of this user's instances; created on first use."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    # The first candidate in which the path of a replica's socket is short enough for the system.
    longest = "/" + "n" * 64 + "/r/999999"
    candidates = [Path(base) / "pointsman"] if base and os.access(base, os.W_OK) else []
    candidates += [Path(folder) / f"pointsman-{os.getuid()}" for folder in (tempfile.gettempdir(), "/tmp")]
    for folder in candidates:
        if len(os.fsencode(folder)) + len(longest) <= MAX_SOCKET_PATH:
            return make_private(folder)
    return make_private(candidates[-1])


NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "lustre", "glusterfs"})


def lock_state_folder(folder: Path) -> int:
    """Lock a state folder; it is created if it is missing.

    Returns:
        The descriptor that holds the lock.

    Raises:
        ServeException: it is not private, is on a network file system or in use; the text says which.
    """
    make_private(folder)
    kind = file_system_of(folder)
    if kind in NETWORK_FILE_SYSTEMS or kind.startswith("fuse.sshfs"):
        raise ServeException(f"state_dir {folder} is on a network file system ({kind}), where locks and syncs may lie")
    lock = take_lock(folder / "lock")
    if lock is None:
        raise ServeException(f"state_dir {folder} is in use by a live instance")
    return lock


def missing_folders(folder: Path) -> list[Path]:
    """The folder and its parents that do not exist yet, the deepest first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    return missing


def remove_new(folders: list[Path]) -> None:
    """Remove folders that :func:`missing_folders` returned and that are empty, apart from the lock in the first."""
    for folder in folders:
        with contextlib.suppress(OSError):  # it was not created after all, or is not empty
            if folder is folders[0]:
                (folder / "lock").unlink(missing_ok=True)
            folder.rmdir()


def logs_of(folder: str, state_dir: str) -> Path:
    """The folder of an instance's log files: beside its stored state if it has one, so that they outlive it."""
    return Path(state_dir or folder) / "logs"


def forget_state(folder: Path) -> None:
    """Delete the stored state in a state folder, whose lock the caller holds, and what was kept of it."""
    for path in folder.glob(DATABASE):
        path.unlink()
    for path in folder.glob(f"{BEFORE_UPGRADE}*"):
        shutil.rmtree(path, ignore_errors=True)


def file_system_of(path: Path) -> str:
    """The type of a path's file system, as Linux names it; empty on other systems."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return ""
    real = path.resolve()
    holding = [(len(mount[1]), mount[2]) for mount in mounts if real.is_relative_to(mount[1])]
    return max(holding, default=(0, ""))[1]


def make_private(folder: Path) -> Path:
    """Create a folder if it is missing, and check that only this user can access it.

    Raises:
        ServeException: it is a symbolic link, belongs to another user, or others can access it.
    """
    with contextlib.suppress(FileExistsError):  # a file, or a dangling symbolic link: refused below
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise ServeException(f"{folder} is not a folder (a symlink is not followed)")
    if status.st_uid != os.getuid():
        raise ServeException(f"{folder} belongs to user {status.st_uid}, not to this user ({os.getuid()})")
    if status.st_mode & 0o077:
        raise ServeException(f"{folder} is open to other users (mode {status.st_mode & 0o777:o}); make it 0700")
    return folder


def take_lock(path: Path) -> int | None:
    """Lock a file exclusively, creating it if it is missing; None if another process holds the lock.

    The lock belongs to the open file, so it can be inherited: it lasts until the last process that holds the descriptor
    has exited.
    """
    for attempt in range(LOCK_TRIES):
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(path) and os.path.samestat(os.fstat(lock), os.stat(path)):
                return lock
        except OSError:
            # Tried again: a process that checks whether the instance lives holds it for a moment.
            time.sleep(LOCK_PAUSE_S * attempt)
        os.close(lock)  # held, or the file was just removed by the instance that ended: a lock on it means nothing
    return None


def cache_folder(name: str) -> Path:
    """A private folder of that name in the user's cache; made on first use.

    Without a home folder that can be written to, it is in the runtime folder, which a restart of the machine empties.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        root = make_private((Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "pointsman")
    except (OSError, RuntimeError):
        root = make_private(runtime_folder() / ".cache")
    return make_private(root / name)


def link_folder(*targets: str) -> str:
    """A folder that holds nothing but links to packages or modules. On an import path it makes these importable, and
    not what lies beside them.

    Args:
        targets: absolute paths with different base names.
    """
    digest = hashlib.sha256("\0".join(targets).encode()).hexdigest()[:32]
    folder = cache_folder("links") / digest
    for target in targets:
        link = folder / os.path.basename(target)
        while not os.path.lexists(link):
            make_private(folder)
            # Somebody else has made the link, or a prune has removed the folder while it was empty.
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                link.symlink_to(target)
    return str(make_private(folder))
