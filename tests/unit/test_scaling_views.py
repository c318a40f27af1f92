"""What users are told of numbers of replicas: the state of a backend, its autoscaling, and news for the log."""

from __future__ import annotations

import msgspec
import pytest

from pointsman.client.operations import scaling_view
from pointsman.controller.failures import Failures
from pointsman.controller.observed import Observed
from pointsman.controller.replicas import Phase
from pointsman.controller.scaling.following import decided
from pointsman.controller.scaling.found import Looked
from pointsman.controller.scaling.words import news, view_of
from pointsman.controller.state import Desired, Fallback
from pointsman.controller.views import state_of
from pointsman.model import Autoscaling, Capacity, Scale
from pointsman.model.scaling import DEMAND, Demand, Hold
from pointsman.policy.scaling.seen import Verdict
from tests.unit.reconciling import GPU, backend, replica, see

TIME = "2026-11-29T12:00:00.000+00:00"
AT = 1_795_953_600.0  # the same, in seconds since 1970
AUTO = Autoscaling(min_replicas=0, max_replicas=4)
READY, STARTING, LEAVER = replica(1), replica(2, Phase.STARTING), replica(3, Phase.DRAINING, patient=True)


def wants(number: int, *, version: int = 1) -> Desired:
    return Desired(1, {"b": backend(1, version=version, autoscaling=AUTO)}, scales={"b": Scale(number)})


@pytest.mark.parametrize(
    ("desired", "observed", "state"),
    [
        (wants(1), see(READY), "RUNNING"),
        (wants(2), see(READY, STARTING), "SCALING"),
        (wants(1), see(READY, LEAVER), "SCALING"),
        (wants(0), see(LEAVER), "SCALING"),
        (wants(0), see(), "IDLE"),
        (wants(2, version=2), see(READY), "UPDATING"),
        (msgspec.structs.replace(wants(2), fallbacks={"b": Fallback(None)}), see(READY), "UPDATING"),
        (wants(2), see(READY, failures={"b": Failures(count=1)}), "UNHEALTHY"),
        (Desired(1, {"b": backend(2)}), see(READY), "UPDATING"),
    ],
)
def test_states(desired: Desired, observed: Observed, state: str) -> None:
    """A backend whose number alone is not yet as wanted is SCALING, one that is at 0 is IDLE (AS16)."""
    assert state_of(desired, observed, desired.backends["b"])[0] == state


def test_what_a_status_says() -> None:
    """The status says what is wanted within which bounds, what calls there are, how long a number is fixed, why there
    are fewer, and the last decisions; all of it is ready for JSON (AS16)."""
    spec = backend(1, resources=GPU, autoscaling=AUTO)
    scale = msgspec.structs.replace(
        decided(Scale(1, start_s=4.0), 3, DEMAND, "demand 9.8 at target 2", TIME), hold=Hold(3, AT + 60.0)
    )
    desired = Desired(1, {"b": spec}, scales={"b": scale})
    observed = see(replica(1, resources=GPU, gpus=(0,)), capacity=Capacity(num_gpus=1))
    observed.looked["b"] = Looked(Demand(), Verdict(3, 5, DEMAND, "", None, 9.8, 98.0, "too slow"))
    view = view_of("b", desired, observed, 0.0, TIME)
    assert view is not None
    shown = scaling_view(view)
    assert shown.pop("blocked")["reason"] == "room"
    assert shown == {
        "wanted": 3,
        "min": 0,
        "max": 4,
        "demand": 9.8,
        "arrivals_per_second": 98.0,
        "start_s": 4.0,
        "remark": "too slow",
        "hold_s": 60.0,
        "decisions": [{"time": TIME, "from": 1, "to": 3, "reason": "demand", "text": "demand 9.8 at target 2"}],
        "ready_in_s": None,
    }
    assert view_of("b", Desired(1, {"b": backend(1)}), observed, 0.0, TIME) is None


def test_each_decision_is_told_once() -> None:
    """A line of the log for each decision, whoever took it; also where old ones are forgotten, and for a backend of the
    same name as one that is gone (AS16)."""
    scale = Scale(0)
    told = {"b": scale}
    for number in range(1, 60):
        scale = decided(scale, number, DEMAND, "demand", TIME)
        assert [(tag, one.after) for tag, one in news(told, {"b": scale})] == [("b", number)]
        told = {"b": scale}
    assert list(news(told, told)) == []
    assert list(news(told, {"b": msgspec.structs.replace(scale, start_s=1.0)})) == []
    assert [one.after for _, one in news(told, {"b": decided(Scale(1), 2, DEMAND, "anew", TIME)})] == [2]
