"""policy.traffic: the share of each backend is its weight."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.model import TrafficPolicy
from pointsman.policy.traffic import TrafficSplit
from tests.properties import examples

JUST_BELOW_ONE = math.nextafter(1.0, 0.0)


def split(weights: dict[str, float]) -> TrafficSplit:
    return TrafficSplit("e", TrafficPolicy(1, weights))


def normal(parts: dict[str, int]) -> dict[str, float]:
    total = sum(parts.values())
    return {tag: part / total for tag, part in parts.items()}


policies = (
    st.dictionaries(st.text(max_size=3), st.integers(0, 1000), min_size=1, max_size=8)
    .filter(lambda parts: any(parts.values()))
    .map(normal)
)
draws = st.floats(0, JUST_BELOW_ONE)


@pytest.mark.parametrize(
    "weights",
    [
        {"only": 1.0},
        {"a": 0.5, "b": 0.5},
        {"a": 0.9, "b": 0.1},
        {"a": 0.99, "b": 0.01},
        {"a": 0.2, "b": 0.3, "c": 0.5},
        {"a": 0.2, "b": 0.2, "c": 0.2, "d": 0.2, "e": 0.2},
        {"off": 0.0, "a": 0.25, "also off": 0.0, "b": 0.75, "z off": 0.0},
    ],
    ids=lambda weights: "/".join(f"{weight:g}" for weight in weights.values()),
)
def test_shares_match_the_weights(weights: dict[str, float]) -> None:
    """An operator who gives a canary 10 % sees it get 10 % of the requests, within 3 sigma (TR3, TR7)."""
    chosen, chance, count = split(weights), random.Random(20), 20_000
    hits = dict.fromkeys(weights, 0)
    for _ in range(count):
        hits[chosen.by_weight(chance.random())] += 1
    for tag, weight in weights.items():
        sigma = math.sqrt(count * weight * (1 - weight))
        assert abs(hits[tag] - count * weight) <= 3 * sigma, f"{tag}: {hits[tag]} of {count}"


@examples(200)
@given(weights=policies, draw=draws)
def test_weight_zero_is_never_chosen(weights: dict[str, float], draw: float) -> None:
    """A backend at weight 0 gets no request, whatever the draw and whatever its name (TR10)."""
    chosen = split(weights)
    for value in (draw, 0.0, JUST_BELOW_ONE):
        assert weights[chosen.by_weight(value)] > 0


@examples(200)
@given(weights=policies, draw=draws, chance=st.randoms(use_true_random=False))
def test_dict_order_does_not_matter(weights: dict[str, float], draw: float, chance: random.Random) -> None:
    """Two operators who write the same weights in another order get the same split (TR3)."""
    items = list(weights.items())
    chance.shuffle(items)
    assert split(dict(items)).by_weight(draw) == split(weights).by_weight(draw)


@examples(200)
@given(weights=policies, one=draws, other=draws)
def test_each_backend_owns_one_stretch(weights: dict[str, float], one: float, other: float) -> None:
    """The draws that lead to one backend lie side by side, and no draw is left without one (TR3)."""
    chosen = split(weights)
    low, high = sorted((one, other))
    tags = sorted(tag for tag in weights if weights[tag] > 0)
    assert tags.index(chosen.by_weight(low)) <= tags.index(chosen.by_weight(high))
    assert chosen.by_weight(0.0) == tags[0]
    assert chosen.by_weight(JUST_BELOW_ONE) == tags[-1]


@pytest.mark.parametrize("count", [3, 7, 10, 49, 1000])
def test_a_draw_just_below_one_has_an_answer(count: int) -> None:
    """Weights whose floating sum ends below 1 leave no request without a backend (TR3)."""
    tags = [f"b{number:04}" for number in range(count)]
    chosen = split(dict.fromkeys(tags, 1 / count))
    assert chosen.by_weight(JUST_BELOW_ONE) == tags[-1]


@pytest.mark.parametrize(
    ("draw", "tag"),
    [(0.0, "a"), (math.nextafter(0.25, 0), "a"), (0.25, "b"), (math.nextafter(0.5, 0), "b"), (0.5, "d")],
)
def test_borders_belong_to_the_next(draw: float, tag: str) -> None:
    """A draw on the border between two backends goes to the second, so both have exactly their share (TR3)."""
    assert split({"d": 0.5, "b": 0.25, "a": 0.25, "c": 0.0}).by_weight(draw) == tag
