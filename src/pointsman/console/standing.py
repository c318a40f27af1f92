"""How the instance stands, for all viewers: its status when that has changed, and whether its controller is there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any, Protocol

from pointsman.client.operations import scaling_view
from pointsman.console.events import AWAY, BACK, LINK, STATE, Event, News
from pointsman.exceptions import ServeException
from pointsman.wire.commands import Moves

log = logging.getLogger(__name__)

PATIENCE_S = 2.0
"""A controller that does not answer for so long is away; one whose connection is lost, at once."""
GLANCE_S = 0.1
BYTES_PER_S = 32 * 1024
"""A state that is large is sent again only when so much time has passed."""


class Reads(Protocol):
    """What is read of the controller: a client of the console. All block."""

    def status(self) -> dict[str, Any]: ...

    def moves(self) -> Moves: ...

    @property
    def is_linked(self) -> bool: ...


class Standing:
    """Looks at the status while somebody is there to see it.

    Args:
        reads: what is read.
        news: is told of it.
        thread: where it is read.
        time_of_day: returns seconds since 1970.
    """

    def __init__(self, reads: Reads, news: News, thread: Executor, *, time_of_day: Callable[[], float]) -> None:
        self._reads = reads
        self._news = news
        self._thread = thread
        self._time_of_day = time_of_day
        self._mark: int | None = None
        self._moves = Moves(0, {}, {})
        self._away = False
        self._not_before = 0.0
        self._looking: asyncio.Task[None] | None = None

    def view(self) -> dict[str, Any]:
        """What moves by itself: ``autoscaling`` by backend and ``rollouts`` by endpoint, as in the status."""
        scaling, rollouts = self._moves.scaling, self._moves.rollouts
        return {
            **({"autoscaling": {tag: scaling_view(view) for tag, view in scaling.items()}} if scaling else {}),
            **({"rollouts": rollouts} if rollouts else {}),
        }

    def look(self) -> asyncio.Task[None]:
        """Look now, unless that is under way."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())
        return self._looking

    def end(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()

    async def _look(self) -> None:
        try:
            self._moves = await self._read(self._reads.moves)
            loop = asyncio.get_running_loop()
            if self._moves.mark == self._mark or loop.time() < self._not_before:
                return
            mark, status = self._moves.mark, await self._read(self._reads.status)
            event = await loop.run_in_executor(self._thread, _event_of, status)
        except (ServeException, OSError, TimeoutError) as error:
            log.debug("the status cannot be read now: %s", error)
            self._is_away(True)
            return
        self._mark, self._not_before = mark, loop.time() + len(event.deflated) / BYTES_PER_S
        self._news.publish(STATE, event)

    async def _read(self, read: Callable[[], Any]) -> Any:
        """Read, however long that takes, and say meanwhile whether the controller is away."""
        loop = asyncio.get_running_loop()
        reading, began = loop.run_in_executor(self._thread, read), loop.time()
        while not (await asyncio.wait({reading}, timeout=GLANCE_S))[0]:
            if not self._reads.is_linked or loop.time() - began > PATIENCE_S:
                self._is_away(True)
        value = reading.result()
        self._is_away(False)
        return value

    def _is_away(self, away: bool) -> None:
        if away != self._away:
            self._away = away
            self._news.publish(LINK, Event(AWAY if away else BACK, {"time": round(self._time_of_day(), 1)}))


def _event_of(status: Mapping[str, Any]) -> Event:
    event = Event(STATE, settled(status))
    _ = event.deflated  # on this thread: it takes a while where there is much
    return event


def settled(status: Mapping[str, Any]) -> dict[str, Any]:
    """A status without what the numbers have."""
    endpoints = {
        name: {field: value for field, value in endpoint.items() if field not in ("queued", "last_minute")}
        for name, endpoint in status["endpoints"].items()
    }
    return {**status, "endpoints": endpoints}
