"""The processes that compare answers: what happens to one harms nobody else."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pointsman.comparer.limits import FunctionRunner
from pointsman.comparing.answers import Answer
from pointsman.engine.comparer import Comparer
from pointsman.model import Comparison
from pointsman.model.comparison import Exact, Function
from pointsman.routing.pairing import Subject
from pointsman.telemetry.pairs import PairReader
from pointsman.wire.pairs import Pair, Sides
from tests.conftest import wait_until


def answer(value: Any) -> Answer:
    return Answer(200, "application/json", json.dumps(value).encode())


def pair(primary: Answer, shadow: Answer) -> Pair:
    return Pair(1, Sides("main", 3, 4), "GET /e", "id", False, primary, shadow, 0.1, 0.2)


def test_a_function_that_does_harm_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """My comparing function raises, hangs, dies, forks or eats memory: those pairs are not compared, and the others are
    (SC9)."""
    monkeypatch.setattr("pointsman.comparer.limits.AGAIN_S", 0.01)
    monkeypatch.setattr("pointsman.comparer.limits.LIMIT_S", 0.5)
    done: list[tuple[str, str]] = []
    runner = FunctionRunner(
        Function("tests.process.comparing_functions:does_harm", (str(Path(__file__).parents[2]),)),
        lambda one, outcome: done.append((json.loads(one.shadow.body)["label"], outcome.uncompared)),
    )
    for label in ("raise", "fork", "fine", "hang", "die", "eat", "fine"):
        runner.put(pair(answer({"label": 0}), answer({"label": label})))
    wait_until(lambda: len(done) == 7, timeout_s=60)
    runner.close()
    assert done == [
        ("raise", "function_raised"),
        ("fork", ""),
        ("fine", ""),
        ("hang", "function_hung"),
        ("die", "function_died"),
        ("eat", "function_died"),
        ("fine", ""),
    ]


def test_a_function_that_cannot_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparing function that is not there on this node: pairs are counted as not compared (SC9)."""
    done: list[str] = []
    runner = FunctionRunner(Function("no_such_module:f"), lambda one, outcome: done.append(outcome.uncompared))
    for _ in range(2):
        runner.put(pair(answer(1), answer(1)))
    wait_until(lambda: len(done) == 2, timeout_s=60)
    runner.close()
    assert done == ["function_died"] * 2


SUBJECT = Subject("e", "canary", Comparison(Exact(), name="7-a"))


def compared(folder: Path) -> int:
    """Pairs that are counted."""
    reader = PairReader(folder)
    counts = reader.read({"7-a": []}).get("7-a", {})
    reader.close()
    return sum(count for key, count in counts.items() if key.what in ("matched", "mismatched"))


async def until(condition: Callable[[], bool]) -> None:
    async def holds() -> None:
        while not condition():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(holds(), 30)


def give(comparer: Comparer, count: int, body: bytes = b"1") -> None:
    number = comparer.number(SUBJECT)
    for _ in range(count):
        same = Answer(200, "", body)
        one = Pair(number, Sides("main", 3, 4), "GET /e", "id", False, same, same, 0.1, 0.2)
        comparer.hold(2 * len(body))
        comparer.compare(number, 2 * len(body), partial(made, comparer, one))


def made(comparer: Comparer, one: Pair) -> Pair:
    comparer.release(2 * len(one.primary.body))
    return one


def give_pickles(comparer: Comparer, primary: bytes, shadow: bytes) -> None:
    sides = Sides("main", 3, 4)
    answers = Answer(200, "", primary), Answer(200, "", shadow)
    number = comparer.number(SUBJECT)
    pair = Pair(number, sides, "handle", "id", True, *answers, 0.1, 0.2)
    comparer.compare(number, len(primary) + len(shadow), lambda: pair)


def pid_of(comparer: Comparer) -> int:
    assert comparer._process is not None
    return comparer._process.pid


def test_a_comparer_that_is_killed_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system kills the process that compares: what was counted stays, and the next answers are compared by another
    one. An answer that asks for much memory does not end it (SC9)."""
    monkeypatch.setattr("pointsman.engine.comparer.AGAIN_S", 0.1)

    async def main() -> None:
        comparer = Comparer(tmp_path / "c")
        give(comparer, 100)
        await until(lambda: compared(tmp_path / "c") == 100)
        first = pid_of(comparer)
        os.kill(first, signal.SIGKILL)
        await until(lambda: comparer._socket is None)
        give(comparer, 10)
        await until(lambda: compared(tmp_path / "c") == 110)
        last = pid_of(comparer)
        assert last != first
        give_pickles(comparer, b"\x80\x04K\x01r\xff\xff\xff\x7f.", b"")  # a few bytes that ask for 32 GiB
        give(comparer, 5)
        await comparer.aclose()
        assert compared(tmp_path / "c") == 115, "it was not the end of the others"
        with pytest.raises(ProcessLookupError):
            os.kill(last, 0)

    asyncio.run(main())


def test_a_comparer_that_stands_still_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that compares is stopped: answers wait up to a limit, and are compared when it goes on (SC10)."""
    monkeypatch.setattr("pointsman.engine.comparer.MAX_WAITING", 4_000_000)

    async def main() -> None:
        comparer = Comparer(tmp_path / "c")
        give(comparer, 1)
        await until(lambda: compared(tmp_path / "c") == 1)
        os.kill(pid_of(comparer), signal.SIGSTOP)
        given = 0
        while comparer.hold(200_000):
            comparer.release(200_000)
            give(comparer, 1, bytes(100_000))
            await asyncio.sleep(0.03)
            given += 1
        assert 19 <= given <= 23  # what is in the socket's buffer does not count
        os.kill(pid_of(comparer), signal.SIGCONT)
        await until(lambda: compared(tmp_path / "c") == 1 + given)
        assert comparer.hold(3_900_000)
        await comparer.aclose()

    asyncio.run(main())
