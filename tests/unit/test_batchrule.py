"""replica.batching: what batches cost, and how large they may be and how long they wait so that a target is met."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.replica.batching import BatchCost, Batcher, BatchRule
from tests.conftest import PURE_ONLY
from tests.properties import examples

PER_BATCH_S, PER_ITEM_S, MAX_SIZE = 0.005, 0.0002, 32
CAPACITY = MAX_SIZE / (PER_BATCH_S + MAX_SIZE * PER_ITEM_S)


def true_cost(size: int) -> float:
    return PER_BATCH_S + PER_ITEM_S * size


def learned(count: int, rng: random.Random, *, noise: float = 0.05, pauses: float = 0.0) -> BatchCost:
    """Costs learned from batches of any size; some of them meet a pause of a tenth of a second."""
    cost = BatchCost()
    for _ in range(count):
        size = rng.randint(1, MAX_SIZE)
        pause = 0.1 if rng.random() < pauses else 0.0
        cost.learn(size, true_cost(size) * rng.uniform(1 - noise, 1 + noise) + pause)
    return cost


def trained(target_s: float | None, *, max_size: int = MAX_SIZE, gap_s: float | None = None) -> BatchRule:
    """A rule that knows the costs, and the pace of arrivals when ``gap_s`` is given."""
    rule = BatchRule(max_size=max_size, target_s=target_s)
    for number in range(40):
        size = 1 + number % MAX_SIZE
        rule.learn(size, began=0.0, ended=true_cost(size), oldest=0.0)
    if gap_s is not None:
        for number in range(200):
            rule.arrived(number * gap_s)
    return rule


# --- what batches cost ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_two_numbers_are_found_in_noisy_data(seed: int) -> None:
    """Batches that take 5 ms and 0.2 ms per item, more or less, are known as such soon (F35)."""
    cost = learned(200, random.Random(seed))
    assert cost.known
    assert cost.per_batch_s == pytest.approx(PER_BATCH_S, rel=0.15)
    assert cost.per_item_s == pytest.approx(PER_ITEM_S, rel=0.2)


def test_a_slow_first_call_is_no_cost() -> None:
    """A model that loads its weights at the first call is not thought slow for ever after."""
    cost = BatchCost()
    cost.learn(1, 60.0)
    for size in range(1, 17):
        cost.learn(size, true_cost(size))
    assert cost.of(MAX_SIZE) == pytest.approx(true_cost(MAX_SIZE), rel=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_pauses_are_no_costs(seed: int) -> None:
    """Garbage collections and a machine that is busy elsewhere do not shift the costs by much."""
    cost = learned(300, random.Random(seed), pauses=0.02)
    for size in (1, 16, 32):
        assert 0.7 * true_cost(size) < cost.of(size) < 1.5 * true_cost(size)


def test_a_pause_among_the_first_batches_is_forgotten() -> None:
    """A pause that came before anything was known has no say a hundred batches later."""
    cost = BatchCost()
    for number in range(150):
        size = 1 + number % MAX_SIZE
        cost.learn(size, 2.0 if number == 3 else true_cost(size))
    assert cost.of(16) == pytest.approx(true_cost(16), rel=0.1)


def test_batches_of_one_size_say_nothing_about_items() -> None:
    """While all batches are full the cost of an item stays as it was known, and that of a batch follows."""
    rng = random.Random(1)
    cost = learned(100, rng, noise=0.0)
    for _ in range(300):
        cost.learn(MAX_SIZE, true_cost(MAX_SIZE) * rng.uniform(0.95, 1.05))
    assert cost.known
    assert cost.per_item_s == pytest.approx(PER_ITEM_S, rel=0.2)
    before = cost.per_item_s
    for _ in range(300):
        cost.learn(MAX_SIZE, true_cost(MAX_SIZE) + 0.002)
    assert cost.per_item_s == before
    assert cost.of(MAX_SIZE) == pytest.approx(true_cost(MAX_SIZE) + 0.002, rel=0.01)


def test_one_size_alone_is_not_enough() -> None:
    """Costs count as known only when batches of several sizes have been seen."""
    cost = BatchCost()
    for _ in range(100):
        cost.learn(1, true_cost(1))
    assert not cost.known
    cost.learn(8, true_cost(8))
    cost.learn(8, true_cost(8))
    assert cost.known


def test_a_model_that_becomes_slower_is_noticed() -> None:
    """After a reconfiguration that makes batches four times as slow the costs follow."""
    cost = learned(100, random.Random(1), noise=0.0)
    rng = random.Random(2)
    for _ in range(200):
        size = rng.randint(1, MAX_SIZE)
        cost.learn(size, 4 * true_cost(size))
    assert cost.of(16) == pytest.approx(4 * true_cost(16), rel=0.1)


@examples(100)
@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 100)), max_size=60))
def test_costs_are_never_negative(batches: list[tuple[int, float]]) -> None:
    """Whatever batches took, no cost is negative or not a number."""
    cost = BatchCost()
    for size, seconds in batches:
        cost.learn(size, seconds)
        assert 0 <= cost.per_batch_s < float("inf")
        assert 0 <= cost.per_item_s < float("inf")


# --- size and wait ----------------------------------------------------------------------------------------------


def test_the_fixed_rule_holds_until_enough_was_seen() -> None:
    """A fresh replica with a target takes what is there, up to the maximum, until it knows its costs (BA10)."""
    rule = BatchRule(max_size=8, target_s=0.05)
    for number in range(8):
        assert not rule.adapts
        assert rule.size(0.0) == 8
        assert rule.due_at(first=1.0, last=2.0, count=1) == 1.0
        rule.learn(1 + number % 4, began=0.0, ended=true_cost(1 + number % 4), oldest=0.0)
    rule.learn(4, began=0.0, ended=true_cost(4), oldest=0.0)
    assert rule.adapts


def test_without_a_target_nothing_is_learned() -> None:
    """With ``batch_wait_timeout`` alone the rule is the fixed one for ever (BA11)."""
    rule = BatchRule(max_size=4, wait_s=2.0)
    for number in range(100):
        rule.arrived(number * 0.001)
        rule.learn(1 + number % 4, began=0.0, ended=1.0, oldest=0.0)
    assert not rule.adapts
    assert (rule.size(0.0), rule.size(100.0)) == (4, 4)
    assert rule.due_at(first=1.0, last=1.5, count=3) == 3.0
    assert rule.due_at(first=1.0, last=1.5, count=4) == 1.0


def test_two_full_batches_fit_into_the_target() -> None:
    """With a tight target batches stay small, since who just misses one waits for it and runs in the next."""
    rule = trained(0.02, max_size=1000, gap_s=0.02)
    assert 2 * rule.cost.of(rule.size(0.0)) <= 0.02
    assert trained(0.2, max_size=1000, gap_s=0.02).size(0.0) > 3 * rule.size(0.0)


def test_keeping_up_comes_before_the_target() -> None:
    """When small batches cannot handle what comes in, larger ones do: a queue that grows meets no target at all."""
    gap_s = 1 / (0.9 * CAPACITY)
    rule = trained(0.01, gap_s=gap_s)
    size = rule.size(0.0)
    assert true_cost(size) <= size * gap_s


def test_who_is_late_already_goes_with_all_the_others() -> None:
    """Past the target only throughput is left to win: the batch is as large as it may be."""
    rule = trained(0.012, gap_s=0.02)
    assert rule.size(0.0) < MAX_SIZE
    assert rule.size(0.013) == MAX_SIZE


def test_nobody_waits_at_low_load() -> None:
    """With ten requests a second a request never waits for company that comes too late."""
    rule = trained(0.05, gap_s=0.1)
    assert rule.due_at(first=7.0, last=7.0, count=1) == 7.0


def test_a_request_waits_when_company_is_near() -> None:
    """When the next request is due within less than a batch costs, waiting for it saves work."""
    rule = trained(0.05, gap_s=0.001)
    assert 7.0 < rule.due_at(first=7.0, last=7.0, count=1) <= 7.0 + 2 * 0.0011
    assert rule.due_at(first=7.0, last=7.004, count=6) == 7.0, "six have come: that is what a batch costs"


def test_a_night_without_requests_says_nothing_about_the_morning() -> None:
    """After hours of silence the pace is what it was, not one request per night."""
    rule = trained(0.05, gap_s=0.001)
    rule.arrived(1e6)
    for number in range(60):
        rule.arrived(1e6 + number * 0.001)
    assert rule.due_at(first=2e6, last=2e6, count=1) > 2e6


def test_the_rule_can_be_switched_back_and_forth() -> None:
    """A target can be taken away and given again, and what was learned is still there (BA12)."""
    rule = trained(0.02, max_size=100, gap_s=0.02)
    small = rule.size(0.0)
    assert small < 100
    rule.configure(max_size=100, wait_s=3.0)
    assert not rule.adapts
    assert rule.size(0.0) == 100
    assert rule.due_at(first=1.0, last=1.0, count=1) == 4.0
    rule.configure(max_size=100, wait_s=0.0, target_s=0.02)
    assert rule.adapts
    assert rule.size(0.0) == small
    rule.configure(max_size=2, wait_s=0.0, target_s=0.02)
    assert rule.size(0.0) == 2


@examples(200)
@given(
    batches=st.lists(st.tuples(st.integers(1, 64), st.floats(1e-7, 10), st.floats(0, 10)), max_size=40),
    gaps=st.lists(st.floats(0, 5), max_size=20),
    max_size=st.integers(1, 64),
    target_s=st.floats(1e-4, 5),
    waited_s=st.floats(0, 10),
    count=st.integers(1, 100),
    spread_s=st.floats(0, 1),
)
def test_whatever_was_learned_the_limits_hold(
    batches: list[tuple[int, float, float]],
    gaps: list[float],
    max_size: int,
    target_s: float,
    waited_s: float,
    count: int,
    spread_s: float,
) -> None:
    """A batch has one to ``max_batch_size`` members, and is due between its first one's arrival and the target."""
    rule = BatchRule(max_size=max_size, target_s=target_s)
    now = 0.0
    for gap in gaps:
        now += gap
        rule.arrived(now)
    for size, seconds, waited in batches:
        rule.learn(size, began=now, ended=now + seconds, oldest=now - waited)
    assert 1 <= rule.size(waited_s) <= max_size
    due = rule.due_at(first=now, last=now + spread_s, count=count)
    assert now <= due <= now + target_s
    if count >= max_size:
        assert due == now, "a full batch waits"


# --- a replica under load ---------------------------------------------------------------------------------------


class Run(NamedTuple):
    p50: float
    p99: float
    utilisation: float
    peaks: tuple[int, int]
    """Longest queue behind a batch, in the first half of the run and in the second."""


def simulate(rate: float, target_s: float | None, *, seed: int, count: int = 8000) -> Run:
    """One replica with Poisson arrivals, as the executor runs it: a batch when it is free and one is due."""
    rng = random.Random(seed)
    arrivals, at = [], 0.0
    for _ in range(count):
        at += rng.expovariate(rate)
        arrivals.append(at)
    rule = BatchRule(max_size=MAX_SIZE, target_s=target_s)
    batcher: Batcher[int] = Batcher(rule)
    now, busy, come = 0.0, 0.0, 0
    latencies: list[float] = []
    queues: list[int] = []
    while len(latencies) < count:
        while come < count and arrivals[come] <= now:
            batcher.add(come, key="", now=arrivals[come])
            come += 1
        batch = batcher.take(now)
        if not batch:
            due = batcher.due_at()
            upcoming = arrivals[come : come + 1] + ([due] if due is not None else [])
            now = max(now, min(upcoming))
            continue
        assert len(batch) <= MAX_SIZE
        cost = true_cost(len(batch)) * rng.uniform(0.9, 1.1)
        rule.learn(len(batch), began=now, ended=now + cost, oldest=arrivals[batch[0]])
        now += cost
        busy += cost
        latencies += [now - arrivals[item] for item in batch]
        queues.append(len(batcher))
    settled = sorted(latencies[count // 10 :])
    half = len(queues) // 2
    return Run(
        settled[len(settled) // 2],
        settled[int(len(settled) * 0.99)],
        busy / now,
        (max(queues[:half]), max(queues[half:])),
    )


RATES = (20, 100, 300, 0.25 * CAPACITY, 0.5 * CAPACITY, 0.7 * CAPACITY, 0.9 * CAPACITY)


@pytest.mark.slow
@pytest.mark.parametrize("target_s", [0.05, 0.02])
@pytest.mark.parametrize("rate", RATES, ids=lambda rate: f"{rate:.0f} a second")
def test_the_target_is_met_where_it_can_be_met(rate: float, target_s: float) -> None:
    """99 of 100 requests are done in time wherever taking all that is there would do, with no more work (F35)."""
    for seed in (1, 2):
        fixed, adapted = simulate(rate, None, seed=seed), simulate(rate, target_s, seed=seed)
        assert adapted.p99 <= target_s or fixed.p99 > target_s
        assert adapted.utilisation <= fixed.utilisation + 0.01


@pytest.mark.parametrize("target_s", [0.05, 0.02])
def test_a_quiet_replica_answers_as_fast_as_one_item_takes(target_s: float) -> None:
    """At low load the typical request takes what one item takes: it waits for nobody."""
    assert simulate(20, target_s, seed=3, count=2000).p50 <= 1.02 * true_cost(1)


@pytest.mark.parametrize("target_s", [0.05, 0.02])
def test_waiting_for_company_saves_work(target_s: float) -> None:
    """At a tenth of its capacity a replica with a target is idle more of the time than one without."""
    assert simulate(300, target_s, seed=4).utilisation < 0.9 * simulate(300, None, seed=4).utilisation


@pytest.mark.parametrize("target_s", [0.05, 0.02])
def test_just_below_capacity_the_queue_does_not_grow(target_s: float) -> None:
    """At 97 % of what full batches can do, targets that cannot be met do not make the queue grow either (F35)."""
    rate = 0.97 * CAPACITY
    fixed, adapted = (simulate(rate, target, seed=5, count=20_000) for target in (None, target_s))
    assert max(adapted.peaks) <= max(fixed.peaks) + MAX_SIZE


@PURE_ONLY
def test_the_target_goes_while_the_thread_asks() -> None:
    """The operator takes the latency target away while the thread of sync code forms a batch: the thread goes on (BA8,
    RC1)."""

    class Interrupted(BatchCost):
        """Another thread configures the rule at the moment that its cost is looked at."""

        @property
        def known(self) -> bool:  # type: ignore[override]
            rule.configure(max_size=8, wait_s=0.1, target_s=None)
            return True

        @known.setter
        def known(self, value: bool) -> None:
            pass

    rule = BatchRule(max_size=8, target_s=0.5)
    rule.cost = Interrupted()
    for ask in (
        lambda: rule.size(0.0),
        lambda: rule.due_at(first=1.0, last=1.0, count=1),
        lambda: rule.learn(2, began=0.0, ended=0.1, oldest=0.0),
    ):
        rule.configure(max_size=8, wait_s=0.1, target_s=0.5)
        ask()
    assert rule.target_s is None
