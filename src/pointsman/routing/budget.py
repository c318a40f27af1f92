"""How many warnings of one kind may be logged: under overload a line per refused request would be a second overload."""

from __future__ import annotations

WARNINGS_PER_SECOND = 10


class WarningBudget:
    """Counts warnings per kind and second. Pure: the time is an argument.

    Args:
        per_second: warnings of one kind that may be logged in a second.
    """

    def __init__(self, *, per_second: int = WARNINGS_PER_SECOND) -> None:
        self._per_second = per_second
        self._windows: dict[str, tuple[float, int]] = {}

    def take(self, kind: str, now: float) -> int | None:
        """Ask to log one warning.

        Returns:
            None when it must not be logged; otherwise how many were held back in the window before (mostly 0).
        """
        start, count = self._windows.get(kind, (now, 0))
        held_back = 0
        if now - start >= 1.0:
            held_back = max(0, count - self._per_second)
            start, count = now, 0
        self._windows[kind] = (start, count + 1)
        return held_back if count < self._per_second else None
