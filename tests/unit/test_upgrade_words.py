"""What two releases say to each other in an upgrade: later releases must still read these bytes."""

from __future__ import annotations

import base64
import json
import os
import selectors
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pointsman.client.heir import needs_of
from pointsman.controller.observed import Observed
from pointsman.controller.state import Desired
from pointsman.controller.views import running
from pointsman.engine.local.upgrade import Inherited, Upgrade
from pointsman.engine.local.upgradelink import LinkLostError, RunningBackend, UpgradeLink
from pointsman.model import Capacity, Resources
from pointsman.wire.handover import InstanceSettings, SupervisorOrder
from pointsman.wire.messages import unpack
from tests.unit.reconciling import backend

RUNS = b'{"m":{"ready":1,"wanted":2,"drain_s":20.0,"num_cpus":1.0,"num_gpus":0.5,"memory":0.0,"custom":{"disk":1.0},'
RUNS += b'"replicas":[{"pid":7,"gpus":[0]}]}}'
BEGIN, YIELD = b'{"word":"begin","protocol":1}\n', b'{"word":"yield","protocol":1,"folder":"%s","drain_s":20.0}\n'
RESUME = b'{"word":"resume","protocol":1}\n'
TAKE, KEEP = b'{"word":"take","protocol":1}\n', b'{"word":"keep","protocol":1}\n'
ORDER = {
    "settings": {
        "instance": "i", "name": "shop", "master_key": b"k", "state_dir": "/s", "http": None, "ingresses": 0,
        "request_timeout_s": 60.0, "metrics": None, "log_format": "text", "client_in_replicas": True,
        "quiet_starts": False, "start_options": {"engine": "local", "locks": [], "others": []},
        "ready_when_told": False, "holds_connections": False, "spare_replicas": 0, "console": None, "generation": 3,
        "move": None, "of_a_later_release": {"a": 1},
    },
    "folder": "/f", "python": "/p", "bound": False, "capacity": {"num_cpus": 8, "num_gpus": 1, "gpu_ids": []},
    "json_lines": False, "trial": None, "of_a_later_release": 1,
}  # fmt: skip


class Host:
    """A supervisor whose controller ends when told."""

    is_ending = False

    def __init__(self) -> None:
        self.done: list[str] = []
        self.upgrade: Upgrade | None = None

    def end_controller(self, signum: int) -> bool:
        self.done.append("end")
        return False

    def start_controller(self) -> None:
        self.done.append("start")

    def ask_what_runs(self) -> None:
        self.done.append("ask")

    def use_state(self) -> None:
        self.done.append("use")

    def go_on_alone(self) -> None:
        self.done.append("alone")

    def leave(self, drain_s: float) -> None:
        self.done.append(f"leave {drain_s:g}")


class Supervisor:
    """Its part in an upgrade, and a client that writes bytes."""

    def __init__(self, folder: Path, *, trial: Capacity | None = None, pair: int = -1) -> None:
        self.host, self.selector = Host(), selectors.DefaultSelector()
        (folder / "state").mkdir(parents=True, exist_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(folder / "upgrade"))
        listener.listen()
        settings = InstanceSettings("i", "shop", b"key", str(folder / "state"))
        order = SupervisorOrder(settings, str(folder), "/p", bound=False, capacity=Capacity(), trial=trial)
        inherited = Inherited(listener, None, None, None, listener, pair, os.open("/dev/null", os.O_RDONLY))
        self.upgrade = Upgrade(
            order, inherited, host=self.host, selector=self.selector, after=self._later, log=self.host.done.append
        )
        self.upgrade.listen()
        self.client = socket.socket(socket.AF_UNIX)
        self.client.connect(str(folder / "upgrade"))

    def _later(self, _: float, action: Callable[[], None]) -> None:
        action()

    def turn(self) -> None:
        while ready := self.selector.select(0):
            for key, _ in ready:
                key.data()

    def hears(self, said: bytes) -> None:
        self.client.sendall(said)
        self.turn()

    def answer(self) -> dict[str, Any]:
        self.client.setblocking(False)
        return dict(json.loads(self.client.recv(1 << 16)))


@pytest.fixture
def old(tmp_path: Path) -> Supervisor:
    return Supervisor(tmp_path / "old")


def test_the_old_one_lends_and_gives(old: Supervisor, tmp_path: Path) -> None:
    """A later release says today's words to this one, and gets all that it needs (PK6)."""
    old.hears(BEGIN)
    assert old.host.done == ["ask"]
    assert old.upgrade.asks
    old.upgrade.lend(RUNS)
    link = UpgradeLink(old.client)
    link.connection.settimeout(1)
    answer = link.read()
    assert answer is not None
    assert {**answer, "order": 0, "environ": 0, "pid": 0, "prefix": 0, "release": 0} == {
        "ok": True, "protocol": 1, "release": 0, "pid": 0, "order": 0, "environ": 0, "prefix": 0,
        "names": ["lock", "pair"], "runs": json.loads(RUNS),
    }  # fmt: skip
    assert unpack(base64.b64decode(answer["order"]), SupervisorOrder).settings.name == "shop"
    other = socket.socket(fileno=link._descriptors.pop())
    os.close(link._descriptors.pop())
    (tmp_path / ".g.new").mkdir()
    old.hears(YIELD % str(tmp_path / ".g.new").encode())
    assert old.answer() == {"ok": True}
    other.sendall(b"kept\n")
    old.turn()
    assert old.host.done == ["ask", "end", "leave 20"]
    assert os.readlink(tmp_path / "shop") == ".g.new"


@pytest.mark.parametrize("answered", [False, True])
def test_the_old_one_takes_it_back(old: Supervisor, answered: bool) -> None:
    """Whoever upgrades goes away, or says so, before or after it was told what runs; another one may try (PK6)."""
    old.hears(BEGIN)
    if answered:
        old.upgrade.lend(RUNS)
        old.answer()
        old.hears(RESUME)
        assert old.answer() == {"ok": True}
    old.client.close()
    old.turn()
    old.upgrade.lend(RUNS)  # too late
    assert not old.upgrade.asks
    assert not old.upgrade.rests


def test_the_new_one_takes_and_keeps(tmp_path: Path) -> None:
    """The command of this release says the same to its own supervisor (PK6)."""
    ours, theirs = socket.socketpair()
    new = Supervisor(tmp_path / "new", trial=Capacity(), pair=theirs.detach())
    new.hears(TAKE)
    assert new.answer() == {"ok": True}
    new.hears(KEEP)
    assert new.answer() == {"ok": True}
    assert new.host.done == ["end", "use", "start", "alone"]
    assert ours.recv(9) == b"kept\n"


def test_an_order_of_another_release_is_read() -> None:
    """What it has more is ignored, and what it lacks has its default (PK6)."""
    order = unpack(msgspec.msgpack.encode(ORDER), SupervisorOrder)
    assert (order.settings.name, order.settings.state_dir, order.settings.generation) == ("shop", "/s", 3)
    assert (order.capacity, order.trial) == (Capacity(num_cpus=8, num_gpus=1), None)


def test_what_runs_is_read() -> None:
    """What a backend needs is the same in the words between releases; an unknown one is ignored (PK6)."""
    spec = msgspec.structs.replace(backend(tag="m"), resources=Resources(1, 0.5, 30, {"disk": 1}))
    said = running(Desired(backends={"m": spec}), Observed(Capacity()))
    [found] = msgspec.json.decode(said, type=dict[str, RunningBackend]).values()
    assert needs_of(found) == Resources(1, 0.5, 30, {"disk": 1})
    assert found.drain_s == spec.config.drain_timeout_s
    later = msgspec.convert({"ready": 1, "mood": "fine", "replicas": [{"pid": 7}]}, RunningBackend)
    assert (later.ready, later.replicas[0].pid, needs_of(later)) == (1, 7, Resources(0))


@pytest.mark.parametrize(
    "line",
    [
        b'{"word":"dance"}',
        b'{"word":["begin"]}',
        b'{"word":"take"}',
        b'{"word":"yield"}',
        b'{"word":"yield","folder":"/anywhere/.g.new","drain_s":"much"}',
        b'{"word":"yield","folder":7,"drain_s":1}',
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_words_that_make_no_sense(old: Supervisor, line: bytes) -> None:
    """A word that this release does not know, or cannot read, is refused, and the instance goes on (PK6)."""
    link = UpgradeLink(old.client)
    if b"yield" in line:
        old.hears(BEGIN)
        old.upgrade.lend(RUNS)
        assert link.read() is not None
    old.client.settimeout(10)
    old.hears(line + b"\n")
    try:
        answer = link.read() or {}
    except LinkLostError:
        pass  # it has no word, and the connection is closed
    else:
        assert (answer["ok"], answer["busy"]) == (False, False)
    link.close()
    old.turn()
    assert old.host.done in ([], ["ask"])
    assert not old.upgrade.rests


def test_a_large_environment_that_is_no_text(old: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance that was started with megabytes of variables, one of them no UTF-8, is taken over, too (PK6)."""
    monkeypatch.setenv("LATIN", "\udce9")
    monkeypatch.setenv("LONG", "x" * 1_100_000)
    old.hears(BEGIN)
    answering = threading.Thread(target=old.upgrade.lend, args=(RUNS,))
    answering.start()
    link = UpgradeLink(old.client)
    old.client.settimeout(10)
    while (answer := link.read()) is None:
        pass
    answering.join()
    link.close()
    assert (answer["environ"]["LATIN"], len(answer["environ"]["LONG"])) == ("\udce9", 1_100_000)


def test_the_old_one_was_killed_at_the_last_step(tmp_path: Path) -> None:
    """Nobody else has the instance then: the new one keeps it, and the copy of the state goes (PK6)."""
    ours, theirs = socket.socketpair()
    new = Supervisor(tmp_path / "new", trial=Capacity(), pair=theirs.detach())
    (tmp_path / "new" / "state.db").touch()
    new.hears(TAKE)
    new.answer()
    ours.close()
    new.hears(KEEP)
    assert new.answer() == {"ok": True}
    assert new.host.done[-1] == "alone"
    assert not (tmp_path / "new" / "state.db").exists()
