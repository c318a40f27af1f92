"""Rules compared over kinds of traffic: the simulations of docs/autoscaling-compared.md, and their table.

    python -m pointsman.testing.scaling.figures [SEEDS]

prints the table. ``docs/plots/autoscaling.py`` writes it into the page.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterable, Sequence
from statistics import fmean

from pointsman.testing.scaling.simulate import Simulated, simulate_autoscaling

Steps = list[tuple[float, float]]
Figures = dict[str, int]
Runs = dict[str, dict[str, dict[str, list[Figures]]]]
"""By table, kind of traffic and rule, the figures of each seed."""

RULES = ("pointsman", "ray", "kpa", "oracle")
LENGTH_S = 1800
SEEDS = 5
DRAWS = range(1, 11)
"""Other draws of the last kind of traffic, which are not in the average: a draw may have many long pauses, or none."""
SWITCHING = "60/s for 30 s, then 10/s for 120, on average"
CALM_S = 3600
CALM_RATES = (3, 10, 30)
TUNED: dict[str, dict[str, float]] = {
    "ray": {"target_ongoing_requests": 0.7, "upscale_delay_s": 0, "downscale_delay_s": 300},
    "kpa": {"downscale_delay_s": 300},
}
"""The peers with Pointsman's target and delays, as far as they have such."""


def traces() -> dict[str, Steps]:
    """The five kinds of traffic, half an hour each, in calls per second. The last one is drawn by chance, once."""
    bursts = [step for begin in range(0, LENGTH_S, 300) for step in ((begin, 60.0), (begin + 30, 8.0))]
    sine = [(second, 30 + 25 * math.sin(2 * math.pi * (second + 5) / 1200)) for second in range(0, LENGTH_S, 10)]
    return {
        "30/s": [(0, 30), (LENGTH_S, 0)],
        "5, 60, 5/s, 10 min each": [(0, 5), (600, 60), (1200, 5), (LENGTH_S, 0)],
        "60/s for 30 of 300 s, else 8": [*bursts, (LENGTH_S, 0)],
        "5 to 55/s and back in 20 min": [*sine, (LENGTH_S, 0)],
        SWITCHING: switching(0),
    }


def switching(draw: int) -> Steps:
    """10 calls per second for 120 s, then 60 for 30 s, and so on; how long each time is exponentially distributed."""
    chance = random.Random(f"switching {draw}")
    steps: Steps = []
    now, busy = 0.0, False
    while now < LENGTH_S:
        steps.append((now, 60.0 if busy else 10.0))
        now += chance.expovariate(1 / (30 if busy else 120))
        busy = not busy
    return [*steps, (LENGTH_S, 0)]


def simulated(steps: Steps, rule: str, seed: int = 0, **fields: float) -> Simulated:
    """One simulation of the table: calls take 0.1 s with a coefficient of variation of 0.5 and are late after 0.5 s, a
    replica starts within 10 s, and there may be 40.

    Args:
        fields: of the autoscaling configuration, beside ``max_replicas``.
    """
    config = {"max_replicas": 40, **fields}
    return simulate_autoscaling(steps, config, service_s=(0.1, 0.5), slo_ms=500, start_s=10, policy=rule, seed=seed)


def run(seeds: Iterable[int], rules: Sequence[str] = RULES) -> Runs:
    """All simulations of the tables, of these seeds."""
    runs: Runs = {name: {} for name in ("busy", "draws", "tuned", "steady")}

    def note(part: str, kind: str, rule: str, steps: Steps, seed: int, **fields: float) -> None:
        found = runs[part].setdefault(kind, {}).setdefault(rule, [])
        found.append(figures(simulated(steps, rule, seed, **fields)))

    seeds = tuple(seeds)
    for rule in rules:
        for kind, steps in traces().items():
            for seed in seeds:
                note("busy", kind, rule, steps, seed)
                if rule in TUNED:
                    note("tuned", kind, rule, steps, seed, **TUNED[rule])
        for draw in DRAWS:
            note("draws", SWITCHING, rule, switching(draw), draw)
        for rate in CALM_RATES:
            for seed in seeds:
                note("steady", f"{rate}/s", rule, [(0, rate), (CALM_S, 0)], seed)
    return runs


def figures(result: Simulated) -> Figures:
    """What the tables need of a simulation, in integers, which are the same on each machine."""
    return {
        "requests": result.requests,
        "late": round(result.late * result.requests),
        "replica_seconds": round(result.replica_seconds),
        "peak": result.peak,
        "flaps": result.flaps,
        "changes": len(result.decisions),
    }


def table(runs: Runs) -> str:
    """The busy traffic as a Markdown table: late calls and replica-seconds by rule, and below them the averages."""
    busy = runs["busy"]
    rules = list(next(iter(busy.values())))
    lines = [f"| calls | {' | '.join(rules)} |", f"| --- |{' --- |' * len(rules)}"]
    lines += [f"| {kind} | {' | '.join(_cell(results[rule]) for rule in rules)} |" for kind, results in busy.items()]
    mean = [_cell([one for results in busy.values() for one in results[rule]]) for rule in rules]
    others = [_cell(runs["draws"][SWITCHING][rule]) for rule in rules]
    return "\n".join(
        [
            *lines,
            f"| **on average** | {' | '.join(mean)} |",
            f"| *other draws of the last kind* | {' | '.join(others)} |",
        ]
    )


def steady_table(runs: Runs) -> str:
    """An hour of steady traffic as a Markdown table: late calls, changes of the number, and flaps among them."""
    steady = runs["steady"]
    rules = list(next(iter(steady.values())))
    lines = [f"| an hour of | {' | '.join(rules)} |", f"| --- |{' --- |' * len(rules)}"]
    for kind, results in steady.items():
        cells = (f"{_mean(results[rule], 'changes'):.1f}, {_mean(results[rule], 'flaps'):.1f}" for rule in rules)
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tuned_table(runs: Runs) -> str:
    """The peers with other fields, over all busy traffic, as a Markdown table."""
    lines = ["| rule | fields | late calls, replica-seconds |", "| --- | --- | --- |"]
    for rule, fields in TUNED.items():
        results = [one for kind in runs["tuned"].values() for one in kind[rule]]
        shown = ", ".join(f"`{name}` {value:g}" for name, value in fields.items())
        lines.append(f"| {rule} | {shown} | {_cell(results)} |")
    return "\n".join(lines)


def late_share(results: Sequence[Figures]) -> float:
    """The share of late calls, on average over simulations."""
    return fmean(one["late"] / one["requests"] for one in results)


def _cell(results: Sequence[Figures]) -> str:
    return f"{late_share(results):.2%}, {_mean(results, 'replica_seconds'):,.0f}"


def _mean(results: Sequence[Figures], name: str) -> float:
    return fmean(one[name] for one in results)


if __name__ == "__main__":
    made = run(range(int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS))
    print(table(made))
    print()
    print(steady_table(made))
    print()
    print(tuned_table(made))
