"""What a simulation of autoscaling says of its calls and replicas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pointsman.testing import Simulated, simulate_autoscaling

BUSY = [(0, 30), (120, 60), (240, 5), (360, 0)]


def simulated(trace: Any = BUSY, config: Any = None, **options: Any) -> Simulated:
    return simulate_autoscaling(trace, config, **{"service_s": (0.1, 0.5), "slo_ms": 500, **options})


def test_the_same_simulation_gives_the_same_result() -> None:
    """A user who simulates a trace twice reads the same numbers, and others with another seed (AS18)."""
    first = simulated()
    assert first == simulated()
    assert first != simulated(seed=1)
    assert 120 * 95 * 0.9 < first.requests < 120 * 95 * 1.1


def test_one_replica_without_pause_answers_one_call_after_another() -> None:
    """Three calls that come together to one replica take one, two and three times the service time (AS18)."""
    result = simulated([1.0, 1.0, 1.0], {"max_replicas": 1}, service_s=0.2, slo_ms=500)
    assert (result.requests, result.lost, result.late) == (3, 0, pytest.approx(1 / 3))
    assert result.latency_ms == {"p50": 400.0, "p95": 600.0, "p99": 600.0, "max": 600.0}
    assert (result.peak, result.flaps, result.wanted, result.replica_seconds) == (1, 0, [(0.0, 1)], 1.0)


def test_slots_run_calls_at_once() -> None:
    """A replica with three slots answers three calls that come together after one service time (AS18)."""
    result = simulated([1.0, 1.0, 1.0], {"max_replicas": 1}, service_s=0.2, slots=3)
    assert result.latency_ms["max"] == 200.0


def test_a_call_to_no_replica_waits_for_the_start() -> None:
    """The first call of a sleeping backend is answered one start time and one service time later (AS18)."""
    config = {"min_replicas": 0, "initial_replicas": 0, "max_replicas": 1}
    result = simulated([3.25], config, service_s=0.5, start_s=4)
    assert 4500 <= result.latency_ms["max"] <= 5000
    assert [count for _, count in result.wanted] == [count for _, count in result.ready] == [0, 1]


@pytest.mark.parametrize(
    "trace", [[], [(0, 5)], [1.0, 0.5], [-1.0], [(0, -1), (9, 0)], [(5, 1), (0, 0)], [(0, 0), (9, 0)], [float("nan")]]
)
def test_a_wrong_trace_is_refused(trace: Any) -> None:
    """A trace that is empty, unsorted or negative is a ValueError in one sentence (AS18)."""
    with pytest.raises(ValueError, match=r"trace|step"):
        simulated(trace)


@pytest.mark.parametrize(
    "options",
    [
        {"slots": 0},
        {"start_s": -1},
        {"start_s": float("nan")},
        {"slo_ms": 0},
        {"service_s": -1},
        {"service_s": (1, -1)},
    ],
)
def test_a_value_out_of_range_is_named(options: dict[str, Any]) -> None:
    """A number that cannot be is a ValueError with its name (AS18)."""
    with pytest.raises(ValueError, match=next(iter(options))):
        simulated(**options)


def test_numpys_numbers_are_a_trace_too() -> None:
    """A user's trace comes from a log that was read with numpy (AS18)."""
    times, steps = np.arange(0, 5, dtype=np.int64), np.array(BUSY, dtype=float)
    assert simulated(times) == simulated(list(range(5)))
    assert simulated(steps) == simulated()


def test_an_unknown_policy_is_refused() -> None:
    """A policy that does not exist is a ValueError that names those that do (AS18)."""
    with pytest.raises(ValueError, match=r"pointsman, ray, kpa, oracle.*got 'rey'"):
        simulated(policy="rey")


def test_the_oracle_is_hardly_ever_late() -> None:
    """Who knows the rates ahead starts replicas before they are needed, and lets them go at once (AS18)."""
    result = simulated(policy="oracle", start_s=10)
    assert result.late < 0.01
    assert result.wanted[0] == (0.0, 4)
    assert [count for _, count in result.wanted] == [4, 7, 2]
    assert 109 <= result.wanted[1][0] <= 110


def test_ray_serves_rule_takes_a_backlog_for_demand() -> None:
    """A user who compares sees Ray Serve's rule wait for half a minute and then go far over what is needed (AS18)."""
    step = [(0, 5), (120, 30), (400, 0)]
    ray, oracle = (simulated(step, {"max_replicas": 40}, policy=policy, start_s=10) for policy in ("ray", "oracle"))
    assert ray.wanted[1][0] > 120 + 30
    assert ray.peak > 2 * oracle.peak
    assert ray.late > 0.05


def test_knatives_rule_panics_and_falls_again() -> None:
    """A user who compares sees Knative's rule rise within seconds, hold for its stable window, and fall (AS18)."""
    result = simulated([(0, 5), (120, 60), (150, 5), (400, 0)], {"max_replicas": 40}, policy="kpa")
    risen = next(second for second, count in result.wanted if count > 5)
    fallen = next(second for second, count in result.wanted if second > risen and count < result.peak)
    assert 120 < risen < 126
    assert 180 < fallen < 220


def test_peers_keep_to_what_a_user_sets() -> None:
    """A user who gives delays and targets sees them in the rules of Ray Serve and Knative, too (AS18)."""
    config = {"max_replicas": 40, "target_ongoing_requests": 0.7, "upscale_delay_s": 0}
    usual, quick = (simulated(policy="ray", config=one) for one in ({"max_replicas": 40}, config))
    assert quick.wanted[1][0] < usual.wanted[1][0]
    hasty, calm = (simulated(policy="kpa", config={"downscale_delay_s": delay}) for delay in (0, 300))
    assert (hasty.flaps > 0, calm.flaps) == (True, 0)


def three(context: Any) -> int:
    return 3


def test_a_policy_of_ones_own_can_be_tried_by_its_path_or_as_it_is() -> None:
    """A user tries a policy before a backend has it: as a callable, by its path, in a config (AS13, AS18)."""
    by_path = "tests.unit.test_simulated_scaling:three"
    config = {"downscale_delay_s": 0}
    result = simulated(config=config, policy=three)
    assert {count for _, count in result.wanted if count != result.wanted[0][1]} == {3}
    assert {decision["reason"] for decision in result.decisions} == {"policy"}
    assert simulated(config=config, policy=by_path) == simulated(config={**config, "policy": by_path}) == result


def test_a_policy_sees_what_a_controller_would_tell_it_and_keeps_a_state() -> None:
    """A user's policy gets Ray Serve's attributes and its own state back (AS13, AS18)."""
    seen = []

    def policy(context: Any) -> tuple[float, dict[str, int]]:
        seen.append(context)
        return context.current_num_replicas, {"looks": context.policy_state.get("looks", 0) + 1}

    simulated(policy=policy)
    assert [context.policy_state.get("looks", 0) for context in seen] == list(range(len(seen)))
    busy = seen[200]
    assert busy.total_num_requests == pytest.approx(3, abs=1.5)
    assert busy.arrivals_per_second == pytest.approx(30, abs=5)
    assert busy.service_s == pytest.approx(0.1, abs=0.02)
    assert busy.start_s == 5.0


@pytest.mark.parametrize("answer", [float("nan"), None, "many", True, ValueError("odd")])
def test_a_policy_that_gives_no_number_leaves_it_to_the_built_in_rule(answer: Any) -> None:
    """A policy that raises or answers nonsense changes nothing, and the result says so (AS13, AS18)."""

    def policy(context: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    result = simulated(policy=policy)
    assert result.wanted == simulated().wanted
    assert "odd" in result.remark if isinstance(answer, Exception) else "no number" in result.remark


def test_a_policy_that_is_none_is_refused() -> None:
    """A path that cannot be imported is an ImportError, what cannot be called a TypeError (AS13, AS18)."""
    with pytest.raises(ImportError, match="no_such_module"):
        simulated(policy="no_such_module:policy")
    with pytest.raises(TypeError, match="cannot be called"):
        simulated(policy="tests.unit.test_simulated_scaling:BUSY")
