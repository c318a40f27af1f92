"""How long calls wait for a free place: Erlang C, and for other service times than exponential Allen and Cunneen. Pure.

Sources: Erlang 1917; A. O. Allen, Probability, Statistics, and Queueing Theory, 2nd ed., section 5.3 (the approximation
of Allen and Cunneen: the wait of M/M/c times the mean of the squared coefficients of variation of arrivals and of
service). Arrivals are taken for a Poisson process.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

POINTS = 32
"""Service times that stand for their distribution, a lognormal one."""
LATE = 0.01
"""The share of calls that may take longer than a target of latency."""


@lru_cache(maxsize=4096)
def must_wait(servers: int, load: float) -> float:
    """Erlang C: the share of calls that find all servers busy, where ``load`` of them are on average."""
    if load >= servers:
        return 1.0
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


def mean_waiting(servers: int, load: float, cv2: float) -> float:
    """Calls that wait on average."""
    if load >= servers:
        return math.inf
    return must_wait(servers, load) * load / (servers - load) * (1 + cv2) / 2


def calls_there(servers: int, load: float, mean_s: float, cv2: float, seconds: float) -> tuple[float, float]:
    """Calls that wait or run, on average over so many seconds: the mean of that, and its standard deviation.

    The deviation is that of infinitely many servers, and of the queue as if it were that of one quick server for as
    long as there is one (asymptotic variance of M/M/1; W. Whitt, Planning queueing simulations, 1989).
    """
    if load >= servers:
        return math.inf, 0.0
    idle = 1 - load / servers
    spread = (1 + cv2) / 2
    queue = 2 * (1 - idle) * (2 - idle) * must_wait(servers, load) * spread / (servers * idle**4)
    variance = (load * (1 + cv2) + queue) * mean_s / seconds
    return load + mean_waiting(servers, load, cv2), math.sqrt(variance)


def late_share(servers: int, load: float, mean_s: float, cv2: float, limit_s: float) -> float:
    """The share of calls that take longer than ``limit_s``, waiting included.

    Args:
        load: servers that are busy on average.
        mean_s, cv2: of the service time.
    """
    if load >= servers:
        return 1.0
    waits = must_wait(servers, load)
    decay = (servers - load) / mean_s * 2 / (1 + cv2)
    late = 0.0
    for point in _points(round(cv2, 2)):
        left_s = limit_s - point * mean_s
        late += 1.0 if left_s < 0 else waits * math.exp(-decay * left_s)
    return late / POINTS


def percentile(servers: int, load: float, mean_s: float, cv2: float, limit_s: float) -> float:
    """Within how many seconds 99 of 100 calls are answered; ``limit_s`` if it is more than that."""
    low, high = 0.0, limit_s
    if late_share(servers, load, mean_s, cv2, high) > LATE:
        return limit_s
    for _ in range(12):
        middle = (low + high) / 2
        if late_share(servers, load, mean_s, cv2, middle) > LATE:
            low = middle
        else:
            high = middle
    return high


def work_itself(mean_s: float, cv2: float) -> float:
    """Within how many seconds 99 of 100 calls would be answered if none had to wait."""
    variance = math.log(1 + cv2)
    return mean_s * math.exp(NormalDist().inv_cdf(1 - LATE) * math.sqrt(variance) - variance / 2)


@lru_cache(maxsize=1024)
def least_replicas(load: float, mean_s: float, cv2: float, slots: int, limit_s: float, most: int) -> int:
    """The fewest replicas of ``slots`` servers with which 99 of 100 calls are answered within ``limit_s``; ``most`` if
    not even that many are enough."""
    replicas = min(most, max(1, math.floor(load / slots)))
    while replicas < most and late_share(replicas * slots, load, mean_s, cv2, limit_s) > LATE:
        replicas += 1
    return replicas


@lru_cache(maxsize=256)
def _points(cv2: float) -> tuple[float, ...]:
    """Service times as parts of their mean, each as likely as the others."""
    variance = math.log(1 + cv2)
    normal = NormalDist(-variance / 2, math.sqrt(variance)) if variance > 0 else None
    return tuple(math.exp(normal.inv_cdf((i + 0.5) / POINTS)) if normal else 1.0 for i in range(POINTS))


def rounded(value: float) -> float:
    """The value to about 2 %, so that what is reckoned from it can be remembered."""
    return math.exp(round(math.log(value) * 50) / 50) if value > 0 else 0.0
