"""``pointsman top`` and ``pointsman status --watch``: the present state, redrawn until Ctrl-C.

Called by the commands. If standard output is no terminal, they print once and end, so that they can be piped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.text import Text

from pointsman.cli.cells import figure, make_table, plain
from pointsman.cli.scalingtables import ScalingTable
from pointsman.telemetry.windows import PERCENTILES, POLICY

NAME_WIDTH = 16
#: Width of the space between two columns of a table, in characters.
GAP = 3


def watch(draw: Callable[[], RenderableType], console: Console, *, every_s: float = 0.0) -> None:
    """Redraw what ``draw`` returns every ``every_s`` seconds until Ctrl-C; print it once if there is no terminal."""
    if not console.is_terminal:
        console.print(draw())
        return
    try:
        with Live(draw(), console=console, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(every_s)
                live.update(draw(), refresh=True)
    except KeyboardInterrupt:
        pass  # Ctrl-C is how it is left


def stats_tables(
    stats: dict[str, Any], title: str, window: str = "10s", backends: dict[str, Any] | None = None
) -> RenderableType:
    """A client's ``stats`` as tables, and below them why backends have as many replicas as they have.

    Args:
        window: the one whose requests, errors and latencies are shown, by its name. Since the policy changed: those of
            backends are of ten minutes, since they may have several endpoints.
        backends: those of the client's ``status``.
    """
    of_backends, known = "10m" if window == POLICY else window, backends or {}
    scaled = ScalingTable(known)
    return Group(
        Text(title, style="bold"),
        _endpoints(stats["endpoints"], window),
        _backends(stats["backends"], of_backends, known),
        *([scaled] if scaled.row_count else []),
    )


def _endpoints(endpoints: dict[str, Any], window: str) -> RenderableType:
    """Each endpoint, and below it its backends where it has several, and its shadows."""
    shown = NumberTable("Endpoints", "endpoint", optional=("mean ms", "p95 ms", "p50 ms", "queued", "errors"))
    for name, endpoint in endpoints.items():
        shown.add(name, {**_window(endpoint["windows"][window]), "queued": Text(str(endpoint["queued"]))})
        parts = endpoint["backends"].items() if len(endpoint["backends"]) > 1 else ()
        for tag, windows in parts:
            shown.add(f"  {tag}", {**_window(windows[window]), "queued": Text("")})
        for tag, windows in endpoint["shadows"].items():
            shown.add(f"  {tag} (shadow)", {**_window(windows[window]), "queued": Text("")})
    return shown


def _window(window: dict[str, Any]) -> dict[str, Text]:
    return {
        "requests/s": Text(figure(window["per_second"])),
        "errors": Text(str(window["errors"]), style="red" if window["errors"] else ""),
        **_latencies(window["latency_ms"]),
    }


def _backends(backends: dict[str, Any], window: str, known: dict[str, Any]) -> RenderableType:
    optional = ("batch", "mean ms", "p95 ms", "running", "replicas", "p50 ms", "queued")
    shown = NumberTable("Backends", "backend", optional=optional)
    for tag, backend in backends.items():
        if not backend["replicas"] and not backend["requests"] and tag not in known:
            continue  # a deleted backend, whose counters are still kept
        shown.add(
            tag,
            {
                **_window(backend["windows"][window]),
                "running": Text(str(backend["processing"])),
                "queued": Text(str(backend["queued"])),
                "batch": Text(figure(backend["batch_size"])),
                "replicas": _replicas(backend["replicas"], known.get(tag)),
            },
        )
    return shown


def _replicas(live: int, known: dict[str, Any] | None) -> Text:
    """How many replicas live, and of how many that are wanted, where that differs."""
    wanted = known["replicas_wanted"] if known is not None else live
    missing = live < wanted or (known is None and not live)
    style = "" if not missing else "yellow" if live else "bold red"
    return Text(f"{live}" if live == wanted else f"{live}/{wanted}", style=style)


class NumberTable:
    """A table of names with their numbers. On a narrow terminal it leaves columns out, because a number that is cut in
    two is misleading.

    Args:
        title: title of the table.
        head: title of the column of names.
        optional: columns that may be left out, the optional important first.
    """

    def __init__(self, title: str, head: str, *, optional: tuple[str, ...]) -> None:
        self._title, self._head, self._optional = title, head, optional
        self._rows: list[tuple[Text, dict[str, Text]]] = []

    def add(self, name: str, numbers: dict[str, Text]) -> None:
        """Add a row; all rows must have the same columns."""
        self._rows.append((plain(name), numbers))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self._rows:
            yield Text(f"{self._title}: none yet", style="dim")
            return
        columns = list(self._rows[0][1])
        for one in self._optional:
            if self._width(columns) <= options.max_width:
                break
            columns.remove(one)
        table = make_table(self._title, self._head)
        for column in columns:
            table.add_column(column, justify="right", no_wrap=True)
        for name, numbers in self._rows:
            table.add_row(name, *(numbers[column] for column in columns))
        yield table

    def _width(self, columns: list[str]) -> int:
        """Width of the table in characters, with names cut to a legible length."""
        names = max(len(self._head), min(NAME_WIDTH, max(name.cell_len for name, _ in self._rows)))
        numbers = (max(len(column), *(row[column].cell_len for _, row in self._rows)) for column in columns)
        return names + sum(GAP + width for width in numbers) + 2


def _latencies(milliseconds: dict[str, float | None]) -> dict[str, Text]:
    return {f"{name} ms": Text(figure(milliseconds[name])) for name in ("mean", *PERCENTILES)}
