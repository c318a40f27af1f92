"""An instance's names in its cluster, and its folder on one node: sockets of the processes that run there, their
metrics.

Each instance has a Ray namespace of its own. Its control path is ``ray:``, that namespace, ``#`` and its id. Each
process holds a shared lock on the folder for as long as it lives; a folder that nobody holds is removed by whoever
comes by: the last process that leaves, or the first of another instance. Imports no Ray: a backend's environment need
not have it.
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
ANONYMOUS = "pointsman-anonymous-"
NAMED = "pointsman/"


def namespace_of(name: str) -> str:
    """The namespace of a named instance."""
    return NAMED + name


def is_ours(namespace: str) -> bool:
    """Whether a namespace of the cluster is that of an instance."""
    return namespace.startswith((ANONYMOUS, NAMED))


def name_in(control_path: str) -> str:
    """Of a named instance; empty for an anonymous one."""
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


PREFIX = ".ray."
SHORT_NODE = 8
"""Characters of a node's name in a path, which has room for 100 in all."""
STDOUT, STDERR = 1, 2
"""By their numbers: Ray has made others of ``sys.stdout`` and ``sys.stderr``."""


class NodeFolder:
    """See the module. On the node of this process; made and locked through :meth:`enter`."""

    def __init__(self, instance: str) -> None:
        # Several nodes may be on one machine; each has a folder of its own.
        self.path = runtime_folder() / f"{PREFIX}{instance}.{node_here()[:SHORT_NODE]}"
        self.replica_sockets = self.path / "r"
        self.metrics = self.path / "m"
        self.logs = self.path / "logs"
        self._lock = -1

    @classmethod
    def of(cls, control_path: str) -> NodeFolder:
        """The folder of the instance with that control path."""
        return cls(instance_in(control_path))

    def enter(self, *, with_metrics: bool) -> None:
        """Make the folder ours too; remove those that nobody holds."""
        for path in runtime_folder().glob(f"{PREFIX}*"):
            if path != self.path:
                _remove_unheld(path)
        while self._lock < 0:
            make_private(self.path)
            make_private(self.replica_sockets)
            if with_metrics:
                make_private(self.metrics)
            with contextlib.suppress(FileNotFoundError):  # somebody has just found the new folder empty: once more
                lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                fcntl.flock(lock, fcntl.LOCK_SH)
                if (self.path / "lock").exists():
                    self._lock = lock
                else:
                    os.close(lock)

    def say_where_logs_are(self, role: str, label: str) -> None:
        """Have what this process prints and logs in one file, in the order of its making, and leave word here which of
        Ray's files that is. It outlives the process."""
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
        """The path for a new socket; what a dead process has left there is removed."""
        path = self.path / name
        path.unlink(missing_ok=True)
        return str(path)

    def forget(self, *names: str) -> None:
        """Remove what this process has made here."""
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def leave(self) -> None:
        """Nothing of this process is here any more; the last one takes the folder along."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        _remove_unheld(self.path)


def metrics_folder(control_path: str) -> Path:
    """What the processes of the instance on this node count."""
    return NodeFolder.of(control_path).metrics


def log_folders(control_path: str) -> dict[str, Path]:
    """Where to look for the logs of an instance: the beginning of a node's name -> folder, of nodes on this machine."""
    found = runtime_folder().glob(f"{PREFIX}{instance_in(control_path)}.*")
    return {path.name.rpartition(".")[2]: path / "logs" for path in found}


def is_in_use_here() -> bool:
    """Whether any instance on a cluster has processes of this user on this machine."""
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
        pass  # somebody lives there
    finally:
        os.close(lock)
