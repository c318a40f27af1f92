"""Callers that send their next call when they have an answer: how many there are. Pure.

Replicas that always have work tell nothing by how many calls come: as many as they answer. But calls of independent
callers would pile up or go by chance, while those of callers without pause stay as many as there are callers. So a
number of calls that hardly changes while many come and go is demand that lasts, and is known within seconds.
"""

from __future__ import annotations

from pointsman.model.scaling import Demand
from pointsman.policy.scaling.looks import Looks

LEAST_CALLS = 9
"""Calls that must have come meanwhile."""
LONGEST_S = 10.0
STEADY = ((5.0, 0.2), (3.0, 0.1), (2.0, 0.03), (1.0, 0.01))
"""Over so many seconds changes must be so small a part of what they are with independent callers. With these that
happens once in 5,000 looks over one second, and in 10,000 or more over the others."""
SURE_S = 2.0
BRIDGE = 12.0
"""Between two looks the average of a number that goes up and down by chance differs from the middle of what it was at
both by a twelfth of the variance by which these differ."""
LOOSE_S = 0.1
"""Looks come so much early or late."""


def without_pause(looks: Looks, places: int, *, behind: bool) -> float:
    """Calls at a time that callers without pause have; 0.0 if it is not clear that there are any.

    A caller is known as one when it has sent its next call: of a thousand calls that wait, of which ten were answered,
    ten count.

    Args:
        places: calls that the ready replicas run at once.
        behind: calls pile up. At the height of a backlog as many come as are answered, too, by chance.
    """
    now, newest = looks.times[-1], looks.counts[-1]
    later, later_at = newest, now
    least = _there(newest)
    found, changes = 0.0, 0.0
    for index in range(len(looks.times) - 2, -1, -1):
        look, at = looks.counts[index], looks.times[index]
        least = min(least, _there(look))
        if least <= places or now - at > LONGEST_S + LOOSE_S:
            break
        changes += _changes(look, later, later_at - at)
        later, later_at = look, at
        came, seconds = newest.arrivals - look.arrivals, now - at + LOOSE_S
        few = next((part for least_s, part in STEADY if seconds >= least_s), 0.0)
        if not few or came < LEAST_CALLS or (behind and seconds < SURE_S):
            continue
        if changes <= 2 * came * few:
            found = min(least, came)
    return found


def _there(look: Demand) -> int:
    return look.waiting + look.running


def _changes(old: Demand, new: Demand, seconds: float) -> float:
    """By how much the number of calls has changed between two looks, and on the way: twice the number of calls that
    came, on average, where callers are independent of one another."""
    on_the_way = (new.call_s - old.call_s) / seconds - (_there(new) + _there(old)) / 2
    return float((_there(new) - _there(old)) ** 2 + BRIDGE * on_the_way**2)
