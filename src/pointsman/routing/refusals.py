"""Why a call is given up, and when it is worth trying again."""

from __future__ import annotations

import math
import time

from pointsman.exceptions import BackpressureError, DeadlineExceededError, ReplicaDiedError
from pointsman.model import BackendRoute
from pointsman.routing.call import Call

MAX_RETRY_AFTER_S = 60.0
"""Longest that a client is told to wait for room in a queue that is worked off."""

wall_clock = time.time
"""The routing table has times of day, since it goes to other machines."""


class NotStartingError(BackpressureError):
    """A backend has no replica, and those that were started have failed. The model author's fault, mostly."""


def is_refused(route: BackendRoute) -> bool:
    """Whether calls that find no replica are not to wait for one now."""
    return bool(route.refused_until) and not route.replicas and wall_clock() < route.refused_until


def not_starting(route: BackendRoute) -> NotStartingError:
    """The error of a call that is not to wait."""
    left_s = max(1, math.ceil(route.refused_until - wall_clock()))
    return NotStartingError(
        f"backend {route.tag!r} has no replica: those that were started have failed, and the next is tried in {left_s}"
        " s; its status has the reason",
        retry_after=left_s,
    )


def queue_full(route: BackendRoute, endpoint: str, *, waiting: int, per_second: float) -> BackpressureError:
    """The error of a call for which the queue has no room.

    Args:
        waiting: calls in the queue.
        per_second: how many of them are answered.
    """
    if not route.replicas:
        retry_after = ready_in_s(route)
    else:
        retry_after = min(max(1.0, waiting / per_second), MAX_RETRY_AFTER_S) if per_second else 1.0
    return BackpressureError(
        f"{route.max_queued_queries} calls of endpoint {endpoint!r} already wait for backend {route.tag!r}, its"
        " max_queued_queries",
        retry_after=retry_after,
    )


def too_late(call: Call, route: BackendRoute) -> DeadlineExceededError:
    """The error of a call whose deadline has passed."""
    started = call.remote is not None
    waited = "its deadline passed while it ran" if started else "no replica was free before its deadline"
    return DeadlineExceededError(
        f"call to endpoint {call.request.endpoint!r} was given up: {waited}",
        started=started,
        retry_after=1.0 if route.replicas else ready_in_s(route),
    )


def replica_died(tag: str) -> ReplicaDiedError:
    """The error of a call that may have run."""
    return ReplicaDiedError(f"the replica of backend {tag!r} died after hand-off; the call may have run")


def load_died(tag: str, model_id: str) -> ReplicaDiedError:
    """The error of a call for a model whose loads seem to end replicas."""
    return ReplicaDiedError(
        f"replicas of backend {tag!r} have died, one after the other, while model {model_id!r} was loaded; that is not"
        " tried again for a while"
    )


def ready_in_s(route: BackendRoute) -> float:
    """Seconds until a backend without a replica should have one; 1 where that is not known."""
    return float(max(1, math.ceil(route.ready_at - wall_clock()))) if route.ready_at else 1.0
