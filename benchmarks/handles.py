"""What a call through a handle costs, beside a bare echo and beside Ray Serve. ``make bench-handles``.

Method. Three programs are run after one another in each round, in an order that shifts from round to round: the bare
echo (``servers/echo.py``: length-prefixed frames over a Unix socket on uvloop, one process serves, one calls),
Pointsman, and Ray Serve's DeploymentHandle in an environment of its own. Each has one async replica that answers two
bytes with two bytes, and makes the same calls (``servers/handleload.py``): 10,000 at once, each caller a task, or from
a thread a future; and one after the other. The bare echo from a thread hands each call to the loop of another thread
and waits on a ``concurrent.futures.Future``. The forwarder is an async replica between the caller and the one that
answers. Where a loop is ours to choose it is uvloop's, also that of the caller: Pointsman's own processes run on it.
The array is of 10 MB; what goes there and what comes back both count.

Ratios are taken within a round, and the median over the rounds stands beside the aim. An aim that is missed is marked
and changes nothing else: a timing decides nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import machine
import msgspec
from peers import HERE, SERVERS
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from environments import RAY

RESULTS = HERE / "results"
BARE, OURS, THEIRS = "bare echo", "Pointsman", "Ray Serve"
PROGRAM_TIMEOUT_S = 900.0

Figures = dict[str, float]


class Judged(msgspec.Struct, frozen=True):
    """A figure beside its aim, over the rounds."""

    figure: str
    unit: str
    median: float
    least: float
    greatest: float
    aim: float
    met: bool


class Results(msgspec.Struct):
    """Everything of one run; what the JSON file holds."""

    machine: machine.Facts
    calls: int
    seconds: float
    left_out: str
    rounds: list[dict[str, Figures]]
    judged: list[Judged]


Side = Callable[[dict[str, Figures]], float]


def ratio(ours: str, whose: str, theirs: str = "") -> Side:
    return lambda cells: cells[OURS][ours] / cells[whose][theirs or ours]


AIMS: list[tuple[str, str, float, bool, Side]] = [
    ("async handle / bare echo, at once", "x", 0.25, False, ratio("async_at_once", BARE)),
    ("sync handle / bare echo from a thread, at once", "x", 0.25, False, ratio("sync_at_once", BARE)),
    ("async handle / bare echo, one by one", "x", 0.35, False, ratio("async_one_by_one", BARE)),
    ("sync handle / bare echo from a thread, one by one", "x", 0.35, False, ratio("sync_one_by_one", BARE)),
    ("async handle / Ray Serve, at once", "x", 25.0, True, ratio("async_at_once", THEIRS)),
    ("sync handle / Ray Serve, at once", "x", 25.0, True, ratio("sync_at_once", THEIRS)),
    ("async, one forwarder / none, at once", "x", 0.45, False, ratio("forwarded_async_at_once", OURS, "async_at_once")),
    ("sync, one forwarder / none, at once", "x", 0.45, False, ratio("forwarded_sync_at_once", OURS, "sync_at_once")),
    ("async, 10 MB array there and back", "GB/s", 1.0, False, lambda cells: cells[OURS]["async_array_gb_s"]),
    ("sync, 10 MB array there and back", "GB/s", 1.0, False, lambda cells: cells[OURS]["sync_array_gb_s"]),
]
"""Title, unit, the least that is aimed at, whether Ray Serve is needed, and the figure in one round."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=10_000, help="calls at once")
    parser.add_argument("--seconds", type=float, default=3.0, help="least time for each figure")
    parser.add_argument("--without-ray", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS / "handles.json")
    options = parser.parse_args()
    console = Console()
    left_out = "as asked" if options.without_ray else ensure_ray(console)
    programs = {BARE: (sys.executable, "handles_bare.py"), OURS: (sys.executable, "handles_pointsman.py")}
    if not left_out:
        programs[THEIRS] = (RAY.python, "handles_ray.py")
    results = Results(machine.facts(), options.calls, options.seconds, left_out, [], [])
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=options.rounds * len(programs))
        for number in range(options.rounds):
            names = list(programs)
            cells = {}
            for name in names[number % len(names) :] + names[: number % len(names)]:
                progress.update(task, description=f"round {number + 1}: {name}")
                cells[name] = run(*programs[name], options.calls, options.seconds)
                progress.advance(task)
            results.rounds.append(cells)
    results.judged = judge(results)
    show(results, console)
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    console.print(f"written: {options.output}", soft_wrap=True)
    return 0


def ensure_ray(console: Console) -> str:
    """Make Ray's environment; why it is left out when that fails."""
    try:
        RAY.ensure(console.print)
    except (subprocess.SubprocessError, OSError) as error:
        console.print(f"Ray Serve is left out, it could not be installed: {error}", markup=False)
        return str(error)
    return ""


def run(python: str, script: str, calls: int, seconds: float) -> Figures:
    """The figures that a program prints as its last line.

    Raises:
        RuntimeError: it failed; the text ends with what it printed.
    """
    command = [python, str(SERVERS / script), str(calls), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PROGRAM_TIMEOUT_S)
    if done.returncode:
        raise RuntimeError(f"{script} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return msgspec.json.decode(done.stdout.strip().rpartition("\n")[2], type=Figures)


def judge(results: Results) -> list[Judged]:
    judged = []
    for figure, unit, aim, needs_ray, side in AIMS:
        if needs_ray and results.left_out:
            continue
        values = [side(cells) for cells in results.rounds]
        middle = median(values)
        judged.append(Judged(figure, unit, middle, min(values), max(values), aim, middle >= aim))
    return judged


def show(results: Results, console: Console) -> None:
    rates = Table(title="calls/s, medians over the rounds", title_justify="left")
    rates.add_column("")
    keys = [key for key in results.rounds[0][OURS] if not key.endswith("gb_s")]
    for name in results.rounds[0]:
        rates.add_column(name, justify="right")
    for key in keys:
        cells = [[cells[name].get(key) for cells in results.rounds] for name in results.rounds[0]]
        known = [[value for value in values if value is not None] for values in cells]
        rates.add_row(key.replace("_", " "), *(f"{median(values):,.0f}" if values else "" for values in known))
    aims = Table(title=f"aims, over {len(results.rounds)} rounds", title_justify="left")
    for column in ("figure", "median", "range", "aim", "met"):
        aims.add_column(column, justify="left" if column == "figure" else "right")
    for one in results.judged:
        met = "yes" if one.met else "[bold red]no[/]"
        spread = f"{one.least:.2f} - {one.greatest:.2f}"
        aims.add_row(one.figure, f"{one.median:.2f} {one.unit}", spread, f"≥ {one.aim:g} {one.unit}", met)
    console.print(rates, aims)


if __name__ == "__main__":
    sys.exit(main())
