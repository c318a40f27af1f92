"""How many replicas each subject asks for: demand, latency, blocked loops, backlog, season, a policy. Pure.

Each gives the replicas that are needed now (a rise), those that are enough (a fall), and the reason in words.
"""

from __future__ import annotations

import math

import msgspec

from pointsman.model.scaling import BACKLOG, DEMAND, POLICY, SEASON, WAKE, Autoscaling
from pointsman.policy.scaling import backlog, callers, queueing
from pointsman.policy.scaling.facts import LEAST_S, Facts, start_of
from pointsman.policy.scaling.looks import Looks
from pointsman.policy.scaling.seen import Seen

FULL = 0.7
"""The share of time for which a replica's event loop may be blocked before the replica is full."""
SIGMAS = 3.0
"""Standard deviations of the average number of calls between what is enough and what would be too few again."""
LOOK_BACK_S = 30.0
BUSY = 0.97
"""Replicas that are busy for so large a part of the time always are: nothing tells how many calls came if they were
more, so that all that wait are taken for demand."""
QUEUES_BELOW = 50
"""From so many servers on calls hardly wait for each other at the targets that make sense."""


class Need(msgspec.Struct, frozen=True, gc=False):
    """What one subject asks for.

    Attributes:
        now: replicas to have at once; 0 where it asks for no rise.
        enough: replicas below which the number must not fall.
        lasts: it will still be needed when the backlog is gone.
    """

    now: int
    enough: int
    reason: str
    text: str
    lasts: bool = True


def least(load: float, target: float) -> int:
    """The fewest replicas with a load of at most ``target`` each."""
    return math.ceil(load / target - 1e-9)


def of_demand(seen: Seen, facts: Facts) -> Need:
    """Demand over the look-back. It asks for more when it is above the tolerance, and says what is enough without."""
    more, text = 0, f"demand {facts.demand:.3g} at target {facts.target:g}"
    if seen.wanted and facts.sure and facts.demand > seen.wanted * facts.full:
        few, many = seen.wanted if facts.unsettled else seen.wanted + 1, least(facts.demand, facts.full)
        more = with_queue(few, many, seen, facts, facts.running, sigmas=0.0)
        if more < many:
            text = f"{text}, {facts.running:.3g} of it on replicas and the rest waiting"
    enough = max(more, least(facts.demand, facts.target))
    if not enough and (facts.demand > 0 or seen.demand.waiting or seen.demand.running):
        enough = 1
    return Need(more, enough, DEMAND, text)


def with_queue(few: int, many: int, seen: Seen, facts: Facts, load: float, sigmas: float = SIGMAS) -> int:
    """With fewer replicas calls wait for each other more often, and more at one time than at another: the number from
    ``few`` to ``many`` with which they will not be too many, but for chance of so many standard deviations.

    Args:
        load: calls that run on average.
    """
    busy = facts.running > BUSY * seen.ready * seen.slots
    if facts.target >= seen.slots or few * seen.slots >= QUEUES_BELOW or busy:
        return few if sigmas else many
    load = queueing.rounded(load)
    while few < many:
        servers = few * seen.slots
        mean, deviation = queueing.calls_there(servers, load, facts.service.mean_s, facts.service.cv2, LOOK_BACK_S)
        if mean + sigmas * deviation <= few * facts.full:
            break
        few += 1
    return few


def of_rise(seen: Seen, facts: Facts) -> Need | None:
    """A rise beyond noise, or a step of traffic: the demand that it leads to, but for calls that run so long that it is
    not there before one could ask again."""
    if not facts.rising and not seen.is_step:
        return None
    there = seen.demand.waiting + seen.demand.running + facts.rate * (start_of(seen) + 1)
    load = min(facts.likely * facts.service.mean_s, there)
    more = least(load, facts.full)
    text = f"demand {load:.3g} at target {facts.target:g}, by {facts.rate:.3g} calls/s"
    enough = 0 if facts.guessed else more
    return Need(more, enough, DEMAND, f"{text} in {facts.rising:.2g} s" if facts.rising else text)


def of_callers(seen: Seen, facts: Facts, looks: Looks) -> Need | None:
    """Callers that send their next call when they have an answer: what they have is demand, whatever else it could be
    taken for."""
    if seen.silent or seen.is_step or not seen.ready:
        return None
    calls = callers.without_pause(looks, seen.ready * seen.slots, behind=facts.state.behind_since is not None)
    if not calls:
        return None
    more = least(calls, facts.full)
    return Need(more, more, DEMAND, f"demand {calls:.3g} at target {facts.target:g}, of callers without pause")


def of_blocking(seen: Seen, config: Autoscaling, facts: Facts, now: float) -> Need | None:
    """Event loops that are blocked, where no target says how many calls a replica takes. More are asked for only when
    the last ones have been there for long enough to have taken their part."""
    if config.target_ongoing_requests is not None or not seen.is_async or not seen.ready or seen.blocked <= 0:
        return None
    busy = seen.blocked * seen.ready
    full = FULL * (1 + config.tolerance)
    more = least(busy, full) if seen.blocked > full and now - facts.state.missing_at > LEAST_S else 0
    enough = max(more, least(busy, FULL))
    return Need(more, enough, DEMAND, f"an event loop is blocked {100 * seen.blocked:.0f} % of the time")


def of_backlog(seen: Seen, facts: Facts, launches: tuple[tuple[float, int], ...], now: float) -> Need | None:
    """Calls that wait longer than for each other, or will because more come than the ready replicas can serve."""
    overrun = facts.rising > 0 and facts.likely * facts.service.mean_s > backlog.serving(seen) * seen.slots
    if facts.state.behind_since is None and not overrun:
        return None
    work = backlog.expected(seen, facts.service, facts.rate, facts.target, launches, now)
    if work.calls < 1:
        return None
    reason = WAKE if seen.wanted == 0 else BACKLOG
    text = f"{work.calls:.0f} calls will wait when replicas are ready in {work.ready_in_s:.3g} s"
    text = f"{text}, to be gone {work.within_s:.3g} s later"
    return Need(math.ceil(work.replicas - 1e-9), 0, reason, text, lasts=False)


def of_waking(seen: Seen) -> Need | None:
    """The first calls of a backend without replicas."""
    waiting = seen.demand.waiting
    if seen.wanted or not waiting:
        return None
    return Need(1, 1, WAKE, f"{waiting} {'call waits' if waiting == 1 else 'calls wait'} and no replica is there")


def of_season(config: Autoscaling, ahead: int) -> Need | None:
    """What was needed a season ago."""
    if config.season_s is None or not ahead:
        return None
    return Need(ahead, ahead, SEASON, f"{ahead} were needed {config.season_s:g} s before")


def of_policy(seen: Seen) -> Need | None:
    """What the user's own policy has answered."""
    if seen.policy_wants is None or not math.isfinite(seen.policy_wants):
        return None
    wants = max(0, math.ceil(seen.policy_wants - 1e-9))
    return Need(wants, wants, POLICY, f"the policy says {seen.policy_wants:g}")
