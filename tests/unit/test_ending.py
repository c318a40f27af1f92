"""engine.local.ending: in which order the processes of an instance end."""

from __future__ import annotations

from signal import SIGINT, SIGKILL, SIGTERM
from typing import Any, cast

from pointsman.engine.local.ending import Ending


class Process:
    """Stands for a child of the supervisor."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.signals: list[int] = []

    def signal(self, signum: int) -> None:
        self.signals.append(signum)


class Family:
    """The processes of an instance, and its end."""

    def __init__(self, *roles: str) -> None:
        self.there = {role: Process(role) for role in roles}
        self.timers: list[float] = []
        self.ending = Ending(
            lambda: cast(Any, list(self.there.values())), lambda after_s, _: self.timers.append(after_s)
        )

    def exits(self, role: str) -> None:
        del self.there[role]
        self.ending.advance()

    @property
    def told(self) -> dict[str, list[int]]:
        return {role: process.signals for role, process in self.there.items() if process.signals}


EVERYBODY = ("ingress", "console", "replica", "controller")


def test_the_console_shows_the_drain() -> None:
    """I stop an instance and look at its page: it is there until requests and replicas are done (AD1, IN10)."""
    family = Family(*EVERYBODY)
    assert not family.ending.has_begun
    family.ending.begin(20.0, delay_s=5.0)
    assert family.told == {"ingress": [SIGTERM]}
    family.exits("ingress")
    assert family.told == {"replica": [SIGTERM]}
    family.exits("replica")
    assert family.told == {"console": [SIGTERM], "controller": [SIGTERM]}
    family.exits("controller")
    assert not family.ending.is_over
    family.exits("console")
    assert family.ending.is_over
    assert family.timers == [25.0, 20.0, 1.5]


def test_whoever_is_slow_is_killed() -> None:
    """A console that does not end holds nobody up: what has had its time is killed, and the end goes on (AD1, IN10)."""
    family = Family(*EVERYBODY)
    family.ending.begin(0.0)
    family.ending.advance()
    assert family.there["ingress"].signals == [SIGINT, SIGKILL]
    assert family.there["replica"].signals == [SIGTERM, SIGKILL]
    assert family.told.keys() == set(EVERYBODY)
    family.ending.hurry()
    assert family.there["console"].signals == [SIGTERM, SIGKILL]


def test_a_second_stop_hurries_the_first() -> None:
    """A second signal shortens the drain that runs, and servers accept no more (IN12)."""
    family = Family(*EVERYBODY)
    family.ending.begin(20.0, delay_s=5.0)
    family.ending.begin(1.0)
    assert family.told == {"ingress": [SIGTERM, SIGINT]}
    assert family.timers == [25.0, 1.0]
    family.exits("ingress")
    assert family.timers == [25.0, 1.0, 1.0]
