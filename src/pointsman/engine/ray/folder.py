"""An instance's names in its cluster, and its folder on one node, with the sockets and metrics of the processes there.

Each instance has its own Ray namespace. Its control path is ``ray:``, the namespace, ``#`` and its id. A process has
a shared lock on the folder while it lives. A folder that is not locked is removed by the last process that leaves it,
or by the first process of another instance. Must not import Ray, which a backend's environment need not have.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from pathlib import Path

import msgspec

from pointsman.engine.folder import make_private, runtime_folder
from pointsman.engine.lognames import CARD, LogCard, name_of
from pointsman.wire.address import node_here

RAY_PREFIX = "ray:"
CONTROLLER = "controller"
REPLICA_PREFIX = "replica-"
INGRESS_PREFIX = "ingress-"
METRICS_PREFIX = "metrics-"
CONSOLE_PREFIX = "console-"
ANONYMOUS = "pointsman-anonymous-"
NAMED = "pointsman/"


def namespace_of(name: str) -> str:
    """The namespace of a named instance."""
    return NAMED + name


def is_ours(namespace: str) -> bool:
    """True if a namespace belongs to an instance."""
    return namespace.startswith((ANONYMOUS, NAMED))


def name_in(control_path: str) -> str:
    """The name of the instance; empty for an anonymous one."""
    namespace = namespace_in(control_path)
    return namespace.removeprefix(NAMED) if namespace.startswith(NAMED) else ""


def control_path_of(namespace: str, instance: str) -> str:
    return f"{RAY_PREFIX}{namespace}#{instance}"


def namespace_in(control_path: str) -> str:
    return control_path.removeprefix(RAY_PREFIX).rpartition("#")[0]


def instance_in(control_path: str) -> str:
    return control_path.rpartition("#")[2]


def replica_name(number: int) -> str:
    return f"{REPLICA_PREFIX}{number}"


def ingress_name(node: str, index: int) -> str:
    return f"{INGRESS_PREFIX}{index}-{node}"


def metrics_name(node: str) -> str:
    return f"{METRICS_PREFIX}{node}"


def console_name(node: str) -> str:
    return f"{CONSOLE_PREFIX}{node}"


PREFIX = ".ray."
#: Characters of a node's name in a path: paths of sockets are limited to about 100 in all.
SHORT_NODE = 8
#: Descriptor numbers, since Ray replaces ``sys.stdout`` and ``sys.stderr``.
STDOUT, STDERR = 1, 2


class NodeFolder:
    """The folder of an instance on the node of this process; created and locked by :meth:`enter`."""

    def __init__(self, instance: str) -> None:
        # Several nodes may run on one machine (tests do that), so the name contains the node.
        self.path = runtime_folder() / f"{PREFIX}{instance}.{node_here()[:SHORT_NODE]}"
        self.replica_sockets = self.path / "r"
        self.metrics = self.path / "m"
        self.pairs = self.path / "c"
        self.tallies = self.path / "t"
        self.logs = self.path / "logs"
        self._lock = -1

    @classmethod
    def of(cls, control_path: str) -> NodeFolder:
        """The folder of the instance with that control path."""
        return cls(instance_in(control_path))

    def enter(self, *, with_metrics: bool) -> None:
        """Create the folder and lock it for this process; remove folders that are not locked."""
        for path in runtime_folder().glob(f"{PREFIX}*"):
            if path != self.path:
                _remove_unheld(path)
        while self._lock < 0:
            make_private(self.path)
            make_private(self.replica_sockets)
            if with_metrics:
                make_private(self.metrics)
            # Another process may remove the folder between its creation and the lock: then it is created once more.
            with contextlib.suppress(FileNotFoundError):
                lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                fcntl.flock(lock, fcntl.LOCK_SH)
                if (self.path / "lock").exists():
                    self._lock = lock
                else:
                    os.close(lock)

    def say_where_logs_are(self, role: str, label: str) -> None:
        """Write output and logs of this process to one file, in order, and store here which of Ray's log files that is.
        The stored file outlives the process."""
        os.dup2(STDERR, STDOUT)
        written = os.fstat(STDERR)
        try:
            path = os.readlink(f"/proc/self/fd/{STDERR}")
        except OSError:
            return  # not on Linux
        if stat.S_ISREG(written.st_mode):
            card = LogCard(path, written.st_size, label)
            make_private(self.logs)
            (self.logs / f"{name_of(role, os.getpid(), label)}{CARD}").write_bytes(msgspec.json.encode(card))

    def socket(self, name: str) -> str:
        """The path for a new socket; one that an exited process has left there is removed."""
        path = self.path / name
        path.unlink(missing_ok=True)
        return str(path)

    def forget(self, *names: str) -> None:
        """Remove files that this process has created here."""
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def leave(self) -> None:
        """Unlock the folder, and remove it if no other process has it locked."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        _remove_unheld(self.path)


def metrics_folder(control_path: str) -> Path:
    """The folder of the instance's metrics files on this node."""
    return NodeFolder.of(control_path).metrics


def log_folders(control_path: str) -> dict[str, Path]:
    """The folders that say where an instance logs, by the beginning of a node's name; of nodes on this machine."""
    found = runtime_folder().glob(f"{PREFIX}{instance_in(control_path)}.*")
    return {path.name.rpartition(".")[2]: path / "logs" for path in found}


def is_in_use_here() -> bool:
    """True if any instance on a cluster has processes of this user on this machine."""
    for path in runtime_folder().glob(f"{PREFIX}*"):
        _remove_unheld(path)
        if path.exists():
            return True
    return False


def _remove_unheld(path: Path) -> None:
    try:
        lock = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except OSError:
        pass  # another process has it locked
    finally:
        os.close(lock)
