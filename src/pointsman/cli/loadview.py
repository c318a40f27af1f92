"""What ``pointsman load`` shows: a live picture on a terminal, and the figures at the end.

The live picture is drawn by a process of its own, since drawing takes milliseconds, and requests would be late by them.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pointsman.cli.cells import clock, figure, make_table, plain
from pointsman.load.running import Plan
from pointsman.load.series import Series, plot
from pointsman.load.tally import Sample

PLOT_ROWS = 8
AXIS_WIDTH = 10
MOST_COLUMNS = 120


@contextmanager
def live(plan: Plan) -> Iterator[tuple[Callable[[Sample], None], Series]]:
    """Show a run while it lasts.

    Yields:
        What takes samples, and their series.
    """
    forking = multiprocessing.get_context("fork")  # what is drawn with is imported already
    receiver, sender = forking.Pipe(duplex=False)
    title = f"{plan.message.method} {plan.target.host}{plan.target.path}"
    drawer = forking.Process(target=_draw, args=(receiver, sender, title, plan.seconds), daemon=True)
    drawer.start()
    receiver.close()
    series = Series()

    def show(sample: Sample) -> None:
        series.add(sample)
        try:
            sender.send(sample)
        except OSError:
            pass  # the terminal is gone; the run goes on

    try:
        yield show, series
    finally:
        sender.close()
        drawer.join()


def _draw(receiver: Connection, sender: Connection, title: str, seconds: float) -> None:
    """In the drawing process: show each sample, until there are no more."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)  # it ends with the run
    sender.close()
    console, series = Console(), Series()
    try:
        with Live(console=console, transient=True, auto_refresh=False) as picture:
            while True:
                sample = receiver.recv()
                series.add(sample)
                picture.update(live_view(sample, series, title, seconds, console.width), refresh=True)
    except (EOFError, OSError):
        sys.exit(0)


def live_view(sample: Sample, series: Series, title: str, seconds: float, width: int) -> RenderableType:
    """The picture of a run under way."""
    failed = sample.ended - sample.ok
    errors = f"{sample.total - sample.total_ok:,}" + (f" (+{failed})" if failed else "")
    numbers = make_table("", "requests", "requests/s", "errors", "p50 ms", "p99 ms")
    for column in numbers.columns:
        column.justify = "right"
    numbers.add_row(
        f"{sample.total:,}",
        figure(sample.ended / sample.seconds if sample.seconds else None),
        Text(errors, style="red" if failed else ""),
        figure(sample.p50_ms),
        figure(sample.p99_ms),
    )
    head = plain(title)
    head.stylize("bold")
    progress = f"  {clock(sample.at)} of {clock(seconds)}  Ctrl-C ends it"
    head.truncate(max(10, width - len(progress)), overflow="ellipsis")
    head.append(progress, style="dim")
    warning = [Text("Not trustworthy so far: requests are sent late.", style="yellow")] if sample.late else []
    return Group(head, numbers, *warning, plot_view(series, width, sample.at, seconds))


def plot_view(series: Series, width: int, at: float, seconds: float) -> RenderableType:
    """Latency over time, so far, of a run that lasts so many seconds."""
    slots = series.all()
    columns = max(10, min(width - AXIS_WIDTH - 1, MOST_COLUMNS))
    expected = round(len(slots) * max(1.0, seconds / at)) if at else 0
    lines, errors, top = plot(slots, columns=columns, rows=PLOT_ROWS, expected=expected)
    shown = [Text("Latency in ms over time: solid up to p50, shaded up to p99", style="bold")]
    for row, line in enumerate(lines):
        label = figure(top * (PLOT_ROWS - row) / PLOT_ROWS) if row % 4 == 0 else ""
        shown.append(Text(f"{label:>{AXIS_WIDTH - 2}} ┤") + Text(line, style="cyan"))
    shown.append(Text(f"{'0':>{AXIS_WIDTH - 2}} └" + "─" * len(errors)))
    end = f"{at:.0f} s"
    shown.append(Text(" " * AXIS_WIDTH + f"0 s{end:>{max(len(end) + 1, len(errors) - 3)}}", style="dim"))
    if errors.strip():
        shown.append(Text(" " * AXIS_WIDTH) + Text(errors, style="red"))
        shown.append(Text(" " * AXIS_WIDTH + "! requests failed", style="red"))
    return Group(*shown)


def report_view(report: dict[str, Any], seconds: float, series: Series | None, width: int) -> RenderableType:
    """The figures of a run that is over."""
    parts: list[RenderableType] = []
    if series is not None and len(series.all()) > 1:
        parts += [plot_view(series, width, seconds, seconds), Text()]
    failed = report["sent"] - report["ok"]
    share = 100 * failed / report["sent"] if report["sent"] else 0.0
    parts.append(Text(f"{report['sent']:,} requests in {seconds:.1f} s, {report['mode']} loop", style="bold"))
    parts.append(Text(f"  good answers  {report['ok']:,} ({figure(report['rate'])}/s)"))
    style = "red" if failed else ""
    parts.append(Text(f"  errors        {failed:,} ({share:.3g} %){_kinds(report)}", style=style))
    if report["late_p99_ms"] is not None:
        parts.append(Text(f"  sent late by  {figure(report['late_p99_ms'])} ms (p99)"))
    latency = Text("  latency, ms ")
    for name in ("p50", "p90", "p95", "p99", "max"):
        latency.append(f"  {name} ").append(figure(report[f"{name}_ms"]), style="bold")
    parts.append(latency)
    if report["backends"]:
        parts += [Text(), Padding(_backend_table(report), (0, 0, 0, 2))]
    if not report["trustworthy"]:
        parts.append(Text("Not trustworthy: too many requests were sent late.", style="yellow"))
    return Group(*parts)


def _kinds(report: dict[str, Any]) -> str:
    """Of the errors, which there were."""
    bad = [f"status {status}: {count}" for status, count in report["statuses"].items() if int(status) >= 400]
    kinds = [*bad, *(f"{kind}: {count}" for kind, count in report["errors"].items())]
    return f": {', '.join(kinds)}" if kinds else ""


def _backend_table(report: dict[str, Any]) -> Table:
    """What each backend did, where the answers name it."""
    table = make_table("", "backend", "requests", "share", "errors", "p50 ms", "p99 ms")
    table.title, table.show_edge = None, False
    for column in table.columns[1:]:
        column.justify = "right"
    for tag, one in report["backends"].items():
        share = f"{100 * one['sent'] / report['sent']:.1f} %"
        failed = Text(f"{one['sent'] - one['ok']:,}", style="red" if one["ok"] < one["sent"] else "")
        table.add_row(plain(tag), f"{one['sent']:,}", share, failed, figure(one["p50_ms"]), figure(one["p99_ms"]))
    return table
