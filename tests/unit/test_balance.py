"""policy.balance: the least busy replica with room gets the call."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.policy.balance import (
    GOES_ON,
    LEAD_S,
    ONE_AHEAD_S,
    PATIENCE,
    RunTime,
    choose_replica,
    has_one_ahead,
    is_surprise,
    may_hold,
    patience_s,
    whom_to_recall_from,
)
from tests.properties import examples


@dataclass(eq=False)
class Candidate:
    inflight: int = 0
    elsewhere: int = 0
    open: bool = True
    near: bool = True
    may_hold: int | None = None
    one_ahead: bool = False

    @property
    def held(self) -> int:
        return self.inflight

    @property
    def load(self) -> int:
        return self.inflight + self.elsewhere


candidates_of = st.lists(st.builds(Candidate, st.integers(0, 6), st.integers(0, 6), st.booleans()), max_size=8)


@examples(300)
@given(candidates=candidates_of, limit=st.integers(1, 10), turn=st.integers(0, 2**40))
def test_least_busy_with_room(candidates: list[Candidate], limit: int, turn: int) -> None:
    """A call goes to an open replica below its limit that no other such replica undercuts, or waits (BC2, BC6)."""
    room = [candidate.load for candidate in candidates if candidate.open and candidate.inflight < limit]
    best = choose_replica(candidates, limit=limit, turn=turn)
    if best is None:
        assert not room
    else:
        assert any(best is candidate for candidate in candidates)
        assert best.open
        assert best.load == min(room)


def test_no_replicas() -> None:
    """With no replica at all the call waits (BC6)."""
    assert choose_replica([], limit=1, turn=3) is None


@pytest.mark.parametrize(
    ("busy", "taken"),
    [
        (Candidate(inflight=2), False),
        (Candidate(inflight=3), False),
        (Candidate(inflight=1), True),
        (Candidate(inflight=1, elsewhere=1), True),
        (Candidate(elsewhere=9), True),
        (Candidate(open=False), False),
    ],
)
def test_the_limit_counts_own_calls(busy: Candidate, taken: bool) -> None:
    """A replica with as many of this router's calls as it may run gets no more; others' calls are old news (BC2)."""
    assert (choose_replica([busy], limit=2, turn=0) is busy) == taken


@pytest.mark.parametrize("turn", range(3))
def test_others_calls_order_the_candidates(turn: int) -> None:
    """Of three replicas with room the one that other routers keep least busy is chosen (BC6)."""
    candidates = [Candidate(1, 4), Candidate(2, 1), Candidate(0, 9)]
    assert choose_replica(candidates, limit=5, turn=turn) is candidates[1]


@pytest.mark.parametrize("load", [0, 3])
def test_equals_take_turns(load: int) -> None:
    """Among equally busy replicas sequential requests go round, so no replica gets all ten (SO1)."""
    candidates = [Candidate(load), Candidate(load), Candidate(load)]
    seen = [choose_replica(candidates, limit=9, turn=turn) for turn in range(6)]
    assert all(sum(best is candidate for best in seen) == 2 for candidate in candidates)


@examples(100)
@given(loads=st.lists(st.integers(0, 4), min_size=1, max_size=6), calls=st.integers(0, 20))
def test_calls_even_out(loads: list[int], calls: int) -> None:
    """Calls placed one after the other fill the emptier replicas first, and none beyond the limit (BC2, BC6)."""
    candidates = [Candidate(load) for load in loads]
    placed = 0
    for turn in range(calls):
        best = choose_replica(candidates, limit=5, turn=turn)
        if best is None:
            break
        best.inflight += 1
        placed += 1
    assert placed == min(calls, sum(5 - load for load in loads))
    top = max(candidate.load for candidate in candidates)
    assert top <= max(5, *loads)
    raised = [c for c, load in zip(candidates, loads, strict=True) if c.load > load]
    if raised:
        assert max(c.load for c in raised) - min(c.load for c in candidates) <= 1


far_and_near = st.lists(
    st.builds(Candidate, st.integers(0, 4), st.integers(0, 4), st.just(True), st.booleans()), min_size=1, max_size=8
)


@examples(300)
@given(candidates=far_and_near, turn=st.integers(0, 100))
def test_a_replica_of_this_node_is_preferred(candidates: list[Candidate], turn: int) -> None:
    """A call stays on its node while that costs it at most one call of waiting, and not when it costs more."""
    best = choose_replica(candidates, limit=9, turn=turn)
    assert best is not None
    least = min(candidate.load for candidate in candidates)
    near = [candidate.load for candidate in candidates if candidate.near]
    if near and min(near) <= least + 1:
        assert best.near
        assert best.load == min(near)
    else:
        assert best.load == least
        assert not best.near


@pytest.mark.parametrize(
    ("candidate", "halved", "taken"),
    [
        (Candidate(inflight=1, may_hold=1), False, False),
        (Candidate(inflight=1, may_hold=2), False, True),
        (Candidate(inflight=0, may_hold=0), False, False),
        (Candidate(inflight=1, may_hold=2), True, False),
        (Candidate(inflight=0, may_hold=1), True, True),
        (Candidate(inflight=0, may_hold=0), True, False),
        (Candidate(inflight=1, may_hold=4), True, True),
        (Candidate(inflight=4), True, True),
        (Candidate(inflight=5), True, False),
    ],
)
def test_a_lead_is_a_limit_of_its_own(candidate: Candidate, halved: bool, taken: bool) -> None:
    """A replica gets no more ahead than it may have, and copies for shadows only the first half of that (BC6, SH6)."""
    assert (choose_replica([candidate], limit=10, turn=0, halved=halved) is candidate) == taken


@pytest.mark.parametrize(
    ("candidate", "halved", "crowded", "taken"),
    [
        (Candidate(inflight=1, may_hold=1, one_ahead=True), False, True, True),
        (Candidate(inflight=1, may_hold=1, one_ahead=True), False, False, False),
        (Candidate(inflight=1, may_hold=1, one_ahead=True), True, True, False),
        (Candidate(inflight=1, may_hold=1), False, True, False),
        (Candidate(inflight=2, may_hold=1, one_ahead=True), False, True, False),
        (Candidate(inflight=0, may_hold=1), False, True, True),
        (Candidate(inflight=1, may_hold=0), False, True, False),
    ],
)
def test_one_call_ahead_while_calls_wait_for_all(
    candidate: Candidate, halved: bool, crowded: bool, taken: bool
) -> None:
    """A replica that has a call gets one more where many wait; a copy for a shadow is never that one (BC6, SH6)."""
    found = choose_replica([candidate], limit=10, turn=0, halved=halved, crowded=crowded)
    assert (found is candidate) == taken
    assert choose_replica([candidate], limit=1, turn=0, crowded=True) is (None if candidate.inflight else candidate)


def test_whoever_is_idle_comes_first() -> None:
    """With calls for all replicas waiting, none is given ahead before each replica has its own (BC6)."""
    busy, idle = Candidate(inflight=1, may_hold=1, one_ahead=True), Candidate(may_hold=1, one_ahead=True)
    for turn in range(2):
        assert choose_replica([busy, idle], limit=10, turn=turn, crowded=True) is idle


@given(run_us=st.integers(1, 10**9), limit=st.integers(1, 1000))
def test_a_lead_is_what_begins_within_milliseconds(run_us: int, limit: int) -> None:
    """Beside the call that runs a replica has those that it is likely to begin soon, and at most its limit (BC6)."""
    held = may_hold(run_us, limit)
    assert 1 <= held <= limit
    assert (held - 1) * run_us <= LEAD_S * 1e6
    assert held == limit or held * run_us > LEAD_S * 1e6


@pytest.mark.parametrize(("seconds", "one"), [(LEAD_S, False), (0.02, True), (ONE_AHEAD_S, True), (0.051, False)])
def test_calls_of_medium_length_wait_a_little_longer(seconds: float, one: bool) -> None:
    """One is given ahead of calls too long for a lead; it waits for as long as one takes, and half of that (BC6)."""
    us = int(seconds * 1e6)
    assert has_one_ahead(us) == one
    assert patience_s(us) == pytest.approx(PATIENCE * seconds)
    assert not has_one_ahead(0)
    assert not has_one_ahead(GOES_ON)


@pytest.mark.parametrize(
    ("seconds", "surprise"), [(0.001, False), (0.02, False), (0.055, False), (0.065, True), (9, True)]
)
def test_a_call_that_takes_far_longer_is_noticed(seconds: float, surprise: bool) -> None:
    """Among calls of 20 ms one of 65 is known by the mean, and the first of all is none (BC6)."""
    time = RunTime()
    time.note(0.02)
    assert not is_surprise(0, time.us)
    before_us = time.us
    time.note(seconds)
    assert is_surprise(before_us, time.us) == surprise
    assert not is_surprise(before_us, GOES_ON)


def test_nobody_waits_for_what_nobody_knows() -> None:
    """Before the first answer a replica gets one call; one whose calls go on beside one another gets all (BC2, BC6)."""
    assert may_hold(0, 100) == 1
    assert may_hold(GOES_ON, 100) == 100


def test_run_times_follow_what_calls_take() -> None:
    """The first call counts whole, and later ones little by little; a call of no length is no unknown one (BC6)."""
    time = RunTime()
    assert time.us == 0
    time.note(0.02)
    assert time.us == 20_000
    time.note(0.0)
    assert time.us == 18_000
    for _ in range(200):
        time.note(0.0)
    assert time.us == 1
    time.goes_on()
    time.note(1.0)
    assert time.us == GOES_ON


@dataclass(eq=False)
class Holder:
    silent_since: float | None = None
    inflight: int = 0
    may_hold: int | None = 3
    open: bool = True
    asked_at: float = float("-inf")
    patience_s: float = LEAD_S


NOW = 100.0
LATE = NOW - LEAD_S - 0.0001
YOUNG = NOW - LEAD_S / 2


def test_what_waits_behind_a_call_of_ours_is_called_back() -> None:
    """A replica that has ended nothing for milliseconds gives back the second call, whoever is idle; a younger one is
    looked at when that may be due (BC6)."""
    late, young, other = Holder(LATE, inflight=2), Holder(YOUNG, inflight=2), Holder()
    assert whom_to_recall_from([late, young, other], NOW, idle=False) == ([late], YOUNG + LEAD_S)
    assert whom_to_recall_from([young], NOW, idle=True) == ([], YOUNG + LEAD_S)
    assert whom_to_recall_from([other], NOW, idle=False) == ([], None)


def test_a_call_alone_keeps_its_place_until_somebody_is_idle() -> None:
    """It may wait behind a call of another router: replicas are asked whether they are idle, two at a time, and it is
    called back once one has said so (BC6)."""
    late, spare = Holder(LATE, inflight=1), [Holder() for _ in range(3)]
    assert whom_to_recall_from([late, *spare], NOW, idle=False) == (spare[:2], NOW + LEAD_S)
    assert whom_to_recall_from([late, *spare], NOW, idle=True) == ([late], None)


@pytest.mark.parametrize(
    "other", [Holder(open=False), Holder(may_hold=0), Holder(YOUNG, inflight=1), Holder(LATE, inflight=1)]
)
def test_nobody_is_asked_who_cannot_be_idle(other: Holder) -> None:
    """Replicas that run calls of ours, are shut, or have not answered yet are left alone (BC6)."""
    asked, again = whom_to_recall_from([Holder(LATE, inflight=1), other], NOW, idle=False)
    assert asked == []
    assert again == (YOUNG + LEAD_S if other.silent_since == YOUNG else None)


def test_nobody_is_asked_all_the_time() -> None:
    """One that was asked a moment ago is asked again some milliseconds later (BC6)."""
    late, busy = Holder(LATE, inflight=1), Holder(asked_at=NOW - LEAD_S / 2)
    assert whom_to_recall_from([late, busy], NOW, idle=False) == ([], NOW + LEAD_S)
    assert whom_to_recall_from([late, busy], NOW + LEAD_S / 2, idle=False) == ([busy], None)


def test_what_waits_behind_a_call_of_medium_length_stays_while_nobody_is_idle() -> None:
    """It is called back once the running call takes longer than such calls do, or as soon as another replica has
    nothing to do, which is looked for every few milliseconds (BC6)."""
    usual, busy = Holder(LATE, inflight=2, patience_s=0.03), Holder(inflight=1)
    assert whom_to_recall_from([usual, busy], NOW, idle=False) == ([], NOW + LEAD_S)
    assert whom_to_recall_from([usual, busy], LATE + 0.025, idle=False) == ([], LATE + 0.03)
    assert whom_to_recall_from([usual, busy], LATE + 0.03, idle=False) == ([usual], None)
    assert whom_to_recall_from([usual, Holder()], NOW, idle=False) == ([usual], None)


def test_one_that_may_wait_behind_a_stranger_is_looked_at_as_early_as_ever() -> None:
    """A call alone may stand behind one of another router's, whatever calls take here (BC6)."""
    late, spare = Holder(LATE, inflight=1, patience_s=0.03), Holder()
    assert whom_to_recall_from([late, spare], NOW, idle=False) == ([spare], None)
