"""From two readings of counters to what a person wants to know."""

from __future__ import annotations

import pytest

from pointsman.telemetry import families
from pointsman.telemetry.reports import Reading, quantile, summarise

WIDTH = len(families.LATENCY_MS) + 2


def latencies(**counts: float) -> tuple[float, ...]:
    """A histogram with these counts by upper bound in ms, such as ``_10=3``."""
    by_bound = {float(name[1:]): count for name, count in counts.items()}
    return (*(by_bound.get(bound, 0.0) for bound in families.LATENCY_MS), 0.0, 0.0)


def reading(time, requests, errors, waits, replica="b#1", **counts):
    mine = (("backend", "b"), ("replica", replica))
    return Reading(
        time,
        {
            families.BACKEND_REQUESTS.name: [((("backend", "b"),), (requests,))],
            families.BACKEND_ERRORS.name: [((("backend", "b"),), (errors,))],
            families.PROCESSING_LATENCY.name: [((*mine, ("batch_size", "1")), latencies(**counts))],
            families.QUEUED_QUERIES.name: [(mine, (waits,))],
            families.PROCESSING_QUERIES.name: [(mine, (1.0,))],
            families.HTTP_OUTCOMES.name: [
                ((("endpoint", "e"), ("route", "/e"), ("outcome", "delivered"), ("reason", "")), (requests - 3,)),
                ((("endpoint", "e"), ("route", "/e"), ("outcome", "failed"), ("reason", "deadline")), (2.0,)),
                ((("endpoint", "e"), ("route", "/old"), ("outcome", "failed"), ("reason", "")), (1.0,)),
                ((("endpoint", ""), ("route", "unmatched"), ("outcome", "refused"), ("reason", "")), (9.0,)),
            ],
            families.ROUTER_REQUESTS.name: [((("endpoint", "e"),), (requests,))],
            families.ROUTER_QUEUED.name: [((("endpoint", "e"), ("backend", "b")), (3.0,))],
        },
    )


def test_rates_are_of_what_happened_in_between():
    """Between two looks, two seconds apart, ten requests came, two of which failed; what waits, waits now."""
    seen = summarise(reading(12.0, 110.0, 7.0, 4.0, _10=110), reading(10.0, 100.0, 5.0, 9.0, _10=100))
    assert seen["seconds"] == 2.0
    assert seen["endpoints"]["e"] == {
        "requests": 10,
        "per_second": 5.0,
        "queued": 3,
        "http_outcomes": {"delivered": 10, "refused": 0, "failed": 0, "aborted": 0},
        "http_latency_ms": {"p50": None, "p95": None, "p99": None},
    }
    backend = seen["backends"]["b"]
    assert (backend["requests"], backend["errors"], backend["queued"], backend["processing"]) == (10, 2, 7, 1)
    assert backend["latency_ms"] == {"p50": 7.5, "p95": 9.75, "p99": 9.95}
    assert backend["replicas"] == 1


def test_without_an_earlier_look_there_are_no_rates():
    """Totals since the start, and no requests per second, which would be an average of days."""
    seen = summarise(reading(12.0, 110.0, 7.0, 0.0, _5=110))
    assert seen["seconds"] is None
    assert seen["backends"]["b"]["per_second"] is None
    assert seen["backends"]["b"]["requests"] == 110
    assert seen["endpoints"]["e"]["http_outcomes"] == {"delivered": 107, "refused": 0, "failed": 3, "aborted": 0}


def test_a_replica_that_was_retired_in_between_changes_nothing():
    """Its counts move to another label: the backend's sum is what counts."""
    seen = summarise(reading(2.0, 100.0, 0.0, 0.0, replica="retired", _10=100), reading(1.0, 100.0, 0.0, 0.0, _10=100))
    assert seen["backends"]["b"]["latency_ms"]["p50"] is None


@pytest.mark.parametrize(
    ("counts", "q", "value"),
    [
        ((0, 0, 0, 0), 0.5, None),
        ((4, 0, 0, 0), 0.5, 0.5),
        ((0, 4, 0, 0), 0.5, 5.5),
        ((0, 0, 0, 4), 0.5, 100.0),
        ((1, 1, 1, 1), 0.75, 100.0),
        ((2, 0, 2, 0), 0.5, 1.0),
    ],
)
def test_quantiles_lie_within_their_bucket(counts, q, value):
    """Linear in the bucket, and never above the last bound, as Prometheus does it."""
    assert quantile((1.0, 10.0, 100.0), tuple(map(float, counts)), q) == value
