"""How the parts of a split have gone: the calls that an endpoint has given to each of its backends. Pure.

A backend's own numbers are those of all endpoints that it answers. The series here are kept for endpoints that several
backends answer, or did within a day, and before that an endpoint's numbers are those of its only backend.
"""

from __future__ import annotations

from typing import NamedTuple

from pointsman.console.samples import Part, Sample
from pointsman.console.series import SECOND_S, SECONDS, SLOT_S, SLOTS, Moment, Series, Value

MOST = 256
"""Parts whose series are kept: a thousand endpoints that are all split would take more memory than a console may."""


class Began(NamedTuple):
    """Since which step an endpoint is split, and which backend was the only one before; empty for none."""

    step: int
    before: str


class Splits:
    """The series of all parts of splits.

    Args:
        endpoints: the series of whole endpoints.
    """

    def __init__(self, endpoints: Series) -> None:
        self.names = endpoints.names[:4]
        self._endpoints = endpoints
        self._series = Series()
        self._seen: dict[Part, int] = {}
        self._backends: dict[str, set[str]] = {}
        self._began: dict[str, Began] = {}

    def push(self, step: int, sample: Sample, *, steps: int = 1) -> None:
        """Take what was in the ``steps`` up to this one, which are a second each."""
        for part in sample.calls:
            if not part.shadow:
                if part not in self._seen:
                    self._meet(part, step)
                self._seen[part] = step
        if step % SLOT_S == 0:
            self._forget(step - SLOT_S * SLOTS)
        moments = {
            _name(part): Moment(tally, ())
            for part, tally in sample.calls.items()
            if not part.shadow and part.endpoint in self._began
        }
        self._series.push(step, sample.seconds, moments, steps=steps)

    def of(self, endpoint: str, backend: str, step: int, *, day: bool) -> list[list[Value]]:
        """The values of a part, oldest first, as :meth:`Series.of`.

        Raises:
            ValueError: so many endpoints are split that those of this one are not kept.
        """
        length, steps = (SLOT_S, SLOTS) if day else (SECOND_S, SECONDS)
        whole = [row[:4] for row in self._endpoints.of(endpoint, step, day=day)]
        known = self._backends.get(endpoint, set())
        if len(known) < 2:
            return whole if backend in known else [[None] * 4 for _ in whole]
        began = self._began.get(endpoint)
        if began is None:
            raise ValueError(f"series are kept for {MOST} parts of splits, and not for those of {endpoint!r:.60}")
        rows = self._series.of(_name(Part(endpoint, backend)), step, day=day)
        first = began.step // length - (step // length - steps + 1)
        return [*whole[:first], *rows[first:]] if backend == began.before and first > 0 else rows

    def _meet(self, part: Part, step: int) -> None:
        known = self._backends.setdefault(part.endpoint, set())
        before = next(iter(known)) if len(known) == 1 else ""
        known.add(part.backend)
        kept = sum(len(self._backends[endpoint]) for endpoint in self._began)
        if len(known) > 1 and part.endpoint not in self._began and kept + len(known) <= MOST:
            self._began[part.endpoint] = Began(step, before)

    def _forget(self, oldest: int) -> None:
        for part in [part for part, last in self._seen.items() if last < oldest]:
            del self._seen[part]
            known = self._backends[part.endpoint]
            known.discard(part.backend)
            if len(known) < 2:
                self._began.pop(part.endpoint, None)
            if not known:
                del self._backends[part.endpoint]


def _name(part: Part) -> str:
    """Of a part among the series: no name has this character."""
    return f"{part.endpoint}\n{part.backend}"
