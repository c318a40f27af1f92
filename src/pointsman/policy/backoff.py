"""Exponential backoff before a failed process is started again. Pure: times are arguments."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple


class Backoff(NamedTuple):
    """No wait after the first failure in a row, then ``first_s`` seconds, then twice as long each time.

    Attributes:
        last_s: the longest wait.
    """

    first_s: float
    last_s: float

    def after(self, failures: int) -> float:
        """The wait in seconds after so many failures in a row."""
        return 0.0 if failures <= 1 else min(self.last_s, self.first_s * 2.0 ** min(failures - 2, 30))


class Restarts:
    """Counts the exits of processes that are always restarted, each by its key.

    Args:
        backoff: the waits after exits in a row.
        steady_s: the exit of a process that lived longer begins a new count, so it is restarted at once.
    """

    def __init__(self, backoff: Backoff, steady_s: float) -> None:
        self._backoff = backoff
        self._steady_s = steady_s
        self._failures: dict[Hashable, int] = {}

    def __contains__(self, key: Hashable) -> bool:
        """True if the process has exited before."""
        return key in self._failures

    def after(self, key: Hashable, lived_s: float) -> float:
        """Count an exit. Returns the wait in seconds before the restart."""
        failures = self._failures[key] = 1 if lived_s > self._steady_s else self._failures.get(key, 0) + 1
        return self._backoff.after(failures)

    def forget(self, key: Hashable) -> None:
        """Drop the count of a process that is not wanted any more."""
        self._failures.pop(key, None)
