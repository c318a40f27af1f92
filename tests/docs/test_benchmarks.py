"""The tables of the benchmarks are those of the runs that the repository holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "benchmarks" / "bench.py"


def test_the_page_shows_what_was_measured() -> None:
    """Every line of a table on the page comes from a result file, and every line of these is on the page."""
    shown = bench("--show").splitlines()
    page = (ROOT / "docs" / "benchmarks.md").read_text().splitlines()
    assert [line for line in page if line.startswith(("|", "## "))] == [
        line for line in shown if line.startswith(("|", "## "))
    ]


def test_an_unknown_scenario_is_named_with_those_that_exist() -> None:
    """Somebody who mistypes a scenario or a peer learns of it before anything is measured."""
    for option, names in (("--only", "noop, start"), ("--peers", "pointsman, bare, mosec")):
        done = subprocess.run([sys.executable, BENCH, option, "nop"], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert f"{option} has 'nop'; there is {names}" in done.stderr


def bench(*arguments: str) -> str:
    return subprocess.run([sys.executable, BENCH, *arguments], capture_output=True, text=True, check=True).stdout
