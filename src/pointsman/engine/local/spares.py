"""Processes that wait for a backend, with all of a replica imported but user code (ID5, decision 0094).

A spare becomes the replica of the next launch order that it can serve: one for its interpreter, whose environment
variables it can still take over.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from typing import NamedTuple

from pointsman.engine.orders import LaunchOrder
from pointsman.engine.process import Child, is_stopped, pack_handover
from pointsman.exceptions import TooLargeError
from pointsman.wire.handover import SpareHandover

#: A spare is started after so many seconds without a launch.
PAUSE_S = 1.0
#: Python, the loader, the C library or what is imported has read these before user code comes: another value of one
#: would have no effect any more.
READ_EARLY = ("PYTHON", "POINTSMAN_", "LD_", "MALLOC_", "GLIBC_", "LC_", "OPENSSL_", "COVERAGE_", "COV_")
READ_EARLY_TOO = ("TZ", "LANG", "LANGUAGE")


class Spare(NamedTuple):
    """A process that waits, and the read end of the pipe for its output."""

    child: Child
    output: int


class Spares:
    """The spares of an instance. They are started one by one, while nothing else is: that takes the processor for a
    while.

    Args:
        number: how many there should be.
        python: their interpreter.
        start: starts one; raises OSError if it cannot.
        after: calls a function after so many seconds.
        log: takes warnings.
        environ: the environment variables that spares start with.
    """

    def __init__(
        self,
        number: int,
        python: str,
        start: Callable[[], Spare],
        *,
        after: Callable[[float, Callable[[], None]], None],
        log: Callable[[str], None],
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._number = number
        self._python = python
        self._start = start
        self._after = after
        self._log = log
        self._environ = environ
        self._waiting: list[Spare] = []
        self._fills = 0

    def fill(self, pause_s: float = PAUSE_S) -> None:
        """Start what is missing after a pause, which begins anew each time that this is called."""
        if len(self._waiting) < self._number:
            self._fills += 1
            newest = self._fills
            self._after(pause_s, lambda: self._add() if newest == self._fills else None)

    def take(self, order: LaunchOrder) -> Spare | None:
        """Have the spare that has waited longest become the replica of a launch order; None if none can, and a process
        must be started."""
        data = self._handover(order) if self._waiting else None
        if data is None:
            return None
        for spare in list(self._waiting):
            child = spare.child
            if is_stopped(child.process.pid) or child.process.poll() is not None:
                continue
            try:
                os.write(child.lifeline, data)
            except BrokenPipeError:
                continue  # it has exited a moment ago, and is about to be reaped
            child.role, child.number = "replica", order.number
            self._waiting.remove(spare)
            return spare
        return None

    def lost(self, child: Child, pause_s: float) -> None:
        """A spare has exited; the next one is started no earlier than ``pause_s`` seconds later."""
        for spare in [spare for spare in self._waiting if spare.child is child]:
            self._waiting.remove(spare)
            os.close(spare.output)
        self.fill(max(PAUSE_S, pause_s))

    def close(self) -> None:
        """The instance ends: kill those that wait, and start no more."""
        self._number = 0
        for spare in self._waiting:
            spare.child.signal(signal.SIGKILL)

    def _add(self) -> None:
        if len(self._waiting) < self._number:
            try:
                self._waiting.append(self._start())
            except OSError as error:
                self._log(f"a spare process could not be started, and is tried again: {error}")
            self.fill()

    def _handover(self, order: LaunchOrder) -> bytes | None:
        """What makes a spare the replica of an order; None if nothing does."""
        environment = order.environment
        if environment is not None and environment.python != self._python:
            return None
        inherited = environment.over(self._environ) if environment is not None else self._environ
        wanted = {**inherited, **order.env, **order.own_env}
        changed = {name: value for name, value in wanted.items() if self._environ.get(name) != value}
        unset = tuple(name for name in self._environ if name not in wanted)
        if any(map(is_read_early, (*changed, *unset))):
            return None
        try:
            return pack_handover(SpareHandover(changed, unset, order.handover))
        except TooLargeError:
            return None


def is_read_early(variable: str) -> bool:
    """Whether a process reads an environment variable, by its name, before user code is imported."""
    return variable.startswith(READ_EARLY) or variable in READ_EARLY_TOO
