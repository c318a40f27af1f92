"""controller.reconcile: as many replicas run as are wanted, no more and no fewer."""

from __future__ import annotations

import pytest

from pointsman.controller.observed import Observed
from pointsman.controller.reconcile import Kill, Launch, Leave, WakeAt, is_settled, plan
from pointsman.controller.replicas import LastHealth, Phase, Replica, Replicas
from pointsman.controller.state import Desired
from pointsman.model import Capacity, Resources
from pointsman.wire.messages import HealthAnswer
from tests.unit.reconciling import GPU, backend, only, replica, see, want


@pytest.mark.parametrize(
    ("there", "launches"),
    [
        ([], 3),
        ([Phase.LAUNCHED], 2),
        ([Phase.STARTING, Phase.READY], 1),
        ([Phase.LAUNCHED, Phase.STARTING, Phase.READY], 0),
        ([Phase.LEAVING, Phase.DRAINING, Phase.STOPPING], 3),
        ([Phase.READY, Phase.READY, Phase.READY, Phase.STOPPING], 0),
    ],
)
def test_launches_up_to_what_is_wanted(there: list[Phase], launches: int) -> None:
    """Three replicas are wanted: what starts or serves counts, what is on its way out does not (CB9, SO6)."""
    observed = see(*(replica(number, phase) for number, phase in enumerate(there, 1)))
    actions = plan(want(backend(3)), observed, 1.0)
    assert len(only(actions, Launch)) == launches
    assert not only(actions, Leave)
    assert not [action for action in only(actions, Kill) if observed.replicas[action.number].is_current]


def test_nothing_to_do() -> None:
    """When all is as wanted, nothing is done and nothing is waited for (SO5)."""
    assert plan(want(backend(2)), see(replica(1), replica(2)), 5.0) == []


def test_killed_replicas_are_replaced() -> None:
    """A replica that was told to die no longer counts, and is not killed again (FT3)."""
    actions = plan(want(backend()), see(replica(1, killed=True)), 1.0)
    assert len(only(actions, Launch)) == 1
    assert not only(actions, Kill)


@pytest.mark.parametrize(
    ("there", "keep", "gone"),
    [
        ({1: Phase.READY, 2: Phase.READY, 3: Phase.READY}, 1, [3, 2]),
        ({1: Phase.STARTING, 2: Phase.READY, 3: Phase.READY}, 2, [1]),
        ({1: Phase.STARTING, 2: Phase.READY, 3: Phase.LAUNCHED}, 1, [3, 1]),
        ({1: Phase.READY, 2: Phase.STARTING, 3: Phase.READY, 4: Phase.STARTING}, 1, [4, 2, 3]),
    ],
)
def test_who_goes_first(there: dict[int, Phase], keep: int, gone: list[int]) -> None:
    """On a scale-down replicas that still start go first, then the newest; serving ones leave in order (SO2, SO8)."""
    actions = plan(want(backend(keep)), see(*(replica(number, phase) for number, phase in there.items())), 1.0)
    going = [action for action in actions if isinstance(action, (Leave, Kill))]
    assert [action.number for action in going] == gone
    for action in going:
        assert isinstance(action, Leave) == (there[action.number] is Phase.READY)


@pytest.mark.parametrize(
    ("held", "keep", "gone"),
    [
        ({1: (7, 8), 2: (7, 8), 3: (9,)}, 2, [2]),
        ({1: (7, 8), 2: (7, 9), 3: (8, 9)}, 2, [3]),
        ({1: (7, 8), 2: (7, 9), 3: (8, 9)}, 1, [3, 2]),
        ({1: (), 2: (7,), 3: (8,)}, 2, [1]),
        ({1: (5, 6), 2: (7,), 3: (8, 9)}, 2, [2]),
    ],
)
def test_models_that_others_hold_go_first(held: dict[int, tuple[int, ...]], keep: int, gone: list[int]) -> None:
    """A scale-down takes the replica all of whose models others hold, or with the fewest that no other has; of several,
    one after the other, so that no model goes with two that held it for each other (MX10)."""
    replicas = [
        replica(number, health=LastHealth(answer=HealthAnswer(load=0, models=models)))
        for number, models in held.items()
    ]
    if not held[1]:
        replicas[0].health.answer = HealthAnswer(load=50)
    actions = plan(want(backend(keep)), see(*replicas), 1.0)
    assert [action.number for action in only(actions, Leave)] == gone


def test_launches_take_what_is_free() -> None:
    """Two backends that start together get different GPUs, and what does not fit is not launched (RM3, FR1)."""
    desired = want(backend(2, tag="a", resources=GPU), backend(2, tag="b", resources=GPU))
    observed = see(replica(1, tag="a", resources=GPU, gpus=(1,)), capacity=Capacity(num_gpus=3))
    launches = only(plan(desired, observed, 1.0), Launch)
    assert [(launch.spec.tag, launch.allocation.gpus) for launch in launches] == [("a", (2,)), ("b", (0,))]


def test_what_still_runs_holds_its_share() -> None:
    """A replica on its way out holds its GPU to the end: nobody else is launched on it (FR4)."""
    for phase in (Phase.LEAVING, Phase.DRAINING, Phase.STOPPING):
        leaver = replica(1, phase, tag="gone", resources=GPU, gpus=(0,))
        observed = see(leaver, capacity=Capacity(num_gpus=1))
        assert not only(plan(want(backend(resources=GPU)), observed, 1.0), Launch)


@pytest.mark.parametrize(
    ("phase", "expected"),
    [(Phase.LAUNCHED, Kill), (Phase.STARTING, Kill), (Phase.READY, Leave), (Phase.STOPPING, None)],
)
def test_replicas_of_a_deleted_backend_go(phase: Phase, expected: type | None) -> None:
    """When its backend is deleted a serving replica leaves in order, and one that starts is killed (DR5)."""
    actions = [a for a in plan(Desired(), see(replica(1, phase)), 1.0) if not isinstance(a, WakeAt)]
    assert [type(action) for action in actions] == ([expected] if expected else [])


# --- what is settled, what is consistent ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "starting", "settled"),
    [
        ([replica(1), replica(2)], False, True),
        ([replica(1), replica(2)], True, False),
        ([replica(1)], False, False),
        ([replica(1), replica(2, Phase.STARTING)], False, False),
        ([replica(1), replica(2), replica(3, Phase.STOPPING)], False, False),
        ([replica(1), replica(2, version=2)], False, False),
        ([replica(1), replica(2, config_version=0)], False, False),
        ([replica(1), replica(2), replica(3, tag="other")], False, True),
    ],
)
def test_settled_means_exactly_as_wanted(there: list[Replica], starting: bool, settled: bool) -> None:
    """A call that waits for a backend returns when nothing starts, nothing is left over, nothing can go back (SO7)."""
    assert is_settled(want(backend(2), starting=starting), see(*there), "b") == settled


def test_a_deleted_backend_is_settled_when_it_is_gone() -> None:
    """A delete returns when the last replica has gone (DR1, SO7)."""
    assert is_settled(Desired(), see(replica(1, tag="other")), "b")
    assert not is_settled(Desired(), see(replica(1, Phase.STOPPING)), "b")


@pytest.mark.parametrize(
    "broken",
    [
        [replica(1, resources=GPU, gpus=(0,)), replica(2, resources=GPU, gpus=(0,))],
        [
            replica(1, resources=Resources(num_gpus=0.6), gpus=(0,)),
            replica(2, resources=Resources(num_gpus=0.5), gpus=(0,)),
        ],
    ],
)
def test_double_use_of_a_gpu_is_noticed(broken: list[Replica]) -> None:
    """A picture in which two replicas hold the same GPU is recognised as wrong (FR4)."""
    with pytest.raises(AssertionError, match="more than once"):
        Observed(replicas=Replicas({r.number: r for r in broken})).validate()


def test_double_tags_are_noticed() -> None:
    """A picture in which two replicas have one tag is recognised as wrong (IN13)."""
    twin = replica(2)
    twin.tag = "b#1"
    with pytest.raises(AssertionError, match="share a tag"):
        Observed(replicas=Replicas({1: replica(1), 2: twin})).validate()
