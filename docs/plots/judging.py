"""Two drawings of docs/concepts/judging-a-canary.md: rollouts in simulation, by the gate and intervals that serve.

Requests come 100 a second, and the old version fails for 1 of 100. The steps are the default ones, and so is the gate
on errors: slack 0.001, and half of an alpha of 0.05.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log10, sqrt
from random import Random
from typing import NamedTuple

from drawing import Drawing

from pointsman.policy.differences import rate_difference, tolerance
from pointsman.stats import RateGate

STEPS = (0.01, 0.05, 0.25, 0.5, 1.0)
HOLD_S = 300
RATE = 100
OLD = 0.01
SLACK = 0.001
ALPHA = 0.025
ALLOWED = tolerance(0.05 / 4)
"""As `traffic compare` has it: four differences share 0.05."""


class Second(NamedTuple):
    """After a second: weight, difference of the error rates with its interval, evidence, and what was counted."""

    at: int
    weight: float
    value: float
    low: float
    high: float
    e: float
    canary: int
    failed: int


def rollout(seed: str, errors: float) -> list[Second]:
    """One rollout, second by second, until its gate trips or its last step is over. With all traffic there is nobody to
    compare with, so the interval stays as it was."""
    draw, gate = Random(seed).random, RateGate(slack=SLACK, alpha=ALPHA)
    counts = [0, 0, 0, 0]
    seconds: list[Second] = []
    for at in range(HOLD_S * len(STEPS)):
        weight = STEPS[at // HOLD_S]
        tick = [0, 0, 0, 0]
        for _ in range(RATE):
            new = draw() < weight
            tick[2 * new] += 1
            tick[2 * new + 1] += draw() < (errors if new else OLD)
        if weight < 1:
            gate.add(*tick)
            counts = [total + more for total, more in zip(counts, tick, strict=True)]
        n0, k0, n1, k1 = counts
        # What is shown is enough: an interval takes a millisecond.
        seen = n0 and n1 and (at < 150 or at % 10 == 9 or gate.tripped)
        low, high = rate_difference(k0, n0, k1, n1, ALLOWED) if seen else (-1.0, 1.0)
        value = k1 / n1 - k0 / n0 if n0 and n1 else 0.0
        seconds.append(Second(at + 1, weight, value, low, high, exp(gate.log_e), n1, k1))
        if gate.tripped:
            break
    return seconds


LEFT, RIGHT = 74, 456


def picture(title: str, description: str, seconds: Sequence[Second], ends: str, y_ticks: Sequence[float]) -> str:
    """Weights, the interval of the difference and evidence, one below the other, by the time."""
    drawing = Drawing(title, description, 694)
    longest = seconds[-1].at
    shown = seconds if longest < 150 else seconds[9::10]
    lowest, highest = y_ticks[0], y_ticks[-1]

    def across(at: float) -> float:
        return LEFT + (RIGHT - LEFT) * at / longest

    def weight_at(weight: float) -> float:
        return 148 - 96 * sqrt(weight)

    def down(value: float) -> float:
        return 396 - 190 * (min(max(value, lowest), highest) - lowest) / (highest - lowest)

    def evidence_at(e: float) -> float:
        return 570 - 120 * (log10(max(e, 1e-4)) + 4) / 6

    drawing.text(16, 30, "share of the new version", "bold")
    drawing.line([(LEFT, 148), (RIGHT, 148)])
    for weight in sorted({second.weight for second in seconds} - {STEPS[0]}):
        drawing.text(LEFT - 8, weight_at(weight) + 6, f"{100 * weight:.0f} %", "soft", "end")
    drawing.text(LEFT + 8, weight_at(STEPS[0]) - 6, f"{100 * STEPS[0]:.0f} %", "soft")
    steps = [(0.0, 148.0)]
    for second in seconds:
        steps += [(second.at - 1, weight_at(second.weight)), (second.at, weight_at(second.weight))]
    steps = [(across(at), y) for at, y in steps]
    drawing.line([*steps, (RIGHT, 148.0 if "back" in ends else steps[-1][1])], "line")

    drawing.text(16, 186, "errors: new less old, what it can be", "bold")
    band = [(across(one.at), down(one.high)) for one in shown]
    drawing.area([*band, *((across(one.at), down(one.low)) for one in reversed(shown))], "pale")
    for tick in y_ticks:
        drawing.text(LEFT - 8, down(tick) + 6, f"{100 * tick:+.0f} %" if tick else "0", "soft", "end")
    drawing.line([(LEFT, down(0)), (RIGHT, down(0))])
    drawing.line([(across(one.at), down(one.value)) for one in shown if one.canary >= 20], "line")
    drawing.line([(LEFT, down(SLACK)), (RIGHT, down(SLACK))], "ask")

    drawing.text(16, 430, "evidence against the new version", "bold")
    for e, words in ((1 / ALPHA, f"{1 / ALPHA:.0f}"), (1.0, "1"), (0.01, "0.01")):
        drawing.text(LEFT - 8, evidence_at(e) + 6, words, "soft", "end")
    drawing.line([(LEFT, evidence_at(1)), (RIGHT, evidence_at(1))])
    drawing.line([(LEFT, evidence_at(1 / ALPHA)), (RIGHT, evidence_at(1 / ALPHA))], "ask")
    drawing.line([(across(one.at), evidence_at(one.e)) for one in shown], "line")
    for at, anchor in ((0, "start"), (longest, "end")):
        drawing.text(across(at), 596, f"{at} s" if at < 120 else f"{at / 60:.0f} min", "soft", anchor)
    drawing.text((LEFT + RIGHT) / 2, 596, ends, "bold", "middle")

    drawing.rectangle(16, 616, 24, 16, "pale", 2)
    drawing.text(48, 630, "interval")
    drawing.line([(136, 624), (160, 624)], "line")
    drawing.text(168, 630, "seen so far")
    drawing.line([(284, 624), (308, 624)], "ask")
    drawing.text(316, 630, "limit")
    last = seconds[-1]
    drawing.text(16, 668, f"{last.canary:,} requests compared, of which {last.failed:,} failed")
    return drawing.svg()


def sound() -> str:
    """A version that fails as often as the old one."""
    return picture(
        "A sound version is promoted",
        "The share of the new version grows in five steps within 25 minutes. The interval of the difference between"
        " both error rates shrinks around zero, evidence stays below its limit, and the version is promoted.",
        rollout("sound", OLD),
        "promoted",
        (-0.02, 0.0, 0.02, 0.04),
    )


def worse() -> str:
    """A version that fails ten times as often."""
    return picture(
        "A worse version is taken back",
        "The new version has one percent of the traffic. The interval of the difference between both error rates has"
        " only just left zero when evidence reaches its limit, and all traffic goes back to the old version.",
        rollout("worse", 0.1),
        "taken back",
        (-0.1, 0.0, 0.1, 0.2, 0.3),
    )
