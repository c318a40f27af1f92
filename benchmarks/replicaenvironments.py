"""What an environment of its own costs a backend: time until it is ready, and what must be in the environment.

Two ways to have Pointsman in an environment are compared: installed there with all that it depends on, or the driver's
own copy linked in, so that only what replicas import is installed. Each round creates a backend by every way, in an
order that shifts; ratios are taken within a round.

    python benchmarks/replicaenvironments.py [--rounds 5]      needs uv and a package index
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import machine
import msgspec
from rich.console import Console
from rich.table import Table

import pointsman as serve
from pointsman.environments.interpreter import runtime_requirements
from pointsman.environments.kinds import Kind

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "semver==3.0.2"
CALLER, INSTALLED, LINKED, FOUND = "caller's", "Pointsman installed", "own copy linked", "Requirements, found again"


class Size(msgspec.Struct, frozen=True):
    """An environment: how long uv took with a warm cache, and what came of it."""

    way: str
    seconds: float
    megabytes: float
    packages: int


class Results(msgspec.Struct):
    """Everything of one run. ``ready_s`` has, by way, the seconds that ``create_backend`` took in each round."""

    machine: dict[str, str | int | float]
    sizes: list[Size]
    ready_s: dict[str, list[float]]


def function(request: object) -> str:
    return "x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="pm") as folder:
        results = measure(Path(folder), rounds)
    (ROOT / "benchmarks" / "results" / "environments.json").write_bytes(
        msgspec.json.format(msgspec.json.encode(results))
    )
    show(results)


def measure(folder: Path, rounds: int) -> Results:
    """Make the environments, then create backends in them."""
    installed = make(folder / "installed", INSTALLED, [str(ROOT), PACKAGE])
    linked = make(folder / "linked", LINKED, [*runtime_requirements(), PACKAGE])
    ways: dict[str, Kind | None] = {
        CALLER: None,
        INSTALLED: serve.VirtualEnv(folder / "installed"),
        LINKED: serve.VirtualEnv(folder / "linked"),
        FOUND: serve.Requirements([PACKAGE]),
    }
    ready: dict[str, list[float]] = {way: [] for way in ways}
    with serve.start(http_options={"port": 0}) as client:
        client.create_backend("first", function, env=ways[FOUND])  # which makes it
        for number in range(rounds):
            order = list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]
            for way in order:
                began = time.monotonic()
                client.create_backend(f"b{number}", function, env=ways[way])
                ready[way].append(time.monotonic() - began)
                client.delete_backend(f"b{number}", force=True)
    return Results(machine.facts(), [installed, linked], ready)


def make(prefix: Path, way: str, packages: list[str]) -> Size:
    """Make an environment twice, the first time to fill uv's cache."""
    uv = [sys.executable, "-m", "uv", "--quiet"]
    seconds = 0.0
    for _ in range(2):
        shutil.rmtree(prefix, ignore_errors=True)
        began = time.monotonic()
        subprocess.run([*uv, "venv", "--python", sys.executable, str(prefix)], check=True, timeout=120)
        python = str(prefix / "bin" / "python")
        subprocess.run([*uv, "pip", "install", "--python", python, *packages], check=True, timeout=600)
        seconds = time.monotonic() - began
    size = sum(path.stat().st_size for path in prefix.rglob("*") if path.is_file() and not path.is_symlink())
    return Size(way, seconds, size / 1e6, len(list(prefix.glob("lib/python3*/site-packages/*.dist-info"))))


def show(results: Results) -> None:
    console = Console(width=100)
    table = Table(title="until create_backend returns")
    for column in ("environment", "median", "range", "/ caller's, within rounds"):
        table.add_column(column)
    for way, times in results.ready_s.items():
        ratio = median(time / base for time, base in zip(times, results.ready_s[CALLER], strict=True))
        table.add_row(way, f"{median(times):.2f} s", f"{min(times):.2f} - {max(times):.2f} s", f"{ratio:.2f} x")
    console.print(table)
    table = Table(title="what is in the environment, beside the backend's own package")
    for column in ("environment", "packages", "size", "made in (uv, warm cache)"):
        table.add_column(column)
    for size in results.sizes:
        table.add_row(size.way, str(size.packages - 1), f"{size.megabytes:.1f} MB", f"{size.seconds:.2f} s")
    console.print(table)


if __name__ == "__main__":
    main()
