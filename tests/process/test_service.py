"""An instance as a service: under a service manager that holds its socket, and as the first process of a container."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

import pointsman as serve
from tests.conftest import WAIT_S, wait_until
from tests.process.test_cli import ONLY_HTTP, PROGRAM

AS_FIRST_DESCRIPTOR = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class Gated:
    """Its constructor waits until there is a file, says so, and looks for what is not for it."""

    def __init__(self, gate: str) -> None:
        print("the constructor prints")
        while not os.path.exists(gate):
            threading.Event().wait(0.01)

    def __call__(self, request: serve.Request) -> dict[str, Any]:
        print(f"asked for {request.url.path}")
        return {name: os.environ.get(name) for name in ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID")}


class Manager:
    """What systemd does: holds the port over restarts, and hears what the service says."""

    def __init__(self, name: str, state: Path) -> None:
        self.port = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.port.getsockname()[1]}"
        self._heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._heard.bind(f"\0{name}-{os.getpid()}")
        self._heard.settimeout(WAIT_S)
        options = ["--name", name, "--state-dir", str(state), *ONLY_HTTP, "--log-format", "json"]
        self._command = [PROGRAM, "start", *options]
        self._name = name
        self._started: list[subprocess.Popen[str]] = []

    def start(self) -> subprocess.Popen[str]:
        env = {
            **os.environ,
            "NOTIFY_SOCKET": f"@{self._name}-{os.getpid()}",
            "LISTEN_FDS": "1",
            "LISTEN_FDNAMES": "http",
        }
        service = subprocess.Popen(
            [sys.executable, "-c", AS_FIRST_DESCRIPTOR, str(self.port.fileno()), *self._command],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, pass_fds=[self.port.fileno()],
        )  # fmt: skip

        self._started.append(service)
        return service

    def told(self) -> str:
        """The next message's first line."""
        return self._heard.recv(4096).decode().splitlines()[0]

    def has_been_told(self) -> bool:
        return bool(select.select([self._heard], [], [], 0)[0])

    def close(self) -> None:
        for service in self._started:
            if service.poll() is None:
                service.kill()
                service.communicate()
        self.port.close()
        self._heard.close()


@pytest.fixture
def manager(name: str, tmp_path: Path) -> Iterator[Manager]:
    one = Manager(name, tmp_path / "state")
    yield one
    one.close()


def test_a_restart_under_a_service_manager(name: str, manager: Manager, tmp_path: Path) -> None:
    """I restart my service: whoever comes meanwhile waits in the socket that systemd holds, until every model is up
    again, also while I change my mind; nobody is refused, and nobody gets a 404. Each end is one in good order, with
    0, and the whole log is JSON (PK2, PK3, PK4, PK5)."""
    gate = tmp_path / "gate"
    gate.touch()
    service = manager.start()
    assert manager.told() == "READY=1"
    serve.connect(name).deploy("m", Gated, str(gate), route="/m")
    nothing = {"NOTIFY_SOCKET": None, "LISTEN_FDS": None, "LISTEN_PID": None}
    assert httpx.get(f"{manager.address}/m", timeout=WAIT_S).json() == nothing
    assert httpx.get(f"{manager.address}/-/readyz").status_code == 200
    service.send_signal(signal.SIGTERM)
    assert manager.told() == "STOPPING=1"
    first, errors = service.communicate(timeout=WAIT_S)
    assert (service.returncode, errors) == (0, "")

    gate.unlink()
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(httpx.get(f"{manager.address}/m", timeout=WAIT_S)))
    asking.start()
    service = manager.start()
    wait_until(lambda: has_begun(name), what="the model loads")
    assert not manager.has_been_told()
    service.send_signal(signal.SIGTERM)  # I am in a hurry
    assert manager.told() == "STOPPING=1"
    _, errors = service.communicate(timeout=WAIT_S)
    assert (service.returncode, errors) == (0, "")

    service = manager.start()
    wait_until(lambda: has_begun(name), what="the model loads")
    assert not manager.has_been_told()
    assert not answers
    gate.touch()
    assert manager.told() == "READY=1"
    asking.join()
    assert (answers[0].status_code, answers[0].json()) == (200, nothing)
    service.send_signal(signal.SIGTERM)
    second, errors = service.communicate(timeout=WAIT_S)
    assert (service.returncode, errors) == (0, "")

    for output in (first, second):
        lines = [json.loads(line) for line in output.splitlines()]
        by_process: dict[str, list[str]] = {}
        for line in lines:
            by_process.setdefault(line["process"], []).append(line["message"])
        assert f"Instance {name!r} is ready at {manager.address}." in by_process["command"]
        assert {"the constructor prints", "asked for /m"} <= {*by_process["replica"]}
        assert any(message.startswith("version ") for message in by_process["controller"]), "small talk, too"


def has_begun(name: str) -> bool:
    try:
        replicas = serve.connect(name).status()["backends"]["m"]["replicas"]
    except (serve.exceptions.ServeException, OSError, KeyError):  # it has only begun to start
        return False
    return any(replica["state"] == "STARTING" for replica in replicas)


def first_process(*command: str) -> subprocess.Popen[str]:
    """A command as the first process of a container, with a /proc of its own."""
    program = shutil.which("unshare")
    if program is None:
        pytest.skip("unshare is not installed")
    for rights in ([], ["--user", "--map-root-user"]):
        contained = [program, *rights, "--pid", "--fork", "--kill-child", "--mount-proc"]
        tried = subprocess.run([*contained, "true"], capture_output=True, text=True, check=False)
        if not tried.returncode:
            return subprocess.Popen([*contained, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    pytest.skip(f"no process namespace can be made here: {tried.stderr.strip()}")


MODEL = """
import subprocess

print("the model is imported")


def leave_an_orphan(request):
    fifo = request.query_params["fifo"]
    subprocess.run(["sh", "-c", f"setsid cat {fifo} >/dev/null 2>&1 &"], check=True)
    return "left"
"""
"""It starts a process that outlives whoever started it, and that nobody waits for."""


@pytest.fixture
def contained(name: str, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`pointsman run` of that model as the first process of a container."""
    model = tmp_path / "model.py"
    model.write_text(MODEL)
    options = ["--name", name, "--http-port", "0", *ONLY_HTTP, "--log-format", "json"]
    outside = first_process(PROGRAM, "run", str(model), *options, "--drain-delay", "1000")
    yield outside
    outside.kill()
    outside.wait()


def test_the_first_process_of_a_container(contained: subprocess.Popen[str]) -> None:
    """In a container: what user code leaves behind is reaped; on SIGTERM the service is not ready any more at once, and
    still answers whoever has not noticed; a second SIGTERM hurries. It ends with 0, and all that it has said is JSON
    (PK2, PK3, PK5)."""
    outside = contained
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        fifo = os.path.join(folder, "fifo")
        os.mkfifo(fifo)
        assert outside.stdout is not None
        first = []
        while not (found := re.search(r"http://[0-9.:]+", first[-1] if first else "")):
            first.append(outside.stdout.readline())
            assert first[-1], outside.communicate(timeout=WAIT_S)
        address = found[0]
        [init] = psutil.Process(outside.pid).children()

        def ask(path: str) -> httpx.Response:
            return httpx.get(f"{address}{path}", params={"fifo": fifo}, timeout=WAIT_S)

        wait_until(lambda: ask("/-/readyz").status_code == 200, what="it is ready")
        assert ask("/").text == "left"
        [orphan] = wait_until(
            lambda: [one for one in init.children() if one.name() == "cat"], what="there is an orphan"
        )
        with open(fifo, "w"):
            pass  # which ends it
        wait_until(lambda: not psutil.pid_exists(orphan.pid), what="the orphan is reaped")

        init.send_signal(signal.SIGTERM)
        wait_until(lambda: ask("/-/readyz").status_code == 503, what="it is not ready")
        assert ask("/-/healthz").status_code == 200
        with open(fifo, "rb+", buffering=0):
            assert ask("/").text == "left"
        init.send_signal(signal.SIGTERM)
        output, errors = outside.communicate(timeout=WAIT_S)
        assert (outside.returncode, errors) == (0, "")
        messages = [json.loads(line)["message"] for line in [*first, *output.splitlines()]]
        assert any("has stopped" in message for message in messages)
        assert messages.count("the model is imported") == 1
