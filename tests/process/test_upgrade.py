"""Another release of Pointsman takes over an instance that runs, under load: all of it, or nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import pointsman as serve
from pointsman.engine.local.folder import InstanceFolder
from pointsman.engine.local.upgradelink import UpgradeLink
from tests.chaos.checks import nothing_but
from tests.chaos.load import Load
from tests.chaos.models import Worker
from tests.conftest import PURE_ONLY, WAIT_S, wait_until
from tests.process.test_cli import fails, pointsman, start_detached
from tests.properties import PROFILE

RATE = 150.0
SHOP = "shop"
NEW = "9.9.9"
COMMAND = "from pointsman.cli.main import main; main()"
KILLED_LATE = "import os; from pointsman.client import heir; heir.Heir.keep = lambda self: os.kill(os.getpid(), 9)"


class Picky:
    """Its constructor does not like the new release when it was told so."""

    def __init__(self, dislikes: str) -> None:
        if serve.__version__ == dislikes:
            raise RuntimeError(f"the weights were not made for release {dislikes}")

    def __call__(self, request: serve.Request) -> str:
        return serve.__version__


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serve.Client]:
    """A detached instance with a state folder and two replicas, and room for two more."""
    state = tmp_path_factory.mktemp("upgrade") / "state"
    start_detached(SHOP, "--state-dir", str(state), "--num-cpus", "6", "--resource", "disk=1")
    client = serve.connect(SHOP)
    client.deploy("w", Worker, str(tmp_path_factory.mktemp("truth")), route="/w", config={"num_replicas": 2})
    yield client
    assert pointsman("shutdown", "--name", SHOP).returncode == 0
    assert not (state / "before-upgrade").exists()


@pytest.fixture(scope="module")
def new_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where another release of this package is installed."""
    return release_in(tmp_path_factory.mktemp("new"))


@pytest.fixture(scope="module")
def other_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one, whose processes do not understand those of this one."""
    folder = release_in(tmp_path_factory.mktemp("other"))
    frames = folder / "pointsman" / "wire" / "frames.py"
    frames.write_text(frames.read_text().replace("PROTOCOL_VERSION = ", "PROTOCOL_VERSION = 100 + "))
    return folder


def release_in(folder: Path) -> Path:
    shutil.copytree(Path(serve.__file__).parent, folder / "pointsman", ignore=shutil.ignore_patterns("__pycache__"))
    version = folder / "pointsman" / "version.py"
    version.write_text(version.read_text().replace(f'VERSION = "{serve.__version__}"', f'VERSION = "{NEW}"'))
    return folder


def start_upgrade(release: Path, code: str = COMMAND) -> subprocess.Popen[str]:
    """Start `pointsman upgrade` of that release, with JSON."""
    return subprocess.Popen(
        [sys.executable, "-c", code, "upgrade", "--name", SHOP, "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/",
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(release), str(Path(__file__).parents[2])])},
    )  # fmt: skip


def upgrade_to(release: Path, code: str = COMMAND) -> subprocess.CompletedProcess[str]:
    """The same, until it has ended."""
    process = start_upgrade(release, code)
    output, errors = process.communicate(timeout=WAIT_S)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def port_of(client: serve.Client) -> int:
    return int(str(client.http_address).rsplit(":", 1)[1])


def supervisor() -> psutil.Process:
    [found] = [one for one in json.loads(pointsman("list", "--json").stdout) if one["name"] == SHOP]
    return psutil.Process(found["pid"])


def state_of(client: serve.Client) -> dict[str, Any]:
    """What must be the same afterwards."""
    status = client.status()
    return {
        "endpoints": client.list_endpoints(),
        "backends": {tag: (view["code"], view["digest"]) for tag, view in status["backends"].items()},
        "config": {tag: client.get_backend_config(tag) for tag in status["backends"]},
        "history": client.history(),
    }


def test_one_that_cannot_come_up(shop: serve.Client, other_release: Path) -> None:
    """A backend does not start with the new release: I am told which and why, and all is as before; no request has
    noticed anything, nor that the command was killed when it had begun to take over; however differently the processes
    of both releases talk (PK6)."""
    before, started = state_of(shop), supervisor()
    shop.deploy("picky", Picky, NEW, route="/picky")
    with Load(port_of(shop), "/w", rate=RATE, seed=1) as load:
        failed = upgrade_to(other_release)
        assert failed.returncode == 5, failed.stderr
        said = json.loads(failed.stdout)
        assert said["backend"] == "picky"
        assert "the weights were not made for release 9.9.9" in said["traceback"]
        shop.delete_endpoint("picky")
        shop.delete_backend("picky")
        load.goes_on(20)

        controller = shop.status()["controller_pid"]
        assert upgrade_to(other_release, code=f"{KILLED_LATE}; {COMMAND}").returncode == -signal.SIGKILL
        wait_until(lambda: shop.status()["controller_pid"] != controller, what="the old controller is back")
        wait_until(lambda: len(own_folders()) == 1, what="nothing is left of the new one")
        load.goes_on(20)
    assert [*nothing_but(load.history, "delivered")] == []
    assert supervisor() == started
    assert shop.status()["release"] == serve.__version__
    now = state_of(shop)
    assert now.pop("history")[: len(before["history"])] == before.pop("history")
    assert now == before


END_CONTROLLER = """
for controller in psutil.Process({pid}).children():
    if "pointsman.controller" in controller.cmdline():
        controller.kill()
        controller.wait(10)
"""
KILLS: dict[str, tuple[str, str, int]] = {
    "the command, while it loads": ("wait_until_up", "os.kill(os.getpid(), 9)", -signal.SIGKILL),
    "Ctrl-C, while it loads": ("wait_until_up", "os.kill(os.getpid(), 2)", 130),
    "the new supervisor, while it loads": ("wait_until_up", "os.kill(self._process.pid, 9)", 5),
    "the new supervisor, when it has taken over": ("keep", "os.kill(self._process.pid, 9)", 5),
    "the new controller, when it has taken over": ("keep", END_CONTROLLER.format(pid="self._process.pid"), 5),
}


@pytest.mark.skipif(PROFILE == "gate", reason="takes a quarter of a minute each: make test-long has it")
@pytest.mark.parametrize("what", KILLS)
def test_killed_at_every_step(what: str, shop: serve.Client) -> None:
    """Whatever of an upgrade is killed, and when: the old release goes on as before, and no request notices (PK6)."""
    method, body, code = KILLS[what]
    program = (
        f"import os, psutil\nfrom pointsman.client.heir import Heir\nusual = Heir.{method}\n"
        f"def and_then(self, *given):\n{textwrap.indent(body.strip(), '    ')}\n    return usual(self, *given)\n"
        f"Heir.{method} = and_then\n{COMMAND}"
    )
    started = supervisor()
    with Load(port_of(shop), "/w", rate=RATE, seed=3) as load:
        done = upgrade_to(Path(serve.__file__).parents[1], code=program)
        assert done.returncode == code, done.stderr
        wait_until(lambda: len(own_folders()) == 1, what="nothing is left of the new one")
        shop.update_backend_config("w", {"max_queued_queries": shop.get_backend_config("w").max_queued_queries + 1})
        load.goes_on(50)
    assert [*nothing_but(load.history, "delivered")] == []
    assert supervisor() == started


def own_folders() -> list[Path]:
    return [*InstanceFolder.of(SHOP).path.parent.glob(".g.????????")]


def test_no_room_for_both(shop: serve.Client) -> None:
    """Both releases do not fit beside each other: I am told before anything is started, and what is missing (PK6)."""
    shop.create_backend("d", Picky, "", ray_actor_options={"resources": {"disk": 1}})
    try:
        refused = fails("upgrade", "--name", SHOP)
    finally:
        shop.delete_backend("d")
    assert refused.returncode == 1
    assert "no room for both releases" in refused.stderr
    assert "disk=1" in refused.stderr


def test_two_at_once(shop: serve.Client) -> None:
    """Somebody else is upgrading already: mine is refused, and theirs goes on (PK6)."""
    theirs = UpgradeLink.to(str(InstanceFolder.of(SHOP).upgrade_socket))
    _, descriptors = theirs.ask("begin", timeout_s=WAIT_S)
    refused = fails("upgrade", "--name", SHOP)
    theirs.close()
    for descriptor in descriptors:
        os.close(descriptor)
    assert refused.returncode == 4
    assert "another upgrade" in refused.stderr


@PURE_ONLY
def test_a_new_release_takes_over(shop: serve.Client, new_release: Path) -> None:
    """Under load a new release takes over: no request is refused, lost or failed, by HTTP or by the handle of a script
    that has been connected all the time, and what I change meanwhile is in force afterwards (PK6, CL5)."""
    started, handle = supervisor(), shop.get_handle("w")
    before = state_of(shop)
    processes = started.children()
    with Load(port_of(shop), "/w", rate=RATE, seed=2) as load:
        upgrade = start_upgrade(new_release)
        limit = 100
        while upgrade.poll() is None:
            limit += 1
            shop.update_backend_config("w", {"max_queued_queries": limit})
            for _ in range(10):
                assert handle.remote().result(timeout=WAIT_S)
        output, errors = upgrade.communicate()
        assert (upgrade.returncode, errors) == (0, "")
        load.goes_on(50)
        wait_until(lambda: not started.is_running(), what="the old one has ended")
        load.goes_on(50)
    said = json.loads(output)
    assert (said["from"], said["to"], said["failing"]) == (serve.__version__, NEW, [])
    assert [*nothing_but(load.history, "delivered")] == []
    assert not [one for one in processes if one.is_running()]
    assert shop.status()["release"] == NEW == serve.connect(SHOP).status()["release"]
    assert supervisor() != started
    [folder] = own_folders()
    assert [*folder.glob("state.db*")] == []
    now = state_of(shop)
    assert now["config"].pop("w").max_queued_queries == limit
    assert now["endpoints"] == before["endpoints"]
    assert now["backends"] == before["backends"]
    versions = [change["version"] for change in now["history"]]
    assert versions == sorted(versions)


def test_what_cannot_be_taken_over(name: str) -> None:
    """An instance without stored state, or of a release that cannot hand over, is refused, with what to do (PK6)."""
    folder = InstanceFolder.of(name)
    lock = folder.create()
    about = {"instance": "i", "name": name, "pid": 1, "http_host": None, "http_port": 0}
    about |= {"request_timeout_s": 1.0, "ingresses": 0}
    try:
        for release, why in (("", "an older release"), ("0.1.0", "no --state-dir")):
            folder.write("about", json.dumps({**about, "release": release}).encode())
            refused = fails("upgrade", "--name", name)
            assert (refused.returncode, refused.stdout) == (2, "")
            assert why in refused.stderr
            assert "start it again" in refused.stderr
    finally:
        os.close(lock)
        folder.remove()
