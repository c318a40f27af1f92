"""controller.reconcile in a small world: whatever happens, all is as wanted in the end."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pointsman.controller.reconcile import is_settled, plan
from pointsman.model import BackendConfigSpec, Capacity, Resources
from pointsman.wire.commands import CreateBackend, CreateEndpoint, DeleteBackend, Deploy, SetTraffic
from tests.properties import examples
from tests.unit.reconciling import GPU, ORIGIN, TRAITS
from tests.unit.small_world import World, some_command


@pytest.mark.slow
@examples(80)
@given(seed=st.integers(0, 2**32))
def test_whatever_operators_do_no_replica_is_missed(seed: int) -> None:
    """Through deploys, scalings and bad versions a backend never serves with fewer than it should (DP3, DP6, SO11)."""
    world = World(seed, capacity=Capacity())
    for _ in range(25):
        world.change(some_command(world, tags="ab", resources=Resources(), most=4))
        world.run(world.now + world.chance.choice([0.0, 0.1, 1.0, 10.0]))
    world.assert_settled()


@pytest.mark.slow
@examples(60)
@given(seed=st.integers(0, 2**32))
def test_without_room_versions_are_swapped_one_by_one(seed: int) -> None:
    """With every GPU taken a deploy costs one replica at a time, and ends with all of them new (DP5)."""
    world = World(seed, capacity=Capacity(num_gpus=3))
    world.slack = 1
    create = CreateBackend("id", "a", "good", ORIGIN, TRAITS, BackendConfigSpec(num_replicas=3), GPU)
    world.change(create)
    world.run(float("inf"))
    assert world.floor == {"a": 3}
    for number in range(3):
        code = "bad" if world.chance.random() < 0.3 else f"good {number}"
        world.change(Deploy("id", "a", code, ORIGIN, TRAITS, {}, None, GPU, None, None, None))
        world.run(float("inf"))
        world.assert_settled()
        assert len(world.observed.replicas) == 3


@pytest.mark.slow
@examples(80)
@given(seed=st.integers(0, 2**32), gpus=st.integers(1, 4))
@example(seed=170600, gpus=1)  # both routers miss the table that a replica has left
def test_whatever_crashes_all_is_as_wanted_in_the_end(seed: int, gpus: int) -> None:
    """Processes die, hang and go silent, the controller too, and when that ends all is as wanted (FT3, FT6, FT8)."""
    world = World(seed, capacity=Capacity(num_gpus=gpus), crash=True)
    for _ in range(25):
        resources = Resources(num_cpus=0, num_gpus=world.chance.choice([0.0, 0.5, 1.0]))
        world.change(some_command(world, tags="ab", resources=resources, most=3))
        world.run(world.now + world.chance.choice([0.0, 0.1, 1.0, 20.0]))
        if world.chance.random() < 0.2:
            world.restart_controller()
            world.step()
    world.crash = False
    world.bad.clear()
    world.run(float("inf"))
    for tag in world.desired.backends:
        # Room may have been promised twice while replicas were dying; what fits must run.
        missing = plan(world.desired, world.observed, world.now)
        assert missing == [], f"{tag!r}: {missing}"
    world.observed.validate()


def test_a_canary_in_the_small_world() -> None:
    """New backend, traffic over to it, old one deleted: each step comes to rest, and the old one is gone (RU1, TR5)."""
    world = World(1, capacity=Capacity())
    for tag in ("old", "new"):
        world.change(CreateBackend("id", tag, "good", ORIGIN, TRAITS, BackendConfigSpec(num_replicas=2), Resources()))
        world.assert_settled()
    world.change(CreateEndpoint("id", "e", "old", "/e", ("GET",), False))
    world.change(SetTraffic("id", "e", {"new": 1.0}))
    world.change(DeleteBackend("id", "old", False))
    assert not is_settled(world.desired, world.observed, "old")
    world.assert_settled()
    assert {r.backend for r in world.observed.replicas.values()} == {"new"}
    assert msgspec.structs.asdict(world.desired.endpoints["e"].policy)["weights"] == {"new": 1.0}


def test_a_replica_launched_before_a_failed_deploy_still_comes_up() -> None:
    """A replica that was just starting when a bad version was deployed is not forgotten on the way back (DP6, FT3)."""
    world = World(1, capacity=Capacity())
    world.change(CreateBackend("id", "a", "good", ORIGIN, TRAITS, BackendConfigSpec(num_replicas=3), Resources()))
    world.assert_settled()
    world.exited(1)
    world.floor.clear()
    world.step()
    assert len(world.observed.replicas) == 3
    world.change(Deploy("id", "a", "bad", ORIGIN, TRAITS, {}, None, Resources(), None, None, None))
    world.assert_settled()
    assert world.desired.backends["a"].code == "good"
