"""Starting, finding and ending instances."""

from __future__ import annotations

import gc
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from starlette.middleware import Middleware

import pointsman as serve
from pointsman.exceptions import BackendStartError, ServeException
from tests.conftest import WAIT_S, family, http_for, start_client, wait_until


def run(code: str, *arguments: str) -> str:
    """Run a script to its end and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_instances_side_by_side():
    """Instances that are not detached do not meet, whatever names they and their backends have; by default each has one
    HTTP server (IN5, FT10, LO1)."""
    options = {"name": "same", "http_options": {"port": 0}, "metrics_export_port": 0}
    with serve.start(**options) as one, serve.start(**options) as two:
        with pytest.raises(ServeException, match="same"):
            serve.connect("same")
        for client, answer in ((one, "one"), (two, "two")):
            client.deploy("same", lambda request, answer=answer: answer, route="/same")
            assert len(client.status()["http"]["ingresses"]) == 1
        with http_for(one) as http_one, http_for(two) as http_two:
            assert (http_one.get("/same").text, http_two.get("/same").text) == ("one", "two")
        one.delete_endpoint("same")
        assert "same" in two.list_endpoints()


def test_shutdown_is_final():
    """After shutdown every method says so, and a second shutdown does nothing (IN12)."""
    client = start_client()
    client.deploy("a", lambda request: "a")
    handle = client.get_handle("a")
    client.shutdown()
    client.shutdown()
    calls = (client.list_backends, client.status, lambda: client.get_handle("a"), lambda: client.delete_endpoint("a"))
    for call in calls:
        with pytest.raises(ServeException, match="shut down"):
            call()
    with pytest.raises(ServeException):
        handle.remote().result()
    assert not family()


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"http_options": {"prot": 1}}, ValueError, "port"),
        ({"http_options": 5}, TypeError, "5"),
        ({"http_options": {"port": 70000}}, ValueError, "70000"),
        ({"http_options": {"location": "Nowhere"}}, ValueError, "Nowhere"),
        ({"http_options": {}, "http_port": 1}, ValueError, "http_port"),
        ({"detached": True, "name": ".hidden"}, ValueError, ".hidden"),
        ({"detached": True, "name": "a/b"}, ValueError, "a/b"),
        ({"detached": True, "name": "x" * 65}, ValueError, "x"),
        ({"state_dir": "/tmp/x"}, ValueError, "detached"),
        ({"engine": "kubernetes"}, ValueError, "kubernetes"),
        ({"num_cpus": "two"}, TypeError, "two"),
        ({"num_gpus": 0.5}, ValueError, "whole"),
        ({"memory": -1}, ValueError, "-1"),
        ({"resources": {"a": "b"}}, TypeError, "'b'"),
        ({"client_in_replicas": "no"}, TypeError, "'no'"),
        ({"spare_replicas": -1}, ValueError, "-1"),
        ({"spare_replicas": 1.0}, TypeError, "1.0"),
        ({"spare_replicas": 1, "engine": "ray"}, ValueError, "spare_replicas 1 needs engine 'local'"),
    ],
)
def test_bad_starts(arguments, error, text):
    """A start that cannot be is refused with the reason, and nothing runs (IN2, IN3, IN7, IN11, IN14, EN2, ID5)."""
    with pytest.raises(error, match=text):
        serve.start(**arguments)
    assert not family()


def test_deprecated_arguments():
    """The HTTP arguments of Ray Serve 1.x work, with a warning (IN2, LO3)."""
    with pytest.warns(DeprecationWarning, match="http_host"):
        client = serve.start(http_host=None)
    with client:
        assert client.http_address is None
        client.deploy("a", lambda request: "a")
        assert client.get_handle("a").remote().result() == "a"


class Hangs:
    """A middleware that never comes up."""

    def __init__(self, app):
        threading.Event().wait()


def test_a_start_that_takes_too_long(monkeypatch):
    """A start that is not ready in time is a TimeoutError, and nothing is left of it (IN1)."""
    monkeypatch.setattr("pointsman.client.client.START_TIMEOUT_S", 0.5)
    with pytest.raises(TimeoutError, match=r"not ready after 0\.5 s"):
        start_client(middlewares=[Middleware(Hangs)])
    assert not family()


def test_one_server_on_one_machine():
    """On the local engine, every node is this one: one HTTP server runs (LO2)."""
    with start_client(location="EveryNode") as client:
        client.deploy("a", lambda request: "a", route="/a")
        assert len(client.status()["http"]["ingresses"]) == 1
        with http_for(client) as http:
            assert http.get("/a").text == "a"


def test_no_http_server():
    """Without an HTTP server, however that is spelt (tests/unit/test_http_options.py), handles work and no ingress runs
    (LO3, CE9)."""
    with serve.start(http_options={"location": None}) as client:
        client.create_backend("a", lambda request: "a")
        client.create_endpoint("a", backend="a", route="/a")
        assert client.get_handle("a").remote().result() == "a"
        assert not any("pointsman.ingress" in p.cmdline() for p in family().values())


def test_user_code_that_may_only_answer():
    """An instance can shut user code out: neither a client nor a handle that it was given works in a replica, the error
    says why, and what needs neither is served (CO6)."""

    class Curious:
        def __call__(self, request):
            return serve.connect().list_endpoints()

    class Keeps:
        def __init__(self, handle):
            self.handle = handle

        def __call__(self, request):
            return None

    with serve.start(http_options={"host": None}, metrics_export_port=None, client_in_replicas=False) as client:
        client.deploy("modest", lambda request: "answer")
        handle = client.get_handle("modest")
        assert handle.remote().result() == "answer"
        client.deploy("curious", Curious)
        with pytest.raises(ServeException, match="client_in_replicas=False"):
            client.get_handle("curious").remote().result()
        with pytest.raises(BackendStartError, match="client_in_replicas=False"):
            client.create_backend("keeps", Keeps, handle)


DETACHED = """
import sys
import pointsman as serve
client = serve.start(detached=True, name=sys.argv[1], http_options={"port": 0}, metrics_export_port=0)
client.deploy("greet", lambda request: "hello", route="/greet")
print(client.http_address)
"""

ANOTHER_DRIVER = """
import sys
import pointsman as serve
serve.connect(sys.argv[1]).deploy("late", lambda request: f"late, {request.body()}")
"""


RUN_AGAIN = """
import enum
import os
import sys
import pointsman as serve

class Item(enum.Enum):
    ONE = 1

class Model:
    def __call__(self, request):
        return os.getpid(), isinstance(request.body(), Item), request.body() in {Item.ONE, "a", "b"}

client = serve.connect(sys.argv[1])
client.deploy("model", Model)
print(client.get_handle("model").remote(Item.ONE).result())
"""


def test_a_script_that_runs_again(name):
    """A script deploys its own class and runs again: the replica stays, and knows the objects that the script sends
    (CF6, CB12)."""
    with serve.start(detached=True, name=name, http_options={"location": None}, metrics_export_port=None) as client:
        first, again = run(RUN_AGAIN, name), run(RUN_AGAIN, name)
        assert first == again
        assert first.strip().endswith("True, True)")
        assert len(client.history()) == 2
        client.shutdown()


def test_detached_instances(name):
    """A detached instance outlives its script; a second one finds it by name, calls what a third has made, and ends it
    (IN6, IN8, IN12, FT9, HA3a, HA3b)."""
    address = run(DETACHED, name).strip()
    client = serve.connect(name)
    assert client.http_address == address
    assert client.get_handle("greet").remote().result() == "hello"
    waiting = client.get_handle("late", missing_ok=True).remote("but welcome")
    run(ANOTHER_DRIVER, name)
    assert waiting.result(30) == "late, but welcome"
    assert client.get_handle("late").remote("and again").result() == "late, and again"
    client.delete_endpoint("late")
    client.delete_backend("late")
    client.deploy("more", lambda request: "more", route="/more")
    with http_for(client) as http:
        assert (http.get("/greet").text, http.get("/more").text) == ("hello", "more")
    with pytest.raises(ServeException, match="connect"):
        serve.start(detached=True, name=name, http_options={"port": 0})
    del client
    gc.collect()
    client = serve.connect(name)
    assert "more" in client.list_endpoints()
    status = client.status()
    pids = [
        status["controller_pid"],
        *(replica["pid"] for b in status["backends"].values() for replica in b["replicas"]),
    ]
    assert len(pids) == 3
    client.shutdown()
    with pytest.raises(ServeException, match=name):
        serve.connect(name)
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids), what="its processes have ended")


def test_unknown_instance():
    """Connecting to what does not run is an error that says how to start it (IN8)."""
    with pytest.raises(ServeException, match=r"no-such.*start\("):
        serve.connect("no-such")
    with pytest.raises(ValueError, match=r"\.\./x"):
        serve.connect("../x")


class Versioned:
    def __init__(self, text):
        self.text = text

    def reconfigure(self, config):
        self.text = config

    def __call__(self, request):
        return self.text


def test_state_survives_a_restart(name, tmp_path):
    """With a state folder everything comes back after the whole instance was stopped or killed (IN10, FT8)."""
    state = tmp_path / "state"
    client = serve.start(detached=True, name=name, state_dir=state, http_options={"port": 0})
    client.create_backend("a", Versioned, "init", config={"num_replicas": 2, "user_config": "configured"})
    client.create_backend("b", Versioned, "other")
    client.create_endpoint("e", backend="a", route="/e", methods=["GET", "PUT"])
    client.set_traffic("e", {"a": 0.0, "b": 1.0})
    client.create_endpoint("f", backend="a", route="/f")
    before = client.list_endpoints(), {t: c.model_dump() for t, c in client.list_backends().items()}
    for signum in (signal.SIGTERM, signal.SIGKILL):
        supervisor = client._raised._process
        processes = family()
        os.kill(supervisor.pid, signum)
        supervisor.wait(WAIT_S)
        wait_until(lambda gone=processes: not any(p.is_running() for p in gone.values()))
        client = serve.start(detached=True, name=name, state_dir=state, http_options={"port": 0})
        after = client.list_endpoints(), {t: c.model_dump() for t, c in client.list_backends().items()}
        assert after == before
        with http_for(client) as http:
            assert http.get("/e").text == "other"
            assert http.get("/f").text == "configured"
    client.shutdown()
    client = serve.start(detached=True, name=name, state_dir=state, http_options={"port": 0})
    assert client.list_endpoints() == {}
    client.shutdown()


def test_bad_state_folders(name, tmp_path):
    """A state folder that others may write, or that a live instance uses, is refused by name (IN11)."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO)
    with pytest.raises(ServeException, match="open to other users"):
        serve.start(detached=True, name=name, state_dir=shared, http_options={"port": 0})
    own = tmp_path / "own"
    first = serve.start(detached=True, name=name, state_dir=own, http_options={"port": 0})
    with pytest.raises(ServeException, match="own"):
        serve.start(detached=True, name=f"{name}-2", state_dir=own, http_options={"port": 0})
    first.shutdown()


def test_what_is_said_when_the_port_is_taken_as_well(name, tmp_path):
    """Where several things keep an instance from starting, I am told of its folder and its name first, since the port
    may only be taken by the instance that has these; and a start that fails by its port leaves no folder (IN1, IN6,
    IN11)."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO)
    own, new = tmp_path / "own", tmp_path / "new" / "deep"
    options = {"detached": True, "metrics_export_port": 0}
    with serve.start(name=name, state_dir=own, http_options={"port": 0}, **options) as first:
        taken = {"port": int(first.http_address.rpartition(":")[2])}
        with pytest.raises(ServeException, match="open to other users"):
            serve.start(name=f"{name}-2", state_dir=shared, http_options=taken, **options)
        with pytest.raises(ServeException, match="in use by a live instance"):
            serve.start(name=f"{name}-2", state_dir=own, http_options=taken, **options)
        with pytest.raises(ServeException, match="connect"):
            serve.start(name=name, http_options=taken, **options)
        with pytest.raises(OSError, match="in use"):
            serve.start(name=f"{name}-2", state_dir=new, http_options=taken, **options)
        assert not new.parent.exists()
        assert first.list_endpoints() == {}


def test_start_in_a_thread():
    """An instance can be started and used from a thread."""
    answers = []

    def use():
        with start_client() as client:
            client.deploy("a", lambda request: "threaded")
            answers.append(client.get_handle("a").remote().result())

    thread = threading.Thread(target=use)
    thread.start()
    thread.join(WAIT_S)
    assert answers == ["threaded"]


SCRIPT = """
import pointsman as serve

client = serve.start(http_options={"port": 0})
greeting = "hi"

class Answer(Exception):
    pass

class Model:
    def __init__(self, name):
        self.name = name
    def __call__(self, request):
        if request.body() == "fail":
            raise Answer("own class")
        return f"{greeting} {self.name}", Result(1)

class Result:
    def __init__(self, value):
        self.value = value

client.create_backend("m", Model, "you")
client.create_endpoint("m", backend="m")
handle = client.get_handle("m")
text, result = handle.remote().result()
print(text, type(result) is Result)
try:
    handle.remote("fail").result()
except Answer as error:
    print("caught", error)
client.shutdown()
"""


@pytest.mark.parametrize("way", ["script", "command", "stdin"])
def test_code_from_main(tmp_path, way):
    """Classes of __main__ are shipped by value and come back as themselves, in a script without a guard too."""
    script = tmp_path / "serve_it.py"
    script.write_text(SCRIPT)
    arguments = {"script": [str(script)], "command": ["-c", SCRIPT], "stdin": ["-"]}[way]
    done = subprocess.run(
        [sys.executable, *arguments],
        input=SCRIPT if way == "stdin" else None,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        cwd=tmp_path,
        check=False,
    )
    assert done.stdout == "hi you True\ncaught own class\n", done.stderr


NOTEBOOK = """
import asyncio

async def cell():  # a notebook runs its cells inside a running loop
    exec(open({path!r}).read(), globals())

asyncio.run(cell())
"""


def test_inside_a_running_loop(tmp_path):
    """It works in a notebook, where a loop is running already."""
    script = tmp_path / "cells.py"
    code = SCRIPT.replace("handle.remote().result()", "wait(handle.remote())").replace(
        'handle.remote("fail").result()', 'wait(handle.remote("fail"))'
    )
    script.write_text("import threading\n" + WAIT + code)
    assert run(NOTEBOOK.format(path=str(script))) == "hi you True\ncaught own class\n"


WAIT = """
def wait(future):
    outcome = []
    def get():
        try:
            outcome.append(future.result())
        except Exception as error:
            outcome.append(error)
    thread = threading.Thread(target=get)
    thread.start()
    thread.join()
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]
"""


def test_import_is_light():
    """Importing the package, and starting a local instance, loads no heavy library (EN1)."""
    code = """
import sys
import pointsman as serve
with serve.start(http_options={"port": 0}) as client:
    client.deploy("a", lambda request: sorted({"ray", "numpy", "torch", "pydantic", "starlette"} & set(sys.modules)))
    print(client.get_handle("a").remote().result(), sorted({"ray", "numpy", "torch"} & set(sys.modules)))
"""
    # The replica of a lambda from __main__ imports what the lambda refers to: `sys` only.
    assert run(code.replace("lambda request: sorted", "lambda request: __import__('builtins').sorted")) == "[] []\n"


def test_output_of_user_code(name, tmp_path):
    """What user code prints appears with its replica's name here, and in a file of the instance (part 12)."""
    code = """
import sys, pathlib, os, time
import pointsman as serve
client = serve.start(http_options={"port": 0}, metrics_export_port=0)
class Talks:
    def __init__(self):
        print("out loud")
        print("to stderr", file=sys.stderr)
    def __call__(self, request):
        return serve.get_current_replica_tag()
client.create_backend("talks", Talks)
client.create_endpoint("talks", backend="talks")
print(client.get_handle("talks").remote().result())
logs = next(pathlib.Path(os.environ["XDG_RUNTIME_DIR"], "pointsman").glob(".anonymous.*/logs"))
while True:  # they come by way of the supervisor
    texts = [path.read_text() for path in logs.glob("replica-*.log")]
    if any("out loud" in text and "to stderr" in text for text in texts):
        break
    time.sleep(0.01)
print(texts)
client.shutdown()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT_S, check=False)
    tag, logs = done.stdout.splitlines()
    assert f"[{tag}] out loud\n" in done.stderr
    assert f"[{tag}] to stderr\n" in done.stderr
    assert "out loud" in logs
    assert "to stderr" in logs


def test_start_from_odd_folders(tmp_path, monkeypatch):
    """A long TMPDIR does not break the sockets, whose paths the system keeps short; and files in the working folder
    named like modules of the standard library harm none of our processes."""
    long = tmp_path / ("d" * 120)
    long.mkdir()
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr("tempfile.tempdir", None)
    for module in ("queue.py", "types.py", "selectors.py", "logging.py"):
        (tmp_path / module).write_text("raise RuntimeError('shadowed')")
    monkeypatch.chdir(tmp_path)
    with start_client() as client:
        client.deploy("a", lambda request: Path.cwd().name)
        assert client.get_handle("a").remote().result() == tmp_path.name
