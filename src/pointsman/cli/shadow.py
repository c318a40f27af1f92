"""``pointsman shadow``: what came of comparing a shadow's answers with those that users got."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pointsman.cli import completion
from pointsman.cli.cells import make_table, plain
from pointsman.cli.common import AsJson, ClusterAddress, Name, connect_to, print_json, terminal
from pointsman.cli.evidence import number
from pointsman.policy.verdict import percent

app = typer.Typer(help="Look at a shadow whose answers are compared.", no_args_is_help=True)

Endpoint = Annotated[
    str, typer.Argument(metavar="ENDPOINT", show_default=False, autocompletion=completion.endpoint_names)
]
Backend = Annotated[str, typer.Argument(metavar="BACKEND", show_default=False, autocompletion=completion.backend_names)]

MAX_SHOWN = 2000
"""Characters of one answer on the terminal."""


@app.command()
def report(
    endpoint: Endpoint,
    backend: Backend,
    name: Name = "default",
    address: ClusterAddress = None,
    as_json: AsJson = False,
) -> None:
    """Say how often a shadow's answers differ, and whether that is more than noise."""
    found = connect_to(name, address).shadow_report(endpoint, backend)
    if as_json:
        print_json(found)
        return
    console = terminal()
    console.print(report_table(endpoint, backend, found))
    console.print(Text(verdict(found), style="bold"))


@app.command()
def examples(
    endpoint: Endpoint,
    backend: Backend,
    limit: Annotated[int, typer.Option("--limit", help="How many at most.", metavar="N")] = 10,
    name: Name = "default",
    address: ClusterAddress = None,
    as_json: AsJson = False,
) -> None:
    """Show answers that differ, the worst first."""
    found = connect_to(name, address).shadow_examples(endpoint, backend, limit)
    if as_json:
        print_json(found)
        return
    console = terminal()
    if not found:
        console.print(Text(f"There is no example of answers of {plain(backend).plain} that differ.", style="dim"))
    for example in found:
        console.print(example_table(example, console.width))


def report_table(endpoint: str, backend: str, found: dict[str, Any]) -> RenderableType:
    """A report, line by line."""
    since = found["since"][:19].replace("T", " ")
    title = Text(plain(f"{endpoint}: answers of {backend} since {since} UTC").plain, style="bold")
    table = make_table("", "", "", "")
    table.show_header = False
    rate = found["mismatch_rate"]
    table.add_row("pairs", f"{found['pairs']:,}", "")
    table.add_row("mismatched", f"{found['mismatched']:,}", _rate(rate))
    for kind, count in found["by_kind"].items():
        table.add_row(f"  {kind}", f"{count:,}", "")
    for route, counts in found["by_route"].items():
        if counts["mismatched"]:
            table.add_row(plain(f"  on {route}"), f"{counts['mismatched']:,}", f"of {counts['pairs']:,}")
    if found["noise"] is not None:
        noise, gate = found["noise"], found["above_noise"]
        share = "" if noise["rate"] is None else f"{100 * noise['rate']:.2f} %"
        table.add_row("noise", f"{noise['mismatched']:,} of {noise['pairs']:,}", share)
        above = "yes" if gate["tripped"] else "not sure" if found["mismatched"] else "no"
        table.add_row("above noise", above, f"e {number(gate['e'])} of {number(gate['needed'])}")
    for reason, count in found["uncompared"].items():
        table.add_row(f"not compared: {reason}", f"{count:,}", "")
    if found["dropped"]:
        table.add_row("dropped", f"{found['dropped']:,}", "")
    ratio = found["latency"]["median_ratio"]
    if ratio["value"] is not None:
        table.add_row("median time", f"x {ratio['value']:.2f}", _between(ratio, "x {:.2f}"))
    return Group(title, table)


def verdict(found: dict[str, Any]) -> str:
    """A report in one sentence."""
    if not found["pairs"]:
        return "Nothing was compared yet."
    if not found["mismatched"]:
        return f"All {found['pairs']:,} answers match; at most {percent(found['mismatch_rate']['high'])} do not."
    share = f"{percent(found['mismatch_rate']['value'])} of the answers do not match"
    if found["above_noise"] is None:
        return f"{share}."
    above = "more than noise, sure" if found["above_noise"]["tripped"] else "not surely more than noise"
    return f"{share}: {above}."


def example_table(example: dict[str, Any], width: int = 80) -> Table:
    """Two answers beside each other; as wide as the title, where there is room."""
    where = f" at {example['where']}" if example["where"] else ""
    score = f"score {example['score']:.2f}"
    call = ", ".join(filter(None, (example["request_id"], example["route"])))  # a call by handle may have no id
    title = plain(f"{call}: {example['kind']}{where}, {score}").plain
    table = make_table(title, "primary", "shadow")
    table.min_width = min(len(title), width)
    table.add_row(*(_shown(example[side]) for side in ("primary", "shadow")))
    return table


def _shown(side: dict[str, Any]) -> Text:
    lines = [f"status {side['status']}"]
    lines += [f"{name}: {side[name]}" for name in ("content_type", "error") if name in side]
    body = side.get("body", side.get("body_b64", ""))
    text = body if isinstance(body, str) else json.dumps(body, indent=2, ensure_ascii=False)
    lines += (text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} ...").splitlines()
    return Text("\n").join(map(plain, lines))


def _rate(rate: dict[str, Any]) -> str:
    return "" if rate["value"] is None else f"{100 * rate['value']:.2f} %, {_between(rate, '{:.2f} %', 100)}"


def _between(of: dict[str, Any], form: str, times: float = 1.0) -> str:
    if of["low"] is None and of["high"] is None:
        return ""
    ends = [form.format(times * of[end]) if of[end] is not None else "?" for end in ("low", "high")]
    return f"{ends[0]} to {ends[1]}"
