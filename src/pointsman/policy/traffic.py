"""Which backend answers: a draw by weight. Pure: the random number is an argument."""

from __future__ import annotations

from itertools import accumulate

from pointsman.model import TrafficPolicy


class TrafficSplit:
    """A traffic policy made ready for choosing.

    Args:
        policy: weights that sum to 1, at least one of them above 0.

    The draw is inversion of the cumulative weights. A backend of weight 0 is never chosen, and the choice looks at
    weights only: a backend that is down does not hand its share to the others.
    """

    __slots__ = ("_bounds", "_last", "policy")

    def __init__(self, policy: TrafficPolicy) -> None:
        self.policy = policy
        shares = [(tag, weight) for tag, weight in sorted(policy.weights.items()) if weight > 0]
        bounds = accumulate(weight for _, weight in shares)
        # The sum of floats may end just below 1: the last backend takes what is left.
        self._last = shares[-1][0]
        self._bounds = tuple(zip(bounds, (tag for tag, _ in shares), strict=True))[:-1]

    def choose(self, draw: float) -> str:
        """The backend for a ``draw`` that is uniform in [0, 1)."""
        for bound, tag in self._bounds:
            if draw < bound:
                return tag
        return self._last
