"""The oracle: the fewest replicas that keep the share of late calls small, by one who knows the rates ahead. Pure."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

LATE = 0.01
"""The share of late calls that the oracle accepts."""
POINTS = 64
"""Service times that stand for their distribution."""


@lru_cache(maxsize=4096)
def least_replicas(rate: float, mean_s: float, cv: float, slots: int, slo_s: float) -> int:
    """The fewest replicas with which at most :data:`LATE` of all calls are late, in the long run.

    Waiting is Erlang C's, spread as Allen and Cunneen do for service times that are not exponential. Where even
    unlimited replicas are late more often, because calls take so long, it is the fewest that add a tenth to that.

    Args:
        rate: calls per second.
        mean_s, cv: of the service times.
        slots: calls that a replica runs at once.
        slo_s: seconds that a call may take.
    """
    if rate <= 0:
        return 0
    load = rate * mean_s
    times = _service_times(mean_s, cv)
    unavoidable = sum(time > slo_s for time in times) / POINTS
    bar = max(LATE, 1.1 * unavoidable)
    replicas = math.floor(load / slots) + 1
    while late_share(rate, mean_s, cv, replicas * slots, slo_s) > bar:
        replicas += 1
    return replicas


def late_share(rate: float, mean_s: float, cv: float, servers: int, slo_s: float) -> float:
    """The share of calls that take longer than ``slo_s``, waiting included; 1.0 where the servers do not suffice."""
    load = rate * mean_s
    if load >= servers:
        return 1.0
    waits = erlang_c(servers, load)
    decay = (servers - load) / mean_s * 2 / (1 + cv * cv)
    late = 0.0
    for time in _service_times(mean_s, cv):
        late += 1.0 if time > slo_s else waits * math.exp(-decay * (slo_s - time))
    return late / POINTS


def erlang_c(servers: int, load: float) -> float:
    """The share of calls that wait, where ``load`` servers are busy on average."""
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


@lru_cache(maxsize=64)
def _service_times(mean_s: float, cv: float) -> tuple[float, ...]:
    if cv == 0:
        return (mean_s,) * POINTS
    variance = math.log(1 + cv * cv)
    normal = NormalDist(math.log(mean_s) - variance / 2, math.sqrt(variance))
    return tuple(math.exp(normal.inv_cdf((index + 0.5) / POINTS)) for index in range(POINTS))
