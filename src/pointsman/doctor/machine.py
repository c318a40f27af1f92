"""Gathers the facts of this machine. Nothing is changed, and nothing but this machine is asked."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import resource
import socket
import sys
import time
from pathlib import Path

import pointsman
from pointsman.actor_options import detect_memory
from pointsman.doctor.judging import CONSOLE_PORT, EXEMPT, HTTP_PORT, METRICS_PORT, PROXIES, Killed, Machine
from pointsman.engine.folder import runtime_folder
from pointsman.engine.local.folder import ANONYMOUS_PREFIX, SWEEP_AGE_S, InstanceFolder, live_folders
from pointsman.engine.memory import CGROUP, container_memory, memory_left, text_of
from pointsman.engine.portholder import holder_of
from pointsman.exceptions import ServeException

VARIABLES = (
    *PROXIES, *EXEMPT, "PYTHONHASHSEED", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "XDG_RUNTIME_DIR",
    "XDG_CACHE_HOME", "TMPDIR", "RAY_ADDRESS", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "LANG", "LC_ALL", "TZ",
    "POINTSMAN_PURE", "NOTIFY_SOCKET", "LISTEN_FDS",
)  # fmt: skip
"""All that are looked at."""
LONGEST_NAME = "/" + "n" * 64 + "/r/999999"


def look_at_machine() -> Machine:
    """The facts of this machine."""
    folder, fault, room, live, killed = _folders()
    memory, free = _memory()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Machine(
        platform=sys.platform,
        python=tuple(sys.version_info[:3]),
        release=pointsman.__version__,
        compiled=_is_compiled(),
        uvloop=_version_of("uvloop"),
        open_files=(-1 if soft == resource.RLIM_INFINITY else soft, -1 if hard == resource.RLIM_INFINITY else hard),
        runtime_folder=folder,
        runtime_fault=fault,
        runtime_room=room,
        longest_socket=len(os.fsencode(folder)) + len(LONGEST_NAME),
        shared_memory=_size_of("/dev/shm"),
        ports={port: _holder(port) for port in (HTTP_PORT, METRICS_PORT, CONSOLE_PORT) if _is_held(port)},
        instances=live,
        memory=memory,
        free_memory=free,
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cpu_limit=_cpu_limit(),
        clock=time.time(),
        ray=_numbers(_version_of("ray")),
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
        killed=killed,
    )


def free_bytes(path: str | Path) -> int:
    """Bytes free for this user on the file system of a path; 0 if that cannot be told."""
    try:
        found = os.statvfs(path)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize


def _folders() -> tuple[str, str, int, int, tuple[Killed, ...]]:
    """The runtime folder, why it cannot be used, its room, how many instances live, and who was killed."""
    try:
        folder = runtime_folder()
        live = len(live_folders())
        killed = tuple(_killed(folder))
    except (ServeException, OSError) as error:
        return os.environ.get("XDG_RUNTIME_DIR", ""), str(error), 0, 0, ()
    return str(folder), "", free_bytes(folder), live, killed


def _killed(folder: Path) -> list[Killed]:
    """Folders of instances that are gone. Young ones are left out: an instance may have just made its own."""
    found = []
    for path in sorted(folder.iterdir()):
        anonymous = path.name.startswith(ANONYMOUS_PREFIX)
        if (path.name.startswith(".") and not anonymous) or not (path / "about").is_file():
            continue
        with contextlib.suppress(OSError):  # its instance has just ended and removed it
            if not InstanceFolder(path).is_alive() and time.time() - path.stat().st_mtime > SWEEP_AGE_S:
                found.append(Killed("" if anonymous else path.name, str(path)))
    return found


def _is_compiled() -> bool:
    from pointsman.routing import router

    return not str(router.__file__).endswith(".py")


def _version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, such as (2, 52, 0)."""
    found = []
    for part in version.split(".")[:3]:
        if not part.isdigit():
            break
        found.append(int(part))
    return tuple(found)


def _is_held(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _holder(port: int) -> str:
    try:
        return holder_of(port)
    except ServeException:
        return ""  # the folder of instances cannot be used, which is a finding of its own


def _size_of(path: str) -> int:
    try:
        found = os.statvfs(path)
    except OSError:
        return -1
    return found.f_blocks * found.f_frsize


def _memory() -> tuple[int, int]:
    """Bytes of memory, and how many are free, within the limit of the container."""
    whole, left, container = int(detect_memory()), memory_left(), container_memory()
    if left is None:
        return 0, 0
    return min(whole, container.limit) if container else whole, left


def _cpu_limit() -> float:
    """Processors that the container may use; 0.0 for no limit."""
    quota, _, period = text_of(CGROUP / "cpu.max").partition(" ")
    if not quota:
        quota, period = text_of(CGROUP / "cpu/cpu.cfs_quota_us"), text_of(CGROUP / "cpu/cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else 0.0
