"""What a run of ``batching.py`` found: raw cells, ratios within rounds with their aims; as JSON and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import msgspec
from cputime import Cell, is_quiet
from machine import Facts
from openloop import Latencies
from overload import Overload
from rich.console import Console
from rich.table import Table
from streamreader import Streams
from wrk import Load

DIRECT_AIM, PEER_AIM, STREAM_AIM = 0.9, 1.0, 3.0
ADDED_AIM_MS, GOODPUT_AIM, RECOVERY_AIM_S = 1.5, 0.9, 1.0


class Side(msgspec.Struct, frozen=True):
    """One system or setting. ``peer`` is the package that it needs, if any."""

    key: str
    title: str
    peer: str = ""


Limit = Side

DIRECT = Side("direct", "no server, full batches")
WAIT = Side("wait", "Pointsman, wait 0")
TARGET = Side("target", "Pointsman, target 50 ms")
UNLOCKED = Side("wait-unlocked", "Pointsman, wait 0, model outside the lock")
MOSEC_SIDE = Side("mosec", "Mosec", "mosec")
LITSERVE_SIDE = Side("litserve", "LitServe", "litserve")
OURS = (WAIT, TARGET)
THROUGHPUT_SIDES = (WAIT, MOSEC_SIDE, TARGET, LITSERVE_SIDE, UNLOCKED)

STREAMS_SYNC = Side("stream-sync", "Pointsman, generator")
STREAMS_ASYNC = Side("stream-async", "Pointsman, async generator")
RAY_SYNC = Side("ray-sync", "Ray Serve, generator", "ray")
RAY_ASYNC = Side("ray-async", "Ray Serve, async generator", "ray")
RAY_ASYNC_100 = Side("ray-async-100", "Ray Serve, async generator, 100 ongoing", "ray")
STREAM_SIDES = (STREAMS_SYNC, RAY_SYNC, STREAMS_ASYNC, RAY_ASYNC, RAY_ASYNC_100)
STREAM_PAIRS = (
    (STREAMS_SYNC, RAY_SYNC, STREAM_AIM),
    (STREAMS_ASYNC, RAY_ASYNC, STREAM_AIM),
    (STREAMS_ASYNC, RAY_ASYNC_100, None),  # the aim is about Ray Serve as it is by default
)

BATCHED = Limit("overload", "5 x, in batches")
SINGLE = Limit("overload-single", "5 x, one by one")
LIMITS = (BATCHED, SINGLE)


class Direct(msgspec.Struct, frozen=True):
    """The model without a server in one round: in full batches, and the time of one item alone."""

    round: int
    items_per_s: float
    one_ms: float
    foreign_cpus: float


class ThroughputCell(msgspec.Struct, frozen=True):
    """One side under ``wrk`` in one round.

    Attributes:
        cpu_us: CPU time per request, by role; a peer's processes are all ``others``.
        foreign_cpus: CPUs that were busy meanwhile with what is not measured.
    """

    round: int
    side: str
    requests_per_s: float
    cpu_us: dict[str, float]
    foreign_cpus: float
    load: Load


class LatencyCell(msgspec.Struct, frozen=True):
    round: int
    rate_per_s: float
    foreign_cpus: float
    latencies: Latencies


class StreamCell(msgspec.Struct, frozen=True):
    """One side with its readers in one round. ``cpus`` were busy by role; the readers are under ``wrk``."""

    round: int
    side: str
    chunks_per_s: float
    cpus: dict[str, float]
    foreign_cpus: float
    streams: Streams


class OverloadCell(msgspec.Struct, frozen=True):
    """One overload. Memory is the ingress's RSS; ``cpus`` were busy by role, the client's under ``wrk``."""

    round: int
    limit: str
    rate_per_s: float
    peak_per_s: float
    before_mb: float
    most_mb: float
    after_mb: float
    cpus: dict[str, float]
    foreign_cpus: float
    overload: Overload
    peaks: list[Load]


class Finding(msgspec.Struct, frozen=True):
    """A figure: median, least and greatest of the rounds; where there is an aim, whether the median meets it."""

    figure: str
    unit: str
    median: float
    least: float
    greatest: float
    aim: float | None
    at_least: bool

    @property
    def met(self) -> bool:
        return self.aim is None or (self.median >= self.aim if self.at_least else self.median <= self.aim)


class Results(msgspec.Struct):
    """Everything of one run; what the JSON file holds. ``left_out`` are peers that could not be installed, and why."""

    machine: Facts
    rounds: int
    seconds_per_cell: float
    left_out: dict[str, str]
    direct: list[Direct] = []
    throughputs: list[ThroughputCell] = []
    latencies: list[LatencyCell] = []
    streams: list[StreamCell] = []
    overloads: list[OverloadCell] = []
    findings: list[Finding] = []

    def throughputs_of(self, side: Side) -> list[ThroughputCell]:
        """That side's cells, in the order of the rounds."""
        return [cell for cell in self.throughputs if cell.side == side.key]

    def streams_of(self, side: Side) -> list[StreamCell]:
        return [cell for cell in self.streams if cell.side == side.key]

    def overloads_of(self, limit: Limit) -> list[OverloadCell]:
        return [cell for cell in self.overloads if cell.limit == limit.key]

    def cells(self) -> list[Cell]:
        return [*self.direct, *self.throughputs, *self.latencies, *self.streams, *self.overloads]

    def faults(self) -> list[str]:
        """One line per cell in which something failed that should not."""
        throughputs = [
            f"round {c.round}, {c.side}: {c.load.not_ok} answers of status 400 and up, {c.load.socket_errors} socket"
            f" errors and timeouts among {c.load.requests} requests"
            for c in self.throughputs
            if c.load.not_ok or c.load.socket_errors
        ]
        latencies = [
            f"round {c.round}, a quarter of the capacity: {c.latencies.not_ok} failed of {c.latencies.requests}"
            for c in self.latencies
            if c.latencies.not_ok
        ]
        streams = [
            f"round {c.round}, {c.side}: {c.streams.broken} streams were broken"
            for c in self.streams
            if c.streams.broken
        ]
        overloads = [
            f"round {c.round}, {c.limit}: answers {c.overload.answers}, where only 200 and 503 are expected"
            for c in self.overloads
            if c.overload.answers.keys() - {"200", "503"}
        ]
        return [*throughputs, *latencies, *streams, *overloads]


def judge(results: Results) -> list[Finding]:
    """Every figure; ratios are taken within each round."""
    findings = []
    direct = [cell.items_per_s for cell in results.direct]
    for ours in OURS:
        mine = [cell.requests_per_s for cell in results.throughputs_of(ours)]
        findings.append(_ratio(f"requests/s, {ours.title} / {DIRECT.title}", mine, direct, DIRECT_AIM))
        for peer in (MOSEC_SIDE, LITSERVE_SIDE):
            theirs = [cell.requests_per_s for cell in results.throughputs_of(peer)]
            if theirs:
                findings.append(_ratio(f"requests/s, {ours.title} / {peer.title}", mine, theirs, PEER_AIM))
    unlocked = [cell.requests_per_s for cell in results.throughputs_of(UNLOCKED)]
    findings.append(_ratio(f"requests/s, {UNLOCKED.title} / {DIRECT.title}", unlocked, direct, None))
    added = [c.latencies.p50_ms - d.one_ms for c, d in zip(results.latencies, results.direct, strict=True)]
    findings.append(_finding("p50 at 25 % load, beyond the model's own time", "ms", added, ADDED_AIM_MS))
    for ours, ray, aim in STREAM_PAIRS:
        mine = [cell.chunks_per_s for cell in results.streams_of(ours)]
        theirs = [cell.chunks_per_s for cell in results.streams_of(ray)]
        if theirs:
            findings.append(_ratio(f"chunks/s, {ours.title} / {ray.title}", mine, theirs, aim))
    for limit in LIMITS:
        cells = results.overloads_of(limit)
        goodputs = [cell.overload.ok_per_s for cell in cells]
        peaks = [cell.peak_per_s for cell in cells]
        findings.append(_ratio(f"goodput / peak goodput, {limit.title}", goodputs, peaks, GOODPUT_AIM))
        recoveries = [cell.overload.recovered_s for cell in cells]
        findings.append(_finding(f"end of load to a normal answer, {limit.title}", "s", recoveries, RECOVERY_AIM_S))
        first_oks = [cell.overload.first_ok_s for cell in cells]
        findings.append(_finding(f"end of load to a first 200, {limit.title}", "s", first_oks, None))
        grown = [cell.after_mb - cell.before_mb for cell in cells]
        findings.append(_finding(f"ingress's memory grown, {limit.title}", "MB", grown, None))
    return findings


def _ratio(figure: str, ours: Sequence[float], base: Sequence[float], aim: float | None) -> Finding:
    ratios = [mine / theirs for mine, theirs in zip(ours, base, strict=True)]
    return _finding(figure, "x", ratios, aim, at_least=True)


def _finding(figure: str, unit: str, values: Sequence[float], aim: float | None, *, at_least: bool = False) -> Finding:
    return Finding(figure, unit, median(values), min(values), max(values), aim, at_least)


def show(results: Results, console: Console) -> None:
    """Print the tables, and loudly what failed."""
    console.print(_throughput_table(results), _latency_table(results), _stream_table(results))
    console.print(_overload_table(results), _findings_table(results))
    for name, reason in results.left_out.items():
        console.print(f"{name} was left out, it could not be installed: {reason}", markup=False)
    disturbed = [cell.foreign_cpus for cell in results.cells() if not is_quiet(cell)]
    if disturbed:
        count = len(results.cells())
        console.print(f"{len(disturbed)} of {count} cells were disturbed, by up to {max(disturbed):.1f} busy CPUs")
    faults = results.faults()
    if faults:
        console.print("[bold white on red] REQUESTS FAILED: the figures above are not valid [/]")
        for fault in faults:
            console.print(f"[red]{fault}[/]", highlight=False)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _throughput_table(results: Results) -> Table:
    roles = ("ingress", "replicas", "others", "wrk")
    columns = ("", "requests/s", "p50 / p99 ms", *(f"{role} µs" for role in roles))
    table = _table(f"wrk -t1 -c64, medians of {results.rounds} rounds, and CPU time per request", *columns)
    table.add_row(DIRECT.title, f"{median(cell.items_per_s for cell in results.direct):,.0f}")
    for side in THROUGHPUT_SIDES:
        cells = results.throughputs_of(side)
        if cells:
            p50, p99 = median(c.load.p50_us for c in cells), median(c.load.p99_us for c in cells)
            table.add_row(
                side.title,
                f"{median(c.requests_per_s for c in cells):,.0f}",
                f"{p50 / 1000:.1f} / {p99 / 1000:.1f}",
                *(f"{median(c.cpu_us.get(role, 0.0) for c in cells):.0f}" for role in roles),
            )
    return table


def _latency_table(results: Results) -> Table:
    cells = results.latencies
    columns = ("", "p50", "p90", "p99", "sent late, p50")
    title = (
        f"ms from when due, {median(c.rate_per_s for c in cells):.0f} requests/s, medians of {results.rounds} rounds"
    )
    table = _table(title, *columns)
    found = [cell.latencies for cell in cells]
    quantiles = ([f.p50_ms for f in found], [f.p90_ms for f in found], [f.p99_ms for f in found])
    values = (*quantiles, [f.late_p50_ms for f in found])
    table.add_row(WAIT.title, *(f"{median(value):.2f}" for value in values))
    table.add_row("the model's own time for one item", f"{median(d.one_ms for d in results.direct):.2f}")
    return table


def _stream_table(results: Results) -> Table:
    roles = ("ingress", "replicas", "others", "wrk")
    columns = ("", "chunks/s", "HTTP chunks/s", "first ms", *("readers" if role == "wrk" else role for role in roles))
    table = _table(f"32 readers of 1,000 chunks, medians of {results.rounds} rounds, and busy CPUs", *columns)
    for side in STREAM_SIDES:
        cells = results.streams_of(side)
        if cells:
            table.add_row(
                side.title,
                f"{median(c.chunks_per_s for c in cells):,.0f}",
                f"{median(c.streams.chunks / c.streams.seconds for c in cells):,.0f}",
                f"{median(c.streams.first_p50_ms for c in cells):,.1f}",
                *(f"{median(c.cpus.get(role, 0.0) for c in cells):.2f}" for role in roles),
            )
    return table


def _overload_table(results: Results) -> Table:
    table = _table(f"Overload, medians of {results.rounds} rounds", "", *(limit.title for limit in LIMITS))
    columns = [results.overloads_of(limit) for limit in LIMITS]

    def row(title: str, *values: str) -> None:
        table.add_row(title, *values)

    row("requests/s due", *(f"{median(c.rate_per_s for c in cells):,.0f}" for cells in columns))
    sent = [[c.overload.sent / len(c.overload.each_second) for c in cells] for cells in columns]
    row("requests/s sent", *(f"{median(rates):,.0f}" for rates in sent))
    row("200s/s before, at most", *(f"{median(c.peak_per_s for c in cells):,.0f}" for cells in columns))
    row("200s/s during", *(f"{median(c.overload.ok_per_s for c in cells):,.0f}" for cells in columns))
    row(
        "200s in the worst second", *(f"{median(min(c.overload.each_second) for c in cells):,.0f}" for cells in columns)
    )
    row("p50 of 200s, ms", *(f"{median(c.overload.ok_p50_ms for c in cells):,.0f}" for cells in columns))
    row("p99 of 200s, ms", *(f"{median(c.overload.ok_p99_ms for c in cells):,.0f}" for cells in columns))
    row("s to a normal answer", *(f"{median(c.overload.recovered_s for c in cells):.3f}" for cells in columns))
    row(
        "ingress MB before / most / after",
        *(
            " / ".join(
                f"{median(mb):.1f}"
                for mb in ([c.before_mb for c in cells], [c.most_mb for c in cells], [c.after_mb for c in cells])
            )
            for cells in columns
        ),
    )
    for role in ("ingress", "replicas", "wrk"):
        title = f"CPUs busy: {'client' if role == 'wrk' else role}"
        row(title, *(f"{median(c.cpus.get(role, 0.0) for c in cells):.2f}" for cells in columns))
    return table


def _findings_table(results: Results) -> Table:
    title = "Beside the aims (a ratio is the median of the rounds' ratios; a timing decides nothing)"
    table = _table(title, "figure", "median", "range", "aim", "")
    for row in results.findings:
        mark = "" if row.aim is None else "[green]✓[/]" if row.met else "[bold red]✗[/]"
        aim = "" if row.aim is None else f"{'≥' if row.at_least else '≤'} {row.aim:g} {row.unit}"
        value = f"{row.median:.{3 if row.unit == 'x' else 2}f} {row.unit}"
        table.add_row(row.figure, value, f"{row.least:.2f} - {row.greatest:.2f}", aim, mark)
    return table
