"""Checks a traffic policy of one's own against what users of an endpoint rely on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from math import sqrt
from typing import Any

from pointsman.model import CustomPolicy, TrafficPolicy
from pointsman.policy.traffic import CallInfo, Policy, TrafficSplit
from pointsman.routing.chooser import load_policy

ENDPOINT = "checked"
USUAL_WEIGHTS: tuple[dict[str, float], ...] = (
    {"a": 1.0},
    {"a": 0.5, "b": 0.5},
    {"a": 0.99, "b": 0.01},
    {"a": 0.2, "b": 0.3, "c": 0.5, "off": 0.0},
)
SIGMAS = 5
"""A sound policy fails by chance once in a million shares."""


def check_traffic_policy(
    policy: Policy | type[Policy] | str, *, weights: Mapping[str, float] | None = None, calls: int = 20_000
) -> None:
    """Check a policy: that it is pure, chooses known backends only, respects weights, keeps keys with their backends,
    and moves no more of them than it must.

    The random numbers are the same in every run, so a policy passes always or never.

    Args:
        policy: the object, its class, or its import path.
        weights: the weights to check it with, which sum to 1; None for several usual ones.
        calls: how many calls, and how many keys, to check each with.

    Raises:
        AssertionError: what is wrong, with the call that shows it.
    """
    path = policy if isinstance(policy, str) else ""
    checked: Any = load_policy(CustomPolicy(path)) if path else policy() if isinstance(policy, type) else policy
    for one in USUAL_WEIGHTS if weights is None else (dict(weights),):
        split = _split(one)
        _check_shares(checked, split, [_call(number=number) for number in range(calls)], "calls without a key")
        keyed = [_call(number=number, shard_key=f"key {number}") for number in range(calls)]
        _check_shares(checked, split, keyed, "keys")
        _check_keys_stay(checked, split, keyed[:200])
        _check_least_movement(checked, one, keyed)


def _check_shares(policy: Policy, split: TrafficSplit, calls: list[CallInfo], what: str) -> None:
    chance = random.Random(1)
    shares: Counter[str] = Counter()
    for call in calls:
        draw = chance.random()
        chosen = _choice(policy, call, split, draw)
        assert chosen == _choice(policy, call, split, draw), f"not pure: asked twice about {call}, it answered twice"
        shares[chosen] += 1
    for tag, weight in split.weights.items():
        expected = len(calls) * weight
        slack = SIGMAS * sqrt(len(calls) * weight * (1 - weight))
        assert abs(shares[tag] - expected) <= slack, (
            f"weights not respected: with {dict(split.weights)} backend {tag!r} got {shares[tag]} of {len(calls)}"
            f" {what}, not {expected:.0f} +- {slack:.0f}"
        )


def _check_keys_stay(policy: Policy, split: TrafficSplit, calls: list[CallInfo]) -> None:
    for call in calls:
        home = _choice(policy, call, split, 0.0)
        for number, draw in ((7, 0.3), (1000, 0.999999)):
            chosen = _choice(policy, call._replace(number=number), split, draw)
            assert chosen == home, f"key {call.shard_key!r} went to {home!r} and then to {chosen!r}"


def _check_least_movement(policy: Policy, weights: dict[str, float], calls: list[CallInfo]) -> None:
    """A tenth of everybody's weight goes to a new backend, which first has none."""
    before = _split(weights)
    joined = _split({**weights, "new": 0.0})
    grown = _split({**{tag: 0.9 * weight for tag, weight in weights.items()}, "new": 0.1})
    moved = 0
    for call in calls:
        home = _choice(policy, call, before, 0.0)
        there = _choice(policy, call, joined, 0.0)
        assert there == home, f"a new backend of weight 0 moved key {call.shard_key!r} from {home!r} to {there!r}"
        later = _choice(policy, call, grown, 0.0)
        assert later in (home, "new"), f"key {call.shard_key!r} moved from {home!r} to {later!r}, which has not grown"
        moved += later != home
    most = 0.1 * len(calls) + SIGMAS * sqrt(0.09 * len(calls))
    assert moved <= most, f"{moved} of {len(calls)} keys moved for a new backend of weight 0.1, not {most:.0f} at most"


def _choice(policy: Policy, call: CallInfo, split: TrafficSplit, draw: float) -> str:
    chosen = policy.choose(call, split, draw)
    assert chosen in split.weights, f"it chose {chosen!r}, which is none of {sorted(split.weights)}"
    return chosen


def _split(weights: Mapping[str, float]) -> TrafficSplit:
    return TrafficSplit(ENDPOINT, TrafficPolicy(1, dict(weights)))


def _call(*, number: int, shard_key: str | None = None) -> CallInfo:
    return CallInfo(ENDPOINT, shard_key, number, "GET", b"/", b"", [])
