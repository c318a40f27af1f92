"""``pointsman top`` and ``pointsman status --watch``: what happens now, redrawn until Ctrl-C.

Called by the commands. Where standard output is no terminal they show one moment and end, so that they can be piped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pointsman.cli.tables import make_table, plain


def watch(draw: Callable[[], RenderableType], console: Console, *, every_s: float = 0.0) -> None:
    """Show what ``draw`` gives, again and again, ``every_s`` seconds apart; once where nobody sees it move."""
    if not console.is_terminal:
        console.print(draw())
        return
    try:
        with Live(draw(), console=console, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(every_s)
                live.update(draw(), refresh=True)
    except KeyboardInterrupt:
        pass  # the way to leave


def stats_tables(stats: dict[str, Any], title: str) -> RenderableType:
    """A client's ``stats`` as tables."""
    return Group(Text(title, style="bold"), _endpoints(stats["endpoints"]), _backends(stats["backends"]))


def _endpoints(endpoints: dict[str, Any]) -> Table:
    shown = _numbers_table("Endpoints", "endpoint", "requests/s", "queued", "p50 ms", "p95 ms", "p99 ms")
    for name, endpoint in endpoints.items():
        shown.add_row(
            plain(name),
            _number(endpoint["per_second"]),
            str(endpoint["queued"]),
            *map(_number, endpoint["http_latency_ms"].values()),
        )
    return shown


def _backends(backends: dict[str, Any]) -> Table:
    columns = ("requests/s", "errors", "p50 ms", "p95 ms", "p99 ms", "running", "queued", "batch", "replicas")
    shown = _numbers_table("Backends", "backend", *columns)
    for tag, backend in backends.items():
        if not backend["replicas"] and not backend["requests"]:
            continue  # deleted some time ago
        shown.add_row(
            plain(tag),
            _number(backend["per_second"]),
            Text(str(backend["errors"]), style="red" if backend["errors"] else ""),
            *map(_number, backend["latency_ms"].values()),
            str(backend["processing"]),
            str(backend["queued"]),
            _number(backend["batch_size"]),
            Text(str(backend["replicas"]), style="" if backend["replicas"] else "bold red"),
        )
    return shown


def _numbers_table(title: str, *columns: str) -> Table:
    shown = make_table(title, *columns)
    for column in shown.columns[1:]:
        column.justify = "right"
    return shown


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
