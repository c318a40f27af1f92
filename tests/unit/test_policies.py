"""testing.policies: the check of a user's own traffic policy accepts what is sound and says what is not."""

from __future__ import annotations

import hashlib
import random
import threading
import zlib
from collections.abc import Callable
from math import log
from pathlib import Path
from typing import Any

import pytest

from pointsman.policy.traffic import CallInfo, TrafficSplit
from pointsman.testing import check_traffic_policy

HALVES = {"a": 0.5, "b": 0.5}


class BuiltIn:
    """What the router does by itself."""

    def choose(self, call: CallInfo, split: TrafficSplit, draw: float) -> str:
        return split.by_weight(draw) if call.shard_key is None else split.by_key(call.shard_key)


class TakeTurns:
    """Calls without a key go to one backend after the other, whatever the weights."""

    def choose(self, call: CallInfo, split: TrafficSplit, draw: float) -> str:
        if call.shard_key is not None:
            return split.by_key(call.shard_key)
        tags = sorted(tag for tag, weight in split.weights.items() if weight > 0)
        return tags[call.number % len(tags)]


class Calls:
    """A policy from two functions."""

    def __init__(self, keyless: Callable[..., Any] | None = None, keyed: Callable[..., Any] | None = None) -> None:
        self.keyless = keyless or (lambda call, split, draw: split.by_weight(draw))
        self.keyed = keyed or (lambda call, split, draw: split.by_key(call.shard_key))

    def choose(self, call: CallInfo, split: TrafficSplit, draw: float) -> str:
        return (self.keyless if call.shard_key is None else self.keyed)(call, split, draw)


def in_use(split: TrafficSplit) -> list[str]:
    return sorted(tag for tag, weight in split.weights.items() if weight > 0)


def by_modulo(call: CallInfo, split: TrafficSplit, draw: float) -> str:
    """What everyone writes first; another number of backends sends most keys elsewhere."""
    tags = in_use(split)
    assert call.shard_key is not None
    return tags[zlib.crc32(call.shard_key.encode()) % len(tags)]


def half_to_new(call: CallInfo, split: TrafficSplit, draw: float) -> str:
    """A newcomer gets half of the keys, whatever its weight."""
    assert call.shard_key is not None
    tags = in_use(split)
    if "new" in tags and zlib.crc32(call.shard_key.encode()) % 2:
        return "new"
    return sorted(set(tags) - {"new"})[zlib.adler32(call.shard_key.encode()) % 2] if len(tags) > 1 else tags[0]


@pytest.mark.slow
@pytest.mark.parametrize("policy", [BuiltIn(), BuiltIn, "tests.unit.test_policies:BuiltIn"])
def test_the_built_in_way_is_sound(policy: Any) -> None:
    """A user who hands on to the built-in choice passes, as an object, a class or an import path (SA7, SA9)."""
    check_traffic_policy(policy)


@pytest.mark.slow
def test_taking_turns_is_sound_for_equal_weights() -> None:
    """A round robin passes with the weights that it is meant for, and only with those (TR3)."""
    check_traffic_policy(TakeTurns(), weights=HALVES)
    with pytest.raises(AssertionError, match="weights not respected"):
        check_traffic_policy(TakeTurns)


def always(tag: str) -> Callable[..., str]:
    return lambda call, split, draw: tag


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (Calls(keyless=always("a")), r"weights not respected: with \{.*\} backend 'a' got 2000 of 2000 calls without"),
        (Calls(keyed=always("a")), r"weights not respected: .* backend 'a' got 2000 of 2000 keys, not 1000 \+- "),
        (Calls(keyless=always("nobody")), r"it chose 'nobody', which is none of \['a', 'b'\]"),
        (Calls(keyed=always("nobody")), r"it chose 'nobody', which is none of"),
        (Calls(keyless=lambda call, split, draw: None), "it chose None, which is none of"),
        (Calls(keyless=lambda call, split, draw: random.choice("ab")), "not pure: asked twice about CallInfo.*number="),
        (Calls(keyed=lambda call, split, draw: split.by_weight(draw)), "key 'key 0' went to 'a' and then to 'b'"),
        (Calls(keyed=lambda call, split, draw: in_use(split)[call.number % 2]), "key 'key 0' went to 'a' and then"),
        (Calls(keyed=by_modulo), "key 'key .*' moved from '[ab]' to '[ab]', which has not grown"),
    ],
)
def test_what_is_wrong_is_said(policy: Any, text: str) -> None:
    """A policy that breaks a promise fails the check, in words that say which promise (SA1, SA7, SA9)."""
    with pytest.raises(AssertionError, match=text):
        check_traffic_policy(policy, weights=HALVES, calls=2000)


@pytest.mark.slow
def test_the_usual_weights_find_a_policy_that_ignores_them() -> None:
    """A policy that only ever saw equal weights fails without the user thinking of others (SA9)."""
    with pytest.raises(AssertionError, match="weights not respected"):
        check_traffic_policy(Calls(keyless=lambda call, split, draw: in_use(split)[int(draw * len(in_use(split)))]))


def test_backends_without_weight_get_nothing() -> None:
    """A policy that also uses backends at weight 0 fails (TR10)."""
    spread = Calls(keyless=lambda call, split, draw: "off" if draw < 0.001 else split.by_weight(draw))
    with pytest.raises(AssertionError, match=r"backend 'off' got \d+ of 20000 calls without a key, not 0"):
        check_traffic_policy(spread, weights={**HALVES, "off": 0.0})


def test_newcomers_of_weight_zero_move_no_key() -> None:
    """A policy that counts backends at weight 0 too moves keys when one is added, and fails (SA8)."""

    def by_modulo_of_all(call: CallInfo, split: TrafficSplit, draw: float) -> str:
        assert call.shard_key is not None
        tags = sorted(split.weights)
        return tags[zlib.crc32(call.shard_key.encode()) % len(tags)]

    with pytest.raises(AssertionError, match="a new backend of weight 0 moved key"):
        check_traffic_policy(Calls(keyed=by_modulo_of_all), weights=HALVES, calls=2000)


def test_newcomers_get_no_more_than_their_weight() -> None:
    """A policy that moves keys only to the new backend, but too many of them, fails (SA7)."""
    with pytest.raises(
        AssertionError, match=r"\d+ of 2000 keys moved for a new backend of weight 0.1, not \d+ at most"
    ):
        check_traffic_policy(Calls(keyed=half_to_new), weights=HALVES, calls=2000)


class ByHash:
    """Rendezvous hashing as it is quickly written, with a hash that differs from process to process."""

    def choose(self, call: CallInfo, split: TrafficSplit, draw: float) -> str:
        if call.shard_key is None:
            return split.by_weight(draw)
        return min(in_use(split), key=lambda tag: self.number(f"{tag} {call.shard_key}") / split.weights[tag])

    def number(self, text: str) -> float:
        return -log((hash(text) % 2**32 + 1) / 2**32)


class Salted(ByHash):
    """The same with a salt that each router draws for itself."""

    def __init__(self) -> None:
        self.salt = random.random()

    def number(self, text: str) -> float:
        digest = hashlib.blake2b(f"{self.salt}{text}".encode(), digest_size=4).digest()
        return -log((int.from_bytes(digest, "big") + 1) / 2**32)


@pytest.mark.parametrize("policy", [ByHash, ByHash(), Salted, f"{__name__}:ByHash"])
def test_processes_must_agree(policy: Any) -> None:
    """A policy that is sound in one process, and sends the same user elsewhere in the next one, fails (SA3)."""
    with pytest.raises(
        AssertionError, match=r"not the same in every process: '[ab]' here and '[ab]' elsewhere for Call"
    ):
        check_traffic_policy(policy, weights=HALVES, calls=500)


def test_what_cannot_be_sent_is_not_checked_elsewhere() -> None:
    """An object that cannot be pickled is checked as far as it can be, and a warning says so (SA3)."""
    policy = BuiltIn()
    policy.lock = threading.Lock()  # type: ignore[attr-defined]
    with pytest.warns(UserWarning, match=r"was not checked in another process: .*pickle"):
        check_traffic_policy(policy, weights=HALVES, calls=500)


def test_keys_stay_whatever_is_asked_for() -> None:
    """A policy that sends a user's POST elsewhere than their GET breaks the session, and fails (SA1)."""

    def by_path(call: CallInfo, split: TrafficSplit, draw: float) -> str:
        assert call.shard_key is not None
        return split.by_key(call.shard_key if call.http_method == "GET" else f"{call.shard_key} ")

    with pytest.raises(AssertionError, match=r"key 'key .*' went to '[ab]' and then to '[ab]': CallInfo.*'POST'"):
        check_traffic_policy(Calls(keyed=by_path), weights=HALVES, calls=500)


def test_the_verdict_is_always_the_same() -> None:
    """A policy that failed once fails each time, with the same words: the draws are fixed (SA9)."""
    nearly = Calls(keyless=lambda call, split, draw: split.by_weight(draw**1.5))
    texts = set()
    for _ in range(3):
        with pytest.raises(AssertionError) as caught:
            check_traffic_policy(nearly, weights=HALVES, calls=5000)
        texts.add(str(caught.value))
    assert len(texts) == 1


def test_import_paths_are_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user checks a policy by the path that ``set_traffic`` will be given, and hears when there is none (SA6)."""
    (tmp_path / "my_checked_policy.py").write_text(
        "class Stubborn:\n    def choose(self, call, split, draw):\n        return min(split.weights)\nbroken = 5\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for path in ("my_checked_policy:Stubborn", "my_checked_policy.Stubborn"):
        with pytest.raises(AssertionError, match="weights not respected"):
            check_traffic_policy(path, weights=HALVES, calls=1000)
    with pytest.raises(TypeError, match="no method choose"):
        check_traffic_policy("my_checked_policy:broken")
    with pytest.raises(ImportError, match="has no 'Nothing'"):
        check_traffic_policy("my_checked_policy:Nothing")
