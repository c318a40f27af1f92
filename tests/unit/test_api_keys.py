"""lock.keys and lock.keyfile: keys are checked, kept as hashes, and never shown."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from pathlib import Path
from typing import Any

import msgspec
import pytest

import pointsman as serve
from pointsman.lock.keyfile import MAX_KEY_FILE, read_keys, signature_of
from pointsman.lock.keys import MAX_KEY, KeySpec, specs_in, specs_of
from tests.unit.sentences import sentence

KEY = "xx-a-very-long-secret-xx"


def key_file(folder: Path, content: Any, mode: int = 0o600) -> str:
    path = folder / "keys.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    path.chmod(mode)
    return str(path)


def test_a_key_is_kept_as_its_hash() -> None:
    """Nothing that is made of a key holds it: not its text, not what is handed over (ED3)."""
    key = serve.ApiKey("ann", KEY, endpoints=["a", "b"], rate=2.5, max_in_flight=3)
    assert key.spec == KeySpec("ann", hashlib.sha256(KEY.encode()).digest(), ("a", "b"), 2.5, 3, 3)
    for text in (repr(key), str(key), repr(key.spec), f"{[key]}"):
        assert "ann" in text
        assert KEY not in text
        assert hashlib.sha256(KEY.encode()).hexdigest() not in text
    for data in (msgspec.msgpack.encode(key.spec), pickle.dumps(key.spec)):
        assert KEY.encode() not in data


@pytest.mark.parametrize(("rate", "burst", "held"), [(2.5, None, 3), (0.1, None, 1), (7, 2, 2), (None, None, 1)])
def test_the_burst_of_a_rate(rate: float | None, burst: int | None, held: int) -> None:
    """As many requests may come at once as the rate allows in a second, unless something else is said (ED4)."""
    assert serve.ApiKey("a", KEY, rate=rate, burst=burst).spec.burst == held


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (None, ["'ann'", "None"]),
        ("", ["'ann'", "empty"]),
        ("k" * (64 * 1024), ["65536", str(MAX_KEY)]),
        ("k" * (MAX_KEY + 1), [str(MAX_KEY)]),
        ("schlüssel", ["ASCII"]),
        ("two words", ["blanks"]),
        ("line\n", ["blanks"]),
        ("\x00", ["printable"]),
    ],
)
def test_a_bad_key(key: Any, words: list[str]) -> None:
    """A key that no client could send is refused, and not shown (ED2, ED3)."""
    with pytest.raises(ValueError) as caught:
        serve.ApiKey("ann", key)
    text = sentence(caught.value, *words)
    assert not key or key not in text


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"rate": 0}, "rate 0"),
        ({"rate": -1}, "rate -1"),
        ({"rate": math.inf}, "inf"),
        ({"rate": math.nan}, "nan"),
        ({"rate": 10**400}, "rate 1000"),
        ({"rate": 1e-320}, "rate 1e-320"),
        ({"rate": 1, "burst": 10**400}, "burst"),
        ({"max_in_flight": 10**10}, "max_in_flight"),
        ({"rate": 1, "burst": 0}, "burst"),
        ({"burst": 3}, "no rate"),
        ({"max_in_flight": 0}, "max_in_flight"),
        ({"endpoints": [""]}, "endpoint"),
    ],
)
def test_bad_limits(options: dict[str, Any], word: str) -> None:
    """A limit that would let nobody in, or everybody, is refused (ED4)."""
    with pytest.raises(ValueError) as caught:
        serve.ApiKey("ann", KEY, **options)
    sentence(caught.value, "'ann'", word)


@pytest.mark.parametrize(
    "options", [{"rate": "1"}, {"rate": True}, {"rate": 1, "burst": 1.5}, {"max_in_flight": "2"}, {"endpoints": "all"}]
)
def test_limits_of_another_type(options: dict[str, Any]) -> None:
    """A limit of another type is a TypeError (ED4)."""
    with pytest.raises(TypeError) as caught:
        serve.ApiKey("ann", KEY, **options)
    sentence(caught.value, "'ann'")


@pytest.mark.parametrize("name", ["", " a", "a\n", "é", "a" * 129])
def test_names_that_no_header_can_hold(name: str) -> None:
    """User code gets a key's name as a header, so it must fit into one (ED3)."""
    with pytest.raises(ValueError):
        serve.ApiKey(name, KEY)
    assert serve.ApiKey("team a/1", KEY).spec.name == "team a/1"


def test_lists_of_keys() -> None:
    """An empty list, None in it, and a name or a key that comes twice are refused (ED2)."""
    ann, bob = serve.ApiKey("ann", KEY), serve.ApiKey("bob", "other")
    assert [spec.name for spec in specs_of([ann, bob])] == ["ann", "bob"]
    for keys, words in (
        ([], ["no API key"]),
        ([ann, None], ["item 1", "None"]),
        ([ann, serve.ApiKey("ann", "other")], ["'ann'", "two"]),
        ([ann, serve.ApiKey("bob", KEY)], ["'ann'", "'bob'", "same"]),
    ):
        with pytest.raises(ValueError) as caught:
            specs_of(keys)
        assert KEY not in sentence(caught.value, *words)
    for keys in ([KEY], {"ann": KEY}, ann, 5):
        with pytest.raises(TypeError) as wrong:
            specs_of(keys)
        assert KEY not in str(wrong.value)


def test_a_file_of_keys(tmp_path: Path) -> None:
    """A file says of keys what ApiKey does (ED2)."""
    path = key_file(tmp_path, {"ann": {"key": KEY}, "bob": {"key": "b", "rate": 3, "endpoints": ["e"]}})
    assert (
        read_keys(path)
        == specs_of([serve.ApiKey("ann", KEY), serve.ApiKey("bob", "b", rate=3, endpoints=["e"])])
        == specs_in({"ann": {"key": KEY}, "bob": {"key": "b", "rate": 3.0, "endpoints": ["e"]}})
    )


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "no JSON"),
        (b'{"ann": {"key": "%s"}' % KEY.encode(), "no JSON"),
        (b'{"ann": {"key": "%s"}, "ann": {"key": "b"}}' % KEY.encode(), "'ann' is in it twice"),
        (b'{"\xff": {}}', "UTF-8"),
        (b"[" * 100_000, "keys"),
        ([KEY], "object of objects"),
        ({}, "no API key"),
        ({"ann": KEY}, "object"),
        ({"ann": {}}, "None"),
        ({"ann": {"key": 5}}, "int"),
        ({"ann": {"key": KEY, "rates": 5}}, "'rate'"),
        ({"ann": {"key": KEY, "rate": 0}}, "rate 0"),
        ({"ann": {"key": KEY}, "bob": {"key": KEY}}, "same"),
    ],
)
def test_a_file_of_something_else(tmp_path: Path, content: Any, word: str) -> None:
    """What is wrong in a file is said with the file's name and without a key (ED2, ED3)."""
    path = key_file(tmp_path, content)
    with pytest.raises(ValueError) as caught:
        read_keys(path)
    assert path in str(caught.value)
    assert word in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_may_read(tmp_path: Path, mode: int) -> None:
    """A file of keys that others may read or write is refused (ED2)."""
    with pytest.raises(ValueError) as caught:
        read_keys(key_file(tmp_path, {"ann": {"key": KEY}}, mode))
    sentence(caught.value, "0600", f"{mode:04o}")


def test_what_is_no_file(tmp_path: Path) -> None:
    """No file, a folder, and a file that is too large are refused (ED2)."""
    large = tmp_path / "large"
    large.touch(0o600)
    with large.open("wb") as file:
        file.truncate(MAX_KEY_FILE + 1)
    for path, word in ((tmp_path / "no", "No such file"), (tmp_path, ""), (large, str(MAX_KEY_FILE))):
        with pytest.raises(ValueError) as caught:
            read_keys(str(path))
        sentence(caught.value, str(path), word)


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    """A file that is written or replaced has another signature, also where it is as long as before (ED2)."""
    path = key_file(tmp_path, {"ann": {"key": "a"}})
    first = signature_of(path)
    assert signature_of(path) == first
    other = tmp_path / "other"
    other.write_bytes(Path(path).read_bytes())
    other.replace(path)
    assert signature_of(path) not in (first, ())
    Path(path).unlink()
    assert signature_of(path) == ()
