"""Ends in good order: what runs is finished, and what is stored is kept unless somebody says otherwise."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

import pointsman as serve
from pointsman.cli.ending import report_kept_state
from pointsman.exceptions import ServeException
from pointsman.wire.commands import Status
from pointsman.wire.handover import StartOptions
from tests.conftest import WAIT_S, family, start_client, wait_until
from tests.process.test_cli import PROGRAM, assert_one_line, pointsman, start_detached, status_of

# What is stored


def greet(request: serve.Request) -> str:
    return "hello"


def started(command: list[str]) -> subprocess.Popen[str]:
    """A command in the foreground that has said that its instance is ready."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = process.stdout.readline()
    assert "is ready" in first, process.communicate(timeout=WAIT_S)
    return process


def test_signals_of_a_foreground_instance_keep_its_state(name: str, tmp_path: Path) -> None:
    """I run an instance in a terminal or under systemd, and stop it by SIGTERM, by Ctrl-C, or by closing the terminal:
    each time it says where its state is kept and how to start it again, and so it does come back (IN10, IN12)."""
    state = tmp_path / "my state"
    command = [PROGRAM, "start", "--name", name, "--http-port", "0", "--state-dir", str(state)]
    command += ["--metrics-export-port", "0", "--console-port", "-1"]
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        process = started(command)
        client = serve.connect(name)
        if signum == signal.SIGTERM:
            client.deploy("greet", greet, route="/greet")
        assert httpx.get(f"{client.http_address}/greet").text == "hello"
        process.send_signal(signum)
        output, errors = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0
        assert "Traceback" not in errors
        said = next(line for line in output.splitlines() if "has stopped" in line)
        assert f"Its state is kept in {state}; start it again with: pointsman start " in said
        command = [PROGRAM, *shlex.split(said.partition("with: pointsman ")[2])]
        assert command[1:4] == ["start", "--name", name]
        assert command[-6:-2] == ["--metrics-export-port", "0", "--console-port", "-1"]


def test_a_stop_keeps_what_is_stored(name: str, tmp_path: Path) -> None:
    """`pointsman stop`, `client.stop()` and the end of a with block free name and port, and keep what I had deployed
    (IN10, IN12)."""
    state = tmp_path / "state"
    start_detached(name, "--state-dir", str(state))
    serve.connect(name).deploy("greet", greet, route="/greet")
    port = status_of(name)["http"]["address"].rpartition(":")[2]
    stopped = pointsman("stop", "--name", name)
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert f"kept in {state}; start it again with: pointsman start --detached --name {name}" in stopped.stdout
    options: dict[str, Any] = {"detached": True, "name": name, "state_dir": state, "metrics_export_port": 0}
    with serve.start(**options, http_options={"port": int(port)}) as client:
        assert httpx.get(f"{client.http_address}/greet").text == "hello"
    client = serve.start(**options, http_options={"port": int(port)})
    assert set(client.list_endpoints()) == {"greet"}
    client.stop()
    client.stop()
    with pytest.raises(ServeException, match="shut down"):
        client.list_endpoints()
    assert_one_line(pointsman("stop", "--name", name), name)
    assert (state / "state.db").exists()


@pytest.mark.parametrize(
    ("state_dir", "address", "said"),
    [
        ("/a b", None, "Its state is kept in /a b; start it again with: pointsman start --detached --http-port 81 "),
        ("", None, "Nothing of it is kept, since it has no --state-dir; start a new one with: pointsman start "),
        ("/s", "h:1", "--name n --http-port 81 --engine ray --address h:1 --state-dir /s\n"),
    ],
)
def test_what_is_said_of_a_stop(
    state_dir: str, address: str | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what is kept, and the very command that starts the instance again, as a shell takes it (IN12)."""
    status = Status(1, 1, "n", "127.0.0.1", 81, {}, {}, (), state_dir=state_dir)
    report_kept_state("n" if address else "default", status, address)
    printed = capsys.readouterr().out
    assert said in printed
    assert ("'/a b'" in printed) == (state_dir == "/a b")


@pytest.mark.parametrize(
    ("given", "host", "said"),
    [
        (StartOptions(), "127.0.0.1", "--detached --http-port 81"),
        (StartOptions(metrics_port=-1), None, "--detached --http-location NoServer --metrics-export-port -1"),
        (StartOptions(metrics_port=9090), "::", "--detached --http-host :: --http-port 81 --metrics-export-port 9090"),
        (
            StartOptions("ray", True, 0),
            "127.0.0.1",
            "--detached --http-port 81 --http-location EveryNode --metrics-export-port 0 --engine ray",
        ),
    ],
)
def test_what_starts_the_same_instance_again(
    given: StartOptions, host: str | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command that I am given starts an instance like the one that ended: with or without metrics and HTTP, on the
    same ports, engine and nodes (IN12)."""
    status = Status(1, 1, "default", host, 81 if host else 0, {}, {}, (), start_options=given)
    report_kept_state("default", status, None)
    assert capsys.readouterr().out.endswith(f"with: pointsman start {said}\n")


def on_a_terminal(answer: str, *arguments: str) -> tuple[int, str]:
    """Run a command on a terminal, type an answer, and return its exit code and what it showed."""
    pid, terminal = pty.fork()
    if not pid:
        os.execv(PROGRAM, [PROGRAM, *arguments])
    os.write(terminal, answer.encode())
    shown = b""
    try:
        while data := os.read(terminal, 4096):
            shown += data
    except OSError:
        pass  # Linux says so when the last process has closed the terminal
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


def test_a_shutdown_asks_on_a_terminal(name: str, tmp_path: Path) -> None:
    """On a terminal `pointsman shutdown` tells me what it would forget and asks: no leaves everything as it is, and
    --yes asks nothing (IN12)."""
    state = tmp_path / "state"
    start_detached(name, "--state-dir", str(state))
    serve.connect(name).deploy("greet", greet)
    for answer in ("n\n", "\n", "\x04"):
        code, shown = on_a_terminal(answer, "shutdown", "--name", name)
        assert code == 1
        assert all(text in shown for text in (str(state), "backends: 1, endpoints: 1", f"pointsman stop --name {name}"))
        assert set(status_of(name)["endpoints"]) == {"greet"}
    assert on_a_terminal("y\n", "shutdown", "--name", name)[0] == 0
    start_detached(name, "--state-dir", str(state))
    assert status_of(name)["endpoints"] == {}
    code, shown = on_a_terminal("", "shutdown", "--yes", "--name", name)
    assert (code, "Forget it?" in shown, f"its state in {state} is forgotten" in shown) == (0, False, True)


def test_an_instance_without_stored_state_is_not_asked_about(name: str) -> None:
    """There is nothing to ask where nothing is stored, on a terminal neither (IN12)."""
    start_detached(name)
    code, shown = on_a_terminal("", "shutdown", "--name", name)
    assert (code, "Forget it?" in shown) == (0, False)


# What runs

DRIVER = """
import os, signal, sys, threading, time
import pointsman as serve

folder, how = sys.argv[1:]
client = serve.start(http_options={"port": 0}, metrics_export_port=0)
FOREVER = 100_000

def takes_long(request):
    open(f"{folder}/began", "w").close()
    time.sleep(2.5 if request.query_params["for"] == "a while" else FOREVER)
    open(f"{folder}/ended", "w").close()
    return "finished"

limit = {"experimental_graceful_shutdown_timeout_s": 600.0}
client.deploy("long", takes_long, route="/long", config=limit)
print(client.http_address, flush=True)
if how == "handler":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    threading.Event().wait()
elif how == "wait":
    client.wait()
    print("returned", flush=True)
sys.stdin.readline()
if how == "exit":
    sys.exit(7)
elif how == "raise":
    raise RuntimeError("of the script")
"""


def end_politely(pid: int) -> None:
    """Send SIGTERM to a script once it has set what that does."""

    def takes_it() -> bool:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:"))
        return bool(caught & 1 << signal.SIGTERM - 1)

    wait_until(takes_it, what="the script takes SIGTERM")
    os.kill(pid, signal.SIGTERM)


class Driver:
    """A script that has an instance of its own, and a request under way in it.

    Args:
        how: it ends.
        seconds: which the request takes: ``a while`` or ``ever``.
    """

    def __init__(self, folder: Path, how: str, takes: str, wrapper: tuple[str, ...] = ()) -> None:
        self.how = how
        self.process = subprocess.Popen(
            [*wrapper, sys.executable, "-c", DRIVER, str(folder), how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address.startswith("http"), self.process.communicate(timeout=WAIT_S)
        self.answer: httpx.Response | httpx.HTTPError | None = None
        self._thread = threading.Thread(target=self._request, args=(takes,))
        self._thread.start()
        wait_until((folder / "began").exists, what="the request runs")

    def end(self) -> None:
        """Have it end."""
        if self.how in ("handler", "wait"):
            end_politely(self.process.pid)
        else:
            assert self.process.stdin is not None
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def wait(self) -> tuple[str, str]:
        """Wait for its end; returns what it has printed."""
        printed = self.process.communicate(timeout=WAIT_S)
        self._thread.join(WAIT_S)
        return printed

    def drains(self) -> None:
        """Return when the instance lets nobody in any more."""

        def refuses() -> bool:
            try:
                # Behind the end nobody takes connections, and nobody refuses them: that is seen by waiting.
                return httpx.get(f"{self.address}/-/healthz", timeout=2).status_code == 503
            except httpx.HTTPError:
                return True

        wait_until(refuses, what="the instance ends")

    def _request(self, takes: str) -> None:
        try:
            self.answer = httpx.get(f"{self.address}/long", params={"for": takes}, timeout=WAIT_S)
        except httpx.HTTPError as error:
            self.answer = error


ENDS = {"end": 0, "exit": 7, "raise": 1, "handler": 7, "wait": 0}
"""How a script ends, and with which code."""


@pytest.mark.parametrize("how", ENDS)
def test_an_orderly_end_of_the_script(how: str, tmp_path: Path) -> None:
    """However my script ends by itself, a request that runs at that moment is answered first; its exit code is its own,
    and nothing is left behind (IN4)."""
    driver = Driver(tmp_path, how, "a while")
    processes = family(driver.process.pid)
    driver.end()
    output, errors = driver.wait()
    assert isinstance(driver.answer, httpx.Response), driver.answer
    assert (driver.answer.status_code, driver.answer.text) == (200, "finished")
    assert driver.process.returncode == ENDS[how]
    assert ("Traceback" in errors, "returned" in output) == (how == "raise", how == "wait")
    wait_until(lambda: not any(p.is_running() for p in processes.values()), what="every process has ended")


@pytest.mark.parametrize("how", ["end", "wait"])
def test_a_second_signal_hurries(how: str, tmp_path: Path) -> None:
    """A request that does not end would keep my script for ten minutes, the drain limit that I have set: another signal
    ends it at once, without a traceback (IN4)."""
    driver = Driver(tmp_path, how, "ever")
    driver.end()
    driver.drains()
    driver.process.send_signal(signal.SIGINT)
    _, errors = driver.wait()
    assert driver.process.returncode == ENDS[how]
    assert "Traceback" not in errors
    assert not isinstance(driver.answer, httpx.Response) or driver.answer.status_code >= 500


def test_a_driver_that_is_killed_while_it_waits(tmp_path: Path) -> None:
    """A script that is killed while it waits for a request leaves nothing running, whatever the drain limit (IN4)."""
    driver = Driver(tmp_path, "end", "ever")
    processes = family(driver.process.pid)
    driver.end()
    driver.drains()
    driver.process.kill()
    driver.wait()
    wait_until(lambda: not any(p.is_running() for p in processes.values()), what="every process has ended")


@pytest.fixture
def as_pid_1() -> tuple[str, ...]:
    """Runs a program as the first process of a namespace of its own, as a container does."""
    command = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    try:
        can = subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        can = False
    if not can:
        pytest.skip("this user may not make process namespaces (unshare --pid)")
    return command


def test_the_first_process_of_a_container(tmp_path: Path, as_pid_1: tuple[str, ...]) -> None:
    """My script is the entry point of a container: `docker stop` sends it SIGTERM, which client.wait() takes, and a
    request that runs is answered before the container is gone (IN4)."""
    driver = Driver(tmp_path, "wait", "a while", as_pid_1)
    (script,) = psutil.Process(driver.process.pid).children()
    end_politely(script.pid)
    output, errors = driver.wait()
    assert isinstance(driver.answer, httpx.Response), driver.answer
    assert driver.answer.text == "finished"
    assert (driver.process.returncode, "returned" in output, "Traceback" in errors) == (0, True, False)


def test_waiting_in_a_thread() -> None:
    """client.wait() returns in any thread once the instance has ended, whoever has ended it; and at once, when it had
    ended before."""
    client = start_client()
    waits = [threading.Thread(target=client.wait) for _ in range(2)]
    for thread in waits:
        thread.start()
    client.stop()
    for thread in waits:
        thread.join(WAIT_S)
    assert not any(thread.is_alive() for thread in waits)
    client.wait()
    assert not family()


@pytest.fixture
def killed_later() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


WAITS = """
import sys
import pointsman as serve
print("waits", flush=True)
serve.connect(sys.argv[1]).wait()
print("returned", flush=True)
"""


def test_waiting_for_a_detached_instance(name: str, killed_later: list[subprocess.Popen[str]]) -> None:
    """A script that waits for a detached instance goes at SIGTERM and leaves it running; another one returns when the
    instance is ended from a shell (IN6, IN8)."""
    start_detached(name)
    for _ in range(2):
        command = [sys.executable, "-c", WAITS, name]
        killed_later.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    goes, stays = killed_later
    end_politely(goes.pid)
    assert goes.communicate(timeout=WAIT_S) == ("waits\nreturned\n", "")
    assert status_of(name)["name"] == name
    assert pointsman("stop", "--name", name).returncode == 0
    assert stays.communicate(timeout=WAIT_S) == ("waits\nreturned\n", "")
