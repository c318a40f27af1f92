"""Looks once a second at what the instance does, and tells all viewers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pointsman.console.counts import Counts
from pointsman.console.events import AWAY, BACK, LINK, NUMBERS, STATE, Event, News
from pointsman.console.live import LiveResponse, Viewers
from pointsman.console.samples import Recent, Sample, added_up
from pointsman.console.series import SECOND_S, SLOT_S, Moment, Series
from pointsman.exceptions import ServeException
from pointsman.model.evidence import Tally

log = logging.getLogger(__name__)

EVERY_S = 1.0


class Sampler:
    """Samples the numbers once a second, and the state while somebody looks.

    Args:
        counts: where the numbers come from.
        status: returns the status of the instance; blocks.
        time_of_day: returns seconds since 1970.
    """

    def __init__(
        self, counts: Counts, status: Callable[[], dict[str, Any]], *, time_of_day: Callable[[], float] = time.time
    ) -> None:
        self.news = News()
        self.viewers = Viewers()
        self._counts = counts
        self._status = status
        self._time_of_day = time_of_day
        self._recent = Recent()
        self._endpoints = Series("queued")
        self._backends = Series("queued", "batch_size", "replicas")
        self._step = 0
        self._at = time_of_day()
        self._state: dict[str, Any] | None = None
        self._away_since: float | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pointsman-samples")
        self._status_thread = ThreadPoolExecutor(1, thread_name_prefix="pointsman-state")
        self._looking: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Sample until cancelled."""
        loop = asyncio.get_running_loop()
        began, failed = loop.time(), False
        try:
            while True:
                step = int((loop.time() - began) / EVERY_S) + 1
                await asyncio.sleep(began + step * EVERY_S - loop.time())
                try:
                    await loop.run_in_executor(self._thread, self._take, step)
                    failed = False
                except (OSError, ServeException, TimeoutError) as error:
                    if not failed:
                        log.warning("what routers have counted cannot be read now: %s", error)
                    failed = True
                if self.viewers.count:
                    self._publish_numbers()
                    self.look()
        finally:
            if self._looking is not None:
                self._looking.cancel()
            self.news.end()
            self._thread.shutdown(wait=False)
            self._status_thread.shutdown(wait=False)

    async def response(self, compressed: bool) -> LiveResponse:
        """What a viewer gets: the state as it is now, or was when it was last known, and then what is new."""
        if not self.viewers.count:
            self._publish_numbers()
        looking = self.look()
        await asyncio.wait({looking}, timeout=EVERY_S)
        return LiveResponse(self.news, self.viewers, compressed=compressed)

    def series(self, *, endpoint: str | None = None, backend: str | None = None, day: bool) -> dict[str, Any]:
        """How the numbers of an endpoint or a backend have gone. From any thread but the loop's; blocks."""
        return self._thread.submit(self._series, endpoint, backend, day).result()

    def _series(self, endpoint: str | None, backend: str | None, day: bool) -> dict[str, Any]:
        series, name = (self._endpoints, endpoint) if endpoint is not None else (self._backends, backend)
        rows = series.of(name or "", self._step, day=day)
        return {"step_s": SLOT_S if day else SECOND_S, "end": round(self._at, 1), "names": series.names, "rows": rows}

    def look(self) -> asyncio.Task[None]:
        """Look at the state, unless that is under way."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())
        return self._looking

    def _take(self, step: int) -> None:
        sample = self._counts.sample()
        self._at, self._step = self._time_of_day(), step
        self._recent.push(sample)
        self._endpoints.push(step, sample.seconds, endpoint_moments(sample))
        self._backends.push(step, sample.seconds, backend_moments(sample))

    def _publish_numbers(self) -> None:
        self.news.publish(NUMBERS, Event(NUMBERS, {"time": round(self._at, 1), **self._recent.view()}))

    async def _look(self) -> None:
        reading = asyncio.get_running_loop().run_in_executor(self._status_thread, self._status)
        done, _ = await asyncio.wait({reading}, timeout=2 * EVERY_S)
        if not done:
            self._is_away(True)
        try:
            state = settled(await reading)
        except (ServeException, OSError, TimeoutError) as error:
            log.debug("the state cannot be read now: %s", error)
            self._is_away(True)
            return
        self._is_away(False)
        if state != self._state:
            self._state = state
            self.news.publish(STATE, Event(STATE, state))

    def _is_away(self, away: bool) -> None:
        if away == (self._away_since is not None):
            return
        self._away_since = self._time_of_day() if away else None
        self.news.publish(LINK, Event(AWAY if away else BACK, {"time": round(self._time_of_day(), 1)}))


def settled(status: Mapping[str, Any]) -> dict[str, Any]:
    """A status without what the numbers have."""
    endpoints = {
        name: {field: value for field, value in endpoint.items() if field not in ("queued", "last_minute")}
        for name, endpoint in status["endpoints"].items()
    }
    return {**status, "endpoints": endpoints}


def endpoint_moments(sample: Sample) -> dict[str, Moment]:
    """What each endpoint that is not idle did in one second."""
    calls: dict[str, list[Tally]] = {}
    queued: dict[str, int] = {}
    for part, tally in sample.calls.items():
        if not part.shadow:
            calls.setdefault(part.endpoint, []).append(tally)
    for (endpoint, _), count in sample.gauges.waiting.items():
        queued[endpoint] = queued.get(endpoint, 0) + count
    return {
        name: Moment(added_up(calls.get(name, ())), (queued.get(name, 0),)) for name in calls.keys() | queued.keys()
    }


def backend_moments(sample: Sample) -> dict[str, Moment]:
    """What each backend that has replicas or is not idle did in one second."""
    calls: dict[str, list[Tally]] = {}
    queued = dict(sample.gauges.queued)
    for part, tally in sample.calls.items():
        calls.setdefault(part.backend, []).append(tally)
    for (_, backend), count in sample.gauges.waiting.items():
        queued[backend] = queued.get(backend, 0) + count
    moments = {}
    for tag in calls.keys() | queued.keys() | sample.gauges.replicas.keys():
        batches, in_batches = sample.gauges.batches.get(tag, (0, 0.0))
        batch_size = in_batches / batches if batches else None
        gauges = (queued.get(tag, 0), batch_size, len(sample.gauges.replicas.get(tag, ())))
        moments[tag] = Moment(added_up(calls.get(tag, ())), gauges)
    return moments
