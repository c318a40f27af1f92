"""`pointsman run`, `deploy`, `delete` and `scale` as their users meet them."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

import pointsman as serve
from tests.conftest import WAIT_S, family, wait_until
from tests.process.load import PAUSE_S
from tests.process.test_cli import PROGRAM, assert_one_line, pointsman, printed_by, status_of

PORTS = ("--port", "0", "--metrics-export-port", "0", "--console-port", "-1")
GREETER = """
from pydantic import BaseModel
from words import GREETING

class Person(BaseModel):
    name: str

class Greeter:
    def __init__(self, mark="!"):
        self.mark = mark

    def __call__(self, person: Person):
        return {"text": f"{GREETING}, {person.name}{self.mark}"}
"""
COUNTER = "def answer(request):\n    return {}\n"


class Running:
    """A command that serves in the foreground, and what it has said."""

    def __init__(self, folder: Path, *words: str, verb: str = "run") -> None:
        self.process = subprocess.Popen(
            [PROGRAM, verb, *PORTS, *words],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.out, self.err = [], []  # type: list[str], list[str]
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((self.process.stdout, self.out), (self.process.stderr, self.err))
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: subprocess.IO[str], lines: list[str]) -> None:  # type: ignore[name-defined]
        for line in stream:
            lines.append(line.rstrip("\n"))

    def says(self, pattern: str, *, times: int = 1) -> str:
        """What a line says that matches, once there are so many."""

        def found() -> list[str]:
            return [match[1] for line in [*self.out, *self.err] if (match := re.search(pattern, line))]

        wait_until(
            lambda: len(found()) >= times or self.process.poll() is not None,
            what=f"{pattern!r}, where it said {self.out} and {self.err}",
        )
        assert len(found()) >= times, (self.out, self.err)
        return found()[times - 1]

    def end(self, signum: int = signal.SIGTERM) -> int:
        self.process.send_signal(signum)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(WAIT_S)
        for reader in self._readers:
            reader.join(WAIT_S)
        return code


def run_to_its_end(folder: Path, *words: str, verb: str = "run") -> subprocess.CompletedProcess[str]:
    line = [PROGRAM, verb, *words]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=WAIT_S, check=False)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[list[Running]]:
    started: list[Running] = []
    yield started
    for one in started:
        one.process.kill()
        one.wait()


@pytest.fixture
def greeter(tmp_path: Path) -> Path:
    """A folder with a model and a module that it imports."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "model.py").write_text(GREETER)
    (folder / "words.py").write_text("GREETING = 'Hello'\n")
    return folder


def test_a_file_is_served_until_ctrl_c(greeter: Path, name: str, running: list[Running], tmp_path: Path) -> None:
    """I run a file from another folder: it says where my model is and a curl line that works, other commands see it,
    the console is there, and Ctrl-C ends all of it. Meanwhile its port is refused to others with an error that names
    the instance, and the option that takes another one (RN1, RN2, AD2)."""
    options = ("--name", name, "--arg", '"?"', "--set", "num_replicas=2", "--console-port", "0")
    started = Running(tmp_path, "project/model.py", *options)
    running.append(started)
    address = started.says("Greeter is at (http://.*)/$")
    line = started.says("Try it:  (curl .*)")
    started.says("(Ctrl-C finishes)")
    answer = subprocess.run([*shlex.split(line), "-s"], capture_output=True, text=True, check=True, timeout=WAIT_S)
    assert json.loads(answer.stdout) == {"text": "Hello, text?"}
    assert httpx.get(started.says("API page:  (http.*)")).status_code == 200
    assert httpx.get(address).status_code == 422  # GET is routed too
    # Its output is read by others here, so that the link there does not sign in.
    page = started.says(f" Console:  (http.*)  .for a link that signs in: pointsman console --name {name}")
    assert page == status_of(name)["console"]
    assert httpx.get(page, timeout=WAIT_S).status_code == 200
    report = status_of(name)
    assert report["endpoints"]["Greeter"]["methods"] == ["GET", "POST"]
    assert report["backends"]["Greeter"]["replicas_running"] == 2
    port = address.rpartition(":")[2]
    done = run_to_its_end(greeter, "model.py", "--name", f"{name}b", "--port", port, "--metrics-export-port", "0")
    assert_one_line(done, f"port {port}", f"instance '{name}'", "--http-port")
    processes = family(started.process.pid)

    assert started.end(signal.SIGINT) == 0

    wait_until(lambda: not any(one.is_running() for one in processes.values()), what="every process has ended")
    assert started.err == ["Stopping; Ctrl-C again hurries it."]


def test_a_file_with_several_models_is_bad_usage(greeter: Path, name: str) -> None:
    """A file with two models ends with 2 and both named, and nothing runs on (RN2)."""
    (greeter / "model.py").write_text(f"{GREETER}\ndef other(request): ...\n")
    done = run_to_its_end(greeter, "model.py", "--name", name, *PORTS)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert all(f"model.py:{one}" in done.stderr for one in ("Greeter", "other"))
    assert name not in printed_by("list")


@pytest.mark.parametrize(
    ("file", "text", "first"),
    [
        ("words.py", "GREETING = 1 / 0\n", "model.py"),
        ("model.py", GREETER.replace("self.mark = mark", "self.mark = mark + 1"), "model.py"),
    ],
    ids=["import", "constructor"],
)
def test_code_that_fails_shows_its_traceback(file: str, text: str, first: str, greeter: Path, name: str) -> None:
    """A model that cannot be imported or constructed ends with 1 and my own traceback, once, and nothing runs on
    (RN2)."""
    (greeter / file).write_text(text)
    done = run_to_its_end(greeter, "model.py", "--name", name, *PORTS)
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    shown = [line for line in lines if line.startswith('  File "')]
    assert lines[-1] in (
        "ZeroDivisionError: division by zero",
        'TypeError: can only concatenate str (not "int") to str',
    )
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert str(greeter / first) in shown[0]
    assert all(str(greeter) in line for line in shown), done.stderr
    assert name not in printed_by("list")


def test_a_saved_file_is_served_at_once(greeter: Path, name: str, running: list[Running]) -> None:
    """With --reload a saved file answers anew while no request fails; a bad save is told of once and changes nothing,
    and the next good one wins (RN3)."""
    model = greeter / "model.py"
    model.write_text(COUNTER.format(0))
    started = Running(greeter, "model.py", "--name", name, "--reload")
    running.append(started)
    address = started.says("answer is at (http.*)")
    failed: list[object] = []
    answers: list[str] = []
    ended = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=WAIT_S) as client:
            while not ended.wait(PAUSE_S):
                answer = client.get(address)
                answers.append(answer.text)
                if answer.status_code != 200:
                    failed.append(answer)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    try:
        for number in range(1, 4):
            model.write_text(COUNTER.format(number))
            wait_until(lambda wanted=str(number): answers[-1:] == [wanted], what=f"answer {number}")
        model.write_text("def answer(request:\n")
        started.says("was (not) loaded")
        model.write_text(
            "class answer:\n    def __init__(self): raise OSError('no disk')\n    def __call__(self, r): ...\n"
        )
        started.says("was (not) loaded", times=2)
        assert answers[-1] == "3"
        model.write_text("import other\n" + COUNTER.format("other.N"))
        started.says("was (not) loaded", times=3)
        (greeter / "other.py").write_text("N = 4\n")
        wait_until(lambda: answers[-1] == "4", what="the module that was missing")
    finally:
        ended.set()
        asking.join(WAIT_S)
    assert failed == []
    assert started.end() == 0
    users = [line for line in started.err if not line.startswith("[")]  # without the instance's own log
    told = ("SyntaxError", "OSError: no disk", "ModuleNotFoundError", "Traceback", "was not loaded")
    assert [sum(word in line for line in users) for word in told] == [1, 1, 1, 2, 3], started.err


SHOP = """
pointsman: 1
name: shop
instance: {http: {port: 0, debug: true}, metrics_export_port: 0, num_cpus: 7}
backends:
  greeter:
    code: model:Greeter
    args: ["?"]
    config: {rollout_watch_s: 0}
endpoints:
  greet:
    route: /greet
    methods: [POST]
    traffic: {greeter: 100%}
"""


def test_a_configuration_file_is_served(greeter: Path, name: str, running: list[Running]) -> None:
    """A configuration file runs as a model does: its instance, its endpoints, a curl line that works; with --reload a
    saved file is applied anew, and one that is wrong changes nothing (RN1, RN3)."""
    file = greeter / "shop.yaml"
    file.write_text(SHOP)
    started = Running(greeter, "shop.yaml", "--name", name, "--reload")
    running.append(started)
    address = started.says("greet is at (http.*)")
    line = started.says("Try it:  (curl .*)")
    answer = subprocess.run([*shlex.split(line), "-s"], capture_output=True, text=True, check=True, timeout=WAIT_S)
    assert json.loads(answer.stdout) == {"text": "Hello, text?"}
    file.write_text(SHOP.replace("?", "!!"))
    started.says("Applied (anew)")
    assert httpx.post(address, json={"name": "Ada"}).json() == {"text": "Hello, Ada!!"}
    file.write_text(SHOP.replace("route: /greet", "rout: /greet"))
    assert "shop.yaml" in started.says("(.*rout.*)")
    assert httpx.post(address, json={"name": "Ada"}).status_code == 200
    assert started.end() == 0


def test_a_wrong_configuration_file_is_bad_usage(greeter: Path, name: str) -> None:
    """A file with a mistake ends with 2 and its place, code that fails with 1 and its traceback (RN2)."""
    (greeter / "shop.yaml").write_text(SHOP.replace("traffic:", "trafic:"))
    done = run_to_its_end(greeter, "shop.yaml", "--name", name)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(r"shop\.yaml:\d+:\d+: .*trafic", done.stderr)
    (greeter / "shop.yaml").write_text(SHOP)
    (greeter / "words.py").write_text("GREETING = 1 / 0\n")
    done = run_to_its_end(greeter, "shop.yaml", "--name", name)
    assert (done.returncode, done.stdout) == (1, "")
    assert "ZeroDivisionError: division by zero\n" in done.stderr
    assert str(greeter / "words.py") in done.stderr
    (greeter / "words.py").write_text("GREETING = 'Hello'\n")
    (greeter / "model.py").write_text(GREETER.replace("self.mark = mark", "self.mark = mark + 1"))
    done = run_to_its_end(greeter, "shop.yaml", "--name", name)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert done.stderr.splitlines()[-1] == 'TypeError: can only concatenate str (not "int") to str'


def test_breakpoints_work_in_one_process(greeter: Path, name: str, running: list[Running]) -> None:
    """With --local my code runs on the main thread of the one process, and answers as in an instance (RN1)."""
    (greeter / "where.py").write_text(
        "import os, threading\n"
        "class Sync:\n"
        "    def __init__(self): self.made = threading.current_thread() is threading.main_thread()\n"
        "    def __call__(self, r): return [self.made, *later_(r)]\n"
        "def later_(r): return [threading.current_thread() is threading.main_thread(), os.getpid()]\n"
        "async def later(r): return later_(r)\n"
        "class Bad:\n"
        "    def __init__(self): raise OSError('no disk')\n"
        "    def __call__(self, r): ...\n"
    )
    for target, facts in (("where:Sync", [True, True]), ("where:later", [True])):
        started = Running(greeter, target, "--local", "--route", "/m")
        running.append(started)
        address = started.says("is at (http.*)")
        assert httpx.get(address).json() == [*facts, started.process.pid]
        assert httpx.get(address + "x").status_code == 404
        assert not psutil.Process(started.process.pid).children()
        assert started.end(signal.SIGINT) == 0
    bad = Running(greeter, "where:Bad", "--local")
    running.append(bad)
    assert bad.wait() == 1
    assert bad.err[-1] == "OSError: no disk"


def test_a_breakpoint_stops_at_a_prompt(greeter: Path) -> None:
    """With --local I stop at a breakpoint, change a variable, go on, and Ctrl-C still ends it (RN1)."""
    (greeter / "stops.py").write_text("def model(request):\n    x = 41\n    breakpoint()\n    return x + 1\n")
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(greeter)
        os.environ["PYTHONFAULTHANDLER"] = "1"
        os.environ.pop("PYTHONBREAKPOINT", None)  # Ray sets it in a process that has started it, as this one may have
        os.execv(PROGRAM, [PROGRAM, "run", "stops.py", "--local", "--port", "0"])
    try:
        shown = read_terminal(pid, terminal, r"is at (http://\S+)[\s\S]*Ctrl-C")
        address = re.search(r"is at (http://\S+)", shown)
        assert address
        with ThreadPoolExecutor(1) as asking:
            answer = asking.submit(httpx.get, address[1], timeout=2 * WAIT_S)
            read_terminal(pid, terminal, r"\(Pdb\)", unless=answer)
            os.write(terminal, b"x = 99\ncontinue\n")
            assert answer.result().json() == 100
        os.write(terminal, b"\x03")
        with contextlib.suppress(OSError):  # the terminal is closed with the process
            read_terminal(pid, terminal, "never shown")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        pid = 0
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(terminal)


def read_terminal(pid: int, terminal: int, pattern: str, *, unless: Future[httpx.Response] | None = None) -> str:
    """What a process shows on its terminal, up to a pattern. One that shows no more has to say where it stands."""
    shown, deadline = "", time.monotonic() + WAIT_S
    while not re.search(pattern, shown):
        if unless is not None and unless.done():
            pytest.fail(f"answered before {pattern} was shown: {unless.result().text!r}, shown: {shown!r}")
        if select.select([terminal], [], [], 0.5)[0]:
            shown += os.read(terminal, 4096).decode()
        elif time.monotonic() > deadline:
            os.kill(pid, signal.SIGABRT)
            with contextlib.suppress(OSError):
                while more := os.read(terminal, 4096):
                    shown += more.decode()
            pytest.fail(f"{pattern} was not shown, but {shown}")
    return shown


def test_models_of_a_running_instance(greeter: Path, name: str) -> None:
    """I deploy a file onto an instance that runs, scale it, unload and wake it, replace it, and delete it, all from
    a shell (RN1, ID3)."""
    with serve.start(detached=True, name=name, http_options={"port": 0}, metrics_export_port=0) as client:

        def deploy(*words: str) -> subprocess.CompletedProcess[str]:
            return run_to_its_end(greeter, *words, "--name", name, verb="deploy")

        done = deploy("model.py", "--route", "/hi", "--as", "greet", "--set", "rollout_watch_s=0")
        assert (done.returncode, done.stdout) == (0, f"greet is served at {client.http_address}/hi.\n"), done.stderr
        said = httpx.post(f"{client.http_address}/hi", json={"name": "Ada"}).json()
        assert said == {"text": "Hello, Ada!"}
        assert printed_by("scale", "greet", "2", "--name", name) == "greet has 2 replicas.\n"
        assert client.status()["backends"]["greet"]["replicas_running"] == 2
        client.update_backend_config("greet", {"idle_timeout_s": 600.0})
        gone = "greet has no replicas; the next call loads it again.\n"
        assert printed_by("unload", "greet", "--name", name) == gone
        assert printed_by("wake", "greet", "--name", name) == "greet has 2 replicas.\n"
        (greeter / "words.py").write_text("GREETING = 'Good day'\n")
        assert deploy("model.py", "--as", "greet", "--arg", '"?"').returncode == 0
        assert httpx.post(f"{client.http_address}/hi", json={"name": "Ada"}).json() == {"text": "Good day, Ada?"}
        assert deploy("words.py").returncode == 2
        assert printed_by("delete", "greet", "--name", name) == "Deleted: endpoint greet, backend greet.\n"
        assert_one_line(pointsman("delete", "greet", "--name", name), "'greet'")


SCRIPT = """
import sys
from pathlib import Path
import pointsman as serve

class Model:
    def __init__(self, word): self.word = word
    def __call__(self, request): return self.word

def hello(request): return "hello"

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"app"})

if __name__ == "__main__":
    models = {"/m": (Model, "one"), "/n": (Model, "two"), "/hello": hello, "/app": app}
    serve.run(models, name=sys.argv[1], http_options={"port": 0}, metrics_export_port=0)
    print("it has returned")
"""


def test_run_of_python(name: str, tmp_path: Path, running: list[Running]) -> None:
    """`serve.run` serves all models of a dict, says where, and returns after Ctrl-C (RN1)."""
    (tmp_path / "script.py").write_text(SCRIPT)
    started = Running.__new__(Running)
    started.process = subprocess.Popen(
        [sys.executable, "script.py", name], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    started.out, started.err, started._readers = [], [], []
    reader = threading.Thread(target=Running._read, args=(started.process.stdout, started.out), daemon=True)
    reader.start()
    started._readers.append(reader)
    running.append(started)
    started.says("(Ctrl-C)")
    address = started.says("hello is at (.*)/hello")
    said = {route: httpx.get(f"{address}/{route}").text for route in ("m", "n", "hello", "app/x")}
    assert said == {"m": "one", "n": "two", "hello": "hello", "app/x": "app"}
    assert set(status_of(name)["endpoints"]) == {"Model", "Model-2", "hello", "app"}
    assert started.end(signal.SIGINT) == 0
    assert started.out[-1] == "it has returned"


def test_instances_of_scripts_are_listed(running: list[Running]) -> None:
    """`list` shows the instance that a script has started for itself, and commands reach it by that name (RN1)."""
    with serve.start(http_options={"port": 0}, metrics_export_port=0) as client:
        shown = json.loads(printed_by("list", "--json"))
        mine = next(one for one in shown if one["http"] == client.http_address)
        assert mine["name"] == f"(script) {mine['pid']}"
        client.create_backend("b", lambda request: "hello")
        assert list(status_of(mine["name"])["backends"]) == ["b"]
        printed_by("logs", "b", "--name", mine["name"])
        assert_one_line(pointsman("status", "--name", "(script) 1"), "(script) 1")
