"""controller.reconcile: replicas that leave since fewer are needed have no drain limit."""

from __future__ import annotations

import pytest

from pointsman.controller.observed import NextStep, record_report, record_unhealthy
from pointsman.controller.reconcile import Drain, Hurry, Kill, Leave, Phase, is_settled, plan
from pointsman.controller.replicas import Unhealthy
from pointsman.controller.state import Desired, Fallback
from pointsman.model import Autoscaling, Capacity, Reason, Scale
from pointsman.wire.messages import Report
from tests.unit.reconciling import GPU, backend, only, replica, see, want

AUTO = Autoscaling(min_replicas=0)
LEAVING_FOR_A_DAY = 86_400.0


@pytest.mark.parametrize(
    ("desired", "patient"),
    [
        (want(backend(1, autoscaling=AUTO)), True),
        (want(backend(1)), False),
        (Desired(9, {"b": backend(2, idle_timeout_s=1.0)}, scales={"b": Scale(2, unloaded=True)}), True),
    ],
)
def test_only_a_number_that_follows_calls_is_patient(desired: Desired, patient: bool) -> None:
    """Replicas that leave since fewer are needed have as long as they take; a number that a user sets has its drain
    limit (AS7, DR2)."""
    leaves = only(plan(desired, see(replica(1), replica(2)), 0.0), Leave)
    assert leaves
    assert all(leave.patient == patient for leave in leaves)


def test_streams_have_as_long_as_they_take() -> None:
    """A replica that leaves since fewer are needed stays until its calls and streams have ended (AS7)."""
    observed = see(replica(1), replica(2, Phase.DRAINING, drain_timeout_s=1.0, patient=True))
    desired = want(backend(1, autoscaling=AUTO))
    assert plan(desired, observed, LEAVING_FOR_A_DAY) == []
    # Nobody waits for it: what was asked for is in effect.
    assert is_settled(desired, observed, "b", 1)


def test_one_that_hangs_is_killed() -> None:
    """A replica that leaves and hangs is killed, and that is no failure of its backend (AS7, F4)."""
    leaver = replica(2, Phase.DRAINING, patient=True)
    leaver.unhealthy = Unhealthy(Reason.UNRESPONSIVE, "no answer")
    observed, desired = see(replica(1), leaver), want(backend(1, autoscaling=AUTO))
    record_unhealthy(observed, desired, leaver, 5.0)
    assert observed.failures == {}
    assert plan(desired, observed, 5.0) == [Kill(2, "no answer")]


def test_a_deleted_backend_has_its_limit() -> None:
    """Once its backend is deleted a replica that leaves has the drain limit, from then on (AS7, DR2)."""
    leaver = replica(2, Phase.DRAINING, drain_timeout_s=1.0, patient=True)
    assert plan(Desired(), see(leaver), LEAVING_FOR_A_DAY) == [Hurry(2)]
    leaver.patient, leaver.since = False, LEAVING_FOR_A_DAY
    assert only(plan(Desired(), see(leaver), LEAVING_FOR_A_DAY + 1.0), Kill)


def test_patience_outlives_the_controller() -> None:
    """A replica that leaves tells the next controller that it has no drain limit, and is watched (AS7, AS20)."""
    leaver = replica(2, Phase.LAUNCHED, adopted=True)
    observed, desired = see(replica(1), leaver), want(backend(1, autoscaling=AUTO))
    step = record_report(observed, desired, Report(2, "draining", patient=True), b"", 9.0, introduces=True)
    assert step is NextStep.WATCH
    assert (leaver.phase, leaver.patient, leaver.health.answered_at) == (Phase.DRAINING, True, 9.0)
    assert plan(desired, observed, LEAVING_FOR_A_DAY) == []


def test_others_drain_as_before() -> None:
    """Before its drain a replica that leaves waits for routers like any other (DR5)."""
    observed = see(replica(1), replica(2, Phase.LEAVING, left_at=7, patient=True), confirmed={1: 7})
    assert plan(want(backend(1, autoscaling=AUTO)), observed, 0.0) == [Drain(2)]


def test_a_patient_leaver_holds_up_no_update() -> None:
    """Where two versions do not fit side by side, a replica with a stream of hours keeps no update waiting (AS9)."""
    new = backend(1, version=2, resources=GPU, autoscaling=AUTO)
    desired = Desired(9, {"b": new}, fallbacks={"b": Fallback(backend(1, resources=GPU, autoscaling=AUTO))})
    there = [replica(1, resources=GPU, gpus=(0,)), replica(2, Phase.DRAINING, resources=GPU, gpus=(1,), patient=True)]
    observed = see(*there, capacity=Capacity(num_gpus=2))
    assert only(plan(desired, observed, 0.0), Leave) == [Leave(1)]
