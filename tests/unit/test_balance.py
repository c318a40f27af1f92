"""policy.balance: the least busy replica with room gets the call."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.policy.balance import choose_replica
from tests.properties import examples


@dataclass(eq=False)
class Candidate:
    inflight: int = 0
    elsewhere: int = 0
    open: bool = True
    near: bool = True

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
