"""What a rollout watches (RO4): each gate collects evidence against the new version, second by second. Pure.

A gate trips when its e-value reaches 1 / alpha (see :mod:`pointsman.stats`). It is made of its options and its state,
which is plain values, and gives its state back: the store keeps that.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, log2, sqrt
from typing import Any, NamedTuple, Protocol

from pointsman.controller.rollouts.options import (
    BURST_S,
    ERROR_RATE,
    LATENCY,
    METRICS,
    MISMATCH,
    alpha_of,
    quantile_of,
    quantiles_of,
)
from pointsman.controller.state import Arms, Means, Pairs
from pointsman.model.evidence import Tally
from pointsman.model.rollout import LARGEST, RolloutPlan
from pointsman.stats import BlockGate, LatencyGate, RateGate, rate_interval
from pointsman.stats.latency import bucket_of, quantile_bucket

MANY = 10**9
"""So many requests of a baseline are as good as its true rate."""

KNOWN_ALPHA = 1e-3
"""What share of a gate's alpha may go wrong by the interval of a baseline that gets no more requests."""

ROUNDING = 1e-7
"""Means that differ by no more than this share are the same: sums of floats are not exact, and miss by the same sign
each time where all values are equal. A process that has summed up 10^9 values misses by so much."""

ENOUGH = 400
"""So many values of the smaller arm make a block of a metric, if the other has more than twice as many: where most
values are 0, such as clicks, the mean of a few is below the true one nearly always: differences are not symmetric."""


class Tick(NamedTuple):
    """What was counted since the rollout was judged last.

    Attributes:
        seconds: how long that is.
        arms: requests.
        pairs: compared answers of the shadow, and of the baseline with itself.
        metrics: of user code, by name.
        before: what was counted of the baseline before, if the canary gets all requests.
    """

    seconds: float
    arms: Arms
    pairs: Pairs = Pairs()
    metrics: Mapping[str, Means] = {}
    before: Tally | None = None


class Gate(Protocol):
    """One thing that is watched. ``log_e`` is the evidence against the canary, and trips it at ``-log(alpha)``; once
    ``tripped``, it stays so."""

    @property
    def log_e(self) -> float: ...

    @property
    def tripped(self) -> bool: ...

    @property
    def alpha(self) -> float: ...

    def add(self, tick: Tick) -> None:
        """Count what has come."""

    def state(self) -> dict[str, Any]:
        """All that it knows, as plain values."""


def gates_of(plan: RolloutPlan, states: Mapping[str, dict[str, Any]]) -> dict[str, Gate]:
    """The gates of a checked plan, by name, each with its state if it has one.

    Health is no gate in this sense: there is no evidence to collect. Of several quantiles or metrics each is a gate of
    its own, with an equal part of the alpha.
    """
    alpha, gates = alpha_of(plan), dict[str, Gate]()
    for kind, options in plan.gates.items():
        if kind == ERROR_RATE:
            make = ErrorBlocks if options[BURST_S] else ErrorRate
            gates[kind] = make(options, alpha, states.get(kind))
        elif kind == LATENCY:
            quantiles = quantiles_of(options)
            for quantile, ratio in quantiles.items():
                name = kind if len(quantiles) == 1 else f"{kind}.{quantile}"
                share = alpha / len(quantiles)
                slow = LatencyBlocks if options[BURST_S] else SlowRate
                gates[name] = slow(quantile_of(quantile), ratio, options[BURST_S], share, states.get(name))
        elif kind == MISMATCH:
            gates[kind] = Mismatches(options, alpha, states.get(kind))
        elif kind == METRICS:
            for metric, wanted in options.items():
                name = f"{kind}.{metric}"
                gates[name] = Metric(metric, wanted, alpha / len(options), states.get(name))
    return gates


def too_slow(plan: RolloutPlan) -> str:
    """A warning about gates that cannot trip while there is a baseline to compare with; empty if all can.

    A block multiplies evidence by 2 at most, and the first one only says what is usual.
    """
    there_s = plan.hold_s * sum(step < 1 for step in plan.steps)
    takes = {
        name: gate.block_s * (1 + ceil(-log2(gate.alpha)))
        for name, gate in gates_of(plan, {}).items()
        if isinstance(gate, _Blocks)
    }
    late = [name for name, seconds in takes.items() if seconds > there_s]
    if not late:
        return ""
    gates, needed = ("gate", "it needs") if len(late) == 1 else ("gates", "they need")
    shorter = "" if late[0].startswith(METRICS) else f", or a shorter {BURST_S},"
    return (
        f"{gates} {', '.join(late)} may come too late: {needed} {max(takes.values()):.3g} s or more to be sure, and the"
        f" steps below 100 % may be over after {there_s:.3g} s; a longer hold_s{shorter} gives time"
    )


class _Betting:
    """A gate of :mod:`pointsman.stats` inside."""

    _gate: RateGate | BlockGate | LatencyGate

    @property
    def log_e(self) -> float:
        return self._gate.log_e

    @property
    def tripped(self) -> bool:
        return self._gate.tripped

    @property
    def alpha(self) -> float:
        return self._gate.alpha


class _Blocks(_Betting):
    """One that looks at blocks of time."""

    block_s: float


class RuleOut:
    """Whether it is certain enough that the canary has not so many times the baseline's errors, if that was asked."""

    def __init__(self, times: float | None, alpha: float, state: Mapping[str, Any] | None) -> None:
        self._gate = RateGate(max_ratio=1 / times, alpha=alpha) if times is not None else None
        if state is not None:
            self._gate = RateGate.from_state(state)

    @property
    def is_done(self) -> bool:
        return self._gate is None or self._gate.tripped

    def add(self, tick: Tick) -> None:
        if self._gate is not None and tick.before is None:
            self._gate.add(*_counts(tick.arms.canary), *_counts(tick.arms.baseline))

    def state(self) -> dict[str, Any] | None:
        return self._gate.state() if self._gate is not None else None


class ErrorRate(_Betting):
    """Errors, second by second: for requests that fail independently of each other.

    When the canary gets all requests there is nothing left to compare it with at the same time. It is held then against
    the highest rate that the baseline can have had before: this takes for granted that the rate has not risen since.
    """

    _gate: RateGate

    def __init__(self, options: Mapping[str, Any], alpha: float, state: Mapping[str, Any] | None) -> None:
        self._alpha = alpha
        self._gate = RateGate(max_ratio=options["max_ratio"], slack=options["slack"], alpha=alpha)
        if state is not None:
            self._gate = RateGate.from_state(state["gate"])
        self.rule_out = RuleOut(options["rule_out"], alpha, state and state["rule"])

    def add(self, tick: Tick) -> None:
        self.rule_out.add(tick)
        canary = _counts(tick.arms.canary)
        if tick.before is None:
            self._gate.add(*_counts(tick.arms.baseline), *canary)
        elif canary[0] and (known := tick.before).requests:
            _, highest = rate_interval(known.errors, known.requests, self._alpha * KNOWN_ALPHA)
            self._gate.add(MANY, ceil(highest * MANY), *canary)

    def state(self) -> dict[str, Any]:
        return {"gate": self._gate.state(), "rule": self.rule_out.state()}


class Block:
    """What is collected for one block of time; it is over when it lasted ``seconds`` and both arms had enough."""

    def __init__(self, seconds: float, state: Mapping[str, Any] | None = None) -> None:
        self._wanted_s = seconds
        self._lasted_s: float = state["lasted_s"] if state is not None else 0.0
        self.arms: list[dict[Any, float]] = [dict(arm) for arm in state["arms"]] if state is not None else [{}, {}]

    @property
    def is_long_enough(self) -> bool:
        return self._lasted_s >= self._wanted_s - _A_LITTLE_S

    def add(self, seconds: float, *arms: Mapping[Any, float]) -> None:
        """Add what was counted of the baseline and of the canary."""
        self._lasted_s += seconds
        for counts, more in zip(self.arms, arms, strict=True):
            for key, count in more.items():
                counts[key] = counts.get(key, 0) + count

    def taken(self) -> list[dict[Any, float]]:
        """What it has, and begins anew."""
        arms, self.arms, self._lasted_s = self.arms, [{}, {}], 0.0
        return arms

    def state(self) -> dict[str, Any]:
        return {"lasted_s": self._lasted_s, "arms": [[list(pair) for pair in arm.items()] for arm in self.arms]}


_A_LITTLE_S = 0.25
"""Readings do not come to the millisecond: a block of 10 s is one of ten readings."""


class ErrorBlocks(_Blocks):
    """Errors in blocks of time: for failures that come in bursts. The scale of a block is that of the baseline's rate
    in earlier blocks; the first block only sets that."""

    def __init__(self, options: Mapping[str, Any], alpha: float, state: Mapping[str, Any] | None) -> None:
        self._ratio, self._slack = options["max_ratio"], options["slack"]
        self.block_s = options[BURST_S]
        self._block = Block(self.block_s, state and state["block"])
        self._gate: BlockGate = BlockGate.from_state(state["gate"]) if state is not None else BlockGate(alpha=alpha)
        self._known: tuple[float, float] = tuple(state["known"]) if state is not None else (0, 0)
        self.rule_out = RuleOut(options["rule_out"], alpha, state and state["rule"])

    def add(self, tick: Tick) -> None:
        self.rule_out.add(tick)
        arms = ({"n": arm.requests, "k": arm.errors} for arm in (tick.arms.baseline, tick.arms.canary))
        self._block.add(tick.seconds, *arms)
        n0, n1 = (arm.get("n", 0) for arm in self._block.arms)
        n, k = self._known
        rate = (k + 1) / (n + 1 / (self._slack or 0.01))
        # With a baseline that is the smaller arm and has next to no errors in a block, differences are not symmetric.
        if not self._block.is_long_enough or not n0 or not n1 or n0 < min(n1, 1 / rate):
            return
        baseline, canary = self._block.taken()
        if n:
            worse = canary["k"] / n1 - self._ratio * baseline["k"] / n0 - self._slack
            self._gate.add(worse, sqrt(rate * (1 - rate) * (1 / n1 + 1 / n0)))
        self._known = (n + n0, k + baseline["k"])

    def state(self) -> dict[str, Any]:
        rest = {"rule": self.rule_out.state(), "known": list(self._known)}
        return {"gate": self._gate.state(), "block": self._block.state(), **rest}


class LatencyBlocks(_Blocks):
    """A quantile of latency, in blocks of time. A block with fewer requests of the baseline than it takes to have one
    above the quantile goes on until it has so many: it would not be symmetric."""

    def __init__(
        self, quantile: float, ratio: float, burst_s: float, alpha: float, state: Mapping[str, Any] | None
    ) -> None:
        self.block_s = burst_s
        self._block = Block(burst_s, state and state["block"])
        self._gate: LatencyGate = LatencyGate(quantile, ratio, alpha=alpha)
        if state is not None:
            self._gate = LatencyGate.from_state(state["gate"])
        self._enough = 1 / (1 - quantile) - 1e-6

    def add(self, tick: Tick) -> None:
        self._block.add(tick.seconds, tick.arms.baseline.latencies, tick.arms.canary.latencies)
        baseline, canary = self._block.arms
        if self._block.is_long_enough and canary and sum(baseline.values()) >= self._enough:
            self._gate.add_buckets(*self._block.taken())  # type: ignore[arg-type]  # counts are whole

    def state(self) -> dict[str, Any]:
        return {"gate": self._gate.state(), "block": self._block.state()}


class SlowRate(_Betting):
    """How many requests take longer than the baseline's quantile so far, second by second: for ``burst_s`` 0."""

    def __init__(
        self, quantile: float, ratio: float, burst_s: float, alpha: float, state: Mapping[str, Any] | None
    ) -> None:
        self._quantile = quantile
        self._shift = bucket_of(ratio) - bucket_of(1.0)
        self._gate: RateGate = RateGate.from_state(state["gate"]) if state is not None else RateGate(alpha=alpha)
        self._seen: dict[int, int] = dict(state["seen"]) if state is not None else {}

    def add(self, tick: Tick) -> None:
        baseline, canary = tick.arms.baseline.latencies, tick.arms.canary.latencies
        if self._seen and tick.before is None:
            limit = quantile_bucket(self._seen, self._quantile)
            self._gate.add(*_above(baseline, limit), *_above(canary, limit + self._shift))
        for bucket, count in baseline.items():
            self._seen[bucket] = self._seen.get(bucket, 0) + count

    def state(self) -> dict[str, Any]:
        return {"gate": self._gate.state(), "seen": [list(pair) for pair in self._seen.items()]}


class Mismatches(_Betting):
    """Answers of a comparing shadow that differ, more often than the baseline differs from itself."""

    def __init__(self, options: Mapping[str, Any], alpha: float, state: Mapping[str, Any] | None) -> None:
        self._gate: RateGate = RateGate(slack=options["slack"], alpha=alpha)
        if state is not None:
            self._gate = RateGate.from_state(state["gate"])

    def add(self, tick: Tick) -> None:
        noise, compared = tick.pairs.noise, tick.pairs.compared
        self._gate.add(noise.pairs, noise.mismatched, compared.pairs, compared.mismatched)

    def state(self) -> dict[str, Any]:
        return {"gate": self._gate.state()}


class Metric(_Blocks):
    """The mean of a metric of user code, in blocks of time. Nothing is known of how single values spread, so the scale
    of a block is that of the differences in earlier ones; the first block only sets that."""

    def __init__(self, name: str, options: Mapping[str, Any], alpha: float, state: Mapping[str, Any] | None) -> None:
        self._name, self._max_loss = name, options["max_loss"]
        self._sign = 1.0 if options["better"] == "higher" else -1.0
        self.block_s = METRIC_BLOCK_S
        self._block = Block(METRIC_BLOCK_S, state and state["block"])
        self._gate: BlockGate = BlockGate.from_state(state["gate"]) if state is not None else BlockGate(alpha=alpha)
        self._squares: float = state["squares"] if state is not None else 0.0
        self._blocks: int = state["blocks"] if state is not None else 0

    def add(self, tick: Tick) -> None:
        means = tick.metrics.get(self._name, Means())
        self._block.add(tick.seconds, *({"n": arm.count, "sum": arm.sum} for arm in (means.baseline, means.canary)))
        n0, n1 = (arm.get("n", 0) for arm in self._block.arms)
        if not self._block.is_long_enough or min(n0, n1) < min(max(n0, n1) / 2, ENOUGH):
            return
        baseline, canary = self._block.taken()
        before, after, unit = baseline["sum"] / n0, canary["sum"] / n1, 1 / n1 + 1 / n0
        loss = self._sign * (before - after)
        if abs(loss) <= ROUNDING * max(abs(before), abs(after)):
            loss = 0.0
        if abs(loss) > LARGEST:  # values that nobody can mean, whose squares are no numbers
            return
        if self._squares:
            self._gate.add(loss - self._max_loss, sqrt(self._squares / self._blocks * unit))
        self._squares += loss * loss / unit
        self._blocks += 1

    def state(self) -> dict[str, Any]:
        rest = {"squares": self._squares, "blocks": self._blocks}
        return {"gate": self._gate.state(), "block": self._block.state(), **rest}


METRIC_BLOCK_S = 10.0


def _counts(arm: Tally) -> tuple[int, int]:
    return arm.requests, min(arm.errors, arm.requests)


def _above(counts: Mapping[int, int], limit: int) -> tuple[int, int]:
    return sum(counts.values()), sum(count for bucket, count in counts.items() if bucket > limit)
