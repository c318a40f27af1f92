"""Where the console has its numbers from: on the local engine from the shared memory of this machine's processes, on
Ray from the controller, which asks the nodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from math import inf
from typing import Protocol

from pointsman.calling.session import Credentials, Session, session_for
from pointsman.client.operations import new_id
from pointsman.console.samples import Part, Sample
from pointsman.engine.instances import metrics_folder, on_ray, tallies_folder
from pointsman.exceptions import ServeException
from pointsman.model.evidence import SHADOW, Numbers, Tally, TallyKey
from pointsman.telemetry.fresh import NAMES, NO_GAUGES, FreshMetrics, FreshTallies, Gauges, gauges_in
from pointsman.telemetry.reports import Reading
from pointsman.wire.commands import QueryMetrics
from pointsman.wire.messages import unpack
from pointsman.wire.rollouts import QueryTallies

ANSWER_S = 5.0
REST_S = 5
"""What the controller is asked while nobody looks is for the graphs alone, and costs it and every node some work."""


class Counts(Protocol):
    """Counts calls."""

    @property
    def rest_s(self) -> int:
        """Seconds from one sample to the next while nobody looks."""

    def sample(self) -> Sample:
        """What has come since the last call; in 0 seconds if that is not known yet. Blocks.

        Raises:
            OSError, ServeException, TimeoutError: it cannot be read now.
        """

    def close(self) -> None:
        """Close what is open."""


def counts_for(credentials: Credentials) -> Counts:
    """What counts the calls of the instance."""
    return AskedCounts(credentials) if on_ray(credentials.control_path) else LocalCounts(credentials.control_path)


@lru_cache(4096)
def part_of(key: TallyKey) -> Part:
    """All versions of a policy are one, and calls that a pin has routed are with the others."""
    return Part(key.endpoint, key.backend, key.kind == SHADOW)


def by_part(tallies: Iterable[tuple[TallyKey, Tally]]) -> dict[Part, Tally]:
    """What was counted of each part."""
    calls: dict[Part, Tally] = {}
    for key, tally in tallies:
        part = part_of(key)
        calls[part] = calls[part].plus(tally) if part in calls else tally
    return calls


class LocalCounts:
    """Reads the files of this machine's processes (a :class:`Counts`).

    Args:
        control_path: of the instance.
        clock: returns monotonic time in seconds.
    """

    rest_s = 1

    def __init__(self, control_path: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._tallies = FreshTallies(tallies_folder(control_path))
        self._metrics = FreshMetrics(metrics_folder(control_path))
        self._clock = clock
        self._at = clock()

    def sample(self) -> Sample:
        calls, gauges, before = by_part(self._tallies.read()), self._metrics.read(), self._at
        self._at = self._clock()
        return Sample(max(self._at - before, 0.001), calls, gauges)

    def close(self) -> None:
        self._tallies.close()
        self._metrics.close()


class AskedCounts:
    """Asks the controller, which has the counts of all nodes (a :class:`Counts`): what it has read of them, from one of
    its readings to another, so that no second is counted twice or left out.

    Args:
        credentials: of the console.
    """

    rest_s = REST_S

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._since = inf
        self._before: Reading | None = None

    def sample(self) -> Sample:
        session = session_for(self._credentials)
        numbers = unpack(session.command(QueryTallies(new_id(), (), since=self._since), timeout_s=ANSWER_S), Numbers)
        window, self._since = numbers.windows[0], numbers.at
        return Sample(window.seconds or 0.0, by_part(window.tallies.items()), self._gauges(session))

    def close(self) -> None:
        pass

    def _gauges(self, session: Session) -> Gauges:
        try:
            reading = unpack(session.command(QueryMetrics(new_id(), _METRICS), timeout_s=ANSWER_S), Reading)
        except ServeException:
            return NO_GAUGES  # this instance records no metrics
        before, self._before = self._before, reading
        return gauges_in(reading, before)


_METRICS = tuple(sorted(NAMES))
