"""engine.local.spares: which process becomes which replica, and when others are started in its place."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from pointsman.engine.local.spares import PAUSE_S, Spare, Spares
from pointsman.engine.orders import LaunchOrder
from pointsman.engine.process import SPARE, Child, unpack_handover
from pointsman.model import Environment
from pointsman.wire.handover import SpareHandover

ENVIRON = {"PATH": "/bin", "TZ": "UTC", "HOME": "/home/me"}
HERE = Environment("caller", "/env", "python", "3.11", variables={"PATH": "/bin"})


class Process:
    """A process that does nothing."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.code: int | None = None
        self.killed = False

    def poll(self) -> int | None:
        return self.code


class FakeChild(Child):
    def signal(self, signum: int) -> None:
        self.process.killed = signum == signal.SIGKILL  # type: ignore[attr-defined]


class World:
    """A supervisor of spares only."""

    def __init__(self) -> None:
        self.pipes: list[int] = []
        self.ends: dict[int, int] = {}
        """Read end of each child's lifeline, by pid."""
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.refuses = False
        self.logged: list[str] = []
        self.started: list[Child] = []

    def spares(self, number: int) -> Spares:
        return Spares(
            number,
            "python",
            self.start,
            after=lambda pause_s, action: self.timers.append((pause_s, action)),
            log=self.logged.append,
            environ=ENVIRON,
        )

    def start(self) -> Spare:
        if self.refuses:
            raise OSError("no more processes")
        end, lifeline = os.pipe()
        output, other = os.pipe()
        self.pipes += [lifeline, output, other]
        child = FakeChild(Process(2**30 + len(self.started)), lifeline, SPARE, 0)  # type: ignore[arg-type]
        self.ends[child.process.pid] = end
        self.started.append(child)
        return Spare(child, output)

    def pass_time(self) -> list[float]:
        """Call what was to be called, and return the pauses before."""
        timers, self.timers = self.timers, []
        for _, action in timers:
            action()
        return [pause_s for pause_s, _ in timers]

    def close(self) -> None:
        for fd in (*self.pipes, *self.ends.values()):
            try:
                os.close(fd)
            except OSError:
                continue  # closed by the spares


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def order(environment: Environment | None = HERE, handover: bytes = b"h", **variables: str) -> LaunchOrder:
    return LaunchOrder(7, "m#abcdef", {"OMP_NUM_THREADS": "1"}, handover, b"", environment, own_env=variables)


def filled(world: World, number: int) -> Spares:
    spares = world.spares(number)
    spares.fill()
    for _ in range(number):
        assert world.pass_time() == [PAUSE_S]
    assert world.timers == []
    assert len(world.started) == number
    return spares


def test_a_spare_becomes_a_replica_and_another_takes_its_place(world: World) -> None:
    """The one that has waited longest becomes my replica, with its variables; a moment later there is another (ID5)."""
    spares = filled(world, 2)
    spare = spares.take(order(X="1", HOME="/tmp"))
    assert spare is not None
    child = spare.child
    assert child is world.started[0]
    assert (child.role, child.number) == ("replica", 7)
    told = unpack_handover(os.read(world.ends[child.process.pid], 65536), SpareHandover)
    assert told.variables == {"OMP_NUM_THREADS": "1", "X": "1", "HOME": "/tmp"}
    assert (told.unset, told.handover) == ((), b"h")
    spares.fill()
    spares.fill()  # another launch, which begins the pause anew
    world.pass_time()
    assert len(world.started) == 3
    assert world.timers == []


@pytest.mark.parametrize(
    "wanted",
    [
        order(Environment("virtualenv", "/other", "/other/bin/python", "3.11")),
        order(Environment("caller", "/env", "python", "3.11", unset=("TZ",))),
        order(Environment("caller", "/env", "python", "3.11", variables={"PYTHONPATH": "/lib"})),
        order(PYTHONUNBUFFERED="1"),
        order(LD_LIBRARY_PATH="/lib"),
        order(TZ="Europe/Berlin"),
        order(LC_ALL="C"),
        order(MALLOC_ARENA_MAX="2"),
        order(handover=b"h" * 60 * 1024),
    ],
    ids=["interpreter", "unset", "path", "python", "loader", "zone", "locale", "malloc", "size"],
)
def test_replicas_that_no_spare_can_become(world: World, wanted: LaunchOrder) -> None:
    """Another interpreter, or a variable that is read at the start of a process: then one is started as ever (ID5)."""
    spares = filled(world, 1)
    assert spares.take(wanted) is None
    assert world.started[0].role == SPARE
    assert spares.take(order(TZ="UTC")) is not None  # the same as it has


def test_variables_that_a_replica_shall_not_have(world: World) -> None:
    """What the environment of the replica leaves out is taken away (ID5)."""
    spares = filled(world, 1)
    spare = spares.take(order(Environment("caller", "/env", "python", "3.11", unset=("HOME",))))
    assert spare is not None
    told = unpack_handover(os.read(world.ends[spare.child.process.pid], 65536), SpareHandover)
    assert told.unset == ("HOME",)
    assert world.spares(1).take(order()) is None  # there is none yet


def test_a_spare_that_cannot_answer_is_passed_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has exited, closed its pipe or was stopped by a signal does not become a replica (ID5)."""
    spares = filled(world, 4)
    exited, closed, stopped, good = world.started
    exited.process.code = 1  # type: ignore[attr-defined]
    os.close(world.ends.pop(closed.process.pid))
    monkeypatch.setattr("pointsman.engine.local.spares.is_stopped", lambda pid: pid == stopped.process.pid)
    spare = spares.take(order())
    assert spare is not None
    assert spare.child is good
    assert spares.take(order()) is None


def test_spares_that_die_or_cannot_be_started(world: World) -> None:
    """A spare that dies is replaced after a pause, which grows; one that cannot be started is tried again (ID5)."""
    spares = filled(world, 1)
    spares.lost(world.started[0], 0.1)
    assert world.pass_time() == [PAUSE_S]
    spares.lost(world.started[1], 16.0)
    world.refuses = True
    assert world.pass_time() == [16.0]
    assert "no more processes" in world.logged[0]
    world.refuses = False
    assert world.pass_time() == [PAUSE_S]
    assert len(world.started) == 3


def test_spares_end_with_the_instance(world: World) -> None:
    """At the end those that wait are killed, and no other is started (ID5)."""
    spares = filled(world, 2)
    spare = spares.take(order())
    assert spare is not None
    spares.fill()
    spares.close()
    assert world.pass_time() == [PAUSE_S]
    assert [child.process.killed for child in world.started] == [False, True]  # type: ignore[attr-defined]


def test_none_are_started_unless_asked_for(world: World) -> None:
    """By default there are none (ID5)."""
    spares = world.spares(0)
    spares.fill()
    assert world.timers == []
    assert spares.take(order()) is None
