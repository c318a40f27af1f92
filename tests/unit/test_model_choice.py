"""policy.multiplexing: which replica a call goes to that names a model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.policy.balance import choose_replica
from pointsman.policy.multiplexing import (
    SLOW_LOAD,
    check_model_id,
    choose_loader,
    decode_model_id,
    owner,
    patience_s,
    where_to_load,
)
from tests.properties import examples


@dataclass(eq=False)
class Replica:
    number: int = 1
    inflight: int = 0
    models: set[str] = field(default_factory=set)
    loading: dict[str, int] = field(default_factory=dict)
    room: int = -1
    waits_for_room: bool = False
    load_s: float = 1.0
    waits: int = 0
    open: bool = True
    elsewhere: int = 0
    near: bool = True
    may_hold: int | None = None
    one_ahead: bool = False

    @property
    def held(self) -> int:
        return self.inflight

    def awaiting(self, model_id: str) -> int | None:
        return self.loading.get(model_id)


def choose(replicas: list[Replica], waited_s: float = 0.0, limit: int = 2, **options: Any) -> int | None:
    holders = [one for one in replicas if "m" in one.models]
    chosen = choose_replica(holders, limit=limit, turn=0, **options)
    if chosen is None:
        chosen = choose_loader("m", replicas, holders, limit=limit, most=9, waited_s=waited_s, **options)
    return None if chosen is None else chosen.number


def replicas_with(count: int = 4, **fields: Any) -> list[Replica]:
    return [Replica(number, **fields) for number in range(1, count + 1)]


@pytest.mark.parametrize("good", ["m", "größe", "a/b c", "m" * 256, "é" * 128])
def test_ids_that_are_allowed(good: str) -> None:
    """An id of a model is any text of 1 to 256 bytes (MX3)."""
    assert check_model_id(good) == good
    assert decode_model_id(good.encode()) == good


@pytest.mark.parametrize(("bad", "size"), [("", 0), ("m" * 257, 257), ("é" * 129, 258)])
def test_ids_that_are_too_short_or_long(bad: str, size: int) -> None:
    """An empty id and one of over 256 bytes are refused with a word on how long they are (MX3)."""
    with pytest.raises(
        ValueError, match=f"multiplexed_model_id .* has {size} bytes of UTF-8, and 1 to 256 are allowed"
    ):
        check_model_id(bad)
    assert decode_model_id(bad.encode()) is None


def test_ids_that_are_no_text() -> None:
    """What is no text is no id (MX3)."""
    for bad in (7, None, b"m"):
        with pytest.raises(TypeError, match="multiplexed_model_id must be a str, not "):
            check_model_id(bad)
    with pytest.raises(ValueError, match="cannot be encoded as UTF-8"):
        check_model_id("\ud800")
    assert decode_model_id(b"\xff") is None


def test_the_least_busy_holder_comes_first() -> None:
    """A call goes to a replica that holds its model, to the least busy of several, however idle others are (MX6)."""
    replicas = replicas_with()
    replicas[1].models, replicas[1].inflight = {"m"}, 1
    assert choose(replicas) == 2
    replicas[2].models = {"m"}
    assert choose(replicas) == 3
    replicas[2].open = False
    assert choose(replicas) == 2


@examples(200)
@given(count=st.integers(1, 8), ids=st.lists(st.text(min_size=1), min_size=1, max_size=20), dead=st.integers(1, 8))
def test_all_routers_load_a_model_at_the_same_replica(count: int, ids: list[str], dead: int) -> None:
    """A model that no replica holds is loaded at one that depends on its id and the replicas alone, whatever order a
    router knows them in and however busy it has made them; when a replica goes, only its models move (MX5)."""
    for model_id in ids:
        replicas = replicas_with(count)
        home = owner(model_id, replicas).number
        for one in replicas:
            one.inflight = one.number % 3
        chosen = choose_loader(model_id, replicas[::-1], [], limit=1, most=9, waited_s=0.0)
        assert chosen is not None
        assert chosen.number == home
        left = [one for one in replicas if one.number != dead]
        if left and home != dead:
            assert owner(model_id, left).number == home


def test_models_spread_over_the_replicas() -> None:
    """Each of four replicas gets about a quarter of 1,000 models (MX5)."""
    counts = Counter(owner(f"model-{number}", replicas_with()).number for number in range(1000))
    assert set(counts) == {1, 2, 3, 4}
    assert all(200 < count < 300 for count in counts.values()), counts


def test_replicas_with_room_load_first() -> None:
    """A replica that need not give a model up loads before one that must, and that before one where loads wait until a
    model is out of use; among those with room, how much they have does not count (MX5)."""
    replicas = replicas_with(3, room=0)
    home = owner("m", replicas)
    assert where_to_load("m", replicas) is home
    other = next(one for one in replicas if one is not home)
    other.room = 1
    assert where_to_load("m", replicas) is other
    home.room = 9
    assert where_to_load("m", replicas) is home
    home.room, home.waits_for_room = 0, True
    other.room = 0
    assert where_to_load("m", replicas) is not home
    for one in replicas:
        one.waits_for_room = True
    assert where_to_load("m", replicas) is home
    assert where_to_load("m", []) is None


def test_a_load_under_way_is_joined() -> None:
    """Calls for a model that is being loaded go there, as many as run there at once; more wait here (MX5)."""
    replicas = replicas_with()
    away = next(one for one in replicas if one is not owner("m", replicas))
    away.loading = {"m": 1}
    assert choose(replicas) == away.number
    away.loading = {"m": 2}
    assert choose(replicas) is None
    assert choose(replicas, waited_s=1.9) is None, "a load that takes a little longer is worth waiting for"
    assert choose(replicas, waited_s=2.1) not in (None, away.number)
    assert patience_s("m", replicas, []) == SLOW_LOAD


def test_only_so_many_calls_wait_in_a_replica() -> None:
    """Where as many calls of this router wait for models as may wait, no more are sent, whatever ids clients make up:
    they wait here, or are refused (MX5, BC5)."""
    replicas = replicas_with(2, waits=9)
    assert choose(replicas) is None
    replicas[0].waits = 8
    assert choose(replicas) == 1
    replicas[0].waits, replicas[0].loading = 9, {"m": 1}
    assert choose(replicas) is None


def test_waiting_for_longer_than_a_load_loads_elsewhere() -> None:
    """A call waits for a busy holder as long as a load takes; then a replica with a free place loads the model, too
    (MX6)."""
    replicas = replicas_with(3, load_s=5.0)
    replicas[0].models, replicas[0].inflight = {"m"}, 2
    assert choose(replicas, waited_s=0.0) is None
    assert choose(replicas, waited_s=4.9) is None
    assert choose(replicas, waited_s=5.0) in (2, 3)
    assert patience_s("m", replicas, replicas[:1]) == 5.0
    for one in replicas[1:]:
        one.inflight = 2
    assert choose(replicas, waited_s=60.0) is None, "it would wait there, too"
    replicas[2].inflight = 1
    assert choose(replicas, waited_s=60.0) == 3
    replicas[0].inflight = 1
    assert choose(replicas, waited_s=60.0) == 1


def test_what_a_load_takes_is_not_known() -> None:
    """Until a replica has said what a load takes, calls wait for the one that loads (MX6)."""
    replicas = replicas_with(load_s=0.0)
    replicas[0].loading = {"m": 2}
    assert choose(replicas, waited_s=60.0) is None
    assert patience_s("m", replicas, []) is None
    assert patience_s("other", replicas, []) is None


def test_nobody_is_there() -> None:
    """Without an open replica a call waits here, also for a model that nobody holds (MX5)."""
    assert choose([]) is None
    assert choose(replicas_with(open=False)) is None


def test_mirrored_calls_take_half_of_the_places() -> None:
    """A mirrored call takes only half of a holder's places, as where no models are (SH4, MX6)."""
    replicas = replicas_with(2)
    replicas[0].models, replicas[0].inflight = {"m"}, 1
    assert choose(replicas, halved=True) is None
    assert choose(replicas) == 1
