"""The processes that compare answers: what happens to one harms nobody else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pointsman.comparer.limits import FunctionRunner
from pointsman.comparing.answers import Answer
from pointsman.model.comparison import Function
from pointsman.wire.pairs import Pair, Sides
from tests.conftest import wait_until


def answer(value: Any) -> Answer:
    return Answer(200, "application/json", json.dumps(value).encode())


def pair(primary: Answer, shadow: Answer) -> Pair:
    return Pair(1, Sides("main", 3, 4), "GET /e", "id", False, primary, shadow, 0.1, 0.2)


def test_a_function_that_does_harm_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """My comparing function raises, hangs, dies or eats memory: those pairs are not compared, and the others are
    (SC9)."""
    monkeypatch.setattr("pointsman.comparer.limits.AGAIN_S", 0.01)
    monkeypatch.setattr("pointsman.comparer.limits.LIMIT_S", 0.5)
    done: list[tuple[str, str]] = []
    runner = FunctionRunner(
        Function("tests.process.comparing_functions:does_harm", (str(Path(__file__).parents[2]),)),
        lambda one, outcome: done.append((json.loads(one.shadow.body)["label"], outcome.uncompared)),
    )
    for label in ("raise", "fine", "hang", "die", "eat", "fine"):
        runner.put(pair(answer({"label": 0}), answer({"label": label})))
    wait_until(lambda: len(done) == 6, timeout_s=60)
    runner.close()
    assert done[:4] == [("raise", "function_raised"), ("fine", ""), ("hang", "function_hung"), ("die", "function_died")]
    assert done[4][1] in ("function_raised", "function_died")
    assert done[5] == ("fine", "")


def test_a_function_that_cannot_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparing function that is not there on this node: pairs are counted as not compared (SC9)."""
    done: list[str] = []
    runner = FunctionRunner(Function("no_such_module:f"), lambda one, outcome: done.append(outcome.uncompared))
    for _ in range(2):
        runner.put(pair(answer(1), answer(1)))
    wait_until(lambda: len(done) == 2, timeout_s=60)
    runner.close()
    assert done == ["function_died"] * 2
