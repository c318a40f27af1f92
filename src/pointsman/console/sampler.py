"""Looks at what the instance does, once a second while there are viewers, and tells all of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from pointsman.console.counts import Counts
from pointsman.console.events import NUMBERS, Event, News
from pointsman.console.live import LiveResponse, Viewers
from pointsman.console.operations import OneThread
from pointsman.console.samples import Recent, Sample, added_up
from pointsman.console.series import SECOND_S, SLOT_S, Moment, Series
from pointsman.console.splits import Splits
from pointsman.console.standing import Reads, Standing
from pointsman.exceptions import ServeException
from pointsman.model.evidence import Tally

log = logging.getLogger(__name__)

EVERY_S = 1.0


class Sampler:
    """Samples the numbers once a second, or more seldom where that costs much and nobody looks; and the state while
    somebody does.

    Args:
        counts: where the numbers come from.
        reads: what is read of the controller.
        time_of_day: returns seconds since 1970.
    """

    def __init__(self, counts: Counts, reads: Reads, *, time_of_day: Callable[[], float] = time.time) -> None:
        self.news = News()
        self.viewers = Viewers()
        self._counts = counts
        self._time_of_day = time_of_day
        self._recent = Recent()
        self._endpoints = Series("queued")
        self._backends = Series("queued", "batch_size", "replicas")
        self._splits = Splits(self._endpoints)
        self._step = 0
        self._at = time_of_day()
        self._thread = OneThread("pointsman-samples")
        self._status_thread = OneThread("pointsman-state")
        self._standing = Standing(reads, self.news, self._status_thread, time_of_day=time_of_day)

    async def run(self) -> None:
        """Sample until cancelled."""
        loop = asyncio.get_running_loop()
        began, failed = loop.time(), False
        looking = loop.create_task(self._keep_looking())
        try:
            while True:
                step = int((loop.time() - began) / EVERY_S) + 1
                await asyncio.sleep(began + step * EVERY_S - loop.time())
                try:
                    if self.viewers.count or step % self._counts.rest_s == 0:
                        await loop.run_in_executor(self._thread, self._take, step)
                        failed = False
                except (OSError, ServeException, TimeoutError, OverflowError) as error:
                    if not failed:
                        log.warning("what routers have counted cannot be read now: %s", error)
                    failed = True
                if self.viewers.count:
                    self._publish_numbers()
        finally:
            looking.cancel()
            self._standing.end()
            self.news.end()
            self._thread.shutdown()
            self._status_thread.shutdown()

    async def _keep_looking(self) -> None:
        """Look once a second, also while a sample waits for a controller that is away."""
        while True:
            await asyncio.sleep(EVERY_S)
            if self.viewers.count:
                self._standing.look()

    async def response(self, admitted: Callable[[], Awaitable[bool]], *, compressed: bool) -> LiveResponse:
        """What a viewer gets: the state as it is now, or was when it was last known, and then what is new."""
        if not self.viewers.count:
            self._publish_numbers()
        await asyncio.wait({self._standing.look()}, timeout=EVERY_S)
        return LiveResponse(self.news, self.viewers, admitted=admitted, compressed=compressed)

    def series(self, *, endpoint: str | None = None, backend: str | None = None, day: bool) -> dict[str, Any]:
        """How the numbers of an endpoint or a backend have gone, or with both those of the calls that the endpoint has
        given to the backend. From any thread but the loop's; blocks.

        Raises:
            ValueError: the last is not kept.
        """
        return self._thread.submit(self._series, endpoint, backend, day).result()

    def _series(self, endpoint: str | None, backend: str | None, day: bool) -> dict[str, Any]:
        if endpoint is not None and backend is not None:
            names, rows = self._splits.names, self._splits.of(endpoint, backend, self._step, day=day)
        else:
            series, name = (self._backends, backend) if endpoint is None else (self._endpoints, endpoint)
            names, rows = series.names, series.of(name or "", self._step, day=day)
        return {"step_s": SLOT_S if day else SECOND_S, "end": round(self._at, 1), "names": names, "rows": rows}

    def _take(self, step: int) -> None:
        sample = self._counts.sample()
        self._recent.push(sample)
        if not sample.seconds:
            return
        steps = max(1, min(round(sample.seconds), step - self._step))
        self._at, self._step = self._time_of_day(), step
        self._endpoints.push(step, sample.seconds, endpoint_moments(sample), steps=steps)
        self._backends.push(step, sample.seconds, backend_moments(sample), steps=steps)
        self._splits.push(step, sample, steps=steps)

    def _publish_numbers(self) -> None:
        numbers = {"time": round(self._at, 1), **self._recent.view(), **self._standing.view()}
        self.news.publish(NUMBERS, Event(NUMBERS, numbers))


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
