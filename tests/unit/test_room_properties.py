"""controller.scaling.room: what holds of every way in which room is given out, on many drawn states."""

from __future__ import annotations

import random

import pytest

from pointsman.controller.allocation import CapacityLedger
from pointsman.controller.observed import Observed
from pointsman.controller.replicas import Phase
from pointsman.controller.scaling.found import Use
from pointsman.controller.scaling.room import Need, Standing, promised, share, to_unload
from pointsman.controller.state import Desired
from pointsman.model import Allocation, Autoscaling, BackendSpec, Capacity, NodeCapacity, Resources, Scale
from tests.properties import tries
from tests.unit.reconciling import backend, replica, see, want

TIME = "2026-11-29T12:00:00.000+00:00"
NOW = 100.0
WORLDS = tries(400, 20_000)


def drawn(seed: int) -> tuple[Desired, Observed]:
    """A cluster of one to three nodes, and backends of which some have their replicas."""
    chance = random.Random(seed)
    nodes = {name: NodeCapacity(num_cpus=chance.randint(1, 6), custom={"disk": chance.randint(0, 2)}) for name in "xyz"}
    capacity = Capacity(nodes=dict(list(nodes.items())[: chance.randint(1, 3)]))
    specs: list[BackendSpec] = []
    scales: dict[str, Scale] = {}
    for tag in "abcde"[: chance.randint(2, 5)]:
        resources = Resources(
            num_cpus=chance.choice([0.5, 1, 1, 2, 3]), custom={"disk": chance.choice([0, 0, 0, 0.5, 1])}
        )
        if chance.random() < 0.3:
            specs.append(backend(chance.randint(1, 2), tag=tag, resources=resources))
            continue
        least = chance.randint(0, 2)
        rule = Autoscaling(min_replicas=least, max_replicas=9, priority=chance.randint(0, 2))
        specs.append(backend(tag=tag, resources=resources, autoscaling=rule))
        scales[tag] = Scale(chance.randint(least, 6))
    desired = Desired(9, want(*specs).backends, scales=scales)
    ledger, replicas = CapacityLedger(capacity, []), []
    for number in range(1, chance.randint(1, 9)):
        spec = chance.choice(specs)
        allocation = ledger.place(spec.resources)
        if allocation is not None:
            one = replica(number, chance.choice([Phase.READY] * 4 + [Phase.STARTING, Phase.DRAINING]), tag=spec.tag)
            one.allocation = allocation
            replicas.append(one)
    observed = see(*replicas, capacity=capacity)
    observed.uses.update({tag: Use(chance.uniform(0.0, NOW)) for tag in scales})
    observed.short.update(desired.backends)
    return desired, observed


def there(observed: Observed, tag: str) -> list[Allocation]:
    return [one.allocation for one in observed.of(tag) if one.is_current]


@pytest.mark.slow
def test_room_is_given_out_by_its_rules() -> None:
    """Nothing is given out twice, nobody gets more than is wanted or loses what it was promised, what fits starts, and
    what leaves makes room for somebody of higher standing (AS15)."""
    for seed in range(WORLDS):
        desired, observed = drawn(seed)
        needs = [
            Need(spec, desired.wanted(tag) - len(there(observed, tag)), len(there(observed, tag)))
            for tag, spec in desired.backends.items()
            if desired.wanted(tag) > len(there(observed, tag))
        ]
        ledger = observed.replicas.ledger(observed.capacity)
        found = share(needs, desired, observed, ledger, lambda some, count: some[: max(0, count)])
        for allocation in found.taken:
            ledger.give_back(allocation)
        observed.validate()
        standing, missing = Standing(desired), {need.spec.tag: need.missing for need in needs}
        for tag, allocations in found.launches.items():
            assert len(allocations) <= missing[tag], seed
            for allocation in allocations:
                ledger.take(allocation)
        free = min(amount for node in ledger._nodes.values() for amount in (node._cpus or 0.0, *node._custom.values()))
        assert free >= -1e-6, f"seed {seed}: more is given out than there is"
        withheld = len(found.taken) - sum(map(len, found.launches.values()))
        for tag in found.short:
            if not withheld:
                assert ledger.place(desired.backends[tag].resources) is None, f"seed {seed}: {tag} would fit"
        for allocations in found.launches.values():
            for allocation in allocations:
                ledger.give_back(allocation)
        best = max((standing.of(desired.backends[tag]) for tag in found.short), default=None)
        for tag in {one.backend for one in found.leaving}:
            assert best is not None, seed
            assert standing.of(desired.backends[tag]) < best, f"seed {seed}: {tag} leaves for nobody"
            left = len(there(observed, tag)) - sum(one.backend == tag for one in found.leaving)
            assert left >= promised(tag, desired), f"seed {seed}: {tag} loses what it was promised"


@pytest.mark.slow
def test_idle_backends_make_room_by_its_rules() -> None:
    """Only idle backends go, that may be without replicas, for somebody of no lower standing; and none goes without
    which the others' room would suffice (ID2)."""
    unloaded = 0
    for seed in range(WORLDS):
        desired, observed = drawn(seed)
        found = to_unload(desired, observed, NOW, TIME)
        unloaded += len(found)
        standing = Standing(desired)
        for tag, starting in found.items():
            assert NOW - observed.uses[tag].since >= 1.0, seed
            autoscaling = desired.backends[tag].config.autoscaling
            assert autoscaling is not None, seed
            assert autoscaling.min_replicas == 0, seed
            assert standing.of(desired.backends[tag]) <= standing.of(desired.backends[starting]), seed
        if len(starters := [tag for tag in desired.backends if first_missing(desired, observed, tag) > 0]) == 1:
            (starting,) = starters
            for spared in found:
                gained = placed(desired, observed, found.keys(), starting)
                assert placed(desired, observed, found.keys() - {spared}, starting) < gained, (
                    f"seed {seed}: {spared} goes in vain"
                )
    assert unloaded > WORLDS / 100, "hardly any world has idle backends to unload"


def placed(desired: Desired, observed: Observed, gone: set[str] | dict[str, str], tag: str) -> int:
    """How many of a backend's first replicas find room once others are gone."""
    stays = [one.allocation for one in observed.replicas.values() if one.is_current and one.backend not in gone]
    ledger = CapacityLedger(observed.capacity, stays)
    missing = first_missing(desired, observed, tag)
    return sum(ledger.place(desired.backends[tag].resources) is not None for _ in range(missing))


def first_missing(desired: Desired, observed: Observed, tag: str) -> int:
    return min(desired.wanted(tag), max(1, promised(tag, desired))) - len(there(observed, tag))
