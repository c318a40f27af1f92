"""What moves by itself in the status, and a mark that is another one when anything else in it has changed. Whoever
looks at an instance each second asks for this, and for the whole status only then: a thousand endpoints cost nothing
here, and a backend or a rollout some microseconds. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable

from pointsman.controller.observed import Observed
from pointsman.controller.replicas import Phase
from pointsman.controller.rollouts.words import view_of
from pointsman.controller.scaling.following import follows_calls, is_held
from pointsman.controller.scaling.words import view_of as scaling_of
from pointsman.controller.state import Desired
from pointsman.wire.commands import Moves


def moves_of(desired: Desired, observed: Observed, around: Collection[Hashable], now: float, time: str) -> Moves:
    """What moves, and the mark.

    Args:
        around: what the status has beside the two states.
        now: of the controller's clock.
        time: of the day.
    """
    following = [tag for tag, spec in desired.backends.items() if follows_calls(spec.config)]
    scaling = {
        tag: scaling_of(tag, desired, observed, now, time) for tag in following if _moves(tag, desired, observed)
    }
    mark = hash(
        (
            desired.version,
            bool(desired.came_up),
            desired.running.id if desired.running is not None else "",
            tuple(around),
            tuple(_of_backend(tag, observed) for tag in desired.backends),
            tuple(_of_scale(tag, desired, observed, time) for tag in following),
            tuple((one.id, one.state, one.step) for one in desired.rollouts.values()),
        )
    )
    return Moves(
        mark=mark,
        scaling={tag: view for tag, view in scaling.items() if view is not None},
        rollouts={one.plan.endpoint: view_of(desired, one) for one in desired.rollouts.values() if one.is_live},
    )


def _moves(tag: str, desired: Desired, observed: Observed) -> bool:
    """Whether the view of a backend's number of replicas changes with the time."""
    looked, scale = observed.looked.get(tag), desired.scales.get(tag)
    is_busy = looked is not None and not looked.is_quiet
    return is_busy or (scale is not None and scale.hold is not None) or tag in observed.asleep


def _of_scale(tag: str, desired: Desired, observed: Observed, time: str) -> Hashable:
    """What decides a view that does not move, and whether it does."""
    scale = desired.scales.get(tag)
    if scale is None:
        return _moves(tag, desired, observed)
    decided = len(scale.decisions), scale.decisions[-1].time if scale.decisions else ""
    return _moves(tag, desired, observed), scale.wanted, scale.unloaded, is_held(scale, time), decided


def _of_backend(tag: str, observed: Observed) -> Hashable:
    """All that the view of a backend shows of its replicas and their failures."""
    failures = observed.failures.get(tag)
    failed = (failures.count, failures.rolled_back, failures.failed_at) if failures is not None else ()
    replicas = tuple(
        (one.number, one.pid, Phase.STOPPING if one.killed else one.phase, one.unhealthy is None, one.health.warning)
        for one in observed.of(tag)
    )
    return replicas, failed
