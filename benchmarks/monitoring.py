"""What it costs to be watched. Run by ``make bench-monitoring``.

Method. *Cost of counting*: a no-op backend with one replica gets a POST from ``wrk -t1`` at 128 connections, with all
metrics on, with none (``metrics_export_port=None``), and with none again, which is the control: two sides that are the
same say how far the noise reaches. Each side is a server of its own, started afresh in each round; the sides take turns
every third of a second (``turns.py``), since loads of seconds, one after the other, differed by up to 30 % where they
were the same. Ratios are taken within a round. Beside the ratio of throughput stands that of CPU time per request of
ingress and replica.

*Cost of a scrape*: an instance with 50 replicas, each of which has answered, is scraped one hundred times, idle and
under 300 requests/s from a process of its own whose arrivals do not wait for answers (``openloop.py``). Then the
latencies of such a load are compared with and without a scrape every second, in turns.

A bar that is missed is marked and changes nothing else; failed requests make the run exit with 1.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

import cputime
import machine
import msgspec
import openloop
import wrk
from peers import HERE, Server, System, free_port, own_server, running
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from turns import measure

RESULTS = HERE / "results"
CONNECTIONS = 128
RATE = 300.0
SCRAPES = 100
SIDES = ("on", "off", "control")
SERVER_ROLES = (*cputime.ROLES.values(), cputime.OTHERS)
COST_BAR, SCRAPE_BAR_MS, P99_BAR = 0.92, 100.0, 1.1


class CostCell(msgspec.Struct, frozen=True):
    """One side in one round: requests/s, and CPU time per request of ingress and replica."""

    round: int
    side: str
    requests_per_s: float
    cpu_us: float
    failed: int


class Round(NamedTuple):
    """All sides in one round, and how many CPUs were busy meanwhile with something else."""

    foreign_cpus: float
    cells: list[CostCell]


class WatchedCell(msgspec.Struct, frozen=True):
    """Latencies at a fixed rate in one round, with or without scrapes."""

    round: int
    scraped: bool
    p50_ms: float
    p99_ms: float
    failed: int


class Judged(msgspec.Struct, frozen=True):
    figure: str
    median: float
    least: float
    greatest: float
    bar: str
    met: bool


class Results(msgspec.Struct):
    """Everything of one run; what the JSON file holds."""

    machine: machine.Facts
    replicas: int
    cost: list[CostCell] = []
    idle_ms: list[float] = []
    loaded_ms: list[float] = []
    page_bytes: int = 0
    watched: list[WatchedCell] = []
    judged: list[Judged] = []

    def faults(self) -> int:
        return sum(cell.failed for cell in self.cost) + sum(cell.failed for cell in self.watched)


class Options(NamedTuple):
    rounds: int
    seconds: int
    replicas: int
    patience_s: float
    output: Path


def parse_options() -> Options:
    parser = argparse.ArgumentParser(description="Measure what metrics cost.")
    parser.add_argument("--rounds", type=int, default=5, help="times that each side is measured (default 5)")
    parser.add_argument("--seconds", type=int, default=4, help="seconds for each side of a round (default 4)")
    parser.add_argument("--replicas", type=int, default=50, help="of the instance that is scraped (default 50)")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds to wait in all for a quiet machine")
    parser.add_argument("--quick", action="store_true", help="one short round; writes monitoring-quick.json")
    given = parser.parse_args()
    if min(given.rounds, given.seconds, given.replicas) < 1:
        parser.error("--rounds, --seconds and --replicas must be at least 1")
    if given.quick:
        return Options(1, 1, min(given.replicas, 10), 0.0, RESULTS / "monitoring-quick.json")
    return Options(given.rounds, given.seconds, given.replicas, given.patience, RESULTS / "monitoring.json")


def main() -> int:
    options, console = parse_options(), Console()
    if wrk.missing():
        console.print("wrk is not installed: apt-get install wrk (macOS: brew install wrk)")
        return 2
    results = Results(machine.facts(), options.replicas)
    columns = (TextColumn("{task.description:<40}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=3 * options.rounds + 2)

        def step(what: str) -> None:
            progress.update(task, description=what, advance=1)

        measure_cost(results, options, step)
        measure_scrapes(results, options, step)
    judge(results)
    show(results, console)
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    console.print(f"written: {options.output}", soft_wrap=True)
    return 1 if results.faults() else 0


def system(metrics_port: int, replicas: int) -> System:
    command = own_server("pointsman_monitoring.py", str(metrics_port), str(replicas))
    return System("monitoring", "Pointsman", command, "/noop", b"ok")


def measure_cost(results: Results, options: Options, step: Callable[[str], None]) -> None:
    patience = cputime.Patience(options.patience_s)
    for number in range(options.rounds):
        step(f"round {number + 1}: metrics {', '.join(SIDES)}")
        with ExitStack() as stack:
            servers = [stack.enter_context(running(system(0 if side == "on" else -1, 1))) for side in SIDES]
            for server in servers:
                wrk.run(server.url, connections=CONNECTIONS, seconds=1)
            taken = patience.undisturbed(partial(take_turns, number + 1, servers, options.seconds))
        results.cost += taken.cells


def take_turns(number: int, servers: Sequence[Server], seconds: int) -> Round:
    began = time.perf_counter()
    before = [cputime.spent(server.pid) for server in servers]
    turns = measure([server.url for server in servers], connections=CONNECTIONS, seconds=seconds, seed=number)
    after = [cputime.spent(server.pid) for server in servers]
    whole_s = time.perf_counter() - began
    ours = sum(now[role] - then[role] for then, now in zip(before, after, strict=True) for role in SERVER_ROLES)
    loads = after[-1][cputime.WRK] - before[0][cputime.WRK]
    foreign = max(0.0, after[-1][cputime.ALL] - before[0][cputime.ALL] - ours - loads) / whole_s
    cells = []
    for side, turn, then, now in zip(SIDES, turns, before, after, strict=True):
        spent = cputime.per_request_us(then, now, turn.requests)
        cpu_us = spent["ingress"] + spent["replicas"]
        cells.append(CostCell(number, side, turn.requests_per_s, cpu_us, turn.failed))
    return Round(foreign, cells)


def measure_scrapes(results: Results, options: Options, step: Callable[[str], None]) -> None:
    metrics_port = free_port()
    page = f"http://127.0.0.1:{metrics_port}/metrics"
    step(f"{options.replicas} replicas: scrapes")
    with running(system(metrics_port, options.replicas)) as server:
        wrk.run(server.url, connections=CONNECTIONS, seconds=2)
        results.idle_ms = [scrape(page)[0] for _ in range(SCRAPES)]
        results.page_bytes = scrape(page)[1]
        step("scrapes under load")
        with Background(lambda: results.loaded_ms.append(scrape(page)[0]), every_s=0.1):
            openloop.measure(server.port, "/noop", rate=RATE, seconds=options.seconds, seed=0)
        for number in range(options.rounds):
            for scraped in (False, True) if number % 2 else (True, False):
                step(f"round {number + 1}: latencies, {'scraped' if scraped else 'alone'}")
                with Background(lambda: scrape(page), every_s=1.0 if scraped else 1e6):
                    load = openloop.measure(server.port, "/noop", rate=RATE, seconds=options.seconds, seed=number)
                results.watched.append(WatchedCell(number + 1, scraped, load.p50_ms, load.p99_ms, load.not_ok))


def scrape(url: str) -> tuple[float, int]:
    """Milliseconds until the page was read, and its size."""
    began = time.perf_counter()
    with urllib.request.urlopen(url, timeout=30) as answer:
        size = len(answer.read())
    return 1000 * (time.perf_counter() - began), size


class Background:
    """Does something every so often on a thread, until the end of the block; not at once."""

    def __init__(self, action: Callable[[], object], *, every_s: float) -> None:
        self._action, self._every_s = action, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self._action()


def judge(results: Results) -> None:
    def of(side: str, figure: Callable[[CostCell], float]) -> list[float]:
        return [figure(cell) for cell in results.cost if cell.side == side]

    def ratios(over: list[float], under: list[float]) -> list[float]:
        return [a / b for a, b in zip(over, under, strict=True)]

    def p99(scraped: bool) -> list[float]:
        return [cell.p99_ms for cell in results.watched if cell.scraped is scraped]

    def add(figure: str, values: list[float], bar: float | None, *, at_least: bool = False) -> None:
        middle = median(values)
        met = bar is None or (middle >= bar if at_least else middle <= bar)
        text = "" if bar is None else f"{'≥' if at_least else '≤'} {bar:g}"
        results.judged.append(Judged(figure, middle, min(values), max(values), text, met))

    rates = {side: of(side, lambda cell: cell.requests_per_s) for side in SIDES}
    cpu = {side: of(side, lambda cell: cell.cpu_us) for side in SIDES}
    where = f"{CONNECTIONS} connections"
    add(f"requests/s, metrics on / off, {where}", ratios(rates["on"], rates["off"]), COST_BAR, at_least=True)
    add("the same, off / off (control)", ratios(rates["control"], rates["off"]), None)
    add(f"CPU time per request, metrics on / off, {where}", ratios(cpu["on"], cpu["off"]), 1 / COST_BAR)
    add("the same, off / off (control)", ratios(cpu["control"], cpu["off"]), None)
    add(f"ms per scrape, {results.replicas} replicas, idle", results.idle_ms, SCRAPE_BAR_MS)
    if results.loaded_ms:
        add(f"ms per scrape, {results.replicas} replicas, {RATE:g} requests/s", results.loaded_ms, SCRAPE_BAR_MS)
    add(f"p99 at {RATE:g} requests/s, scraped every second / not", ratios(p99(True), p99(False)), P99_BAR)


def show(results: Results, console: Console) -> None:
    table = Table(title=f"Being watched (a page of {results.page_bytes / 1000:,.0f} kB; a timing decides nothing)")
    for column in ("figure", "median", "range", "bar", ""):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for row in results.judged:
        mark = "" if not row.bar else "[green]✓[/]" if row.met else "[bold red]✗[/]"
        table.add_row(row.figure, f"{row.median:.3g}", f"{row.least:.3g} - {row.greatest:.3g}", row.bar, mark)
    console.print(table)
    slow = quantiles(results.idle_ms, n=20)[-1]
    console.print(f"95 % of the idle scrapes took at most {slow:.1f} ms.")
    if results.faults():
        console.print(f"[bold white on red] {results.faults()} REQUESTS FAILED: the figures are not valid [/]")


if __name__ == "__main__":
    sys.exit(main())
