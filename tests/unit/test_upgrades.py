"""What an upgrade decides before it starts anything: whether there is room, and which environment backends have."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from pointsman.client.heir import Heir, Lent, TakenBackError, environment_of
from pointsman.client.upgraderoom import NoRoomError, check_memory, check_room, share_capacity
from pointsman.controller.moving import moved
from pointsman.controller.state import CameUp, Desired, Fallback
from pointsman.engine.local.upgradelink import LinkLostError, UpgradeLink
from pointsman.model import CALLER, Allocation, BackendSpec, Capacity, Environment, Move, Origin, Resources
from pointsman.usercode.paths import python_path
from pointsman.wire.handover import InstanceSettings, SupervisorOrder
from pointsman.wire.views import BackendView, FailureView
from tests.unit.reconciling import backend


def test_a_gpu_in_use_is_not_given_twice() -> None:
    """The new release gets the GPUs that no replica holds, not even a share of; afterwards it has all, by the same
    numbers (PK6)."""
    capacity = Capacity(num_cpus=8, num_gpus=4, memory=100, custom={"disk": 2}, gpu_ids=("a", "b", "c", "d"))
    held = [
        Allocation(Resources(num_cpus=2, num_gpus=0.5, memory=30, custom={"disk": 1}), (0,)),
        Allocation(Resources(num_gpus=1), (2,)),
    ]
    whole, free = share_capacity(capacity, held)
    assert (whole.num_gpus, whole.gpu_ids) == (4, ("b", "d", "a", "c"))
    assert (free.num_gpus, free.gpu_ids[:2]) == (2, ("b", "d"))
    assert (free.num_cpus, free.memory, free.custom) == (5, 70, {"disk": 1})
    check_room(free, {"m": (Resources(num_gpus=1), 2)})
    with pytest.raises(NoRoomError, match=r"backend 'm' needs 3 x .*num_gpus=1.*once more"):
        check_room(free, {"m": (Resources(num_gpus=1), 3)})


def test_gpus_without_names_get_some() -> None:
    """Where GPUs are only counted, their numbers are their names (PK6)."""
    whole, free = share_capacity(Capacity(num_gpus=2), [Allocation(Resources(num_gpus=1), (0,))])
    assert (whole.gpu_ids, free.num_gpus, free.num_cpus) == (("1", "0"), 1, None)


def test_memory_must_be_there_once_more() -> None:
    """What running replicas have for themselves is needed once more, where the machine says what is left (PK6)."""
    check_memory(100, None)
    check_memory(100, 100)
    with pytest.raises(NoRoomError, match="use 300 MB of memory, and 200 MB are left"):
        check_memory(300_000_000, 200_000_000)


OLD = Environment(CALLER, "/old", "/old/bin/python", "3.11.7", {"PYTHONPATH": "/src-old"})
NEW = Environment(CALLER, "/new", "/new/bin/python", "3.11.9")
MOVE = Move("/old", NEW, ("/src-old",))


def in_environment(environment: Environment | None) -> BackendSpec:
    path = ("/home/me", "/src-old", "/old/lib/python3.11/site-packages", "/older")
    return msgspec.structs.replace(backend(tag="m"), origin=Origin("/home/me", path, environment))


def test_backends_move_with_the_release() -> None:
    """A backend that was sent from the environment of the old release runs in that of the new one; a change of it that
    is taken back does, too (PK6)."""
    spec = in_environment(OLD)
    state = moved(Desired(backends={"m": spec}, fallbacks={"m": Fallback(spec), "n": Fallback(None)}), MOVE)
    expected = Origin("/home/me", ("/home/me", "/older"), NEW)
    assert state.backends["m"].origin == expected == state.fallbacks["m"].spec.origin  # type: ignore[union-attr]
    assert state.backends["m"].version == spec.version
    assert moved(state, MOVE) is state


def test_what_is_sent_later_stays_where_it_was_sent_from() -> None:
    """Somebody deploys from the old environment after the upgrade: a controller that starts again leaves it there
    (PK6)."""
    state = Desired(backends={"m": in_environment(OLD)}, came_up={"the new start": CameUp()})
    assert moved(state, MOVE) is state


@pytest.mark.parametrize(
    "environment",
    [
        None,
        Environment("virtualenv", "/old", "/old/bin/python", "3.11.7"),
        Environment(CALLER, "/elsewhere", "/elsewhere/bin/python", "3.11.7"),
        Environment(CALLER, "/old", "/old/bin/python", "3.10.1"),
    ],
)
def test_others_stay_where_they_are(environment: Environment | None) -> None:
    """A backend with an environment of its own, from elsewhere or on another Python, stays there (PK6)."""
    state = Desired(backends={"m": in_environment(environment)})
    assert moved(state, MOVE) is state
    assert moved(state, None) is state


def test_variables_are_the_old_ones(tmp_path: Path) -> None:
    """Models find the variables that the instance was started with; the shell that upgrades adds where the new release
    is, and takes away where the old one was (PK6)."""
    (tmp_path / "pointsman").mkdir()
    (tmp_path / "pointsman" / "__init__.py").touch()
    old = {"HUB": "x", "PATH": "/old/bin", "PYTHONPATH": os.pathsep.join([str(tmp_path), "/mine"])}
    new = environment_of(old, {"HUB": "y", "PATH": "/new/bin", "EXTRA": "z"})
    assert (new["HUB"], new["PATH"], "EXTRA" in new) == ("x", "/new/bin", False)
    own = [entry for entry in python_path().split(os.pathsep) if entry]
    assert new["PYTHONPATH"].split(os.pathsep) == [*own, *(["/mine"] if "/mine" not in own else [])]


def heir_of(link: socket.socket) -> Heir:
    settings = InstanceSettings("i", "shop", b"k", "/state")
    order = SupervisorOrder(settings, "/f", "/p", bound=False, capacity=Capacity())
    return Heir(Lent(order, "1", "/old", {}, {}, {}), show=print, old=UpgradeLink(link))


def test_an_http_server_that_does_not_start_is_no_wait() -> None:
    """The supervisor has written why the new release does not come up: that is said at once, of the state that I know
    and not of its copy, though its controller answers on (PK6)."""
    ours, theirs = socket.socketpair()
    heir = heir_of(ours)
    os.close(heir.folder.create())
    heir.folder.write("refused", f"{heir.folder.path}/state.db cannot be read".encode())
    with pytest.raises(TakenBackError, match=r"^/state/state\.db cannot be read$") as caught:
        heir.wait_until_up(600)
    assert heir.explained(caught.value).runs_on
    heir.end()
    assert not heir.folder.path.exists()
    ours.close()
    theirs.close()


def test_the_old_instance_is_stopped_meanwhile() -> None:
    """Somebody stops the instance while the new release loads: that ends the upgrade at once, and nobody says that the
    instance runs on (PK6)."""
    ours, theirs = socket.socketpair()
    heir = heir_of(ours)
    assert heir.explained(TimeoutError("too slow")).runs_on
    theirs.close()
    with pytest.raises(LinkLostError) as caught:
        heir.wait_until_up(600)
    error = heir.explained(caught.value)
    assert (error.runs_on, "has ended" in str(error)) == (False, True)
    heir.end()
    ours.close()


def test_what_was_deployed_meanwhile_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend was deployed while the new release loaded: it is ready there, too, before requests come; one that
    fails holds nothing up (PK6)."""
    ours, theirs = socket.socketpair()
    heir, fails = heir_of(ours), FailureView("crashed", "", "", 1)
    views = {tag: BackendView(backend(tag=tag), "UPDATING", 0, why, (), wanted=2) for tag, why in
             {"new": None, "bad": fails}.items()}  # fmt: skip
    monkeypatch.setattr("pointsman.client.heir.ask", lambda *_: None)
    monkeypatch.setattr(UpgradeLink, "to", lambda _: UpgradeLink(theirs))
    monkeypatch.setattr(heir, "_status", lambda _: SimpleNamespace(backends=views, ingresses=()))
    monkeypatch.setattr("pointsman.client.heir.TAKE_OVER_S", 0.0)
    with pytest.raises(TimeoutError, match=r"new: 0/2 replicas ready$"):
        heir.take_over()
    heir.end()
    ours.close()
