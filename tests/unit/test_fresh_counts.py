"""telemetry.fresh: what processes have counted since the last look, read beside the collectors."""

from __future__ import annotations

from pathlib import Path

import pytest

from pointsman.model.evidence import Tally, TallyKey
from pointsman.stats.latency import bucket_of
from pointsman.telemetry import families
from pointsman.telemetry.collector import Collector
from pointsman.telemetry.counted import TallyCollector
from pointsman.telemetry.fresh import FreshMetrics, FreshTallies
from pointsman.telemetry.tallies import SLOTS, TallyFile
from pointsman.telemetry.writer import MetricsWriter

KEY = TallyKey("rank", 1, "v1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "t"


def total(grown: list[tuple[TallyKey, Tally]]) -> Tally:
    whole = Tally()
    for _, tally in grown:
        whole = whole.plus(tally)
    return whole


def test_only_what_is_new_is_told(folder: Path) -> None:
    """What was counted before the first look is old; after it each look tells what came since the last one, with its
    latencies (AD8)."""
    file, fresh = TallyFile(folder, "ingress"), FreshTallies(folder)
    assert fresh.read() == []
    values = file.take(KEY)
    values.count(0.020, False)
    assert total(fresh.read()) == Tally(1, 0, {bucket_of(0.020): 1})
    assert fresh.read() == []
    values.count(0.001, True)
    values.count(5.0, False)
    values.count(0.020, False)
    assert fresh.read() == [(KEY, Tally(3, 1, {bucket_of(0.001): 1, bucket_of(5.0): 1, bucket_of(0.020): 1}))]


def test_a_console_that_starts_late_does_not_take_the_past_for_news(folder: Path) -> None:
    """A million calls were answered before the console started: its first graph does not begin with a million."""
    values = TallyFile(folder, "ingress").take(KEY)
    values.count(0.1, False)
    fresh = FreshTallies(folder)
    assert fresh.read() == []
    values.count(0.1, False)
    assert total(fresh.read()).requests == 1


def test_the_last_calls_of_a_process_are_told_though_its_file_is_merged(folder: Path) -> None:
    """A process ends and the controller merges its file: what it counted last is told once, and not again when it is
    found among the merged counts."""
    collector, fresh = TallyCollector(folder), FreshTallies(folder)
    collector.collect()
    file = TallyFile(folder, "ingress")
    values = file.take(KEY)
    fresh.read()
    values.count(0.1, False)
    assert total(fresh.read()).requests == 1
    values.count(0.1, False)
    file.close()
    collector.collect()
    assert not list(folder.glob("ingress-*"))
    assert total(fresh.read()).requests == 1
    assert fresh.read() == []


def test_a_slot_that_is_used_again_begins_anew(folder: Path) -> None:
    """A new traffic policy gets the slot of an old one: its calls are counted from none."""
    file, fresh = TallyFile(folder, "ingress"), FreshTallies(folder)
    keys = [KEY._replace(policy_version=number) for number in range(SLOTS + 1)]
    values = [file.take(key) for key in keys[:SLOTS]]
    fresh.read()
    for one in values:
        one.count(0.1, False)
    assert total(fresh.read()).requests == SLOTS
    file.free(values[0])
    file.take(keys[SLOTS]).count(0.2, True)
    assert fresh.read() == [(keys[SLOTS], Tally(1, 1, {bucket_of(0.2): 1}))]


def test_what_user_code_has_scribbled_is_left_out(folder: Path) -> None:
    """User code overwrites the tallies in its process: these are left out, and the others are told."""
    good, file = TallyFile(folder, "ingress").take(KEY), TallyFile(folder, "replica")
    fresh = FreshTallies(folder)
    for value in (float("nan"), float("inf"), 1e300):
        bad = file.take(KEY)
        fresh.read()
        good.count(0.1, False)
        bad.values[bad.at] = value
        assert total(fresh.read()).requests == 1
    (folder / "ingress-0123456789abcdef").write_bytes(b"\xff" * 100_000)
    assert fresh.read() == []


def test_gauges_are_of_the_living_and_batches_of_the_last_second(tmp_path: Path) -> None:
    """Queues, running calls and replicas are those of living processes; the batch size is that of what came since the
    last look."""
    router, replica = MetricsWriter(tmp_path, "ingress"), MetricsWriter(tmp_path, "replica")
    router.gauge(families.ROUTER_QUEUED, "rank", "v1").set(3)
    replica.gauge(families.PROCESSING_QUERIES, "v1", "v1#a").set(2)
    replica.gauge(families.QUEUED_QUERIES, "v1", "v1#a").set(1)
    sizes = replica.histogram(families.BATCH_SIZE, "v1", "v1#a")
    sizes.observe(8)
    fresh = FreshMetrics(tmp_path)
    gauges = fresh.read()
    assert (gauges.waiting, gauges.processing, gauges.queued) == ({("rank", "v1"): 3}, {"v1": 2}, {"v1": 1})
    assert gauges.replicas == {"v1": {"v1#a"}}
    assert gauges.batches == {}
    sizes.observe(4)
    router.counter(families.SHADOW_DROPPED, "rank", "v2").inc(5)
    gauges = fresh.read()
    assert gauges.batches == {"v1": (1, 4.0)}
    assert gauges.dropped == {("rank", "v2"): 5}
    replica.close()
    assert fresh.read().replicas == {}
    Collector(tmp_path, clock=lambda: 1e9).collect()
    assert fresh.read().waiting == {("rank", "v1"): 3}
