"""Metrics of user code: what may be made and recorded, and what is refused."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path

import cloudpickle
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client import Counter as PrometheusCounter
from prometheus_client import Gauge as PrometheusGauge
from prometheus_client import Histogram as PrometheusHistogram
from prometheus_client import Summary as PrometheusSummary

from pointsman.context import ReplicaContext, set_replica_context
from pointsman.metrics import Count, Counter, Gauge, Histogram
from pointsman.replica.metrics import series_of
from pointsman.telemetry.collector import MAX_USER_SERIES, Collector
from pointsman.telemetry.writer import MetricsWriter, set_process_writer

numbers = itertools.count(1)
MINE = (("backend", "b"), ("replica", "b#abcdef"))


@pytest.fixture
def name() -> str:
    """Metrics live as long as their process, so each test has names of its own."""
    return f"metric_{next(numbers)}"


@pytest.fixture
def page(tmp_path: Path):
    """Makes this process a replica, and reads what it exports."""
    set_replica_context(ReplicaContext("b", "b#abcdef", "i", "", b"", "", 300.0))
    set_process_writer(MetricsWriter(tmp_path, "replica"))
    yield lambda: Collector(tmp_path, clock=lambda: 0.0).collect()
    set_process_writer(None)
    set_replica_context(None)


def test_each_type_shows_what_was_recorded(page, name):
    """A counter adds, a gauge replaces, a histogram sorts, by Ray Serve 1.x's verb and by the usual one (CM1)."""
    counter, gauge = Counter(f"{name}_c"), Gauge(f"{name}_g", "Warm.")
    histogram = Histogram(f"{name}_h", "Long.", [1, 10])
    counter.record(2)
    counter.inc()
    gauge.record(5)
    gauge.set(-1.5)
    for value in (0.5, 5, 50):
        histogram.record(value)
    histogram.observe(10)
    metrics = page()
    assert metrics[f"{name}_c"].series == {MINE: (3.0,)}
    assert metrics[f"{name}_g"].series == {MINE: (-1.5,)}
    assert metrics[f"{name}_g"].about.help == "Warm."
    assert metrics[f"{name}_h"].series == {MINE: (1.0, 2.0, 1.0, 65.5)}


def test_tags_come_from_defaults_and_calls(page, name):
    """Default tags may be overridden; the backend and replica are added, unless the metric has its own (CM1, CM2)."""
    counter = Count(name, tag_keys=("model", "backend")).set_default_tags({"model": "m", "backend": "mine"})
    counter.inc()
    counter.inc(2, tags={"model": "n"})
    assert page()[name].series == {
        (("model", "m"), ("backend", "mine"), ("replica", "b#abcdef")): (1.0,),
        (("model", "n"), ("backend", "mine"), ("replica", "b#abcdef")): (2.0,),
    }


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Counter(""), ValueError),
        (lambda: Counter("with space"), ValueError),
        (lambda: Counter("1st"), ValueError),
        (lambda: Counter(None), TypeError),
        (lambda: Counter("serve_num_http_requests"), ValueError),
        (lambda: Counter("x", 5), TypeError),
        (lambda: Counter("x", tag_keys=["a"]), TypeError),
        (lambda: Counter("x", tag_keys="a"), TypeError),
        (lambda: Counter("x", tag_keys=(1,)), TypeError),
        (lambda: Counter("x", tag_keys=("a", "a")), ValueError),
        (lambda: Counter("x", tag_keys=("le",)), ValueError),
        (lambda: Counter("x", tag_keys=("__a",)), ValueError),
        (lambda: Counter("x").set_default_tags({"a": "b"}), ValueError),
        (lambda: Counter("x2", tag_keys=("a",)).set_default_tags({"a": 1}), TypeError),
        (lambda: Histogram("x"), ValueError),
        (lambda: Histogram("x", "", []), ValueError),
        (lambda: Histogram("x", "", [2, 1]), ValueError),
        (lambda: Histogram("x", "", [1, float("inf")]), ValueError),
        (lambda: Histogram("x", "", list(range(201))), ValueError),
        (lambda: Histogram("x", "", [1, None]), TypeError),
    ],
)
def test_what_cannot_be_made_is_refused(make, error):
    """A mistake in a constructor is told there, and not at the first request (CM1)."""
    with pytest.raises(error):
        make()


@pytest.mark.parametrize(
    ("record", "error"),
    [
        (lambda c: c.inc(-1, {"a": "x"}), ValueError),
        (lambda c: c.inc(float("nan"), {"a": "x"}), ValueError),
        (lambda c: c.inc(float("inf"), {"a": "x"}), ValueError),
        (lambda c: c.inc("1", {"a": "x"}), TypeError),
        (lambda c: c.inc(True, {"a": "x"}), TypeError),
        (lambda c: c.inc(1), ValueError),
        (lambda c: c.inc(1, {"b": "x"}), ValueError),
        (lambda c: c.inc(1, {"a": "x", "b": "x"}), ValueError),
        (lambda c: c.inc(1, {"a": 5}), TypeError),
        (lambda c: c.inc(1, {"a": "x" * 1001}), ValueError),
    ],
)
def test_what_cannot_be_recorded_is_refused(page, name, record, error):
    """A wrong value or tag raises, and nothing is counted (CM1)."""
    counter = Counter(name, tag_keys=("a",))
    with pytest.raises(error, match=name):
        record(counter)
    assert name not in page()


def test_a_name_means_one_thing(page, name):
    """Made again in a second constructor it is the same metric; made otherwise it is an error."""
    Counter(name, "Said once.", tag_keys=("a",)).inc(tags={"a": "x"})
    Counter(name, "Said otherwise.", tag_keys=("a",)).inc(tags={"a": "x"})
    assert page()[name].series == {(("a", "x"), *MINE): (2.0,)}
    for other in (lambda: Gauge(name, tag_keys=("a",)), lambda: Counter(name)):
        with pytest.raises(ValueError, match="exists already"):
            other()


def test_series_stop_at_2000(page, name):
    """A tag with a value per customer costs 2000 series and no more; the sum stays right, and a metric tells (CM3)."""
    counter = Counter(name, tag_keys=("customer",))
    for number in range(MAX_USER_SERIES + 100):
        counter.inc(tags={"customer": str(number)})
    metrics = page()
    assert len(metrics[name].series) == MAX_USER_SERIES + 1
    shared = (("customer", "overflow"), ("backend", "overflow"), ("replica", "overflow"))
    assert metrics[name].series[shared] == (100.0,)
    assert metrics["serve_metrics_dropped_total"].series == {(("name", name),): (100.0,)}


def test_metrics_work_outside_a_replica(name):
    """A unit test of a model needs no instance."""
    Counter(name).inc()
    Gauge(f"{name}_g").set(1)
    with pytest.raises(ValueError, match="cannot grow"):
        Counter(name).inc(-1)


@pytest.mark.parametrize("dump", [pickle.dumps, cloudpickle.dumps])
def test_metrics_travel_with_their_backend(page, name, dump):
    """One that was made beside a class, in a notebook, counts where the class runs."""
    counter = Counter(name, "Counts.", tag_keys=("a",)).set_default_tags({"a": "x"})
    pickle.loads(dump(counter)).inc()
    Histogram(f"{name}_h", "", [1, 2])
    pickle.loads(dump(Histogram(f"{name}_h", "", [1, 2]))).observe(1)
    assert page()[name].series == {(("a", "x"), *MINE): (1.0,)}


def test_prometheus_clients_own_types_are_understood():
    """Users who know prometheus-client keep its objects: each type arrives as what it is."""
    registry = CollectorRegistry()
    PrometheusCounter("c", "C.", ["a"], registry=registry).labels("x").inc(3)
    PrometheusGauge("g", "G.", registry=registry).set(-2)
    PrometheusHistogram("h", "H.", registry=registry, buckets=(1, 10)).observe(5)
    PrometheusSummary("s", "S.", registry=registry).observe(5)
    series = [found for metric in registry.collect() for found in series_of(metric)]
    assert {name: (kind, labels, bounds, values) for name, kind, _, labels, bounds, values in series} == {
        "c_total": ("counter", (("a", "x"),), (), (3.0,)),
        "g": ("gauge", (), (), (-2.0,)),
        "h": ("histogram", (), (1.0, 10.0), (0.0, 1.0, 0.0, 5.0)),
        "s_count": ("counter", (), (), (1.0,)),
        "s_sum": ("counter", (), (), (5.0,)),
    }
