"""controller.reconcile: new code and new configs reach the replicas while others serve."""

from __future__ import annotations

import pytest

from pointsman.controller.observed import Observed
from pointsman.controller.reconcile import Configure, Confirm, Kill, Launch, Leave, plan
from pointsman.controller.replicas import Phase, Replica
from pointsman.model import Capacity
from tests.unit.reconciling import GPU, backend, numbers, only, replica, see, want


@pytest.mark.parametrize(
    ("new", "launches", "leaves"),
    [
        ([], 2, []),
        ([Phase.STARTING], 1, []),
        ([Phase.STARTING, Phase.STARTING], 0, []),
        ([Phase.READY, Phase.STARTING], 0, [2]),
        ([Phase.READY, Phase.READY], 0, [2, 1]),
    ],
)
def test_new_versions_come_up_before_old_ones_go(new: list[Phase], launches: int, leaves: list[int]) -> None:
    """On a deploy each old replica leaves once a new one serves in its place, the newest first (DP3, DP5)."""
    fresh = (replica(number, phase, version=2, config_version=2) for number, phase in enumerate(new, 3))
    actions = plan(want(backend(2, version=2)), see(replica(1), replica(2), *fresh), 1.0)
    assert len(only(actions, Launch)) == launches
    assert numbers(actions, Leave) == leaves
    assert not only(actions, Kill)


def test_a_new_version_that_lacks_its_config_is_not_up() -> None:
    """An old replica stays until the new one has applied the newest configuration too (DP3, RC2)."""
    new = replica(2, version=2, config_version=2)
    actions = plan(want(backend(version=2, config_version=3)), see(replica(1), new), 1.0)
    assert not only(actions, Leave)
    assert numbers(actions, Configure) == [2]


def test_starting_replicas_of_an_old_version_are_not_waited_for() -> None:
    """A replica of an old version that still starts is dropped once the new version is up (DP3)."""
    observed = see(replica(1, Phase.STARTING), replica(2, version=2, config_version=2))
    assert numbers(plan(want(backend(version=2)), observed, 1.0), Kill) == [1]


def full_house(**phases: Phase) -> Observed:
    """Two GPUs, each held by an old replica in the given phase; those not given have gone."""
    here = [replica(int(n[1:]), phase, resources=GPU, gpus=(int(n[1:]) - 1,)) for n, phase in phases.items()]
    for leaver in here:
        leaver.left_at = 5
    return see(*here, capacity=Capacity(num_gpus=2), confirmed={1: 4})


def test_without_room_one_old_replica_makes_way() -> None:
    """When every GPU is taken, a deploy takes out one old replica, the newest, and launches none yet (DP5)."""
    actions = plan(want(backend(2, version=2, resources=GPU)), full_house(r1=Phase.READY, r2=Phase.READY), 1.0)
    assert numbers(actions, Leave) == [2]
    assert not only(actions, Launch)


@pytest.mark.parametrize("phase", [Phase.LEAVING, Phase.DRAINING, Phase.STOPPING])
def test_while_one_makes_way_the_others_serve(phase: Phase) -> None:
    """While the first old replica is on its way out, the second one keeps serving (DP5)."""
    actions = plan(want(backend(2, version=2, resources=GPU)), full_house(r1=Phase.READY, r2=phase), 1.0)
    assert not only(actions, Leave)
    assert not only(actions, Launch)


def test_while_one_is_being_killed_the_others_serve() -> None:
    """While an old replica that was killed has not exited, the second one keeps serving (DP5)."""
    observed = full_house(r1=Phase.READY, r2=Phase.DRAINING)
    observed.replicas[2].killed = True
    assert plan(want(backend(2, version=2, resources=GPU)), observed, 1.0) == []


def test_room_that_was_made_is_used() -> None:
    """When the first old replica has gone, its GPU gets a new one, and the second old one still serves (DP5)."""
    actions = plan(want(backend(2, version=2, resources=GPU)), full_house(r1=Phase.READY), 1.0)
    assert [launch.allocation.gpus for launch in only(actions, Launch)] == [(1,)]
    assert not only(actions, Leave)


@pytest.mark.parametrize(
    ("phase", "leaves"), [(Phase.LAUNCHED, []), (Phase.STARTING, []), (Phase.READY, [1])], ids=lambda v: str(v)
)
def test_the_next_one_makes_way_when_the_first_new_one_serves(phase: Phase, leaves: list[int]) -> None:
    """The second old replica goes when the first new one serves, not while it is still starting (DP5)."""
    observed = full_house(r1=Phase.READY)
    observed.replicas[3] = replica(3, phase, version=2, config_version=2, resources=GPU, gpus=(1,))
    actions = plan(want(backend(2, version=2, resources=GPU)), observed, 1.0)
    assert numbers(actions, Leave) == leaves
    assert not only(actions, Launch)


@pytest.mark.parametrize(
    ("there", "starting", "confirmed"),
    [
        ([replica(1), replica(2)], True, True),
        ([replica(1), replica(2)], False, False),
        ([replica(1), replica(2, Phase.STARTING)], True, False),
        ([replica(1), replica(2, config_version=0)], True, False),
        ([replica(1), replica(2, version=0)], True, False),
        ([replica(1), replica(2), replica(3)], True, True),
    ],
)
def test_changes_are_confirmed_when_they_have_come_up(there: list[Replica], starting: bool, confirmed: bool) -> None:
    """A change has come up when as many replicas as wanted serve the new version with the new config (CB9, RC2)."""
    actions = plan(want(backend(2), starting=starting), see(*there), 1.0)
    assert only(actions, Confirm) == ([Confirm("b")] if confirmed else [])


def test_running_replicas_are_told_new_configs_once() -> None:
    """Serving replicas that have not been told of the newest config are; the others are not told again (SO5, RC7)."""
    desired = want(backend(5, config_version=3))
    observed = see(
        replica(1, config_version=1),
        replica(2, config_version=1, sent_version=3),
        replica(3, config_version=3),
        replica(4, Phase.STARTING, config_version=0, sent_version=1),
        replica(5, config_version=1, killed=True),
    )
    actions = plan(desired, observed, 1.0)
    assert numbers(actions, Configure) == [1]
    assert not only(actions, Leave)


@pytest.mark.parametrize(
    ("versions", "told"),
    [
        ([(1, 1)], [1]),
        ([(1, 1), (1, 1)], [1]),
        ([(1, 2), (1, 1)], []),
        ([(2, 2), (1, 1)], [2]),
        ([(1, 1), (1, 1), (1, 1)], [1, 2]),
        ([(1, 1), (1, 2), (2, 2), (1, 1), (1, 1)], [1, 4]),
        ([(2, 2), (2, 2), (1, 1)], [3]),
    ],
    ids=str,
)
def test_half_of_the_replicas_take_a_user_config_at_a_time(versions: list[tuple[int, int]], told: list[int]) -> None:
    """While some replicas take a new ``user_config`` as many take new work; a single one has no others (RC9)."""
    replicas = [
        replica(number, config_version=applied, sent_version=told) for number, (applied, told) in enumerate(versions, 1)
    ]
    desired = want(backend(len(replicas), config_version=2, user_config=b"new"), starting=True)
    configures = only(plan(desired, see(*replicas), 1.0), Configure)
    assert configures == [Configure(number, others=len(replicas) > 1) for number in told]
