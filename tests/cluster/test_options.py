"""engine.ray.options: what Ray's own options say of nodes, as users write them; no cluster is needed to read it."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from ray._raylet import PlacementGroupID
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import (
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from pointsman.engine.ray.options import group_strategy, parse_options
from pointsman.model import Placement, Resources

NODE = "ab" * 28
GROUP = "cd" * 18


def group(bundle: int = -1) -> PlacementGroupSchedulingStrategy:
    return PlacementGroupSchedulingStrategy(PlacementGroup(PlacementGroupID(bytes.fromhex(GROUP))), bundle)


@pytest.mark.parametrize(
    ("options", "resources"),
    [
        (None, Resources()),
        ({"num_cpus": 2, "scheduling_strategy": "SPREAD"}, Resources(num_cpus=2.0)),
        (
            {"scheduling_strategy": NodeAffinitySchedulingStrategy(NODE, soft=False)},
            Resources(placement=Placement(node=NODE)),
        ),
        (
            {"scheduling_strategy": NodeAffinitySchedulingStrategy(NODE, soft=True)},
            Resources(placement=Placement(node=NODE, prefer=True)),
        ),
        ({"scheduling_strategy": group(1)}, Resources(placement=Placement(group=GROUP, bundle=1))),
        ({"accelerator_type": "A100"}, Resources(custom={"accelerator_type:A100": 0.001})),
        ({"label_selector": {"zone": "in(a, b)"}}, Resources(placement=Placement(labels=({"zone": "in(a, b)"},)))),
        (
            {"label_selector": {"a": "b"}, "fallback_strategy": [{"label_selector": {"a": "!b"}}]},
            Resources(placement=Placement(labels=({"a": "b"}, {"a": "!b"}))),
        ),
    ],
)
def test_options_of_places(options: dict[str, Any] | None, resources: Resources) -> None:
    """Ray's options that say on which nodes a replica may run are understood; the caller's dict stays (EN3, CB6)."""
    before = dict(options) if options is not None else None
    assert parse_options(options) == resources
    assert options == before


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ([], TypeError, "must be a dict"),
        ({"num_cpus": "2"}, TypeError, "num_cpus"),
        ({"placement_group": None}, ValueError, "PlacementGroupSchedulingStrategy"),
        ({"lifetime": "detached"}, ValueError, "'lifetime': Pointsman manages it"),
        ({"max_concurrency": 2}, ValueError, "'max_concurrency': replicas are not called through Ray"),
        ({"num_gpu": 1}, ValueError, "did you mean 'num_gpus'"),
        ({"label_selectors": {}}, ValueError, "did you mean 'label_selector'"),
        ({"accelerator_type": 100}, TypeError, "accelerator_type must be a str such as 'A100', not 100"),
        ({"scheduling_strategy": "PACK"}, ValueError, "not 'PACK'"),
        ({"scheduling_strategy": 7}, TypeError, "not 7"),
        ({"scheduling_strategy": PlacementGroupSchedulingStrategy(None)}, TypeError, "must be 'DEFAULT'"),  # type: ignore[arg-type]
        ({"scheduling_strategy": NodeLabelSchedulingStrategy({"a": In("b")})}, TypeError, "there is label_selector"),
        ({"label_selector": "zone=a"}, TypeError, "must be a dict of label to condition, not 'zone=a'"),
        ({"label_selector": {"zone": 1}}, TypeError, "label_selector must be a dict"),
        ({"label_selector": {"zone": "in(a"}}, ValueError, "'in(a' for 'zone'"),
        ({"fallback_strategy": {"label_selector": {}}}, TypeError, "list of dicts"),
        ({"fallback_strategy": [{"node": "a"}]}, TypeError, "list of dicts"),
        ({"scheduling_strategy": group(), "label_selector": {"a": "b"}}, ValueError, "give one of them"),
        ({"runtime_env": {"pip": ["a"]}}, ValueError, "env=..."),
        ({"runtime_env": {"container": {}}}, ValueError, "'container'"),
    ],
)
def test_bad_options(options: Any, error: type[Exception], text: str) -> None:
    """A bad option is refused with one sentence that names it, before anything is registered (RM2)."""
    with pytest.raises(error) as caught:
        parse_options(options)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ray_is_told_of_groups_only() -> None:
    """A group is Ray's to place in; a node is chosen here, and named to it."""
    strategy = group_strategy(Placement(group=GROUP, bundle=1))
    assert strategy is not None
    assert strategy.placement_group.id.hex() == GROUP
    assert strategy.placement_group_bundle_index == 1
    assert group_strategy(Placement(node=NODE)) is None
