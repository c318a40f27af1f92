"""From metrics to what a person wants to know: rates, errors, percentiles, queues. Pure.

Counters grow for ever, so what happened in between is the difference of two readings; gauges are as of the second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
)
PERCENTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


class Reading(msgspec.Struct, frozen=True):
    """The metrics that a summary needs, at one time (in seconds of a clock that only grows)."""

    time: float
    metrics: dict[str, list[tuple[Labels, Numbers]]]


def reading_of(metrics: Mapping[str, Metric], time: float) -> Reading:
    """What is to be kept of everything that was collected."""
    kept = {f.name: list(metrics[f.name].series.items()) for f in SHOWN if f.name in metrics}
    return Reading(time, kept)


def joined(reading: Reading, others: Iterable[Reading]) -> Reading:
    """A node's reading and those of other nodes as one, at the time of the first: a series is there once for each."""
    metrics = {name: list(series) for name, series in reading.metrics.items()}
    for other in others:
        for name, series in other.metrics.items():
            metrics.setdefault(name, []).extend(series)
    return Reading(reading.time, metrics)


def quantile(bounds: Iterable[float], counts: Numbers, q: float) -> float | None:
    """The value below which a share ``q`` of the counted ones lie, linear within a bucket; None when there are none.

    What lies above the last bound counts as that bound, as in Prometheus's ``histogram_quantile``.
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
    """How many calls wait in routers, by endpoint."""
    queued: dict[str, int] = {}
    for labels, numbers in reading.metrics.get(families.ROUTER_QUEUED.name, []):
        endpoint = dict(labels)["endpoint"]
        queued[endpoint] = queued.get(endpoint, 0) + int(numbers[0])
    return queued


def summarise(after: Reading, before: Reading | None = None) -> dict[str, Any]:
    """What ``Client.stats`` returns: since the start, or since an earlier reading, and then with rates."""
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
        """The sums of all numbers of a series, less what they were before. Summed first: replicas may be retired."""
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
