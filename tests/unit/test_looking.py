"""controller.scaling.looking: what a look at a backend sees, and what a new traffic policy means for its calls."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pointsman.controller.replicas import Phase
from pointsman.controller.scaling.looking import (
    Rate,
    Step,
    counted,
    latencies_of,
    learned,
    runs_on_a_loop,
    seen_of,
    slots_of,
    steps,
)
from pointsman.controller.state import Desired
from pointsman.model import ASGI, Autoscaling, EndpointSpec, Scale, TargetTraits, TrafficPolicy
from pointsman.model.evidence import Evidence, Tally, TallyKey
from pointsman.model.scaling import Demand
from pointsman.stats.latency import bucket_of
from pointsman.wire.messages import HealthAnswer
from tests.unit.reconciling import backend, replica, see

AUTO = Autoscaling(max_replicas=9)
SYNC = TargetTraits(is_class=True, one_at_a_time=True)
ASYNC = TargetTraits(is_class=True)
MIXED = TargetTraits(is_class=True, mixed=True)
BATCHES = TargetTraits(is_class=True, batches=True)
APP = TargetTraits(is_class=True, surface=ASGI)


@pytest.mark.parametrize(
    ("traits", "config", "slots", "on_a_loop"),
    [
        (SYNC, {}, 1, False),
        (MIXED, {}, 1, False),
        (ASYNC, {}, 100, True),
        (ASYNC, {"max_concurrent_queries": 8}, 8, True),
        (BATCHES, {"max_batch_size": 16}, 16, False),
        (BATCHES, {"max_batch_size": 16, "max_concurrent_batches": 2}, 32, False),
        (BATCHES, {}, 1, False),
        (APP, {}, 100, True),
    ],
)
def test_what_a_replica_runs_at_once(traits: TargetTraits, config: dict[str, Any], slots: int, on_a_loop: bool) -> None:
    """Sync code runs one call at a time, batches as many as they hold, and async code as many as it may."""
    spec = msgspec.structs.replace(backend(1, **config), traits=traits)
    assert (slots_of(spec), runs_on_a_loop(spec)) == (slots, on_a_loop)


def test_what_a_look_sees() -> None:
    """Replicas that serve and that start are told apart; those that leave, are unhealthy or of no use do not count."""
    busy = replica(1)
    busy.health.answer = HealthAnswer(0, blocked_share=0.75)
    there = [busy, replica(2), replica(3, Phase.STARTING), replica(4, Phase.LEAVING), replica(5, killed=True)]
    demand = Demand(call_s=3.0, waiting=1)
    seen = seen_of(
        backend(1, autoscaling=AUTO), Scale(3, start_s=4.0), see(*there), demand=demand, wanted=3, step=Step(2.0)
    )
    assert (seen.ready, seen.starting, seen.wanted) == (2, 1, 3)
    assert (seen.min_replicas, seen.max_replicas, seen.start_s) == (1, 9, 4.0)
    assert (seen.blocked, seen.share, seen.demand) == (0.75, 2.0, demand)


def test_starts_are_learned_and_rarely_stored() -> None:
    """What a start takes follows those that are seen; about the same as before is no news."""
    assert learned(Scale(1), []) is None
    assert learned(Scale(1), [4.0]) == 4.0
    assert learned(Scale(1, start_s=4.0), [8.0]) == 6.0
    assert learned(Scale(1, start_s=4.0), [4.1]) == 4.0


def test_latencies_are_of_the_last_half_minute() -> None:
    """The slowest calls count by what was measured between two readings, of all endpoints together."""
    fast, slow, other = (bucket_of(seconds) for seconds in (0.01, 0.5, 9.0))
    key, more = TallyKey("e", 1, "b"), TallyKey("f", 1, "b")
    before = Evidence(0.0, {key: Tally(1, 0, {other: 1})})
    after = Evidence(30.0, {key: Tally(99, 0, {other: 1, fast: 97}), more: Tally(3, 0, {slow: 3})})
    found = latencies_of(after, before, ["b", "idle"])
    assert found == {"b": pytest.approx(0.5, rel=0.02)}


def endpoints(**policies: TrafficPolicy) -> dict[str, EndpointSpec]:
    return {name: EndpointSpec(name, None, ("GET",), policy, False) for name, policy in policies.items()}


def state(**policies: TrafficPolicy) -> Desired:
    tags = {tag for policy in policies.values() for tag in (*policy.weights, *policy.shadows)}
    return Desired(1, {tag: backend(1, tag=tag, autoscaling=AUTO) for tag in sorted(tags)}, endpoints(**policies))


def split(shadows: dict[str, float] | None = None, **weights: float) -> TrafficPolicy:
    return TrafficPolicy(1, weights, shadows or {})


BUSY = {"one": Rate(9.0, 900), "two": Rate(1.0, 100)}


def test_a_larger_share_multiplies_calls() -> None:
    """A canary that goes from a tenth to a half gets five times its calls, and the other one five ninths (AS10)."""
    before, after = state(e=split(one=0.9, two=0.1)), state(e=split(one=0.5, two=0.5))
    found = steps(before, after, BUSY)
    assert {tag: step.share for tag, step in found.items()} == {"one": pytest.approx(5 / 9), "two": pytest.approx(5.0)}
    assert steps(before, before, BUSY) == {}


def test_a_version_without_calls_gets_those_of_the_others() -> None:
    """A switch to a version that has had no call, or too few to tell, gives it the other's demand (AS10)."""
    before, after = state(e=split(one=1.0, two=0.0)), state(e=split(one=0.0, two=1.0))
    found = steps(before, after, {"one": Rate(9.0, 900), "two": Rate()})
    assert found["one"] == Step(share=0.0)
    assert found["two"].share == 1.0
    assert found["two"].gains == pytest.approx(9.0)
    few = steps(state(e=split(one=0.99, two=0.01)), after, {"one": Rate(9.0, 900), "two": Rate(0.1, 9)})
    assert few["two"].gains == pytest.approx(9.0, rel=0.02)


def test_shadows_and_other_endpoints() -> None:
    """Copies are calls, too; what other endpoints send is not multiplied (AS10, AS11)."""
    before = state(e=split(one=1.0), f=split(two=1.0))
    after = state(e=split({"two": 0.5}, one=1.0), f=split(two=1.0))
    rates = {"one": Rate(4.0, 400), "two": Rate(2.0, 200)}
    assert steps(before, after, rates) == {"two": Step(share=2.0)}


def test_a_policy_of_ones_own_is_no_step() -> None:
    """Where user code chooses, nobody knows ahead what comes."""
    before = state(e=split(one=0.9, two=0.1))
    own = msgspec.structs.replace(split(one=0.5, two=0.5), custom="anything")
    assert steps(before, state(e=own), BUSY) == {}


def test_who_is_counted() -> None:
    """Routers count for backends that follow calls, and for those beside them at an endpoint; for nobody else."""
    fixed, other = backend(1, tag="fixed"), backend(1, tag="other")
    auto = backend(1, tag="auto", autoscaling=AUTO)
    alone = {"fixed": fixed, "other": other}
    assert counted(Desired(1, alone, endpoints(e=split(fixed=1.0)))) == frozenset()
    mixed = Desired(1, {**alone, "auto": auto}, endpoints(e=split(fixed=0.5, auto=0.5), f=split(other=1.0)))
    assert counted(mixed) == {"auto", "fixed"}
