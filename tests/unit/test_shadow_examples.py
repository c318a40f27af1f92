"""comparing.redaction and comparing.examples: what is stored of mismatches, what never is, and how much."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.comparing import examples as stored
from pointsman.comparing.answers import Answer
from pointsman.comparing.examples import ExampleStore, read_examples, remove_examples
from pointsman.comparing.pairs import Outcome
from pointsman.comparing.paths import Places
from pointsman.comparing.redaction import REDACTED, Example, make_example, redacted
from tests.properties import examples

JSON = "application/json"
SECRET = "4111-1111"


def made(
    primary: Answer, shadow: Answer, *redact: str, kind: str = "value", where: str = "$", score: float = 0.5
) -> Any:
    return make_example(Outcome(kind, where, score), primary, shadow, request_id="r-1", route="/rank", redact=redact)


def answer(value: Any, status: int = 200) -> Answer:
    return Answer(status, JSON, json.dumps(value).encode())


@pytest.mark.parametrize(
    ("value", "paths", "left"),
    [
        ({"a": 1, "b": 2}, ["$.a"], {"a": REDACTED, "b": 2}),
        ({"a": {"x": [1]}, "b": 2}, ["$.a"], {"a": REDACTED, "b": 2}),
        ([{"a": 1}, {"b": {"a": None}}], ["$..a"], [{"a": REDACTED}, {"b": {"a": REDACTED}}]),
        ({"l": [1, 2, 3]}, ["$.l[*]"], {"l": [REDACTED] * 3}),
        ({"l": [1, 2, 3]}, ["$.l[1]", "$.l[7]", "$.m"], {"l": [1, REDACTED, 3]}),
        ({"a b": 1}, ['$["a b"]'], {"a b": REDACTED}),
        ([1], ["$"], REDACTED),
        ([1], [], [1]),
    ],
)
def test_redacted_paths_are_gone(value: Any, paths: list[str], left: Any) -> None:
    """What is at a redacted path, whatever it is, becomes ``"[redacted]"``; the rest stays (SC8)."""
    before = json.dumps(value)
    assert redacted(value, Places.of(paths)) == left
    assert json.dumps(value) == before


TREES = st.recursive(
    st.just(SECRET) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["card", "name", "x y"]), inner),
    max_leaves=10,
)


@examples(200)
@given(TREES)
def test_no_secret_is_left_where_a_name_is_redacted(value: Any) -> None:
    """With ``..card`` redacted, nothing of the value of a card is in what is stored, at any depth (SC8)."""
    left = redacted({"card": value, "others": [value]}, Places.of(["$..card", "$.others[*]"]))
    assert SECRET not in json.dumps(left)


@pytest.mark.parametrize(
    "shadow",
    [
        Answer(200, "text/plain", f"card {SECRET}".encode()),
        Answer(200, "text/plain", f'"{SECRET}"'.encode()),
        Answer(200, JSON, f'"no such card: {SECRET}"'.encode()),
        Answer(200, JSON, f'{{"card": "{SECRET}"'.encode()),
        Answer(200, "image/png", f"\xff{SECRET}".encode("latin-1")),
        Answer(500, error=f"ValueError: no such card {SECRET}"),
        Answer(200, JSON, b"[" * 50_000 + f'"{SECRET}"'.encode() + b"]" * 50_000),
        Answer(200, "application/x-ndjson", f'{{"card": "{SECRET}"}}\n{{"card": "{SECRET}"}}\n'.encode()),
        Answer(200, "", f'{{"card": "{SECRET}"}}'.encode()),
        Answer(200, JSON, f'{{"card": "{SECRET}", "card": "{SECRET}"}}'.encode()),
    ],
    ids=range(10),
)
def test_what_has_no_paths_is_redacted_whole(shadow: Answer) -> None:
    """Where something is to be redacted, an answer that is no object or list is stored not at all, and neither are the
    texts of errors (SC8)."""
    example = made(answer({"card": SECRET, "n": 1}), shadow, "$.card", "$[*].card", where="$.card.digits[0]")
    assert example.primary == {"status": 200, "body": {"card": REDACTED, "n": 1}}
    assert example.where == "$.card"
    assert SECRET not in repr(example)
    assert REDACTED in repr(example.shadow)


def test_headers_and_requests_are_not_stored() -> None:
    """An example has the fields that users see and nothing more; a content type only where that is what differs (SC7,
    SC8)."""
    example = made(answer([1]), Answer(200, "text/plain; secret=1", b"x"))
    assert example == Example(
        "r-1", "/rank", "value", "$", 0.5, {"status": 200, "body": [1]}, {"status": 200, "body": "x"}
    )
    types = made(answer([1]), Answer(200, "text/plain", b"[1]"), kind="content_type")
    assert (types.primary["content_type"], types.shadow["content_type"]) == (JSON, "text/plain")


@pytest.mark.parametrize(
    ("given_", "side"),
    [
        (Answer(200, JSON, b'{"a": NaN}'), '{"status": 200, "body": {"a": NaN}}'),
        (Answer(200, JSON, b"{"), '{"status": 200, "body": "{"}'),
        (Answer(200, "text/html; charset=latin-1", b"\xe9"), '{"status": 200, "body": "\\u00e9"}'),
        (Answer(200, "image/png", b"\x89P"), '{"status": 200, "body_b64": "iVA="}'),
        (Answer(500, error="ValueError: 3"), '{"status": 500, "error": "ValueError: 3", "body": ""}'),
        (Answer(200, JSON, b'"\\ud800"'), '{"status": 200, "body": "\\ud800"}'),
    ],
)
def test_a_side_shows_what_was_answered(given_: Answer, side: str) -> None:
    """JSON is shown as such, text as text, other bytes in base64 (SC7)."""
    assert json.dumps(made(given_, given_).shadow) == side


@pytest.mark.parametrize(
    "large",
    [
        Answer(200, JSON, json.dumps(["x" * 99] * 5000).encode()),
        Answer(200, "text/plain", b"\x00" * 1_000_000),
        Answer(200, "text/plain", ("é" * 100_000).encode()),
        Answer(200, "image/png", b"\xff" * 1_000_000),
        Answer(500, "text/plain", b"y" * 100_000, "\x00" * 100_000),
        Answer(200, JSON, json.dumps({"a": "b" * 70_000}).encode()),
    ],
    ids=["list", "zeros", "accents", "bytes", "error", "text"],
)
def test_a_side_has_64_kib_at_most(large: Answer, tmp_path: Path) -> None:
    """Of a large answer the beginning is stored, and how much is missing (SC8)."""
    example = made(large, large)
    side = json.dumps(example.shadow)
    assert 40 * 1024 < len(side) <= 64 * 1024
    assert 0 < example.shadow["left_out"] < len(large.body)
    store = ExampleStore(str(tmp_path / "s"), 1)
    assert store.add(example)
    assert store.size <= 2 * 64 * 1024 + 16 * 1024


def small(score: float, kind: str = "value", size: int = 10) -> Example:
    return Example("r", "/r", kind, "$", score, {"status": 200, "body": "x" * size}, {"status": 200, "body": ""})


def scores(folder: Path, limit: int = 100) -> list[float]:
    return [example["score"] for example in read_examples(str(folder), limit)]


def files(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_the_worst_are_kept_and_shown_first(tmp_path: Path) -> None:
    """Of all mismatches the worst are kept, as many as were asked for; they are shown worst first, and of equal ones
    the oldest (SC7)."""
    store = ExampleStore(str(tmp_path), 3)
    added = [store.add(small(score)) for score in (0.5, 0.9, 0.1, 0.7, 0.95, 0.7)]
    assert added == [True, True, True, True, False, False]
    assert scores(tmp_path) == [0.1, 0.5, 0.7]
    assert scores(tmp_path, 2) == [0.1, 0.5]
    assert read_examples(str(tmp_path), 1) == [
        {"request_id": "r", "route": "/r", "kind": "value", "where": "$", "score": 0.1,
         "primary": {"status": 200, "body": "x" * 10}, "shadow": {"status": 200, "body": ""}}
    ]  # fmt: skip
    assert len(store) == len(files(tmp_path)) == 3


def test_a_flood_of_one_kind_leaves_the_others(tmp_path: Path) -> None:
    """A shadow that begins to fail does not push out the examples of answers that differ (SC7)."""
    store = ExampleStore(str(tmp_path), 4)
    assert store.add(small(0.99))
    assert store.add(small(0.98, "length"))
    assert [store.add(small(0.0, "error")) for _ in range(5)] == [True, True, False, False, False]
    assert not store.wants("error", 0.0)
    assert store.wants("value", 0.5)
    assert scores(tmp_path) == [0.0, 0.0, 0.98, 0.99]


def test_examples_can_be_switched_off(tmp_path: Path) -> None:
    """With ``keep=0`` nothing is stored (SC8)."""
    store = ExampleStore(str(tmp_path), 0)
    assert not store.wants("value", 0.0)
    assert not store.add(small(0.0))
    assert files(tmp_path) == []


def test_only_the_owner_can_read_them(tmp_path: Path) -> None:
    """Files have mode 0600 and their folder 0700, whatever the umask is (SC8)."""
    before = os.umask(0)
    try:
        store = ExampleStore(str(tmp_path / "a" / "b"), 3)
        store.add(small(0.5))
    finally:
        os.umask(before)
    [name] = files(tmp_path / "a" / "b")
    assert stat.S_IMODE(os.stat(tmp_path / "a" / "b" / name).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(tmp_path / "a" / "b").st_mode) == 0o700


def test_a_shadow_takes_16_mib_at_most(tmp_path: Path) -> None:
    """However many examples were asked for: at each moment they take 16 MiB at the most, and the worst stay (SC8)."""
    store = ExampleStore(str(tmp_path), 1000)
    for number in range(160):
        store.add(small(1 - number / 1000, size=120_000))
        assert store.size == sum(os.path.getsize(tmp_path / name) for name in files(tmp_path))
    assert store.size <= 16 * 1024 * 1024
    assert len(store) > 120
    assert scores(tmp_path, 1) == [1 - 159 / 1000]
    assert max(scores(tmp_path, 1000)) < 1 - 20 / 1000


def test_a_new_process_goes_on(tmp_path: Path) -> None:
    """After a crash in the middle of a file, the next process keeps what was whole, and the bounds hold (SC7)."""
    store = ExampleStore(str(tmp_path), 3)
    for score in (0.5, 0.1, 0.7):
        store.add(small(score))
    (tmp_path / "new.tmp").write_text("{")
    (tmp_path / "notes.txt").write_text("of somebody")
    again = ExampleStore(str(tmp_path), 3)
    assert len(again) == 3
    assert again.size == store.size
    assert not again.add(small(0.8))
    assert again.add(small(0.1))
    assert scores(tmp_path) == [0.1, 0.1, 0.5]
    assert len(ExampleStore(str(tmp_path), 1)) == 1
    assert scores(tmp_path) == [0.1]
    assert not (tmp_path / "new.tmp").exists()


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an example cannot be written, those that are there stay, and the next one is tried (SC8)."""
    store = ExampleStore(str(tmp_path), 1)
    store.add(small(0.5))
    before = files(tmp_path)

    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(stored.os, "fdopen", full)
        with pytest.raises(OSError, match="no space"):
            store.add(small(0.1))
    assert files(tmp_path) == before
    assert store.add(small(0.1))
    assert scores(tmp_path) == [0.1]


def test_readers_are_not_disturbed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder that is not there has no examples; one that cannot be read is left out, with a line in the log (SC7)."""
    assert read_examples(str(tmp_path / "none")) == []
    store = ExampleStore(str(tmp_path / "s"), 3)
    store.add(small(0.2))
    store.add(small(0.5))
    (tmp_path / "s" / files(tmp_path / "s")[0]).write_text("{")
    assert scores(tmp_path / "s") == [0.5]
    assert "cannot be read" in caplog.text


def test_examples_go_with_their_shadow(tmp_path: Path) -> None:
    """When the shadow ends its examples are removed; once more is no error (SC8)."""
    ExampleStore(str(tmp_path / "s"), 3).add(small(0.2))
    remove_examples(str(tmp_path / "s"))
    assert files(tmp_path) == []
    remove_examples(str(tmp_path / "s"))
