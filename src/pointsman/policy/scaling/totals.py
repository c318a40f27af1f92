"""Adds up what several counters count of the calls for backends, so that the sum never falls. Pure.

The process of a router adds up its routers, and the controller adds up these processes. A counter begins at nothing,
may begin anew, and may go for good: what it has counted stays in the sum, and the calls that it had do not.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

from msgspec.structs import replace

from pointsman.model.scaling import Demand

C = TypeVar("C", bound=Hashable)

NOTHING = Demand()
ROUNDING_S = 1e-3
"""By less than this two sums of the same seconds may differ."""


class Totals(Generic[C]):
    """Sums of :class:`~pointsman.model.scaling.Demand` by backend."""

    def __init__(self) -> None:
        self._words: dict[str, dict[C, Demand]] = {}
        """The last of each counter, by backend."""
        self._counted: dict[str, Demand] = {}
        """Without the calls that are there now."""

    def take(self, counter: C, tag: str, word: Demand, *, added: bool = True) -> None:
        """Add what a counter has counted since its last word. Counts that have fallen have begun anew.

        Args:
            word: what it has counted since it began.
            added: False to leave out what it has counted until now.
        """
        words = self._words.setdefault(tag, {})
        before, words[counter] = words.get(counter, NOTHING), word
        if added:
            fell_s = before.call_s - word.call_s
            begun_anew = word.arrivals < before.arrivals or word.ended < before.ended or fell_s > ROUNDING_S
            step = word if begun_anew else _step(before, word)
            self._counted[tag] = _counts(self._counted.get(tag, NOTHING).plus(step))

    def drop(self, counter: C, tag: str) -> None:
        """A counter counts no more for a backend; the calls that it had are gone."""
        words = self._words.get(tag)
        if words is not None:
            words.pop(counter, None)

    def end(self, counter: C) -> None:
        """A counter is gone, and so are the calls that it had."""
        for words in self._words.values():
            words.pop(counter, None)

    def words(self, tag: str) -> Mapping[C, Demand]:
        """The last word of each counter that counts for a backend."""
        return self._words.get(tag, {})

    def of(self, tag: str) -> Demand:
        """The sum for a backend."""
        words = self._words.get(tag, {}).values()
        waiting, running = sum(word.waiting for word in words), sum(word.running for word in words)
        return replace(self._counted.get(tag, NOTHING), waiting=waiting, running=running)

    def tags(self) -> list[str]:
        """The backends for which something was counted."""
        return list(self._words)

    def forget(self, tag: str) -> None:
        """Forget a backend that is gone."""
        self._words.pop(tag, None)
        self._counted.pop(tag, None)


def _step(before: Demand, after: Demand) -> Demand:
    """What was counted between two words of a counter."""
    return Demand(
        max(0.0, after.call_s - before.call_s),
        max(0.0, after.waiting_s - before.waiting_s),
        after.arrivals - before.arrivals,
        after.ended - before.ended,
        max(0.0, after.ran_s - before.ran_s),
        max(0.0, after.ran_s2 - before.ran_s2),
    )


def _counts(demand: Demand) -> Demand:
    return replace(demand, waiting=0, running=0)
