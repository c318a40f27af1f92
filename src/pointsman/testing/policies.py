"""Checks that a custom traffic policy keeps the guarantees of an endpoint."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Mapping
from math import sqrt

from pointsman.model import CustomPolicy, TrafficPolicy
from pointsman.policy.traffic import CallInfo, Policy, TrafficSplit
from pointsman.routing.ownpolicy import load_policy
from pointsman.usercode.packing import pack_code, unpack_code

ENDPOINT = "checked"
USUAL_WEIGHTS: tuple[dict[str, float], ...] = (
    {"a": 1.0},
    {"a": 0.5, "b": 0.5},
    {"a": 0.99, "b": 0.01},
    {"a": 0.2, "b": 0.3, "c": 0.5, "off": 0.0},
)
#: How many calls of each kind are compared with another process.
SAMPLE = 200
OTHER_PROCESS_TIMEOUT_S = 60
#: Tolerance of a share: a correct policy is outside it once in a million shares.
SIGMAS = 5


def check_traffic_policy(
    policy: Policy | type[Policy] | str, *, weights: Mapping[str, float] | None = None, calls: int = 20_000
) -> None:
    """Check that a policy is pure, chooses known backends only, respects weights, keeps each key at its backend, moves
    as few keys as possible when weights change, and chooses the same in another process.

    The random numbers are the same in every run, so a policy passes always or never.

    Args:
        policy: the object, its class, or its import path.
        weights: the weights to check it with, which sum to 1; None for several usual sets.
        calls: how many calls, and how many keys, to check for each set.

    Raises:
        AssertionError: the policy is wrong; the text shows a call.

    Warns:
        UserWarning: the object cannot be pickled, so it was checked in this process only. Give its class instead.
    """
    checked = _made(policy)
    tried = USUAL_WEIGHTS if weights is None else (dict(weights),)
    for one in tried:
        split = _split(one)
        _check_shares(checked, split, [_call(number=number) for number in range(calls)], "calls without a key")
        keyed = [_call(number=number, shard_key=f"key {number}") for number in range(calls)]
        _check_shares(checked, split, keyed, "keys")
        _check_keys_stay(checked, split, keyed[:200])
        _check_least_movement(checked, one, keyed)
    _check_other_process(policy, _sample(checked, tried[-1]), tried[-1])


def _made(policy: Policy | type[Policy] | str) -> Policy:
    if isinstance(policy, str):
        return load_policy(CustomPolicy(policy))
    return policy() if isinstance(policy, type) else policy


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
        others = (
            (call._replace(number=7), 0.3),
            (call._replace(number=1000), 0.999999),
            (call._replace(http_method="POST", path=b"/other", query=b"a=1", headers=[(b"x-other", b"1")]), 0.5),
        )
        for other, draw in others:
            chosen = _choice(policy, other, split, draw)
            assert chosen == home, f"key {call.shard_key!r} went to {home!r} and then to {chosen!r}: {other}"


def _check_least_movement(policy: Policy, weights: dict[str, float], calls: list[CallInfo]) -> None:
    """A new backend first has weight 0, then gets a tenth of each weight."""
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


def _check_other_process(policy: Policy | type[Policy] | str, here: list[str], weights: dict[str, float]) -> None:
    """Routers in several processes must agree, so a choice must not depend on the process, as ``hash()`` does."""
    try:
        packed = pack_code(policy, ())
    except TypeError as error:
        warnings.warn(f"{policy!r} was not checked in another process: {error}", stacklevel=3)
        return
    program = f"from pointsman.testing.policies import answer; answer({json.dumps(weights)!r})"
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=packed,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)), "PYTHONHASHSEED": seed},
        capture_output=True,
        timeout=OTHER_PROCESS_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"it cannot be used in another process: {done.stderr.decode(errors='replace')}"
    there = json.loads(done.stdout.splitlines()[-1])
    for call, one, other in zip(_sample_calls(), here, there, strict=True):
        assert one == other, f"not the same in every process: {one!r} here and {other!r} elsewhere for {call}"


def answer(weights: str) -> None:
    """Main of the other process: print the choices of the policy on standard input."""
    policy, _ = unpack_code(sys.stdin.buffer.read())
    print(json.dumps(_sample(_made(policy), json.loads(weights))))


def _sample(policy: Policy, weights: dict[str, float]) -> list[str]:
    split, chance = _split(weights), random.Random(2)
    return [_choice(policy, call, split, chance.random()) for call in _sample_calls()]


def _sample_calls() -> list[CallInfo]:
    keyless = [_call(number=number) for number in range(SAMPLE)]
    return [*keyless, *(_call(number=number, shard_key=f"key {number}") for number in range(SAMPLE))]


def _choice(policy: Policy, call: CallInfo, split: TrafficSplit, draw: float) -> str:
    chosen = policy.choose(call, split, draw)
    assert chosen in split.weights, f"it chose {chosen!r}, which is none of {sorted(split.weights)}"
    return chosen


def _split(weights: Mapping[str, float]) -> TrafficSplit:
    return TrafficSplit(ENDPOINT, TrafficPolicy(1, dict(weights)))


def _call(*, number: int, shard_key: str | None = None) -> CallInfo:
    return CallInfo(ENDPOINT, shard_key, number, "GET", b"/", b"", [])
