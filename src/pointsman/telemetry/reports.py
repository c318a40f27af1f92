"""Two renderings of metrics. Pure.

:func:`summarise`, for people: rates, errors, percentiles, queues. Counters are the difference of two readings; gauges
are those of the second.

:func:`render`, for scrapers: Prometheus's text format, or OpenMetrics on request. OpenMetrics requires that names of
counters end in ``_total``. Those of Ray Serve 1.x do not, and their names must not change, so OpenMetrics shows them
with the type ``unknown``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

import msgspec

from pointsman.telemetry import families
from pointsman.telemetry.collector import Labels, Metric, Numbers
from pointsman.telemetry.families import Family

SHOWN = (
    families.BACKEND_REQUESTS,
    families.BACKEND_ERRORS,
    families.PROCESSING_LATENCY,
    families.QUEUED_QUERIES,
    families.PROCESSING_QUERIES,
    families.BATCH_SIZE,
    families.ROUTER_REQUESTS,
    families.ROUTER_QUEUED,
    families.HTTP_OUTCOMES,
    families.HTTP_DURATION,
    families.SHADOW_DROPPED,
)
PERCENTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


class Reading(msgspec.Struct, frozen=True):
    """The metrics that a summary needs, at one time (in seconds of a monotonic clock)."""

    time: float
    metrics: dict[str, list[tuple[Labels, Numbers]]]


def reading_of(metrics: Mapping[str, Metric], time: float) -> Reading:
    """A reading of collected metrics."""
    kept = {f.name: list(metrics[f.name].series.items()) for f in SHOWN if f.name in metrics}
    return Reading(time, kept)


def joined(reading: Reading, others: Iterable[Reading]) -> Reading:
    """One reading of several nodes, with the time of the first. A series may occur once per node."""
    metrics = {name: list(series) for name, series in reading.metrics.items()}
    for other in others:
        for name, series in other.metrics.items():
            metrics.setdefault(name, []).extend(series)
    return Reading(reading.time, metrics)


def only(reading: Reading, names: Collection[str]) -> Reading:
    """The same without metrics of other names; all of it, if there are no names."""
    kept = {name: series for name, series in reading.metrics.items() if name in names}
    return Reading(reading.time, kept) if names else reading


def quantile(bounds: Iterable[float], counts: Numbers, q: float) -> float | None:
    """The q-quantile of a histogram, interpolated linearly within a bucket; None if the histogram is empty.

    Values above the last bound count as that bound, as in Prometheus's ``histogram_quantile``.
    """
    bounds = tuple(bounds)
    wanted = q * sum(counts)
    if not wanted:
        return None
    seen, low = 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if count and seen + count >= wanted:
            return low + (bound - low) * (wanted - seen) / count
        seen, low = seen + count, bound
    return bounds[-1]


def queued_by_endpoint(reading: Reading) -> dict[str, int]:
    """The number of calls that wait in routers, by endpoint."""
    queued: dict[str, int] = {}
    for labels, numbers in reading.metrics.get(families.ROUTER_QUEUED.name, []):
        endpoint = dict(labels)["endpoint"]
        queued[endpoint] = queued.get(endpoint, 0) + int(numbers[0])
    return queued


def summarise(after: Reading, before: Reading | None = None) -> dict[str, Any]:
    """The result of ``Client.stats``: since the start, or since an earlier reading, and then with rates."""
    seconds = after.time - before.time if before is not None else None
    sums = _Sums(after, before)
    endpoints = {labels["endpoint"] for labels, _ in sums.rows(families.ROUTER_REQUESTS)}
    backends = {labels["backend"] for labels, _ in sums.rows(families.BACKEND_REQUESTS)}
    return {
        "seconds": seconds,
        "endpoints": {name: _endpoint(sums, name, seconds) for name in sorted(endpoints)},
        "backends": {tag: _backend(sums, tag, seconds) for tag in sorted(backends)},
    }


def _endpoint(sums: _Sums, name: str, seconds: float | None) -> dict[str, Any]:
    requests = int(sums.total(families.ROUTER_REQUESTS, endpoint=name))
    return {
        "requests": requests,
        "per_second": _rate(requests, seconds),
        "queued": int(sums.now(families.ROUTER_QUEUED, endpoint=name)),
        "http_outcomes": {
            outcome: int(sums.total(families.HTTP_OUTCOMES, endpoint=name, outcome=outcome))
            for outcome in families.OUTCOMES
        },
        "http_latency_ms": sums.percentiles(families.HTTP_DURATION, 1000.0, endpoint=name),
    }


def _backend(sums: _Sums, tag: str, seconds: float | None) -> dict[str, Any]:
    requests = int(sums.total(families.BACKEND_REQUESTS, backend=tag))
    batches = sums.numbers(families.BATCH_SIZE, backend=tag)
    return {
        "requests": requests,
        "per_second": _rate(requests, seconds),
        "errors": int(sums.total(families.BACKEND_ERRORS, backend=tag)),
        "latency_ms": sums.percentiles(families.PROCESSING_LATENCY, 1.0, backend=tag),
        "processing": int(sums.now(families.PROCESSING_QUERIES, backend=tag)),
        "queued": int(sums.now(families.QUEUED_QUERIES, backend=tag) + sums.now(families.ROUTER_QUEUED, backend=tag)),
        "batch_size": round(batches[-1] / sum(batches[:-1]), 2) if sum(batches[:-1]) else None,
        "replicas": len(sums.gauges(families.PROCESSING_QUERIES, backend=tag)),
    }


def _rate(count: int, seconds: float | None) -> float | None:
    return round(count / seconds, 2) if seconds else None


class _Sums:
    """Sums over the series that have given labels."""

    def __init__(self, after: Reading, before: Reading | None) -> None:
        self._after = after
        self._before = before

    def rows(self, family: Family) -> list[tuple[dict[str, str], Numbers]]:
        return [(dict(labels), numbers) for labels, numbers in self._after.metrics.get(family.name, [])]

    def gauges(self, family: Family, **wanted: str) -> list[Numbers]:
        return _matching(self._after, family, wanted)

    def now(self, family: Family, **wanted: str) -> float:
        return sum(numbers[0] for numbers in self.gauges(family, **wanted))

    def numbers(self, family: Family, **wanted: str) -> Numbers:
        """The sums of all values of matching series, less those of the earlier reading. Subtracted after summing, since
        the series of a replica may have become ``retired`` in between."""
        width = len(family.bounds) + 2 if family.bounds else 1
        after = _column_sums(_matching(self._after, family, wanted), width)
        if self._before is None:
            return after
        before = _column_sums(_matching(self._before, family, wanted), width)
        return tuple(max(0.0, now - then) for now, then in zip(after, before, strict=True))

    def total(self, family: Family, **wanted: str) -> float:
        return self.numbers(family, **wanted)[0]

    def percentiles(self, family: Family, unit: float, **wanted: str) -> dict[str, float | None]:
        counts = self.numbers(family, **wanted)[:-1]
        values = {name: quantile(family.bounds, counts, q) for name, q in PERCENTILES.items()}
        return {name: None if value is None else round(value * unit, 3) for name, value in values.items()}


def _matching(reading: Reading, family: Family, wanted: Mapping[str, str]) -> list[Numbers]:
    return [
        numbers for labels, numbers in reading.metrics.get(family.name, []) if wanted.items() <= dict(labels).items()
    ]


def _column_sums(rows: list[Numbers], width: int) -> Numbers:
    return tuple(map(sum, zip(*rows, strict=True))) if rows else (0.0,) * width


TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
TOTAL = "_total"

_LABEL = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
_HELP = str.maketrans({"\\": "\\\\", "\n": "\\n"})


def render(metrics: Mapping[str, Metric], *, openmetrics: bool = False) -> bytes:
    """All metrics, sorted by name and labels."""
    lines: list[str] = []
    for name in sorted(metrics):
        lines += _metric(metrics[name], openmetrics)
    if openmetrics:
        lines.append("# EOF")
    lines.append("")
    return "\n".join(lines).encode()


def _metric(metric: Metric, openmetrics: bool) -> Iterator[str]:
    about = metric.about
    family = name = about.name
    kind: str = "gauge" if about.kind == "largest" else about.kind
    if openmetrics and kind == "counter":
        if name.endswith(TOTAL):
            family = name.removesuffix(TOTAL)
        else:
            kind = "unknown"
    yield f"# HELP {family} {about.help.translate(_LABEL if openmetrics else _HELP)}"
    yield f"# TYPE {family} {kind}"
    for labels in sorted(metric.series):
        numbers = metric.series[labels]
        if kind == "histogram":
            yield from _histogram(name, labels, about.bounds, numbers)
        else:
            yield f"{name}{_braces(labels)} {_number(numbers[0])}"


def _histogram(name: str, labels: Labels, bounds: Iterable[float], numbers: Numbers) -> Iterator[str]:
    inside = ",".join(f'{key}="{value.translate(_LABEL)}"' for key, value in labels)
    comma = "," if inside else ""
    counts = list(accumulate(numbers[:-1]))
    for bound, count in zip((*bounds, math.inf), counts, strict=True):
        yield f'{name}_bucket{{{inside}{comma}le="{_number(bound)}"}} {_number(count)}'
    braces = f"{{{inside}}}" if inside else ""
    yield f"{name}_count{braces} {_number(counts[-1])}"
    yield f"{name}_sum{braces} {_number(numbers[-1])}"


def _braces(labels: Labels) -> str:
    return "{" + ",".join(f'{key}="{value.translate(_LABEL)}"' for key, value in labels) + "}" if labels else ""


def _number(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
