"""Actors that should be there for as long as the instance is, each on a node of its own choosing: started, watched, and
started again after pauses that grow. What they are, ``ingresses`` and ``exporters`` say."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping

from pointsman.engine.ray.actors import Actors, Ending, Wanted

RESTART_FIRST_S = 0.1
RESTART_LAST_S = 10.0
STEADY_S = 5.0
"""One that lived this long is started again without delay."""


class Standing(ABC):
    """The actors of one kind.

    Args:
        actors: makes and watches them.
        prefix: what their names begin with, and those of no other kind.
        introduce: whether those that an earlier controller has made are asked who they are.
    """

    def __init__(self, actors: Actors, prefix: str, *, introduce: bool = False) -> None:
        self._actors = actors
        self._introduce = introduce
        self._prefix = prefix
        self._loop = asyncio.get_running_loop()
        self._nodes: dict[str, str] = {}
        """Name -> its node: all that are wanted."""
        self._begun: dict[str, float] = {}
        self._failures: dict[str, int] = {}

    @property
    def wanted(self) -> Collection[str]:
        """Names of all that there should be."""
        return self._nodes.keys()

    def node_of(self, name: str) -> str:
        """The node of one that should live; empty for any other actor."""
        return self._nodes.get(name, "")

    @abstractmethod
    def make(self, name: str, node: str) -> Wanted:
        """What is to be started."""

    def adopt(self, living: Collection[str]) -> None:
        """Take over those that an earlier controller has started."""
        for name in living:
            if name.startswith(self._prefix):
                self._actors.adopt(name, introduce=self._introduce)

    def want(self, wanted: Mapping[str, str]) -> None:
        """Start what is missing of these, by name and node; end the others."""
        gone, self._nodes = self._nodes.keys() - wanted.keys(), dict(wanted)
        for name in gone:
            self._failures.pop(name, None)
            self._actors.kill(name)
        for name in wanted:
            if not self._actors.is_known(name) and name not in self._failures:
                self._start(name)

    def ended(self, name: str, ending: Ending, *, restart: bool) -> bool:
        """An actor has ended; True when it was one of these that should live, which is then started again."""
        if name not in self._nodes:
            return False
        steady = self._loop.time() - self._begun.get(name, 0.0) > STEADY_S
        failures = self._failures[name] = 0 if steady else self._failures.get(name, -1) + 1
        delay_s = 0.0 if not failures else min(RESTART_LAST_S, RESTART_FIRST_S * 2 ** (failures - 1))
        if restart:
            self._loop.call_later(delay_s, self._start, name)
        return True

    def _start(self, name: str) -> None:
        node = self._nodes.get(name)
        if node is None or self._actors.is_known(name):
            return
        self._begun[name] = self._loop.time()
        self._actors.start(self.make(name, node))
