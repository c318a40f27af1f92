"""The plan of a rollout, checked (RO2), and with all options of its gates (RO4). Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import msgspec

from pointsman.model.rollout import LARGEST, MOST_STEPS, RolloutPlan
from pointsman.telemetry.collector import METRIC_NAME

ERROR_RATE, LATENCY, MISMATCH, METRICS, HEALTH = "error_rate", "latency", "mismatch", "metrics", "health"
DEFAULT_GATES: dict[str, dict[str, Any]] = {ERROR_RATE: {}, LATENCY: {}, HEALTH: {}}
BURST_S = "burst_s"
DEFAULT_QUANTILE = {"p99": 1.05}
DEFAULT_BLOCK_S = 10.0
HOLD, ROLL_BACK = "hold", "rollback"
LEAST_ALPHA = 1e-9
MOST_WATCHED = 20
"""Quantiles or metrics of one gate: the controller looks at each once a second."""
LONGEST_NAME = 200

_QUANTILE = re.compile(r"p([0-9]{1,2}(?:\.[0-9]{1,4})?)")

Check = Callable[[float], bool]
_ABOVE_0: tuple[Check, str] = (lambda value: value > 0, "a number above 0")
_NOT_NEGATIVE: tuple[Check, str] = (lambda value: value >= 0, "a number of 0 or more")
_SHARE: tuple[Check, str] = (lambda value: 0 <= value < 1, "a number of 0 or more and below 1")
_OVER_1: tuple[Check, str] = (lambda value: value > 1, "a number above 1")


def checked(plan: RolloutPlan) -> RolloutPlan:
    """The plan with all options of its gates; no gates are the default ones.

    Raises:
        ValueError: the plan cannot be carried out. Its author is at fault.
    """
    _check_steps(plan.steps)
    for name, value, (fits, what) in (
        ("hold_s", plan.hold_s, _ABOVE_0),
        ("min_samples", plan.min_samples, _NOT_NEGATIVE),
        (
            "alpha",
            plan.alpha,
            (lambda alpha: LEAST_ALPHA <= alpha < 1, f"a number of at least {LEAST_ALPHA:g} and below 1"),
        ),
        ("patience", plan.patience, (lambda times: times >= 1, "a number of 1 or more")),
    ):
        _number(name, value, fits, what)
    if plan.on_inconclusive not in (HOLD, ROLL_BACK):
        raise ValueError(f"on_inconclusive must be {HOLD!r} or {ROLL_BACK!r}, not {plan.on_inconclusive!r}")
    gates = plan.gates or DEFAULT_GATES
    for name in gates:
        if name not in _READERS:
            raise ValueError(f"there is no gate {name[:LONGEST_NAME]!r}; there are {', '.join(_READERS)}")
    return msgspec.structs.replace(plan, gates={name: _READERS[name](options) for name, options in gates.items()})


def alpha_of(plan: RolloutPlan) -> float:
    """The part of ``alpha`` that each gate has. Health is no matter of chance, and has none."""
    return plan.alpha / max(1, sum(name != HEALTH for name in plan.gates))


def quantile_of(name: str) -> float:
    """The share that a name such as ``p99.5`` stands for."""
    return round(float(name[1:]) / 100, 6)


def quantiles_of(options: Mapping[str, Any]) -> dict[str, float]:
    """The quantiles among the options of a latency gate, by name, and how many times the baseline's is allowed."""
    return {name: value for name, value in options.items() if name != BURST_S}


def _check_steps(steps: tuple[float, ...]) -> None:
    numbers = [_number("each of steps", step, lambda step: 0 < step <= 1, "above 0 and at most 1") for step in steps]
    if not numbers:
        raise ValueError("steps must have at least one weight")
    if len(numbers) > MOST_STEPS:
        raise ValueError(f"steps must have at most {MOST_STEPS} weights, not {len(numbers)}")
    if any(after <= before for before, after in pairwise(numbers)):
        raise ValueError(f"steps must rise, and {list(steps)} do not")


def _number(name: str, value: Any, fits: Check, what: str) -> float:
    """The number, which is at most :data:`LARGEST`.

    Raises:
        ValueError: it is none, or does not fit; ``what`` says what would.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not fits(value):
        raise ValueError(f"{name} must be {what}, not {value!r}")
    if value > LARGEST:
        raise ValueError(f"{name} must be at most {LARGEST:g}, not {value!r}")
    return float(value)


def _numbers(gate: str, options: Mapping[str, Any], known: Mapping[str, tuple[Any, Check, str]]) -> dict[str, Any]:
    """All options of a gate. One that is left out, or None, has its default."""
    for name in options:
        if name not in known:
            shown = name[:LONGEST_NAME]
            raise ValueError(f"gate {gate!r} has no option {shown!r}; it has {', '.join(known) or 'none'}")
    read = {}
    for name, (default, fits, what) in known.items():
        value = options.get(name)
        read[name] = default if value is None else _number(f"{name} of gate {gate!r}", value, fits, what)
    return read


def _error_rate(options: Mapping[str, Any]) -> dict[str, Any]:
    known = {
        "max_ratio": (1.0, *_ABOVE_0),
        "slack": (0.001, *_SHARE),
        BURST_S: (0.0, *_NOT_NEGATIVE),
        "rule_out": (None, *_OVER_1),
    }
    return _numbers(ERROR_RATE, options, known)


def _latency(options: Mapping[str, Any]) -> dict[str, Any]:
    quantiles = quantiles_of(options) or DEFAULT_QUANTILE
    _check_few(LATENCY, "quantiles", quantiles)
    for name in quantiles:
        found = _QUANTILE.fullmatch(name)
        if found is None or not 0 < float(found[1]) < 100:
            shown = name[:LONGEST_NAME]
            raise ValueError(f"gate {LATENCY!r} has no option {shown!r}; it has {BURST_S}, and quantiles such as p99")
    limits: dict[str, tuple[Any, Check, str]] = dict.fromkeys(quantiles, (None, *_ABOVE_0))
    read = _numbers(LATENCY, {**options, **quantiles}, {**limits, BURST_S: (DEFAULT_BLOCK_S, *_NOT_NEGATIVE)})
    if None in read.values():
        raise ValueError(f"each quantile of gate {LATENCY!r} must be a number above 0, not None")
    return read


def _mismatch(options: Mapping[str, Any]) -> dict[str, Any]:
    return _numbers(MISMATCH, options, {"slack": (0.005, *_SHARE)})


def _metrics(options: Mapping[str, Any]) -> dict[str, Any]:
    if not options:
        raise ValueError(f"gate {METRICS!r} must name at least one metric")
    _check_few(METRICS, "metrics", options)
    read: dict[str, Any] = {}
    for name, given in options.items():
        if not METRIC_NAME.fullmatch(name) or len(name) > LONGEST_NAME:
            raise ValueError(f"gate {METRICS!r} cannot watch {name[:LONGEST_NAME]!r}, which is no name of a metric")
        if not isinstance(given, Mapping) or given.get("better") not in ("higher", "lower"):
            raise ValueError(f"metric {name!r} of gate {METRICS!r} needs better: 'higher' or 'lower', not {given!r}")
        rest = {key: value for key, value in given.items() if key != "better"}
        numbers = _numbers(f"{METRICS}.{name}", rest, {"max_loss": (0.0, *_NOT_NEGATIVE)})
        read[name] = {"better": given["better"], **numbers}
    return read


def _check_few(gate: str, what: str, watched: Mapping[str, Any]) -> None:
    if len(watched) > MOST_WATCHED:
        raise ValueError(f"gate {gate!r} takes at most {MOST_WATCHED} {what}, not {len(watched)}")


def _health(options: Mapping[str, Any]) -> dict[str, Any]:
    return _numbers(HEALTH, options, {})


_READERS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    ERROR_RATE: _error_rate,
    LATENCY: _latency,
    MISMATCH: _mismatch,
    METRICS: _metrics,
    HEALTH: _health,
}
