"""usercode.classids: code by value has one pickle in all processes, and classes keep their identity."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from pointsman.usercode import classids
from pointsman.usercode.byvalue import dumps
from pointsman.usercode.packing import pack_code

SCRIPT = """
import abc
import dataclasses
import enum
import typing

from pointsman.usercode.packing import code_digest, pack_code

T = typing.TypeVar("T", bound=str)
WORDS = frozenset({"alpha", "beta", "gamma", "delta"})


class Colour(enum.Enum):
    RED = 1
    BLUE = "blue"


@dataclasses.dataclass
class Point:
    x: int = 0
    tags: list = dataclasses.field(default_factory=list)


class Base(abc.ABC):
    KNOWN = frozenset({"one", "two", "three"})

    @abc.abstractmethod
    def run(self, value): ...

    @abc.abstractmethod
    def walk(self, value): ...


class Model(Base, typing.Generic[T]):
    def __init__(self, weights):
        self.weights = weights

    def run(self, value):
        return value in {"p", "q", "r", "s"} or value in WORDS

    def walk(self, value):
        return [Point(1), Colour.RED, isinstance(value, Model)]

    def __call__(self, request):
        return helper(request), self.run("p")


def helper(value):
    return value in {"t", "u", "v"} and (lambda: value not in {"w", "x"})()


for code, args in ((Model, ([1, 2], Point(3))), (helper, ())):
    print(code_digest(pack_code(code, args)))
"""


def digests(script: Path, seed: str) -> list[str]:
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_script_that_runs_again_sends_the_same_code(tmp_path: Path) -> None:
    """Classes and functions of a script have one pickle whenever it runs, so that a deploy of them changes nothing:
    their ids, and sets in their code, do not depend on the process (CF6)."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    first = digests(script, "1")
    assert len(set(first)) == 2
    assert digests(script, "2") == first
    script.write_text(SCRIPT.replace('{"t", "u", "v"}', '{"t", "u", "z"}'))
    changed = digests(script, "1")
    assert changed[0] != first[0]
    assert changed[1] != first[1]


def make(number: int) -> type:
    class Made:
        value = number

        def __call__(self) -> int:
            return number

    return Made


def test_classes_that_are_made_alike_stay_apart() -> None:
    """Two classes of one name and content are two classes in the replica, too, and each comes there once (CB12)."""
    one, twin, other = make(1), make(1), make(2)
    loaded = cloudpickle.loads(dumps([one, twin, other, one, one()]))
    assert loaded[0] is loaded[3] is type(loaded[4])
    assert len({loaded[0], loaded[1], loaded[2]}) == 3
    assert [kind()() for kind in loaded[:3]] == [1, 1, 2]


def test_objects_sent_later_are_of_the_class_that_was_sent() -> None:
    """An object that a handle sends has the class that the backend's code has (CB12)."""
    cls = make(7)
    packed = pack_code(cls, ())
    assert type(cloudpickle.loads(dumps(cls()))) is cloudpickle.loads(packed)[0] is cls


def test_a_class_that_cannot_be_measured_goes_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that refers to more than is measured gets an id of its own, and is sent all the same (CB12)."""
    monkeypatch.setattr(classids, "MAX_MEASURED", 10)
    cls: Any = make(8)
    assert cloudpickle.loads(dumps(cls))()() == 8
