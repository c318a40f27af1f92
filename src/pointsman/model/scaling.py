"""How many replicas a backend shall have: what users set, what routers count for it, and what is decided."""

from __future__ import annotations

import msgspec

from pointsman.model.origin import Struct

#: Why the number of replicas changes.
DEMAND, LATENCY, BACKLOG, WAKE, IDLE, SEASON = "demand", "latency", "backlog", "wake", "idle", "season"
TRAFFIC, POLICY, BOUNDS, HOLD, ROOM = "traffic", "policy", "bounds", "hold", "room"
REASONS = (DEMAND, LATENCY, BACKLOG, WAKE, IDLE, SEASON, TRAFFIC, POLICY, BOUNDS, HOLD, ROOM)

KEPT_DECISIONS = 50


class ScalingPolicy(Struct, frozen=True):
    """A user's own rule: the import path ``module:name`` of a callable, and folders to find it in."""

    path: str
    sys_path: tuple[str, ...] = ()


class Autoscaling(Struct, frozen=True):
    """The autoscaling of a backend, as it is stored. ``config.AutoscalingConfig`` describes the fields; None stands for
    a default that depends on the backend or the engine."""

    min_replicas: int = 1
    max_replicas: int | None = None
    initial_replicas: int | None = None
    target_ongoing_requests: float | None = None
    target_latency_ms: float | None = None
    look_back_period_s: float = 30.0
    upscaling_factor: float = 1.0
    downscaling_factor: float = 1.0
    upscale_delay_s: float = 0.0
    downscale_delay_s: float = 300.0
    downscale_to_zero_delay_s: float | None = None
    tolerance: float = 0.1
    priority: int = 0
    season_s: float | None = None
    policy: ScalingPolicy | None = None
    dry_run: bool = False

    @property
    def first_replicas(self) -> int:
        """Replicas of a backend that is created, with which its constructor is tried."""
        return self.initial_replicas if self.initial_replicas is not None else max(1, self.min_replicas)

    def bounds(self, default_max: int) -> tuple[int, int]:
        """The smallest and the largest number of replicas.

        Args:
            default_max: the largest number where the user gave none, which depends on the engine.
        """
        most = self.max_replicas
        if most is None:
            most = max(default_max, self.min_replicas, self.initial_replicas or 0)
        return self.min_replicas, max(1, most)


class Demand(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a router has counted of the calls for one backend since it began. All but ``waiting`` and ``running`` only
    grow, so that the difference of two of them is exact for the time between, however long that is; several routers'
    are added up.

    Attributes:
        call_s: seconds that calls have waited in the router or been on replicas, each until its answer or the end of
            its stream: the integral of ``waiting + running``.
        waiting_s: the part of them in the router.
        arrivals: calls that came, each once however often it was placed.
        ended: calls that were answered by a replica, or failed there.
        ran_s: the sum of the seconds that these were on their replica, once each, to the end of the answer.
        ran_s2: the sum of the squares of these.
        waiting: calls in the router now.
        running: calls on replicas now.
    """

    call_s: float = 0.0
    waiting_s: float = 0.0
    arrivals: int = 0
    ended: int = 0
    ran_s: float = 0.0
    ran_s2: float = 0.0
    waiting: int = 0
    running: int = 0

    def plus(self, other: Demand) -> Demand:
        """The two together."""
        return Demand(
            self.call_s + other.call_s,
            self.waiting_s + other.waiting_s,
            self.arrivals + other.arrivals,
            self.ended + other.ended,
            self.ran_s + other.ran_s,
            self.ran_s2 + other.ran_s2,
            self.waiting + other.waiting,
            self.running + other.running,
        )


class Hold(Struct, frozen=True):
    """A number of replicas that somebody has fixed; ``until`` is in seconds since 1970."""

    replicas: int
    until: float
    by: str = ""


class Decision(Struct, frozen=True):
    """A change of the number of replicas. ``time`` is ISO 8601 in UTC, ``text`` one sentence with the numbers."""

    time: str
    before: int
    after: int
    reason: str
    text: str


class Scale(Struct, frozen=True):
    """What an instance remembers of a backend's number of replicas, beyond its configuration.

    Attributes:
        wanted: the decided number; counts only where the backend is autoscaled.
        unloaded: there shall be none, whatever the configuration says, until a call or somebody wakes it.
        hold: the number is fixed for a while.
        start_s: learned seconds from a replica's launch until it is ready; None before the first.
        decisions: the newest, oldest first.
    """

    wanted: int
    unloaded: bool = False
    hold: Hold | None = None
    start_s: float | None = None
    decisions: tuple[Decision, ...] = ()


class Blocked(Struct, frozen=True):
    """Why a backend has fewer replicas than it wants: ``reason`` is one word, ``text`` one sentence."""

    reason: str
    text: str


class ScalingView(Struct, frozen=True):
    """The autoscaling of a backend as users see it.

    Attributes:
        wanted: replicas decided.
        min, max: bounds in force.
        demand: calls that waited or ran, on average over ``look_back_period_s``.
        start_s: learned seconds from launch to ready; None before the first replica was ready.
        remark: what hinders the rule, such as a policy that raises; empty if nothing does.
        hold_s: for how many seconds more the number is fixed; None if it is not.
        blocked: why it may not have what it wants; None if it has.
        ready_in_s: until the first replica of one that has none is expected; None where that is not known or asked.
    """

    wanted: int
    min: int
    max: int
    demand: float = 0.0
    arrivals_per_second: float = 0.0
    start_s: float | None = None
    remark: str = ""
    hold_s: float | None = None
    blocked: Blocked | None = None
    decisions: tuple[Decision, ...] = ()
    ready_in_s: float | None = None
