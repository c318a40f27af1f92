"""The keys that a change of weights moves."""

from __future__ import annotations

import math
import random

import pytest

from pointsman.policy.flows import flows
from pointsman.policy.rendezvous import Rendezvous


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"a": 0.95, "b": 0.05}, {"a": 0.9, "b": 0.1}),
        ({"a": 0.5, "b": 0.3, "c": 0.2}, {"a": 0.2, "b": 0.3, "c": 0.3, "d": 0.2}),
        ({"a": 0.5, "b": 0.5}, {"a": 0.1, "b": 0.6, "c": 0.3}),
    ],
    ids=["a canary", "a fourth backend", "a third one"],
)
def test_the_preview_says_what_really_moves(old, new):
    """The share of keys that a preview names is the share that the routers then move (AD5)."""
    before, after = Rendezvous("shop", old), Rendezvous("shop", new)
    moved: dict[tuple[str, str], int] = {}
    for key in range(20_000):
        pair = before.owner(str(key)), after.owner(str(key))
        moved[pair] = moved.get(pair, 0) + 1
    expected = flows(old, new)
    for pair in {pair for pair in moved if pair[0] != pair[1]} | expected.keys():
        share = expected.get(pair, 0.0)
        spread = 5 * math.sqrt(max(share, 1e-4) / 20_000)
        assert abs(moved.get(pair, 0) / 20_000 - share) < spread, pair


def test_what_flows_out_of_a_backend_is_what_it_loses():
    """Whatever weights are thought of, flows in and out of each backend make up the change of its share (AD5)."""
    chance = random.Random(7)
    for _ in range(300):
        tags = [f"v{number}" for number in range(chance.randint(1, 7))]
        old, new = (weights(tags, chance) for _ in range(2))
        found = flows(old, new)
        assert all(share > 0 and one != other for (one, other), share in found.items())
        for tag in tags:
            gained = sum(share for (_, to), share in found.items() if to == tag)
            lost = sum(share for (off, _), share in found.items() if off == tag)
            assert new[tag] - old[tag] == pytest.approx(gained - lost, abs=1e-9)


def test_two_backends_move_no_key_too_many():
    """Between two backends only the difference of the shares moves, all of it one way (AD5)."""
    assert flows({"a": 0.95, "b": 0.05}, {"a": 0.9, "b": 0.1}) == {("a", "b"): pytest.approx(0.05)}
    assert flows({"a": 1.0}, {"a": 1.0, "b": 0.0}) == {}
    assert flows({"a": 1.0}, {"b": 1.0}) == {("a", "b"): pytest.approx(1.0)}


def test_weights_that_do_not_sum_to_one_are_refused():
    """A preview refuses what a change would refuse (AD6)."""
    with pytest.raises(ValueError, match=r"sum to 1"):
        flows({"a": 1.0}, {"a": 0.5})


def weights(tags, chance):
    drawn = {tag: chance.choice([0.0, chance.random()]) for tag in tags}
    drawn[chance.choice(tags)] += 0.1
    total = sum(drawn.values())
    return {tag: weight / total for tag, weight in drawn.items()}
