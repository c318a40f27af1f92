"""Commands about rollouts, and about what they are judged by. Schemas; no I/O. Part of ``commands``."""

from __future__ import annotations

from pointsman.model.rollout import RolloutPlan
from pointsman.wire.messages import Command, Signed

PAUSE, RESUME, PROMOTE, ABORT = "pause", "resume", "promote", "abort"
"""What :class:`ControlRollout` can say; the client has a call for each, and the command line a word."""
VERBS = (PAUSE, RESUME, PROMOTE, ABORT)


class QueryTallies(Command, frozen=True, tag="query_tallies"):
    """Read what was counted of calls; the reply is a :class:`~pointsman.model.evidence.Numbers`.

    Attributes:
        over_s: the length of each window in seconds; None for all that is known.
        endpoint: only this one; None for all.
        both: only what versions of its policy have routed under which each of these backends has answered; all, if
            there is no such version.
        since: the ``at`` of an earlier reply. The only window is from that reading to the newest one, which costs the
            controller little: it reads once a second anyway. ``over_s``, ``endpoint`` and ``both`` do not count then.
    """

    over_s: tuple[float | None, ...]
    endpoint: str | None = None
    both: tuple[str, ...] = ()
    since: float | None = None


class StartRollout(Signed, frozen=True, tag="start_rollout"):
    """Start a rollout (RO1). The reply is an :class:`~pointsman.wire.commands.Accepted`; a plan that cannot be carried
    out is a ValueError, and nothing has changed (RO2).

    Attributes:
        plan: ``gates`` without any are the default: ``error_rate``, ``latency`` and ``health``.
    """

    plan: RolloutPlan


class ControlRollout(Signed, frozen=True, tag="control_rollout"):
    """Change the rollout of an endpoint that has not ended; it is a ValueError if there is none. The reply is an
    :class:`~pointsman.wire.commands.Accepted`, whose note says if there was nothing to do.

    Attributes:
        endpoint: name of the endpoint.
        verb: ``pause``: the weight stays, and a gate that trips still takes it back. ``resume``: it goes on; after new
            code without the evidence from before. ``promote``: the last weight at once. ``abort``: the former weights.
    """

    endpoint: str
    verb: str


RolloutCommand = StartRollout | ControlRollout
"""A command that changes the desired state."""


class QueryRollout(Command, frozen=True, tag="query_rollout"):
    """Read the newest rollout of an endpoint; the reply is a :class:`~pointsman.model.rollout.RolloutView`. It is a
    ValueError if the endpoint has had none.

    Attributes:
        endpoint: name of the endpoint.
    """

    endpoint: str


class AwaitRollout(Command, frozen=True, tag="await_rollout"):
    """Wait until the newest rollout of an endpoint has ended, or is inconclusive, which somebody must decide, and HTTP
    servers and the caller's router have its weights. The reply is a :class:`~pointsman.model.rollout.RolloutView`.
    Errors: TimeoutError, and ValueError as of :class:`QueryRollout`.

    Attributes:
        endpoint: name of the endpoint.
        timeout_s: the longest wait in seconds; None for no limit.
    """

    endpoint: str
    timeout_s: float | None
