"""Draws what a change costs by the number of endpoints: results/growth.jsonl in, SVG out, both axes logarithmic."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from statistics import median
from xml.sax.saxutils import escape

import results

SIZES = (1, 10, 100, 1000)
SERIES = (
    ("create_cpu_ms", "create_endpoint, controller", "#1b7f4b"),
    ("traffic_cpu_ms", "set_traffic, controller", "#2c6fbb"),
    ("death_cpu_ms", "a replica's death, controller", "#b9770e"),
    ("app_cpu_ms", "a change, HTTP server", "#7d3c98"),
    ("plan_ms", "plan of an event", "#c0392b"),
    ("whole_plan_ms", "plan of everything", "#999999"),
    ("idle_ms", "idle, per second", "#444444"),
)
LEFT, TOP, WIDTH, HEIGHT = 70, 40, 420, 320
LEAST, MOST = 0.01, 100.0
"""Milliseconds at the ends of the axis."""


def curves(found: results.Results) -> str:
    """The medians of all rounds."""
    parts = [_text(LEFT, 20, "Processor time in ms, by endpoints (and as many backends of five replicas)", "start")]
    for power in range(round(math.log10(LEAST)), round(math.log10(MOST)) + 1):
        y = _y(10.0**power)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{LEFT + WIDTH}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{10.0**power:g}", "end"))
    parts += [_text(_x(size), TOP + HEIGHT + 20, f"{size:,}", "middle") for size in SIZES]
    taken: list[float] = []
    for figure, title, colour in SERIES:
        values = [median(cells[f"made{size}"][figure] for cells in found.rounds) for size in SIZES]
        points = " ".join(f"{_x(size):.1f},{_y(value):.1f}" for size, value in zip(SIZES, values, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = _y(values[-1]) + 4
        while any(abs(y - other) < 14 for other in taken):
            y += 2
        taken.append(y)
        parts.append(_text(LEFT + WIDTH + 10, y, f"{title}: {values[-1]:.2g}", "start", colour))
    size = f'width="{LEFT + WIDTH + 260}" height="{TOP + HEIGHT + 40}"'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    return "\n".join([start, f'<rect {size} fill="#fff"/>', *parts, "</svg>", ""])


def _x(size: int) -> float:
    return LEFT + WIDTH * math.log10(size) / math.log10(SIZES[-1])


def _y(value: float) -> float:
    least, most = math.log10(LEAST), math.log10(MOST)
    return TOP + HEIGHT * (most - min(most, max(least, math.log10(max(value, 1e-9))))) / (most - least)


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#222") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


if __name__ == "__main__":
    here = Path(__file__).parent
    Path(sys.argv[1]).write_text(curves(results.read(here / "results" / "growth.jsonl")))
