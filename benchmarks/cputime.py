"""CPU time of a server's processes, and of everything else: a cell during which somebody else used the machine is
measured again, whatever it found.
"""

from __future__ import annotations

import contextlib
import resource
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Protocol, TypeVar

import psutil  # type: ignore[import-untyped]

WRK = "wrk"
ROLES = {"pointsman.ingress": "ingress", "pointsman.replica": "replicas"}
OTHERS = "others"
ALL = "machine"
"""Everything that this machine's CPUs did, and what a hypervisor took from them."""

QUIET_CPUS = 0.1
TRIES = 3
LOOK_S = 0.5

Spent = defaultdict[str, float]


def spent(pid: int) -> Spent:
    """Seconds of CPU so far by role: ingress, replicas, others of the server, every ``wrk`` that has ended, and ALL."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds: Spent = defaultdict(float, {WRK: usage.ru_utime + usage.ru_stime})
    root = psutil.Process(pid)
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds[role_of(process.cmdline())] += times.user + times.system
    seconds[ALL] = busy_s()
    return seconds


def busy_s() -> float:
    """Seconds of CPU of the whole machine so far. Linux counts the time of guests twice."""
    times = psutil.cpu_times()._asdict()
    idle = sum(times.get(kind, 0.0) for kind in ("idle", "iowait", "guest", "guest_nice"))
    return float(sum(times.values()) - idle)


def per_request_us(before: Spent, after: Spent, requests: int) -> dict[str, float]:
    """By role; :data:`ALL` is left out."""
    return {role: 1e6 * (after[role] - before[role]) / max(1, requests) for role in after if role != ALL}


def foreign_s(before: Spent, after: Spent) -> float:
    """Seconds of CPU that went to what is not measured here, such as somebody else's tests."""
    ours = sum(after[role] - before[role] for role in after if role != ALL)
    return max(0.0, after[ALL] - before[ALL] - ours)


class Cell(Protocol):
    """A measurement; ``foreign_cpus`` is how many CPUs were busy meanwhile with what is not measured."""

    @property
    def foreign_cpus(self) -> float: ...


C = TypeVar("C", bound=Cell)


def is_quiet(cell: Cell) -> bool:
    return cell.foreign_cpus <= QUIET_CPUS


class Patience:
    """Waits for a machine that others use too.

    Args:
        seconds: of waiting in all; afterwards cells are taken as they come.
    """

    def __init__(self, seconds: float) -> None:
        self._left_s = seconds

    def undisturbed(self, measure: Callable[[], C]) -> C:
        """The first quiet one of a few measurements, or the least disturbed."""
        cells: list[C] = []
        while len(cells) < TRIES:
            self._wait()
            cells.append(measure())
            if is_quiet(cells[-1]) or self._left_s <= 0:
                break
        return min(cells, key=lambda cell: cell.foreign_cpus)

    def _wait(self) -> None:
        """Until the machine is idle; the server that is to be measured is up, and idle too."""
        while self._left_s > 0:
            before = busy_s()
            time.sleep(LOOK_S)
            if (busy_s() - before) / LOOK_S <= QUIET_CPUS:
                return
            self._left_s -= LOOK_S


def role_of(command: list[str]) -> str:
    """Of a process of the server, by its command line."""
    return next((role for module, role in ROLES.items() if module in command), OTHERS)
