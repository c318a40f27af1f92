"""How fast a backend works its queue off. Pure: times are arguments."""

from __future__ import annotations

from math import exp

MEMORY_S = 5.0
"""What happened so many seconds ago counts a third of what happens now."""


class Pace:
    """Counts things that come to an end, and forgets them by and by.

    Args:
        now: when counting begins.
    """

    def __init__(self, now: float) -> None:
        self._since = self._last = now
        self._count = 0.0

    def note(self, now: float) -> None:
        """One more."""
        self._count = 1.0 + self._count * exp((self._last - now) / MEMORY_S)
        self._last = now

    def per_second(self, now: float) -> float:
        """The rate of late; 0 when nothing has happened."""
        memory_s = MEMORY_S * (1.0 - exp((self._since - now) / MEMORY_S))
        return self._count * exp((self._last - now) / MEMORY_S) / memory_s if memory_s > 0 else 0.0
