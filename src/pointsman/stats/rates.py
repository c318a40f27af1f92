"""Shares of requests, such as errors: whether the canary's is too high, and what the share of one version can be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import expm1, lgamma, log, log1p
from typing import Any, NamedTuple

from pointsman.stats.checking import (
    check_between,
    check_count,
    check_events,
    check_not_negative,
    check_positive,
    log_mean_exp,
    read_logs,
    read_state,
)

GROWTHS = (1.25, 1.5, 2.0, 3.0, 6.0, 30.0)
"""By how much the canary's rate may be too high: one bet on each."""

_LOG_GROWTHS = tuple((growth, log(growth)) for growth in GROWTHS)


class RateGate:
    """Whether events, such as errors, are more frequent among the canary's requests than they may be.

    The hypothesis that it tries to refute: in every tick the canary's rate is at most ``max_ratio`` times the
    baseline's rate plus ``slack``. While that holds, the gate ever trips with probability ``alpha`` at most, however
    often it is asked.

    Holds when requests of one tick are independent of each other, given what came before. The rates may change from
    tick to tick in any way (load, time of day), as long as both arms see the change. Does not hold when failures come
    in bursts that hit one arm (a replica that stalls or restarts): take :class:`BlockGate` then. A tick should be short
    beside changes of the rate; a second is.

    Per tick, with n0, k0 requests and events of the baseline and n1, k1 of the canary, and for each g of
    :data:`GROWTHS`: with b = (n0 + n1 r) / (n0 + n1 r g), r = max_ratio, the e-value is multiplied by
    ``(g b)^k1 b^k0 exp(-slack n1 (g b - 1))``, or by ``alpha^-0.5`` if that is less, so that no single tick decides.
    The gate's e-value is the mean over g. For slack 0 this is how much better the split of the k0 + k1 events fits a
    canary of g times the allowed rate; the mean of each factor is at most 1 because (1 + x)^n <= exp(n x).

    Sources: R. J. Turner, A. Ly and P. D. Grünwald, "Generic E-variables for exact sequential k-sample tests that allow
    for optional stopping", Journal of Statistical Planning and Inference 230, 2024 (two streams, one block after the
    other); M. Lindon and A. Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022 (events of
    counting processes whose rates change); H. Robbins, "Statistical methods related to the law of the iterated
    logarithm", Annals of Mathematical Statistics 41, 1970 (mixtures). Slack and limit are ours.

    Args:
        max_ratio: how many times the baseline's rate is allowed, above 0. Below 1, the canary must be better.
        slack: events per request allowed on top, 0 or more.
        alpha: the probability that the gate ever trips although the canary is good, above 0 and below 1.

    Raises:
        TypeError: an argument is no number. The author of the call is at fault.
        ValueError: an argument is out of its range, or NaN. The author of the call is at fault.
    """

    __slots__ = ("_logs", "_tripped", "_waiting", "alpha", "max_ratio", "slack")

    def __init__(self, *, max_ratio: float = 1.0, slack: float = 0.0, alpha: float = 0.05) -> None:
        self.max_ratio = check_positive(max_ratio, "max_ratio")
        self.slack = check_not_negative(slack, "slack")
        self.alpha = check_between(alpha, "alpha")
        self._logs = [0.0] * len(GROWTHS)
        self._waiting = (0, 0, 0, 0)
        self._tripped = False

    @property
    def log_e(self) -> float:
        """The natural logarithm of the e-value: the evidence that the canary is worse. It begins at 0."""
        return log_mean_exp(self._logs)

    @property
    def tripped(self) -> bool:
        """True from the tick on in which the e-value reached ``1 / alpha``."""
        return self._tripped

    def add(self, baseline_n: int, baseline_events: int, canary_n: int, canary_events: int) -> None:
        """Count one tick. One in which an arm had no request is counted together with the next.

        Args:
            baseline_n, canary_n: requests of each arm, 0 or more.
            baseline_events, canary_events: how many of them were events, such as errors.

        Raises:
            TypeError: an argument is no number. The author of the call is at fault, and nothing has changed.
            ValueError: more events than requests, or a count that is negative, NaN or not whole. As above.
        """
        n0, k0 = check_events(baseline_n, baseline_events, "baseline_")
        n1, k1 = check_events(canary_n, canary_events, "canary_")
        before = self._waiting
        n0, k0, n1, k1 = n0 + before[0], k0 + before[1], n1 + before[2], k1 + before[3]
        if not n0 or not n1:
            self._waiting = (n0, k0, n1, k1)
            return
        self._waiting = (0, 0, 0, 0)
        self._count(n0, k0, n1, k1)
        if not self._tripped:
            self._tripped = self.log_e >= -log(self.alpha)

    def _count(self, n0: int, k0: int, n1: int, k1: int) -> None:
        most = -0.5 * log(self.alpha)
        due = n1 * self.max_ratio
        for bet, (growth, log_growth) in enumerate(_LOG_GROWTHS):
            log_b = -log1p(due * (growth - 1) / (n0 + due))
            step = k1 * (log_growth + log_b) + k0 * log_b
            if self.slack:
                step -= self.slack * n1 * expm1(log_growth + log_b)
            self._logs[bet] += min(step, most)

    def state(self) -> dict[str, Any]:
        """All that the gate knows, as plain values (JSON)."""
        return {
            "kind": "RateGate",
            "max_ratio": self.max_ratio,
            "slack": self.slack,
            "alpha": self.alpha,
            "logs": list(self._logs),
            "waiting": list(self._waiting),
            "tripped": self._tripped,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> RateGate:
        """A gate that goes on where the one that gave this state was, with exactly its numbers.

        Args:
            state: what :meth:`state` has returned.

        Raises:
            TypeError, ValueError: that is no state of a RateGate. The author of the call is at fault.
        """
        fields = ("max_ratio", "slack", "alpha", "logs", "waiting", "tripped")
        max_ratio, slack, alpha, logs, waiting, tripped = read_state(state, "RateGate", fields)
        gate = cls(max_ratio=max_ratio, slack=slack, alpha=alpha)
        gate._logs = read_logs(logs, len(GROWTHS), "RateGate")
        n0, k0, n1, k1 = (check_count(count, "waiting") for count in waiting)
        gate._waiting = (n0, k0, n1, k1)
        gate._tripped = bool(tripped)
        return gate


class Interval(NamedTuple):
    """What a number can be: from ``low`` to ``high``.

    Attributes:
        low: its lower end.
        high: its upper end.
    """

    low: float
    high: float


def rate_interval(k: int, n: int, alpha: float = 0.05) -> Interval:
    """What the rate of an event can be that came ``k`` times in ``n`` requests.

    The true rate is in the intervals of all n at once with probability 1 - alpha at least, so the interval may be shown
    at all times and acted on at any. It is wider than an interval that is meant to be read once.

    All p with B(k + 1, n - k + 1) < p^k (1 - p)^(n - k) / alpha, where B is the beta function: those that fit at most
    1 / alpha times worse than all rates do in the mean. Holds when requests are independent and of one rate. If the
    rate changes, or failures come in bursts, the interval is too narrow.

    Sources: J. Ville, 1939; H. Robbins, "Statistical methods related to the law of the iterated logarithm", Annals of
    Mathematical Statistics 41, 1970; S. R. Howard, A. Ramdas, J. McAuliffe and J. Sekhon, "Time-uniform,
    nonparametric, nonasymptotic confidence sequences", Annals of Statistics 49, 2021.

    Args:
        k: how often it came, 0 to n.
        n: requests, 0 or more. For 0 the interval is (0, 1).
        alpha: the probability of being wrong at any n, above 0 and below 1.

    Returns:
        ``(low, high)``, in events per request.

    Raises:
        TypeError: an argument is no number. The author of the call is at fault.
        ValueError: k over n, a count that is negative, NaN or not whole, or an alpha out of range. As above.
    """
    n, k = check_count(n, "n"), check_count(k, "k")
    if k > n:
        raise ValueError(f"k must be at most n, and {k} is more than {n}")
    least = log(check_between(alpha, "alpha")) + lgamma(k + 1) + lgamma(n - k + 1) - lgamma(n + 2)

    def fits(p: float) -> bool:
        fit = k * log(p) if k else 0.0
        return (fit + (n - k) * log1p(-p) if k < n else fit) > least

    best = k / n if n else 0.5
    return Interval(_edge(fits, best, 0.0) if k else 0.0, _edge(fits, best, 1.0) if k < n else 1.0)


def _edge(fits: Callable[[float], bool], inside: float, outside: float) -> float:
    """The last number that fits, on the way from one that does to one that does not."""
    for _ in range(200):
        middle = (inside + outside) / 2
        if middle in (inside, outside):
            break
        if fits(middle):
            inside = middle
        else:
            outside = middle
    return inside
