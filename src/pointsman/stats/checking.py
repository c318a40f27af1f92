"""What all of ``stats`` has in common: checks of arguments, states of gates, and sums of exponentials. Each error is
one sentence, and the author of the call is at fault."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping, Sequence
from math import exp, inf, isfinite, log
from typing import Any


def check_number(value: Any, name: str) -> float:
    """A finite number; returns it as a float.

    Raises:
        TypeError: not a number.
        ValueError: NaN, infinite, or too large for a float.
    """
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = inf
    if not isfinite(number):
        raise ValueError(f"{name} must be a finite number, not {value!r}")
    return number


def check_positive(value: Any, name: str) -> float:
    """A finite number above 0; errors as :func:`check_number`."""
    number = check_number(value, name)
    if number <= 0:
        raise ValueError(f"{name} must be above 0, not {value!r}")
    return number


def check_not_negative(value: Any, name: str) -> float:
    """A finite number of 0 or more; errors as :func:`check_number`."""
    number = check_number(value, name)
    if number < 0:
        raise ValueError(f"{name} must be 0 or more, not {value!r}")
    return number


def check_between(value: Any, name: str) -> float:
    """A number above 0 and below 1, such as ``alpha``; errors as :func:`check_number`."""
    number = check_number(value, name)
    if not 0 < number < 1:
        raise ValueError(f"{name} must be above 0 and below 1, not {value!r}")
    return number


def check_count(value: Any, name: str) -> int:
    """A whole number of 0 or more; returns it as an int. 3.0 is one.

    Raises:
        TypeError: not a number.
        ValueError: negative, NaN, or not whole.
    """
    if type(value) is not int:  # hot: most counts are, and each look at a gate has four of them
        number = check_number(value, name)
        if number != int(number):
            raise ValueError(f"{name} must be a whole number, not {value!r}")
        value = int(value)
    if value < 0:
        raise ValueError(f"{name} must be 0 or more, not {value!r}")
    return int(value)


def check_events(n: Any, events: Any, arm: str) -> tuple[int, int]:
    """How many requests an arm had, and how many of them were events.

    Raises:
        TypeError: not numbers.
        ValueError: no counts, or more events than requests.
    """
    n, events = check_count(n, f"{arm}n"), check_count(events, f"{arm}events")
    if events > n:
        raise ValueError(f"{arm}events must be at most {arm}n, and {events} is more than {n}")
    return n, events


def log_mean_exp(logs: Sequence[float]) -> float:
    """``log(mean(exp(x) for x in logs))``, of numbers of any size."""
    top = max(logs)
    return top + log(sum([exp(x - top) for x in logs]) / len(logs))


def read_state(state: Mapping[str, Any], kind: str, fields: Iterable[str]) -> list[Any]:
    """The values of a gate's state, in the order of ``fields``.

    Raises:
        ValueError: it is no state of this kind of gate.
    """
    fields = list(fields)
    if not isinstance(state, Mapping) or state.get("kind") != kind or set(state) != {"kind", *fields}:
        raise ValueError(f"state must be what {kind}.state() returned, not {state!r:.200}")
    return [state[field] for field in fields]


def read_logs(logs: Any, count: int, kind: str) -> list[float]:
    """The logarithms in a gate's state, one for each of its ``count`` bets.

    Raises:
        TypeError, ValueError: they are none.
    """
    if not isinstance(logs, (list, tuple)) or len(logs) != count:
        raise ValueError(f"logs in the state of a {kind} must be {count} numbers, not {logs!r:.200}")
    return [check_number(value, "logs") for value in logs]
