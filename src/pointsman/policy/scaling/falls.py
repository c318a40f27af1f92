"""When fewer replicas are enough: delays, and what needing again what went teaches about them. Pure."""

from __future__ import annotations

import math

import msgspec

from pointsman.model.origin import Struct
from pointsman.model.scaling import Autoscaling

CALM_S = 120.0
"""Seconds over which demand is compared: what goes while it rises is needed again soon."""
REGRET_S = 600.0
"""Needing again within these seconds what went doubles the delay, which is no longer than these seconds either."""
FORGET_S = 1800.0
"""Seconds without that, after which the delay is the configured one again."""

SURGE_S = 20.0
"""Seconds for which replicas for a backlog are asked for at least, also if it is gone sooner."""
SPACED = 0.05
"""Falls are so long apart, as a part of the delay: demand is an average, and falls over a look-back."""
RISEN = 1.25
"""Demand is rising when it is so many times what it was :data:`CALM_S` seconds ago."""
STEADY = 1.1
"""Demand is steady when it is within a tenth of its average."""
TREND_S = 10.0
"""Seconds between two memories of demand that tell whether it is rising."""

Marks = tuple[tuple[float, float], ...]
"""Numbers and when they were needed last, falling. A new share of the traffic makes fractions of them."""


class Falls(Struct, frozen=True):
    """What is remembered to decide on falls.

    Attributes:
        since: when the first look was.
        needed: the highest number that was needed, by time; the past before ``since`` counts as all that was wanted.
        used_at: when there was a call last.
        raised_at: when the number rose last.
        surged: that was for a backlog, more than lasting demand needs.
        gone: when replicas went last, how many there had been and how many stayed.
        delay_s: the downscale delay in force; None: the configured one.
        regretted_at: when it was doubled last.
        fallen_at: when the number fell last.
        course: demand at some times of the last :data:`CALM_S` seconds.
    """

    since: float
    needed: Marks
    used_at: float
    raised_at: float | None = None
    surged: bool = False
    gone: tuple[float, int, int] | None = None
    delay_s: float | None = None
    regretted_at: float = 0.0
    fallen_at: float = -math.inf
    course: tuple[tuple[float, float], ...] = ()


def begin(now: float, wanted: int) -> Falls:
    """At the first look."""
    return Falls(now, ((now, wanted),), now)


def delay_of(falls: Falls, config: Autoscaling) -> float:
    """The downscale delay in force, in seconds."""
    return max(config.downscale_delay_s, falls.delay_s or 0.0)


def noted(falls: Falls, config: Autoscaling, now: float, enough: int, demand: float) -> Falls:
    """The same, with how many replicas are enough by this look."""
    marks = falls.needed
    while marks and marks[-1][1] <= enough:
        marks = marks[:-1]
    marks = (*marks, (now, enough))
    oldest = now - max(config.downscale_delay_s, REGRET_S)
    while len(marks) > 1 and marks[0][0] < oldest:
        marks = marks[1:]
    delay_s, regretted_at = falls.delay_s, falls.regretted_at
    if delay_s is not None and now - regretted_at > FORGET_S:
        delay_s = None
    course = falls.course
    if not course or now - course[-1][0] >= TREND_S:
        course = (*(point for point in course if point[0] >= now - CALM_S), (now, demand))
    return msgspec.structs.replace(
        falls,
        needed=marks,
        delay_s=delay_s,
        used_at=now if enough > 0 else falls.used_at,
        regretted_at=regretted_at,
        course=course,
    )


def highest(falls: Falls, now: float, delay_s: float) -> int:
    """The highest number that was needed in the last ``delay_s`` seconds."""
    oldest = now - delay_s
    number = next((number for when, number in falls.needed if when >= oldest), falls.needed[-1][1])
    return math.ceil(number - 1e-9)


def shared(falls: Falls, share: float) -> Falls:
    """The same for a backend that gets this part of its calls from now on, as if it had always been so. What a larger
    share would have needed is not known: few calls of a backend that needs one replica say nothing of many."""
    if share >= 1:
        return falls
    marks = tuple((when, number * share) for when, number in falls.needed)
    return msgspec.structs.replace(falls, needed=marks)


def stepped(falls: Falls, now: float, wanted: int) -> Falls:
    """The same after a new traffic policy, whose calls need this number: they are still to come."""
    marks = tuple(mark for mark in falls.needed if mark[1] > wanted)
    return msgspec.structs.replace(falls, needed=(*marks, (now, wanted)))


def raised(falls: Falls, config: Autoscaling, now: float, after: int, lasting: int) -> Falls:
    """The same after a rise to ``after`` replicas, ``lasting`` of them for lasting demand. If some of them had just
    gone, the delay doubles."""
    delay_s, regretted_at, gone = falls.delay_s, falls.regretted_at, falls.gone
    if gone is not None and now - gone[0] <= REGRET_S and min(after, lasting) > gone[2]:
        longest = max(REGRET_S, config.downscale_delay_s)
        delay_s, regretted_at, gone = min(longest, 2 * delay_of(falls, config)), now, None
    return msgspec.structs.replace(
        falls, raised_at=now, surged=after > lasting, delay_s=delay_s, regretted_at=regretted_at, gone=gone
    )


def fallen(falls: Falls, now: float, before: int, after: int) -> Falls:
    """The same after a fall. Replicas that were there for a backlog are not regretted."""
    gone = falls.gone if falls.surged else (now, before, after)
    return msgspec.structs.replace(falls, gone=gone, surged=False, fallen_at=now)


def floor(falls: Falls, config: Autoscaling, now: float, wanted: int, demand: float, *, clear: bool) -> int:
    """To how many replicas the number may fall now; ``wanted`` if it may not.

    Args:
        demand: calls that last, on average over the look-back.
        clear: there is no backlog, and the demand is measured without it.
    """
    if now - falls.since < config.look_back_period_s:
        return wanted
    delay_s = delay_of(falls, config)
    hold_s = min(SURGE_S, delay_s)
    if falls.surged and (not clear or (falls.raised_at is not None and now - falls.raised_at <= hold_s)):
        return wanted
    if now - falls.fallen_at < min(config.look_back_period_s, SPACED * delay_s):
        return wanted
    if delay_s >= CALM_S and not falls.surged and _is_rising(falls, now, demand):
        return wanted
    lowest = highest(falls, now, delay_s)
    to_zero_s = config.downscale_to_zero_delay_s if config.downscale_to_zero_delay_s is not None else delay_s
    if falls.needed[-1][1] == 0 and (lowest == 0 or wanted == 1):
        return 0 if now - falls.used_at > to_zero_s else min(wanted, 1)
    return min(wanted, lowest)


def _is_rising(falls: Falls, now: float, demand: float) -> bool:
    """Whether there is clearly more demand than two minutes ago: what goes now would soon be needed again."""
    when, before = falls.course[0]
    return now - when >= CALM_S / 2 and demand > RISEN * before


def usual(falls: Falls, demand: float) -> float:
    """Demand without chance: its average over two minutes, unless it is clearly another one now."""
    mean = sum(point for _, point in falls.course) / max(1, len(falls.course))
    return mean if mean <= STEADY * demand and demand <= STEADY * mean else demand
