"""Tells the controller what the routers of this process count: each half second, and at once when a call finds no
replica.

    PoolDemand -> Reporter, one for each router, on its loop -> Reports, one for the process -> DEMAND frames

Nothing is read and sent while no backend's number of replicas follows its calls.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Protocol

from pointsman.model.scaling import Demand
from pointsman.policy.scaling.totals import Totals
from pointsman.wire.frames import Kind
from pointsman.wire.messages import pack
from pointsman.wire.scaling import DEMAND_PERIOD_S, DemandHead

URGENT_S = 0.05
"""Seconds between two reports of calls that find no replica."""
STOPPED_S = 30.0
"""The calls of a router whose loop has stood still for so many seconds are not reported any more."""


class Counting(Protocol):
    """A pool that counts."""

    @property
    def tag(self) -> str: ...

    def read(self) -> Demand: ...


class Link(Protocol):
    """The link to the controller: :class:`wire.control.ControlLink`.

    Attributes:
        links: how many connections there have been.
    """

    links: int

    def tell(self, kind: Kind, head: bytes) -> bool: ...


class Reporter:
    """Reads what the pools of one router count. Made by :meth:`Reports.reporter`, on the router's loop.

    Args:
        reports: is told.
    """

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self._loop = asyncio.get_running_loop()
        self._pools: dict[str, Counting] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._hurry: asyncio.TimerHandle | None = None
        self._told_at = float("-inf")

    def add(self, pool: Counting) -> None:
        """A pool counts from now on."""
        self._pools[pool.tag] = pool
        if self._timer is None:
            self._timer = self._loop.call_later(DEMAND_PERIOD_S, self._tick)

    def remove(self, pool: Counting) -> None:
        """A pool counts no more, if it did."""
        if self._pools.get(pool.tag) is pool:
            del self._pools[pool.tag]

    def hurry(self) -> None:
        """A call has found no replica."""
        if self._hurry is None:
            self._hurry = self._loop.call_at(max(self._told_at + URGENT_S, self._loop.time()), self._tell)

    def close(self) -> None:
        """Report for the last time: the router has no calls any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._tell()
        self._reports.end(self)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(DEMAND_PERIOD_S, self._tick) if self._pools else None
        self._tell()

    def _tell(self) -> None:
        if self._hurry is not None:
            self._hurry.cancel()
            self._hurry = None
        self._told_at = self._loop.time()
        self._reports.take(self, {tag: pool.read() for tag, pool in self._pools.items()})


class Reports:
    """Adds up the routers of this process, and sends DEMAND frames. Made on the link's loop.

    Args:
        link: to the controller; None as long as there is none.
    """

    def __init__(self, link: Link | None = None) -> None:
        self.link = link
        self._loop = asyncio.get_running_loop()
        self._totals: Totals[Reporter] = Totals()
        self._heard: dict[Reporter, float] = {}
        self._told: dict[Reporter, dict[str, Demand]] = {}
        self._connection = 0
        self._last: dict[str, Demand] = {}
        """What was to be sent last. A connection begins with it, so that the controller adds only what comes then."""
        self._changed: set[str] = set()

    def reporter(self) -> Reporter:
        """A reporter for the router of the running loop."""
        return Reporter(self)

    def take(self, reporter: Reporter, counts: dict[str, Demand]) -> None:
        """Take all that a router has counted. Thread-safe."""
        self._here(partial(self._take, reporter, counts))

    def end(self, reporter: Reporter) -> None:
        """A router is closed. Thread-safe."""
        self._here(partial(self._end, reporter))

    def _here(self, do: Callable[[], None]) -> None:
        if asyncio.get_running_loop() is self._loop:
            do()
        else:
            with contextlib.suppress(RuntimeError):  # this loop is closed
                self._loop.call_soon_threadsafe(do)

    def _take(self, reporter: Reporter, counts: dict[str, Demand]) -> None:
        now = self._loop.time()
        self._heard[reporter] = now
        before = self._told.get(reporter, {})
        self._told[reporter] = counts
        for tag in before.keys() - counts.keys():
            self._totals.drop(reporter, tag)
            self._changed.add(tag)
        for tag, demand in counts.items():
            if before.get(tag) is not demand:  # most backends have no calls most of the time
                self._totals.take(reporter, tag, demand)
                self._changed.add(tag)
        for other in [other for other, heard in self._heard.items() if now - heard > STOPPED_S]:
            self._end(other)
        self._send()

    def _end(self, reporter: Reporter) -> None:
        if self._heard.pop(reporter, None) is not None:
            self._changed.update(self._told.pop(reporter))
            self._totals.end(reporter)
            self._send()

    def _send(self) -> None:
        link, last = self.link, self._last
        if link is not None and link.links != self._connection and link.tell(Kind.DEMAND, pack(DemandHead(last))):
            self._connection = link.links
        self._changed.update(tag for tag, one in last.items() if _has_calls(one))
        news = {tag: one for tag in self._changed if (one := self._totals.of(tag)) != last.get(tag) or _has_calls(one)}
        last.update(news)
        if news and link is not None:
            link.tell(Kind.DEMAND, pack(DemandHead(news)))
        for tag in [tag for tag in self._changed if not self._totals.words(tag)]:
            self._totals.forget(tag)
            last.pop(tag, None)
        self._changed.clear()


def _has_calls(demand: Demand) -> bool:
    return bool(demand.waiting or demand.running)
