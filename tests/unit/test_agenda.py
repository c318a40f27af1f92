"""controller.agenda: what an event concerns is planned, all of it and nothing else."""

from __future__ import annotations

from pointsman.controller.agenda import Agenda
from pointsman.controller.observed import Observed
from pointsman.controller.reconcile import Action, Drain, Launch, WakeAt, plan_for
from pointsman.controller.replicas import Phase
from pointsman.controller.state import Desired
from pointsman.model import Capacity
from tests.unit.reconciling import GPU, backend, replica, see, want


def planned(agenda: Agenda, desired: Desired, observed: Observed, now: float = 0.0) -> dict[str, list[Action]]:
    """What is planned now, by backend that is due."""
    found = {}
    for tag in agenda.take(desired, now):
        found[tag] = plan_for([tag], desired, observed, now)
        agenda.note(found[tag])
    return found


def test_an_event_concerns_its_own_backend() -> None:
    """A replica of one backend among a thousand reports: the controller looks at that backend alone."""
    desired = want(*(backend(tag=f"b{number}") for number in range(1000)))
    agenda = Agenda()
    agenda.touch(*desired.backends)
    observed = see()
    assert len(agenda.take(desired, 0.0)) == 1000
    agenda.touch("b7")
    assert list(planned(agenda, desired, observed)) == ["b7"]
    assert planned(agenda, desired, observed) == {}


def test_who_lacks_a_gpu_gets_it_when_one_is_free() -> None:
    """A backend that waits for a GPU is looked at when one may be free, whoever held it, and in the order in which
    backends were created (RM3)."""
    one, two = backend(tag="one", resources=GPU), backend(tag="two", resources=GPU)
    desired, capacity = want(one, two), Capacity(num_gpus=1)
    holder = replica(1, Phase.READY, tag="gone", resources=GPU, gpus=(0,))
    observed = see(holder, capacity=capacity)
    agenda = Agenda()
    agenda.touch("two", "one")
    assert not any(
        isinstance(action, Launch) for some in planned(agenda, desired, observed).values() for action in some
    )
    assert planned(agenda, desired, observed) == {}
    observed.replicas.pop(1)
    agenda.resources_changed()
    due = agenda.take(desired, 0.0)
    assert due == ["one", "two"]
    actions = plan_for(due, desired, observed, 0.0)
    assert [action.spec.tag for action in actions if isinstance(action, Launch)] == ["one"]
    observed.validate()


def test_a_replica_that_leaves_waits_for_routers_or_for_its_time() -> None:
    """Routers that confirm a table are what a leaving replica waits for; other backends do not care (DR3)."""
    leaving = replica(1, Phase.LEAVING, tag="b")
    leaving.left_at, leaving.since, leaving.drain_confirm_s = 7, 10.0, 2.0
    observed, desired = see(leaving, replica(2, tag="c"), confirmed={1: 6}), want(backend(tag="c"))
    agenda = Agenda()
    agenda.touch("b", "c")
    planned(agenda, desired, observed, 10.0)
    assert agenda.next_time == 12.0
    observed.confirmed[1] = 7
    agenda.routers_changed()
    assert planned(agenda, desired, observed, 10.5) == {"b": [Drain(1)]}
    observed.confirmed[1] = 6
    agenda.touch("b")
    assert planned(agenda, desired, observed, 10.5) == {"b": [WakeAt(12.0, "b", routers=True)]}
    assert planned(agenda, desired, observed, 11.9) == {}
    assert planned(agenda, desired, observed, 12.0) == {"b": [Drain(1)]}
