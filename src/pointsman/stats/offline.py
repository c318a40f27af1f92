"""What another way of choosing arms would have earned, from requests that were answered and logged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import erfc, exp, fsum, inf, pi, sqrt
from typing import Any, NamedTuple

from pointsman.stats.checking import check_between, check_not_negative, check_number

Row = Any
Target = str | Mapping[str, float] | Callable[[Any], str | Mapping[str, float]]
Model = Callable[[Any, str], float]


class Estimate(NamedTuple):
    """A number, and what it can be: from ``low`` to ``high``.

    Attributes:
        value: the estimate.
        low: lower end of its interval.
        high: upper end of its interval.
    """

    value: float
    low: float
    high: float


class PolicyValue(NamedTuple):
    """What :func:`evaluate_policy` returns.

    Attributes:
        n: how many rows there were.
        ips: mean value per row by inverse propensity: right in the mean, and uncertain when weights are large.
        snips: the same, over the mean weight: mostly less uncertain, a little wrong in the mean for few rows.
        dr: doubly robust: the model's guess, mended by what was seen: right in the mean, and the less uncertain the
            better the model. The one to read first.
        effective_n: how many rows of equal weight would say as much. Far below n, nothing should be built on it.
        max_weight: the largest weight of a row.
    """

    n: int
    ips: Estimate
    snips: Estimate
    dr: Estimate
    effective_n: float
    max_weight: float


def evaluate_policy(
    rows: Iterable[Row], target: Target, *, model: Model | None = None, alpha: float = 0.05
) -> PolicyValue:
    """What the mean value of a request would have been, had ``target`` chosen the arms.

    Holds when each row's arm was drawn with the logged propensity (it was, for a split by weight; a rule without chance
    has propensity 1 and says nothing of other arms), rows are independent, and values do not depend on the arms of
    other rows. The intervals are normal ones: to be read once, with some hundreds of effective rows, not after each
    row. They cover the truth with probability 1 - alpha, about.

    With w = (the target's probability of the arm taken) / propensity: ips is the mean of w value; snips is
    sum(w value) / sum(w); dr is the mean of (the target's mean of model(row, arm)) + w (value - model(row, arm taken)).

    Sources: D. G. Horvitz and D. J. Thompson, "A generalization of sampling without replacement from a finite
    universe", Journal of the American Statistical Association 47, 1952 (ips); A. Swaminathan and T. Joachims, "The
    self-normalized estimator for counterfactual learning", NeurIPS 2015 (snips); M. Dudík, J. Langford and L. Li,
    "Doubly robust policy evaluation and learning", ICML 2011 (dr); A. Kong, "A note on importance sampling using
    standardized weights", University of Chicago, 1992 (effective_n).

    Args:
        rows: in the order of time; each has ``arm``, ``propensity`` (the probability with which its arm was chosen,
            above 0 and at most 1) and ``value``, as keys or as attributes, and what target and model need beside them.
        target: an arm, for all rows; or for each arm its probability; or a function of a row that returns one of these.
            It must not look at the row's arm or value.
        model: a guess of the value of a row if it got an arm, ``model(row, arm)``. It must not have learned from these
            rows. Default: the mean of the arm's values in earlier rows, or 0 before there is one.
        alpha: the probability that an interval is wrong, above 0 and below 1.

    Raises:
        TypeError: a number is none. The author of the call is at fault.
        ValueError: there are no rows; a propensity is not above 0 and at most 1; a value is NaN or infinite; the
            target's probabilities are negative or do not add up to 1; it wants an arm that no row has, or on no row the
            arm taken; or alpha is out of range. As above.
    """
    z = _normal_quantile(check_between(alpha, "alpha") / 2)
    means = _Means()
    weights: list[float] = []
    values: list[float] = []
    scores: list[float] = []
    wanted: set[str] = set()
    for number, row in enumerate(rows):
        arm, propensity, value = _read(row, number)
        chosen = _probabilities(target, row, number)
        weight = chosen.get(arm, 0.0) / propensity
        guesses = {name: _guess(model or means.guess, row, name, number) for name in {*chosen, arm}}
        expected = fsum(chosen[name] * guesses[name] for name in chosen)
        scores.append(expected + weight * (value - guesses[arm]))
        weights.append(weight)
        values.append(value)
        wanted.update(name for name, share in chosen.items() if share)
        means.add(arm, value)
    _check_support(wanted, means.arms(), weights)
    total = fsum(weights)
    ratio = fsum(w * v for w, v in zip(weights, values, strict=True)) / total
    spread = sqrt(fsum((w * (v - ratio)) ** 2 for w, v in zip(weights, values, strict=True))) / total
    return PolicyValue(
        n=len(values),
        ips=_mean([w * v for w, v in zip(weights, values, strict=True)], z),
        snips=_around(ratio, z * spread if len(values) > 1 else inf),
        dr=_mean(scores, z),
        effective_n=total**2 / fsum(w * w for w in weights),
        max_weight=max(weights),
    )


class _Means:
    """The mean of each arm's values so far: known before a row, so that the estimate stays right in the mean."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[int, float]] = {}

    def guess(self, row: Row, arm: str) -> float:
        n, total = self._sums.get(arm, (0, 0.0))
        return total / n if n else 0.0

    def add(self, arm: str, value: float) -> None:
        n, total = self._sums.get(arm, (0, 0.0))
        self._sums[arm] = n + 1, total + value

    def arms(self) -> set[str]:
        return set(self._sums)


def _read(row: Row, number: int) -> tuple[str, float, float]:
    if isinstance(row, Mapping):
        missing = [field for field in ("arm", "propensity", "value") if field not in row]
        if missing:
            raise ValueError(f"row {number} must have arm, propensity and value, and has no {missing[0]}")
        arm, propensity, value = row["arm"], row["propensity"], row["value"]
    else:
        arm, propensity, value = row.arm, row.propensity, row.value
    if not 0 < check_number(propensity, f"propensity of row {number}") <= 1:
        raise ValueError(f"propensity of row {number} must be above 0 and at most 1, not {propensity!r}")
    return arm, float(propensity), check_number(value, f"value of row {number}")


def _probabilities(target: Target, row: Row, number: int) -> Mapping[str, float]:
    wanted = target(row) if callable(target) else target
    if not isinstance(wanted, Mapping):
        return {wanted: 1.0}
    shares = {arm: check_not_negative(share, f"target's probability of {arm!r}") for arm, share in wanted.items()}
    if abs(fsum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"target's probabilities must add up to 1, and those of row {number} are {dict(wanted)!r}")
    return shares


def _guess(model: Model, row: Row, arm: str, number: int) -> float:
    return check_number(model(row, arm), f"model's value of {arm!r} for row {number}")


def _check_support(wanted: set[str], taken: set[str], weights: Sequence[float]) -> None:
    if not weights:
        raise ValueError("rows must have at least one row, and there is none")
    if never := sorted(wanted - taken):
        raise ValueError(f"target must want only arms that some row has, {sorted(taken)}, and it wants {never}")
    if not any(weights):
        raise ValueError("target must want the arm taken on some row, and it does on none")


def _mean(numbers: Sequence[float], z: float) -> Estimate:
    n = len(numbers)
    mean = fsum(numbers) / n
    if n < 2:
        return _around(mean, inf)
    return _around(mean, z * sqrt(fsum((x - mean) ** 2 for x in numbers) / (n - 1) / n))


def _around(value: float, half: float) -> Estimate:
    return Estimate(value, value - half, value + half)


def _normal_quantile(tail: float) -> float:
    """Above which a standard normal number is with probability ``tail``, at most 0.5; by Newton's method on ``erfc``,
    which comes from below and cannot overshoot where that function is convex."""
    tail = max(tail, 1e-300)
    z = 0.0
    for _ in range(2000):
        step = (0.5 * erfc(z / sqrt(2)) - tail) * sqrt(2 * pi) * exp(z * z / 2)
        z += step
        if step < 1e-13:
            break
    return z
