"""multiplexing.cache: which models are loaded, kept and unloaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from pointsman.multiplexing.cache import (
    LAST_PAUSE_S,
    MOST_FAILURES,
    AskSize,
    CacheClosedError,
    Cause,
    Failed,
    Load,
    Model,
    ModelCache,
    ModelTooLargeError,
    Ready,
    Unload,
)
from tests.properties import examples

BROKEN = Cause(OSError("no such file"))


def cache_of(max_models: int | None = None, max_bytes: int | None = None) -> ModelCache[str]:
    return ModelCache(max_models=max_models, max_bytes=max_bytes, sized=max_bytes is not None)


def hold(cache: ModelCache[str], *names: str) -> None:
    """Have models loaded, and used once, in this order."""
    for at, name in enumerate(names):
        assert cache.want(name, "first", at) == [Load(name)]
        assert cache.loaded(name, at) == [Ready(name, ("first",))]
        assert cache.release(name, at) == []


def test_many_calls_for_a_cold_model_load_it_once() -> None:
    """Ten calls for a model that is not there cause one load, and all of them get it (MX5)."""
    cache = cache_of(3)
    actions = [cache.want("a", f"call {n}", 0.0) for n in range(10)]
    assert actions == [[Load("a")], *[[]] * 9]
    assert cache.waiting("a") == 10
    assert cache.loaded("a", 1.0) == [Ready("a", tuple(f"call {n}" for n in range(10)))]
    assert cache.models(1.0) == [Model("a", 0, 10, 0.0)]
    assert cache.want("a", "later", 2.0) == [Ready("a", ("later",))]


def test_models_load_side_by_side_up_to_the_limit() -> None:
    """With room for two, two models load at once, and a third waits though nothing is loaded yet (MX4, MX7)."""
    cache = cache_of(2)
    assert [cache.want(name, "call", 0.0) for name in "abc"] == [[Load("a")], [Load("b")], []]
    assert cache.room == 0
    cache.loaded("b", 1.0)
    assert cache.release("b", 2.0) == [Unload("b")]
    assert cache.unloaded("b") == [Load("c")]


def test_the_model_that_was_used_longest_ago_makes_room() -> None:
    """A model that was used again stays, and the one that nobody has used since goes; room is there once it is
    unloaded (MX7)."""
    cache = cache_of(3)
    hold(cache, "a", "b", "c")
    assert cache.take("a")
    cache.release("a", 5.0)
    assert cache.want("d", "call", 6.0) == [Unload("b")]
    assert not cache.holds("b")
    assert cache.unloaded("b") == [Load("d")]
    assert [model.id for model in cache.models(6.0)] == ["a", "c"]
    assert [model.idle_s for model in cache.models(6.0)] == [1.0, 4.0]


def test_a_model_in_use_stays_until_its_last_user_has_ended() -> None:
    """With the only place in use by two calls, a call for another model waits until both have ended (MX8)."""
    cache = cache_of(1)
    hold(cache, "a")
    assert cache.take("a")
    assert cache.take("a")
    assert cache.want("b", "call", 3.0) == []
    assert cache.release("a", 4.0) == []
    assert cache.release("a", 5.0) == [Unload("a")]
    assert cache.unloaded("a") == [Load("b")]


def test_a_call_that_leaves_takes_its_wish_with_it() -> None:
    """A call that gives up while all models are in use evicts nothing later; one that gives up while its model loads
    leaves it to others (MX8)."""
    cache = cache_of(1)
    hold(cache, "a")
    assert cache.take("a")
    cache.want("b", "call", 1.0)
    assert cache.give_up("b", "call") == []
    assert cache.give_up("b", "call") is None
    assert cache.release("a", 2.0) == []
    assert cache.want("c", "call", 3.0) == [Unload("a")]
    assert cache.unloaded("a") == [Load("c")]
    assert cache.give_up("c", "call") == []
    assert cache.loaded("c", 4.0) == []
    assert cache.take("c")


def test_sizes_decide_who_makes_room() -> None:
    """The size is asked before anything is loaded or goes, and as many go as the new one needs (MX7)."""
    cache = cache_of(None, 10)
    for at, name in enumerate("abc"):
        assert cache.want(name, "call", at) == [AskSize(name)]
        assert cache.sized(name, 3, at) == [Load(name)]
        cache.loaded(name, at)
        cache.release(name, at)
    assert cache.want("d", "call", 4.0) == [AskSize("d")]
    assert cache.sized("d", 5, 4.0) == [Unload("a"), Unload("b")]
    assert cache.unloaded("b") == []
    assert cache.unloaded("a") == [Load("d")]
    cache.loaded("d", 5.0)
    assert [(model.id, model.size) for model in cache.models(5.0)] == [("c", 3), ("d", 5)]


def test_what_does_not_fit_while_others_are_used_lets_smaller_ones_pass() -> None:
    """A large model waits for those in use; a small one behind it is loaded meanwhile (MX7, MX8)."""
    cache = cache_of(None, 10)
    for name, size in (("a", 6), ("large", 8), ("small", 2)):
        cache.want(name, "call", 0.0)
        cache.sized(name, size, 0.0)
    assert cache.is_loading("a")
    assert not cache.is_loading("large")
    assert cache.is_loading("small")


def test_room_that_was_made_for_one_is_not_taken_by_another() -> None:
    """A small model that comes while two make room for a large one waits behind it (MX7)."""
    cache = cache_of(None, 10)
    for at, name in enumerate("ab"):
        cache.want(name, "call", at)
        cache.sized(name, 5, at)
        cache.loaded(name, at)
        cache.release(name, at)
    cache.want("large", "call", 2.0)
    assert cache.sized("large", 10, 2.0) == [Unload("a"), Unload("b")]
    cache.want("small", "call", 3.0)
    cache.sized("small", 5, 3.0)
    assert cache.unloaded("a") == []
    assert cache.unloaded("b") == [Load("large")]


def test_an_unload_that_hangs_costs_its_own_place_only() -> None:
    """Who wants a model waits for the place of one that is being unloaded, but no longer than ten seconds: then the
    next who comes has another idle model make room, and the limit still holds (MX7, MX8)."""
    cache = cache_of(2)
    hold(cache, "hangs", "idle")
    assert cache.want("a", "call", 5.0) == [Unload("hangs")]
    assert cache.want("a", "another", 14.0) == []
    assert cache.want("a", "third", 15.1) == [Unload("idle")]
    assert cache.unloaded("idle") == [Load("a")]
    cache.loaded("a", 15.2)
    for call in ("call", "another", "third"):
        assert cache.release("a", 15.3) == [], call
    assert cache.want("b", "call", 15.4) == [Unload("a")]
    assert cache.unloaded("a") == [Load("b")]
    cache.validate()


def test_a_model_that_can_never_fit_is_refused_and_nothing_goes_for_it() -> None:
    """A model of more bytes than all may have fails at once, with both numbers, and evicts nothing (MX7, MX9)."""
    cache = cache_of(None, 10)
    cache.want("a", "call", 0.0)
    cache.sized("a", 4, 0.0)
    cache.loaded("a", 0.0)
    cache.release("a", 0.0)
    cache.want("whale", "call", 1.0)
    (failed,) = cache.sized("whale", 11, 1.0)
    assert isinstance(failed, Failed)
    assert isinstance(failed.cause.error, ModelTooLargeError)
    assert "11 bytes" in str(failed.cause.error)
    assert "10" in str(failed.cause.error)
    assert cache.holds("a")


def test_a_model_is_not_loaded_while_it_is_still_being_unloaded() -> None:
    """Who wants a model again that is just going gets a fresh one, after the old one has gone (MX8)."""
    cache = cache_of(2)
    hold(cache, "a", "b")
    assert cache.want("c", "call", 3.0) == [Unload("a")]
    assert cache.want("a", "call", 3.0) == [Unload("b")]
    assert cache.unloaded("b") == [Load("c")]
    assert cache.unloaded("a") == [Load("a")]


def test_a_failed_load_is_tried_again_after_a_second_then_two_up_to_half_a_minute() -> None:
    """Whoever waits gets the error, and so does who comes within the pause, without another try; a success makes the
    next pause short again (MX9)."""
    cache = cache_of(3)
    now, pauses = 0.0, []
    for _ in range(7):
        assert cache.want("a", "call", now) == [Load("a")]
        assert cache.failed("a", BROKEN, now) == [Failed("a", ("call",), BROKEN)]
        assert cache.want("a", "second", now) == [Failed("a", ("second",), BROKEN)]
        pause = next(pause for pause in (1.0, 2.0, 4.0, 8.0, 16.0, LAST_PAUSE_S) if is_over(cache, now + pause))
        pauses.append(pause)
        now += pause
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    cache.want("a", "call", now)
    cache.loaded("a", now)
    cache.release("a", now)
    for name in "bcd":
        cache.want(name, "call", now)
    cache.unloaded("a")
    cache.failed("b", BROKEN, now)
    cache.want("a", "call", now)
    cache.failed("a", BROKEN, now)
    assert is_over(cache, now + 1.0)


def is_over(cache: ModelCache[str], now: float) -> bool:
    """Whether a failed load of ``a`` would be tried again; nothing is changed."""
    failure = cache._failures["a"]
    return now >= failure.until


def test_one_models_failure_is_no_other_models() -> None:
    """While one model cannot be loaded, others load (MX9)."""
    cache = cache_of(3)
    cache.want("bad", "call", 0.0)
    cache.want("good", "call", 0.0)
    assert cache.failed("bad", BROKEN, 1.0) == [Failed("bad", ("call",), BROKEN)]
    assert cache.loaded("good", 1.0) == [Ready("good", ("call",))]


def test_a_failed_load_lets_the_next_model_in() -> None:
    """The place of a load that failed is free for who waits (MX7, MX9)."""
    cache = cache_of(1)
    cache.want("bad", "call", 0.0)
    cache.want("good", "call", 0.0)
    assert cache.failed("bad", BROKEN, 1.0) == [Failed("bad", ("call",), BROKEN), Load("good")]


def test_ever_new_ids_that_fail_do_not_fill_the_memory() -> None:
    """A client that sends ids of models that there are not, each once, is remembered in part only (MX9)."""
    cache = cache_of(1)
    for number in range(MOST_FAILURES + 50):
        cache.want(str(number), "call", 0.0)
        cache.failed(str(number), BROKEN, 0.0)
    assert len(cache._failures) == MOST_FAILURES


def test_at_the_end_each_model_is_unloaded_once_after_its_last_use() -> None:
    """What is idle goes at once, what is used or being loaded afterwards, and nothing more comes (MX8)."""
    cache = cache_of(3)
    hold(cache, "idle", "used")
    cache.take("used")
    cache.want("loading", "call", 3.0)
    cache.want("waiting", "call", 3.0)  # makes `idle` go
    actions = cache.close()
    assert [type(action) for action in actions] == [Failed]
    assert cache.unloaded("idle") == []
    assert cache.release("used", 4.0) == [Unload("used")]
    assert cache.loaded("loading", 4.0) == [Ready("loading", ("call",))]
    assert cache.release("loading", 4.0) == [Unload("loading")]
    (late,) = cache.want("late", "call", 5.0)
    assert isinstance(late, Failed)
    assert isinstance(late.cause.error, CacheClosedError)
    assert not cache.is_empty
    cache.unloaded("used")
    cache.unloaded("loading")
    assert cache.is_empty


NAMES = st.sampled_from("abcdefgh")
PICK = st.integers(0, 99)


class AnyOrder(RuleBasedStateMachine):
    """Calls, threads and user code in any order. Beside the cache stands what each of them knows."""

    @initialize(
        max_models=st.one_of(st.none(), st.integers(1, 4)),
        max_bytes=st.one_of(st.none(), st.integers(5, 20)),
    )
    def begin(self, max_models: int | None, max_bytes: int | None) -> None:
        self.cache: ModelCache[int] = cache_of(max_models, max_bytes)  # type: ignore[assignment]
        self.limits = (max_models, max_bytes)
        self.now = 0.0
        self.calls = 0
        self.waiting: dict[int, str] = {}
        self.users: list[str] = []
        self.asked: list[str] = []
        self.loading: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.unloading: list[str] = []
        self.in_memory: dict[str, int] = {}  # being loaded, held, being unloaded: with sizes
        self.not_before: dict[str, tuple[float, float]] = {}
        self.closed = False

    def do(self, actions: Iterator[Any] | list[Any]) -> None:
        for action in actions:
            name = action.id
            if isinstance(action, AskSize):
                assert name not in self.asked
                self.asked.append(name)
            elif isinstance(action, Load):
                assert name not in self.in_memory, "loaded twice"
                assert self.now >= self.not_before.get(name, (0.0, 0.0))[0], "tried again too early"
                self.loading[name] = self.in_memory[name] = self.sizes.get(name, 0)
            elif isinstance(action, Unload):
                assert name not in self.users, "a model in use was evicted"
                assert name not in self.unloading, "unloaded twice"
                self.unloading.append(name)
            else:
                for call in action.waiters:
                    assert self.waiting.pop(call) == name
                if isinstance(action, Ready):
                    assert name in self.in_memory
                    self.users += [name] * len(action.waiters)

    @rule(name=NAMES)
    def call_comes(self, name: str) -> None:
        self.calls += 1
        self.waiting[self.calls] = name
        self.do(self.cache.want(name, self.calls, self.now))

    @rule(pick=PICK)
    def waiting_call_leaves(self, pick: int) -> None:
        if self.waiting:
            call, name = list(self.waiting.items())[pick % len(self.waiting)]
            actions = self.cache.give_up(name, call)
            assert actions is not None
            del self.waiting[call]
            self.do(actions)

    @rule(pick=PICK)
    def call_ends(self, pick: int) -> None:
        if self.users:
            self.do(self.cache.release(self.users.pop(pick % len(self.users)), self.now))

    @rule(pick=PICK, size=st.integers(0, 12), fails=st.booleans())
    def size_is_known(self, pick: int, size: int, fails: bool) -> None:
        if self.asked:
            name = self.asked.pop(pick % len(self.asked))
            self.sizes[name] = size
            before = dict(self.in_memory)
            if fails:
                self.fail(name)
                assert self.in_memory.keys() - before.keys() <= {*self.loading}, "of others only"
            else:
                self.do(self.cache.sized(name, size, self.now))

    @rule(pick=PICK, fails=st.booleans())
    def load_ends(self, pick: int, fails: bool) -> None:
        if self.loading:
            name = list(self.loading)[pick % len(self.loading)]
            del self.loading[name]
            if fails:
                del self.in_memory[name]
                self.fail(name)
            else:
                self.not_before.pop(name, None)
                self.do(self.cache.loaded(name, self.now))

    def fail(self, name: str) -> None:
        _, pause = self.not_before.get(name, (0.0, 0.5))
        self.not_before[name] = self.now + min(30.0, 2 * pause), min(30.0, 2 * pause)
        self.do(self.cache.failed(name, BROKEN, self.now))
        assert name not in self.waiting.values(), "a call was left waiting"

    @rule(pick=PICK)
    def unload_ends(self, pick: int) -> None:
        if self.unloading:
            name = self.unloading.pop(pick % len(self.unloading))
            del self.in_memory[name]
            self.do(self.cache.unloaded(name))

    @rule(seconds=st.sampled_from((0.1, 1.0, 40.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(pick=PICK)
    def replica_ends(self, pick: int) -> None:
        if pick < 3 and not self.closed:
            self.closed = True
            self.do(self.cache.close())

    @invariant()
    def limits_hold(self) -> None:
        if hasattr(self, "cache"):
            self.cache.validate()
            max_models, max_bytes = self.limits
            assert max_models is None or len(self.in_memory) <= max_models
            assert max_bytes is None or sum(self.in_memory.values()) <= max_bytes
            held = self.in_memory.keys() - self.loading.keys() - set(self.unloading)
            assert {model.id for model in self.cache.models(self.now)} == held

    def teardown(self) -> None:
        """Nothing is forgotten: once all that runs has ended, nobody waits any more."""
        if not hasattr(self, "cache"):
            return
        self.now += 100.0
        while self.users or self.loading or self.unloading or self.asked:
            self.call_ends(0)
            self.load_ends(0, fails=False)
            self.unload_ends(0)
            self.size_is_known(0, 1, fails=False)
        assert not self.waiting
        if self.closed:
            assert not self.in_memory
            assert self.cache.is_empty


@pytest.mark.slow
def test_calls_threads_and_user_code_in_any_order() -> None:
    """Limits hold, no model in use goes, none is loaded twice or too early, and nobody waits for ever (MX5, MX7, MX8,
    MX9)."""
    run_state_machine_as_test(AnyOrder, settings=examples(100, stateful_step_count=60))
