"""The systems that are measured: their environments, and each of them as a server on a free loopback port."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import msgspec
import psutil  # type: ignore[import-untyped]
import wrk

HERE = Path(__file__).parent
SERVERS = HERE / "servers"
MOSEC_VERSION = "0.9.8"
MOSEC_ENV = HERE / ".peers" / "mosec"
MOSEC_PYTHON = MOSEC_ENV / "bin" / "python"

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 10.0


class System(NamedTuple):
    """One system under load.

    Attributes:
        key: names it in the results.
        title: names it in tables.
        command: of the server, for a port.
        path: where it is asked.
        answer: the body of every right answer.
    """

    key: str
    title: str
    command: Callable[[int], list[str]]
    path: str
    answer: bytes


def own_server(script: str, *arguments: str) -> Callable[[int], list[str]]:
    """How a script in ``servers`` is run for a port."""
    return lambda port: [sys.executable, str(SERVERS / script), str(port), *arguments]


def _mosec(port: int) -> list[str]:
    return [str(MOSEC_PYTHON), str(SERVERS / "mosec_noop.py"), "--address", "127.0.0.1", "--port", str(port)]


BARE = System("bare", "bare uvicorn echo", own_server("bare.py"), "/noop", wrk.BODY.encode())
MOSEC = System("mosec", f"Mosec {MOSEC_VERSION}", _mosec, "/inference", b'"ok"')
SYNC = System("sync", "Pointsman, def", own_server("pointsman_noop.py", "sync"), "/noop", b"ok")
ASYNC = System("async", "Pointsman, async def", own_server("pointsman_noop.py", "async"), "/noop", b"ok")
SYSTEMS = (BARE, MOSEC, SYNC, ASYNC)


class Memory(msgspec.Struct, frozen=True):
    """Of a process and all its descendants. ``pss_mb`` counts shared pages once; None where it cannot be read."""

    processes: int
    rss_mb: float
    pss_mb: float | None


class Server(NamedTuple):
    pid: int
    port: int
    url: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ensure_mosec(say: Callable[[str], None]) -> None:
    """Make Mosec's own environment when it is not there.

    Raises:
        subprocess.CalledProcessError: pip could not install it; its output has been shown.
    """
    if _installed_mosec() == MOSEC_VERSION:
        return
    say(f"making {MOSEC_ENV} with mosec=={MOSEC_VERSION}")
    shutil.rmtree(MOSEC_ENV, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(MOSEC_ENV)], check=True, timeout=120)
    pip = [str(MOSEC_PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, f"mosec=={MOSEC_VERSION}"], check=True, timeout=300)


def _installed_mosec() -> str:
    code = "from importlib.metadata import version; print(version('mosec'))"
    try:
        done = subprocess.run([MOSEC_PYTHON, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


@contextlib.contextmanager
def running(system: System) -> Iterator[Server]:
    """The system's server, from its first right answer until the end of the block.

    Raises:
        RuntimeError: it did not come up; the text ends with what it printed.
    """
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MOSEC_")}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            system.command(port),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            _wait_until_right(system, port, process, output)
            yield Server(process.pid, port, f"http://127.0.0.1:{port}{system.path}")
        finally:
            _stop(process)


def _wait_until_right(system: System, port: int, process: subprocess.Popen[bytes], output: IO[bytes]) -> None:
    give_up_at = time.monotonic() + START_TIMEOUT_S
    while not _answers_right(system, port):
        if process.poll() is not None or time.monotonic() > give_up_at:
            output.seek(0)
            printed = output.read()[-4000:].decode(errors="replace")
            raise RuntimeError(f"{system.title} did not come up:\n{printed}")
        time.sleep(0.02)


def _answers_right(system: System, port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("POST", system.path, body=wrk.BODY, headers={"content-type": "application/json"})
        response = connection.getresponse()
        return response.status == 200 and response.read() == system.answer
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end; kill what is left of it, descendants included, when it does not."""
    family = _family(process.pid)
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    _, left = psutil.wait_procs(family, timeout=STOP_TIMEOUT_S)
    for member in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


def _family(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def memory(pid: int) -> Memory:
    """Memory of a process and its descendants now."""
    rss = pss = 0
    readable = True
    family = _family(pid)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            rss += member.memory_info().rss
            try:
                pss += member.memory_full_info().pss
            except (AttributeError, psutil.AccessDenied):  # not Linux, or not ours
                readable = False
    return Memory(len(family), rss / 1e6, pss / 1e6 if readable else None)
