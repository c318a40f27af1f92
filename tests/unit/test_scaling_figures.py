"""What the rule must reach in simulations."""

from __future__ import annotations

import pytest

from pointsman.testing import simulate_autoscaling
from pointsman.testing.scaling.figures import simulated, traces
from tests.properties import tries


@pytest.mark.parametrize("seed", range(tries(1, 10)))
def test_a_step_does_not_send_the_number_to_the_maximum(seed: int) -> None:
    """A user whose calls rise twelvefold while replicas take half a minute to start gets what is needed, and to work
    off what has piled up, and not the 100 that are allowed (SF2)."""
    steps = [(0.0, 5.0), (600.0, 60.0), (1200.0, 0.0)]
    config = {"max_replicas": 100}
    result = simulate_autoscaling(steps, config, service_s=(0.1, 0.5), slo_ms=500, start_s=30, seed=seed)
    assert 8 <= result.peak <= 30


@pytest.mark.parametrize("seed", range(tries(1, 10)))
def test_what_comes_each_season_is_met(seed: int) -> None:
    """A user who says how long a season is has replicas before the third burst comes (SF2)."""
    result = simulated(traces()["60/s for 30 of 300 s, else 8"], "pointsman", seed, season_s=300)
    later = [(rate, share) for second, rate, share in result.course if second >= 600]
    assert sum(rate * share for rate, share in later) / sum(rate for rate, _ in later) <= 0.001
