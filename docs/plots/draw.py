"""The plots and tables of the page "Is the new model worse?", from runs.json.

    python docs/plots/draw.py

It writes the SVG files beside this one, and prints the tables and figures of the page.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from math import log10, sqrt
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

sys.path.insert(0, str(Path(__file__).parent))
import simulate

from pointsman.stats import rate_interval
from pointsman.stats.latency import bucket_of, quantile_bucket, upper_edge

HERE = Path(__file__).parent
GATE, USUAL, DARK, PALE, BAND = "#1f6fb2", "#c0392b", "#222", "#ddd", "#d3e4f3"
WIDTH, HEIGHT = 720, 330

Runs = dict[str, list[Any]]
Point = tuple[float, float]
Ticks = Mapping[float, str] | Mapping[int, str]


class Panel(NamedTuple):
    """A rectangle of a plot, and the values at its edges; those of a logarithmic axis are logarithms."""

    left: float
    top: float
    width: float
    height: float
    x: Point
    y: Point

    def at(self, x: float, y: float) -> Point:
        """Where a value is."""
        return (
            self.left + self.width * (x - self.x[0]) / (self.x[1] - self.x[0]),
            self.top + self.height * (self.y[1] - y) / (self.y[1] - self.y[0]),
        )

    def grid(self, x_ticks: Ticks, y_ticks: Ticks, x_title: str) -> Iterator[str]:
        """Lines across, and what stands at the axes."""
        for value, title in y_ticks.items():
            x, y = self.at(self.x[0], value)
            yield line([(x, y), (x + self.width, y)], PALE, 1)
            yield text(x - 8, y + 4, title, "end")
        for value, title in x_ticks.items():
            x, y = self.at(value, self.y[0])
            yield text(x, y + 18, title, "middle")
        yield text(self.left + self.width / 2, self.top + self.height + 38, x_title, "middle", "#666")


def line(points: Sequence[Point], colour: str, width: float = 2, dash: str = "") -> str:
    """Straight lines between points of the picture."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dashed}/>'


def dot(point: Point, colour: str, radius: float = 4) -> str:
    """A point."""
    return f'<circle cx="{point[0]:.1f}" cy="{point[1]:.1f}" r="{radius:g}" fill="{colour}"/>'


def text(x: float, y: float, words: str, anchor: str = "start", colour: str = DARK, weight: str = "normal") -> str:
    """Words."""
    bold = f' font-weight="{weight}"' if weight != "normal" else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{bold}>{escape(words)}</text>'


def picture(title: str, parts: Sequence[str], height: int = HEIGHT) -> str:
    """An SVG file."""
    size = f'width="{WIDTH}" height="{height}"'
    box = f'viewBox="0 0 {WIDTH} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {box} font-family="sans-serif" font-size="12">'
    paper = f'<rect {size} fill="#fff"/>'
    return "\n".join([head, paper, text(16, 24, title, weight="bold"), *parts, "</svg>", ""])


def percent(share: float, digits: int = 1) -> str:
    """As the page writes shares."""
    return f"{100 * share:.{digits}f} %"


def shares(firsts: Sequence[int], places: Sequence[int]) -> list[float]:
    """Which share of runs had its alarm by each place; 0 is none."""
    return [sum(0 < first <= place for first in firsts) / len(firsts) for place in places]


# -- plots -----------------------------------------------------------------------------------------------------------


def looking(runs: Runs) -> str:
    """Equal versions: the share of runs with a false alarm."""
    panel = Panel(60, 44, 440, 226, (0, simulate.LOOKS), (0, 0.45))
    places = list(range(0, simulate.LOOKS + 1, 25))
    parts = list(
        panel.grid(
            {x: f"{x:,}" for x in range(0, simulate.LOOKS + 1, 1000)},
            {y / 10: f"{10 * y} %" for y in range(5)},
            "requests that the canary has answered, with a look after each",
        )
    )
    x, y = panel.at(0, 0.05)
    parts += [
        line([(x, y), (x + panel.width, y)], "#666", 1, "4 3"),
        text(508, y + 4, "5 %: what both promise", colour="#666"),
    ]
    for arm, colour, name in ((1, USUAL, "a usual test"), (0, GATE, "RateGate")):
        curve = shares([run[arm] for run in runs["equal"]], places)
        parts.append(line([panel.at(*point) for point in zip(places, curve, strict=True)], colour))
        parts.append(text(508, panel.at(0, curve[-1])[1] + 4, f"{name}: {percent(curve[-1])}", colour=colour))
    return picture("Two equal versions: how many rollouts had been turned back by then", parts)


def evidence(runs: Runs) -> str:
    """The e-value of some runs, for an equal version and for a worse one."""
    least, most = -2.0, 2.0
    parts: list[str] = []
    for place, rate in enumerate(simulate.PATH_RATES):
        panel = Panel(70 + 335 * place, 66, 290, 204, (0, simulate.PATH_LOOKS), (least, most))
        names = ("1/100", "1/10", "1", "10", "100") if place == 0 else ("",) * 5
        ticks = dict(zip((-2.0, -1.0, 0.0, 1.0, 2.0), names, strict=True))
        x_ticks = {x: f"{x:,}" for x in range(0, simulate.PATH_LOOKS + 1, 250)}
        parts += panel.grid(x_ticks, ticks, "requests of the canary")
        name = "as good: 1 % fail, as before" if rate == simulate.BASELINE else f"worse: {percent(rate, 0)} fail"
        parts.append(text(panel.left, 56, name, colour="#666"))
        x, y = panel.at(0, log10(20))
        parts.append(line([(x, y), (x + panel.width, y)], USUAL, 1.5, "4 3"))
        if place == 0:
            parts.append(text(x + panel.width - 4, y - 6, "20: turned back", "end", USUAL))
        for logs in runs[f"path {rate}"]:
            points = [panel.at(number, min(most, max(least, log / 2.302585))) for number, log in logs]
            parts.append(f'<g opacity="0.6">{line(points, GATE, 1.3)}</g>')
            if logs[-1][0] < simulate.PATH_LOOKS:
                parts.append(dot(points[-1], USUAL, 3.5))
    return picture(f"Evidence against the canary (e-value), {len(logs_of(runs))} rollouts each", parts)


def logs_of(runs: Runs) -> list[Any]:
    """The runs that are drawn one by one."""
    return runs[f"path {simulate.PATH_RATES[0]}"]


def costs(runs: Runs) -> str:
    """How many requests it takes to see that a canary is worse."""
    panel = Panel(130, 70, 400, 210, (0, log10(simulate.MOST / 5)), (len(simulate.RATES) - 0.5, -0.5))
    parts = list(
        panel.grid(
            {power: f"{10**power:,}" for power in range(5)},
            {place: f"{percent(rate, 1 if rate < 0.02 else 0)} fail" for place, rate in enumerate(simulate.RATES)},
            "requests of the canary until half of the rollouts (large dot) and nine of ten (small dot) are turned back",
        )
    )
    parts.append(text(596, 56, "requests", "end", "#666"))
    parts.append(text(690, 56, "of them failed", "end", "#666"))
    for place, rate in enumerate(simulate.RATES):
        row = costs_of(runs, rate)
        half, most = panel.at(log10(row.half), place), panel.at(log10(row.nine_of_ten), place)
        parts += [line([half, most], GATE, 3), dot(half, GATE, 5), dot(most, GATE, 3)]
        parts.append(text(596, half[1] + 4, f"{row.half:,.0f}", "end"))
        parts.append(text(690, half[1] + 4, f"{row.failed:,.0f}", "end"))
    return picture("How long it takes to see it, where 1 % of the old version's answers are errors", parts, 340)


def stalled(runs: Runs) -> str:
    """False alarms by versions that stall now and then."""
    panel = Panel(60, 44, 440, 226, (0, simulate.MINUTES), (0, 0.45))
    places = list(range(simulate.MINUTES + 1))
    parts = list(
        panel.grid(
            {x: f"{x}" for x in range(0, simulate.MINUTES + 1, 5)},
            {y / 10: f"{10 * y} %" for y in range(5)},
            "minutes",
        )
    )
    for arm, colour, name in ((1, USUAL, "counting requests"), (0, GATE, "by blocks of 10 s")):
        curve = shares([run[arm] for run in runs["stalls 1.0"]], places)
        parts.append(line([panel.at(*point) for point in zip(places, curve, strict=True)], colour))
        parts.append(text(508, panel.at(0, curve[-1])[1] + 4, f"{name}: {percent(curve[-1])}", colour=colour))
    return picture("Two equal versions, one of which stalls for a second each minute: turned back by then", parts)


SEEN = 0.02
"""The canary's share of errors in the plot of intervals."""


def read_once(k: int, n: int) -> Point:
    """The interval of E. B. Wilson, 1927, which holds 95 % of the time at one look."""
    z, p = 1.96, k / n
    middle, half = p + z * z / (2 * n), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def intervals() -> str:
    """What the error rate can be, by how many requests were seen."""
    panel = Panel(60, 44, 440, 226, (2, 5), (0, 0.12))
    sizes = sorted({50 * round(10 ** (2 + step / 20) / 50) for step in range(61)})
    parts = list(
        panel.grid(
            {power: f"{10**power:,}" for power in range(2, 6)},
            {y / 100: f"{y} %" for y in range(0, 13, 2)},
            "requests, 2 % of which were errors",
        )
    )
    always = [rate_interval(round(SEEN * n), n) for n in sizes]
    x = [log10(n) for n in sizes]
    low = [panel.at(place, interval.low) for place, interval in zip(x, always, strict=True)]
    high = [panel.at(place, interval.high) for place, interval in zip(x, always, strict=True)]
    outline = " ".join(f"{a:.1f},{b:.1f}" for a, b in [*low, *reversed(high)])
    parts.append(f'<polygon points="{outline}" fill="{BAND}"/>')
    parts += [line(low, GATE), line(high, GATE)]
    once = [read_once(round(SEEN * n), n) for n in sizes]
    for side in (0, 1):
        points = [panel.at(place, interval[side]) for place, interval in zip(x, once, strict=True)]
        parts.append(line(points, USUAL, 1.5, "4 3"))
    parts.append(text(508, 100, "rate_interval:", colour=GATE))
    parts.append(text(508, 116, "right at all looks at once", colour=GATE))
    parts.append(text(508, 150, "the usual interval:", colour=USUAL))
    parts.append(text(508, 166, "right at one look", colour=USUAL))
    return picture("What the error rate can be, when 2 % were seen", parts)


PLOTS = {"looking": looking, "evidence": evidence, "costs": costs, "stalls": stalled}


def plots(runs: Runs) -> dict[str, str]:
    """The SVG files, by name."""
    return {**{f"{name}.svg": plot(runs) for name, plot in PLOTS.items()}, "intervals.svg": intervals()}


# -- tables and figures ----------------------------------------------------------------------------------------------


class Cost(NamedTuple):
    """Requests of a worse canary until it is turned back: in half of the runs, and in nine of ten; and the median of
    those of them that failed."""

    half: float
    nine_of_ten: float
    failed: float


def costs_of(runs: Runs, rate: float) -> Cost:
    """Of one rate of failures."""
    numbers = [number for number, _ in runs[f"worse {rate}"]]
    return Cost(median(numbers), quantiles(numbers, n=10)[-1], median(failed for _, failed in runs[f"worse {rate}"]))


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(1, seconds):.0f} s"


def cost_table(runs: Runs) -> Iterator[str]:
    """How long it takes to see a worse canary."""
    yield "| errors of the canary | turned back after | nine of ten by | of them failed | at 5 requests/s |"
    yield "| --- | --- | --- | --- | --- |"
    for rate in simulate.RATES:
        row = costs_of(runs, rate)
        shown = percent(rate, 1 if rate < 0.02 else 0)
        seconds = duration(row.half / 5)
        yield f"| {shown} | {row.half:,.0f} requests | {row.nine_of_ten:,.0f} | {row.failed:,.0f} | {seconds} |"


COARSE_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Bounds of a histogram as usual."""

SPREAD = 0.02
"""Of the logarithm of the latencies of a model that takes about the same time for each request."""


def coarse_quantile(latencies: Sequence[float], q: float) -> float:
    """What Prometheus makes of such a histogram: on a straight line within the bucket."""
    counts = [0] * (len(COARSE_S) + 1)
    for took in latencies:
        counts[sum(took > bound for bound in COARSE_S)] += 1
    below = 0
    for place, count in enumerate(counts[:-1]):
        if below + count >= q * len(latencies):
            low = COARSE_S[place - 1] if place else 0.0
            return low + (COARSE_S[place] - low) * (q * len(latencies) - below) / count
        below += count
    return COARSE_S[-1]


def fine_quantile(latencies: Sequence[float], q: float) -> float:
    """What buckets of ratio 1.02 say."""
    counts: dict[int, int] = {}
    for took in latencies:
        counts[bucket_of(took)] = counts.get(bucket_of(took), 0) + 1
    return upper_edge(quantile_bucket(counts, q))


def bucket_table() -> Iterator[str]:
    """Percentiles of two models, in truth, by coarse buckets and by fine ones."""
    yield "| | truth: p50, p95, p99 | by a histogram with buckets at 200 and 500 ms | by buckets of ratio 1.02 |"
    yield "| --- | --- | --- | --- |"
    units = [took / 0.1 for took in simulate.LATENCIES]  # lognormal, sigma 0.5
    for name, typical in (("old", 0.205), ("new", 0.4)):
        latencies = sorted(typical * unit ** (SPREAD / simulate.SIGMA) for unit in units)
        ways = (lambda took, q: took[int(q * len(took))], coarse_quantile, fine_quantile)
        cells = [", ".join(f"{1000 * way(latencies, q):.0f}" for q in (0.5, 0.95, 0.99)) for way in ways]
        yield f"| {name} | " + " | ".join(f"{cell} ms" for cell in cells) + " |"


def differ_table(runs: Runs) -> Iterator[str]:
    """How long it takes to see that a shadow differs more often than the model does from itself."""
    yield "| the shadow differs in | shown in | after, in half of the runs | in nine of ten |"
    yield "| --- | --- | --- | --- |"
    for rate in simulate.DIFFER:
        pairs = [found or simulate.MOST_PAIRS for found in runs[f"differs {rate}"]]
        shown = percent(sum(found > 0 for found in runs[f"differs {rate}"]) / len(pairs))
        if rate == simulate.NOISE:
            yield f"| {percent(rate, 0)} of the pairs, as the model itself | {shown} of the runs | | |"
        else:
            half, most = median(pairs), quantiles(pairs, n=10)[-1]
            yield f"| {percent(rate, 0)} | {shown} | {half:,.0f} pairs | {most:,.0f} |"


def interval_table() -> Iterator[str]:
    """What the error rate can be, after so many requests."""
    yield "| requests | errors | the error rate is between |"
    yield "| --- | --- | --- |"
    for n, k in ((100, 0), (100, 2), (500, 10), (2000, 40), (20_000, 400)):
        low, high = rate_interval(k, n)
        yield f"| {n:,} | {k} | {100 * low:.2g} % and {100 * high:.2g} % |"


def tables(runs: Runs) -> dict[str, str]:
    """The tables, as they are on the page."""
    made = {
        "cost": cost_table(runs),
        "buckets": bucket_table(),
        "differs": differ_table(runs),
        "intervals": interval_table(),
    }
    return {name: "\n".join(rows) for name, rows in made.items()}


def sentences(runs: Runs) -> list[str]:
    """What the text says beside the tables."""
    by_gate, by_test = (percent(sum(run[arm] > 0 for run in runs["equal"]) / len(runs["equal"])) for arm in (0, 1))
    early = percent(shares([run[1] for run in runs["equal"]], [500])[0])
    paths = runs[f"path {simulate.PATH_RATES[1]}"]
    climbed = sum(logs[-1][0] < simulate.PATH_LOOKS for logs in paths)
    equal, slower = runs["stalls 1.0"], runs["stalls 1.5"]
    by_blocks, by_requests = (percent(sum(run[arm] > 0 for run in equal) / len(equal)) for arm in (0, 1))
    minutes = median(by_latency or simulate.MINUTES + 1 for by_latency, _ in slower)
    seen = percent(sum(run[0] > 0 for run in slower) / len(slower), 0)
    two, ten, all_fail = (costs_of(runs, rate).half for rate in (0.02, 0.1, 1.0))
    return [
        f"turned back {early} of them by the 500th request, and {by_test} by the 5,000th",
        f"`RateGate` turned back {by_gate}",
        f"climb until they are stopped: {climbed} of {len(paths)} within the first thousand requests",
        f"takes {two / ten:.0f} times as many requests as a tenfold one",
        f"one that fails for 10 % after {ten:.0f} requests, and one that always fails after {all_fail:.0f}",
        f"is there for {two / 60:.0f} minutes in half of the cases",
        f"counts late requests one by one turned back {by_requests} of them",
        f"It turned back {by_blocks}",
        f"turned back within {minutes:.0f} minutes in half of the runs, and within the half hour in {seen}",
    ]


def main() -> None:
    runs = simulate.load()
    for name, svg in plots(runs).items():
        (HERE / name).write_text(svg)
    for name, rows in tables(runs).items():
        print(f"\n{name}\n\n{rows}")
    print()
    for sentence in sentences(runs):
        print(sentence)


if __name__ == "__main__":
    main()
