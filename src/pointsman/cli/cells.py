"""What all tables for the terminal are made of: their frame, names from outside, shares and times."""

from __future__ import annotations

from datetime import datetime, timezone

from rich import box
from rich.table import Table
from rich.text import Text


def make_table(title: str, *columns: str) -> Table:
    """An empty table in the style of all tables here."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def plain(text: str) -> Text:
    """Text from outside, without control characters, which could move the cursor."""
    return Text("".join(character if character.isprintable() else "?" for character in text))


def words(state: str) -> str:
    """A state's name for a reader, such as ``rolled back``."""
    return state.replace("_", " ")


def share(weight: float) -> str:
    """A part of 1 in percent, such as ``12.5 %``."""
    return f"{100 * weight:.4g} %"


def figure(value: float | None) -> str:
    """A rate, or a latency without its unit: three digits, and no fraction from 100 on."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, such as ``4:05`` or ``1:00:00``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def duration(seconds: float) -> str:
    """A length of time in its largest unit, such as ``5 min``."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def age(since: str) -> str:
    """How long ago a time in ISO 8601 was."""
    if not since:
        return "-"
    return duration(max(0.0, (datetime.now(timezone.utc) - datetime.fromisoformat(since)).total_seconds()))
