"""What a run of ``traffic.py`` found: raw cells, ratios within rounds with their aims; as JSON and as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

import msgspec
from choosing import BACKENDS, Choice
from cputime import Cell, is_quiet
from machine import Facts
from openloop import Latencies
from rich.bar import Bar
from rich.console import Console
from rich.table import Table
from shares import Shares
from slices import Slice, Sliced
from wrk import Load

THROUGHPUT_AIM, CPU_AIM, P99_AIM = 0.9, 1.1, 1.1
CHOOSE_AIM_US, CHOOSE_KEYED_AIM_US = 3.0, 6.0
P_AIM = 0.001
"""A p below it comes by chance once in a thousand runs; anything above says nothing against the shares."""

ENOUGH = 3
"""Undisturbed rounds that say more than all rounds together."""


class Side(msgspec.Struct, frozen=True):
    """One side of a comparison.

    Attributes:
        key: names it in the results.
        title: names it in tables.
        path: that is loaded.
        header: that ``wrk`` sends with changing values.
        server: where the sides of a comparison are on different servers, which one.
    """

    key: str
    title: str
    path: str
    header: str = ""
    server: str = ""


KEY = "X-SERVE-SHARD-KEY"
FILLER = "X-BENCH-OTHER-KEY"
"""As long as the shard key's name, and nothing to Pointsman."""

SINGLE = Side("single", "one backend, no keys", "/single", FILLER)
SINGLE_AGAIN = Side("single-again", "one backend, no keys, again", "/single", FILLER)
SINGLE_KEYS = Side("single-keys", "one backend, keys", "/single", KEY)
SPLIT = Side("split", "50/50 split, no keys", "/split", FILLER)
SPLIT_KEYS = Side("split-keys", "50/50 split, keys", "/split", KEY)
SPLIT_SIDES = (SINGLE, SINGLE_KEYS, SPLIT, SPLIT_KEYS, SINGLE_AGAIN)
SPLIT_CONNECTIONS = (32, 128)

HEADERS_ON = Side("headers-on", "x-serve-* headers", "/noop", server="on")
HEADERS_OFF = Side("headers-off", "no x-serve-* headers", "/noop", server="off")
HEADERS_OFF_AGAIN = Side("headers-off-again", "no x-serve-* headers, again", "/noop", server="off")
HEADERS_SIDES = (HEADERS_ON, HEADERS_OFF, HEADERS_OFF_AGAIN)
HEADERS_CONNECTIONS = 32

PLAIN = Side("plain", "no shadow", "/plain")
PLAIN_AGAIN = Side("plain-again", "no shadow, again", "/plain")
SHADOWED = Side("shadowed", "shadow that hangs", "/shadowed")
SHADOW_SIDES = (PLAIN, SHADOWED, PLAIN_AGAIN)


class Shadowing(msgspec.Struct, frozen=True):
    """A way for copies to hang. ``timeout_s`` is the server's request_timeout_s; None for the default of 300 s."""

    key: str
    title: str
    timeout_s: float | None


STUCK = Shadowing("stuck", "copies stay, more are dropped", None)
EXPIRING = Shadowing("expiring", "copies expire after 0.8 s, more are sent", 0.8)
SHADOWINGS = (STUCK, EXPIRING)


class LoadCell(msgspec.Struct, frozen=True):
    """One side under ``wrk`` in one round.

    Attributes:
        cpu_us: CPU time per request, by role.
        foreign_cpus: CPUs that were busy meanwhile with what is not measured.
    """

    round: int
    side: str
    connections: int
    requests_per_s: float
    cpu_us: dict[str, float]
    foreign_cpus: float
    load: Load


class SlicedCell(msgspec.Struct, frozen=True):
    """All sides of the split in turn in one round; ``foreign_cpus`` as in :class:`LoadCell`."""

    round: int
    connections: int
    foreign_cpus: float
    found: Sliced

    def median(self, side: Side, value: Callable[[Slice], float]) -> float:
        """Over the cycles."""
        return median(value(cycle[side.key]) for cycle in self.found.cycles)

    def ratio(self, ours: Side, base: Side, value: Callable[[Slice], float]) -> float:
        """The median over the cycles of what two sides were within a second of each other."""
        return median(value(cycle[ours.key]) / value(cycle[base.key]) for cycle in self.found.cycles)


class LatencyCell(msgspec.Struct, frozen=True):
    """One side under a fixed rate in one round; ``foreign_cpus`` as in :class:`LoadCell`."""

    round: int
    shadowing: str
    side: str
    foreign_cpus: float
    latencies: Latencies


class Finding(msgspec.Struct, frozen=True):
    """A figure: median, least and greatest of the values; where there is an aim, whether the median meets it.

    Attributes:
        values: how many there are.
        quiet: whether they are those of rounds that nobody disturbed; all are taken where such rounds are too few.
    """

    figure: str
    unit: str
    values: int
    quiet: bool
    median: float
    least: float
    greatest: float
    aim: float | None
    at_least: bool

    @property
    def met(self) -> bool:
        return self.aim is None or (self.median >= self.aim if self.at_least else self.median <= self.aim)


class Results(msgspec.Struct):
    """Everything of one run; what the JSON file holds."""

    machine: Facts
    rounds: int
    seconds_per_cell: float
    rate_per_s: float
    slices: list[SlicedCell] = []
    loads: list[LoadCell] = []
    latencies: list[LatencyCell] = []
    choices: list[Choice] = []
    shares: list[Shares] = []
    findings: list[Finding] = []

    def sliced(self, connections: int) -> list[SlicedCell]:
        """In the order of the rounds."""
        return [c for c in self.slices if c.connections == connections]

    def of(self, side: Side, connections: int) -> list[LoadCell]:
        """That side's cells, in the order of the rounds."""
        return [c for c in self.loads if (c.side, c.connections) == (side.key, connections)]

    def latencies_of(self, shadowing: Shadowing, side: Side) -> list[LatencyCell]:
        return [c for c in self.latencies if (c.shadowing, c.side) == (shadowing.key, side.key)]

    def choice_us(self, backends: int, *, keyed: bool) -> float:
        return next(c.us_per_call for c in self.choices if (c.backends, c.keyed) == (backends, keyed))

    def faults(self) -> list[str]:
        """One line per cell in which a request failed."""
        sliced = [
            f"round {c.round}, splits, {c.connections} connections: {c.found.not_ok} answers of status 400 and up,"
            f" {c.found.socket_errors} socket errors and timeouts among {c.found.requests} requests"
            for c in self.slices
            if c.found.not_ok or c.found.socket_errors
        ]
        loads = [
            f"round {c.round}, {c.side}, {c.connections} connections: {c.load.not_ok} answers of status 400 and up,"
            f" {c.load.socket_errors} socket errors and timeouts among {c.load.requests} requests"
            for c in self.loads
            if c.load.not_ok or c.load.socket_errors
        ]
        latencies = [
            f"round {c.round}, {c.side}, {c.shadowing}: {c.latencies.not_ok} failed of {c.latencies.requests} requests"
            for c in self.latencies
            if c.latencies.not_ok
        ]
        return [*sliced, *loads, *latencies, *(f"shares: {s.not_ok} requests failed" for s in self.shares if s.not_ok)]


def judge(results: Results) -> list[Finding]:
    """Every figure. A ratio is taken within each round, between cells measured seconds apart; a ratio of a side to
    itself shows how much of the others is noise."""
    findings = []
    for connections in SPLIT_CONNECTIONS:
        for ours, base in ((SPLIT_KEYS, SINGLE), (SPLIT_KEYS, SINGLE_KEYS), (SPLIT, SINGLE)):
            findings.append(_sliced(results, ours, base, connections, THROUGHPUT_AIM))
        findings.append(_sliced(results, SINGLE_AGAIN, SINGLE, connections, None))
        findings += _cpu_time(results, SPLIT_KEYS, SINGLE, connections)
    findings.append(_throughput(results, HEADERS_ON, HEADERS_OFF, HEADERS_CONNECTIONS, None))
    findings.append(_throughput(results, HEADERS_OFF_AGAIN, HEADERS_OFF, HEADERS_CONNECTIONS, None))
    for shadowing in SHADOWINGS:
        findings.append(_p99(results, shadowing, SHADOWED, P99_AIM))
        findings.append(_p99(results, shadowing, PLAIN_AGAIN, None))
    for keyed, aim in ((False, CHOOSE_AIM_US), (True, CHOOSE_KEYED_AIM_US)):
        kind = "with a key" if keyed else "without a key"
        least, most = BACKENDS[0], BACKENDS[-1]
        first, last = results.choice_us(least, keyed=keyed), results.choice_us(most, keyed=keyed)
        findings.append(_finding(f"choosing among {least} backends, {kind}", "µs", [first], aim))
        findings.append(
            _finding(f"choosing among {most} / {least} backends, {kind}", "x", [last / first], most / least)
        )
    for share in results.shares:
        kind = "with keys" if share.keyed else "without keys"
        findings.append(_finding(f"p of the shares, {kind}", "", [share.p], P_AIM, at_least=True))
    return findings


def _sliced(results: Results, ours: Side, base: Side, connections: int, aim: float | None) -> Finding:
    ratios = [
        (is_quiet(cell), cell.ratio(ours, base, lambda found: found.requests_per_s))
        for cell in results.sliced(connections)
    ]
    return _ratio(f"requests/s, {ours.title} / {base.title}, c={connections}", ratios, aim, at_least=True)


def _cpu_time(results: Results, ours: Side, base: Side, connections: int) -> list[Finding]:
    """None where the system does not tell CPU time."""
    cells = results.sliced(connections)
    if not all(found.cpu_us for cell in cells for cycle in cell.found.cycles for found in cycle.values()):
        return []
    ratios = [(is_quiet(cell), cell.ratio(ours, base, lambda found: found.cpu_us)) for cell in cells]
    figure = f"CPU time per request, {ours.title} / {base.title}, c={connections}"
    return [_ratio(figure, ratios, CPU_AIM, at_least=False)]


def _throughput(results: Results, ours: Side, base: Side, connections: int, aim: float | None) -> Finding:
    pairs = zip(results.of(ours, connections), results.of(base, connections), strict=True)
    ratios = [(_both_quiet(*pair), pair[0].requests_per_s / pair[1].requests_per_s) for pair in pairs]
    return _ratio(f"requests/s, {ours.title} / {base.title}, c={connections}", ratios, aim, at_least=True)


def _p99(results: Results, shadowing: Shadowing, ours: Side, aim: float | None) -> Finding:
    pairs = zip(results.latencies_of(shadowing, ours), results.latencies_of(shadowing, PLAIN), strict=True)
    ratios = [(_both_quiet(*pair), pair[0].latencies.p99_ms / pair[1].latencies.p99_ms) for pair in pairs]
    return _ratio(f"p99, {ours.title} / {PLAIN.title} ({shadowing.title})", ratios, aim, at_least=False)


def _both_quiet(ours: Cell, base: Cell) -> bool:
    return is_quiet(ours) and is_quiet(base)


def _ratio(figure: str, ratios: list[tuple[bool, float]], aim: float | None, *, at_least: bool) -> Finding:
    """Of the rounds in which both sides were undisturbed, where these are enough."""
    undisturbed = [ratio for is_quiet, ratio in ratios if is_quiet]
    quiet = len(undisturbed) >= min(ENOUGH, len(ratios))
    values = undisturbed if quiet else [ratio for _, ratio in ratios]
    return Finding(figure, "x", len(values), quiet, median(values), min(values), max(values), aim, at_least)


def _finding(figure: str, unit: str, values: Sequence[float], aim: float | None, *, at_least: bool = False) -> Finding:
    return Finding(figure, unit, len(values), True, median(values), min(values), max(values), aim, at_least)


def show(results: Results, console: Console) -> None:
    """Print the tables, and loudly what failed."""
    console.print(
        _slices_table(results),
        _load_table(results),
        _latency_table(results),
        _choice_table(results),
        _shares_table(results),
    )
    console.print(_findings_table(results))
    cells: list[Cell] = [*results.slices, *results.loads, *results.latencies]
    disturbed = [cell.foreign_cpus for cell in cells if not is_quiet(cell)]
    if disturbed:
        console.print(f"{len(disturbed)} of {len(cells)} cells were disturbed, by up to {max(disturbed):.1f} busy CPUs")
    faults = results.faults()
    if faults:
        console.print("[bold white on red] REQUESTS FAILED: the figures above are not valid [/]")
        for fault in faults:
            console.print(f"[red]{fault}[/]")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _slices_table(results: Results) -> Table:
    title = f"wrk, sides in turn, medians of {results.rounds} rounds, and CPU time per request"
    table = _table(title, "", "c", "requests/s", "ingress µs", "replicas µs")
    values: tuple[Callable[[Slice], float], ...] = (
        lambda found: found.requests_per_s,
        lambda found: found.ingress_us,
        lambda found: found.replicas_us,
    )
    for connections in SPLIT_CONNECTIONS:
        cells = results.sliced(connections)
        for side in SPLIT_SIDES:
            medians = (f"{median(cell.median(side, value) for cell in cells):,.0f}" for value in values)
            table.add_row(side.title, str(connections), *medians)
    return table


def _load_table(results: Results) -> Table:
    roles = ("ingress", "replicas", "others", "wrk")
    columns = ("", "c", "requests/s", "p50 / p99 ms", *(f"{role} µs" for role in roles))
    table = _table(f"wrk, medians of {results.rounds} rounds, and CPU time per request", *columns)
    for side in HEADERS_SIDES:
        cells = results.of(side, HEADERS_CONNECTIONS)
        p50, p99 = median(c.load.p50_us for c in cells), median(c.load.p99_us for c in cells)
        table.add_row(
            side.title,
            str(HEADERS_CONNECTIONS),
            f"{median(c.requests_per_s for c in cells):,.0f}",
            f"{p50 / 1000:.2f} / {p99 / 1000:.2f}",
            *(f"{median(c.cpu_us.get(role, 0.0) for c in cells):.0f}" for role in roles),
        )
    return table


def _latency_table(results: Results) -> Table:
    quantiles: dict[str, Callable[[Latencies], float]] = {
        "p50": lambda found: found.p50_ms,
        "p90": lambda found: found.p90_ms,
        "p99": lambda found: found.p99_ms,
        "p99.9": lambda found: found.p999_ms,
        "sent late, p50": lambda found: found.late_p50_ms,
        "p99 ": lambda found: found.late_p99_ms,
    }
    title = f"ms from when due at {results.rate_per_s:,.0f} requests/s, medians of {results.rounds} rounds"
    table = _table(title, "", "copies", *quantiles)
    for shadowing in SHADOWINGS:
        for side in SHADOW_SIDES:
            found = [c.latencies for c in results.latencies_of(shadowing, side)]
            values = (f"{median(quantile(f) for f in found):.2f}" for quantile in quantiles.values())
            table.add_row(side.title, shadowing.key, *values)
    return table


def _choice_table(results: Results) -> Table:
    table = _table("Chooser.choose, µs per call, best of 5", "backends", *map(str, BACKENDS))
    for keyed in (False, True):
        times = (f"{results.choice_us(count, keyed=keyed):.2f}" for count in BACKENDS)
        table.add_row("with a key" if keyed else "without a key", *times)
    return table


def _shares_table(results: Results) -> Table:
    table = _table("Answers by backend over two ingress processes", "", "all", "each ingress", "chi-square", "p")
    for share in results.shares:
        each = " + ".join(f"{sum(counted.values()):,}" for counted in share.by_ingress)
        counted = ", ".join(f"{tag} {count:,}" for tag, count in sorted(share.counted.items()))
        values = (counted, each, f"{share.chi_square:.2f}", f"{share.p:.3f}")
        table.add_row("with keys" if share.keyed else "without keys", *values)
    return table


def _findings_table(results: Results) -> Table:
    title = "Beside the aims (a ratio is the median of the rounds' ratios; a timing decides nothing)"
    table = _table(title, "figure", "median", "range", "rounds", "aim", "")
    table.add_column("0 to 1.5 x: range █", justify="left")
    for row in results.findings:
        mark = "" if row.aim is None else "[green]✓[/]" if row.met else "[bold red]✗[/]"
        aim = "" if row.aim is None else f"{'≥' if row.at_least else '≤'} {row.aim:g} {row.unit}"
        spread = f"{row.least:.2f} - {row.greatest:.2f}" if row.least != row.greatest else ""
        rounds = str(row.values) if row.quiet else f"{row.values}, disturbed"
        around_one = spread and row.unit == "x"
        bar = Bar(1.5, row.least - 0.01, row.greatest + 0.01, width=30) if around_one else ""
        table.add_row(
            row.figure, f"{row.median:.{3 if row.unit == 'x' else 2}f} {row.unit}", spread, rounds, aim, mark, bar
        )
    return table
