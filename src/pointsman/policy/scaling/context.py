"""What a user's own policy is told: one look, under the names that Ray Serve has for it; and what it may answer. Pure.

The policy runs in a process of its own, so this is a value that travels. ``Seen.policy_wants`` is its answer.
"""

from __future__ import annotations

import math
import numbers
from typing import Any, NamedTuple

from pointsman.model.origin import Struct
from pointsman.model.scaling import Autoscaling
from pointsman.policy.scaling.decide import Memory
from pointsman.policy.scaling.seen import Seen, Verdict

SHOWN = 100
"""So many characters of an answer that is none are shown."""


class PolicyContext(Struct, frozen=True):
    """What a policy decides by.

    Attributes:
        deployment_name: the backend's tag; ``app_name`` is the instance's name, ``deployment_id`` both.
        current_num_replicas: replicas that take calls.
        target_num_replicas: replicas that are wanted, which the last decision led to.
        running_replicas: tags of the replicas that take calls, where the caller knows them.
        total_num_requests: calls that waited or ran on average over ``look_back_period_s``.
        total_queued_requests: calls that wait in routers now.
        capacity_adjusted_min_replicas, capacity_adjusted_max_replicas: bounds in force.
        policy_state: what the policy gave beside its last number; empty at first.
        last_scale_up_time, last_scale_down_time: on the clock of ``current_time``; None: not since the rule began.
        current_time: seconds since 1970, in a simulation since its beginning.
        config: the autoscaling configuration.
        arrivals_per_second: calls that came, on average over ``look_back_period_s``.
        service_s: seconds that a call is on its replica; None before the first has ended.
        start_s: seconds from a replica's launch until it is ready; None before the first.
        aggregated_metrics, raw_metrics: empty; replicas report no metrics of their own for this.
    """

    deployment_name: str
    app_name: str
    current_num_replicas: int
    target_num_replicas: int
    total_num_requests: float
    total_queued_requests: float
    capacity_adjusted_min_replicas: int
    capacity_adjusted_max_replicas: int
    current_time: float
    config: Autoscaling
    policy_state: dict[str, Any] = {}
    running_replicas: tuple[str, ...] = ()
    last_scale_up_time: float | None = None
    last_scale_down_time: float | None = None
    arrivals_per_second: float = 0.0
    service_s: float | None = None
    start_s: float | None = None
    aggregated_metrics: dict[str, dict[str, float]] = {}
    raw_metrics: dict[str, dict[str, float]] = {}

    @property
    def deployment_id(self) -> str:
        """The backend, with the instance that it belongs to."""
        return f"{self.app_name}#{self.deployment_name}" if self.app_name else self.deployment_name

    @property
    def total_running_requests(self) -> float:
        """Calls on replicas, about: one of the two numbers is an average."""
        return max(0.0, self.total_num_requests - self.total_queued_requests)


class Said(NamedTuple):
    """What a policy has said last.

    Attributes:
        wants: replicas, neither rounded nor within the bounds; None while it has not answered, or fails.
        remark: why it fails, one sentence; empty if it does not.
    """

    wants: float | None = None
    remark: str = ""


class NoAnswerError(ValueError):
    """What a policy has returned has no number of replicas."""


def context(
    seen: Seen,
    config: Autoscaling,
    now: float,
    verdict: Verdict,
    *,
    tag: str,
    instance: str = "",
    replicas: tuple[str, ...] = (),
    state: dict[str, Any] | None = None,
) -> PolicyContext:
    """What to tell a policy after a look.

    Args:
        seen: the look.
        verdict: what the rule said of it; its memory has what was learned.
        tag: the backend's.
        instance: the name of the instance.
        replicas: tags of those that take calls.
        state: what the policy gave beside its last number.
    """
    memory: Memory = verdict.memory
    return PolicyContext(
        deployment_name=tag,
        app_name=instance,
        current_num_replicas=seen.ready,
        target_num_replicas=seen.wanted,
        total_num_requests=verdict.demand,
        total_queued_requests=float(seen.demand.waiting),
        capacity_adjusted_min_replicas=seen.min_replicas,
        capacity_adjusted_max_replicas=seen.max_replicas,
        current_time=now,
        config=config,
        policy_state=state or {},
        running_replicas=replicas,
        last_scale_up_time=memory.raised_at,
        last_scale_down_time=memory.fallen_at,
        arrivals_per_second=verdict.arrivals_per_second,
        service_s=memory.service.mean_s if memory.service is not None else None,
        start_s=seen.start_s,
    )


def answer_of(value: Any, state: Any) -> tuple[float, Any]:
    """The number of replicas and the new state in what a policy has returned: a number, or ``(number, state)``.

    Args:
        state: the present one, which stays where there is a number alone.

    Raises:
        NoAnswerError: there is no number of replicas.
    """
    number, state = value if isinstance(value, tuple) and len(value) == 2 else (value, state)
    if isinstance(number, bool) or not isinstance(number, numbers.Real) or not math.isfinite(number):
        text = repr(value)
        shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
        raise NoAnswerError(f"it answered {shown}, which is no number of replicas")
    return float(number), state
