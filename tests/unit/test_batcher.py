"""replica.batching: what goes together, when, and that nothing gets lost."""

from __future__ import annotations

from collections.abc import Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pointsman.replica.batching import Batcher, BatchRule
from tests.properties import examples


def fill(batcher: Batcher[int], items: range | list[int], *, now: float = 0.0, key: Hashable = "") -> None:
    for item in items:
        batcher.add(item, key=key, now=now)


def drain(batcher: Batcher[int], now: float) -> list[list[int]]:
    """All batches that are due."""
    batches = []
    while batch := batcher.take(now):
        batcher.validate()
        batches.append(batch)
    return batches


def test_queued_queries_share_calls() -> None:
    """Twenty waiting queries at a maximum of 5 take four calls, not twenty (BA1)."""
    batcher: Batcher[int] = Batcher(BatchRule(max_size=5, wait_s=1.0))
    fill(batcher, range(20))
    assert drain(batcher, 0.0) == [[*range(5)], [*range(5, 10)], [*range(10, 15)], [*range(15, 20)]]
    assert len(batcher) == 0


def test_a_full_batch_goes_and_the_rest_waits() -> None:
    """Of three queries at a maximum of 2 two go at once and the third waits its 10 s (BA2, BA11)."""
    batcher: Batcher[int] = Batcher(BatchRule(max_size=2, wait_s=10.0))
    fill(batcher, range(3))
    assert drain(batcher, 0.0) == [[0, 1]]
    assert batcher.due_at() == 10.0
    assert drain(batcher, 9.999) == []
    assert drain(batcher, 10.0) == [[2]]
    assert batcher.due_at() is None


def test_without_a_wait_an_idle_replica_takes_what_is_there() -> None:
    """Nine queries at a maximum of 4 against a busy replica go as 1, 4 and 4 (BA10)."""
    batcher: Batcher[int] = Batcher(BatchRule(max_size=4))
    fill(batcher, [0])
    assert batcher.due_at() == 0.0
    sizes = [len(batcher.take(0.0))]
    fill(batcher, range(1, 9), now=0.1)
    sizes += map(len, drain(batcher, 5.0))
    assert sizes == [1, 4, 4]


def test_the_clock_starts_at_the_first_item() -> None:
    """A batch leaves when its first query has waited, however late the replica or the last query came (BA11)."""
    batcher: Batcher[int] = Batcher(BatchRule(max_size=10, wait_s=1.0))
    fill(batcher, [0], now=100.0)
    fill(batcher, [1], now=100.9)
    assert batcher.due_at() == 101.0
    assert batcher.take(100.95) == []
    assert batcher.take(101.0) == [0, 1]
    fill(batcher, [2], now=101.5)
    assert batcher.due_at() == 102.5


def test_the_clock_of_the_rest_is_its_own() -> None:
    """Queries left behind by a full batch wait from their own arrival on (BA11)."""
    batcher: Batcher[int] = Batcher(BatchRule(max_size=2, wait_s=1.0))
    for item, now in enumerate((0.0, 0.2, 0.4)):
        fill(batcher, [item], now=now)
    assert batcher.take(0.4) == [0, 1]
    assert batcher.due_at() == pytest.approx(1.4)


def test_a_full_batch_goes_at_once() -> None:
    """The query that fills a batch sends it off, without any wait (BA11)."""
    batcher: Batcher[int] = Batcher(BatchRule(max_size=3, wait_s=60.0))
    fill(batcher, [0, 1], now=5.0)
    assert batcher.take(5.0) == []
    fill(batcher, [2], now=6.0)
    due = batcher.due_at()
    assert due is not None
    assert due <= 6.0
    assert batcher.take(6.0) == [0, 1, 2]


def test_methods_never_share_a_batch() -> None:
    """Queries for two methods that wait together leave as two batches, the older one first (BA6)."""
    batcher: Batcher[int] = Batcher(BatchRule(max_size=8))
    for item, key in enumerate("abab"):
        fill(batcher, [item], now=item, key=key)
    assert drain(batcher, 4.0) == [[0, 2], [1, 3]]


def test_one_busy_method_does_not_starve_another() -> None:
    """Of two methods with due batches the one whose query came first goes first (BA6)."""
    batcher: Batcher[int] = Batcher(BatchRule(max_size=2))
    fill(batcher, [0, 1, 2, 3], now=0.0, key="busy")
    fill(batcher, [9], now=0.5, key="rare")
    fill(batcher, [4, 5], now=0.9, key="busy")
    assert drain(batcher, 1.0) == [[0, 1], [2, 3], [9], [4, 5]]


def test_new_limits_hold_from_the_next_batch() -> None:
    """An operator's new batch size and wait apply to queries that wait already (BA12)."""
    batcher: Batcher[int] = Batcher(BatchRule(max_size=2, wait_s=60.0))
    fill(batcher, range(5))
    assert batcher.take(0.0) == [0, 1]
    batcher.rule.max_size = 3
    assert batcher.take(0.0) == [2, 3, 4]
    fill(batcher, [5], now=1.0)
    batcher.rule.wait_s = 0.5
    assert batcher.due_at() == 1.5
    batcher.rule.max_size = 1
    assert batcher.take(1.0) == [5]


def test_batches_of_one() -> None:
    """At a maximum of 1 each query goes alone and at once, whatever the wait (BA8)."""
    batcher: Batcher[int] = Batcher(BatchRule(max_size=1, wait_s=60.0))
    fill(batcher, [0, 1])
    assert drain(batcher, 0.0) == [[0], [1]]


class Query:
    """A query that equals every other; compared by value it would stand for all of them."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Query)

    __hash__ = None  # type: ignore[assignment]


def same(batch: list[Query], *wanted: Query) -> bool:
    return list(map(id, batch)) == list(map(id, wanted))


def test_removed_items_are_never_seen() -> None:
    """A query whose caller has gone is left out of its batch, and can be removed only once (BA15)."""
    batcher: Batcher[Query] = Batcher(BatchRule(max_size=3, wait_s=1.0))
    a, b, c = Query(), Query(), Query()
    for number, item in enumerate((a, b, c)):
        batcher.add(item, key="m", now=number / 10)
    assert batcher.remove(b, key="m")
    batcher.validate()
    assert not batcher.remove(b, key="m")
    assert not batcher.remove(a, key="another method")
    assert batcher.take(0.2) == []
    assert same(batcher.take(1.0), a, c)
    assert not batcher.remove(a, key="m")


def test_the_clock_forgets_removed_items() -> None:
    """When the first query of a batch goes away, the next one's arrival counts; none left, nothing is due (BA15)."""
    batcher: Batcher[Query] = Batcher(BatchRule(max_size=3, wait_s=1.0))
    a, b = Query(), Query()
    batcher.add(a, key="m", now=0.0)
    batcher.add(b, key="m", now=0.5)
    batcher.remove(a, key="m")
    assert batcher.due_at() == 1.5
    batcher.remove(b, key="m")
    assert batcher.due_at() is None
    assert batcher.statistics() == (0, 0)
    batcher.validate()


def test_equal_items_are_told_apart() -> None:
    """When one of two callers with equal queries goes away, the other one's query is the one that runs (BA15)."""
    first, second = Query(), Query()
    batcher: Batcher[Query] = Batcher(BatchRule(max_size=2))
    batcher.add(first, key="m", now=0.0)
    batcher.add(second, key="m", now=0.0)
    assert batcher.remove(second, key="m")
    assert same(batcher.take(0.0), first)


@examples(100)
@given(
    arrivals=st.lists(st.tuples(st.floats(0, 5), st.sampled_from("ab")), max_size=30),
    max_size=st.integers(1, 6),
    wait_s=st.sampled_from([0.0, 0.5, 3.0]),
)
def test_whoever_sleeps_until_due_at_serves_all(
    arrivals: list[tuple[float, str]], max_size: int, wait_s: float
) -> None:
    """A replica that wakes when a batch is due finds one each time, and serves every query in time (BA11)."""
    batcher: Batcher[int] = Batcher(BatchRule(max_size=max_size, wait_s=wait_s))
    arrived = {}
    for item, (now, key) in enumerate(sorted(arrivals)):
        while (due := batcher.due_at()) is not None and due <= now:
            assert batcher.take(max(due, now)), "nothing was due at due_at()"
        arrived[item] = now
        batcher.add(item, key=key, now=now)
    while (due := batcher.due_at()) is not None:
        batch = batcher.take(due)
        assert batch
        assert due <= min(arrived[item] for item in batch) + wait_s
    assert len(batcher) == 0


class AnyUse(RuleBasedStateMachine):
    """Any order of adds, takes, removals and new limits."""

    @initialize(max_size=st.integers(1, 4), wait_s=st.sampled_from([0.0, 1.0]))
    def begin(self, max_size: int, wait_s: float) -> None:
        self.batcher: Batcher[object] = Batcher(BatchRule(max_size=max_size, wait_s=wait_s))
        self.now = 0.0
        self.count = 0
        self.waiting: dict[str, list[tuple[float, int]]] = {"a": [], "b": [], "c": []}

    @rule(key=st.sampled_from("abc"), later=st.sampled_from([0.0, 0.0, 0.4]))
    def add(self, key: str, later: float) -> None:
        self.now += later
        self.count += 1
        self.batcher.add(self.count, key=key, now=self.now)
        self.waiting[key].append((self.now, self.count))

    @rule(later=st.sampled_from([0.0, 0.3, 2.0]))
    def take(self, later: float) -> None:
        self.now += later
        size, wait_s = self.batcher.rule.max_size, self.batcher.rule.wait_s
        due = [q for q in self.waiting.values() if q and (len(q) >= size or q[0][0] + wait_s <= self.now)]
        batch = self.batcher.take(self.now)
        assert bool(batch) == bool(due)
        if batch:
            oldest = min(q[0][0] for q in due)
            mine = next(q for q in due if q[0][1] == batch[0])
            assert mine[0][0] == oldest
            assert batch == [item for _, item in mine[:size]], "the batch is not the head of one queue"
            del mine[:size]

    @precondition(lambda self: any(self.waiting.values()))
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        key, entry = data.draw(st.sampled_from([(key, entry) for key in self.waiting for entry in self.waiting[key]]))
        assert self.batcher.remove(entry[1], key=key)
        self.waiting[key].remove(entry)

    @rule(max_size=st.integers(1, 4), wait_s=st.sampled_from([0.0, 1.0]))
    def change(self, max_size: int, wait_s: float) -> None:
        self.batcher.rule.configure(max_size=max_size, wait_s=wait_s)

    @invariant()
    def consistent(self) -> None:
        self.batcher.validate()
        assert len(self.batcher) == sum(map(len, self.waiting.values()))
        statistics = self.batcher.statistics()
        assert statistics == (len(self.batcher), sum(map(bool, self.waiting.values())))
        assert (self.batcher.due_at() is None) == (not len(self.batcher))


@pytest.mark.slow
def test_nothing_is_lost_or_served_twice() -> None:
    """Whatever comes, goes away or changes, every query leaves once, in order, in a batch of its method (BA3, BA6)."""
    run_state_machine_as_test(AnyUse, settings=examples(60, stateful_step_count=30, database=None))


def test_copies_yield_to_calls() -> None:
    """Copies that wait in a busy replica go after the calls of users that came later, in batches of their own (SH4)."""
    batcher: Batcher[str] = Batcher(BatchRule(max_size=2))
    copies = [f"copy {number}" for number in range(3)]
    for number, copy in enumerate(copies):
        batcher.add(copy, key="m", now=float(number), mirrored=True)
    for number in range(3):
        batcher.add(f"call {number}", key="m", now=10.0 + number)
    batcher.validate()
    assert batcher.remove(copies[1], key="m", mirrored=True)
    assert not batcher.remove(copies[1], key="m", mirrored=True)
    assert not batcher.remove(copies[0], key="m")
    batches = [batcher.take(20.0) for _ in range(4)]
    assert batches == [["call 0", "call 1"], ["call 2"], ["copy 0", "copy 2"], []]
