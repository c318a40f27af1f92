"""What users are told of a backend's number of replicas: its view in the status, and lines of the log. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from pointsman.controller.observed import Observed
from pointsman.controller.scaling.following import follows_calls, is_held
from pointsman.controller.scaling.prospects import blocked_by, prospect_of
from pointsman.controller.state import Desired
from pointsman.model import Scale
from pointsman.model.scaling import Decision, Hold, ScalingView


def view_of(tag: str, desired: Desired, observed: Observed, now: float, time: str) -> ScalingView | None:
    """A backend's number of replicas as users see it; None where that does not follow its calls.

    Args:
        now: of the controller's clock.
        time: of the day.
    """
    config = desired.backends[tag].config
    if not follows_calls(config):
        return None
    scale, looked = desired.scales.get(tag), observed.looked.get(tag)
    verdict = looked.verdict if looked is not None else None
    shown = looked.shown if looked is not None else None
    bounds = (config.num_replicas, config.num_replicas)
    if config.autoscaling is not None:
        bounds = config.autoscaling.bounds(observed.default_max)
    hold = scale.hold if scale is not None and is_held(scale, time) else None
    ready_at = prospect_of(tag, desired, observed).ready_at
    return ScalingView(
        wanted=desired.wanted(tag) if shown is None else shown,
        min=bounds[0],
        max=bounds[1],
        demand=round(verdict.demand, 3) if verdict is not None else 0.0,
        arrivals_per_second=round(verdict.arrivals_per_second, 3) if verdict is not None else 0.0,
        start_s=round(scale.start_s, 3) if scale is not None and scale.start_s is not None else None,
        remark=verdict.remark if verdict is not None else "",
        hold_s=_left_s(hold, time) if hold is not None else None,
        blocked=blocked_by(tag, desired, observed),
        decisions=scale.decisions if scale is not None else (),
        ready_in_s=round(max(0.0, ready_at - now), 1) if ready_at else None,
    )


def _left_s(hold: Hold, time: str) -> float:
    return round(max(0.0, hold.until - datetime.fromisoformat(time).timestamp()), 1)


def news(told: Mapping[str, Scale], scales: Mapping[str, Scale]) -> Iterator[tuple[str, Decision]]:
    """The decisions that are new since users were told, by backend, oldest first."""
    for tag, scale in scales.items():
        before = told.get(tag)
        if before is scale or (before is not None and before.decisions == scale.decisions):
            continue
        last = before.decisions[-1] if before is not None and before.decisions else None
        known = max((at + 1 for at, one in enumerate(scale.decisions) if one is last), default=0)
        yield from ((tag, decision) for decision in scale.decisions[known:])
