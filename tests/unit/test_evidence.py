"""Evidence: what was counted, its windows, and the fake of tests."""

from __future__ import annotations

import asyncio
from datetime import datetime, timezone
from math import inf
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from pointsman.controller.evidence import EvidenceReader, EvidenceSource, NodeCounts, Past
from pointsman.controller.judging import metrics_watched
from pointsman.controller.numbers import fresh_numbers, numbers_of
from pointsman.controller.state import Desired, Rollout
from pointsman.engine.base import ONE_NODE
from pointsman.model import EndpointSpec, TrafficChange, TrafficHistory, TrafficPolicy
from pointsman.model.evidence import SHADOW, Evidence, MetricKey, MetricTally, Numbers, Tally, TallyKey, Window
from pointsman.model.rollout import RolloutPlan
from pointsman.stats.latency import bucket_of
from pointsman.telemetry.collector import Metric
from pointsman.telemetry.counted import Counted, metrics_in
from pointsman.telemetry.families import Kind
from pointsman.telemetry.tallies import Tallies, TallyFile
from pointsman.telemetry.windows import add_numbers
from pointsman.telemetry.writer import Series
from pointsman.testing.evidence import FakeEvidence
from pointsman.wire.messages import pack, unpack


def test_what_is_counted_is_known_from_the_next_reading_on() -> None:
    """A test counts calls; the controller hears of them with the next reading, and finds earlier ones."""
    fake = FakeEvidence()
    source: EvidenceSource = fake
    heard: list[Evidence] = []
    stop = source.subscribe(heard.append)
    fake.count("greet", "main", latencies=[0.1, 0.2], errors=1)
    assert source.evidence() == Evidence(at=0.0)
    fake.tick()
    fake.count("greet", "main", latencies=[0.1])
    newest = fake.tick()
    key = TallyKey("greet", 1, "main")
    assert heard[-1] is newest is source.evidence()
    assert newest.tallies[key].requests == 3
    assert newest.tallies[key].since(source.earlier(1.0).tallies[key]).latencies == {bucket_of(0.1): 1}
    stop()
    fake.tick()
    assert len(heard) == 2


def test_readings_of_ten_minutes_are_found_by_their_age() -> None:
    """A reading of any age up to ten minutes is right within a tenth, and few are kept."""
    past, key = Past(), TallyKey("greet", 1, "main")
    for second in range(3000):
        past.keep(Evidence(float(second), {key: Tally(requests=second)}))
    assert len(past._readings) < 100
    for age in (0, 1, 5, 10, 60, 300, 600):
        then = past.earlier(age)
        assert then.tallies[key].requests == then.at
        assert age <= 2999 - then.at <= age * 1.15 + 1
    assert 600 <= 2999 - past.earlier(10_000).at < 800


def test_who_goes_on_from_a_reading_counts_each_call_once() -> None:
    """Calls are counted from one reading to another, however these are asked for: each is counted once, and of a
    controller on another machine, whose clock has another beginning, from where it is asked first."""
    past, busy, idle = Past(), TallyKey("greet", 1, "main"), TallyKey("greet", 1, "idle")
    assert past.since(inf) == (Evidence(at=0.0), Evidence(at=0.0))
    since, counted = inf, 0
    for second in range(1, 31):
        past.keep(Evidence(float(second), {busy: Tally(requests=second), idle: Tally(requests=7)}))
        if second in (1, 2, 7, 8, 20, 30):
            window = (numbers := fresh_numbers(*past.since(since))).windows[0]
            since, counted = numbers.at, counted + sum(tally.requests for tally in window.tallies.values())
            assert {key.backend for key in window.tallies} <= {"main"}
    assert (since, counted) == (30.0, 29)
    assert fresh_numbers(*past.since(1e9)).windows[0] == Window(0.0, {})


def test_a_young_instance_gives_what_it_has() -> None:
    """Who asks for ten minutes in the first minute gets what was counted since the first reading."""
    past = Past()
    assert past.earlier(600) == Evidence(at=0.0)
    past.keep(Evidence(5.0))
    assert past.earlier(600).at == past.earlier(0).at == 5.0


# --- several nodes, and windows -------------------------------------------------------------------------------

MAIN = TallyKey("greet", 3, "main")


def test_a_node_that_is_lost_keeps_what_it_had_counted() -> None:
    """A node goes and another takes its place, or counts from 0: sums never fall."""
    counts = NodeCounts()
    counts.heard("a", Counted("one", [(MAIN, Tally(requests=10))]))
    counts.heard("b", Counted("two", [(MAIN, Tally(requests=5))]))
    assert counts.total()[MAIN].requests == 15
    counts.heard("a", Counted("one", [(MAIN, Tally(requests=11))]))
    counts.heard("b", Counted("three", [(MAIN, Tally(requests=1))]))
    assert counts.total()[MAIN].requests == 17
    counts.heard("b", Counted("three"))
    assert counts.total()[MAIN].requests == 16


def test_windows_are_of_all_versions_and_the_policy_s_own_of_one() -> None:
    """After a change the last minute has both policies, and "since the policy changed" the new one alone."""
    fake = FakeEvidence()
    fake.count("greet", "main", version=2, latencies=[0.1] * 100)
    fake.tick(10.0)
    fake.count("greet", "main", version=2, latencies=[0.1] * 10)
    fake.count("greet", "main", version=3, latencies=[0.2] * 5, errors=1)
    fake.count("other", "main", version=1, latencies=[0.2])
    newest = fake.tick(70.0)
    policy = TrafficPolicy(3, {"main": 1.0})
    history = TrafficHistory((TrafficChange(policy, "2026-11-29T10:00:00+00:00", "set_traffic", "me"),))
    desired = Desired(
        endpoints={"greet": EndpointSpec("greet", "/greet", ("GET",), policy)}, histories={"greet": history}
    )
    time = datetime(2026, 11, 29, 10, 0, 30, tzinfo=timezone.utc)
    numbers = numbers_of(desired, newest, fake.earlier, [60.0, None], endpoint="greet", time=time)
    minute, whole = numbers.windows
    key = TallyKey("greet", 0, "main")
    assert (minute.seconds, minute.tallies[key].requests, minute.tallies[key].errors) == (60.0, 15, 1)
    assert (whole.seconds, whole.tallies[key].requests) == (None, 115)
    assert numbers.policies == {MAIN: newest.tallies[MAIN]}
    assert numbers.policy_s == {"greet": 30.0}
    assert unpack(pack(numbers), Numbers) == numbers
    with pytest.raises(ValueError, match="'gone' does not exist"):
        numbers_of(desired, newest, fake.earlier, [], endpoint="gone", time=time)


def test_two_backends_are_compared_over_the_policies_that_had_both() -> None:
    """What the baseline answered before the canary had traffic does not count in a comparison, to the request."""
    fake = FakeEvidence()
    fake.count("greet", "main", version=2, latencies=[0.4] * 50)
    fake.tick(10.0)
    fake.count("greet", "main", version=3, latencies=[0.2] * 20)
    fake.count("greet", "canary", version=3, latencies=[0.2] * 5)
    newest = fake.tick(20.0)
    desired = Desired(endpoints={"greet": EndpointSpec("greet", "/greet", ("GET",), TrafficPolicy(3, {"main": 1.0}))})

    def counted(*both: str) -> dict[str, int]:
        time = datetime.now(timezone.utc)
        numbers = numbers_of(desired, newest, fake.earlier, [60.0], endpoint="greet", both=both, time=time)
        return {key.backend: tally.requests for key, tally in numbers.windows[0].tallies.items()}

    assert counted("main", "canary") == {"main": 20, "canary": 5}
    assert counted() == counted("main", "gone") == {"main": 70, "canary": 5}


def test_stats_have_windows_by_endpoint_backend_and_shadow() -> None:
    """The numbers of a canary, of the backend beside it, and of a shadow stand apart; users' numbers have no copies."""
    view: dict[str, Any] = {"endpoints": {"greet": {}}, "backends": {"canary": {"latency_ms": {}}}}
    tallies = {
        TallyKey("greet", 0, "main"): Tally(90, 0, {bucket_of(0.205): 90}, 90 * 0.205),
        TallyKey("greet", 0, "canary"): Tally(10, 2, {bucket_of(0.4): 10}, 4.0),
        TallyKey("greet", 0, "next", SHADOW): Tally(7, 7, {bucket_of(1.0): 7}, 7.0),
    }
    window = Window(10.0, tallies)
    add_numbers(view, Numbers((window, window, window, Window(None, tallies)), tallies, {"greet": 50.0}))
    greet = view["endpoints"]["greet"]
    assert list(greet["windows"]) == ["10s", "1m", "10m", "policy"]
    assert (greet["windows"]["10s"]["requests"], greet["windows"]["10s"]["per_second"]) == (100, 10.0)
    assert greet["windows"]["policy"]["per_second"] == 2.0
    assert list(greet["backends"]) == ["canary", "main"]
    assert greet["backends"]["canary"]["1m"]["latency_ms"]["p50"] == pytest.approx(400, rel=0.02)
    assert greet["backends"]["canary"]["1m"]["errors"] == 2
    assert greet["latency_ms"]["count"] == 100
    assert list(greet["shadows"]) == ["next"]
    assert view["backends"]["canary"]["latency_ms"]["mean"] == 400.0


def test_the_reader_sees_what_is_counted_and_what_is_forgotten(tmp_path: Path) -> None:
    """The controller reads each second: windows keep versions that routers have forgotten, deleted endpoints go."""
    here: set[str] = {"greet"}

    async def main() -> None:
        reader = EvidenceReader(tmp_path / "t", nodes=ONE_NODE, exists=lambda key: key.endpoint in here)
        file = TallyFile(tmp_path / "t", "ingress")
        tallies, heard = Tallies(file), list[Evidence]()
        reader.subscribe(lambda evidence: 1 / 0)  # whoever has a bug keeps it from nobody else
        reader.subscribe(heard.append)
        for version in range(1, 8):
            tallies.of(MAIN._replace(policy_version=version)).count(0.1, False)
            await reader._read()
        assert reader.evidence() is heard[-1]
        assert sorted(key.policy_version for key in heard[-1].tallies) == [1, 2, 3, 4, 5, 6, 7]
        tallies.of(MAIN._replace(policy_version=7)).count(0.1, False)
        assert (await reader.now()).tallies[MAIN._replace(policy_version=7)].requests == 2
        assert reader.evidence() is heard[-1]
        here.clear()
        await reader._read()
        assert heard[-1].tallies == {}
        await reader.aclose()
        file.close()

    asyncio.run(main())


def test_a_folder_that_cannot_be_made_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The disk is full when a controller starts: it starts all the same, says so once, and reads later."""
    (tmp_path / "t").write_text("no folder")

    async def main() -> None:
        reader = EvidenceReader(tmp_path / "t", nodes=ONE_NODE, exists=lambda key: True)
        reading = asyncio.ensure_future(reader.run())
        while not caplog.records:
            await asyncio.sleep(0.01)
        (tmp_path / "t").unlink()
        file = TallyFile(tmp_path / "t", "ingress")
        Tallies(file).of(MAIN).count(0.1, False)
        assert (await reader.now()).tallies[MAIN].requests == 1
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await reader.aclose()
        file.close()

    asyncio.run(main())
    assert len(caplog.records) == 1


def test_metrics_that_a_rollout_watches_are_read_of_all_nodes() -> None:
    """A gate on a histogram of user code gets its count and its sum by backend; other metrics are no evidence (RO4)."""

    def series(*, count: float, total: float, user: bool = True, kind: Kind = "histogram") -> Metric:
        about = Series("score", kind, "", (), (1.0, 2.0), user)
        labels = (("backend", "main"), ("language", "en")), (("backend", "main"), ("language", "de"))
        return Metric(about, dict.fromkeys(labels, (count, 0.0, 0.0, total)))

    assert metrics_in({"score": series(count=1.0, total=1.0, user=False)}, ["score"]) == []
    assert metrics_in({"score": series(count=1.0, total=1.0, kind="counter")}, ["score", "none"]) == []
    key, counts = MetricKey("main", "score"), NodeCounts()
    counts.heard("", Counted("one", metrics=metrics_in({"score": series(count=3.0, total=1.5)}, ["score"])))
    counts.heard("b", Counted("two", metrics=[(key, MetricTally(2, 1.0))]))
    counts.heard("b", Counted("three"))
    assert counts.metrics() == {key: MetricTally(8, 4.0)}
    counts.heard("c", Counted("four", metrics=[(key, MetricTally(2, float("inf")))]))  # 1e308, twice
    assert counts.metrics() == {}
    plan = RolloutPlan("greet", "canary", gates={"metrics": {"score": {"better": "higher"}}})
    rollout = Rollout(1, plan, {}, (), {}, "", "")
    assert metrics_watched(Desired(rollouts={"1": rollout})) == {"score"}
    assert metrics_watched(Desired(rollouts={"1": structs.replace(rollout, state="aborted")})) == set()
