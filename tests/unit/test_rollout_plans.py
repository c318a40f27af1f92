"""The plan of a rollout: what is refused, and what is filled in."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pointsman.controller.rollouts.gates import too_slow
from pointsman.controller.rollouts.options import alpha_of, checked
from pointsman.controller.transitions import carry_out
from pointsman.model import CustomPolicy
from pointsman.model.rollout import RolloutPlan
from pointsman.wire.commands import SetTraffic
from pointsman.wire.rollouts import StartRollout
from tests.rollouts import ENDPOINT, MAIN, NEW, NOW, started
from tests.unit.desiring import ROOM


def plan(**options: Any) -> RolloutPlan:
    return RolloutPlan(ENDPOINT, NEW, **options)


def test_gates_by_default() -> None:
    """Without a word about gates, errors, p99 and health are watched, with an alpha of 2.5 % each (RO4)."""
    whole = checked(plan())
    assert whole.gates == {
        "error_rate": {"max_ratio": 1.0, "slack": 0.001, "burst_s": 0.0, "rule_out": None},
        "latency": {"p99": 1.05, "burst_s": 10.0},
        "health": {},
    }
    assert alpha_of(whole) == 0.025


def test_whoever_starts_a_short_rollout_is_warned_of_gates_that_come_too_late() -> None:
    """A gate that looks at blocks of time is no use in a rollout of few; the warning says how long it takes."""
    assert too_slow(checked(plan())) == too_slow(checked(plan(hold_s=35, steps=(0.1, 0.5, 1.0)))) == ""
    assert too_slow(checked(plan(hold_s=1, gates={"error_rate": {}, "latency": {"burst_s": 0}, "health": {}}))) == ""
    assert too_slow(checked(plan(hold_s=10, steps=(0.1, 0.5, 1.0)))) == (
        "gate latency may come too late: it needs 70 s or more to be sure, and the steps below 100 % may be over after"
        " 20 s; a longer hold_s, or a shorter burst_s, gives time"
    )
    short = plan(hold_s=1, gates={"latency": {"p50": 1.1, "p99": 1.1}, "metrics": {"loss": {"better": "lower"}}})
    assert "gates latency.p50, latency.p99, metrics.loss may come too late: they need 80 s" in too_slow(checked(short))


def test_what_is_given_stays() -> None:
    """Options that are given replace the defaults, and those that are not have them (RO4)."""
    whole = checked(
        plan(
            gates={
                "error_rate": {"rule_out": 2, "slack": 0},
                "latency": {"p50": 1.5, "p99.9": 2, "burst_s": 0},
                "metrics": {"score": {"better": "higher"}},
            }
        )
    )
    assert whole.gates["error_rate"] == {"max_ratio": 1.0, "slack": 0.0, "burst_s": 0.0, "rule_out": 2.0}
    assert whole.gates["latency"] == {"p50": 1.5, "p99.9": 2.0, "burst_s": 0.0}
    assert whole.gates["metrics"] == {"score": {"better": "higher", "max_loss": 0.0}}
    assert alpha_of(whole) == pytest.approx(0.05 / 3)
    assert checked(whole) == whole


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": ()}, "at least one weight"),
        ({"steps": (0.5, 0.5)}, "must rise"),
        ({"steps": (0.5, 0.1)}, "must rise"),
        ({"steps": (0.0, 0.5)}, "above 0 and at most 1, not 0.0"),
        ({"steps": (0.5, 1.5)}, "not 1.5"),
        ({"steps": (NAN,)}, "not nan"),
        ({"hold_s": 0}, "hold_s must be a number above 0, not 0"),
        ({"hold_s": INF}, "not inf"),
        ({"min_samples": -1}, "min_samples must be a number of 0 or more, not -1"),
        ({"alpha": 1.0}, "alpha must be a number of at least 1e-09 and below 1, not 1.0"),
        ({"alpha": 5e-324}, "alpha must be a number of at least 1e-09"),
        ({"steps": tuple(step / 200 for step in range(1, 201))}, "at most 100 weights, not 200"),
        ({"min_samples": 2**62}, "min_samples must be at most 1e+15"),
        ({"patience": 0.5}, "patience must be a number of 1 or more"),
        ({"on_inconclusive": "wait"}, "on_inconclusive must be 'hold' or 'rollback', not 'wait'"),
        ({"gates": {"errors": {}}}, "there is no gate 'errors'; there are error_rate"),
        ({"gates": {"error_rate": {"ratio": 2}}}, "has no option 'ratio'; it has max_ratio, slack"),
        ({"gates": {"error_rate": {"slack": "much"}}}, "slack of gate 'error_rate' must be"),
        ({"gates": {"error_rate": {"slack": True}}}, "slack of gate 'error_rate' must be"),
        ({"gates": {"error_rate": {"max_ratio": 0}}}, "max_ratio of gate 'error_rate' must be"),
        ({"gates": {"error_rate": {"max_ratio": 1e308}}}, "max_ratio of gate 'error_rate' must be at most 1e+15"),
        ({"gates": {"error_rate": {"rule_out": 1}}}, "rule_out of gate 'error_rate' must be a number above 1"),
        ({"gates": {"latency": {"p0": 1.1}}}, "no option 'p0'"),
        ({"gates": {"latency": {"p100": 1.1}}}, "no option 'p100'"),
        ({"gates": {"latency": {"mean": 1.1}}}, "no option 'mean'"),
        ({"gates": {"latency": {"p99": None}}}, "must be a number above 0, not None"),
        ({"gates": {"latency": {"p99": -1}}}, "p99 of gate 'latency' must be"),
        ({"gates": {"mismatch": {"slack": 1}}}, "below 1"),
        ({"gates": {"metrics": {}}}, "at least one metric"),
        ({"gates": {"metrics": {"a b": {"better": "lower"}}}}, "cannot watch 'a b', which is no name of a metric"),
        ({"gates": {"metrics": {"m" * 201: {"better": "lower"}}}}, "no name of a metric"),
        ({"gates": {"latency": {f"p{n}.5": 1.1 for n in range(21)}}}, "at most 20 quantiles, not 21"),
        ({"gates": {"metrics": {"score": {}}}}, "needs better: 'higher' or 'lower'"),
        ({"gates": {"metrics": {"score": {"better": "lower", "max_loss": -1}}}}, "max_loss"),
        ({"gates": {"health": {"x": 1}}}, "it has none"),
        ({"gates": {"mismatch": {}}}, "needs 'new' to be a shadow"),
    ],
    ids=str,
)
def test_a_bad_plan_is_refused(options: dict[str, Any], words: str) -> None:
    """Whoever writes nonsense is told what would be right, and nothing has changed (RO2)."""
    with pytest.raises(ValueError, match=re.escape(words)) as raised:
        started(plan(**options))
    assert "\n" not in str(raised.value)


def test_a_second_rollout_is_refused() -> None:
    """An endpoint has one rollout at a time: the second is told of the first (RO2)."""
    state = started(plan())
    with pytest.raises(ValueError, match=r"rollout 1 of endpoint 'greet' to 'new' is running; abort or promote it"):
        carry_out(state, StartRollout("id", plan()), ROOM, NOW)


def test_endpoints_that_cannot_roll_out() -> None:
    """Unknown names, a custom policy and a backend that has all traffic are refused (RO2)."""
    state = started(plan(steps=(0.5,)))
    state, _ = carry_out(state, SetTraffic("id", ENDPOINT, {MAIN: 1.0}), ROOM, NOW)  # supersedes that rollout
    for wrong, words in (
        (RolloutPlan("great", NEW), "endpoint 'great' does not exist; did you mean 'greet'"),
        (RolloutPlan(ENDPOINT, "now"), "backend 'now' does not exist; did you mean 'new'"),
        (RolloutPlan(ENDPOINT, MAIN), "has all traffic of endpoint 'greet' already"),
    ):
        with pytest.raises(ValueError, match=words):
            carry_out(state, StartRollout("id", wrong), ROOM, NOW)
    custom = SetTraffic("id", ENDPOINT, {MAIN: 1.0}, CustomPolicy("mine:policy"), keep_custom=False)
    state, _ = carry_out(state, custom, ROOM, NOW)
    with pytest.raises(ValueError, match="custom policy 'mine:policy'"):
        carry_out(state, StartRollout("id", plan()), ROOM, NOW)
