"""The stored state of a detached instance: damaged, foreign, taken away, and without room."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import pointsman as serve
from pointsman.engine.local.folder import all_abouts
from pointsman.exceptions import ServeException
from tests.conftest import WAIT_S, family, http_for, wait_until
from tests.process.test_cli import FREE_PORTS, PROGRAM, assert_one_line

OPTIONS = {"http_options": {"port": 0}, "metrics_export_port": 0}


def start(name, state):
    return serve.start(detached=True, name=name, state_dir=state, **OPTIONS)


def stop(client):
    """As a reboot would: the state stays."""
    supervisor = client._raised._process
    processes = family(supervisor.pid)
    supervisor.terminate()
    supervisor.wait(30)
    wait_until(lambda: not any(process.is_running() for process in processes.values()))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A state folder with a backend and an endpoint, of an instance that was stopped; tests take copies."""
    state = tmp_path_factory.mktemp("stored") / "state"
    client = start("stored", state)
    client.deploy("greet", lambda request: "hello", route="/greet")
    # The second copy is made within a second: without it there is nothing to go back to.
    wait_until((state / "state.db.copy").exists)
    stop(client)
    return state


@pytest.fixture
def state(stored, tmp_path):
    copy = tmp_path / "state"
    shutil.copytree(stored, copy)
    copy.chmod(0o700)
    return copy


@pytest.fixture(autouse=True)
def nothing_left():
    """A test that fails must not leave its instance running."""
    yield
    for about in all_abouts():
        if about.name:
            serve.connect(about.name).shutdown()


def damage(path):
    data = bytearray(path.read_bytes())
    for place in range(100, len(data), 512):
        data[place] ^= 0xFF
    path.write_bytes(data)


def foreign(path):
    path.unlink()
    path.touch(0o600)
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE customers (name TEXT)")
    connection.commit()
    connection.close()


def text(path):
    path.write_text("Dear diary, today I wrote into a file that is not mine.\n" * 100)


@pytest.mark.parametrize("spoil", [damage, foreign, text, Path.unlink], ids=lambda spoil: spoil.__name__)
def test_the_verified_copy_takes_over(name, state, spoil):
    """Whatever happened to the database while nothing ran, the next start has all that was acknowledged, and what was
    found is kept beside it (F19)."""
    spoil(state / "state.db")
    spoilt = (state / "state.db").read_bytes() if (state / "state.db").exists() else None
    client = start(name, state)
    with http_for(client) as http:
        assert http.get("/greet").text == "hello"
    kept = list(state.glob("state.db.corrupt-*"))
    assert [path.read_bytes() for path in kept] == ([spoilt] if spoilt is not None else [])
    client.deploy("more", lambda request: "more")
    assert client.get_handle("more").remote().result() == "more"
    log = (state / "logs" / "controller.log").read_text()
    assert "state.db" in log
    assert "is used; nothing was dropped" in log
    client.shutdown()
    assert {path.name for path in state.glob("state.db*")} == set()


@pytest.mark.parametrize("spoil", [damage, foreign, text], ids=lambda spoil: spoil.__name__)
def test_without_a_good_copy_the_start_is_refused(name, state, spoil, private_runtime_folder):
    """Nothing is begun on half a state: the start says at once which file it is, touches nothing, and leaves nothing
    running; with the file put back it starts (F19, IN1)."""
    good = {path.name: path.read_bytes() for path in state.glob("state.db*")}
    for file in ("state.db", "state.db.copy"):
        spoil(state / file)
    spoilt = {path.name: path.read_bytes() for path in state.glob("state.db*")}
    before = family().keys()
    with pytest.raises(ServeException, match=r"state\.db "):  # one that waited in vain would be a TimeoutError
        start(name, state)
    assert family().keys() == before
    assert not (private_runtime_folder / "pointsman" / name).exists()
    assert {name: (state / name).read_bytes() for name in spoilt} == spoilt
    for file, data in good.items():
        (state / file).write_bytes(data)
    client = start(name, state)
    assert set(client.list_endpoints()) == {"greet"}
    client.shutdown()


def test_the_command_line_says_it_in_one_line(name, state):
    """From a shell, too: one line with the file's name, and no instance (F19, IN15)."""
    for file in ("state.db", "state.db.copy"):
        text(state / file)
    arguments = ["start", "--detached", "--name", name, *FREE_PORTS]
    command = [PROGRAM, *arguments, "--state-dir", str(state)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * WAIT_S, check=False)
    assert_one_line(done, str(state / "state.db"))
    assert (
        name
        not in subprocess.run([PROGRAM, "list"], capture_output=True, text=True, timeout=2 * WAIT_S, check=True).stdout
    )


def test_a_disk_that_is_full(name, state):
    """No room under the state folder: the change is refused, the old state serves on, and the same change goes through
    as soon as there is room (F17, CL3)."""
    client = start(name, state)
    controller = psutil.Process(client.status()["controller_pid"])
    before = client.list_endpoints(), client.list_backends()
    limits = controller.rlimit(psutil.RLIMIT_FSIZE)
    controller.rlimit(psutil.RLIMIT_FSIZE, (0, limits[1]))
    for change in (
        lambda: client.create_endpoint("more", backend="greet"),
        lambda: client.update_backend_config("greet", {"num_replicas": 2}),
        lambda: client.deploy("greet", lambda request: "new"),
        lambda: client.delete_endpoint("greet"),
    ):
        with pytest.raises(ServeException, match="not durable"):
            change()
    assert (client.list_endpoints(), client.list_backends()) == before
    with http_for(client) as http:
        assert http.get("/greet").text == "hello"
        (replica,) = client.status()["backends"]["greet"]["replicas"]
        psutil.Process(replica["pid"]).kill()  # its successor's code is read from there
        assert http.get("/greet").text == "hello"
    assert client.status()["backends"]["greet"]["replicas"][0]["pid"] != replica["pid"]
    controller.rlimit(psutil.RLIMIT_FSIZE, limits)
    client.create_endpoint("more", backend="greet")
    assert client.status()["controller_pid"] == controller.pid
    stop(client)
    client = start(name, state)
    assert set(client.list_endpoints()) == {"greet", "more"}
    client.shutdown()


def test_a_start_without_room(name, state, tmp_path):
    """An instance that cannot write its state does not come up, and says why (F17, IN1)."""
    code = """
import resource, sys
import pointsman as serve
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
try:
    serve.start(detached=True, name=sys.argv[1], state_dir=sys.argv[2], http_options={"port": 0},
                metrics_export_port=None)
except serve.exceptions.ServeException as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, name, str(state)], capture_output=True, text=True, timeout=2 * WAIT_S, check=False
    )
    assert str(state / "state.db") in done.stdout, done.stderr
    client = start(name, state)
    assert set(client.list_endpoints()) == {"greet"}
    client.shutdown()
