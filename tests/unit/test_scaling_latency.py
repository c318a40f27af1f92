"""policy.scaling: targets of latency, by queueing and by what is measured."""

from __future__ import annotations

import math
import random

import pytest

from pointsman.model.scaling import LATENCY
from pointsman.policy.scaling import queueing
from pointsman.testing import simulate_autoscaling
from tests.unit.scaling_world import Backend


@pytest.mark.parametrize(
    ("servers", "load", "share"), [(1, 0.5, 0.5), (2, 1.0, 1 / 3), (5, 3.0, 0.2362), (10, 8.0, 0.4092), (3, 3.0, 1.0)]
)
def test_erlang_c_is_that_of_the_tables(servers: int, load: float, share: float):
    """The share of calls that wait is that of published tables. (AS5)"""
    assert queueing.must_wait(servers, load) == pytest.approx(share, abs=2e-4)


def test_waiting_is_that_of_one_server():
    """For one server the mean is that of Pollaczek and Khinchine, for any spread of service times. (AS5)"""
    for cv2 in (0.0, 0.25, 1.0, 2.0):
        assert queueing.mean_waiting(1, 0.8, cv2) == pytest.approx(0.8**2 / 0.2 * (1 + cv2) / 2)
    assert queueing.mean_waiting(2, 2.0, 1.0) == math.inf


def test_calls_there_vary_as_in_a_queue():
    """The mean of M/M/1 is load / (1 - load), and its averages vary as theory says. (AS5)"""
    mean, deviation = queueing.calls_there(1, 0.5, 0.1, 1.0, 30.0)
    assert mean == pytest.approx(1.0)
    assert 0.1 < deviation < 0.3


def test_the_share_of_late_calls_is_that_of_a_queue():
    """Reckoned for three replicas, it is within a third of what a simulation of 30,000 calls says. (AS5)"""
    found = simulate_autoscaling(
        [(0, 20), (1500, 0)],
        {"min_replicas": 3, "max_replicas": 3},
        service_s=(0.1, 0.5),
        slo_ms=250,
        start_s=1,
        seed=3,
    )
    assert queueing.late_share(3, 2.0, 0.1, 0.25, 0.25) == pytest.approx(found.late, rel=0.33)
    assert queueing.percentile(3, 2.0, 0.1, 0.25, 5.0) == pytest.approx(found.latency_ms["p99"] / 1000, rel=0.15)
    assert queueing.percentile(3, 3.1, 0.1, 0.25, 5.0) == 5.0


def test_the_fewest_replicas_that_keep_a_limit_are_the_fewest():
    """One replica less would be late too often. (AS5)"""
    few = queueing.least_replicas(6.0, 0.1, 0.25, 1, 0.35, 40)
    assert queueing.late_share(few, 6.0, 0.1, 0.25, 0.35) <= queueing.LATE
    assert queueing.late_share(few - 1, 6.0, 0.1, 0.25, 0.35) > queueing.LATE
    assert queueing.least_replicas(60.0, 0.1, 0.25, 1, 0.35, 40) == 40


def test_work_without_waiting_is_that_of_a_lognormal_time():
    """99 of 100 draws are below what calls take without waiting. (AS5)"""
    chance = random.Random(1)
    variance = math.log(1.25)
    limit = queueing.work_itself(0.1, 0.25)
    late = sum(chance.lognormvariate(math.log(0.1) - variance / 2, math.sqrt(variance)) > limit for _ in range(50_000))
    assert late / 50_000 == pytest.approx(0.01, abs=0.002)
    assert queueing.work_itself(0.1, 0.0) == pytest.approx(0.1)


def test_a_target_of_latency_asks_for_more_than_the_demand_does():
    """At a call for each replica two are enough by demand; 99 of 100 within 300 ms take more. (AS5)"""
    plain = Backend(wanted=2, target_ongoing_requests=1.0).flow(120, 19)
    quick = Backend(wanted=2, target_ongoing_requests=1.0, target_latency_ms=300.0).flow(120, 19)
    assert quick.wanted > plain.wanted
    assert LATENCY in quick.reasons
    assert any("within 300 ms" in change[4] for change in quick.changes)


def test_the_larger_number_of_both_targets_wins():
    """A latency that few replicas keep takes nothing from what the demand asks for. (AS5)"""
    plain = Backend(wanted=1).flow(120, 30)
    lax = Backend(wanted=1, target_latency_ms=60_000.0).flow(120, 30)
    assert lax.wanted == plain.wanted


def test_a_target_below_the_work_itself_is_a_remark_and_the_other_rules_count():
    """100 ms cannot be kept by calls of 100 ms on average; the number is that of the demand, and it is said. (AS5)"""
    backend = Backend(wanted=1, target_latency_ms=100.0).flow(120, 30)
    assert backend.verdict is not None
    assert backend.verdict.remark.startswith("target_latency_ms 100 is below the work itself, 2")
    assert backend.wanted == Backend(wanted=1).flow(120, 30).wanted


def test_what_is_measured_corrects_what_is_reckoned():
    """Calls that take twice as long as reckoned get more replicas, until they keep the target. (AS5)"""
    backend = Backend(wanted=3, target_latency_ms=400.0, target_ongoing_requests=1.0).flow(120, 28)
    reckoned = backend.wanted
    backend.more = {"p99_s": 0.55}
    backend.flow(120, 28)
    assert backend.wanted > reckoned
    more = backend.wanted
    backend.more = {"p99_s": 0.25}
    backend.flow(600, 28)
    assert backend.wanted <= more


def test_a_latency_that_no_replica_mends_is_a_remark():
    """Calls that take far longer than waiting explains do not lead to the maximum. (AS5)"""
    backend = Backend(wanted=5, target_latency_ms=300.0).flow(60, 30)
    backend.more = {"p99_s": 3.0}
    backend.flow(300, 30)
    assert backend.verdict is not None
    assert "more than waiting explains" in backend.verdict.remark
    assert backend.wanted < 20


def test_a_target_of_latency_is_kept():
    """99 of 100 of 20 calls/s, by chance, are within 400 ms, with fewer replicas than calls a second. (AS5)"""
    found = simulate_autoscaling(
        [(0, 20), (1200, 0)], {"target_latency_ms": 400, "max_replicas": 40}, service_s=(0.1, 0.5), start_s=2, seed=2
    )
    assert found.late <= 0.01
    assert found.peak <= 8
    assert found.flaps == 0
