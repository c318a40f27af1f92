"""Programs whose own modules no other process finds by name: their code runs in replicas all the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import dataclasses
import functools

import pointsman as serve


@functools.lru_cache
def square(number):
    return number * number


@functools.singledispatch
def shown(value):
    return "?"


@shown.register
def _(value: int):
    return str(value)


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Refused(Exception):
    pass


class Model:
    def __init__(self, offset):
        self.offset = offset

    def reconfigure(self, user_config):
        self.factor = user_config.x

    def __call__(self, request):
        point = request.body()
        if point.x < 0:
            raise Refused(shown(point.x))
        return Point(square(point.x) * self.factor, self.offset.y)


def serve_it():
    with serve.start(http_options={"location": None}, metrics_export_port=None) as client:
        client.deploy("model", Model, Point(0, 5), config={"user_config": Point(10)})
        handle = client.get_handle("model")
        assert handle.remote(Point(3)).result() == Point(90, 5)
        try:
            handle.remote(Point(-1)).result()
        except Refused as error:
            assert str(error) == "-1"
        else:
            raise AssertionError("nothing was raised")
"""
PARENT = """
if __name__ == "__main__":
    import multiprocessing
    import sys

    process = multiprocessing.get_context("{method}").Process(target=serve_it)
    process.start()
    process.join()
    sys.exit(process.exitcode)
"""
TEST = """
def test_it():
    serve_it()
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_program_that_serves_in_a_child_of_multiprocessing(method: str, tmp_path: Path) -> None:
    """A worker that multiprocessing has started serves what the script defines: cached and generic functions, and
    arguments, user_config and exceptions of the script's classes (CB12)."""
    script = tmp_path / "program.py"
    script.write_text(CODE + PARENT.format(method=method))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_a_test_of_pytest_that_is_on_no_path(tmp_path: Path) -> None:
    """A test that pytest has imported with ``--import-mode=importlib`` serves what its file defines (CB12)."""
    (tmp_path / "checks").mkdir()
    (tmp_path / "checks" / "test_program.py").write_text(CODE + TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [str(Path(sys.executable).parent / "pytest"), "-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
