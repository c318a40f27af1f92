"""Simulations of ``pointsman.stats``, with fixed seeds: how often each gate is wrong, and what it costs in requests.

``python -m tests.statistical`` prints the table of docs/evidence-statistics.md: 2,000 runs a figure, some minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import pairwise
from math import exp, log, log1p, sqrt
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np

from pointsman.stats import LatencyGate, RateGate, SampleRatio, compare_means, evaluate_policy, rate_interval
from pointsman.stats.latency import LONGEST_S, SHORTEST_S, bucket_of

BEYOND = 10**9
"""Requests that a run counts as that has not ended."""


class Errors(NamedTuple):
    """Shares of runs that ended in an alarm: by the gate, and by the usual test that is meant to be read once."""

    gate: float
    usual: float


class Cost(NamedTuple):
    """Requests of the canary, or units an arm, until a gate trips."""

    mean: float
    median: float


# -- error rates ---------------------------------------------------------------------------------------------------


def rate_ticks(rng: Any, p0: float, p1: float, ticks: int, beside: int) -> Iterator[tuple[int, int, int, int]]:
    """One canary request a tick, with ``beside`` of the baseline."""
    for k0, k1 in zip(rng.binomial(beside, p0, ticks).tolist(), (rng.random(ticks) < p1).tolist(), strict=True):
        yield beside, k0, 1, int(k1)


def rate_errors(runs: int, *, p: float = 0.01, looks: int = 5000, beside: int = 19, alpha: float = 0.05) -> Errors:
    """Two equal versions, and a look after each request of the canary; the usual z-test begins at 30 of them."""
    tripped = peeked = 0
    for run in range(runs):
        ticks = list(rate_ticks(np.random.default_rng([9, run]), p, p, looks, beside))
        gate = RateGate(alpha=alpha)
        for tick in ticks:
            gate.add(*tick)
        tripped += gate.tripped
        _, k0, _, k1 = np.cumsum(ticks, axis=0)[29:].T
        n = np.arange(30, looks + 1)
        pooled = (k0 + k1) / (n * (beside + 1))
        spread = np.sqrt(np.maximum(pooled * (1 - pooled), 1e-300) * (1 / n + 1 / (n * beside)))
        peeked += bool((k1 / n - k0 / (n * beside) > 1.645 * spread).any())
    return Errors(tripped / runs, peeked / runs)


def tripped_by(gate: RateGate, tick: tuple[int, int, int, int]) -> bool:
    gate.add(*tick)
    return gate.tripped


def rate_cost(runs: int, p0: float, p1: float, *, beside: int = 19, most: int = 20_000, alpha: float = 0.05) -> Cost:
    """Requests of a canary that fails more often, 5 of 100 requests, until the gate trips."""
    used = []
    for run in range(runs):
        gate = RateGate(alpha=alpha)
        rng = np.random.default_rng([10, run])
        ticks = enumerate(rate_ticks(rng, p0, p1, most, beside), 1)
        used.append(next((number for number, tick in ticks if tripped_by(gate, tick)), BEYOND))
    return Cost(fmean(used), median(used))


# -- latency -------------------------------------------------------------------------------------------------------

SIGMA = 0.5
"""Of the logarithm of latencies: p99 is 3.2 times the median."""

RATE = 100
BLOCK_S = 10


def drawn(rng: Any, count: int, times: float = 1.0) -> Any:
    return 0.1 * times * np.exp(SIGMA * rng.standard_normal(count))


def bucketed(latencies: Any) -> dict[int, int]:
    """How many latencies are in each bucket; the same as by :func:`bucket_of`, for arrays."""
    if not len(latencies):
        return {}
    buckets = np.ceil(np.log(np.clip(latencies, SHORTEST_S, LONGEST_S)) / log(1.02) - 1e-9).astype(int)
    assert buckets[0] == bucket_of(float(latencies[0]))
    counts = np.bincount(buckets - buckets.min())
    held = np.nonzero(counts)[0]
    return dict(zip((held + buckets.min()).tolist(), counts[held].tolist(), strict=True))


def latency_cost(runs: int, times: float, *, share: float = 0.05, alpha: float = 0.025) -> Cost:
    """Requests of a canary that takes ``times`` as long, until the gate on p99 trips: 100 requests/s,
    blocks of 10 s."""
    canary = round(RATE * BLOCK_S * share)
    used = []
    for run in range(runs):
        rng = np.random.default_rng([11, run])
        gate = LatencyGate(0.99, 1.0, alpha=alpha)
        blocks = 0
        while not gate.tripped and blocks < 1000:
            gate.add_buckets(bucketed(drawn(rng, RATE * BLOCK_S - canary)), bucketed(drawn(rng, canary, times)))
            blocks += 1
        used.append(blocks * canary if gate.tripped else BEYOND)
    return Cost(fmean(used), median(used))


def stall_errors(runs: int, *, share: float = 0.05, minutes: int = 30, alpha: float = 0.025) -> Errors:
    """Two equal versions, of which one stalls for a second each minute, each with the same chance: LatencyGate on p99
    in blocks of 10 s, and RateGate by seconds on the share of requests above the true p99."""
    late = 0.1 * exp(SIGMA * 2.3263)
    latency = rate = 0
    for run in range(runs):
        rng = np.random.default_rng([12, int(1000 * share), run])
        seconds = minutes * 60
        at = np.sort(rng.random(RATE * seconds) * seconds)
        canary = rng.random(len(at)) < share
        took = drawn(rng, len(at))
        for minute in range(minutes):
            begin, arm = minute * 60 + rng.random() * 59, rng.random() < 0.5
            first, last = np.searchsorted(at, [begin, begin + 1])
            hit = np.arange(first, last)[canary[first:last] == arm]
            took[hit] += begin + 1 - at[hit]
        latency += stalls_trip_latency(at, canary, took, alpha)
        rate += stalls_trip_rate(at.astype(int), canary, took > late, seconds, alpha)
    return Errors(latency / runs, rate / runs)


def stalls_trip_latency(at: Any, canary: Any, took: Any, alpha: float) -> bool:
    gate = LatencyGate(0.99, 1.0, alpha=alpha)
    edges = np.searchsorted(at, np.arange(0, at[-1] + BLOCK_S, BLOCK_S))
    for first, last in pairwise(edges):
        block, arm = took[first:last], canary[first:last]
        gate.add_buckets(bucketed(block[~arm]), bucketed(block[arm]))
    return gate.tripped


def stalls_trip_rate(second: Any, canary: Any, late: Any, seconds: int, alpha: float) -> bool:
    arms = [np.bincount(second[which], minlength=seconds).tolist() for which in
            (~canary, ~canary & late, canary, canary & late)]  # fmt: skip
    gate = RateGate(alpha=alpha)
    for tick in zip(*arms, strict=True):
        gate.add(*tick)
        if gate.tripped:
            break
    return gate.tripped


# -- means, shares, logged choices ---------------------------------------------------------------------------------


def moments(values: Any) -> tuple[Any, Any]:
    """Means and variances of the first n values, for each n from 1 on."""
    n = np.arange(1, len(values) + 1)
    means = values.cumsum() / n
    return means, np.maximum((values * values).cumsum() / n - means * means, 0) * n / np.maximum(n - 1, 1)


def half_widths(v: Any, n: Any, alpha: float, plan: float) -> Any:
    """ST5 as its text has it, for arrays."""
    length = log(1 / alpha)
    t = v * n / plan * (2 * length + log(1 + 2 * length))
    return np.sqrt(v * (v + t) / t * (2 * length + np.log((v + t) / v)))


def first_wrong(rng: Any, effect: float, looks: int, alpha: float) -> tuple[int, bool]:
    """The first look at which the interval leaves out 0, or ``BEYOND``; and whether the usual one ever does."""
    n = np.arange(1, looks + 1)
    (m0, v0), (m1, v1) = moments(rng.standard_normal(looks)), moments(rng.standard_normal(looks) + effect)
    v, far = (v0 + v1) / n, np.abs(m1 - m0)
    begun = slice(99, None)
    out = far[begun] > half_widths(v[begun], n[begun], alpha, 5000)
    first = int(out.argmax()) + 100 if out.any() else BEYOND
    for look in {100, looks, *rng.integers(100, looks, 5).tolist(), min(first, looks)}:
        i = look - 1
        _, low, high = compare_means((look, m0[i], v0[i]), (look, m1[i], v1[i]), alpha=alpha)
        assert (not low <= 0 <= high) == bool(out[look - 100]), "compare_means agrees with the formula, at each look"
    return first, bool((far[begun] > 1.96 * np.sqrt(v[begun])).any())


def mean_errors(runs: int, *, looks: int = 5000, alpha: float = 0.05) -> Errors:
    """Two equal arms, and a look after each unit of both from the 100th on."""
    results = [first_wrong(np.random.default_rng([13, run]), 0.0, looks, alpha) for run in range(runs)]
    return Errors(fmean(first < BEYOND for first, _ in results), fmean(peeked for _, peeked in results))


def mean_cost(runs: int, effect: float = 0.1, *, looks: int = 20_000, alpha: float = 0.05) -> Cost:
    """Units an arm until the interval leaves out 0, for an effect in standard deviations."""
    used = [first_wrong(np.random.default_rng([14, run]), effect, looks, alpha)[0] for run in range(runs)]
    return Cost(fmean(used), median(used))


def interval_errors(runs: int, p: float = 0.1, *, looks: int = 5000, alpha: float = 0.05) -> float:
    """The share of runs in which the interval ever misses the true rate, with a look after each request."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, looks + 2)))])  # of factorials
    n = np.arange(1, looks + 1)
    missed = 0
    for run in range(runs):
        rng = np.random.default_rng([15, int(1000 * p), run])
        k = (rng.random(looks) < p).cumsum()
        out = logs[k] + logs[n - k] - logs[n + 1] >= k * log(p) + (n - k) * log1p(-p) - log(alpha)
        for look in {looks, *rng.integers(1, looks, 5).tolist(), int(out.argmax()) + 1}:
            low, high = rate_interval(int(k[look - 1]), look, alpha)
            assert (not low <= p <= high) == bool(out[look - 1]), "rate_interval agrees with the formula, at each look"
        missed += bool(out.any())
    return missed / runs


def ratio_errors(runs: int, shares: dict[str, float], *, looks: int = 2000, alpha: float = 0.001) -> float:
    """The share of runs with an alarm, of units that fall as they should, with a look after each."""
    alarms = 0
    arms = list(shares)
    for run in range(runs):
        rng = np.random.default_rng([16, run])
        ratio = SampleRatio(shares, alpha)
        for arm in rng.choice(len(arms), p=list(shares.values()), size=looks).tolist():
            ratio.add({arms[arm]: 1})
        alarms += ratio.alarm
    return alarms / runs


class Coverage(NamedTuple):
    """Shares of runs in which the interval of each estimate holds the truth."""

    ips: float
    snips: float
    dr: float


def policy_coverage(runs: int, *, rows: int = 500) -> Coverage:
    """How often each interval of evaluate_policy holds the truth: rewards of 0 or 1 that depend on a feature of the
    row, arms by an uneven split that depends on it too, and a target that takes the better arm mostly."""
    truth = 0.5 * (0.8 * 0.5 + 0.2 * 0.3) + 0.5 * (0.8 * 0.7 + 0.2 * 0.2)
    rewards = {("x", "a"): 0.5, ("x", "b"): 0.3, ("y", "a"): 0.2, ("y", "b"): 0.7}
    target = {"x": {"a": 0.8, "b": 0.2}, "y": {"a": 0.2, "b": 0.8}}
    inside = np.zeros(3)
    for run in range(runs):
        draws = np.random.default_rng([17, run]).random((rows, 3)).tolist()
        logged = []
        for feature, choice, reward in draws:
            kind = "x" if feature < 0.5 else "y"
            take_a = 0.7 if kind == "x" else 0.4
            arm = "a" if choice < take_a else "b"
            value = float(reward < rewards[kind, arm])
            logged.append(
                {"kind": kind, "arm": arm, "propensity": take_a if arm == "a" else 1 - take_a, "value": value}
            )
        result = evaluate_policy(logged, lambda row: target[row["kind"]])
        inside += [estimate.low <= truth <= estimate.high for estimate in (result.ips, result.snips, result.dr)]
    return Coverage(*(inside / runs).tolist())


# -- the table -----------------------------------------------------------------------------------------------------


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def table(runs: int) -> Iterator[tuple[str, str, str, str]]:
    """Rule, question, what the rule promises, what these runs gave."""
    errors = rate_errors(runs)
    yield "ST9", "RateGate trips, equal versions, 5,000 looks", "at most 5 %", percent(errors.gate)
    yield "ST9", "a z-test, the same looks", "43 %", percent(errors.usual)
    for p0, p1, promised in ((0.01, 0.02, "1,020-1,090"), (0.01, 0.1, "40"), (0.01, 1.0, "3")):
        cost = rate_cost(runs, p0, p1)
        yield "ST10", f"canary requests, {p0:.0%} -> {p1:.0%} errors, mean", promised, f"{cost.mean:,.1f}"
    for times, promised in ((1.2, "1,250"), (2.0, "350")):
        cost = latency_cost(runs, times)
        yield "ST11", f"canary requests, p99 x{times}, median", promised, f"{cost.median:,.0f}"
    for share in (0.05, 0.5, 0.9):
        stalls = stall_errors(runs // 2, share=share)
        case = f"stalls, half an hour, canary {share:.0%}"
        yield "ST11", f"LatencyGate trips, {case}", "at most 3 %", percent(stalls.gate)
        yield "ST11", f"RateGate trips, {case}", "27-71 %", percent(stalls.usual)
    errors = mean_errors(runs)
    yield "ST12", "compare_means wrong, equal arms, 5,000 looks", "at most 2.5 %", percent(errors.gate)
    yield "ST12", "normal intervals, the same looks", "34-53 %", percent(errors.usual)
    yield "ST12", "units an arm, +0.1 sd, mean", "1,880", f"{mean_cost(runs).mean:,.0f}"
    for p in (0.01, 0.1, 0.5):
        yield "ST12", f"rate_interval ever misses {p}", "at most 3.6 %", percent(interval_errors(runs, p))
    for shares in ({"a": 0.5, "b": 0.5}, {"a": 0.95, "b": 0.05}):
        split = "/".join(f"{share:.0%}" for share in shares.values())
        yield "ST12", f"SampleRatio alarms, {split}, 2,000 looks", "at most 0.2 %", percent(ratio_errors(runs, shares))
    for name, covered in policy_coverage(runs)._asdict().items():
        yield "ST12", f"evaluate_policy, {name} covers", "93-97 %", percent(covered)


def binomial_limit(share: float, runs: int) -> float:
    """What a share in so many runs is at most, 3 standard deviations away, where it is ``share`` in truth."""
    return share + 3 * sqrt(share * (1 - share) / runs)


if __name__ == "__main__":
    for row in table(int(sys.argv[1]) if len(sys.argv) > 1 else 2000):
        print("| " + " | ".join(row) + " |", flush=True)
