"""Renders the autoscaling of backends for the terminal: what is wanted, why, and since when."""

from __future__ import annotations

from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from pointsman.cli.cells import age, duration, figure, make_table, plain

#: Columns of a terminal on which a table leaves something out.
NARROW = 100
#: What the commands show of a simulation: title and form.
_FIGURES = {
    "late": "{:.2%}",
    "lost": "{:,}",
    "replica_seconds": "{:,.0f}",
    "peak": "{}",
    "flaps": "{}",
}


class ScalingTable:
    """The backends of a client's ``status`` whose number of replicas follows their calls. On a narrow terminal, what is
    least needed makes room for the reasons."""

    def __init__(self, backends: dict[str, Any]) -> None:
        self._backends = {tag: one for tag, one in sorted(backends.items()) if one.get("autoscaling") is not None}

    @property
    def row_count(self) -> int:
        """How many backends there are to show."""
        return len(self._backends)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        left_out = ("bounds", "calls/s") if options.max_width < NARROW else ()
        columns = [name for name in ("ready", "wanted", "bounds", "demand", "calls/s") if name not in left_out]
        table = make_table("Autoscaling", "backend", *columns, "why", "since")
        for column in table.columns[1 : 1 + len(columns)]:
            column.justify, column.no_wrap = "right", True
        table.columns[-1].no_wrap = True
        for tag, backend in self._backends.items():
            scaling = backend["autoscaling"]
            since = scaling["decisions"][-1]["time"] if scaling["decisions"] else backend.get("since", "")
            cells = _numbers(backend)
            table.add_row(plain(tag), *(cells[name] for name in columns), _why(scaling), age(since))
        yield table


def _numbers(backend: dict[str, Any]) -> dict[str, Text]:
    scaling, ready = backend["autoscaling"], backend["replicas_running"]
    return {
        "ready": Text(str(ready), style="yellow" if ready < scaling["wanted"] else ""),
        "wanted": Text(str(scaling["wanted"]), style="bold"),
        "bounds": Text(f"{scaling['min']}-{scaling['max']}"),
        "demand": Text(figure(scaling["demand"])),
        "calls/s": Text(figure(scaling["arrivals_per_second"])),
    }


def _why(scaling: dict[str, Any]) -> Text:
    """The newest decision, and below it what else a reader must know."""
    decisions = scaling["decisions"]
    lines = [_because(decisions[-1]) if decisions else Text("as created", style="dim")]
    if scaling["hold_s"] is not None:
        lines.append(Text(f"held for {duration(scaling['hold_s'])} more", style="cyan"))
    if scaling["blocked"] is not None:
        lines.append(Text(plain(scaling["blocked"]["text"]).plain, style="yellow"))
    if scaling["remark"]:
        lines.append(Text(plain(scaling["remark"]).plain, style="yellow"))
    return Text("\n").join(lines)


def _because(decision: dict[str, Any]) -> Text:
    reason, text = decision["reason"], decision["text"]
    return plain(text if text.startswith(reason) else f"{reason}: {text}")


def show_decisions(decisions: list[dict[str, Any]], console: Console) -> None:
    """Print the decisions about one backend, newest first."""
    table = make_table("", "time (UTC)", "replicas", "reason", "because")
    for one in reversed(decisions):
        time = one["time"][:19].replace("T", " ")
        table.add_row(time, f"{one['from']} -> {one['to']}", plain(one["reason"]), plain(one["text"]))
    console.print(table if table.row_count else Text("Nothing has been decided yet.", style="dim"))


def simulation_tables(simulated: dict[str, dict[str, Any]]) -> RenderableType:
    """What rules did with a trace, by the rule's name, and what one alone decided."""
    latencies = ("p50", "p95", "p99", "max")
    table = make_table(
        "", "policy", *(name.replace("_", "-") for name in _FIGURES), *(f"{one} ms" for one in latencies)
    )
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for name, fields in simulated.items():
        figures = (form.format(fields[figure]) for figure, form in _FIGURES.items())
        table.add_row(plain(name), *figures, *(f"{fields['latency_ms'][one]:,.0f}" for one in latencies))
    remarks = [plain(f"{name}: {fields['remark']}") for name, fields in simulated.items() if fields["remark"]]
    if len(simulated) > 1:
        return Group(table, *remarks)
    decided = make_table("", "second", "replicas", "reason", "because")
    decided.columns[0].justify = "right"
    for one in next(iter(simulated.values()))["decisions"]:
        decided.add_row(f"{one['time']:.1f}", f"{one['from']} -> {one['to']}", one["reason"], plain(one["text"]))
    return Group(table, *remarks, decided if decided.row_count else Text("The number never changed.", style="dim"))
