"""Runs of `pointsman.stats` for the page "Is the new model worse?", with fixed seeds.

    python docs/plots/simulate.py    # writes runs.json beside this file; some minutes; or only those that are named
    python docs/plots/draw.py        # draws the SVG files from it, and prints the tables of the page

Each run depends on its own seed only, and takes from it nothing but ``random()``, whose numbers are the same on each
machine. So a test makes a few of the runs again and finds the same integers, and the page cannot say anything else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from math import exp, sqrt
from pathlib import Path
from random import Random
from statistics import NormalDist
from typing import Any

from pointsman.stats import LatencyGate, RateGate
from pointsman.stats.latency import bucket_of

RUNS = Path(__file__).with_name("runs.json")

BESIDE = 19
"""Requests of the baseline for each one of the canary: the canary has 5 % of the traffic."""

BASELINE = 0.01
"""The share of requests that fail, of the version that is known."""

LOOKS = 5000
"""Requests of the canary in a run with equal versions, with a look after each."""

RATES = (0.015, 0.02, 0.03, 0.05, 0.1, 0.3, 1.0)
"""The canary's share of failures, where it is worse."""

MOST = 50_000
"""A run ends after so many requests of the canary."""

NOISE = 0.03
"""How often a model differs from itself."""

DIFFER = (0.03, 0.06, 0.12, 0.3)
"""How often a shadow differs from it."""

PAIRS = 10
"""Compared answers of the shadow for each pair of the model with itself."""

MOST_PAIRS = 20_000

PATH_RATES = (0.01, 0.03)
PATH_LOOKS = 1000

SIGMA = 0.5
"""Of the logarithm of latencies: p99 is 3.2 times the median, which is 100 ms."""

PER_SECOND = 40
MINUTES = 30
BLOCK_S = 10
STALL_ALPHA = 0.025
"""Half of a rollout's alpha: the other half is for the error rate."""

LATENCIES = tuple(0.1 * exp(SIGMA * NormalDist().inv_cdf((step + 0.5) / 4096)) for step in range(4096))
"""Seconds, equally likely."""

LATE_S = 0.1 * exp(SIGMA * NormalDist().inv_cdf(0.99))
"""The true p99."""

Ticks = Callable[[], tuple[int, int]]


def ticks(name: str, run: int, rate: float) -> Ticks:
    """Gives, for one request of the canary after the other, how many of the baseline's requests beside it failed (at
    most 3: more come once in 300,000 times), and whether it failed itself."""
    draw = Random(f"{name} {run}").random
    none, one = (1 - BASELINE) ** BESIDE, BESIDE * BASELINE * (1 - BASELINE) ** (BESIDE - 1)
    two = (BESIDE * (BESIDE - 1) // 2) * BASELINE**2 * (1 - BASELINE) ** (BESIDE - 2)
    first, second, third = accumulate((none, one, two))

    def tick() -> tuple[int, int]:
        drawn = draw()
        return (drawn >= first) + (drawn >= second) + (drawn >= third), int(draw() < rate)

    return tick


def false_alarm(run: int) -> tuple[int, int]:
    """At which request of the canary an equal version is first called worse, or 0: by the gate, and by a z-test at 5 %
    that is read after each request from the 30th on."""
    tick, gate = ticks("equal", run, BASELINE), RateGate()
    by_gate = by_test = failed0 = failed1 = 0
    for number in range(1, LOOKS + 1):
        k0, k1 = tick()
        failed0, failed1 = failed0 + k0, failed1 + k1
        if not by_gate:
            gate.add(BESIDE, k0, 1, k1)
            by_gate = number if gate.tripped else 0
        if not by_test and number >= 30:
            pooled = (failed0 + failed1) / (number * (BESIDE + 1))
            spread = sqrt(pooled * (1 - pooled) * (1 / number + 1 / (number * BESIDE)))
            by_test = number if failed1 / number - failed0 / (number * BESIDE) > 1.645 * spread else 0
    return by_gate, by_test


def cost(run: int, rate: float) -> tuple[int, int]:
    """Requests that a worse version gets until the gate trips, and how many of them failed."""
    tick, gate = ticks(f"worse {rate}", run, rate), RateGate()
    failed = 0
    for number in range(1, MOST + 1):
        k0, k1 = tick()
        failed += k1
        gate.add(BESIDE, k0, 1, k1)
        if gate.tripped:
            return number, failed
    return MOST, failed


def differs(run: int, rate: float) -> int:
    """After how many compared answers it is shown that a shadow differs more often than the model does from itself, or
    0."""
    draw, gate = Random(f"differs {rate} {run}").random, RateGate()
    for pairs in range(PAIRS, MOST_PAIRS + 1, PAIRS):
        gate.add(1, int(draw() < NOISE), PAIRS, sum(draw() < rate for _ in range(PAIRS)))
        if gate.tripped:
            return pairs
    return 0


def path(run: int, rate: float) -> list[tuple[int, float]]:
    """The logarithm of the e-value after each tenth request, and after the one that trips the gate."""
    tick, gate = ticks(f"path {rate}", run, rate), RateGate()
    logs = [(0, 0.0)]
    for number in range(1, PATH_LOOKS + 1):
        k0, k1 = tick()
        gate.add(BESIDE, k0, 1, k1)
        if gate.tripped or number % 10 == 0:
            logs.append((number, round(gate.log_e, 2)))
        if gate.tripped:
            break
    return logs


def stalls(run: int, times: float) -> tuple[int, int]:
    """The minute in which a version is first called slower, or 0: by a LatencyGate on p99, and by a RateGate on the
    share of requests that took longer than the true p99. Its latencies are ``times`` as long as those of the baseline,
    which gets as many requests. Once a minute one of the two stalls for a second, by the toss of a coin: what it gets
    then is answered when the second is over."""
    draw = Random(f"stalls {times} {run}").random
    latency, rate = LatencyGate(0.99, 1.05, alpha=STALL_ALPHA), RateGate(alpha=STALL_ALPHA)
    by_latency = by_rate = 0
    blocks: tuple[dict[int, int], dict[int, int]] = ({}, {})
    for second in range(60 * MINUTES):
        if second % 60 == 0:
            begin, stalled = second + int(59 * draw()), draw() < 0.5
        counts, late = [0, 0], [0, 0]
        for request in range(PER_SECOND):
            canary = draw() < 0.5
            took = LATENCIES[int(4096 * draw())] * (times if canary else 1.0)
            if second == begin and canary == stalled:
                took += 1 - (request + 0.5) / PER_SECOND
            counts[canary] += 1
            late[canary] += took > LATE_S
            bucket = bucket_of(took)
            blocks[canary][bucket] = blocks[canary].get(bucket, 0) + 1
        rate.add(counts[0], late[0], counts[1], late[1])
        by_rate = by_rate or (second // 60 + 1 if rate.tripped else 0)
        if second % BLOCK_S == BLOCK_S - 1:
            latency.add_buckets(*blocks)
            blocks = ({}, {})
            by_latency = by_latency or (second // 60 + 1 if latency.tripped else 0)
    return by_latency, by_rate


SIMULATIONS: dict[str, tuple[int, Callable[[int], Any]]] = {
    "equal": (1000, false_alarm),
    **{f"worse {rate}": (500, partial(cost, rate=rate)) for rate in RATES},
    **{f"differs {rate}": (200, partial(differs, rate=rate)) for rate in DIFFER},
    **{f"path {rate}": (12, partial(path, rate=rate)) for rate in PATH_RATES},
    **{f"stalls {times}": (200, partial(stalls, times=times)) for times in (1.0, 1.5)},
}
"""By name, how many runs there are, and what one run gives."""


def load() -> dict[str, list[Any]]:
    """The runs that the page is made of, by simulation."""
    runs: dict[str, list[Any]] = json.loads(RUNS.read_text())
    return runs


def main() -> None:
    names = sys.argv[1:] or list(SIMULATIONS)
    known = load() if sys.argv[1:] else {}
    lines = []
    for name, (count, simulation) in SIMULATIONS.items():
        if name not in names:
            lines.append(f"{json.dumps(name)}: {json.dumps(known[name])}")
            continue
        lines.append(f"{json.dumps(name)}: {json.dumps([simulation(run) for run in range(count)])}")
        print(f"{name}: {count} runs", flush=True)
    RUNS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
