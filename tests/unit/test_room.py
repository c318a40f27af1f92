"""controller.scaling.room: who gets room where there is too little for all."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pointsman.controller.backends import with_backend
from pointsman.controller.failures import Failures
from pointsman.controller.observed import Observed, free_capacity_of, record_exit
from pointsman.controller.replicas import Phase, Replica
from pointsman.controller.scaling.found import Use
from pointsman.controller.scaling.prospects import blocked_by, prospect_of
from pointsman.controller.scaling.room import Need, Shared, share, to_unload, with_idle
from pointsman.controller.state import Desired, NoCapacityError
from pointsman.engine.orders import ProcessEvent
from pointsman.model import (
    Allocation,
    Autoscaling,
    BackendSpec,
    Capacity,
    EndpointSpec,
    NodeCapacity,
    Resources,
    Scale,
    TrafficPolicy,
)
from pointsman.model.scaling import Blocked, Hold
from tests.unit.reconciling import backend, replica, see, want

TIME = "2026-11-29T12:00:00.000+00:00"
GPU = Resources(num_cpus=0, num_gpus=1)


def scaled(tag: str, least: int = 1, *, priority: int = 0, idle_timeout_s: float | None = None) -> BackendSpec:
    autoscaling = Autoscaling(min_replicas=least, priority=priority)
    return backend(tag=tag, resources=GPU, autoscaling=autoscaling, idle_timeout_s=idle_timeout_s)


def wanting(*specs: BackendSpec, **numbers: int) -> Desired:
    """These backends, and how many replicas are wanted of those that are autoscaled."""
    desired = want(*specs)
    return Desired(9, desired.backends, scales={tag: Scale(number) for tag, number in numbers.items()})


def gpus(count: int, *replicas: Replica) -> Observed:
    return see(*replicas, capacity=Capacity(num_gpus=count))


def on(number: int, tag: str, gpu: int, phase: Phase = Phase.READY, **more: Any) -> Replica:
    return replica(number, phase, tag=tag, resources=GPU, gpus=(gpu,), **more)


def oldest_last(replicas: list[Replica], count: int) -> list[Replica]:
    return sorted(replicas, key=lambda r: -r.number)[: max(0, count)]


def shared(desired: Desired, observed: Observed) -> Shared:
    needs = []
    for tag, spec in desired.backends.items():
        has = len([r for r in observed.of(tag) if r.is_current and not r.killed])
        needs.append(Need(spec, desired.wanted(tag) - has, has))
    ledger = observed.replicas.ledger(observed.capacity)
    found = share(needs, desired, observed, ledger, oldest_last)
    for allocation in found.taken:
        ledger.give_back(allocation)
    observed.validate()
    return found


def counts(found: Shared) -> dict[str, int]:
    return {tag: len(allocations) for tag, allocations in found.launches.items()}


def test_what_fits_starts_and_the_rest_waits() -> None:
    """Five replicas are wanted and three fit: three start, and nothing fails (AS15)."""
    found = shared(wanting(scaled("a"), a=5), gpus(3))
    assert counts(found) == {"a": 3}
    assert found.short == {"a"}
    assert found.leaving == []


def test_equals_get_the_same_part_of_what_they_want() -> None:
    """Two backends that want eight and four share six GPUs by what they want (AS15)."""
    found = shared(wanting(scaled("a"), scaled("b"), a=8, b=4), gpus(6))
    assert counts(found) == {"a": 4, "b": 2}


def test_who_has_the_least_of_what_it_wants_comes_first() -> None:
    """The one free GPU goes to the backend that has one of four, not to the one with two of four (AS15)."""
    observed = gpus(4, on(1, "a", 0), on(2, "a", 1), on(3, "b", 2))
    assert counts(shared(wanting(scaled("a"), scaled("b"), a=4, b=4), observed)) == {"b": 1}


def test_higher_priority_comes_first() -> None:
    """All that is free goes to the more important backend, up to what it wants (AS15)."""
    desired = wanting(scaled("a", 0), scaled("b", 0, priority=1), a=4, b=3)
    assert counts(shared(desired, gpus(4))) == {"b": 3, "a": 1}


DRY = backend(tag="p", resources=GPU, autoscaling=Autoscaling(dry_run=True))


@pytest.mark.parametrize("promised", [backend(2, tag="p", resources=GPU), scaled("p", 2), DRY])
def test_what_was_promised_comes_before_all(promised: BackendSpec) -> None:
    """A replica that has died is replaced before a more important backend grows (AS15)."""
    desired = wanting(promised, scaled("b", priority=9), p=2, b=8)
    observed = gpus(4, on(1, "p", 0), on(2, "b", 1), on(3, "b", 2))
    assert counts(shared(desired, observed)) == {"p": 1}


def test_lower_priority_gives_up_what_it_has_above_its_least() -> None:
    """Where no GPU is free, the less important backend gives up two of its three: one is its min_replicas (AS15)."""
    desired = wanting(scaled("a"), scaled("b", priority=1), a=3, b=4)
    observed = gpus(4, on(1, "a", 0), on(2, "a", 1), on(3, "a", 2), on(4, "b", 3))
    found = shared(desired, observed)
    assert [r.number for r in found.leaving] == [3, 2]
    assert found.short == {"b"}
    assert counts(found) == {}


def test_no_more_leave_than_are_needed() -> None:
    """One replica is missing, so one of lower priority leaves, and none while that is on its way out (AS15)."""
    desired = wanting(scaled("a"), scaled("b", priority=1), a=3, b=2)
    replicas = [on(1, "a", 0), on(2, "a", 1), on(3, "a", 2), on(4, "b", 3)]
    assert [r.number for r in shared(desired, gpus(4, *replicas)).leaving] == [3]
    replicas[2].phase = Phase.DRAINING
    found = shared(desired, gpus(4, *replicas))
    assert found.leaving == []
    assert counts(found) == {}


def test_what_is_freed_for_one_is_not_taken_by_another() -> None:
    """A big replica waits for the second of two GPUs: the first is not given to a less important one (AS15)."""
    big = backend(tag="b", resources=Resources(num_cpus=0, num_gpus=2), autoscaling=Autoscaling(0, priority=1))
    desired = wanting(scaled("a", 0), big, a=4, b=1)
    observed = gpus(2, on(1, "a", 0))
    found = shared(desired, observed)
    assert [r.number for r in found.leaving] == [1]
    assert counts(found) == {}


def test_equals_do_not_drive_each_other_out() -> None:
    """A backend gets no room from one that is as important, nor from a more important one (AS15)."""
    for other in (0, 1):
        desired = wanting(scaled("a", priority=other), scaled("b", 0), a=3, b=2)
        observed = gpus(3, on(1, "a", 0), on(2, "a", 1), on(3, "a", 2))
        found = shared(desired, observed)
        assert (found.leaving, found.short) == ([], {"b"})


def test_copies_come_after_all_users() -> None:
    """A backend that gets copies of calls alone gets what all others leave, whatever its priority (AS11)."""
    policy = TrafficPolicy(1, {"a": 1.0}, shadows={"b": 1.0})
    endpoint = EndpointSpec("e", None, ("GET",), policy)
    desired = wanting(scaled("a", 0), scaled("b", 0, priority=9), a=3, b=3)
    desired = msgspec.structs.replace(desired, endpoints={"e": endpoint})
    assert counts(shared(desired, gpus(4))) == {"a": 3, "b": 1}
    observed = gpus(2, on(1, "b", 0), on(2, "b", 1))
    assert [r.number for r in shared(desired, observed).leaving] == [2, 1]


def test_the_node_with_the_fewest_to_go_is_freed() -> None:
    """On a cluster room must be on one node: one replica that holds it all goes, rather than two (AS15)."""
    nodes = Capacity(num_cpus=0, nodes={name: NodeCapacity(num_cpus=2) for name in ("x", "y")})
    small, whole = Resources(num_cpus=1), Resources(num_cpus=2)
    low, high = Autoscaling(min_replicas=0), Autoscaling(min_replicas=0, priority=1)
    specs = [
        backend(tag="small", resources=small, autoscaling=low),
        backend(tag="whole", resources=whole, autoscaling=low),
        backend(tag="new", resources=whole, autoscaling=high),
    ]
    desired = wanting(*specs, small=2, whole=1, new=1)
    replicas = [replica(n, tag="small", resources=small) for n in (1, 2)] + [replica(3, tag="whole", resources=whole)]
    for one, node in zip(replicas, "xxy", strict=True):
        one.allocation = Allocation(one.allocation.resources, (), node)
    assert [r.number for r in shared(desired, see(*replicas, capacity=nodes)).leaving] == [3]


# --- idle backends --------------------------------------------------------------------------------------------


def idle(observed: Observed, **since: float) -> Observed:
    """These backends were used last then, and ``w`` has found too little room."""
    observed.short.add("w")
    observed.uses.update({tag: Use(at) for tag, at in since.items()})
    return observed


def test_a_wake_unloads_the_least_recently_used() -> None:
    """A backend is called and no GPU is free: of three idle ones the one that was used longest ago goes (ID2)."""
    specs = [scaled(tag, 0) for tag in "abc"]
    desired = wanting(*specs, scaled("w", 0), a=1, b=1, c=1, w=1)
    observed = idle(gpus(3, on(1, "a", 0), on(2, "b", 1), on(3, "c", 2)), a=50, b=40, c=60)
    assert to_unload(desired, observed, 100.0, TIME) == {"b": "w"}


def test_a_wake_unloads_no_more_than_it_needs() -> None:
    """One that needs two GPUs: the older idle one with a single GPU stays where the other frees two (ID2)."""
    two = backend(tag="w", resources=Resources(num_cpus=0, num_gpus=2), idle_timeout_s=60.0)
    desired = wanting(scaled("a", 0), scaled("b", 0), two, a=1, b=2)
    observed = idle(gpus(3, on(1, "a", 0), on(2, "b", 1), on(3, "b", 2)), a=10, b=20)
    assert to_unload(desired, observed, 100.0, TIME) == {"b": "w"}


@pytest.mark.parametrize(
    ("spec", "since", "scale"),
    [
        (scaled("a", 1), 0.0, Scale(1)),
        (scaled("a", 0), 99.5, Scale(1)),
        (scaled("a", 0, priority=1), 0.0, Scale(1)),
        (scaled("a", 0), 0.0, Scale(1, hold=Hold(1, 4e9))),
        (backend(tag="a", resources=GPU), 0.0, None),
        (backend(tag="a", resources=GPU, autoscaling=Autoscaling(0, dry_run=True)), 0.0, Scale(1)),
    ],
    ids=["has a least number", "was used a moment ago", "is more important", "is held", "is not scaled", "is dry"],
)
def test_what_a_wake_leaves_alone(spec: BackendSpec, since: float, scale: Scale | None) -> None:
    """One that may not be at 0, is used, is more important or is held keeps its replicas (ID2)."""
    desired = Desired(9, want(spec, scaled("w", 0)).backends, scales={"w": Scale(1), **({"a": scale} if scale else {})})
    assert to_unload(desired, idle(gpus(1, on(1, "a", 0)), a=since), 100.0, TIME) == {}


def test_a_wake_does_not_unload_what_would_not_help() -> None:
    """Where even all idle backends would not make room, none is unloaded (ID2)."""
    big = backend(tag="w", resources=Resources(num_cpus=0, num_gpus=4), idle_timeout_s=60.0)
    desired = wanting(scaled("a", 0), big, a=1)
    assert to_unload(desired, idle(gpus(2, on(1, "a", 0)), a=0), 100.0, TIME) == {}


def test_nothing_is_unloaded_for_a_rise() -> None:
    """A backend that has its first replica and wants more has to wait until others are unloaded by themselves (ID2)."""
    desired = wanting(scaled("a", 0), scaled("w", 0), a=1, w=3)
    observed = idle(gpus(2, on(1, "a", 0), on(2, "w", 1)), a=0)
    assert to_unload(desired, observed, 100.0, TIME) == {}


def test_nothing_is_unloaded_while_room_is_on_its_way() -> None:
    """The unloaded one drains: no other is unloaded meanwhile (ID2)."""
    desired = wanting(scaled("a", 0), scaled("b", 0), scaled("w", 0), a=0, b=1, w=1)
    observed = idle(gpus(2, on(1, "a", 0, Phase.LEAVING), on(2, "b", 1)), a=0, b=0)
    assert to_unload(desired, observed, 100.0, TIME) == {}


def test_what_blocks_a_backend() -> None:
    """The status says whether room is missing, or replicas fail to start (AS16)."""
    desired, full = wanting(scaled("a"), a=3), gpus(1, on(1, "a", 0))
    blocked = blocked_by("a", desired, full)
    assert blocked is not None
    assert (blocked.reason, blocked.text) == (
        "room",
        "no room for 2 of 3 replicas: asked for 2 x (num_cpus=0, num_gpus=1), free: num_gpus=0, memory=0",
    )
    assert blocked_by("a", desired, gpus(3, on(1, "a", 0))) is None
    full.failures["a"] = Failures(count=3, starts=3, error="OSError", text="disk is full")
    blocked = blocked_by("a", desired, full)
    assert blocked is not None
    assert blocked == Blocked("start", "its replicas fail to start: OSError: disk is full")
    assert blocked_by("a", wanting(scaled("a"), a=1), full) is None


def test_a_replica_that_has_served_clears_its_backends_failures() -> None:
    """A backend whose first starts failed, which then served and was unloaded, is woken as any other (AS14)."""
    desired, observed = wanting(scaled("a", 0), a=0), gpus(1, on(1, "a", 0, Phase.STOPPING))
    observed.replicas[1].served = True
    observed.failures["a"] = Failures(count=3, starts=3, next_try_alone=50.0)
    assert prospect_of("a", desired, observed).refused_until == 50.0
    record_exit(observed, desired, ProcessEvent("exited", 1, exit="exited with code 0"), 60.0)
    assert prospect_of("a", desired, observed).refused_until == 0.0


# --- checks of changes ----------------------------------------------------------------------------------------


def room_for(new: BackendSpec, desired: Desired, observed: Observed) -> bool:
    """Whether a new backend with one replica is accepted."""
    free = with_idle(free_capacity_of(observed), desired, observed, 100.0, TIME)
    try:
        with_backend(desired, new, free, now=TIME)
    except NoCapacityError:
        return False
    return True


def test_idle_backends_count_as_free() -> None:
    """A new backend is accepted where an idle one holds the last GPU and may be without replicas (ID2, RM3)."""
    desired, observed = wanting(scaled("a", 0), a=1), gpus(1, on(1, "a", 0))
    new = backend(tag="n", resources=GPU)
    assert not room_for(new, desired, observed)
    assert room_for(new, desired, idle(observed, a=50))
    assert not room_for(new, wanting(scaled("a", 0, priority=1), a=1), observed)


def test_what_lower_priority_has_above_its_least_counts_as_free() -> None:
    """A new backend of higher priority is accepted where others have more than their min_replicas (AS15, RM3)."""
    desired = wanting(scaled("a"), a=2)
    observed = gpus(2, on(1, "a", 0), on(2, "a", 1))
    assert room_for(scaled("n", priority=1), desired, observed)
    assert not room_for(scaled("n"), desired, observed)
    assert not room_for(scaled("n", 2, priority=1), desired, observed)
