"""What the counts of a look mean: lasting demand, a rise, and whether calls come faster than they are served. Pure.

Calls of many independent callers come as a Poisson process, whose counts vary by their square root. So a count of 1, 3
or 10 s says that more come than replicas are there for only if its lower bound is above. It must be above in both
halves of the window, too: calls that come all at once are a backlog, not a rate.
"""

from __future__ import annotations

import math

import msgspec

from pointsman.model.origin import Struct
from pointsman.model.scaling import Autoscaling
from pointsman.policy.scaling.backlog import UNKNOWN_SERVICE_S, UNKNOWN_START_S, is_behind
from pointsman.policy.scaling.looks import Looks, Service, Window, service_of, since
from pointsman.policy.scaling.seen import Seen

WINDOWS_S = (1.0, 3.0, 10.0)
SIGMAS = 3.0
"""Standard deviations between chance and a rise: one look in 700 at the very edge, none where there is room."""
TARGET = 0.7
"""Calls that a replica shall have at a time, as a part of those that it runs at once, where the user set nothing."""
RUN_OUT = 2.0
"""Times that a call runs, until those of a backlog that ran last have ended."""
NEWEST_S, EARLY_S = 0.5, 1.0
"""In the first 2 s of a rise the last half second may tell it best."""
STAYS = 0.8
"""A backlog stays if still so large a part of its average waits."""
LOOSE_S = 0.1
"""Looks come so much early or late."""
LEAST_S = WINDOWS_S[-1]
"""Seconds that an average must be made of before it counts, unless the look-back is shorter."""


class State(Struct, frozen=True):
    """What is remembered of the way calls come. All in seconds.

    Attributes:
        behind_since: since when calls wait for longer than they would for each other; None: they do not.
        caught_up_at: until when they last did.
        missing_at: when there were last fewer replicas ready than wanted.
        rising_since: since when surely more calls come than replicas were there for; None: they do not.
    """

    behind_since: float | None = None
    caught_up_at: float = -math.inf
    missing_at: float = -math.inf
    rising_since: float | None = None


class Facts(msgspec.Struct, frozen=True, gc=False):
    """What a look tells.

    Attributes:
        target: calls that a replica shall have at a time.
        service: how long calls run; a guess while ``guessed``.
        window: of the look-back.
        demand: calls that will last: those that waited or ran on average, but for a backlog.
        sure: the average is made of enough seconds to act on it.
        clear: no backlog is, or has lately been, that some of the calls belong to.
        rate: calls by second that come now, at least: of the rise, if there is one, else over 10 s.
        likely: the same, even if chance had sent many.
        rising: for how many seconds surely more calls come than replicas were there for; 0.0 if they do not.
        unsettled: replicas were missing, or a backlog was there, within the look-back, so that it says too much.
        full: calls at a time above which a replica has too many.
    """

    target: float
    full: float
    service: Service
    guessed: bool
    window: Window
    demand: float
    sure: bool
    clear: bool
    rate: float
    likely: float
    rising: float
    unsettled: bool
    state: State

    @property
    def running(self) -> float:
        """Calls that ran on average."""
        return self.window.demand - self.window.waiting


def gather(seen: Seen, config: Autoscaling, now: float, looks: Looks, state: State, known: Service | None) -> Facts:
    """Read the counts.

    Args:
        state: of the last look.
        known: how long calls ran, as of the last look.
    """
    target = config.target_ongoing_requests or TARGET * seen.slots
    full = target * (1 + config.tolerance)
    window = since(looks, now - config.look_back_period_s)
    learned = service_of(window, seen.demand, known)
    service = learned or Service(max(UNKNOWN_SERVICE_S, window.demand - window.waiting if seen.demand.running else 0.0))
    behind = is_behind(seen, service, target, before=state.behind_since is not None)
    state = _state(state, seen, now, behind)
    demand, sure, clear = _lasting(seen, config, now, looks, state, window, service)
    sure = sure or (seen.is_step and window.seconds > 0)
    # Before a whole look-back was seen, its average is what has just come.
    known_for_long = window.seconds >= config.look_back_period_s - LOOSE_S
    usual = max(1, math.ceil(demand / full) if known_for_long else seen.wanted)
    rising_since = _rising(now, looks, state, usual * full / service.mean_s)
    state = msgspec.structs.replace(state, rising_since=rising_since)
    rate, likely = _rates(looks, now, rising_since) if not seen.is_step else (window.rate, window.rate)
    rising = now - rising_since if rising_since is not None else 0.0
    unsettled = now - max(state.missing_at, state.caught_up_at) <= config.look_back_period_s
    return Facts(
        target, full, service, learned is None, window, demand, sure, clear, rate, likely, rising, unsettled, state
    )


def _state(state: State, seen: Seen, now: float, behind: bool) -> State:
    since_when, caught_up_at = state.behind_since, state.caught_up_at
    if behind:
        since_when = since_when if since_when is not None else now
    elif since_when is not None:
        since_when, caught_up_at = None, now
    missing_at = now if seen.ready < seen.wanted else state.missing_at
    return State(since_when, caught_up_at, missing_at, state.rising_since)


def _lasting(
    seen: Seen, config: Autoscaling, now: float, looks: Looks, state: State, window: Window, service: Service
) -> tuple[float, bool, bool]:
    """Demand without a backlog, whether to act on it, and whether all that wait or run are in it. They are where they
    do not pile up: after a backlog from its end on, and in one that stays although all replicas have been there for a
    look-back, which is how callers look that send their next call when they have an answer."""
    look_back_s = config.look_back_period_s
    least_s = min(LEAST_S, look_back_s) - LOOSE_S
    if state.behind_since is None:
        clear_at = state.caught_up_at + RUN_OUT * service.mean_s
        clear = window if clear_at <= now - look_back_s else since(looks, clear_at)
        if clear.seconds >= least_s:
            return clear.demand, True, True
    elif (
        now - max(state.behind_since, state.missing_at) >= look_back_s and seen.demand.waiting >= STAYS * window.waiting
    ):
        return window.demand, True, True
    return min(window.demand, window.rate * service.mean_s), window.seconds >= least_s, False


def _rates(looks: Looks, now: float, rising_since: float | None) -> tuple[float, float]:
    """Calls by second that come now, at least; and the same even if chance had sent many."""
    if rising_since is None:
        recent = since(looks, now - LEAST_S)
        return steady(looks, now, recent), surely(recent, sigmas=2.0)
    recent = since(looks, rising_since)
    newest = since(looks, now - NEWEST_S)  # what came before may be from before the rise
    rate = surely(recent, sigmas=1.0)
    if now - rising_since <= EARLY_S:
        rate = max(rate, surely(newest, sigmas=1.5))
    return rate, surely(recent, sigmas=2.0)


def _rising(now: float, looks: Looks, state: State, handled: float) -> float | None:
    """Since when surely more calls come than ``handled`` by second. A rise that was seen is measured on from its
    beginning, at most over the longest window, unless another one comes on top of it."""
    known = state.rising_since
    if known is None:
        return beyond_noise(looks, now, handled)
    lately = max(known, now - LEAST_S)
    began = beyond_noise(looks, now, max(handled, since(looks, lately).rate))
    if began is not None:
        return began
    if now - known < LEAST_S or beyond_noise(looks, now, handled) is not None:
        return lately
    return None


def start_of(seen: Seen) -> float:
    """Seconds from launch to ready, as far as known."""
    return seen.start_s if seen.start_s is not None else UNKNOWN_START_S


def beyond_noise(looks: Looks, now: float, handled: float) -> float | None:
    """Since when surely more calls come than ``handled`` by second; None if that may be chance."""
    for seconds in WINDOWS_S:
        window = since(looks, now - seconds)
        if window.seconds < 0.9 * seconds or window.rate <= handled:
            continue
        if surely(window) > handled and steady(looks, now, window) > handled:
            return now - window.seconds
    return None


def surely(window: Window, *, sigmas: float = SIGMAS) -> float:
    """The smallest number of calls by second that may well have led to those of a window."""
    root = math.sqrt(window.arrivals) - sigmas / 2
    return root * root / window.seconds if root > 0 else 0.0


def steady(looks: Looks, now: float, window: Window) -> float:
    """Calls by second in the half of a window in which fewer came: many at once are not taken for a rate."""
    newer = since(looks, now - window.seconds / 2)
    older_s = window.seconds - newer.seconds
    return min(newer.rate, (window.arrivals - newer.arrivals) / older_s) if older_s > 0 else newer.rate
