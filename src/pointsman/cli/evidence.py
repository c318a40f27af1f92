"""Draws comparisons of two versions and rollouts for the terminal, from the client's plain dicts. Called by the
commands ``traffic compare`` and ``rollout``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import log
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from pointsman.cli.cells import clock, figure, make_table, plain, share, words
from pointsman.cli.tables import ROLLOUT_STYLES
from pointsman.policy.verdict import change, percent, points

#: Length of bars, by the columns that a terminal has at least.
BARS = {100: 30, 70: 16, 0: 8}
#: Words and style of a verdict.
VERDICTS = {
    "worse": ("worse", "bold red"),
    "slightly worse": ("a little worse", "yellow"),
    "better": ("better", "green"),
    "no difference seen": ("none seen", "dim"),
}


# Two versions side by side


def comparison_table(comparison: dict[str, Any]) -> RenderableType:
    """What ``compare_traffic`` returns, with the verdict below."""
    arms = comparison["baseline"], comparison["canary"]
    over = f"the last {duration(comparison['over_s'])}"
    if comparison["seconds"] < 0.95 * comparison["over_s"]:
        both = all(arm["requests"] for arm in arms)
        over = f"{duration(comparison['seconds'])} of {over}{', in which both answered' if both else ''}"
    title = plain(f"{comparison['endpoint']}, {over}").plain
    names = [plain(arm["backend"]).plain for arm in arms]
    table = make_table(title, "", *names, "difference", "between", "verdict")
    for column in table.columns[1:5]:
        column.justify = "right"
    for column in table.columns[3:]:
        column.no_wrap = True
    table.add_row("requests", *(f"{arm['requests']:,}" for arm in arms))
    differences = comparison["differences"]
    table.add_row("errors", *(percent(arm["error_rate"]) for arm in arms), *_difference(differences["errors"], points))
    for name in ("p50", "p95", "p99"):
        shown = (figure(arm["latency_ms"][name]) for arm in arms)
        table.add_row(f"{name} ms", *shown, *_difference(differences[name], change))
    table.add_row("mean ms", *(figure(arm["latency_ms"]["mean"]) for arm in arms))
    return Group(table, Text(plain(comparison["verdict"]).plain, style="bold red" if comparison["harm"] else "bold"))


def _difference(difference: dict[str, Any], shown: Callable[[float | None], str]) -> Iterator[Text]:
    """The cells of a difference, its interval and its verdict."""
    if difference["value"] is None:
        return
    low, high = (
        shown(end).removesuffix(" %").removesuffix(" points") for end in (difference["low"], difference["high"])
    )
    yield Text(shown(difference["value"]))
    if difference["high"] is None:
        yield Text(f"{low} or more" if difference["low"] is not None else "-")
    else:
        yield Text(f"{low} to {high}" if difference["low"] is not None else f"{high} or less")
    yield Text(*VERDICTS[difference["verdict"]])


# Rollouts


class RolloutPicture:
    """A rollout with its steps, and with bars for time, samples and gates, as wide as the terminal has room for.

    Args:
        rollout: what ``client.rollout`` returns.
    """

    def __init__(self, rollout: dict[str, Any]) -> None:
        self._rollout, self._plan = rollout, rollout["plan"]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rollout, length = self._rollout, next(bar for width, bar in BARS.items() if options.max_width >= width)
        yield self._title()
        yield self._steps()
        if not rollout["ended"]:
            yield Text()
            yield self._progress(length)
            if rollout["state"] == "paused":
                yield Text(plain(f"To go on: pointsman rollout resume {self._plan['endpoint']}").plain, style="dim")
            elif rollout.get("waits_for"):
                yield Text(plain(f"The step waits for {rollout['waits_for']}.").plain, style="dim")
        if rollout["gates"]:
            yield self._gates(length)
        if rollout["reason"]:
            yield Text(plain(rollout["reason"]).plain, style=ROLLOUT_STYLES.get(rollout["state"], ""))
        if rollout["ended"]:
            yield plain(f"{self._plan['to']} answered {rollout['exposed']:,} requests in all steps.")

    def _title(self) -> Text:
        rollout = self._rollout
        name = plain(f"Rollout {rollout['id']}: {self._plan['endpoint']} to {self._plan['to']}").plain
        return Text.assemble((name, "bold"), "  ", (words(rollout["state"]), ROLLOUT_STYLES.get(rollout["state"], "")))

    def _steps(self) -> Text:
        """The weights of all steps in one line: done, the present one, and those to come."""
        at, state = self._rollout["step"], self._rollout["state"]
        parts: list[Any] = []
        for number, weight in enumerate(self._plan["steps"]):
            passed, present = number < at or state == "promoted", number == at
            now = ("◉", ROLLOUT_STYLES.get(state, "")) if present else ("○", "dim")
            mark, style = ("●", "green") if passed else now
            parts += [(f"{mark} {share(weight)}", style), ("  ─  ", "dim")]
        return Text.assemble(*parts[:-1])

    def _progress(self, length: int) -> Table:
        rollout, plan = self._rollout, self._plan
        table = Table.grid(padding=(0, 2))
        canary, fewest = rollout["samples"]["canary"], plan["min_samples"]
        of_all = f"step {rollout['step'] + 1} of {len(plan['steps'])}, {rollout['exposed']:,} requests in all steps"
        table.add_row("weight", bar(rollout["weight"], length), f"{share(rollout['weight'])}  ({of_all})")
        held = f"{clock(rollout['held_s'])} of {clock(plan['hold_s'])}"
        table.add_row("held", bar(rollout["held_s"] / plan["hold_s"] if plan["hold_s"] else 1.0, length), held)
        others = f"{canary:,} of {fewest:,} requests, baseline {rollout['samples']['baseline']:,}"
        table.add_row("samples", bar(canary / fewest if fewest else 1.0, length), others)
        return table

    def _gates(self, length: int) -> Table:
        table = make_table("", "gate", "canary", "baseline", "evidence", "")
        for column in table.columns[1:3]:
            column.justify = "right"
        for column in table.columns[1:]:
            column.no_wrap = True
        for name, gate in self._rollout["gates"].items():
            values = (_value(gate[which], gate["unit"]) for which in ("value", "baseline"))
            seen = (_evidence(gate, length), _e(gate)) if gate["unit"] else _plainly(gate)
            table.add_row(plain(gate_name(name, self._plan)), *values, *seen)
        return table


def gate_name(name: str, plan: dict[str, Any]) -> str:
    """With the percentile that is watched, such as ``latency p99``."""
    kind, _, detail = name.partition(".")
    if kind != "latency":
        return name
    return f"{kind} {detail or ' '.join(key for key in plan['gates'].get(kind, {}) if key != 'burst_s')}".rstrip()


def _evidence(gate: dict[str, Any], length: int) -> Text:
    """A bar from no evidence (e = 1) to the limit, in the logarithm: a gate multiplies."""
    e, needed = gate["e"], gate["needed"]
    full = log(e) / log(needed) if e > 1 and needed > 1 else 0.0
    filled = bar(1.0 if gate["tripped"] else full, length)
    filled.stylize("bold red" if gate["tripped"] else "yellow" if full >= 0.5 else "green")
    return filled


def _plainly(gate: dict[str, Any]) -> tuple[Text, Text]:
    """The same of a gate that collects nothing, such as ``health``."""
    return Text("tripped", style="bold red") if gate["tripped"] else Text("none", style="dim"), Text()


def _e(gate: dict[str, Any]) -> Text:
    if gate["tripped"]:
        return Text(f"e {number(gate['e'])} >= {number(gate['needed'])}", style="bold red")
    return Text(f"e {number(gate['e'])} of {number(gate['needed'])}")


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit == "rate":
        return percent(value)
    return f"{figure(1000 * value)} ms" if unit == "seconds" else number(value)


def line(rollout: dict[str, Any]) -> str:
    """A rollout in one line, for output that is no terminal."""
    plan, state = rollout["plan"], words(rollout["state"])
    if rollout["ended"]:
        name = f"rollout {rollout['id']}: "
        return plain(name + (rollout["reason"] or state).removeprefix(name)).plain
    nearest = max(rollout["gates"].items(), key=lambda item: _nearness(item[1]), default=None)
    gate = f", {gate_name(nearest[0], plan)} {_e(nearest[1]).plain}" if nearest and nearest[1]["e"] > 1 else ""
    return plain(
        f"rollout {rollout['id']}: {state}, step {rollout['step'] + 1} of {len(plan['steps'])}, "
        f"{share(rollout['weight'])} to {plan['to']}, held {clock(rollout['held_s'])} of {clock(plan['hold_s'])}, "
        f"{rollout['samples']['canary']:,} of {plan['min_samples']:,} requests{gate}"
    ).plain


def _nearness(gate: dict[str, Any]) -> float:
    return gate["e"] / gate["needed"] if gate["needed"] else 0.0


def bar(full: float, length: int) -> Text:
    """A bar that is filled to a share; a little is shown as a little."""
    full = min(1.0, max(0.0, full))
    filled = int(full * length) or (1 if full > 0 else 0)
    return Text("█" * filled + "░" * (length - filled))


def number(value: float) -> str:
    """About three digits; huge numbers as powers of ten."""
    return f"{value:,.0f}" if 100 <= value < 1e6 else f"{value:.2g}" if value < 100 else f"{value:.0e}".replace("+", "")


def duration(seconds: float) -> str:
    """In few digits, such as ``10 min``, ``2.5 min`` or ``27 s``."""
    return f"{seconds:.2g} s" if seconds < 60 else f"{seconds / 60:.2g} min"
