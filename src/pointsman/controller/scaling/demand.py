"""What the routers of an instance count of the calls for backends, added up as it comes in. Pure.

    DEMAND frames of routers' processes -> :meth:`Collector.reported` -> the sum, for each look at a backend

The sum never falls. A router's first frame on a connection is where its counts begin: a controller that has just
started does not take what was counted before for demand of this moment. A router that is gone takes its calls along;
one that is silent keeps its last ones for a while, and is said to be silent.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from msgspec.structs import replace

from pointsman.model.scaling import Demand
from pointsman.policy.scaling.totals import NOTHING, Totals
from pointsman.wire.scaling import DEMAND_PERIOD_S, DemandHead

SILENT_S = 3 * DEMAND_PERIOD_S
"""A router that has calls is silent after this long without a frame."""
FORGOTTEN_S = 30.0
"""For how long the calls of a silent router count."""
LINGER_S = 60.0
"""For how long a backend that is gone is remembered: late frames must not count for another one of its name."""
MOST = 1e12
"""No router counts more calls, or seconds of them."""


class Pace(NamedTuple):
    """How many calls a router had on average, and how many of them waited."""

    calls: float
    waiting: float


class Collector:
    """Adds up the demand of all routers.

    Args:
        now: seconds on a clock that does not jump.

    Attributes:
        on_waiting: called for each frame that says that calls wait in a router, with their backends. Frames come each
            half second, and at once when a call finds no replica, then at most every :data:`~pointsman.routing.reports.
            URGENT_S`.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._totals: Totals[int] = Totals()
        self._heard: dict[int, float] = {}
        self._pace: dict[tuple[int, str], Pace] = {}
        self._shown: dict[str, Demand] = {}
        self._gone: dict[str, float] = {}
        self.on_waiting: Callable[[list[str]], None] = lambda tags: None

    def reported(self, router: int, head: DemandHead) -> None:
        """Take a frame of a router's process; ``router`` is the number of its subscription.

        Words that no router can mean are left out: drivers are processes of users, and one number that is none would
        stay in the sums for good.
        """
        now, heard = self._now(), self._heard.get(router)
        self._heard[router] = now
        words = {tag: word for tag, word in head.backends.items() if _is_possible(word)}
        for tag, word in words.items():
            before = self._totals.words(tag).get(router, NOTHING)
            self._pace[router, tag] = _pace(before, word, now - heard if heard is not None else SILENT_S)
            was_silent = heard is not None and now - heard > SILENT_S and before.waiting + before.running > 0
            # What it has counted while it was silent, or before this connection, would look like demand of this moment.
            self._totals.take(router, tag, word, added=heard is not None and not was_silent and tag not in self._gone)
        waiting = [tag for tag, word in words.items() if word.waiting]
        if waiting:
            self.on_waiting(waiting)

    def lost(self, router: int) -> None:
        """The connection of a router's process is lost, and so are the calls that it had."""
        if self._heard.pop(router, None) is not None:
            self._totals.end(router)
            self._pace = {key: pace for key, pace in self._pace.items() if key[0] != router}

    def demand_of(self, tag: str) -> Demand:
        """What all routers have counted for a backend up to now; it never falls.

        The time since a router's last frame is filled up with what it had on average between its last two: otherwise a
        second of this process would hold now one, now three half seconds of a router.
        """
        now, total = self._now(), self._totals.of(tag)
        call_s, waiting_s, waiting, running = total.call_s, total.waiting_s, total.waiting, total.running
        for router, word in self._totals.words(tag).items():
            since_s = now - self._heard[router]
            filled_s = min(since_s, SILENT_S if word.waiting or word.running else DEMAND_PERIOD_S)
            pace = self._pace[router, tag]
            call_s += pace.calls * filled_s
            waiting_s += pace.waiting * filled_s
            if since_s > FORGOTTEN_S:
                waiting, running = waiting - word.waiting, running - word.running
        shown = self._shown.get(tag, NOTHING)
        call_s, waiting_s = max(call_s, shown.call_s), max(waiting_s, shown.waiting_s)
        shown = replace(total, call_s=call_s, waiting_s=waiting_s, waiting=waiting, running=running)
        self._shown[tag] = shown
        return shown

    def waiting_heard(self, tag: str) -> float:
        """When a router has said last that calls wait which it has still; minus infinity if none has."""
        words = self._totals.words(tag).items()
        return max((self._heard[router] for router, word in words if word.waiting), default=float("-inf"))

    def is_silent(self, tag: str) -> bool:
        """Whether a router whose last word was that calls wait or run has said nothing since, for less than
        :data:`FORGOTTEN_S`: then nobody knows that there are fewer calls now."""
        now = self._now()
        return any(
            SILENT_S < now - self._heard[router] <= FORGOTTEN_S
            for router, word in self._totals.words(tag).items()
            if word.waiting or word.running
        )

    def keep(self, tags: Collection[str]) -> None:
        """Forget all backends but these, at each look: others are gone, or their number of replicas does not follow
        calls any more."""
        now = self._now()
        for tag in [tag for tag in self._gone if tag in tags]:
            del self._gone[tag]
        for tag in self._totals.tags():
            if tag not in tags and now - self._gone.setdefault(tag, now) > LINGER_S:
                self._totals.forget(tag)
                self._shown.pop(tag, None)
                self._pace = {key: pace for key, pace in self._pace.items() if key[1] != tag}
                del self._gone[tag]


def _is_possible(word: Demand) -> bool:
    """Whether a router may have counted this. ``ran_s2`` has squares."""
    counts = (word.call_s, word.waiting_s, word.arrivals, word.ended, word.ran_s, word.waiting, word.running)
    return all(0 <= count <= MOST for count in counts) and 0 <= word.ran_s2 <= MOST**2


def _pace(before: Demand, after: Demand, seconds: float) -> Pace:
    """What a router had between two words, or has now, where they do not tell of about half a second."""
    counted_s, waited_s = after.call_s - before.call_s, after.waiting_s - before.waiting_s
    if not DEMAND_PERIOD_S / 2 <= seconds < SILENT_S or counted_s < 0 or waited_s < 0:
        return Pace(after.waiting + after.running, after.waiting)
    return Pace(counted_s / seconds, waited_s / seconds)
