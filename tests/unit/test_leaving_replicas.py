"""controller.reconcile: a replica leaves, drains and ends; one that hangs is killed."""

from __future__ import annotations

import pytest

from pointsman.controller.failures import Failures
from pointsman.controller.reconcile import (
    ADOPT_TIMEOUT_S,
    LAUNCH_TIMEOUT_S,
    STOP_GRACE_S,
    Drain,
    Kill,
    Leave,
    WakeAt,
    plan,
)
from pointsman.controller.replicas import Phase
from pointsman.controller.state import Desired
from tests.unit.reconciling import backend, numbers, only, replica, see, want


@pytest.mark.parametrize(
    ("left_at", "routers", "now", "drained"),
    [
        (0, {}, 0.0, False),
        (0, {1: 99}, 1.9, False),
        (7, {}, 0.0, True),
        (7, {1: 7, 2: 8}, 0.0, True),
        (7, {1: 7, 2: 6}, 1.9, False),
        (7, {1: 0}, 1.9, False),
        (7, {1: 7, 2: 6}, 2.0, True),
        (0, {1: 1}, 2.0, False),
    ],
)
@pytest.mark.parametrize("deleted", [True, False])
def test_leavers_wait_for_the_routers(
    left_at: int, routers: dict[int, int], now: float, drained: bool, deleted: bool
) -> None:
    """A replica drains when no router can choose it any more, or when the grace of 2 s is over (DR5)."""
    desired = Desired() if deleted else want(backend(1))
    here = [] if deleted else [replica(1)]
    actions = plan(desired, see(*here, replica(2, Phase.LEAVING, left_at=left_at), confirmed=routers), now)
    # Before a table without it is published there is nothing that routers could confirm.
    assert actions == ([Drain(2)] if drained else [WakeAt(2.0)] if left_at else [])


def test_the_grace_is_the_backends_own() -> None:
    """The longest wait for routers is what the backend's config says (DR5)."""
    observed = see(replica(1), replica(2, Phase.LEAVING, left_at=7, since=10.0, drain_confirm_s=0.5), confirmed={1: 6})
    desired = want(backend(1))
    assert plan(desired, observed, 10.4) == [WakeAt(10.5)]
    assert plan(desired, observed, 10.5) == [Drain(2)]


@pytest.mark.parametrize("deleted", [True, False])
def test_drains_end(deleted: bool) -> None:
    """A replica that is still busy at its drain limit is killed, also when its backend is deleted already (DR2)."""
    desired = Desired() if deleted else want(backend(1, drain_timeout_s=1.0))
    here = [] if deleted else [replica(1)]
    observed = see(*here, replica(2, Phase.DRAINING, since=10.0, drain_timeout_s=1.0))
    assert plan(desired, observed, 10.9) == [WakeAt(11.0)]
    (kill,) = only(plan(desired, observed, 11.0), Kill)
    assert kill.number == 2
    assert "drain limit of 1 s" in kill.reason


def test_stopped_processes_end() -> None:
    """A process that was stopped and does not exit is killed after its grace (DR5)."""
    observed = see(replica(1, Phase.STOPPING, since=10.0))
    assert plan(Desired(), observed, 10.0) == [WakeAt(10.0 + STOP_GRACE_S)]
    assert numbers(plan(Desired(), observed, 10.0 + STOP_GRACE_S), Kill) == [1]


def test_code_that_closes_has_its_time() -> None:
    """A replica whose class has ``close`` may take its drain limit for it, besides the grace (CB11, DR5)."""
    observed = see(replica(1, Phase.STOPPING, since=10.0, drain_timeout_s=5.0, has_close=True))
    assert plan(Desired(), observed, 10.0) == [WakeAt(15.0 + STOP_GRACE_S)]
    assert numbers(plan(Desired(), observed, 15.0 + STOP_GRACE_S), Kill) == [1]


@pytest.mark.parametrize(("adopted", "limit_s"), [(False, LAUNCH_TIMEOUT_S), (True, ADOPT_TIMEOUT_S)])
def test_silent_processes_are_killed(adopted: bool, limit_s: float) -> None:
    """A launched or adopted process that never reports is killed when its time is up, and counts until then (FT8)."""
    observed = see(replica(1, Phase.LAUNCHED, since=10.0, adopted=adopted))
    assert plan(want(backend()), observed, 10.0) == [WakeAt(10.0 + limit_s)]
    actions = plan(want(backend()), observed, 10.0 + limit_s)
    assert numbers(actions, Kill) == [1]
    assert f"{limit_s:g} s" in only(actions, Kill)[0].reason


@pytest.mark.parametrize(
    "desired", [Desired(), want(backend(version=2)), want(backend(0))], ids=["deleted", "old", "surplus"]
)
def test_nothing_is_killed_twice(desired: Desired) -> None:
    """A silent process that is not wanted any more either is killed once (FT4)."""
    observed = see(replica(1, Phase.LAUNCHED, since=0.0))
    assert numbers(plan(desired, observed, LAUNCH_TIMEOUT_S), Kill) == [1]


def test_slow_constructors_are_not_killed() -> None:
    """A model that takes an hour to load is waited for (CL6)."""
    assert plan(want(backend()), see(replica(1, Phase.STARTING, config_version=0)), 3600.0) == []


def test_the_earliest_reason_to_wake_counts() -> None:
    """With several things to wait for the plan wakes for the first of them, and says so last (DR5)."""
    observed = see(
        replica(1, Phase.LAUNCHED, since=0.0),
        replica(2, Phase.DRAINING, since=0.0),
        replica(3, Phase.STOPPING, since=0.5),
        failures={"b": Failures(count=2, next_try_alone=2.25)},
    )
    actions = plan(want(backend(2)), observed, 1.0)
    assert actions == [WakeAt(2.25)]


@pytest.mark.parametrize(
    "desired", [Desired(), want(backend(1)), want(backend(1, version=2))], ids=["deleted", "surplus", "old"]
)
def test_adopted_replicas_are_heard_before_they_are_ended(desired: Desired) -> None:
    """After a controller's death a replica that is not wanted any more may be serving: it is asked first (FT8, G1)."""
    unheard = [replica(number, Phase.LAUNCHED, adopted=True) for number in (1, 2)]
    actions = plan(desired, see(*unheard), 0.1)
    assert not only(actions, Kill)
    assert not only(actions, Leave)
