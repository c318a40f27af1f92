"""What the facts of a machine mean: one finding each, in one sentence. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import NamedTuple

from pointsman.engine.folder import MAX_SOCKET_PATH

MB = 1024 * 1024
LEAST_FILES, LEAST_ROOM, LEAST_MEMORY, LEAST_SHARED = 1024, 100 * MB, 512 * MB, 64 * MB
LEAST_CPUS = 0.5
LEAST_PYTHON, LEAST_RAY = (3, 10), (2, 52)
OLDEST_CLOCK = 1_767_225_600.0
"""The year 2026, in which this was written."""
HTTP_PORT, METRICS_PORT, CONSOLE_PORT = 8000, 8080, 8070
PROXIES = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
EXEMPT = ("no_proxy", "NO_PROXY")
LOOPBACK = ("127.0.0.1", "localhost")


class Finding(NamedTuple):
    """One check. ``text`` is a sentence: how it is, or what is wrong and what to do."""

    check: str
    ok: bool
    text: str


class Killed(NamedTuple):
    """The folder of an instance that was killed; ``name`` is empty for that of a script."""

    name: str
    path: str


class Machine(NamedTuple):
    """Facts of a machine.

    Attributes:
        python, ray: versions; () for no Ray.
        compiled: whether the modules that every call passes are compiled.
        uvloop: its version, or "".
        open_files: soft and hard limit; -1 for none.
        runtime_folder: of all instances.
        runtime_fault: why it cannot be used; "" if it can.
        runtime_room: bytes free in it.
        longest_socket: bytes in the longest path of a socket there.
        shared_memory: bytes of /dev/shm; -1 where there is none.
        ports: who holds which of the default ports, "" where the system does not say.
        instances: how many of this user live.
        memory, free_memory: bytes, within the limit of the container; 0 where the system does not say.
        cpus: processors that this process may use.
        cpu_limit: how many of them its container may use; 0.0 for no limit.
        clock: seconds since 1970.
        variables: the environment variables that matter here.
        killed: folders of instances that were killed.
    """

    platform: str
    python: tuple[int, ...]
    release: str
    compiled: bool
    uvloop: str
    open_files: tuple[int, int]
    runtime_folder: str
    runtime_fault: str
    runtime_room: int
    longest_socket: int
    shared_memory: int
    ports: dict[int, str]
    instances: int
    memory: int
    free_memory: int
    cpus: int
    cpu_limit: float
    clock: float
    ray: tuple[int, ...]
    variables: dict[str, str]
    killed: tuple[Killed, ...]


def judge_machine(seen: Machine) -> list[Finding]:
    """All findings about a machine, in the order in which a start needs things."""
    return [
        _python(seen),
        _release(seen),
        _uvloop(seen),
        _hash_seed(seen.variables),
        _open_files(seen),
        _runtime_folder(seen),
        _socket_paths(seen),
        _shared_memory(seen),
        *(_port(seen, port) for port in (HTTP_PORT, METRICS_PORT, CONSOLE_PORT)),
        _memory(seen),
        _cpus(seen),
        _clock(seen),
        _proxies(seen.variables),
        _ray(seen),
        _killed(seen),
    ]


def size(amount: float) -> str:
    """Bytes for a reader, such as ``1.5 GiB``."""
    return f"{amount / MB / 1024:.1f} GiB" if amount >= 1024 * MB else f"{amount / MB:.0f} MiB"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _python(seen: Machine) -> Finding:
    if seen.python < LEAST_PYTHON:
        return Finding("python", False, f"Python is {_dotted(seen.python)}; use {_dotted(LEAST_PYTHON)} or later.")
    if seen.platform != "linux":
        return Finding("python", True, f"Python is {_dotted(seen.python)}; {seen.platform} is not tested regularly.")
    return Finding("python", True, f"Python is {_dotted(seen.python)}.")


def _release(seen: Machine) -> Finding:
    how = "compiled modules" if seen.compiled else "modules as sources; a wheel of `make dist` answers more requests"
    return Finding("release", True, f"Pointsman is {seen.release}, with {how}.")


def _uvloop(seen: Machine) -> Finding:
    if seen.uvloop:
        return Finding("uvloop", True, f"uvloop is {seen.uvloop}.")
    return Finding("uvloop", False, "uvloop cannot be imported; run: pip install --force-reinstall uvloop")


def _hash_seed(variables: Mapping[str, str]) -> Finding:
    seed = variables.get("PYTHONHASHSEED", "")
    if seed == "0":
        return Finding("hash-seed", False, "PYTHONHASHSEED is 0, with which nothing starts; run: unset PYTHONHASHSEED")
    return Finding("hash-seed", True, "PYTHONHASHSEED is not 0.")


def _open_files(seen: Machine) -> Finding:
    soft, hard = seen.open_files
    if 0 <= soft < LEAST_FILES:
        text = f"A process may open {soft} files, and each connection is one; "
        if 0 <= hard < LEAST_FILES:
            text += f"its limit is {hard}: raise nofile in limits.conf, LimitNOFILE of systemd, or docker's --ulimit."
        else:
            text += f"run: ulimit -n {'unlimited' if hard < 0 else hard}"
        return Finding("open-files", False, text)
    return Finding("open-files", True, f"A process may open {'any number of' if soft < 0 else soft} files.")


def _runtime_folder(seen: Machine) -> Finding:
    if seen.runtime_fault:
        text = (
            f"The folder of instances cannot be used ({seen.runtime_fault}); set XDG_RUNTIME_DIR to a folder that only "
            "you can access."
        )
        return Finding("runtime-folder", False, text)
    if seen.runtime_room < LEAST_ROOM:
        room = size(seen.runtime_room)
        text = f"{seen.runtime_folder} has {room} free; make room, or set XDG_RUNTIME_DIR to a folder with more."
        return Finding("runtime-folder", False, text)
    text = f"{seen.runtime_folder} is private, with {size(seen.runtime_room)} free."
    return Finding("runtime-folder", True, text)


def _socket_paths(seen: Machine) -> Finding:
    if seen.longest_socket > MAX_SOCKET_PATH:
        text = (
            f"Paths of sockets in {seen.runtime_folder} can have {seen.longest_socket} bytes and the system takes "
            f"{MAX_SOCKET_PATH}; set XDG_RUNTIME_DIR or TMPDIR to a shorter path."
        )
        return Finding("socket-paths", False, text)
    return Finding("socket-paths", True, f"Paths of sockets have {seen.longest_socket} bytes at most.")


def _shared_memory(seen: Machine) -> Finding:
    if seen.shared_memory < 0:
        return Finding("shared-memory", True, "There is no /dev/shm; only Ray needs it.")
    if seen.ray and seen.shared_memory < LEAST_SHARED:
        text = f"/dev/shm has {size(seen.shared_memory)}, too little for Ray; run the container with --shm-size=1g."
        return Finding("shared-memory", False, text)
    return Finding("shared-memory", True, f"/dev/shm has {size(seen.shared_memory)}.")


def _port(seen: Machine, port: int) -> Finding:
    check = f"port-{port}"
    if port not in seen.ports:
        return Finding(check, True, f"Port {port} is free.")
    who = seen.ports[port] or "a process that this user cannot see"
    if port != HTTP_PORT:
        return Finding(check, True, f"Port {port} is held by {who}; a start takes another one unless it is given.")
    if who.startswith("instance ") or seen.instances:
        return Finding(check, True, f"Port {port} is held by {who}; another instance needs --http-port.")
    return Finding(check, False, f"Port {port} is held by {who}; end that, or start with --http-port 8001.")


def _memory(seen: Machine) -> Finding:
    if not seen.memory:
        return Finding("memory", True, "The system does not say how much memory there is.")
    if seen.free_memory < LEAST_MEMORY:
        text = (
            f"Only {size(seen.free_memory)} of {size(seen.memory)} memory are free, and an instance needs "
            f"{size(LEAST_MEMORY)} and your model; end something, or give the container more."
        )
        return Finding("memory", False, text)
    return Finding("memory", True, f"{size(seen.free_memory)} of {size(seen.memory)} memory are free.")


def _cpus(seen: Machine) -> Finding:
    if 0 < seen.cpu_limit < LEAST_CPUS:
        text = f"The container may use {seen.cpu_limit:g} processors, so everything is slow; give it 1 or more."
        return Finding("cpus", False, text)
    if 0 < seen.cpu_limit < seen.cpus:
        text = (
            f"The container may use {seen.cpu_limit:g} of {seen.cpus} processors; libraries that count {seen.cpus} "
            "start too many threads, so set OMP_NUM_THREADS in env_vars."
        )
        return Finding("cpus", True, text)
    return Finding("cpus", True, f"{seen.cpus} processors can be used.")


def _clock(seen: Machine) -> Finding:
    if seen.clock < OLDEST_CLOCK:
        return Finding("clock", False, "The clock is before 2026, so certificates and tokens do not fit; set it.")
    return Finding("clock", True, "The clock is after 2026 began.")


def _proxies(variables: Mapping[str, str]) -> Finding:
    proxies = [name for name in PROXIES if variables.get(name)]
    exempt = {host.strip() for name in EXEMPT for host in variables.get(name, "").split(",")}
    if proxies and not ("*" in exempt or exempt.issuperset(LOOPBACK)):
        text = (
            f"{' and '.join(proxies)} would send requests for this machine to a proxy; "
            f"run: export no_proxy={','.join(LOOPBACK)} NO_PROXY={','.join(LOOPBACK)}"
        )
        return Finding("proxies", False, text)
    return Finding("proxies", True, "No proxy is in the way to this machine.")


def _ray(seen: Machine) -> Finding:
    if not seen.ray:
        return Finding("ray", True, "Ray is not installed; only --engine ray needs it.")
    if seen.ray < LEAST_RAY:
        text = f"Ray is {_dotted(seen.ray)}; run: pip install 'ray>={_dotted(LEAST_RAY)}'"
        return Finding("ray", False, text)
    return Finding("ray", True, f"Ray is {_dotted(seen.ray)}.")


def _killed(seen: Machine) -> Finding:
    if not seen.killed:
        return Finding("leftovers", True, "No instance was killed and left its folder.")
    names = ", ".join(one.name or "one of a script" for one in seen.killed)
    paths = " ".join(shlex.quote(one.path) for one in seen.killed)
    text = f"Instances were killed ({names}); read their logs, and start them again or run: rm -r {paths}"
    return Finding("leftovers", False, text)
