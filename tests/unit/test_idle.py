"""controller.scaling.idle: what is used, for how long a backend has not been, and what follows."""

from __future__ import annotations

from typing import Any

import pytest

from pointsman.controller.failures import Failures
from pointsman.controller.observed import Observed, record_commit
from pointsman.controller.replicas import Phase
from pointsman.controller.scaling.found import Looked
from pointsman.controller.scaling.idle import falls_asleep, idle_s, is_called, keeps_one, look
from pointsman.controller.scaling.sleeping import woken_and_unloaded
from pointsman.controller.state import Desired, Fallback
from pointsman.model import Autoscaling, Scale
from pointsman.model.scaling import Demand, Hold
from tests.unit.reconciling import backend, replica, see, want

TIME = "2026-11-29T12:00:00.000+00:00"
HELD = Hold(0, 4e9)
NOTHING = Demand()


def sleeping(scale: Scale | None = None, **config: Any) -> Desired:
    """A backend that may sleep, and what is remembered of its number."""
    given = config or {"idle_timeout_s": 10.0}
    desired = want(backend(given.pop("num_replicas", 1), tag="b", **given))
    return Desired(9, desired.backends, scales={"b": scale} if scale else {})


def looked(observed: Observed, *words: tuple[float, Demand]) -> None:
    for at, demand in words:
        look("b", demand, observed, at)


def test_idle_since_the_last_call() -> None:
    """The time begins anew with each call, also with one that came and ended between two looks (ID1)."""
    desired, observed = sleeping(), see(replica(1))
    looked(observed, (0.0, NOTHING), (5.0, NOTHING))
    assert idle_s("b", observed, 5.0) == 5.0
    looked(observed, (6.0, Demand(call_s=0.1, arrivals=1)))
    assert idle_s("b", observed, 6.0) == 0.0
    looked(observed, (7.0, Demand(call_s=1.1, arrivals=1, running=1)), (9.0, Demand(call_s=3.1, arrivals=1)))
    assert idle_s("b", observed, 10.0) == 1.0
    assert not falls_asleep("b", desired, observed, 18.9, TIME, silent=False)
    assert falls_asleep("b", desired, observed, 19.0, TIME, silent=False)


def test_a_deleted_backend_leaves_nothing_to_one_of_its_name() -> None:
    """A backend that is deleted and created again begins anew, though nobody has looked between (ID1)."""
    desired, observed = sleeping(), see(replica(1))
    looked(observed, (0.0, NOTHING))
    observed.looked["b"] = Looked()
    record_commit(observed, desired, Desired(10), [], 1.0)
    assert (observed.looked, observed.uses) == ({}, {})


def test_a_long_stream_is_a_call_to_its_end() -> None:
    """A backend with one open stream is not unloaded, however long that is silent (ID1)."""
    desired, observed = sleeping(), see(replica(1))
    for at in range(0, 100, 5):
        looked(observed, (float(at), Demand(call_s=float(at), arrivals=1, running=1)))
    assert not falls_asleep("b", desired, observed, 100.0, TIME, silent=False)


def test_the_time_begins_when_a_replica_is_ready() -> None:
    """A model that loads for longer than its idle_timeout_s is not unloaded before it has served (ID1)."""
    starting = replica(1, Phase.STARTING)
    desired, observed = sleeping(), see(starting)
    looked(observed, (0.0, NOTHING), (30.0, NOTHING))
    assert not falls_asleep("b", desired, observed, 30.0, TIME, silent=False)
    starting.phase = Phase.READY
    looked(observed, (31.0, NOTHING), (35.0, NOTHING))
    assert idle_s("b", observed, 35.0) == 4.0


def test_what_cannot_load_does_not_stay_awake_for_ever() -> None:
    """A backend whose starts fail, or that finds no room, is unloaded once nobody has called it for its idle_timeout_s:
    it is not tried for ever (ID1)."""
    starting = replica(1, Phase.STARTING)
    for observed in (see(), see(starting, failures={"b": Failures(count=3, starts=3)})):
        looked(observed, (0.0, Demand(call_s=1.0, arrivals=1, waiting=1)), (1.0, Demand(call_s=2.0, arrivals=1)))
        looked(observed, (5.0, Demand(call_s=2.0, arrivals=1)))
        assert idle_s("b", observed, 12.0) == 11.0
        assert falls_asleep("b", sleeping(), observed, 12.0, TIME, silent=False)


def test_a_wake_begins_the_time_anew() -> None:
    """A backend that is woken is not unloaded again before its replica is launched (ID3)."""
    awake, asleep, observed = sleeping(Scale(1)), sleeping(Scale(0, unloaded=True)), see()
    looked(observed, (0.0, NOTHING))
    record_commit(observed, asleep, awake, [], 50.0)
    assert idle_s("b", observed, 51.0) == 1.0


def test_a_silent_router_keeps_a_backend_awake() -> None:
    """A router that had calls and says nothing may have some still (ID1, AS20)."""
    desired, observed = sleeping(), see(replica(1))
    looked(observed, (0.0, NOTHING))
    assert not falls_asleep("b", desired, observed, 50.0, TIME, silent=True)


@pytest.mark.parametrize("why", ["a hold", "a change", "no limit"])
def test_what_keeps_a_backend_awake(why: str) -> None:
    """A backend whose number is fixed, or that is being changed, is not unloaded (ID1, AS12)."""
    desired, observed = sleeping(), see(replica(1))
    if why == "a hold":
        desired = sleeping(Scale(1, hold=Hold(1, 4e9)), autoscaling=Autoscaling(), idle_timeout_s=10.0)
    elif why == "a change":
        desired = Desired(9, desired.backends, fallbacks={"b": Fallback(None)})
    else:
        desired = sleeping(autoscaling=Autoscaling(min_replicas=0))
    looked(observed, (0.0, NOTHING))
    assert not falls_asleep("b", desired, observed, 1000.0, TIME, silent=False)


def test_calls_wake_what_has_no_replicas() -> None:
    """Calls that wait for an unloaded backend wake it, but not one that somebody holds at 0 (AS14, AS12)."""
    waits, observed, rule = Demand(waiting=1, arrivals=1), see(), Autoscaling(min_replicas=0)

    def called(desired: Desired, demand: Demand = waits, heard: float = 5.0) -> bool:
        return is_called("b", demand, heard, desired, observed, TIME)

    assert called(sleeping(Scale(0, unloaded=True)))
    assert called(sleeping(Scale(0), autoscaling=rule))
    assert not called(sleeping())
    assert not called(sleeping(Scale(0, unloaded=True)), NOTHING)
    assert not called(sleeping(Scale(0, hold=HELD), autoscaling=rule))


def test_what_was_said_before_it_was_unloaded_wakes_nothing() -> None:
    """A call that waited a moment ago, and was answered since, does not load again what was unloaded then (ID3)."""
    awake, asleep, observed = sleeping(), sleeping(Scale(0, unloaded=True)), see()
    record_commit(observed, awake, asleep, [], 10.0)
    waits = Demand(waiting=1, arrivals=1)
    assert not is_called("b", waits, 9.9, asleep, observed, TIME)
    assert is_called("b", waits, 10.1, asleep, observed, TIME)
    record_commit(observed, asleep, awake, [], 20.0)
    assert observed.asleep == {}


def test_one_is_kept_for_a_while_after_a_wake() -> None:
    """A backend that was woken by hand stays for as long as one that has had its last call (ID3)."""
    rule = Autoscaling(min_replicas=0, downscale_to_zero_delay_s=20.0)
    desired, observed = sleeping(Scale(1), autoscaling=rule), see(replica(1))
    looked(observed, (0.0, NOTHING))
    assert keeps_one("b", desired, observed, 19.9)
    assert not keeps_one("b", desired, observed, 20.0)
    assert not keeps_one("b", sleeping(Scale(0), autoscaling=rule), observed, 1.0)
    assert not keeps_one("b", sleeping(Scale(1), autoscaling=Autoscaling()), observed, 1.0)


@pytest.mark.parametrize(
    ("config", "need", "replicas"),
    [
        ({"num_replicas": 3, "idle_timeout_s": 10.0}, 1, 3),
        ({"autoscaling": Autoscaling(min_replicas=2), "idle_timeout_s": 10.0}, 1, 2),
        ({"autoscaling": Autoscaling(min_replicas=0)}, 1, 1),
        ({"autoscaling": Autoscaling(min_replicas=0)}, 4, 4),
        ({"autoscaling": Autoscaling(min_replicas=0, max_replicas=3)}, 4, 3),
    ],
)
def test_how_many_a_call_wakes(config: dict[str, Any], need: int, replicas: int) -> None:
    """A call wakes num_replicas, or what calls need within the bounds, and the decision says so (ID1, AS14)."""
    desired = woken_and_unloaded(
        sleeping(Scale(0, unloaded=True), **config),
        see(),
        0.0,
        TIME,
        demand_of=lambda tag: Demand(waiting=2, arrivals=2),
        waiting_heard=lambda tag: 0.0,
        is_silent=lambda tag: False,
        needs={"b": need},
    )
    assert desired.wanted("b") == replicas
    (decision,) = desired.scales["b"].decisions
    assert (decision.before, decision.after, decision.reason) == (0, replicas, "wake")
    assert decision.text == "2 calls wait for it"
