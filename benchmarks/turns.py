"""Servers that take turns under load: each has a ``wrk`` of its own, and all but one of these are stopped.

On a machine whose speed changes from second to second, two loads of some seconds each say more about the machine than
about the servers. Here the turn goes on every third of a second (SIGSTOP and SIGCONT), so what disturbs one disturbs
the next. Connections stay open; whoever is not loaded is idle a moment after the last answer.
"""

from __future__ import annotations

import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import wrk

SLICE_S = 0.3
FIRST_S = 0.1
"""What the first turn takes, in which connections are made."""


class Turns(msgspec.Struct, frozen=True):
    """What one server did in all of its turns."""

    requests: int
    seconds: float
    failed: int

    @property
    def requests_per_s(self) -> float:
        return self.requests / self.seconds


def measure(urls: Sequence[str], *, connections: int, seconds: float, seed: int) -> list[Turns]:
    """Load all of them in turn.

    Args:
        seconds: for each.
        seed: for the order, which is another one in each cycle.

    Raises:
        RuntimeError: a ``wrk`` failed, or printed no result.
    """
    cycles = max(1, round(seconds / SLICE_S))
    whole_s = round(len(urls) * (FIRST_S + cycles * SLICE_S)) + 1
    order, chance = list(range(len(urls))), random.Random(seed)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pointsman-bench-"))
        script = Path(folder, "load.lua")
        script.write_text(wrk.SCRIPT)
        commands = (wrk.command(str(script), url, connections=connections, seconds=whole_s) for url in urls)
        loads = [stack.enter_context(_Load(command, whole_s)) for command in commands]
        for _ in range(cycles):
            chance.shuffle(order)
            for number in order:
                loads[number].run_for(SLICE_S)
        return [load.end() for load in loads]


class _Load:
    """A ``wrk`` that stands still between its turns. Its own clock runs from the first of them on."""

    def __init__(self, command: list[str], seconds: int) -> None:
        self._command, self._seconds = command, seconds
        self._active_s = 0.0

    def __enter__(self) -> _Load:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._ends_at = time.perf_counter() + self._seconds + FIRST_S
        self.run_for(FIRST_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def run_for(self, seconds: float) -> None:
        """One turn."""
        began = time.perf_counter()
        self._process.send_signal(signal.SIGCONT)
        time.sleep(seconds)
        self._process.send_signal(signal.SIGSTOP)
        self._active_s += time.perf_counter() - began

    def end(self) -> Turns:
        """Let it see that its time is over, and print what it has counted."""
        time.sleep(max(0.0, self._ends_at - time.perf_counter()))
        began = time.perf_counter()
        self._process.send_signal(signal.SIGCONT)
        output, _ = self._process.communicate(timeout=30)
        self._active_s += time.perf_counter() - began
        load = msgspec.json.decode(wrk.result_of(self._command, output), type=wrk.Load)
        return Turns(load.requests, self._active_s, load.not_ok + load.socket_errors)
