"""What a user expects of the figures: ``p99<50ms``, ``errors<1%``, ``rate>400``. Pure."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

LATENCIES = ("p50", "p90", "p95", "p99", "max")
SUBJECTS = (*LATENCIES, "errors", "rate")
_FORM = re.compile(r"\s*([a-z0-9]+)\s*(<=|>=|<|>)\s*(\d+(?:\.\d+)?|\.\d+)\s*(us|ms|s|%|/s)?\s*")
_COMPARES = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


class Expectation(NamedTuple):
    """One expectation.

    Attributes:
        text: as the user wrote it.
        subject: one of :data:`SUBJECTS`.
        compare: ``<``, ``<=``, ``>`` or ``>=``.
        bound: milliseconds, for errors a number or a share of all, for the rate good answers per second.
        is_share: whether the bound is a share.
    """

    text: str
    subject: str
    compare: str
    bound: float
    is_share: bool = False


def parse_expectation(text: str) -> Expectation:
    """Read an expectation.

    Raises:
        ValueError: it is none; the text says what one is.
    """
    form = _FORM.fullmatch(text)
    if form is None:
        raise ValueError(f"{text!r} is no expectation, such as p99<50ms, errors<1% or rate>400")
    subject, compare, number, unit = form[1], form[2], float(form[3]), form[4] or ""
    if subject not in SUBJECTS:
        raise ValueError(f"{text!r} expects something of {subject!r}, which is none of {', '.join(SUBJECTS)}")
    if subject in LATENCIES:
        if unit not in _MILLISECONDS:
            raise ValueError(f"{text!r} needs a unit of time: us, ms or s")
        return Expectation(text, subject, compare, number * _MILLISECONDS[unit])
    if unit not in (("", "%") if subject == "errors" else ("", "/s")):
        raise ValueError(f"{text!r}: {subject} is not counted in {unit}")
    share = unit == "%"
    return Expectation(text, subject, compare, number / 100 if share else number, share)


def missed(expectation: Expectation, report: Mapping[str, Any]) -> str:
    """How a report misses an expectation, in words; "" if it does not.

    Without a good answer every expectation of a latency is missed.
    """
    value = _value(expectation, report)
    if value is not None and _COMPARES[expectation.compare](value, expectation.bound):
        return ""
    return f"expected {expectation.text}, but {_in_words(expectation, value)}"


def _value(expectation: Expectation, report: Mapping[str, Any]) -> float | None:
    if expectation.subject in LATENCIES:
        found: float | None = report[f"{expectation.subject}_ms"]
        return found
    if expectation.subject == "rate":
        return float(report["rate"])
    failed = report["sent"] - report["ok"]
    if not expectation.is_share:
        return float(failed)
    return failed / report["sent"] if report["sent"] else None


def _in_words(expectation: Expectation, value: float | None) -> str:
    if value is None:
        return "there was no good answer"
    if expectation.subject in LATENCIES:
        return f"{expectation.subject} was {value:.4g} ms"
    if expectation.subject == "rate":
        return f"the rate was {value:.4g}/s"
    return f"errors were {100 * value:.3g}%" if expectation.is_share else f"errors were {value:.0f}"
