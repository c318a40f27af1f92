"""What the rule remembers of what was counted: looks at cumulative counts, and averages between two of them. Pure."""

from __future__ import annotations

from bisect import bisect_right

import msgspec

from pointsman.model.origin import Struct
from pointsman.model.scaling import Demand

RECENT_S = 12.0
"""Seconds for which each look is kept; of older ones some are, so that a long look-back costs no more than a short."""
KEPT = 80
"""Older looks that are kept, at most."""
CLOSE_S = 0.2
"""Looks that are closer than these seconds to one another are one."""
INSTANT_S = 1e-9
"""No call runs so short."""
SURE_CALLS = 30
"""Calls that tell how long a call runs, whatever was believed before."""


class Looks(Struct, frozen=True):
    """Looks of the last seconds, oldest first: when, and what had been counted by then."""

    times: tuple[float, ...]
    counts: tuple[Demand, ...]


class Window(msgspec.Struct, frozen=True, gc=False):
    """What happened between two looks.

    Attributes:
        seconds: between them; 0.0 where there is only one.
        demand: calls that waited or ran, on average.
        waiting: the part of them that waited.
        arrivals: calls that came; may be a fraction after a step of traffic.
    """

    seconds: float
    demand: float
    waiting: float
    arrivals: float
    ended: int
    ran_s: float
    ran_s2: float

    @property
    def rate(self) -> float:
        """Calls that came, by second."""
        return self.arrivals / self.seconds if self.seconds > 0 else 0.0


class Service(msgspec.Struct, frozen=True, gc=False):
    """How long calls are on a replica: the mean in seconds, and the square of the coefficient of variation."""

    mean_s: float
    cv2: float = 1.0


def begin(now: float, demand: Demand) -> Looks:
    """The first look."""
    return Looks((now,), (demand,))


def add(looks: Looks, now: float, demand: Demand, look_back_s: float) -> Looks:
    """The looks with one more, without those that no window of ``look_back_s`` reaches."""
    times, counts = looks.times, looks.counts
    if len(times) > 1 and times[-1] - times[-2] < CLOSE_S:
        times, counts = times[:-1], counts[:-1]
    aged = bisect_right(times, now - RECENT_S) - 1
    if aged > 0 and times[aged] - times[aged - 1] < look_back_s / KEPT:
        times, counts = times[:aged] + times[aged + 1 :], counts[:aged] + counts[aged + 1 :]
    first = max(0, bisect_right(times, now - look_back_s) - 1)
    return Looks((*times[first:], now), (*counts[first:], demand))


def since(looks: Looks, start: float) -> Window:
    """What happened from the last look at or before ``start``, or from the first, until the newest."""
    index = max(0, bisect_right(looks.times, start + 1e-6) - 1)
    seconds = looks.times[-1] - looks.times[index]
    old, new = looks.counts[index], looks.counts[-1]
    share = 1 / seconds if seconds > 0 else 0.0
    return Window(
        seconds,
        max(0.0, new.call_s - old.call_s) * share,
        max(0.0, new.waiting_s - old.waiting_s) * share,
        max(0.0, new.arrivals - old.arrivals),
        max(0, new.ended - old.ended),
        max(0.0, new.ran_s - old.ran_s),
        max(0.0, new.ran_s2 - old.ran_s2),
    )


def scaled(looks: Looks, share: float, gains: float = 0.0) -> Looks:
    """The looks as if ``share`` times the calls had come, and ``gains`` more had been there at any time: the past of a
    backend whose traffic has just changed."""
    last, now = looks.counts[-1], looks.times[-1]
    counts = tuple(
        msgspec.structs.replace(
            old,
            call_s=last.call_s - (last.call_s - old.call_s) * share - gains * (now - time),
            waiting_s=last.waiting_s - (last.waiting_s - old.waiting_s) * share,
            arrivals=last.arrivals - (last.arrivals - old.arrivals) * share,
        )
        for time, old in zip(looks.times, looks.counts, strict=True)
    )
    return Looks(looks.times, counts)


def service_of(window: Window, demand: Demand, before: Service | None) -> Service | None:
    """How long calls are on a replica, by those that ended in a window; few of them weigh little against what was
    believed before. Without any it is what the routers have counted ever, or None."""
    ended, ran_s, ran_s2 = float(window.ended), window.ran_s, window.ran_s2
    if before is None and ended < SURE_CALLS:
        ended, ran_s, ran_s2 = float(demand.ended), demand.ran_s, demand.ran_s2
    elif before is not None and ended < SURE_CALLS:
        missing = SURE_CALLS - ended
        ran_s += missing * before.mean_s
        ran_s2 += missing * before.mean_s**2 * (1 + before.cv2)
        ended = SURE_CALLS
    if ended <= 0 or ran_s <= INSTANT_S * ended:
        return before
    mean_s = ran_s / ended
    return Service(mean_s, max(0.0, ran_s2 / ended / mean_s**2 - 1))
