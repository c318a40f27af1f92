"""How late an event loop is: what a callback that is due now has to wait, at the worst of the last seconds."""

from __future__ import annotations

import asyncio

from pointsman.telemetry.book import Gauge

EVERY_S = 0.5
WINDOW = 10


class LoopLag:
    """Watches the running loop until it ends.

    Args:
        gauge: where the worst lateness of the last 5 s is shown, in seconds.
    """

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._loop = asyncio.get_running_loop()
        self._recent: list[float] = []
        self._due = self._loop.time() + EVERY_S
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        self._recent = [*self._recent[1 - WINDOW :], max(0.0, now - self._due)]
        self._gauge.set(max(self._recent))
        self._due = now + EVERY_S
        self._timer = self._loop.call_at(self._due, self._look)

    def close(self) -> None:
        self._timer.cancel()
