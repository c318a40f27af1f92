"""Arms of an experiment: the difference of their means, and whether each got the share of units that it should."""

from __future__ import annotations

from collections.abc import Mapping
from math import fsum, inf, lgamma, log, log1p, sqrt
from typing import Any, NamedTuple

from pointsman.stats.checking import (
    check_between,
    check_count,
    check_not_negative,
    check_number,
    check_positive,
    read_state,
)

MIN_UNITS = 100
"""Units that an arm must have before its mean is taken as normal."""

PRIOR_UNITS = 100.0
"""How firmly the mixture of :class:`SampleRatio` keeps to the shares: like so many units that fell as they should."""


class Difference(NamedTuple):
    """How much the mean of an arm is above the control's, and what it can be: from ``low`` to ``high``.

    Attributes:
        difference: the mean of the arm less that of the control.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    difference: float
    low: float
    high: float


def compare_means(
    control: tuple[int, float, float], arm: tuple[int, float, float], *, alpha: float = 0.05, plan: float = 5000
) -> Difference:
    """How much more an arm earns a unit than the control, with an interval that may be looked at after each unit.

    The true difference is in all the intervals at once with probability 1 - alpha, about. "About", since means are
    taken as normal: units must be independent, of a finite variance, and enough. Rare large values (a sale among 10,000
    visits) need more units than :data:`MIN_UNITS`. A unit is what was assigned to an arm, such as a user, and not each
    of its requests: requests of one user are not independent.

    With V = v1 / n1 + v0 / n0, L = ln(1 / alpha) and T = V min(n) / plan (2 L + ln(1 + 2 L)), the half-width is
    sqrt(V (V + T) / T (2 L + ln((V + T) / V))): a mixture over true differences of variance T.

    Sources: H. Robbins, "Statistical methods related to the law of the iterated logarithm", Annals of Mathematical
    Statistics 41, 1970 (the normal mixture); I. Waudby-Smith, D. Arbour, R. Sinha, E. H. Kennedy and A. Ramdas,
    "Time-uniform central limit theory and asymptotic confidence sequences", Annals of Statistics 52, 2024 (with
    estimated variances, and tuned for a number of units).

    Args:
        control, arm: ``(n, mean, variance)`` of the units of each: how many, their mean, and their variance.
        alpha: the probability of being wrong at any time, above 0 and below 1.
        plan: how many units an arm the interval is narrowest for, beside others; above 0.

    Returns:
        ``(difference, low, high)``, in the unit of the means. ``low`` and ``high`` are infinite while an arm has under
        100 units, and while no two units of one arm differ: that says nothing about how much they can.

    Raises:
        TypeError: something is no number. The author of the call is at fault.
        ValueError: n or a variance is negative, n is not whole, something is NaN or infinite, or alpha is out of range.
            As above.
    """
    alpha, plan = check_between(alpha, "alpha"), check_positive(plan, "plan")
    (n0, mean0, variance0), (n1, mean1, variance1) = _sample(control, "control"), _sample(arm, "arm")
    difference = mean1 - mean0
    if min(n0, n1) < MIN_UNITS or not (variance0 or variance1):
        return Difference(difference, -inf, inf)
    v = variance1 / n1 + variance0 / n0
    twice = -2 * log(alpha)
    ratio = min(n0, n1) / plan * (twice + log1p(twice))  # T / V
    half = sqrt(v * (1 + 1 / ratio) * (twice + log1p(ratio)))
    return Difference(difference, difference - half, difference + half)


def _sample(sample: tuple[int, float, float], name: str) -> tuple[int, float, float]:
    n, mean, variance = sample
    return (
        check_count(n, f"n of {name}"),
        check_number(mean, f"mean of {name}"),
        check_not_negative(variance, f"variance of {name}"),
    )


class SampleRatio:
    """Whether arms got the shares of units that they should. If not, something is wrong with the experiment (lost
    feedback, a crash, a redirect), and its results mean nothing.

    While each unit falls to an arm with the probability of its share, independently of the others, the alarm is ever
    raised with probability ``alpha`` at most, however often it is asked. Does not hold for requests of users that keep
    their arm: count each user once.

    The e-value is the likelihood of the counts under a Dirichlet(100 share) mixture of splits, over that under the
    shares.

    Source: M. Lindon and A. Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022.

    Args:
        shares: for each arm its share, above 0. Only their ratios matter.
        alpha: the probability of ever raising an alarm although all is well, above 0 and below 1.

    Raises:
        TypeError: a share is no number. The author of the call is at fault.
        ValueError: fewer than two arms, a share that is not above 0, or an alpha out of range. As above.
    """

    __slots__ = ("_alarm", "_counts", "_shares", "alpha")

    def __init__(self, shares: Mapping[str, float], alpha: float = 0.001) -> None:
        checked = {arm: check_positive(share, f"the share of {arm!r}") for arm, share in shares.items()}
        if len(checked) < 2:
            raise ValueError(f"shares must have at least two arms, not {shares!r}")
        whole = fsum(checked.values())
        self._shares = {arm: share / whole for arm, share in checked.items()}
        self.alpha = check_between(alpha, "alpha")
        self._counts = dict.fromkeys(self._shares, 0)
        self._alarm = False

    @property
    def log_e(self) -> float:
        """The natural logarithm of the e-value: the evidence that the shares are wrong. It begins at 0."""
        total = sum(self._counts.values())
        parts = [lgamma(PRIOR_UNITS) - lgamma(PRIOR_UNITS + total)]
        for arm, count in self._counts.items():
            share = self._shares[arm]
            prior = PRIOR_UNITS * share
            parts += [lgamma(prior + count), -lgamma(prior), -count * log(share)]
        return fsum(parts)

    @property
    def alarm(self) -> bool:
        """True from the call of :meth:`add` on after which the e-value was ``1 / alpha`` or more."""
        return self._alarm

    def add(self, counts: Mapping[str, int]) -> None:
        """Count more units.

        Args:
            counts: for each arm how many more it got. One that is left out got none.

        Raises:
            TypeError: a count is no number. The author of the call is at fault, and nothing has changed.
            ValueError: an arm has no share, or a count is negative, NaN or not whole. As above.
        """
        unknown = sorted(arm for arm in counts if arm not in self._shares)
        if unknown:
            raise ValueError(f"counts must be of arms that have a share, {sorted(self._shares)}, not of {unknown}")
        checked = {arm: check_count(count, f"the count of {arm!r}") for arm, count in counts.items()}
        for arm, count in checked.items():
            self._counts[arm] += count
        if not self._alarm:
            self._alarm = self.log_e >= -log(self.alpha)

    def state(self) -> dict[str, Any]:
        """All that is counted, as plain values (JSON)."""
        return {
            "kind": "SampleRatio",
            "shares": dict(self._shares),
            "alpha": self.alpha,
            "counts": dict(self._counts),
            "alarm": self._alarm,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> SampleRatio:
        """One that goes on where the one that gave this state was, with exactly its numbers.

        Args:
            state: what :meth:`state` has returned.

        Raises:
            TypeError, ValueError: that is no state of a SampleRatio. The author of the call is at fault.
        """
        fields = ("shares", "alpha", "counts", "alarm")
        shares, alpha, counts, alarm = read_state(state, "SampleRatio", fields)
        ratio = cls(shares, alpha)
        ratio._shares = {arm: float(share) for arm, share in shares.items()}  # divided anew, the last bit could differ
        ratio._counts = {arm: check_count(counts[arm], f"the count of {arm!r}") for arm in shares}
        ratio._alarm = bool(alarm)
        return ratio
