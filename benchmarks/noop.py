"""What a request costs when the model costs nothing. Run by ``make bench``.

Method. Four systems serve a function that does nothing: bare uvicorn (an ASGI echo, one process, uvloop and httptools:
what this edge can do at most), Mosec 0.9.8 (its own server, one worker, default settings, an environment of its own
under ``benchmarks/.peers``), and Pointsman with one replica of a ``def`` and of an ``async def`` function. Each gets
the same POST with a body of two bytes, because Mosec takes nothing else, from ``wrk -t1`` at 1, 32 and 128 connections.

The rounds are interleaved: in each round every system is started afresh, warmed up, measured at 1, 32 and 128
connections, and stopped, in an order that shifts by one from round to round. A server is up only while it is measured,
so the machine belongs to it and to wrk. Ratios are taken within a round, between cells that lie seconds apart, and the
median over the rounds stands beside its bar. Absolute figures mean nothing on another machine; ratios mean something.

Start is the time from before a new Python process is made to the first 200 of its backend, by a clock on the wall,
interpreter and imports included. Memory is summed over the driver and all its descendants.

A bar that is missed is marked and changes nothing else: a timing decides nothing. Failed requests do: the run says so
and exits with 1, because its figures are then not those of the work meant. All traffic stays on 127.0.0.1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import machine
import msgspec
import wrk
from peers import HERE, MOSEC_VERSION, SYSTEMS, System, ensure_mosec, memory, running
from results import CONNECTIONS, Cell, MemoryCell, Results, judge, show
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from startup import measure_import, measure_startup

RESULTS = HERE / "results"
WARM_UP_S, WARM_UP_CONNECTIONS = 1, 32


class Options(NamedTuple):
    rounds: int
    seconds: int
    starts: int
    output: Path


def parse_options(arguments: list[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(description="Compare a no-op backend with bare uvicorn and Mosec.")
    parser.add_argument("--rounds", type=int, default=3, help="times that each cell is measured (default 3)")
    parser.add_argument("--seconds", type=int, default=3, help="seconds per cell (default 3)")
    parser.add_argument("--quick", action="store_true", help="one round of 1 s per cell; writes noop-quick.json")
    given = parser.parse_args(arguments)
    if given.rounds < 1 or given.seconds < 1:
        parser.error(f"--rounds {given.rounds} and --seconds {given.seconds} must be at least 1")
    if given.quick:
        return Options(1, 1, 2, RESULTS / "noop-quick.json")
    return Options(given.rounds, given.seconds, 7, RESULTS / "noop.json")


def main() -> int:
    options = parse_options()
    console = Console()
    if wrk.missing():
        console.print("wrk is not installed: apt-get install wrk (macOS: brew install wrk)")
        return 2
    try:
        ensure_mosec(console.print)
    except (subprocess.SubprocessError, OSError) as error:
        console.print(f"Mosec {MOSEC_VERSION} could not be installed: {error}", markup=False)
        return 2
    results = Results(machine.facts(mosec=MOSEC_VERSION), options.rounds, options.seconds, [], [], [], [], [])
    measure(results, options, console)
    results.judged = judge(results)
    show(results, console)
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    console.print(f"written: {options.output}", soft_wrap=True)
    return 1 if results.faults() else 0


def measure(results: Results, options: Options, console: Console) -> None:
    """Fill ``results`` with everything that is measured, with a progress bar."""
    columns = (TextColumn("{task.description:<40}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        steps = options.rounds * len(SYSTEMS) * len(CONNECTIONS) + 2 * options.starts
        task = progress.add_task("", total=steps)
        for _ in range(options.starts):
            progress.update(task, description="start to the first answer")
            results.startups.append(measure_startup())
            progress.advance(task)
            results.imports_s.append(measure_import())
            progress.advance(task)
        for number in range(options.rounds):
            shift = number % len(SYSTEMS)
            for system in (*SYSTEMS[shift:], *SYSTEMS[:shift]):
                progress.update(task, description=f"round {number + 1}: {system.title}")
                measure_system(results, system, number + 1, options.seconds, partial(progress.advance, task))


def measure_system(results: Results, system: System, number: int, seconds: int, advance: Callable[[], None]) -> None:
    """One round of one system: memory, warm-up, load, memory."""
    with running(system) as server:
        fresh = memory(server.pid)
        wrk.run(server.url, connections=WARM_UP_CONNECTIONS, seconds=WARM_UP_S)
        for connections in CONNECTIONS:
            load = wrk.run(server.url, connections=connections, seconds=seconds)
            p50_ms, p99_ms = load.p50_us / 1000, load.p99_us / 1000
            results.cells.append(Cell(number, system.key, connections, load.requests_per_s, p50_ms, p99_ms, load))
            advance()
        results.memory.append(MemoryCell(number, system.key, fresh, memory(server.pid)))


if __name__ == "__main__":
    sys.exit(main())
