"""Judging two versions by what they did: numbers that may be looked at as often as one likes. Pure: no loop, clock or
chance, nothing but ``math``, and nothing of ours. Users import it, and the controller judges by it.

    from pointsman import stats

    gate = stats.RateGate(max_ratio=1.0, slack=0.001, alpha=0.05)
    gate.add(1900, 19, 100, 2)  # one tick: requests and errors of the baseline, then of the canary
    gate.tripped                # True once the canary's error rate is too high beyond doubt

A gate collects evidence as an e-value: a number whose mean is at most 1 at each time while the canary is no worse. It
ever reaches 1/alpha with probability alpha at most (Ville's inequality: J. Ville, "Étude critique de la notion de
collectif", 1939; A. Ramdas, P. Grünwald, V. Vovk and G. Shafer, "Game-theoretic statistics and safe anytime-valid
inference", Statistical Science 38, 2023). So one may look after each request, and stop or go on for any reason. What
each gate takes for granted stands with it; docs/evidence-statistics.md has what each one costs in requests.

Evidence is kept in logarithms and cannot overflow. A gate takes the same memory after months, and
``Gate.from_state(gate.state())`` goes on with the same numbers to the last bit; a state is made of plain values (JSON).

rates        RateGate, rate_interval: shares of requests, such as errors
blocks       BlockGate: differences between blocks of time, whatever happens within one
latency      LatencyGate: a quantile of how long requests take; the buckets of latencies
experiments  compare_means, SampleRatio: rewards of arms, and whether arms got the shares they should
offline      evaluate_policy: what another split would have earned, from what was logged
checking     arguments, states and sums that these have in common
"""

from pointsman.stats.blocks import BlockGate
from pointsman.stats.experiments import Difference, SampleRatio, compare_means
from pointsman.stats.latency import LatencyGate
from pointsman.stats.offline import Estimate, PolicyValue, evaluate_policy
from pointsman.stats.rates import Interval, RateGate, rate_interval

__all__ = [
    "RateGate",
    "BlockGate",
    "LatencyGate",
    "rate_interval",
    "Interval",
    "compare_means",
    "Difference",
    "SampleRatio",
    "evaluate_policy",
    "PolicyValue",
    "Estimate",
]
