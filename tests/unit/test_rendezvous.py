"""policy.rendezvous: the map from shard keys to backends is what the documentation says, everywhere and for ever."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.model import TrafficPolicy
from pointsman.policy.rendezvous import HASH_VERSION, Rendezvous, minus_log
from pointsman.policy.traffic import TrafficSplit
from tests.properties import examples

Weights = dict[str, float]

FIVE = dict.fromkeys("abcde", 0.2)
KEYS = [f"user {number}" for number in range(20_000)]

GOLDEN_LOGS = [
    (0, "0x1.25e4f7b2737fap+5"),
    (1, "0x1.25e4f7b2737fap+5"),
    (0xFFF, "0x1.25e4f7b2737fap+5"),
    (0x1000, "0x1.1d1b02751cefep+5"),
    (0x0123456789ABCDEF, "0x1.5aa16394d4834p+2"),
    # Around sqrt(1/2) / 2, and around 1/2.
    (0x5A827999FCEF2000, "0x1.0a2b23f3ce188p+0"),
    (0x5A827999FCEF3000, "0x1.0a2b23f3a755fp+0"),
    (0x7FFFFFFFFFFFFFFF, "0x1.62e42fefa39f1p-1"),
    (0x8000000000000000, "0x1.62e42fefa39edp-1"),
    # Around sqrt(1/2), where the exponent is corrected by one.
    (0xB504F333F9DE5000, "0x1.62e42feff1241p-2"),
    (0xB504F333F9DE5FFF, "0x1.62e42feff1241p-2"),
    (0xB504F333F9DE6000, "0x1.62e42fef561a1p-2"),
    (0xB504F333F9DE7000, "0x1.62e42fef5619bp-2"),
    (0xFEDCBA9876543210, "0x1.23eb991354e4cp-8"),
    (0xFFFFFFFFFFFFEFFF, "0x1.8000000000002p-52"),
    (0xFFFFFFFFFFFFF000, "0x1.0000000000000p-53"),
    (2**64 - 1, "0x1.0000000000000p-53"),
]

GOLDEN_OWNERS: list[tuple[str, Weights, str, str, str]] = [
    ("shop", {"v1": 0.9, "v2": 0.1}, "", "v1", "0x1.76df15e7a8a32p-1"),
    ("shop", {"v1": 0.9, "v2": 0.1}, "alice", "v2", "0x1.63b58fd052489p+0"),
    ("shop", {"v1": 0.9, "v2": 0.1}, "bob", "v1", "0x1.00d2eb2209cb3p-2"),
    ("shop", {"v1": 0.9, "v2": 0.1}, "Zoë", "v1", "0x1.eee461a8e09abp+0"),
    ("shop", {"v1": 0.9, "v2": 0.1}, "日本", "v1", "0x1.396689cd81d6bp-1"),
    ("shop", {"v1": 0.9, "v2": 0.1}, " ", "v1", "0x1.94794abbd70b0p+1"),
    ("shop", {"v1": 0.9, "v2": 0.1}, "a\0b", "v1", "0x1.7904bc9c0dfd7p-1"),
    ("shop", {"v1": 0.8, "v2": 0.2}, "alice", "v2", "0x1.63b58fd052489p-1"),
    ("shop", {"v1": 0.8, "v2": 0.2}, "🦆", "v1", "0x1.95a76975928eep-1"),
    ("checkout", {"v1": 0.9, "v2": 0.1}, "alice", "v2", "0x1.f54809bfedc63p-1"),
    ("checkout", {"v1": 0.9, "v2": 0.1}, "🦆", "v2", "0x1.8a47081fee238p-2"),
    ("e", FIVE, "", "b", "0x1.1024faa1bfc61p+0"),
    ("e", FIVE, "bob", "a", "0x1.8b8d906491d9fp-5"),
    ("e", FIVE, "0", "b", "0x1.7edc3aa46d3e1p+0"),
    ("e", FIVE, "日本", "c", "0x1.c564206f18735p-2"),
    ("e", FIVE, "🦆", "a", "0x1.a1a1e7b3ce978p-3"),
    ("e", FIVE, "a\0b", "e", "0x1.aba4efdc9f904p-3"),
    ("größe", {"alt": 0.5, "neu ☃": 0.5}, "", "alt", "0x1.2b6c46d312ce8p-3"),
    ("größe", {"alt": 0.5, "neu ☃": 0.5}, "alice", "neu ☃", "0x1.4687430e33625p-2"),
    ("größe", {"alt": 0.5, "neu ☃": 0.5}, "Zoë", "alt", "0x1.8a29a56043e7ep+0"),
    ("e", {"only": 1.0}, "alice", "only", "0x1.ffc83e68a00dcp-1"),
    ("e", {"a": 1.0, "b": 0.0}, "bob", "a", "0x1.3c71405074ae6p-7"),
]


def homes(weights: Weights, endpoint: str = "e") -> dict[str, str]:
    """Where each of the 20,000 keys lives."""
    owner = Rendezvous(endpoint, weights).owner
    return {key: owner(key) for key in KEYS}


def moves(before: Weights, after: Weights) -> Counter[tuple[str, str]]:
    """How many keys move, by old and new backend."""
    old, new = homes(before), homes(after)
    return Counter((old[key], new[key]) for key in KEYS if old[key] != new[key])


def documented(endpoint: str, weights: Weights, key: str) -> dict[str, float]:
    """The formula of the documentation, word by word."""
    numbers = {}
    for backend, weight in weights.items():
        if weight > 0:
            data = f"1\0{endpoint}\0{backend}\0{key}".encode()
            bits = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
            numbers[backend] = -math.log((bits // 2**12 + 0.5) / 2**52) / weight
    return numbers


def weight_sets_of(tags: str | None = None) -> st.SearchStrategy[Weights]:
    """Weights of up to six backends, some of them 0; of these names, or of any."""
    names = st.text(max_size=4) if tags is None else st.sampled_from(tags)
    sets = st.dictionaries(names, st.integers(0, 100).map(float), min_size=1, max_size=6)
    return sets.filter(lambda weights: any(weights.values()))


weight_sets = weight_sets_of()


# --- the formula ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "expected"), GOLDEN_LOGS)
def test_golden_logarithms(bits: int, expected: str) -> None:
    """A key is not moved by another machine's arithmetic: the logarithm is the same to the last bit (SA3, SA6)."""
    assert minus_log(bits).hex() == expected


@pytest.mark.parametrize(("endpoint", "weights", "key", "backend", "number"), GOLDEN_OWNERS)
def test_golden_owners(endpoint: str, weights: Weights, key: str, backend: str, number: str) -> None:
    """A user with this key is with this backend in every release that has this hash version (SA3, SA6)."""
    rendezvous = Rendezvous(endpoint, weights)
    assert rendezvous.owner(key) == backend
    assert rendezvous.numbers(key)[backend].hex() == number
    assert HASH_VERSION == 1


@pytest.mark.slow
@examples(1000)
@given(bits=st.integers(0, 2**64 - 1) | st.integers(0, 64).map(lambda n: 2**64 - 1 >> n))
def test_the_logarithm_is_accurate(bits: int) -> None:
    """Shares follow the weights because the logarithm is one, to 2e-9 (SA6, SA9)."""
    assert minus_log(bits) == pytest.approx(-math.log(((bits >> 12) + 0.5) / 2**52), abs=2e-9, rel=2e-9)
    assert minus_log(bits) > 0


@examples(500)
@given(one=st.integers(0, 2**64 - 1), other=st.integers(0, 2**64 - 1))
def test_the_logarithm_never_rises(one: int, other: int) -> None:
    """A larger hash never gives a larger number, at no seam of the series (SA6)."""
    low, high = sorted((one, other))
    assert minus_log(low) >= minus_log(high)


@examples(300)
@given(endpoint=st.text(max_size=5), weights=weight_sets, key=st.text(max_size=20))
def test_anyone_can_compute_the_owner(endpoint: str, weights: Weights, key: str) -> None:
    """A user who follows the documented formula in a program of their own finds the same backend (SA6)."""
    expected = documented(endpoint, weights, key)
    rendezvous = Rendezvous(endpoint, weights)
    assert rendezvous.numbers(key) == pytest.approx(expected, rel=1e-9)
    assert rendezvous.owner(key) == min(sorted(expected), key=expected.__getitem__)


def test_the_first_by_name_wins_a_tie() -> None:
    """Two backends that draw the same number do not take turns (SA3)."""
    tiny = 5e-324
    rendezvous = Rendezvous("e", {"b": tiny, "a": tiny, "c": tiny})
    assert set(rendezvous.numbers("alice").values()) == {math.inf}
    assert rendezvous.owner("alice") == "a"


def test_another_process_gives_the_same_map() -> None:
    """A router that starts tomorrow, with other hash seeds, sends every key where today's does (SA3)."""
    weights = {"a": 0.2, "b": 0.3, "ü": 0.5}
    program = (
        "import json, sys; from pointsman.policy.rendezvous import Rendezvous; weights, keys = json.load(sys.stdin);"
        "print(json.dumps([Rendezvous('e', weights).owner(key) for key in keys]))"
    )
    for seed in ("1", "4711"):
        answer = subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps([weights, KEYS[:2000]]),
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(answer.stdout) == [Rendezvous("e", weights).owner(key) for key in KEYS[:2000]]


# --- which keys move ------------------------------------------------------------------------------------------


def test_a_rollout_moves_the_difference_and_only_forward() -> None:
    """From 90/10 to 80/20 a tenth of the users change, all of them to the new version (SA7, TR12)."""
    moved = moves({"old": 0.9, "new": 0.1}, {"old": 0.8, "new": 0.2})
    assert set(moved) == {("old", "new")}
    assert moved.total() / len(KEYS) == pytest.approx(0.1, abs=0.01)


@pytest.mark.slow
def test_a_whole_rollout_moves_each_key_once() -> None:
    """Over twenty steps from old to new each user changes once, and never back (TR12)."""
    before = homes({"old": 1.0, "new": 0.0})
    for step in range(1, 21):
        after = homes({"old": (20 - step) / 20, "new": step / 20})
        assert {(before[key], after[key]) for key in KEYS if before[key] != after[key]} == {("old", "new")}
        before = after
    assert set(before.values()) == {"new"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"a": 0.99, "b": 0.01}, {"a": 0.98, "b": 0.01, "c": 0.01}),
        ({"a": 0.5, "b": 0.3, "c": 0.2}, {"a": 0.3, "b": 0.3, "c": 0.4}),
        ({"a": 0.5, "b": 0.3, "c": 0.2}, {"a": 0.2, "b": 0.5, "c": 0.3}),
        ({"a": 0.6, "b": 0.4}, {"b": 0.4, "c": 0.6}),
        (FIVE, {"a": 0.1, "b": 0.15, "c": 0.2, "d": 0.25, "e": 0.3}),
        (FIVE, {"a": 0.05, "b": 0.8, "c": 0.05, "d": 0.05, "e": 0.05}),
        ({"a": 0.01, "b": 0.01, "c": 0.98}, {"a": 0.02, "b": 0.01, "c": 0.97}),
    ],
    ids=str,
)
def test_keys_move_only_when_they_must(before: Weights, after: Weights) -> None:
    """Users move only to a backend that gained on their old one, and no more of them than 2d/(1+d) (SA7)."""
    moved = moves(before, after)
    for old, new in moved:
        assert after.get(new, 0.0) * before[old] > after.get(old, 0.0) * before.get(new, 0.0), f"{old} -> {new}"
    d = sum(abs(after.get(tag, 0.0) - before.get(tag, 0.0)) for tag in {*before, *after}) / 2
    bound = 2 * d / (1 + d)
    assert moved.total() / len(KEYS) <= bound + 3 * math.sqrt(bound * (1 - bound) / len(KEYS))


@pytest.mark.slow
@examples(40)
@given(before=weight_sets_of("abcdef"), after=weight_sets_of("abcdef"), seed=st.integers(0, 2**32))
def test_no_change_moves_more_than_it_must(before: Weights, after: Weights, seed: int) -> None:
    """Whatever I change at once, with any number of backends, added or removed: no user moves to a backend that did not
    gain on theirs, and no more of them than 2d/(1+d) (SA7)."""
    before, after = ({tag: w / sum(weights.values()) for tag, w in weights.items()} for weights in (before, after))
    one, other = Rendezvous("e", before), Rendezvous("e", after)
    pairs = [(one.owner(key), other.owner(key)) for key in (f"{seed} {number}" for number in range(2000))]
    moved = [pair for pair in pairs if pair[0] != pair[1]]
    for old, new in set(moved):
        assert after[new] * before[old] > after.get(old, 0.0) * before.get(new, 0.0), f"{old} -> {new}"
    d = sum(abs(after.get(tag, 0.0) - before.get(tag, 0.0)) for tag in {*before, *after}) / 2
    expected = len(pairs) * 2 * d / (1 + d)
    # Chance leaves six sigma once in a billion examples, the 5 for bounds of a few users.
    assert len(moved) <= expected + 6 * math.sqrt(expected) + 5


def test_a_small_third_backend_takes_little() -> None:
    """From 0.99/0.01 to 0.98/0.01/0.01 about one user in a hundred moves, nearly all of them to the newcomer (SA7)."""
    moved = moves({"a": 0.99, "b": 0.01}, {"a": 0.98, "b": 0.01, "c": 0.01})
    assert moved.total() / len(KEYS) == pytest.approx(0.0101, abs=3 * math.sqrt(0.0101 / len(KEYS)))
    assert set(moved) <= {("a", "c"), ("b", "c"), ("a", "b")}


def test_rolling_back_restores_the_map() -> None:
    """After a canary that went wrong every user is back where they were (SA8)."""
    before = {"a": 0.7, "b": 0.3}
    was = homes(before)
    assert homes({"a": 0.2, "b": 0.3, "c": 0.5}) != was
    assert homes(before) == was


@pytest.mark.parametrize(
    "after",
    [
        {"a": 0.7, "b": 0.3, "new": 0.0},
        {"0 first by name": 0.0, "b": 0.3, "a": 0.7},
        {"a": 0.7, "b": 0.3, "m": 0.0, "n": 0.0, "z": 0.0},
    ],
)
def test_backends_of_weight_zero_do_not_matter(after: Weights) -> None:
    """Adding a backend at weight 0, or removing one, moves nobody (SA8, TR10)."""
    assert homes({"a": 0.7, "b": 0.3}) == homes(after)


def test_removing_a_backend_moves_its_keys_only() -> None:
    """When a backend goes and the others keep their proportions, only its own users move (SA7)."""
    moved = moves({"a": 0.5, "b": 0.25, "gone": 0.25}, {"a": 2 / 3, "b": 1 / 3})
    lived = Counter(homes({"a": 0.5, "b": 0.25, "gone": 0.25}).values())
    assert {old for old, _ in moved} == {"gone"}
    assert moved.total() == lived["gone"]


def test_the_order_of_the_dict_does_not_matter() -> None:
    """Two operators who write the same weights in another order send every user the same way (SA8)."""
    assert homes({"a": 0.2, "b": 0.3, "c": 0.5}) == homes({"c": 0.5, "a": 0.2, "b": 0.3})


@pytest.mark.parametrize("factor", [0.5, 4.0, 2.0**100, 2.0**-100])
def test_only_ratios_matter(factor: float) -> None:
    """Weights of another scale are the same policy (SA6)."""
    weights = {"a": 0.2, "b": 0.3, "c": 0.5}
    assert homes({tag: weight * factor for tag, weight in weights.items()}) == homes(weights)


def test_endpoints_are_independent() -> None:
    """The users who get one endpoint's canary are not the ones who get another's (SA6)."""
    weights = {"old": 0.5, "new": 0.5}
    one, other = homes(weights, "one"), homes(weights, "other")
    same = sum(one[key] == other[key] for key in KEYS)
    assert same / len(KEYS) == pytest.approx(0.5, abs=3 * 0.5 / math.sqrt(len(KEYS)))


@pytest.mark.parametrize(
    "weights",
    [
        {"a": 0.5, "b": 0.5},
        {"a": 0.9, "b": 0.1},
        {"a": 0.99, "b": 0.01},
        {"a": 0.2, "b": 0.3, "c": 0.5},
        FIVE,
        {"a": 0.999, "b": 0.0005, "c": 0.0005},
        {f"b{number}": 0.05 for number in range(20)},
    ],
    ids=lambda weights: "/".join(f"{weight:g}" for weight in weights.values()),
)
def test_shares_match_the_weights(weights: Weights) -> None:
    """An operator who gives a canary 10 % sees it get 10 % of the users, within 3 sigma (SA9)."""
    hits = Counter(homes(weights).values())
    for tag, weight in weights.items():
        sigma = math.sqrt(len(KEYS) * weight * (1 - weight))
        assert abs(hits[tag] - len(KEYS) * weight) <= 3 * sigma, f"{tag}: {hits[tag]} of {len(KEYS)}"


@examples(100)
@given(weights=weight_sets, key=st.text(max_size=10))
def test_a_key_has_one_owner_with_weight(weights: Weights, key: str) -> None:
    """Whatever the key and the names, there is a backend for it, always the same, and never one of weight 0 (SA1)."""
    total = sum(weights.values())
    split = TrafficSplit("e", TrafficPolicy(1, {tag: weight / total for tag, weight in weights.items()}))
    home = split.by_key(key)
    assert weights[home] > 0
    assert home == split.by_key(key)
    numbers = split.numbers(key)
    assert set(numbers) == {tag for tag, weight in weights.items() if weight > 0}
    assert numbers[home] == min(numbers.values())
