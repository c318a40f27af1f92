"""Metrics files: written by one process, read and merged by another, merged when their process has ended."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from pointsman.telemetry import families
from pointsman.telemetry import writer as telemetry
from pointsman.telemetry.collector import (
    MAX_USER_SERIES,
    MERGE_AGAIN_S,
    OVERFLOW,
    BrokenMetricsError,
    Collector,
    MetricsReader,
    merge,
)
from pointsman.telemetry.families import Family, size_label
from pointsman.telemetry.reports import render
from pointsman.telemetry.writer import MetricsWriter, Series

COUNTER = Family("c", "counter", "Counts.", ("backend", "replica"))
GAUGE = Family("g", "gauge", "Waits.", ("backend", "replica"))
LARGEST = Family("v", "largest", "Version.", ("endpoint",))
HISTOGRAM = Family("h", "histogram", "Takes.", ("backend", "replica"), (1.0, 10.0))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def value(metrics, name, **labels):
    return metrics[name].series[tuple(labels.items())]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def collector(tmp_path: Path, clock: Clock):
    collector = Collector(tmp_path, clock=clock)
    yield collector
    collector.close()


def test_values_are_read_as_they_are_now(tmp_path, collector):
    """A scrape shows a gauge as it stands, without anybody having been asked to send it (MO2)."""
    writer = MetricsWriter(tmp_path, "replica")
    gauge = writer.gauge(GAUGE, "b", "b#1")
    for waiting in (3.0, 0.0, 7.0):
        gauge.set(waiting)
        assert value(collector.collect(), "g", backend="b", replica="b#1") == (waiting,)


def test_writers_are_summed(tmp_path, collector):
    """Two threads of a process and two processes count the same thing, and the page has one number."""
    one, two = MetricsWriter(tmp_path, "ingress"), MetricsWriter(tmp_path, "client")
    for cell in (one.counter(COUNTER, "b", "r"), one.counter(COUNTER, "b", "r"), two.counter(COUNTER, "b", "r")):
        cell.inc()
        cell.inc(2)
    one.gauge(LARGEST, "e").set(4)
    two.gauge(LARGEST, "e").set(9)
    metrics = collector.collect()
    assert value(metrics, "c", backend="b", replica="r") == (9.0,)
    assert value(metrics, "v", endpoint="e") == (9.0,)


def test_bounds_of_buckets_are_inclusive(tmp_path, collector):
    """A query that took exactly 10 ms is one of those that took at most 10 ms."""
    histogram = MetricsWriter(tmp_path, "replica").histogram(HISTOGRAM, "b", "r")
    for seen in (0.5, 1.0, 1.5, 10.0, 11.0):
        histogram.observe(seen)
    assert value(collector.collect(), "h", backend="b", replica="r") == (2.0, 2.0, 1.0, 24.0)


def test_series_are_read_as_they_come(tmp_path, collector):
    """A process adds series while it is being scraped, over many segments of its file, and none is missed."""
    writer = MetricsWriter(tmp_path, "replica")
    for count in range(1, 1500):
        writer.counter(COUNTER, "b", f"r{count}").inc(count)
        if count % 100 == 1:
            assert len(collector.collect()["c"].series) == count
    assert value(collector.collect(), "c", backend="b", replica="r1499") == (1499.0,)


def test_the_dead_keep_their_counts_and_lose_their_gauges(tmp_path, collector, clock):
    """A replica is killed: what it did goes on counting, and nothing waits in it any more (MO5)."""
    writer = MetricsWriter(tmp_path, "replica")
    writer.counter(COUNTER, "b", "b#1").inc(5)
    writer.gauge(GAUGE, "b", "b#1").set(3)
    assert "g" in collector.collect()
    writer.close()
    metrics = collector.collect()
    assert "g" not in metrics
    assert value(metrics, "c", backend="b", replica="b#1") == (5.0,)


def test_after_five_minutes_the_dead_are_one(tmp_path, collector, clock):
    """Replicas come and go for weeks; the page does not grow, and no sum over a backend ever falls (MO5)."""
    for generation in range(1, 4):
        writer = MetricsWriter(tmp_path, "replica")
        writer.counter(COUNTER, "b", f"b#{generation}").inc(5)
        writer.histogram(HISTOGRAM, "b", f"b#{generation}").observe(0.5)
        writer.close()
        collector.collect()
        clock.now += 299
        assert value(collector.collect(), "c", backend="b", replica=f"b#{generation}") == (5.0,)
        clock.now += 1
        metrics = collector.collect()
        assert metrics["c"].series == {(("backend", "b"), ("replica", "retired")): (5.0 * generation,)}
        assert value(metrics, "h", backend="b", replica="retired") == (generation, 0.0, 0.0, 0.5 * generation)
        assert os.listdir(tmp_path) == ["retired"]


def test_routers_that_have_ended_are_folded_at_once(tmp_path, collector):
    """A script that called a handle and ended leaves no file behind, and its calls stay counted."""
    for _ in range(3):
        writer = MetricsWriter(tmp_path, "client")
        writer.counter(families.ROUTER_REQUESTS, "e").inc(2)
        writer.close()
        collector.collect()
    assert os.listdir(tmp_path) == ["retired"]
    assert value(collector.collect(), "serve_num_router_requests", endpoint="e") == (6.0,)


def test_a_collector_that_was_killed_while_it_folded_counts_nothing_twice(tmp_path, clock):
    """The controller dies between writing the merged counts and removing the file they came from."""
    writer = MetricsWriter(tmp_path, "client")
    writer.counter(families.ROUTER_REQUESTS, "e").inc(2)
    writer.close()
    left_over = (tmp_path / writer.name).read_bytes()
    Collector(tmp_path, clock=clock).collect()
    (tmp_path / writer.name).write_bytes(left_over)
    for _ in range(2):
        metrics = Collector(tmp_path, clock=clock).collect()
        assert value(metrics, "serve_num_router_requests", endpoint="e") == (2.0,)
        assert not (tmp_path / writer.name).exists()


def test_a_forked_child_does_not_write_into_its_parents_book(tmp_path, collector):
    """User code forks, and the child counts on: two writers of one value would lose counts."""
    counter = MetricsWriter(tmp_path, "replica").counter(COUNTER, "b", "r")
    counter.inc()
    child = os.fork()
    if not child:
        counter.inc(100)
        os._exit(0)
    os.waitpid(child, 0)
    assert value(collector.collect(), "c", backend="b", replica="r") == (1.0,)
    assert not MetricsReader(next(tmp_path.iterdir())).ended, "the child's end counted as the parent's"


def test_a_full_disk_costs_metrics_only(tmp_path, collector, monkeypatch, caplog):
    """No room for another piece of the file: what is there counts on, the rest is not exported, and nothing dies."""
    writer = MetricsWriter(tmp_path, "replica")
    first = writer.counter(COUNTER, "b", "r0")

    def no_room(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(telemetry, "_reserve", no_room)
    cells = [writer.counter(COUNTER, "b", f"r{number}") for number in range(1, 2000)]
    for cell in (first, *cells):
        cell.inc()
    assert 0 < len(collector.collect()["c"].series) < 2000
    assert "No space left" in caplog.text
    assert len(caplog.records) == 1


def test_a_full_disk_loses_no_counts_of_ended_processes(tmp_path, monkeypatch):
    """While the disk is full the files of ended processes stay; they are merged when there is space again (H11)."""
    now = [1000.0]
    collector = Collector(tmp_path, clock=lambda: now[0])
    for count in (2, 3):
        writer = MetricsWriter(tmp_path, "client")
        writer.counter(families.ROUTER_REQUESTS, "e").inc(count)
        writer.close()
        with monkeypatch.context() as patch:
            patch.setattr(
                telemetry, "_reserve", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
            )
            files = sorted(path.name for path in tmp_path.iterdir())
            for _ in range(2):
                collector.collect()
            assert sorted(path.name for path in tmp_path.iterdir()) == files
        now[0] += MERGE_AGAIN_S
        name = families.ROUTER_REQUESTS.name
        assert value(collector.collect(), name, endpoint="e") == (2.0 if count == 2 else 5.0,)
        assert [path.name for path in tmp_path.iterdir()] == ["retired"]
    collector.close()


@pytest.mark.parametrize("junk", [b"", b"x" * 65536, b"\xff" * 65536, b"\x10\0\0\0\x01\0\0\0\x93\0\0\0\0\0\0\0" * 4096])
def test_a_file_that_is_no_book_hides_nobody_elses_metrics(tmp_path, collector, junk):
    """A captured replica writes nonsense into its file: the others are scraped as before (H11)."""
    (tmp_path / "replica-junk").write_bytes(junk)
    MetricsWriter(tmp_path, "replica").counter(COUNTER, "b", "r").inc()
    for _ in range(2):
        assert value(collector.collect(), "c", backend="b", replica="r") == (1.0,)
    with pytest.raises(BrokenMetricsError):
        MetricsReader(tmp_path / "replica-junk")


@pytest.mark.parametrize(
    "series",
    [
        Series("no name", "counter", "", ()),
        Series("x", "counter", "", (("le gal", "x"),)),
        Series("x", "histogram", "", (), (2.0, 1.0)),
        Series("x", "histogram", "", (), (float("nan"),)),
    ],
    ids=["name", "label", "order", "nan"],
)
def test_series_that_cannot_be_shown_are_not(tmp_path, collector, series):
    """What would break the page for Prometheus stays out of it."""
    writer = MetricsWriter(tmp_path, "replica")
    writer.counter(COUNTER, "b", "r").inc()
    writer.series(series).fill((1.0,) * series.width)
    assert set(collector.collect()) == {"c"}


def test_names_mean_one_thing():
    """Two backends use one name for a counter and for a gauge: the first is shown, and the page stays valid."""
    metrics = merge([(Series("x", "counter", "", ()), (1.0,)), (Series("x", "gauge", "", ()), (5.0,))])
    assert metrics["x"].series == {(): (1.0,)}


def test_user_metrics_stop_at_2000_series():
    """A model tags by customer: after 2000 customers the others share one series, and the sum is right (CM3, H11)."""
    entries = [(Series("x", "counter", "", (("who", str(n)),), (), True), (1.0,)) for n in range(MAX_USER_SERIES + 50)]
    series = merge(entries)["x"].series
    assert len(series) == MAX_USER_SERIES + 1
    assert series[(("who", OVERFLOW),)] == (50.0,)


@pytest.mark.parametrize(("size", "label"), [(1, "1"), (32, "32"), (33, "64"), (64, "64"), (65, "128"), (1000, "1024")])
def test_batch_sizes_have_few_labels(size, label):
    """Exact up to 32, then powers of two (MO5)."""
    assert size_label(size) == label


def page(openmetrics):
    labels = (("backend", 'a "quoted"\\ name\nof two lines'), ("replica", "ä"))
    return render(
        merge(
            [
                (Series("serve_backend_request_counter", "counter", "Of the seed.", labels), (3.0,)),
                (Series("retries_total", "counter", "Ends in total.", labels), (4.0,)),
                (Series("waiting", "gauge", 'Says "so"\\.', ()), (2.5,)),
                (Series("latency_ms", "histogram", "Takes.", labels, (1.0, 10.0)), (2.0, 3.0, 4.0, 99.5)),
            ]
        ),
        openmetrics=openmetrics,
    ).decode()


@pytest.mark.parametrize("openmetrics", [False, True], ids=["text", "openmetrics"])
def test_page_can_be_read_by_others(openmetrics):
    """Prometheus's own parser finds every name, label and number; the seed's names have no suffix (MO)."""
    text = page(openmetrics)
    families = {f.name: f for f in (parse_openmetrics if openmetrics else parse_text)(text)}
    samples = {sample.name: sample for family in families.values() for sample in family.samples}
    counter = "serve_backend_request_counter"
    assert f"\n{counter}{{" in text
    if not openmetrics:  # the library adds the suffix by itself
        counter += "_total"
    assert samples[counter].value == 3
    assert samples[counter].labels["backend"] == 'a "quoted"\\ name\nof two lines'
    assert samples["retries_total"].value == 4
    assert families["waiting"].type == "gauge"
    assert families["latency_ms"].type == "histogram"
    buckets = [s for s in families["latency_ms"].samples if s.name == "latency_ms_bucket"]
    assert [(s.labels["le"], s.value) for s in buckets] == [("1.0", 2), ("10.0", 5), ("+Inf", 9)]
    assert (samples["latency_ms_count"].value, samples["latency_ms_sum"].value) == (9, 99.5)


def test_the_nine_are_as_promised():
    """The names and labels that dashboards for Ray Serve 1.x use (EX14)."""
    assert {family.name: family.labels for family in families.RAY_SERVE_1X_FAMILIES} == {
        "serve_backend_request_counter": ("backend",),
        "serve_backend_error_counter": ("backend",),
        "serve_backend_replica_starts": ("backend", "replica", "reason"),
        "serve_backend_queuing_latency_ms": ("backend", "replica"),
        "serve_backend_processing_latency_ms": ("backend", "replica", "batch_size"),
        "serve_replica_queued_queries": ("backend", "replica"),
        "serve_replica_processing_queries": ("backend", "replica"),
        "serve_num_http_requests": ("route",),
        "serve_num_router_requests": ("endpoint",),
    }
    assert families.QUEUING_LATENCY.bounds == families.PROCESSING_LATENCY.bounds == families.LATENCY_MS
