"""What the routers of the whole instance have counted, as the controller knows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from pointsman.model.evidence import Evidence, Tally, TallyKey

EVERY_S = 1.0
"""Seconds between two readings."""


class EvidenceSource(Protocol):
    """Gives the controller the evidence, newly read about once a second.

    Between two readings of one source counts never fall. A tally that is missing was forgotten, since its endpoint is
    deleted or has had newer policies since; it never comes back. When an instance is started again from its stored
    state, counting begins afresh: whoever keeps counts over that takes a count that fell as a new beginning.
    """

    def evidence(self) -> Evidence:
        """The newest reading; one without any tally at time 0 before the first."""

    def earlier(self, age_s: float) -> Evidence:
        """The reading that is ``age_s`` seconds older than the newest, or a little more than that; the oldest that is
        kept where none is that old. Readings are kept for ten minutes, the older the fewer."""

    def subscribe(self, heard: Callable[[Evidence], object]) -> Callable[[], None]:
        """Have ``heard`` called on the loop with each new reading. Returns what ends that."""


KEPT_S = 660.0
"""How long readings are kept: a window of ten minutes, and a little."""

FINENESS = 0.1
"""Of two readings that are closer together than this share of their age, one is enough."""

_decode_tally = msgspec.msgpack.Decoder(Tally)


class Past:
    """Earlier readings: each of the last seconds, and of older ones as many as it takes to find one whose age is right
    within 10 %. They are kept packed, and a tally that has not changed is kept once: about 60 readings in all."""

    def __init__(self) -> None:
        self._readings: list[tuple[float, dict[TallyKey, bytes]]] = []
        self._newest: dict[TallyKey, tuple[Tally, bytes]] = {}

    def keep(self, evidence: Evidence) -> None:
        """Keep a reading, which is newer than all before."""
        newest: dict[TallyKey, tuple[Tally, bytes]] = {}
        for key, tally in evidence.tallies.items():
            before = self._newest.get(key)
            known = before is not None and (before[0] is tally or before[0] == tally)
            newest[key] = before if known and before is not None else (tally, msgspec.msgpack.encode(tally))
        self._newest = newest
        self._readings.append((evidence.at, {key: packed for key, (_, packed) in newest.items()}))
        self._thin_out(evidence.at)

    def earlier(self, age_s: float) -> Evidence:
        """The youngest reading that is at least ``age_s`` seconds older than the newest; else the oldest."""
        if not self._readings:
            return Evidence(at=0.0)
        then = self._readings[-1][0] - age_s + _CLOSE_S
        at, tallies = next((one for one in reversed(self._readings) if one[0] <= then), self._readings[0])
        return Evidence(at, {key: _decode_tally.decode(packed) for key, packed in tallies.items()})

    def _thin_out(self, now: float) -> None:
        """Drop each reading whose neighbours are close enough to each other for their age, and all that are too old."""
        readings = self._readings
        kept = readings[-1:]
        for place in range(len(readings) - 2, -1, -1):
            at = readings[place][0]
            if now - kept[-1][0] > KEPT_S:
                break
            older = readings[place - 1][0] if place else float("-inf")
            if kept[-1][0] - older > max(1.5 * EVERY_S, FINENESS * (now - at)):
                kept.append(readings[place])
        self._readings = kept[::-1]


_CLOSE_S = 0.5
"""A reading this much too young has the age that was asked for: readings do not come to the millisecond."""
