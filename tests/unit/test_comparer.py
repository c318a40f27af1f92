"""comparer: pairs are compared and counted, users' functions apart from all else."""

from __future__ import annotations

import json
import os
import pickle
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pointsman.comparer import subject as subjects
from pointsman.comparer.__main__ import Work
from pointsman.comparer.limits import PAIR_SIZE, FunctionRunner, TooSlowError, limited
from pointsman.comparer.subject import NotPlainError, Subject, TooLargeError, plain_answer
from pointsman.comparing.answers import Answer
from pointsman.comparing.pairs import Outcome
from pointsman.comparing.report import OTHER_ROUTES
from pointsman.model import Comparison
from pointsman.model.comparison import Comparer, Exact, Function, Json
from pointsman.telemetry.pairs import CountKey, PairCounter, PairReader, code_of
from pointsman.wire.pairs import Began, Missed, Pair, Sides, Unpacker, packed
from tests.conftest import wait_until

SIDES = Sides("main", 3, 4)


def answer(value: Any) -> Answer:
    return Answer(200, "application/json", json.dumps(value).encode())


def pair(primary: Answer, shadow: Answer, *, route: str = "GET /e", pickled: bool = False) -> Pair:
    return Pair(1, SIDES, route, "id", pickled, primary, shadow, 0.1, 0.2)


def subject(folder: Path, by: Comparer) -> Subject:
    return Subject(folder, Began(1, "e", "canary", Comparison(by, name="7-a")))


def wanted(*names: str) -> dict[str, list[str]]:
    """Comparisons, with examples of the code that answers in these tests."""
    return {name: [code_of("main", 3, 4)] for name in names}


def counted(folder: Path) -> dict[tuple[str, str, str], int]:
    """Counts by route, what and detail, of one comparison."""
    reader = PairReader(folder)
    counts = reader.read(wanted("7-a"))["7-a"]
    reader.close()
    assert {key[:4] for key in counts} == {("main", 3, 4, False)}
    return {key[4:]: count for key, count in counts.items()}


def test_pairs_are_counted_by_route_and_kind(tmp_path: Path) -> None:
    """I see on which routes my shadow differs and how, and how much longer it takes (SC2, SC6)."""
    one = subject(tmp_path / "c", Json())
    one.take(pair(answer({"a": 1}), answer({"a": 1})))
    one.take(pair(answer({"a": 1}), answer({"a": 2}), route="GET /f"))
    one.take(pair(answer({"a": 1}), Answer(500, error="ValueError")))
    one.take(Missed(1, SIDES, "too_large", 3))
    one.close()
    assert counted(tmp_path / "c") == {
        ("GET /e", "matched", ""): 1,
        ("GET /f", "mismatched", "value"): 1,
        ("GET /e", "mismatched", "error"): 1,
        ("", "uncompared", "too_large"): 3,
        ("", "ratio", "36"): 2,  # twice as long, 1.02^35 to 1.02^36; errors are quick
    }


def test_two_processes_count_together(tmp_path: Path) -> None:
    """Counts of several HTTP servers are added up, and stay when one has ended (SC6)."""
    key = CountKey("main", 1, 2, False, "GET /e", "matched")
    ended, alive = PairCounter(tmp_path / "c" / "7-a"), PairCounter(tmp_path / "c" / "7-a")
    ended.count(key, 2)
    alive.count(key, 3)
    reader = PairReader(tmp_path / "c")
    assert reader.read(wanted("7-a")) == {"7-a": {key: 5}}
    ended.close()
    alive.count(key)
    assert reader.read(wanted("7-a")) == reader.read(wanted("7-a")) == {"7-a": {key: 6}}
    reader.close()
    alive.close()


def test_what_is_gone_takes_its_counts_along(tmp_path: Path) -> None:
    """When a comparison is over, its counts and examples are removed (SC8, SC12)."""
    for name in ("7-a", "8-b"):
        PairCounter(tmp_path / "c" / name).close()
    reader = PairReader(tmp_path / "c")
    assert set(reader.read(wanted("7-a", "9-c"))) == {"7-a"}
    assert os.listdir(tmp_path / "c") == ["7-a"]
    assert reader.read({}) == {}
    assert os.listdir(tmp_path / "c") == []


def test_counts_are_private_and_few(tmp_path: Path) -> None:
    """Nobody else can read the counts, and a client that makes up routes does not fill the memory (SC8)."""
    counter = PairCounter(tmp_path / "c" / "7-a")
    for number in range(1000):
        counter.count(CountKey("main", 1, 2, False, f"GET /{number}", "matched"))
    counter.close()
    reader = PairReader(tmp_path / "c")
    counts = reader.read(wanted("7-a"))["7-a"]
    reader.close()
    assert sum(counts.values()) == 1000
    assert len(counts) == 101
    assert {key.route: count for key, count in counts.items()}[OTHER_ROUTES] == 900
    for place in (tmp_path / "c").rglob("*"):
        assert place.stat().st_mode & 0o077 == 0


def test_examples_are_of_the_code_that_is_there_now(tmp_path: Path) -> None:
    """I see what differs, without what is secret, as long as the code is the same on both sides (SC7, SC8, SC12)."""
    folder = tmp_path / "c"
    two = [
        Subject(folder, Began(1, "e", "canary", Comparison(Json(), keep=2, redact=("$.email",), name="7-a")))
        for _ in range(2)
    ]
    for number, one in enumerate(two * 2):
        one.take(pair(answer({"n": 0, "email": "me"}), answer({"n": number + 1, "email": "me"})))
    one.take(pair(Answer(200, "text/plain", b"x"), Answer(200, "text/plain", b"y")))
    reader = PairReader(folder)
    reader.read(wanted("7-a"))
    found = reader.examples("7-a", [code_of("main", 3, 4)], 10)
    assert [(example["where"], example["primary"]["body"]["email"]) for example in found] == [("$.n", "[redacted]")] * 2
    assert len(reader.examples("7-a", [code_of("main", 3, 4)], 1)) == 1
    assert reader.examples("7-a", [code_of("main", 3, 5)], 10) == []
    for place in folder.rglob("*"):
        assert place.stat().st_mode & 0o077 == 0
    reader.read({"7-a": [code_of("main", 3, 5)]})
    assert reader.examples("7-a", [code_of("main", 3, 4)], 10) == []
    for one in two:
        one.close()
    reader.close()


@pytest.mark.parametrize(
    ("primary", "shadow", "expected"),
    [
        ({"a": [1, 2.5, None]}, {"a": [1, 2.5, None]}, ("handle", "matched", "")),
        ({"a": 1}, {"a": 2}, ("handle", "mismatched", "value")),
        ("text", {"a": 2}, None),
        (Path("a"), Path("a"), ("handle", "matched", "")),
        (Path("a"), Path("b"), ("", "uncompared", "objects")),
        ({1, 2}, {1, 3}, ("", "uncompared", "objects")),
    ],
)
def test_answers_of_handles(tmp_path: Path, primary: Any, shadow: Any, expected: Any) -> None:
    """Plain answers of Python calls are compared like JSON; objects only where they are the same (SC2)."""
    one = subject(tmp_path / "c", Json())
    sides = [Answer(200, body=pickle.dumps(value, 5)) for value in (primary, shadow)]
    one.take(pair(*sides, route="handle", pickled=True))
    one.close()
    (found,) = [key for key in counted(tmp_path / "c") if key[1] != "ratio"]
    assert expected is None or found == expected


class Hostile:
    def __reduce__(self) -> Any:
        return print, ("unpickled",)


def test_nothing_is_imported_to_read_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """An object in an answer runs no code in the process that compares (SC9)."""
    with pytest.raises(NotPlainError):
        plain_answer(Answer(200, body=pickle.dumps(Hostile())))
    with pytest.raises(NotPlainError):
        plain_answer(Answer(200, body=b"no pickle"))
    assert capsys.readouterr().out == ""
    assert plain_answer(Answer(200, body=pickle.dumps(1) + pickle.dumps([2]))).body == b"[1,[2]]"


def test_an_answer_that_has_one_list_many_times_is_too_large() -> None:
    """A small pickle that is endless as JSON stops nobody (SC9, SC10)."""
    value: Any = [1] * 10
    for _ in range(9):
        value = [value] * 10
    with pytest.raises(TooLargeError):
        plain_answer(Answer(200, body=pickle.dumps(value)))


def test_a_comparison_of_ours_ends_after_a_second() -> None:
    """However long two answers are, comparing them stops after its limit (SC9)."""

    def without_end() -> None:
        with limited(0.05):
            while True:
                pass

    with pytest.raises(TooSlowError):
        without_end()
    with limited(0.05):
        assert sum(range(10)) == 45


def test_a_slow_comparison_counts_as_uncompared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair whose comparison takes too long is counted as not compared (SC9)."""

    def slow(*args: object) -> Outcome:
        raise TooSlowError

    monkeypatch.setattr(subjects, "compare_answers", slow)
    one = subject(tmp_path / "c", Exact())
    one.take(pair(answer("1" * 2000), answer("1" * 2000)))
    one.close()
    assert counted(tmp_path / "c")["", "uncompared", "too_slow"] == 1


def test_a_small_answer_that_becomes_huge_is_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of a Python call that has the same list in it again and again is much longer as JSON: without memory
    for that, or after a second, the pair is counted as not compared (SC9)."""

    def fails(error: BaseException) -> Any:
        def dumps(value: object, **form: object) -> str:
            raise error

        return dumps

    one = subject(tmp_path / "c", Json())
    sides = [Answer(200, body=pickle.dumps(value)) for value in ([1], [2])]
    for error in (MemoryError(), TooSlowError()):
        with monkeypatch.context() as context:
            context.setattr(subjects.json, "dumps", fails(error))
            one.take(pair(*sides, route="handle", pickled=True))
    one.close()
    counts = counted(tmp_path / "c")
    assert (counts["", "uncompared", "too_large"], counts["", "uncompared", "too_slow"]) == (1, 1)


def test_what_waits_for_a_function_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs that a slow function has no time for are counted as not compared (SC10)."""
    monkeypatch.setattr("pointsman.comparer.limits.MAX_QUEUED", 5 * (PAIR_SIZE + 2))
    began, go_on = threading.Event(), threading.Event()

    def waits(self: object, one: Pair) -> Outcome:
        began.set()
        go_on.wait(10)
        return Outcome()

    monkeypatch.setattr(FunctionRunner, "_compare", waits)
    done: Counter[str] = Counter()
    runner = FunctionRunner(Function("m:f"), lambda one, outcome: done.update([outcome.uncompared]))
    runner.put(pair(answer(1), answer(1)))
    assert began.wait(10)
    for _ in range(6):
        runner.put(pair(answer(1), answer(1)))
    assert done == {"no_room": 1}
    go_on.set()
    wait_until(lambda: done.total() == 7, timeout_s=10)
    runner.close()


def test_a_full_disk_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A comparison begins while the disk is full: later answers are compared once there is room (SC9)."""
    work, folder = Work(tmp_path / "c"), tmp_path / "c"
    folder.write_text("no room")
    work.take(Began(1, "e", "canary", Comparison(Json(), name="7-a")))
    work.take(pair(answer(1), answer(1)))  # too soon
    folder.unlink()
    folder.write_text("no room yet")
    monkeypatch.setattr("pointsman.comparer.__main__.AGAIN_S", 0.0)
    work.take(pair(answer(1), answer(1)))
    folder.unlink()
    for _ in range(2):
        work.take(pair(answer(1), answer(1)))
    work.close()
    assert counted(folder)["GET /e", "matched", ""] == 2
    assert len(caplog.records) == 1


def test_messages_arrive_whole() -> None:
    """Whatever pieces the system cuts them into, messages are the same at the other end (SC9)."""
    messages = [
        Began(1, "e", "canary", Comparison(Json(ignore=("$.a",), rel=0.1), redact=("$.b",), name="7-a", since="now")),
        pair(answer({"a": 1}), Answer(500, error="ValueError")),
        Missed(1, Sides("main", 1, 2, noise=True), "dropped", 4),
    ]
    data = b"".join(map(packed, messages))
    for step in (1, 7, len(data)):
        unpacker = Unpacker()
        found = [one for at in range(0, len(data), step) for one in unpacker.feed(data[at : at + step])]
        assert found == messages
