"""What a scenario found: a line of JSON per cell; and from these a Markdown table and a plot."""

from __future__ import annotations

import datetime
import math
import os
import platform
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import NamedTuple
from xml.sax.saxutils import escape

import msgspec
from load import wrk_version
from peers import PACKAGES, QUIET_CPUS, Figures, Side

ENOUGH = 3
"""Undisturbed rounds that say more than all rounds together."""
OURS = ("pointsman", "uvicorn", "uvloop", "httptools", "starlette", "msgspec")


class Finding(NamedTuple):
    """A figure beside its aim.

    Attributes:
        value: "side.figure", or two of them with " / " or " - " between them, which are of the same round.
        aim: like "≥ 2 x"; or the unit alone, where nothing is aimed at.
        control: like ``value``, of two sides that are the same.
    """

    title: str
    value: str
    aim: str
    control: str = ""

    @property
    def bound(self) -> float | None:
        return float(self.aim.split()[1]) if self.aim[:1] in ("≥", "≤") else None

    @property
    def unit(self) -> str:
        return self.aim if self.bound is None else " ".join(self.aim.split()[2:])

    def beyond(self, value: float) -> float:
        """How many times a value is better than the aim."""
        ratio = max(value, 1e-9) / (self.bound or 1.0)
        return ratio if self.aim.startswith("≥") else 1 / ratio


class Head(msgspec.Struct):
    """What holds for a whole run; the first line of its file."""

    scenario: str
    date: str
    machine: str
    rounds: int
    seconds: float
    versions: dict[str, str]
    left_out: dict[str, str] = {}
    note: str = ""


class Results(msgspec.Struct):
    """All cells of a run: by round, then by side."""

    head: Head
    rounds: list[dict[str, Figures]] = []

    def faults(self) -> list[str]:
        return [
            f"{self.head.scenario}, round {number}, {side}: {cell['failed']:.0f} failed"
            for number, cells in enumerate(self.rounds, 1)
            for side, cell in cells.items()
            if cell.get("failed")
        ]

    def values(self, expression: str) -> list[float]:
        """Of every round that has both sides; of the undisturbed ones alone where these are enough."""
        found: list[tuple[bool, float]] = []
        for cells in self.rounds if expression else []:
            left, operator, right = (*expression.split(), "", "")[:3]
            names = [name.split(".") for name in (left, right) if name]
            values = [cells[side][figure] for side, figure in names if figure in cells.get(side, {})]
            if len(values) == len(names) and not (operator == "/" and values[1] == 0):
                value = (
                    values[0] if not operator else values[0] / values[1] if operator == "/" else values[0] - values[1]
                )
                found.append((max(cells[side].get("foreign_cpus", 0.0) for side, _ in names) <= QUIET_CPUS, value))
        quiet = [value for is_quiet, value in found if is_quiet]
        return quiet if len(quiet) >= ENOUGH else [value for _, value in found]

    def verdict(self, finding: Finding) -> str:
        """Whether the median meets the aim. A miss by no more than two equal sides differ decides nothing."""
        if finding.bound is None:
            return ""
        beyond, control = finding.beyond(median(self.values(finding.value))), self.values(finding.control)
        if beyond >= 1:
            return "yes"
        return "not decided" if control and 1 / beyond <= _noise(control) else "**no**"


def _noise(control: list[float]) -> float:
    """How many times two sides that are the same differ."""
    return max(max(control), 1 / min(control))


def head(scenario: str, rounds: int, seconds: float, left_out: dict[str, str]) -> Head:
    """The machine as it is now, and versions."""
    versions = {"python": platform.python_version(), "wrk": wrk_version()}
    versions |= {name: version(name) for name in OURS} | dict(package.split("==") for package in PACKAGES.values())
    names = {platform.machine()}
    if Path("/proc/cpuinfo").exists():  # Linux
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")} or names
    machine = f"{os.cpu_count()} CPUs ({', '.join(names)}), {platform.system()} {platform.release()}"
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    return Head(scenario, date, machine, rounds, seconds, versions, left_out)


def write(results: Results, path: Path) -> None:
    """The head, then a line per cell, with five digits of each figure."""
    lines = [msgspec.json.encode(results.head)]
    for number, cells in enumerate(results.rounds, 1):
        for side, cell in cells.items():
            rounded = {name: float(f"{value:.5g}") for name, value in cell.items()}
            lines.append(msgspec.json.encode({"round": number, "side": side, **rounded}))
    path.write_bytes(b"\n".join(lines) + b"\n")


def read(path: Path) -> Results:
    first, *lines = path.read_bytes().splitlines()
    results = Results(msgspec.json.decode(first, type=Head))
    results.rounds = [{} for _ in range(results.head.rounds)]
    for line in lines:
        cell = msgspec.json.decode(line)
        results.rounds[cell.pop("round") - 1][cell.pop("side")] = cell
    return results


def table(results: Results, title: str, sides: list[Side], columns: dict[str, str], findings: list[Finding]) -> str:
    """As Markdown: medians of the sides, and the figures beside their aims."""
    head, rows = results.head, []
    how = f"{head.rounds} round{'s' * (head.rounds > 1)}" + (f" of {head.seconds:g} s" if head.seconds else "")
    text = [f"## {title}", "", f"{head.machine}, {head.date}, {how}. {head.note}".strip()]
    text += [f"{name} is left out: {reason}" for name, reason in head.left_out.items()]
    for side in sides:
        cells = [cells[side.key] for cells in results.rounds if side.key in cells]
        medians = {name: median(cell[name] for cell in cells) for name in (cells[0] if cells else {})}
        if medians:
            rows.append([side.title, *(_formatted(template, medians) for template in columns.values())])
    heading = ["", *columns]
    if len(columns) > len(rows):  # a row for each figure, if these are more than the sides
        heading, *rows = [list(row) for row in zip(heading, *rows, strict=True)]
    text += ["", *_lines(heading, rows)]
    shown = [_row(results, finding) for finding in findings if results.values(finding.value)]
    text += ["", *_lines(["figure", "median", "range", "control", "aim", "met"], shown)] if shown else []
    return "\n".join(text) + "\n"


def _formatted(template: str, figures: Figures) -> str:
    try:
        return template.format(**figures)
    except KeyError:  # this side has no such figure
        return ""


def _row(results: Results, finding: Finding) -> list[str]:
    values, control = results.values(finding.value), results.values(finding.control)
    return [
        finding.title,
        f"{_number(median(values))} {finding.unit}".strip(),
        _range(values),
        f"{_number(median(control))} x ({_range(control)})" if control else "",
        "" if finding.bound is None else finding.aim,
        results.verdict(finding),
    ]


def _lines(heading: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *rows)]


def _range(values: list[float]) -> str:
    return f"{_number(min(values))} to {_number(max(values))}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


LEFT, WIDTH, ROW = 540, 420, 26
DARK, GREY, GREEN, RED, AMBER = "#222", "#ddd", "#1b7f4b", "#c0392b", "#b9770e"


def plot(results: Results, title: str, findings: list[Finding]) -> str:
    """As SVG: how far each figure is beyond its aim, on a logarithmic axis; right of the line is better.

    A tick is the median, a line the range over the rounds, a grey band what two sides that are the same differ by.
    """
    judged = [one for one in findings if one.bound is not None and results.values(one.value)]
    places = [[math.log2(one.beyond(value)) for value in results.values(one.value)] for one in judged]
    reach = min(10, math.ceil(max([1.0, *(abs(place) for some in places for place in some)])))
    height, parts = ROW * (len(judged) + 3), [_text(12, 20, f"{title}: times better than the aim", "start")]

    def line(least: float, most: float, y: float, width: int, colour: str) -> str:
        x1, x2 = (LEFT + WIDTH * (0.5 + max(-reach, min(reach, place)) / (2 * reach)) for place in (least, most))
        y1, y2 = (y, y) if most > least else (y - width / 2, y + width / 2)
        stroke = f'stroke="{colour}" stroke-width="{width if most > least else 1}"'
        return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {stroke}/>'

    for place in range(-reach, reach + 1, max(1, reach // 2)):
        x = LEFT + WIDTH * (0.5 + place / (2 * reach))
        parts.append(line(place, place, height / 2, height - ROW * 3, DARK if place == 0 else GREY))
        parts.append(_text(x, height - 10, f"{2.0**place:.3g} x" if place else "aim", "middle"))
    for number, (finding, some) in enumerate(zip(judged, places, strict=True)):
        y, middle, control = ROW * (number + 2), median(some), results.values(finding.control)
        noise = math.log2(_noise(control)) if control else 0.0
        colour = {"yes": GREEN, "**no**": RED}.get(results.verdict(finding), AMBER)
        parts += [line(middle - noise, middle + noise, y, 12, GREY)] if noise else []
        parts += [
            line(min(some), max(some), y, 3, colour),
            line(middle - 0.01 * reach, middle + 0.01 * reach, y, 10, colour),
        ]
        value = f"{_number(median(results.values(finding.value)))} {finding.unit}, aim {finding.aim}"
        parts += [_text(LEFT - 10, y + 4, finding.title, "end"), _text(LEFT + WIDTH + 10, y + 4, value, "start")]
    size = f'width="{LEFT + WIDTH + 190}" height="{height}"'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12" fill="{DARK}">'
    return "\n".join([start, f'<rect {size} fill="#fff"/>', *parts, "</svg>", ""])


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(text.replace("`", ""))}</text>'
