"""What users may write for a deadline."""

from __future__ import annotations

import numbers
from typing import Any


def check_timeout(timeout_s: Any, what: str) -> float | None:
    """A deadline in seconds, or None.

    Raises:
        TypeError: not a number.
        ValueError: not finite, or not above 0.
    """
    if timeout_s is None:
        return None
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, numbers.Real):
        raise TypeError(f"{what} must be a number of seconds or None, not {timeout_s!r}")
    try:
        seconds = float(timeout_s)
    except OverflowError:
        seconds = float("inf")
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{what} must be a finite number of seconds above 0, not {timeout_s!r}")
    return seconds
