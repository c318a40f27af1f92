"""Runs rows and shows what came of them."""

from __future__ import annotations

import time
from typing import NamedTuple

from rich.table import Table

from tests.chaos.arena import Arena
from tests.chaos.load import History
from tests.chaos.rows import ROWS, Row, changes, controllers, ingresses, replicas, usercode

__all__ = ["ROWS", "Result", "run_row", "table_of"]

_FAMILIES = (replicas, controllers, ingresses, changes, usercode)
"""Imported for what they enter into the table."""


class Result(NamedTuple):
    """What came of one row with one seed.

    Attributes:
        excused: requests in flight on an HTTP server that was killed.
        violations: what must not be, whatever the time it takes.
        slow: figures beyond their bars.
    """

    row: Row
    seed: int
    requests: int
    lost: int
    excused: int
    failed: int
    refused: int
    recovery_s: float | None
    p99_s: float
    violations: list[str]
    slow: list[str]
    took_s: float


def run_row(row: Row, seed: int, *, engine: str = "local") -> Result:
    """Run one row on an instance of its own."""
    began = time.monotonic()
    arena = Arena(seed, engine=engine, **row.http)
    try:
        try:
            row.run(arena)
        finally:
            arena.close()
    except Exception as error:  # noqa: BLE001 - a row that breaks is a row that failed; the others go on
        arena.violations.append(f"the row broke: {type(error).__name__}: {error}")
    exchanges = [exchange for history in arena.histories for exchange in history.exchanges]
    history = History(exchanges)
    return Result(
        row=row,
        seed=seed,
        requests=len(exchanges),
        lost=max(0, history.lost - arena.excused),
        excused=min(arena.excused, history.lost),
        failed=history.count("failed"),
        refused=history.count("refused"),
        recovery_s=arena.figures["recovery"][0] if "recovery" in arena.figures else None,
        p99_s=history.p99_s(),
        violations=arena.violations,
        slow=[
            f"{name} took {seconds:.2f} s, and {bar_s:g} s are allowed"
            for name, (seconds, bar_s) in arena.figures.items()
            if seconds > bar_s
        ],
        took_s=time.monotonic() - began,
    )


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
