"""The public interface as a type checker sees it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_types_of_handles_and_futures() -> None:
    """My editor knows what ``remote``, ``result``, ``get`` and ``wait`` give, and what ``options`` takes."""
    assert_passes("tests/typed/handles.py")


@pytest.mark.slow
def test_types_of_models_and_their_tests() -> None:
    """My editor knows what a client for tests gives, what a file has, and which requests can be made up."""
    assert_passes("tests/typed/models.py")


def assert_passes(file: str) -> None:
    command = [sys.executable, "-m", "mypy", "--strict", file]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
