"""The table of docs/autoscaling.md: rules compared over kinds of traffic.

    python -m pointsman.testing.scaling.figures [SEEDS]

The numbers of one seed are those of :func:`~pointsman.testing.simulate_autoscaling`; the table has their means.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterable, Sequence
from statistics import fmean

from pointsman.testing.scaling.simulate import Simulated, simulate_autoscaling

Steps = list[tuple[float, float]]
RULES = ("pointsman", "ray", "kpa", "oracle")
LENGTH_S = 1800
SEEDS = 5
CALM_S = 3600
CALM_RATES = (3, 10, 30)


def traces(seed: int = 0) -> dict[str, Steps]:
    """The kinds of traffic, half an hour each, in calls per second; the seed makes the last one."""
    bursts = [step for begin in range(0, LENGTH_S, 300) for step in ((begin, 60.0), (begin + 30, 8.0))]
    sine = [(second, 30 + 25 * math.sin(2 * math.pi * (second + 5) / 1200)) for second in range(0, LENGTH_S, 10)]
    return {
        "30/s": [(0, 30), (LENGTH_S, 0)],
        "5, 60, 5/s, 10 min each": [(0, 5), (600, 60), (1200, 5), (LENGTH_S, 0)],
        "60/s for 30 of 300 s, else 8": [*bursts, (LENGTH_S, 0)],
        "5 to 55/s and back in 20 min": [*sine, (LENGTH_S, 0)],
        "60/s for 30 s, then 10/s for 120, on average": _switching(random.Random(f"switching {seed}")),
    }


def simulated(steps: Steps, rule: str, seed: int = 0, **fields: float) -> Simulated:
    """One simulation of the table: calls take 0.1 s with a coefficient of variation of 0.5 and are late after 0.5 s, a
    replica starts within 10 s, and there may be 40.

    Args:
        fields: of the autoscaling configuration, beside ``max_replicas``.
    """
    config = {"max_replicas": 40, **fields}
    return simulate_autoscaling(steps, config, service_s=(0.1, 0.5), slo_ms=500, start_s=10, policy=rule, seed=seed)


def rows(seeds: Iterable[int], names: Iterable[str] = RULES) -> dict[str, dict[str, list[Simulated]]]:
    """For each kind of traffic and rule the results of all seeds."""
    found: dict[str, dict[str, list[Simulated]]] = {}
    for seed in seeds:
        for kind, steps in traces(seed).items():
            for name in names:
                found.setdefault(kind, {}).setdefault(name, []).append(simulated(steps, name, seed))
    return found


def table(found: dict[str, dict[str, list[Simulated]]]) -> str:
    """The results as a Markdown table: late calls, replica-seconds, and changes of direction."""
    names = list(next(iter(found.values())))
    lines = [f"| calls | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    lines += [f"| {kind} | {' | '.join(_cell(results[name]) for name in names)} |" for kind, results in found.items()]
    mean = [_cell([result for results in found.values() for result in results[name]]) for name in names]
    return "\n".join([*lines, f"| on average | {' | '.join(mean)} |"])


def calm(seeds: Iterable[int], names: Sequence[str] = RULES[:3]) -> str:
    """A table of the changes and flaps in an hour of steady traffic."""
    seeds = tuple(seeds)
    lines = [f"| an hour of | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    for rate in CALM_RATES:
        cells = []
        for name in names:
            results = [simulated([(0, rate), (CALM_S, 0)], name, seed) for seed in seeds]
            changes = fmean(len(result.decisions) for result in results)
            cells.append(f"{changes:.1f}, {fmean(result.flaps for result in results):.1f}")
        lines.append(f"| {rate}/s | {' | '.join(cells)} |")
    return "\n".join(lines)


def _switching(chance: random.Random) -> Steps:
    """10 calls per second, and now and then 60, for times that are exponentially distributed."""
    steps: Steps = []
    now, busy = 0.0, False
    while now < LENGTH_S:
        steps.append((now, 60.0 if busy else 10.0))
        now += chance.expovariate(1 / (30 if busy else 120))
        busy = not busy
    return [*steps, (LENGTH_S, 0)]


def _cell(results: list[Simulated]) -> str:
    late = fmean(result.late for result in results)
    used = fmean(result.replica_seconds for result in results)
    return f"{late:.2%}, {used:,.0f}, {fmean(result.flaps for result in results):.1f}"


if __name__ == "__main__":
    chosen = range(int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS)
    print(table(rows(chosen)))
    print()
    print(calm(chosen))
