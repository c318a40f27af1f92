"""Renders the autoscaling of backends for the terminal: what is wanted, why, and since when."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pointsman.cli.cells import age, duration, make_table, plain

#: What the commands show of a simulation: title and form.
_FIGURES = {
    "late": "{:.2%}",
    "lost": "{:,}",
    "replica_seconds": "{:,.0f}",
    "peak": "{}",
    "flaps": "{}",
}


def scaling_table(backends: dict[str, Any]) -> Table:
    """The backends of a client's ``status`` whose number of replicas follows their calls; without rows if none does."""
    table = make_table("Autoscaling", "backend", "ready", "wanted", "bounds", "demand", "calls/s", "why", "since")
    for tag, backend in sorted(backends.items()):
        scaling = backend.get("autoscaling")
        if scaling is None:
            continue
        missing = backend["replicas_running"] < scaling["wanted"]
        table.add_row(
            plain(tag),
            Text(str(backend["replicas_running"]), style="yellow" if missing else ""),
            Text(str(scaling["wanted"]), style="bold"),
            f"{scaling['min']}-{scaling['max']}",
            f"{scaling['demand']:.3g}",
            f"{scaling['arrivals_per_second']:.3g}",
            _why(scaling),
            age(scaling["decisions"][-1]["time"] if scaling["decisions"] else backend.get("since", "")),
        )
    for column in table.columns[1:6]:
        column.justify, column.no_wrap = "right", True
    table.columns[7].no_wrap = True
    return table


def _why(scaling: dict[str, Any]) -> Text:
    """The newest decision, and below it what else a reader must know."""
    decisions = scaling["decisions"]
    lines = [_because(decisions[-1]) if decisions else Text("as created", style="dim")]
    if scaling["hold_s"] is not None:
        lines.append(Text(f"held for {duration(scaling['hold_s'])} more", style="cyan"))
    if scaling["blocked"] is not None:
        blocked = scaling["blocked"]
        lines.append(Text(plain(f"{blocked['reason']}: {blocked['text']}").plain, style="yellow"))
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
