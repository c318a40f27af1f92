"""policy.scaling.context: what a policy of the user's is told of a backend, and which answers count."""

from __future__ import annotations

import ast
import importlib.util
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pointsman.model import Autoscaling
from pointsman.model.scaling import Demand
from pointsman.policy.scaling.context import PolicyContext, answer_of, context
from pointsman.policy.scaling.decide import decide
from pointsman.policy.scaling.seen import Seen
from tests.unit.sentences import sentence

SEEN = Seen(
    Demand(ended=20, ran_s=4.0, waiting=3, running=2),
    wanted=3,
    ready=2,
    starting=1,
    slots=1,
    min_replicas=0,
    max_replicas=8,
    start_s=5.0,
)
CONFIG = Autoscaling(target_ongoing_requests=2.0)


def look() -> PolicyContext:
    """What a policy is told at the first look."""
    return context(
        SEEN, CONFIG, 1000.0, decide(SEEN, CONFIG, 1000.0), tag="m", instance="shop", replicas=("m#a", "m#b")
    )


def test_the_context_has_ray_serves_names() -> None:
    """A policy written for Ray Serve finds what it reads, and three numbers more (AS13)."""
    ctx = look()
    assert (ctx.deployment_name, ctx.app_name, ctx.running_replicas) == ("m", "shop", ("m#a", "m#b"))
    assert (ctx.current_num_replicas, ctx.target_num_replicas) == (2, 3)
    assert (ctx.total_queued_requests, ctx.total_num_requests >= 0) == (3.0, True)
    assert (ctx.capacity_adjusted_min_replicas, ctx.capacity_adjusted_max_replicas) == (0, 8)
    assert ctx.current_time == 1000.0
    assert ctx.config.target_ongoing_requests == 2.0
    assert ctx.policy_state == ctx.aggregated_metrics == ctx.raw_metrics == {}
    assert (ctx.arrivals_per_second, ctx.start_s) == (0.0, 5.0)


def test_a_policy_of_ray_serve_reads_nothing_else() -> None:
    """Each attribute of the context of the installed Ray Serve is there (AS13)."""
    ray = importlib.util.find_spec("ray")
    if ray is None or ray.origin is None:
        pytest.skip("Ray is not installed")
    tree = ast.parse((Path(ray.origin).parent / "serve" / "config.py").read_text())
    theirs = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "AutoscalingContext")
    methods = [node for node in theirs.body if isinstance(node, ast.FunctionDef)]
    names = {argument.arg for argument in methods[0].args.args[1:]} | {method.name for method in methods[1:]}
    assert len(names) > 16
    ctx = look()
    assert {name for name in names if not hasattr(ctx, name)} == set()


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (3, (3.0, "old")),
        (2.5, (2.5, "old")),
        (-1, (-1.0, "old")),
        ((4, {"since": 1}), (4.0, {"since": 1})),
        ((4, None), (4.0, None)),
        (np.int64(5), (5.0, "old")),
        ((np.float32(1.5), "x"), (1.5, "x")),
        (Fraction(1, 2), (0.5, "old")),
    ],
)
def test_answers(value: Any, answer: tuple[float, Any]) -> None:
    """A number counts, alone or with a new state; its bounds are somebody else's business (AS13)."""
    assert answer_of(value, "old") == answer


@pytest.mark.parametrize(
    "value", [None, math.nan, math.inf, True, "3", (), (1, 2, 3), [1, {}], (math.nan, {}), {"n": 3}, 1j]
)
def test_what_is_no_answer(value: Any) -> None:
    """What has no number of replicas is refused, and shown (AS13)."""
    with pytest.raises(ValueError) as caught:
        answer_of(value, {})
    sentence(caught.value, repr(value), "no number of replicas")
    with pytest.raises(ValueError, match=r"\.\.\., which is no number"):
        answer_of("x" * 1000, {})
