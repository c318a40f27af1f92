"""A picture of simulations: the calls, how many replicas each rule wanted and had, and how many calls were late."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pointsman.testing.scaling.simulate import COURSE_S, Simulated

COLOURS = {"pointsman": "#1f6fb2", "ray": "#c0392b", "kpa": "#d68910", "oracle": "#555555"}
OTHERS = ("#1e8449", "#7d3c98", "#148f77", "#a04000")


def plot_autoscaling(results: Mapping[str, Simulated], path: Path | str) -> None:
    """Draw what rules did with one trace, one above the other: calls per second, replicas wanted, replicas ready, and
    the share of late calls.

    Args:
        results: by the rule's name, of the same trace.
        path: of the file; its suffix says which format: ``.svg``, ``.png`` or ``.pdf``.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the suffix is of no format, or there are no results.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("a plot needs matplotlib; install it with: pip install matplotlib") from None
    if not results:
        raise ValueError("a plot needs at least one result")
    with matplotlib.rc_context({"svg.hashsalt": "pointsman", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9, 8), layout="constrained")
        _draw(figure.subplots(4, 1, sharex=True), results)
        metadata = {"Date": None} if str(path).endswith(".svg") else {}  # the same picture is the same file
        figure.savefig(path, metadata=metadata)


def _draw(panels: Any, results: Mapping[str, Simulated]) -> None:
    others = iter(OTHERS * len(results))
    colours = {name: COLOURS.get(name) or next(others) for name in results}
    first = next(iter(results.values()))
    end = first.course[-1][0] + COURSE_S
    _steps(panels[0], [(second, rate) for second, rate, _ in first.course], end, "#222222", "")
    for name, result in results.items():
        _steps(panels[1], result.wanted, end, colours[name], name)
        _steps(panels[2], result.ready, end, colours[name], name)
        late = [(second, 100 * share) for second, _, share in result.course]
        _steps(panels[3], late, end, colours[name], f"{name}: {result.late:.2%}")
    titles = ("calls per second", "replicas wanted", "replicas ready", "late calls, %")
    for panel, title in zip(panels, titles, strict=True):
        panel.set_ylabel(title)
        panel.set_ylim(bottom=0)
        panel.set_xlim(0, end)
        panel.grid(color="#dddddd", linewidth=0.5)
    for panel in (panels[1], panels[3]):
        panel.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), fontsize=8, frameon=False)
    panels[3].set_xlabel("seconds")


def _steps(panel: Any, points: Sequence[tuple[float, float]], end: float, colour: str, label: str) -> None:
    """A line that keeps each value until the next point."""
    shown = [point for point in points if point[0] <= end]
    seconds = [*(second for second, _ in shown), end]
    values = [*(value for _, value in shown), shown[-1][1]]
    panel.step(seconds, values, where="post", color=colour, linewidth=1.2, label=label)
