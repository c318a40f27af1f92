"""What came of the rows: a table in the terminal, and one for the documents."""

from __future__ import annotations

import datetime
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from tests.chaos.run import Result


def table_of(results: list[Result], title: str) -> Table:
    """For people."""
    table = Table(title=title)
    for column in ("", "fault", "seed", "requests", "lost", "cut", "failed", "refused", "recovery s", "p99 ms", ""):
        table.add_column(column, justify="left" if column in ("", "fault") else "right")
    for result in results:
        fine = not result.violations and not result.slow
        table.add_row(
            result.row.key,
            result.row.title,
            str(result.seed),
            f"{result.requests:,}",
            f"[bold red]{result.lost}[/]" if result.lost else "0",
            str(result.excused or ""),
            str(result.failed),
            str(result.refused),
            "" if result.recovery_s is None else f"{result.recovery_s:.2f}",
            f"{1000 * result.p99_s:.0f}",
            "[green]✓[/]" if fine else "[yellow]slow[/]" if not result.violations else "[bold red]✗[/]",
        )
    return table


def write_markdown(results: Sequence[Result], engine: str, path: Path) -> None:
    """Put the table, and where and when it came about, between the markers of a document.

    Raises:
        ValueError: the document has no such place.
    """
    place = re.compile(rf"(<!-- faults: {engine} -->\n).*?(<!-- /faults -->)", re.DOTALL)
    new, found = place.subn(lambda match: f"{match[1]}\n{markdown(results)}\n{match[2]}", path.read_text())
    if not found:
        raise ValueError(f"{path} has no place <!-- faults: {engine} --> ... <!-- /faults -->")
    path.write_text(new)


def markdown(results: Sequence[Result]) -> str:
    """The same for a document: one line per row. Requests are counted over all seeds; of times the worst is told."""
    seeds = list(dict.fromkeys(str(result.seed) for result in results))
    lines = [
        f"Measured on {datetime.date.today().isoformat()} with seeds {' and '.join(seeds)}, on {os.cpu_count()} cores"
        f" ({platform.machine()}, {platform.system()}, Python {platform.python_version()}) that also made the load;"
        f" load averages up to {max(result.load_average for result in results):.0f}.",
        "",
        "| | fault | requests | lost | cut | failed | refused | recovery s (may be) | p99 ms | held |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    titles = {result.row.key: result.row.title for result in results}
    for key in sorted(titles, key=_in_order):
        cells = _cells([result for result in results if result.row.key == key])
        lines.append(f"| {key} | {titles[key]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cells(results: Sequence[Result]) -> list[str]:
    recoveries = [(r.recovery_s, r.recovery_bar_s) for r in results if r.recovery_s is not None]
    worst = max(recoveries, default=None)
    return [
        f"{sum(r.requests for r in results):,}",
        *(str(sum(getattr(r, name) for r in results)) for name in ("lost", "excused", "failed", "refused")),
        "" if worst is None else f"{worst[0]:.2f} ({worst[1]:g})",
        f"{1000 * max(r.p99_s for r in results):.0f}",
        "yes" if not any(r.violations or r.slow for r in results) else "**no**",
    ]


def _in_order(key: str) -> tuple[int, str]:
    number = re.search(r"\d+", key)
    return (int(number[0]) if number else 1000, key)
