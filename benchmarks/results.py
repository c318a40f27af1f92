"""What a run found: raw cells, medians, ratios with their bars; as JSON and as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import median

import msgspec
from peers import ASYNC, BARE, MOSEC, SYNC, SYSTEMS, Memory, System
from rich.console import Console
from rich.table import Table
from startup import Startup
from wrk import Load

CONNECTIONS = (1, 32, 128)
BUSY = (32, 128)

MOSEC_BAR, BARE_BAR, P50_BAR = 2.0, 0.35, 2.0
START_BAR_S, IMPORT_BAR_S, RSS_BAR_MB = 1.5, 0.4, 200.0


class Cell(msgspec.Struct, frozen=True):
    """One system at one number of connections in one round."""

    round: int
    system: str
    connections: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    load: Load


class MemoryCell(msgspec.Struct, frozen=True):
    """One system's memory in one round: after its first answer, and after all its load."""

    round: int
    system: str
    fresh: Memory
    loaded: Memory


class Judged(msgspec.Struct, frozen=True):
    """A figure beside its bar: median, least and greatest of the rounds or runs."""

    figure: str
    unit: str
    median: float
    least: float
    greatest: float
    bar: float
    at_least: bool
    met: bool


class Results(msgspec.Struct):
    """Everything of one run; what the JSON file holds."""

    machine: dict[str, str | int | float]
    rounds: int
    seconds_per_cell: float
    cells: list[Cell]
    memory: list[MemoryCell]
    startups: list[Startup]
    imports_s: list[float]
    judged: list[Judged]

    def of(self, system: System, connections: int) -> list[Cell]:
        """That system's cells, in the order of the rounds."""
        return [c for c in self.cells if c.system == system.key and c.connections == connections]

    def memory_of(self, system: System) -> list[MemoryCell]:
        return [m for m in self.memory if m.system == system.key]

    def faults(self) -> list[str]:
        """One line per cell in which a request failed."""
        return [
            f"round {c.round}, {c.system}, {c.connections} connections: {c.load.not_ok} answers of status 400 and up,"
            f" {c.load.socket_errors} socket errors and timeouts among {c.load.requests} requests"
            for c in self.cells
            if c.load.not_ok or c.load.socket_errors
        ]


def judge(results: Results) -> list[Judged]:
    """Every figure that has a bar.

    A ratio is taken within each round, between cells measured seconds apart, and the median is of those ratios.
    """
    judged = []
    for peer, bar in ((MOSEC, MOSEC_BAR), (BARE, BARE_BAR)):
        for ours in (SYNC, ASYNC):
            for connections in BUSY:
                ratios = _ratios(results, ours, peer, connections, lambda cell: cell.requests_per_s)
                figure = f"requests/s, {ours.title} / {peer.title}, {connections} connections"
                judged.append(_judged(figure, "x", ratios, bar, at_least=True))
    for ours in (SYNC, ASYNC):
        ratios = _ratios(results, ours, BARE, 1, lambda cell: cell.p50_ms)
        judged.append(_judged(f"p50, {ours.title} / {BARE.title}, 1 connection", "x", ratios, P50_BAR, at_least=False))
    totals = [startup.total for startup in results.startups]
    judged.append(_judged("new process to first 200", "s", totals, START_BAR_S, at_least=False))
    judged.append(_judged("from pointsman import start", "s", results.imports_s, IMPORT_BAR_S, at_least=False))
    fresh = [m.fresh.rss_mb for m in results.memory_of(SYNC)]
    loaded = [m.loaded.rss_mb for m in results.memory_of(SYNC)]
    judged.append(_judged("RSS of all processes, after the first answer", "MB", fresh, RSS_BAR_MB, at_least=False))
    judged.append(_judged("RSS of all processes, after the load", "MB", loaded, RSS_BAR_MB, at_least=False))
    return judged


def _ratios(
    results: Results, ours: System, peer: System, connections: int, figure: Callable[[Cell], float]
) -> list[float]:
    pairs = zip(results.of(ours, connections), results.of(peer, connections), strict=True)
    return [figure(mine) / figure(theirs) for mine, theirs in pairs]


def _judged(figure: str, unit: str, values: list[float], bar: float, *, at_least: bool) -> Judged:
    middle = median(values)
    met = middle >= bar if at_least else middle <= bar
    return Judged(figure, unit, middle, min(values), max(values), bar, at_least, met)


def show(results: Results, console: Console) -> None:
    """Print the tables, and loudly what failed."""
    console.print(_load_table(results), _memory_table(results), _startup_table(results), _bar_table(results))
    faults = results.faults()
    if faults:
        console.print("[bold white on red] REQUESTS FAILED: the figures above are not valid [/]")
        for fault in faults:
            console.print(f"[red]{fault}[/]")


def _load_table(results: Results) -> Table:
    table = Table(title=f"No-op, medians of {results.rounds} rounds: requests/s, and p50 / p99 in ms")
    table.add_column("system")
    for connections in CONNECTIONS:
        table.add_column(f"c={connections}", justify="right")
        table.add_column("p50 / p99", justify="right", style="dim")
    for system in SYSTEMS:
        row = [system.title]
        for connections in CONNECTIONS:
            cells = results.of(system, connections)
            row.append(f"{median(c.requests_per_s for c in cells):,.0f}")
            row.append(f"{median(c.p50_ms for c in cells):.2f} / {median(c.p99_ms for c in cells):.2f}")
        table.add_row(*row)
    return table


def _memory_table(results: Results) -> Table:
    table = Table(title="Memory of all processes, MB, medians (PSS counts shared pages once)")
    for column in ("system", "processes", "RSS fresh", "RSS loaded", "PSS fresh", "PSS loaded"):
        table.add_column(column, justify="left" if column == "system" else "right")
    for system in SYSTEMS:
        cells = results.memory_of(system)
        table.add_row(
            system.title,
            f"{median(c.fresh.processes for c in cells):.0f}",
            _megabytes(c.fresh.rss_mb for c in cells),
            _megabytes(c.loaded.rss_mb for c in cells),
            _megabytes(c.fresh.pss_mb for c in cells),
            _megabytes(c.loaded.pss_mb for c in cells),
        )
    return table


def _megabytes(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{median(known):.0f}" if known else "-"


def _startup_table(results: Results) -> Table:
    table = Table(title=f"A new process to its first 200, seconds, medians of {len(results.startups)} runs")
    fields = Startup.__struct_fields__
    for field in fields:
        table.add_column(field.replace("_", " "), justify="right")
    table.add_row(*(f"{median(getattr(run, field) for run in results.startups):.3f}" for field in fields))
    return table


def _bar_table(results: Results) -> Table:
    table = Table(title="Beside the bars (a ratio is the median of the rounds' ratios; a timing decides nothing)")
    for column in ("figure", "median", "range", "bar", ""):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for row in results.judged:
        mark = "[green]✓[/]" if row.met else "[bold red]✗[/]"
        values = (f"{row.median:.2f} {row.unit}", f"{row.least:.2f} - {row.greatest:.2f}")
        table.add_row(row.figure, *values, f"{'≥' if row.at_least else '≤'} {row.bar:g} {row.unit}", mark)
    return table
