"""pointsman.stats: RateGate, BlockGate and LatencyGate, held against their formulas computed in other ways."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.stats import BlockGate, LatencyGate, RateGate, SampleRatio
from pointsman.stats.latency import bucket_of, quantile_bucket, upper_edge
from tests.properties import examples
from tests.unit.sentences import sentence

GROWTHS = [Fraction("1.25"), Fraction("1.5"), Fraction(2), Fraction(3), Fraction(6), Fraction(30)]

TICK = st.tuples(st.integers(1, 60), st.integers(0, 9), st.integers(1, 60), st.integers(0, 9)).map(
    lambda t: (t[0], min(t[0], t[1]), t[2], min(t[2], t[3]))
)


def exact_e(ticks: list[tuple[int, int, int, int]], ratio: Fraction, cap: Fraction) -> Fraction:
    """The e-value of RateGate without slack, in fractions."""
    products = []
    for g in GROWTHS:
        product = Fraction(1)
        for n0, k0, n1, k1 in ticks:
            b = (n0 + n1 * ratio) / (n0 + n1 * ratio * g)
            product *= min(cap, (g * b) ** k1 * b**k0)
        products.append(product)
    return sum(products) / len(products)


def added(gate: Any, ticks: list[Any]) -> Any:
    for tick in ticks:
        gate.add(*tick)
    return gate


def test_one_error_of_the_canary_by_hand() -> None:
    """After one failed request of the canary beside one good one of the baseline, the e-value is the mean of
    2g/(1+g) (ST1)."""
    gate = RateGate()
    gate.add(1, 0, 1, 1)
    mean = sum(2 * g / (1 + g) for g in (1.25, 1.5, 2, 3, 6, 30)) / 6
    assert math.exp(gate.log_e) == pytest.approx(mean)
    assert not gate.tripped


@examples(200)
@given(ticks=st.lists(TICK, max_size=8), ratio=st.sampled_from([Fraction(1), Fraction(3, 2), Fraction(1, 2)]))
def test_the_e_value_of_rates_is_the_formula(ticks: list[tuple[int, int, int, int]], ratio: Fraction) -> None:
    """Whatever the ticks are, the e-value is what fractions give (ST1)."""
    gate = added(RateGate(max_ratio=float(ratio), alpha=1 / 16), ticks)
    assert gate.log_e == pytest.approx(math.log(exact_e(ticks, ratio, Fraction(4))), abs=1e-9)


@pytest.mark.parametrize(("max_ratio", "slack"), [(1.0, 0.0), (1.5, 0.0), (1.0, 0.05), (0.5, 0.1)])
@pytest.mark.parametrize("p0", [0.0, 0.1, 0.6])
@pytest.mark.parametrize(("n0", "n1"), [(3, 3), (5, 1), (1, 5)])
def test_the_mean_of_a_tick_is_at_most_one(max_ratio: float, slack: float, p0: float, n0: int, n1: int) -> None:
    """Of all that can happen to a canary that is just good enough, the e-values have a mean of 1 at most (ST1)."""
    p1 = min(1.0, max_ratio * p0 + slack)
    mean = 0.0
    for k0 in range(n0 + 1):
        for k1 in range(n1 + 1):
            gate = RateGate(max_ratio=max_ratio, slack=slack, alpha=1e-9)
            gate.add(n0, k0, n1, k1)
            likely = math.comb(n0, k0) * p0**k0 * (1 - p0) ** (n0 - k0)
            likely *= math.comb(n1, k1) * p1**k1 * (1 - p1) ** (n1 - k1)
            mean += likely * math.exp(gate.log_e)
    assert mean <= 1 + 1e-12


def test_slack_by_hand() -> None:
    """What is allowed on top of the baseline's rate is taken from the evidence of each request (ST1)."""
    gate = RateGate(slack=0.01, alpha=0.0001)
    gate.add(9, 0, 1, 1)
    factors = [g * (b := 10 / (9 + g)) * math.exp(-0.01 * (g * b - 1)) for g in (1.25, 1.5, 2, 3, 6, 30)]
    assert math.exp(gate.log_e) == pytest.approx(sum(factors) / 6)


def test_no_single_tick_decides() -> None:
    """However bad one tick is, it multiplies the evidence by alpha^-0.5 at most; the next bad one may decide (ST1)."""
    gate = RateGate(alpha=0.01)
    gate.add(10_000, 0, 10_000, 10_000)
    assert math.exp(gate.log_e) == pytest.approx(10)
    assert not gate.tripped
    gate.add(10_000, 0, 10_000, 10_000)
    assert gate.tripped


def test_a_canary_that_always_fails_is_seen_in_three_requests() -> None:
    """Beside 19 good requests of the baseline each, the third failed one of the canary trips the gate (ST10)."""
    gate = RateGate()
    tripped = []
    for _ in range(3):
        gate.add(19, 0, 1, 1)
        tripped.append(gate.tripped)
    assert tripped == [False, False, True]


def test_a_gate_stays_tripped() -> None:
    """What comes after the alarm changes the evidence, and not the verdict (ST1)."""
    gate = added(RateGate(), [(19, 0, 1, 1)] * 3)
    high = gate.log_e
    added(gate, [(1000, 900, 1000, 0)])
    assert gate.log_e < high
    assert gate.tripped
    assert RateGate.from_state(gate.state()).tripped


def test_an_empty_arm_waits_for_the_next_tick() -> None:
    """A tick without a request of one arm is counted with the next, and nothing is lost (ST1)."""
    waited = added(RateGate(), [(19, 2, 0, 0), (0, 0, 0, 0), (0, 0, 2, 1), (5, 0, 0, 0)])
    assert waited.log_e == added(RateGate(), [(19, 2, 2, 1)]).log_e
    waited.add(1, 1, 3, 2)
    assert waited.log_e == added(RateGate(), [(19, 2, 2, 1), (6, 1, 3, 2)]).log_e


@examples(100)
@given(ticks=st.lists(TICK, min_size=1, max_size=8), seed=st.randoms(use_true_random=False))
def test_the_order_of_ticks_does_not_matter(ticks: list[tuple[int, int, int, int]], seed: Any) -> None:
    """The same ticks in another order are the same evidence (ST1)."""
    shuffled = list(ticks)
    seed.shuffle(shuffled)
    assert added(RateGate(), ticks).log_e == pytest.approx(added(RateGate(), shuffled).log_e, abs=1e-9)


@examples(100)
@given(tick=TICK)
def test_more_errors_of_the_canary_are_more_evidence(tick: tuple[int, int, int, int]) -> None:
    """One more error of the canary is no less evidence, one more of the baseline no more, and allowing more is no more
    (ST1)."""
    n0, k0, n1, k1 = tick
    at = added(RateGate(), [tick]).log_e
    if k1 < n1:
        assert added(RateGate(), [(n0, k0, n1, k1 + 1)]).log_e >= at
    if k0 < n0:
        assert added(RateGate(), [(n0, k0 + 1, n1, k1)]).log_e <= at
    assert added(RateGate(slack=0.01), [tick]).log_e <= at


def test_months_do_not_overflow() -> None:
    """After months of requests, good or bad, the evidence is a finite number (ST1, ST2)."""
    good = added(RateGate(), [(10**9, 10**7, 10**8, 10**5)] * 100)
    bad = added(RateGate(), [(10**9, 0, 10**8, 10**8)] * 5000)
    assert -math.inf < good.log_e < -1e6
    assert 1000 < bad.log_e < math.inf
    blocks = added(BlockGate(), [(1e300, 1e-300)] * 5000)
    better = added(BlockGate(), [(-1e300, 1e-300)] * 5000)
    assert 1000 < blocks.log_e < math.inf
    assert -math.inf < better.log_e < -1000


# -- blocks --------------------------------------------------------------------------------------------------------


def test_the_e_value_of_blocks_is_the_formula() -> None:
    """The evidence of blocks is the mean of the bets' products (ST2)."""
    blocks = [(0.3, 0.1), (-0.2, 0.4), (0.05, 0.01), (1.0, 2.0), (0.0, 1.0)]
    gate = BlockGate()
    products = dict.fromkeys((0.25, 0.5, 1.0, 2.0, 4.0), 1.0)
    for m, (d, scale) in enumerate(blocks):
        squares = sum((d_i / scale_i) ** 2 for d_i, scale_i in blocks[:m])
        x = d / (scale * math.sqrt((4 + squares) / (4 + m)))
        for bet in products:
            products[bet] *= 1 + math.tanh(bet * x)
        gate.add(d, scale)
    assert math.exp(gate.log_e) == pytest.approx(sum(products.values()) / 5, rel=1e-12)
    assert gate.blocks == 5


@examples(50)
@given(sizes=st.lists(st.tuples(st.floats(0, 50), st.floats(0.01, 10)), min_size=1, max_size=6))
def test_bets_on_signs_are_fair(sizes: list[tuple[float, float]]) -> None:
    """Over all signs that differences of these sizes can have, the e-values have a mean of 1 (ST2)."""
    total = 0.0
    for signs in range(2 ** len(sizes)):
        gate = BlockGate(alpha=1e-9)
        for bit, (size, scale) in enumerate(sizes):
            gate.add(size if signs >> bit & 1 else -size, scale)
        total += math.exp(gate.log_e)
    assert total / 2 ** len(sizes) == pytest.approx(1, rel=1e-9)


def test_blocks_needed() -> None:
    """No block more than doubles the evidence, so it takes five of them at alpha 5 %, however bad they are (ST2)."""
    gate = BlockGate()
    tripped = []
    for _ in range(6):
        gate.add(1e6, 1.0)
        tripped.append(gate.tripped)
    assert tripped.index(True) >= 4
    assert all(tripped[tripped.index(True) :])


@examples(50)
@given(blocks=st.lists(st.tuples(st.floats(-5, 5), st.floats(0.01, 10)), max_size=8), factor=st.sampled_from([0.5, 4]))
def test_the_unit_of_differences_does_not_matter(blocks: list[tuple[float, float]], factor: float) -> None:
    """Seconds or milliseconds: only the ratio of difference and scale counts (ST2)."""
    other = [(factor * d, factor * scale) for d, scale in blocks]
    assert added(BlockGate(), blocks).log_e == pytest.approx(added(BlockGate(), other).log_e, abs=1e-9)


# -- latency -------------------------------------------------------------------------------------------------------


@examples(200)
@given(seconds=st.floats(1e-6, 86_400))
def test_buckets_hold_two_percent(seconds: float) -> None:
    """Each latency is at most its bucket's upper edge, and above that of the bucket below (ST3)."""
    bucket = bucket_of(seconds)
    assert upper_edge(bucket - 1) * (1 - 1e-9) < seconds <= upper_edge(bucket) * (1 + 1e-9)


def test_buckets_are_few() -> None:
    """From a microsecond to a day there are 1,300 buckets, and what is outside is in the first or last (ST3)."""
    assert bucket_of(86_400) - bucket_of(1e-6) < 1300
    assert bucket_of(0.0) == bucket_of(1e-6)
    assert bucket_of(1e9) == bucket_of(86_400)
    assert [bucket_of(1.02**i) for i in range(-5, 6)] == list(range(-5, 6)), "an edge belongs to the bucket below it"


@examples(100)
@given(latencies=st.lists(st.floats(0.001, 10), min_size=1, max_size=60), percent=st.integers(1, 99))
def test_quantiles_of_buckets(latencies: list[float], percent: int) -> None:
    """The quantile of the buckets is the bucket of the quantile (ST3)."""
    counts: dict[int, int] = {}
    for seconds in latencies:
        counts[bucket_of(seconds)] = counts.get(bucket_of(seconds), 0) + 1
    rank = -(-percent * len(latencies) // 100)
    assert quantile_bucket(counts, percent / 100) == bucket_of(sorted(latencies)[rank - 1])


def test_one_block_of_latencies_by_hand() -> None:
    """The first block sets the limit; the second one's share above it is a difference for a BlockGate (ST3)."""
    gate = LatencyGate(0.9, 1.0)
    gate.add([i / 100 for i in range(1, 101)], [5.0])  # the canary's first block does not count
    assert gate.log_e == 0
    assert gate.limit_s == pytest.approx(0.9, rel=0.02)
    gate.add([0.5] * 15 + [2.0] * 5, [0.5, 0.5, 2.0, 2.0])
    by_hand = BlockGate()
    by_hand.add(2 / 4 - 5 / 20, math.sqrt(0.1 * 0.9 * (1 / 4 + 1 / 20)))
    assert gate.log_e == by_hand.log_e


def test_what_is_allowed_is_rounded_up_to_a_bucket() -> None:
    """With max_ratio 1.05, a canary that is 6 % slower does not count as slow, and one of 7 % does (ST3)."""
    evidence = []
    for ratio in (1.0, 1.02**3, 1.07):
        gate = LatencyGate(0.5, 1.05)
        for _ in range(4):
            gate.add([1.0] * 10, [ratio] * 10)
        evidence.append(gate.log_e)
    assert evidence[0] == evidence[1] == 0
    assert evidence[2] > 1
    assert LatencyGate(0.5, 1.0).max_ratio == 1.0


def test_seconds_and_buckets_are_the_same_block() -> None:
    """Counted by the caller or by the gate, in any order, a block is the same evidence (ST3)."""
    baseline, canary = [0.1, 0.2, 0.3, 0.4], [0.2, 0.5, 0.6]
    one, two = LatencyGate(0.5), LatencyGate(0.5)
    for _ in range(3):
        one.add(baseline, canary)
        counts = [{bucket_of(x): 1 for x in reversed(arm)} for arm in (baseline, canary)]
        two.add_buckets(*counts)
    assert one.log_e == two.log_e != 0


def test_a_block_with_an_empty_arm_waits() -> None:
    """A block in which an arm had no request is counted together with the next (ST3)."""
    parts, whole = LatencyGate(0.5), LatencyGate(0.5)
    for gate in (parts, whole):
        gate.add([0.1, 0.2], [0.1])
    parts.add([0.1, 0.3], [])
    parts.add([], [0.9, 0.8])
    whole.add([0.1, 0.3], [0.9, 0.8])
    assert parts.log_e == whole.log_e != 0


# -- states and bad input ------------------------------------------------------------------------------------------


def gates() -> dict[str, tuple[Any, list[tuple[Any, ...]]]]:
    rates = [(19, 1, 0, 0), (20, 0, 3, 1), (7, 2, 1, 1), (0, 0, 4, 1)] * 5
    latencies = [([0.1 * i, 0.3, 0.2], [0.11 * i, 0.7][: i % 3]) for i in range(1, 12)]
    return {
        "rate": (RateGate(max_ratio=1.1, slack=0.003, alpha=0.02), rates),
        "block": (BlockGate(alpha=0.02), [(0.1 * i, 0.3) for i in range(-5, 9)]),
        "latency": (LatencyGate(0.8, 1.03, alpha=0.02), latencies),
        "ratio": (SampleRatio({"a": 3, "b": 0.7, "c": 1}), [({"a": i, "c": 2},) for i in range(12)]),
    }


@pytest.mark.parametrize("kind", gates())
def test_a_stored_gate_goes_on_with_the_same_numbers(kind: str) -> None:
    """A gate that is stored after each step, and read again after a crash, has the same numbers to the last bit."""
    (gate, steps), (stored, _) = gates()[kind], gates()[kind]
    for step in steps:
        gate.add(*step)
        stored = type(gate).from_state(json.loads(json.dumps(stored.state())))
        stored.add(*step)
        assert stored.log_e == gate.log_e
        assert stored.state() == gate.state()
    assert gate.log_e != 0


@pytest.mark.parametrize("kind", gates())
def test_a_gate_is_no_larger_after_a_month(kind: str) -> None:
    """However many steps were added, the stored state has the same size, but for digits."""
    gate, steps = gates()[kind]
    for _ in range(3):
        added(gate, steps)
    before = len(json.dumps(gate.state()))
    for _ in range(100):
        added(gate, steps)
    assert len(json.dumps(gate.state())) < before + 200


@pytest.mark.parametrize("kind", gates())
def test_a_state_of_something_else(kind: str) -> None:
    """A state that is no state of this kind of gate is refused in one sentence."""
    gate, _ = gates()[kind]
    for wrong in ({}, {**gate.state(), "kind": "Other"}, {**gate.state(), "more": 1}, None):
        with pytest.raises(ValueError) as caught:
            type(gate).from_state(wrong)
        sentence(caught.value, "state", type(gate).__name__)


NAN = math.nan
BAD: list[tuple[Any, str]] = [
    *((lambda alpha=alpha: RateGate(alpha=alpha), "alpha") for alpha in (0, 1, -0.1, 1.5, NAN, math.inf)),
    *((lambda kind=kind: kind(alpha=0), "alpha") for kind in (RateGate, BlockGate)),
    (lambda: LatencyGate(0.99, alpha=1), "alpha"),
    (lambda: LatencyGate(1.0), "quantile"),
    (lambda: LatencyGate(0.5, 0), "max_ratio"),
    (lambda: RateGate(max_ratio=0), "max_ratio"),
    (lambda: RateGate(max_ratio=-1), "max_ratio"),
    (lambda: RateGate(slack=-0.1), "slack"),
    (lambda: RateGate(slack=NAN), "slack"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "name"), BAD)
def test_arguments_out_of_range(make: Any, name: str) -> None:
    """A gate with an argument out of range is refused in one sentence that names it (ST8)."""
    with pytest.raises(ValueError) as caught:
        make()
    sentence(caught.value, name)


@pytest.mark.parametrize(
    ("kind", "arguments", "name"),
    [
        ("rate", (10, 11, 5, 0), "baseline_events"),
        ("rate", (10, 0, 5, 6), "canary_events"),
        ("rate", (-1, 0, 5, 0), "baseline_n"),
        ("rate", (10, 0, NAN, 0), "canary_n"),
        ("rate", (10, 0, 5, 0.5), "canary_events"),
        ("rate", (10, -1, 5, 0), "baseline_events"),
        ("block", (NAN, 1.0), "difference"),
        ("block", (1.0, 0.0), "scale"),
        ("block", (math.inf, 1.0), "difference"),
        ("latency", ([0.1, -0.1], [0.1]), "baseline"),
        ("latency", ([0.1], [NAN]), "canary"),
    ],
)
def test_bad_ticks_change_nothing(kind: str, arguments: tuple[Any, ...], name: str) -> None:
    """A tick with more events than requests, or a number that is negative or NaN, is refused in one sentence, and the
    gate is as it was (ST8)."""
    gate, steps = gates()[kind]
    added(gate, steps[:3])
    before = gate.state()
    with pytest.raises(ValueError) as caught:
        gate.add(*arguments)
    sentence(caught.value, name)
    assert gate.state() == before


def test_what_is_no_number() -> None:
    """Text in the place of a number is a TypeError that shows it."""
    for make in (lambda: RateGate(alpha="0.05"), lambda: RateGate().add("1", 0, 1, 0)):  # type: ignore[arg-type]
        with pytest.raises(TypeError) as caught:
            make()
        sentence(caught.value, "must be a number")


def test_importing_it_is_cheap() -> None:
    """A user who imports the statistics loads no module of ours but these, and none of others."""
    code = "import sys, pointsman.stats; print(*[m for m in sys.modules if m.split('.')[0] in %r])"
    names = ("pointsman", "numpy", "msgspec", "asyncio", "random", "statistics")
    done = subprocess.run([sys.executable, "-c", code % (names,)], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {name for name in loaded if not name.startswith("pointsman.stats")} <= {"pointsman", "pointsman.version"}
