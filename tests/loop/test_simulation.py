"""Thousands of made-up lives of an instance, each from one seed (F40 in virtual time)."""

from __future__ import annotations

import logging
import os

import pytest

from tests.loop.lives import steps_of
from tests.loop.simulation import explain, problem_of, shortest

SEEDS = int(os.environ.get("POINTSMAN_SIMULATION_SEEDS", "150"))
"""``make chaos`` asks for 2,000."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_whatever_happens(caplog: pytest.LogCaptureFixture) -> None:
    """Commands, crashes and delays in any order: what was acknowledged holds, removal goes step by step, and in the end
    all is as wanted (G1, G4, G6, FT6, FT8, CL3, CL5, DR5, F6, F8, F30, F36, F40)."""
    caplog.set_level(logging.CRITICAL)
    for seed in range(SEEDS):
        steps = steps_of(seed)
        if problem_of(seed, steps):
            pytest.fail(explain(seed, steps), pytrace=False)


def test_a_seed_that_fails_is_told_in_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has to mend a bug gets what is needed to see it, and nothing else."""
    from tests.loop import simulation

    def forgets(self: simulation.MemoryStore) -> object:
        self.epoch += 1
        self.desired = simulation.Desired()
        return simulation.Loaded(self.desired, {}, self.epoch)

    monkeypatch.setattr(simulation.MemoryStore, "open", forgets)
    seed, steps = next((s, steps_of(s)) for s in range(100) if problem_of(s, steps_of(s)))
    kept = shortest(seed, steps)
    assert "controller dies" in [step.what for step in kept]
    assert len(kept) <= 4
    text = explain(seed, steps)
    assert "an acknowledged change is gone" in text
    assert all(str(step) in text for step in kept)
