"""Real processes that die: replica, controller, ingress, supervisor, driver (docs/faults.md)."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

import pointsman as serve
from tests.conftest import WAIT_S, empty, family, http_for, leaves_no_process, start_client, wait_until
from tests.process.load import PAUSE_S


def pids_of(client, backend):
    return [replica["pid"] for replica in client.status()["backends"][backend]["replicas"]]


class Pid:
    def __call__(self, request):
        return os.getpid()


class Sleepy:
    def __call__(self, request):
        time.sleep(0.05)
        return os.getpid()


SOON_S = 20.0
"""On a machine with much to do. Where the restart budget had been used up nothing would happen for 30 s."""


class Load:
    """Asks a route from several threads until told to stop; keeps every status."""

    def __init__(self, client, path, *, method="GET", threads=4):
        self.statuses: list[int] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(client, path, method)) for _ in range(threads)]

    def _ask(self, client, path, method):
        with http_for(client) as http:
            while not self._stop.wait(PAUSE_S):
                self.statuses.append(http.request(method, path).status_code)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def go_on_for(self, count):
        """Wait until this many more answers have come."""
        wanted = len(self.statuses) + count
        wait_until(lambda: len(self.statuses) >= wanted, what=f"{count} more answers")


@pytest.fixture(scope="module")
def instance():
    with leaves_no_process():
        client = start_client()
        yield client
        client.shutdown()


@pytest.fixture
def client(instance):
    yield instance
    empty(instance)


def serve_pid(client, code=Pid, **config):
    client.create_backend("pid", code, config={"num_replicas": 2, **config})
    client.create_endpoint("pid", backend="pid", route="/pid", methods=["GET", "POST"])


def test_controller_killed(client):
    """Requests go on without an error while the controller restarts, and it keeps the same replicas (F8, FT1, G4)."""
    serve_pid(client)
    before = sorted(pids_of(client, "pid"))
    controller = client.status()["controller_pid"]
    with Load(client, "/pid") as load:
        load.go_on_for(50)
        os.kill(controller, signal.SIGKILL)
        client.create_endpoint("after", backend="pid", route="/after")
        load.go_on_for(200)
        status = client.status()
    assert set(load.statuses) == {200}
    assert status["controller_pid"] != controller
    assert sorted(pids_of(client, "pid")) == before
    assert set(client.list_endpoints()) == {"pid", "after"}
    client.update_backend_config("pid", {"num_replicas": 3})
    assert set(before) < set(pids_of(client, "pid"))
    with http_for(client) as http:
        assert http.get("/after").json() in pids_of(client, "pid")


class StreamedPid:
    def __call__(self, request):
        yield str(os.getpid())


@pytest.mark.parametrize("code", [Pid, StreamedPid])
def test_six_replicas_killed_in_a_row(client, code):
    """Six replicas of a backend of two are killed, each as soon as it has answered: the next is there at once. The
    restart budget is for replicas that never served (F1, F3)."""
    serve_pid(client, code)
    killed = set()
    with http_for(client) as http:

        def answered_by_another():
            with contextlib.suppress(httpx.HTTPError):  # a stream whose replica was killed breaks
                answer = http.get("/pid")
                return int(answer.text) if answer.status_code == 200 and int(answer.text) not in killed else None
            return None

        for _ in range(6):
            victim = wait_until(answered_by_another, timeout_s=SOON_S, what="an answer of the next replica")
            killed.add(victim)
            os.kill(victim, signal.SIGKILL)
        assert wait_until(answered_by_another, timeout_s=SOON_S, what="an answer of the seventh") not in killed
    wait_until(lambda: len(set(pids_of(client, "pid")) - killed) == 2, timeout_s=SOON_S, what="two replicas again")


def test_controller_killed_while_a_backend_starts(client, tmp_path):
    """A create call that was under way when the controller died is carried out once (CL5, LC6, F8)."""
    go = tmp_path / "go"

    class Loads:
        def __init__(self, path):
            Path(path).with_suffix(".begun").touch()
            while not os.path.exists(path):
                time.sleep(0.01)

        def __call__(self, request):
            return os.getpid()

    done = []
    thread = threading.Thread(target=lambda: done.append(client.create_backend("slow", Loads, str(go))))
    thread.start()
    wait_until(go.with_suffix(".begun").exists, what="the constructor runs")
    before = pids_of(client, "slow")
    os.kill(client.status()["controller_pid"], signal.SIGKILL)
    assert pids_of(client, "slow") == before
    go.touch()
    thread.join(WAIT_S)
    assert done == [None]
    assert pids_of(client, "slow") == before


def test_controller_killed_again_and_again(client):
    """Each acknowledged change is there after any number of controller deaths (G4, G6)."""
    serve_pid(client)
    for number in range(4):
        os.kill(client.status()["controller_pid"], signal.SIGKILL)
        client.create_endpoint(f"e{number}", backend="pid")
    assert set(client.list_endpoints()) == {"pid", "e0", "e1", "e2", "e3"}


def test_controller_killed_beside_replicas_with_large_environments(client):
    """A new controller takes over replicas that were started with a megabyte of variables, and no other is started
    (FT1, F8)."""
    variables = {f"LARGE_{number}": "v" * 100_000 for number in range(9)}
    client.create_backend("pid", Pid, config={"num_replicas": 3}, ray_actor_options={"env_vars": variables})
    before = sorted(pids_of(client, "pid"))
    os.kill(client.status()["controller_pid"], signal.SIGKILL)
    client.create_endpoint("pid", backend="pid", route="/pid")
    assert sorted(pids_of(client, "pid")) == before


def test_no_descriptor_left_for_a_restart(client):
    """When the system has nothing left to restart the controller with, the instance serves on and tries again (F21)."""
    serve_pid(client)
    supervisor = next(p for p in family().values() if "pointsman.engine.local.supervisor" in p.cmdline())
    limits = supervisor.rlimit(psutil.RLIMIT_NOFILE)
    controller = client.status()["controller_pid"]
    try:
        supervisor.rlimit(psutil.RLIMIT_NOFILE, (3, limits[1]))
        os.kill(controller, signal.SIGKILL)
        with Load(client, "/pid", threads=1) as load:
            wait_until(lambda: not psutil.pid_exists(controller), what="the controller is reaped")
            load.go_on_for(300)
            assert not [p for p in family().values() if "pointsman.controller" in p.cmdline()]
            supervisor.rlimit(psutil.RLIMIT_NOFILE, limits)
            assert client.status()["controller_pid"] != controller
    finally:
        supervisor.rlimit(psutil.RLIMIT_NOFILE, limits)
    assert set(load.statuses) == {200}


def http_server(but=0):
    """The pid of the HTTP server's process, once there is one other than ``but``."""

    def found():
        with contextlib.suppress(psutil.Error):  # one has just ended
            return next((p for p, one in family().items() if p != but and "pointsman.ingress" in one.cmdline()), None)
        return None

    return wait_until(found, what="an HTTP server")


def serve_two(client):
    for name in ("one", "two"):
        client.create_backend(name, lambda request, name=name: name)
    client.create_endpoint("e", backend="one", route="/e")


def asked(client, times):
    """Who answers; each request on a connection of its own."""
    return {httpx.get(f"{client.http_address}/e", timeout=WAIT_S).text for _ in range(times)}


def test_changes_while_the_http_server_starts(client):
    """The HTTP server is killed, and its successor is paused at one moment or another of its start; a change that is
    acknowledged meanwhile is in force from the successor's first answer on (CL4, G6, F10)."""
    serve_two(client)
    victim = http_server()
    for count, target in zip(range(6), itertools.cycle(("two", "one"))):
        os.kill(victim, signal.SIGKILL)
        victim = http_server(but=victim)
        time.sleep(count * 0.05)  # any moment will do
        os.kill(victim, signal.SIGSTOP)
        changing = threading.Thread(target=client.set_traffic, args=("e", {target: 1.0}))
        changing.start()
        changing.join(0.3)  # where the server is counted already, the change waits for it
        os.kill(victim, signal.SIGCONT)
        changing.join(WAIT_S)
        assert asked(client, 6) == {target}
    client.delete_endpoint("e")
    assert httpx.get(f"{client.http_address}/e", timeout=WAIT_S).status_code == 404


def test_the_http_server_starts_while_the_controller_is_stopped(client):
    """Without a controller that answers, a new HTTP server serves by the last table; as soon as the controller goes on
    and acknowledges a change, that is in force there (F9, F10, CL4)."""
    serve_two(client)
    controller = client.status()["controller_pid"]
    for target, before in (("two", "one"), ("one", "two"), ("two", "one")):
        victim = http_server()
        os.kill(controller, signal.SIGSTOP)
        os.kill(victim, signal.SIGKILL)
        assert asked(client, 3) == {before}
        changing = threading.Thread(target=client.set_traffic, args=("e", {target: 1.0}))
        changing.start()
        os.kill(controller, signal.SIGCONT)
        changing.join(WAIT_S)
        assert asked(client, 6) == {target}
    assert client.status()["controller_pid"] == controller


def test_controller_and_http_server_killed_at_once(client):
    """Both are killed, and a change is made as soon as there is a controller again: it is in force when the call
    returns (F8, F10, CL4)."""
    serve_two(client)
    for target in ("two", "one", "two"):
        for victim in (client.status()["controller_pid"], http_server()):
            os.kill(victim, signal.SIGKILL)
        client.set_traffic("e", {target: 1.0})
        assert asked(client, 6) == {target}


def test_the_controller_is_killed_while_the_http_server_is_stopped(client):
    """The HTTP server is stopped for a while and does not see that the controller is another one: a change waits for it
    and is in force from its next answer on (F8, CL4, G6)."""
    serve_two(client)
    victim = http_server()
    os.kill(victim, signal.SIGSTOP)
    os.kill(client.status()["controller_pid"], signal.SIGKILL)
    changing = threading.Thread(target=client.set_traffic, args=("e", {"two": 1.0}))
    changing.start()
    changing.join(0.5)
    os.kill(victim, signal.SIGCONT)
    changing.join(WAIT_S)
    assert asked(client, 6) == {"two"}


DRIVER = """
import os, sys, time
import pointsman as serve
client = serve.start(http_options={"port": 0}, metrics_export_port=0)
class Stubborn:
    def __call__(self, request):
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
config = {"num_replicas": 2, "experimental_graceful_shutdown_timeout_s": 1.0}  # it would take all of the usual time
client.create_backend("b", Stubborn, config=config)
client.create_endpoint("e", backend="b", route="/e")
future = client.get_handle("e").remote()
print("ready", flush=True)
sys.stdin.readline()
"""


def run_driver(code=DRIVER, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def folders_of_scripts(runtime_folder):
    """Of instances that end with the script that has started them."""
    return set((runtime_folder / "pointsman").glob(".anonymous.*"))


def all_gone(processes):
    return lambda: not [p for p in processes.values() if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_driver_ends(signum, private_runtime_folder):
    """However the driver ends, nothing of its instance is left: no process, no folder (IN4)."""
    before = folders_of_scripts(private_runtime_folder)
    driver = run_driver()
    assert driver.stdout.readline() == "ready\n"
    processes = family(driver.pid)
    assert len(processes) == 5
    driver.send_signal(signum)
    driver.communicate(timeout=WAIT_S)
    wait_until(all_gone(processes), what="every process has ended")
    assert folders_of_scripts(private_runtime_folder) == before


def test_driver_ends_normally(private_runtime_folder):
    """A script that simply ends takes its instance with it, without a traceback (IN4)."""
    before = folders_of_scripts(private_runtime_folder)
    driver = run_driver()
    assert driver.stdout.readline() == "ready\n"
    processes = family(driver.pid)
    output, _ = driver.communicate("\n", timeout=WAIT_S)
    assert driver.returncode == 0
    assert "Traceback" not in output
    wait_until(all_gone(processes), what="every process has ended")
    assert folders_of_scripts(private_runtime_folder) == before


def test_collected_client():
    """An instance ends when its client is garbage (IN4)."""
    before = family()
    client = start_client()
    processes = {pid: process for pid, process in family().items() if pid not in before}
    assert processes
    del client
    wait_until(all_gone(processes), what="every process has ended")


def test_forked_children_of_user_code_end_with_their_replica(client):
    """What user code starts goes when its replica goes (G11)."""

    class Forks:
        def __init__(self):
            self.child = subprocess.Popen(["sleep", "600"])

        def __call__(self, request):
            return self.child.pid

    client.create_backend("f", Forks)
    client.create_endpoint("f", backend="f")
    pid = client.get_handle("f").remote().result()
    client.delete_endpoint("f")
    client.delete_backend("f")
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_unauthenticated_peers_get_nowhere(client, private_runtime_folder, tmp_path):
    """A peer without the key is closed before anything it sends is decoded (G10, S6, F29)."""
    import pickle

    serve_pid(client)
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (canary,))

    folder = next((private_runtime_folder / "pointsman").glob(".anonymous.*"))
    sockets = [folder / "ctl", *(path for path in (folder / "r").iterdir() if path.is_socket())]
    assert len(sockets) == 3
    for path in sockets:
        assert path.stat().st_mode & 0o077 == 0
        for data in (pickle.dumps(Bomb()), b"\0" * 5000, os.urandom(5000), b""):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(WAIT_S)
                peer.connect(str(path))
                peer.sendall(data)
                assert peer.recv(1000) == b""  # closed by the deadline of the hello at the latest
    assert not canary.exists()
    with http_for(client) as http:
        assert http.get("/pid").status_code == 200


def test_no_other_listeners(client):
    """Nothing but the HTTP port and the metrics port listens on the network (S16)."""
    serve_pid(client)
    listening = {
        connection.laddr
        for process in family().values()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {f"http://{address.ip}:{address.port}" for address in listening} == {
        client.http_address,
        client.metrics_address,
    }


def test_keys_are_not_on_show(client, private_runtime_folder):
    """The key stands in no command line and no environment (SECURITY.md)."""
    serve_pid(client)
    folder = next((private_runtime_folder / "pointsman").glob(".anonymous.*"))
    key = (folder / "key").read_bytes()
    assert (folder / "key").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    for process in family().values():
        shown = Path(f"/proc/{process.pid}/cmdline").read_bytes() + Path(f"/proc/{process.pid}/environ").read_bytes()
        assert key not in shown
        assert key.hex().encode() not in shown


def test_start_fails_cleanly_when_the_port_is_taken(client, private_runtime_folder, monkeypatch):
    """A port in use is an OSError that names it, before anything is started, and nothing is left behind (LO5, F34)."""
    port = int(client.http_address.rsplit(":", 1)[1])
    before = family()
    folders = set((private_runtime_folder / "pointsman").iterdir())
    monkeypatch.setattr(subprocess, "Popen", None)  # so it cannot take longer than a bind does
    with pytest.raises(OSError, match=str(port)):
        serve.start(http_options={"port": port}, metrics_export_port=0)
    assert family().keys() == before.keys()
    assert set((private_runtime_folder / "pointsman").iterdir()) == folders


def test_start_fails_cleanly_for_an_unknown_host(monkeypatch):
    """A host that cannot be resolved is the system's own error, naming host and port (LO5)."""
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(socket.gaierror, match=r"'no-such-host\.invalid', port 8123"):
        serve.start(http_options={"host": "no-such-host.invalid", "port": 8123})


def test_start_fails_cleanly_when_the_server_cannot_come_up():
    """A middleware that raises fails the start with a word on where to look, and leaves nothing (IN1)."""
    from starlette.middleware import Middleware

    class Bad:
        def __init__(self, app):
            raise RuntimeError("no")

    before = family()
    with pytest.raises(serve.exceptions.ServeException, match="HTTP server"):
        serve.start(http_options={"port": 0, "middlewares": [Middleware(Bad)]}, metrics_export_port=0)
    assert family().keys() == before.keys()
