"""What would a rule do with these calls? The public function, its result, and the course of a simulation."""

from __future__ import annotations

import math
import numbers
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from pointsman.config.scaling import AutoscalingConfig, parse_autoscaling
from pointsman.model.origin import Struct
from pointsman.policy.scaling.seen import Seen
from pointsman.testing.scaling.fleet import INFINITE, Fleet
from pointsman.testing.scaling.oracle import least_replicas
from pointsman.testing.scaling.own import Own, imported
from pointsman.testing.scaling.peers import Knative, RayServe
from pointsman.testing.scaling.rules import Oracle, Pointsman, Rule
from pointsman.testing.scaling.traces import Calls, Trace, calls_of, mean_and_cv

DEFAULT_MAX = 100
"""The largest number of replicas where the configuration has none: that of the Ray engine, on any machine."""
FLAP_S = 120.0
P99_S = 30.0
COURSE_S = 10.0
POLICIES = ("pointsman", "ray", "kpa", "oracle")


class Simulated(Struct, frozen=True):
    """What became of the calls of a simulation.

    Attributes:
        requests: calls that came.
        lost: calls that waited for their deadline, 300 s.
        late: share of the calls that took longer than the limit, or were lost.
        latency_ms: milliseconds from arrival to answer: ``p50``, ``p95``, ``p99`` and ``max``.
        replica_seconds: seconds that replicas were there within the trace, each from its launch to its end.
        peak: the most replicas wanted at a time.
        flaps: changes of the number in the other direction than the change before it, less than 120 s ago.
        wanted: ``(second, replicas)``, at the beginning and at each change.
        ready: the same of replicas that take calls.
        course: ``(second, calls per second, share of them that were late)``, by the time of arrival, each 10 s.
        decisions: each change as ``{"time", "from", "to", "reason", "text"}``, the time in seconds of the trace.
        remark: what hindered the rule in the end, such as a policy that raises; empty if nothing.
    """

    requests: int
    lost: int
    late: float
    latency_ms: dict[str, float]
    replica_seconds: float
    peak: int
    flaps: int
    wanted: list[tuple[float, int]]
    ready: list[tuple[float, int]]
    course: list[tuple[float, float, float]]
    decisions: list[dict[str, Any]]
    remark: str = ""


def simulate_autoscaling(
    trace: Trace,
    config: Mapping[str, Any] | AutoscalingConfig | None = None,
    *,
    service_s: float | tuple[float, float] = 0.1,
    slots: int = 1,
    start_s: float = 5.0,
    slo_ms: float | None = None,
    policy: str | Callable[..., Any] = "pointsman",
    seed: int = 0,
) -> Simulated:
    """Say what a rule of autoscaling would do with a trace of calls, in simulated time. The same arguments always give
    the same result, and every rule gets the same calls.

    The trace is a piece of a longer life: it begins with ``initial_replicas`` ready replicas, or as many as its first
    rate needs. Calls wait in one queue, as in a router; a replica runs ``slots`` of them at once, ends those that it
    runs before it leaves, and a call that has waited for 300 s is lost.

    Args:
        trace: arrival times in seconds; or steps ``(second, calls per second)``, ended by the last: a Poisson process.
        config: as ``autoscaling`` of a backend; without ``max_replicas`` it is 100.
        service_s: seconds that a call keeps a slot busy: a number, or ``(mean, coefficient of variation)``.
        slots: calls that a replica runs at once.
        start_s: seconds from a replica's launch until it takes calls.
        slo_ms: what takes longer is late; default ``target_latency_ms``, else five times the mean of ``service_s``.
        policy: ``"pointsman"``; ``"ray"`` and ``"kpa"``, the rules of Ray Serve and of Knative; ``"oracle"``, which
            knows the rates ahead; or a policy of one's own, as an import path or a callable.
        seed: of all random numbers.

    Returns:
        What became of the requests, and how the number of replicas went.

    Raises:
        ValueError: the trace is empty, unsorted or negative, the policy unknown, a field of the configuration unknown
            or another value out of range.
        ImportError, TypeError: a policy of one's own cannot be imported, or called.
    """
    mean_s, cv = mean_and_cv(service_s)
    _check(slots, start_s, slo_ms)
    options = parse_autoscaling(config) or AutoscalingConfig()
    autoscaling = options.spec()
    calls = calls_of(trace, service_s, seed)
    slo_s = (slo_ms or autoscaling.target_latency_ms or 5000 * mean_s) / 1000
    bounds = autoscaling.bounds(DEFAULT_MAX)
    needs = [
        (second, _within(least_replicas(rate, mean_s, cv, slots, slo_s), bounds)) for second, rate in calls.steps[:-1]
    ]
    first = autoscaling.initial_replicas if autoscaling.initial_replicas is not None else needs[0][1]
    rule = _rule(policy, options, Oracle(needs, start_s), slots, first)
    return _Run(calls, rule, Fleet(calls, slots, start_s, first), bounds, slots, start_s, first).result(slo_s)


def _check(slots: int, start_s: float, slo_ms: float | None) -> None:
    if isinstance(slots, bool) or not isinstance(slots, int) or slots < 1:
        raise ValueError(f"slots must be an int >= 1, got {slots!r}")
    if not (isinstance(start_s, numbers.Real) and math.isfinite(start_s) and start_s >= 0):
        raise ValueError(f"start_s must be a number of seconds >= 0, got {start_s!r}")
    if slo_ms is not None and not (isinstance(slo_ms, numbers.Real) and math.isfinite(slo_ms) and slo_ms > 0):
        raise ValueError(f"slo_ms must be a number of milliseconds > 0, got {slo_ms!r}")


def _rule(policy: str | Callable[..., Any], options: AutoscalingConfig, oracle: Oracle, slots: int, first: int) -> Rule:
    """The rule that is simulated. The configuration may name a policy of the user's, as that of a backend may.

    Raises:
        ValueError, ImportError, TypeError: there is none.
    """
    given = {name: getattr(options, name) for name in options.model_fields_set}
    if policy == "ray":
        return RayServe(given)
    if policy == "kpa":
        return Knative(given, slots, first)
    if policy == "oracle":
        return oracle
    own: Any = options.policy if policy == "pointsman" else policy
    if own is None:
        return Pointsman(options.spec())
    if isinstance(own, str) and (":" in own or "." in own):
        own = imported(own)
    if not callable(own):
        raise ValueError(f"a policy must be one of {', '.join(POLICIES)}, an import path or a callable, got {own!r}")
    return Own(own, options.spec())


def _within(replicas: int, bounds: tuple[int, int]) -> int:
    return min(max(replicas, bounds[0]), bounds[1])


class _Run:
    """One simulation, from its first call to its last."""

    def __init__(
        self,
        calls: Calls,
        rule: Rule,
        fleet: Fleet,
        bounds: tuple[int, int],
        slots: int,
        start_s: float,
        first: int,
    ) -> None:
        self._calls = calls
        self._rule = rule
        self._fleet = fleet
        self._bounds = bounds
        self._slots = slots
        self._start_s = start_s
        self._window = Window()
        self._wanted = [(0.0, first)]
        self._ready = [(0.0, first)]
        self._decisions: list[dict[str, Any]] = []
        self._remark = ""

    def result(self, slo_s: float) -> Simulated:
        """Run it, and say what became of the calls."""
        used_s = self._run()
        fleet = self._fleet
        answered = sorted(latency for latency in fleet.latencies if latency >= 0)
        lost = len(fleet.latencies) - len(answered)
        late = lost + sum(latency > slo_s for latency in answered)
        shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
        return Simulated(
            requests=len(fleet.latencies),
            lost=lost,
            late=round(late / len(fleet.latencies), 6),
            latency_ms={name: round(_share(answered, share) * 1000, 3) for name, share in shares.items()},
            replica_seconds=round(used_s, 3),
            peak=max(count for _, count in self._wanted),
            flaps=_flaps(self._wanted),
            wanted=self._wanted,
            ready=self._ready,
            course=_course(self._calls.times, fleet.latencies, slo_s),
            decisions=self._decisions,
            remark=self._remark,
        )

    def _run(self) -> float:
        """Until all calls have left; the replica-seconds up to the end of the trace."""
        fleet, end_s, every_s = self._fleet, self._calls.end_s, self._rule.every_s
        looks, next_look, used_s = 0, 0.0, None
        while used_s is None or not fleet.done:
            target = min(next_look, fleet.next_ready, end_s if used_s is None else INFINITE)
            now = fleet.advance(target)
            fleet.expire(now)
            fleet.become_ready(now)
            if used_s is None and now >= end_s:
                used_s = fleet.used_s(now)
            if now >= next_look or now < target:
                self._look(now)
            if now >= next_look:
                looks += 1
                next_look = looks * every_s
            if fleet.ready != self._ready[-1][1]:
                self._ready.append((now, fleet.ready))
        return used_s

    def _look(self, now: float) -> None:
        fleet, wanted = self._fleet, self._wanted[-1][1]
        self._window.add(now, fleet.fresh)
        fleet.fresh.clear()
        seen = Seen(
            demand=fleet.demand(now),
            wanted=wanted,
            ready=fleet.ready,
            starting=fleet.starting,
            slots=self._slots,
            min_replicas=self._bounds[0],
            max_replicas=self._bounds[1],
            start_s=self._start_s,
            p99_s=self._window.percentile(0.99),
        )
        verdict = self._rule.look(seen, now)
        self._remark = verdict.remark
        if verdict.wanted != wanted:
            fleet.resize(verdict.wanted, now)
            self._wanted.append((now, verdict.wanted))
            change = {"time": now, "from": wanted, "to": verdict.wanted}
            self._decisions.append({**change, "reason": verdict.reason, "text": verdict.text})


class Window:
    """Latencies of the last half minute, as counts in classes that are 3 % wide: what a controller knows of them."""

    WIDTH = math.log(1.03)

    def __init__(self) -> None:
        self._looks: deque[tuple[float, dict[int, int]]] = deque()
        self._counts: dict[int, int] = {}
        self._total = 0

    def add(self, now: float, latencies: list[float]) -> None:
        """Count what has ended since the last look, and forget what is too old."""
        fresh: dict[int, int] = {}
        for latency in latencies:
            key = math.ceil(math.log(max(latency, 1e-6)) / self.WIDTH)
            fresh[key] = fresh.get(key, 0) + 1
        self._looks.append((now, fresh))
        self._count(fresh, 1)
        while self._looks[0][0] <= now - P99_S:
            self._count(self._looks.popleft()[1], -1)

    def percentile(self, share: float) -> float | None:
        """The latency that this share of the calls had at most; None without calls."""
        above = math.floor(self._total * (1 - share) + 1e-9)
        for key in sorted(self._counts, reverse=True):
            above -= self._counts[key]
            if above < 0:
                return math.exp(key * self.WIDTH)
        return None

    def _count(self, counts: dict[int, int], sign: int) -> None:
        for key, count in counts.items():
            left = self._counts.get(key, 0) + sign * count
            if left:
                self._counts[key] = left
            else:
                del self._counts[key]
            self._total += sign * count


def _share(values: list[float], share: float) -> float:
    """The value that this share of ascending values does not exceed; 0 without any."""
    return values[max(0, math.ceil(share * len(values) - 1e-9) - 1)] if values else 0.0


def _course(times: list[float], latencies: list[float], slo_s: float) -> list[tuple[float, float, float]]:
    come: list[int] = [0] * (int(times[-1] // COURSE_S) + 1)
    late = come.copy()
    for time, latency in zip(times, latencies, strict=True):
        come[int(time // COURSE_S)] += 1
        late[int(time // COURSE_S)] += latency > slo_s or latency < 0
    shares = enumerate(zip(come, late, strict=True))
    return [(index * COURSE_S, all_ / COURSE_S, missed / all_ if all_ else 0.0) for index, (all_, missed) in shares]


def _flaps(wanted: list[tuple[float, int]]) -> int:
    flaps = 0
    for (_, first), (before, second), (now, third) in zip(wanted, wanted[1:], wanted[2:], strict=False):
        flaps += (second - first) * (third - second) < 0 and now - before < FLAP_S
    return flaps
