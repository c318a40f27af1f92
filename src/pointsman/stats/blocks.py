"""Differences between two arms, block of time by block of time: what happens within a block does not matter."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, log, log1p, sqrt
from typing import Any

from pointsman.stats.checking import (
    check_between,
    check_count,
    check_not_negative,
    check_number,
    check_positive,
    log_mean_exp,
    read_logs,
    read_state,
)

BETS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""How steeply each bet answers a difference."""

PRIOR_BLOCKS = 4
"""So many blocks of the size of ``scale`` are taken as seen before the first."""

MOST = 1e100
"""A difference counts as at most so many times its scale: the sum of squares must stay finite."""

_LOG_2 = log(2.0)


class BlockGate:
    """Whether the canary is worse, from one number for each block of time: how much worse it was in that block.

    The hypothesis that it tries to refute: each difference is symmetric about 0, given those before. While that holds,
    the gate ever trips with probability ``alpha`` at most, however often it is asked.

    Holds whatever happens within a block: failures that come in bursts, stalls, requests that depend on each other.
    Blocks must not hang together: they should be several times as long as a burst. Symmetric means that an arm is as
    often unlucky as the other, as far: this holds for equal versions of equal size. With arms of unequal size it is
    nearly so: the smaller arm's rare events come as few large differences and many small ones of the other sign, which
    makes the gate slower to trip when the canary is the smaller arm, and quicker than ``alpha`` allows when the
    baseline has next to none of the events in a block (see docs/evidence-statistics.md).

    With z = difference / scale, and x = z / sqrt((4 + sum of z_i^2) / (4 + m)) over the m earlier blocks, the e-value
    of each bet l of :data:`BETS` is multiplied by 1 + tanh(l x); the gate's e-value is their mean. The mean of a factor
    is 1, since tanh is odd and x symmetric. No factor is over 2, so it takes 5 blocks at least at alpha 5 %.

    Sources: V. Vovk and R. Wang, "Nonparametric e-tests of symmetry", arXiv 2208.08925, 2022; V. H. de la Peña, "A
    general class of exponential inequalities for martingales and ratios", Annals of Probability 27, 1999 (sums of
    symmetric variables, normalised by themselves); I. Waudby-Smith and A. Ramdas, "Estimating means of bounded random
    variables by betting", Journal of the Royal Statistical Society B 86, 2024 (products of 1 + bet). The choice of
    tanh, of the bets and of the prior is ours.

    Args:
        alpha: the probability that the gate ever trips although the canary is good, above 0 and below 1.

    Raises:
        TypeError: alpha is no number. The author of the call is at fault.
        ValueError: alpha is out of its range. The author of the call is at fault.
    """

    __slots__ = ("_blocks", "_logs", "_squares", "_tripped", "alpha")

    def __init__(self, *, alpha: float = 0.05) -> None:
        self.alpha = check_between(alpha, "alpha")
        self._logs = [0.0] * len(BETS)
        self._squares = 0.0
        self._blocks = 0
        self._tripped = False

    @property
    def log_e(self) -> float:
        """The natural logarithm of the e-value: the evidence that the canary is worse. It begins at 0."""
        return log_mean_exp(self._logs)

    @property
    def tripped(self) -> bool:
        """True from the block on in which the e-value reached ``1 / alpha``."""
        return self._tripped

    @property
    def blocks(self) -> int:
        """How many blocks were added."""
        return self._blocks

    def add(self, difference: float, scale: float) -> None:
        """Count one block.

        Args:
            difference: how much worse the canary was, in any unit; below 0, it was better.
            scale: the standard deviation that the difference would have if requests were independent, above 0, in
                the same unit. It may depend on how many requests there were, and not on how they went.

        Raises:
            TypeError: an argument is no number. The author of the call is at fault, and nothing has changed.
            ValueError: an argument is NaN or infinite, or the scale is not above 0. As above.
        """
        difference, scale = check_number(difference, "difference"), check_positive(scale, "scale")
        z = max(-MOST, min(MOST, difference / scale))
        x = z / sqrt((PRIOR_BLOCKS + self._squares) / (PRIOR_BLOCKS + self._blocks))
        for bet, steep in enumerate(BETS):
            self._logs[bet] += _log_1_plus_tanh(steep * x)
        self._squares += z * z
        self._blocks += 1
        if not self._tripped:
            self._tripped = self.log_e >= -log(self.alpha)

    def state(self) -> dict[str, Any]:
        """All that the gate knows, as plain values (JSON)."""
        return {
            "kind": "BlockGate",
            "alpha": self.alpha,
            "logs": list(self._logs),
            "squares": self._squares,
            "blocks": self._blocks,
            "tripped": self._tripped,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> BlockGate:
        """A gate that goes on where the one that gave this state was, with exactly its numbers.

        Args:
            state: what :meth:`state` has returned.

        Raises:
            TypeError, ValueError: that is no state of a BlockGate. The author of the call is at fault.
        """
        fields = ("alpha", "logs", "squares", "blocks", "tripped")
        alpha, logs, squares, blocks, tripped = read_state(state, "BlockGate", fields)
        gate = cls(alpha=alpha)
        gate._logs = read_logs(logs, len(BETS), "BlockGate")
        gate._squares = check_not_negative(squares, "squares")
        gate._blocks = check_count(blocks, "blocks")
        gate._tripped = bool(tripped)
        return gate


def _log_1_plus_tanh(y: float) -> float:
    """``log(1 + tanh(y))``, also where 1 + tanh(y) is rounded to 0."""
    if y < 0:
        return _LOG_2 + 2 * y - log1p(exp(2 * y))
    return _LOG_2 - log1p(exp(-2 * y))
