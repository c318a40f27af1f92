"""The rebuilt rule of Ray Serve decides as Ray Serve's own functions do, which are read from the installed package."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import random
import sys
from math import ceil
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pointsman.model.scaling import Demand
from pointsman.policy.scaling.seen import Seen
from pointsman.testing.scaling.peers import RayServe
from tests.properties import tries

VERSION = "2.60.0"
SEEDS = range(tries(20, 300))


@pytest.fixture(scope="module")
def ray_serve() -> Any:
    """Ray Serve's modules of the rule, without its others, which need packages that are not installed."""
    try:
        found = importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        found = "none"
    if found != VERSION:
        pytest.skip(f"the rule was rebuilt from Ray Serve {VERSION}, and {found} is installed")
    folder = Path(str(importlib.metadata.distribution("ray").locate_file("ray/serve")))
    stubs: dict[str, dict[str, Any]] = {
        "ray": {},
        "ray.serve": {},
        "ray.serve._private": {},
        "ray.util": {},
        "ray.serve._private.common": {"DeploymentID": object},
        "ray.serve._private.constants": {
            "SERVE_AUTOSCALING_DECISION_COUNTERS_KEY": "counter",
            "SERVE_AUTOSCALING_DECISION_TIMESTAMP_KEY": "timestamp",
            "SERVE_LOGGER_NAME": "ray.serve",
        },
        "ray.serve.config": {"AutoscalingConfig": object, "AutoscalingContext": object},
        "ray.util.annotations": {"PublicAPI": lambda **_: lambda function: function},
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, content in stubs.items():
            module = ModuleType(name)
            module.__dict__.update(content)
            patch.setitem(sys.modules, name, module)
        policy = loaded(patch, folder / "autoscaling_policy.py")
        merge = loaded(patch, folder / "_private/autoscaling_metrics_merge.py")
    return SimpleNamespace(policy=policy, merge=merge)


def loaded(patch: pytest.MonkeyPatch, path: Path) -> Any:
    name = f"peer_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    patch.setitem(sys.modules, name, module)  # its dataclasses look there
    spec.loader.exec_module(module)
    return module


class Told(RayServe):
    """The rebuilt rule, told how many calls there are on average."""

    total = 0.0

    def _total(self, now: float) -> float:
        return self.total


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_calls_lead_to_the_same_number(seed: int, ray_serve: Any) -> None:
    """A comparison with Ray Serve is one with its rule: factors, delays and all, at each of its looks (AS18)."""
    chance = random.Random(seed)
    fields: dict[str, Any] = {
        "target_ongoing_requests": chance.choice([0.7, 2.0, 5.0]),
        "upscale_delay_s": chance.choice([0.0, 3.0, 30.0]),
        "downscale_delay_s": chance.choice([0.0, 6.0, 60.0]),
        "downscale_to_zero_delay_s": chance.choice([None, 4.0]),
        "upscaling_factor": chance.choice([0.5, 1.0, 2.0]),
        "downscaling_factor": chance.choice([0.1, 0.5, 1.0]),
    }
    config = SimpleNamespace(
        **fields,
        get_target_ongoing_requests=lambda: fields["target_ongoing_requests"],
        get_upscaling_factor=lambda: fields["upscaling_factor"],
        get_downscaling_factor=lambda: fields["downscaling_factor"],
    )
    theirs = ray_serve.policy._apply_autoscaling_config(ray_serve.policy._core_replica_queue_length_policy)
    ours, state = Told(fields), {}
    least, wanted, calls = chance.choice([0, 1]), chance.randint(1, 5), 10.0
    ready = their_wanted = wanted
    for step in range(600):
        now = step / 10
        ray_serve.policy.time = SimpleNamespace(time=lambda now=now: now)
        calls = chance.choice([0.0, chance.uniform(0, 60)]) if chance.random() < 0.02 else calls
        ready = wanted if chance.random() < 0.1 else ready
        ours.total = max(0.0, calls + chance.gauss(0, 1)) if calls else 0.0
        wanted = ours.look(Seen(Demand(waiting=int(ours.total)), wanted, ready, 0, 1, least, 40), now).wanted
        context = SimpleNamespace(
            current_num_replicas=ready,
            target_num_replicas=their_wanted,
            total_num_requests=ours.total,
            config=config,
            policy_state=state,
        )
        number, state = theirs(context)
        their_wanted = max(least, min(40, ceil(number)))
        assert wanted == their_wanted, (seed, step)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_samples_make_the_same_average(seed: int, ray_serve: Any) -> None:
    """Ray Serve's average begins where the newest replica's samples begin, and so does that of a comparison (AS18)."""
    chance = random.Random(seed)
    begins = [0, *(chance.randint(0, 6) for _ in range(chance.randint(0, 3)))]
    series = [[(6.0 * step, chance.randint(0, 9)) for step in range(8)]]
    series += [[(6.0 * step, chance.randint(0, 3)) for step in range(begin, 8)] for begin in begins]
    report = 42.0
    now = report + chance.uniform(0, 10)
    kept = [[(time, value) for time, value in one if time >= report - 30] for one in series]
    flat = np.array([point for one in kept for point in one], dtype=float)
    offsets = np.cumsum([0, *map(len, kept)])
    theirs = ray_serve.merge.merge_and_aggregate_arrays(flat[:, 0], flat[:, 1], offsets, now)
    ours = RayServe({})
    times = sorted({time for one in kept for time, _ in one})
    ours._reported = [(time, sum(dict(one).get(time, 0) for one in series)) for time in times]
    ours._reported_aligned = 6.0 * max(begins)
    assert ours._total(now) == pytest.approx(theirs)
