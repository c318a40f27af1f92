"""What the routers of the whole instance have counted, as the controller knows it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from math import isfinite
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from pointsman.engine.base import Nodes
from pointsman.model.evidence import Evidence, MetricKey, MetricTally, PairKey, PairTally, Tally, TallyKey
from pointsman.telemetry.counted import Counted, TallyCollector, metrics_in, newest
from pointsman.telemetry.exporter import Exporter

log = logging.getLogger(__name__)

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

K = TypeVar("K")
T = TypeVar("T", Tally, MetricTally)
Packed = tuple[float, dict[TallyKey, bytes]]
_decode_tally = msgspec.msgpack.Decoder(Tally)


class Past:
    """Earlier readings: each of the last seconds, and of older ones as many as it takes to find one whose age is right
    within 10 %. They are kept packed, and a tally that has not changed is kept once: about 60 readings in all."""

    def __init__(self) -> None:
        self._readings: list[Packed] = []
        self._newest: dict[TallyKey, tuple[Tally, bytes]] = {}

    def keep(self, evidence: Evidence) -> None:
        """Keep a reading, which is newer than all before."""
        newest: dict[TallyKey, tuple[Tally, bytes]] = {}
        for key, tally in evidence.tallies.items():
            before = self._newest.get(key)
            known = before is not None and (before[0] is tally or before[0] == tally)
            newest[key] = before if known and before is not None else (tally, msgspec.msgpack.encode(tally))
        self._newest = newest
        reading = evidence.at, {key: packed for key, (_, packed) in newest.items()}
        self._readings = _thinned_out([*self._readings, reading])  # replaced whole: another thread may be looking

    def earlier(self, age_s: float) -> Evidence:
        """The youngest reading that is at least ``age_s`` seconds older than the newest; else the oldest."""
        readings = self._readings
        if not readings:
            return Evidence(at=0.0)
        at, tallies = _reading_at(readings, readings[-1][0] - age_s + _CLOSE_S)
        return Evidence(at, {key: _decode_tally.decode(packed) for key, packed in tallies.items()})

    def since(self, at: float) -> tuple[Evidence, Evidence]:
        """The reading of that time, or the youngest before that is kept, and the newest one; of both only the tallies
        that differ."""
        readings = self._readings
        if not readings:
            return Evidence(at=0.0), Evidence(at=0.0)
        (then, before), (newest, now) = _reading_at(readings, at), readings[-1]
        changed = [key for key, packed in now.items() if before.get(key) != packed]
        decode = _decode_tally.decode
        return (
            Evidence(then, {key: decode(before[key]) for key in changed if key in before}),
            Evidence(newest, {key: decode(now[key]) for key in changed}),
        )


def _reading_at(readings: list[Packed], at: float) -> Packed:
    """The youngest that is not younger; else the oldest."""
    return next((one for one in reversed(readings) if one[0] <= at), readings[0])


_CLOSE_S = 0.5
"""A reading this much too young has the age that was asked for: readings do not come to the millisecond."""


def _thinned_out(readings: list[Packed]) -> list[Packed]:
    """Without those whose neighbours are close enough to each other for their age, and without all that are too old."""
    now, kept = readings[-1][0], readings[-1:]
    for place in range(len(readings) - 2, -1, -1):
        if now - kept[-1][0] > KEPT_S:
            break
        at, older = readings[place][0], readings[place - 1][0] if place else float("-inf")
        if kept[-1][0] - older > max(1.5 * EVERY_S, FINENESS * (now - at)):
            kept.append(readings[place])
    return kept[::-1]


class NodeCounts:
    """What several nodes have counted, added up. A node that does not answer, or is lost, keeps what it had; one that
    counts afresh adds to that."""

    def __init__(self) -> None:
        self._newest: dict[str, Counted] = {}
        self._before: dict[TallyKey, Tally] = {}
        self._metrics_before: dict[MetricKey, MetricTally] = {}

    def heard(self, node: str, counted: Counted) -> None:
        """Take what a node has counted up to now."""
        last = self._newest.get(node)
        if last is not None and last.began != counted.began:
            _add(self._before, last.tallies)
            _add(self._metrics_before, last.metrics)
        self._newest[node] = counted

    def total(self) -> dict[TallyKey, Tally]:
        """All that was counted, but for versions of policies that are too old."""
        total = dict(self._before)
        for counted in self._newest.values():
            _add(total, counted.tallies)
        return {key: total[key] for key in newest(total)}

    def metrics(self) -> dict[MetricKey, MetricTally]:
        """The metrics that were asked for, without those whose sum is no finite number: user code may count anything,
        and nothing can be made of that."""
        total = dict(self._metrics_before)
        for counted in self._newest.values():
            _add(total, counted.metrics)
        return {key: tally for key, tally in total.items() if isfinite(tally.sum)}


def _add(to: dict[K, T], more: Iterable[tuple[K, T]]) -> None:
    for key, tally in more:
        to[key] = to[key].plus(tally) if key in to else tally


KEPT_VERSIONS = 32
"""Of each endpoint's policy tallies of so many versions are kept for windows, though routers have forgotten them."""

Metrics = list[tuple[MetricKey, MetricTally]]
PATIENCE_S = 0.5
"""How long a reading waits for other nodes; what they had counted before serves in place of an answer that is late."""


class EvidenceReader:
    """The evidence of an instance (an :class:`EvidenceSource`), read on a thread of its own.

    Args:
        folder: of the tallies on this node.
        nodes: the other ones.
        exists: whether there are the endpoint and the backend of a key; what is of others is left out.
        pairs: returns what was compared.
        metrics: returns the names of the metrics of user code that are wanted.
        exporter: collects this node's metrics; None if nothing is recorded.

    """

    def __init__(
        self,
        folder: Path,
        *,
        nodes: Nodes,
        exists: Callable[[TallyKey], bool],
        pairs: Callable[[], dict[PairKey, PairTally]] = dict,
        metrics: Callable[[], frozenset[str]] = frozenset,
        exporter: Exporter | None = None,
    ) -> None:
        self._collector = TallyCollector(folder)
        self._nodes = nodes
        self._exists = exists
        self._pairs = pairs
        self._metrics = metrics
        self._exporter = exporter
        self._counts = NodeCounts()
        self._past = Past()
        self._missing: dict[TallyKey, float] = {}
        self._newest = Evidence(at=0.0)
        self._heard: list[Callable[[Evidence], object]] = []
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pointsman-evidence")
        self._asking: asyncio.Task[dict[str, Counted]] | None = None

    async def run(self) -> None:
        """Read once a second, until cancelled."""
        due, failed = self._loop.time(), False
        while True:
            try:
                await self._read()
                failed = False
            except OSError as error:
                if not failed:
                    log.warning("what routers have counted cannot be read now: %s", error)
                failed = True
            due = max(due + EVERY_S, self._loop.time())
            await asyncio.sleep(due - self._loop.time())

    async def aclose(self) -> None:
        """Stop reading, after :meth:`run` was cancelled."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        await self._loop.run_in_executor(self._thread, self._collector.close)
        self._thread.shutdown()

    async def now(self) -> Evidence:
        """What was counted up to this moment by routers of this node, and up to the newest reading by those of others.
        It is no reading: nobody else hears of it.

        Raises:
            OSError: it cannot be read.
        """
        return await self._loop.run_in_executor(self._thread, self._look, {}, [], self._loop.time())

    # EvidenceSource

    def evidence(self) -> Evidence:
        return self._newest

    def earlier(self, age_s: float) -> Evidence:
        return self._past.earlier(age_s)

    def since(self, at: float) -> tuple[Evidence, Evidence]:
        """The reading of that time and the newest one; see :meth:`Past.since`."""
        return self._past.since(at)

    def subscribe(self, heard: Callable[[Evidence], object]) -> Callable[[], None]:
        self._heard.append(heard)
        return lambda: self._heard.remove(heard)

    async def _read(self) -> None:
        names = self._metrics()
        others = await self._ask_others(names)
        metrics = metrics_in(await self._exporter.collect(), names) if names and self._exporter is not None else []
        evidence = await self._loop.run_in_executor(self._thread, self._take, others, metrics, self._loop.time())
        self._newest = evidence
        for heard in list(self._heard):
            try:
                heard(evidence)
            except Exception:
                # A bug of one who hears it, which would come again in each controller that reads the same state: the
                # others, and reading, go on.
                log.critical("what routers have counted could not be taken in", exc_info=True)

    async def _ask_others(self, metrics: frozenset[str]) -> dict[str, Counted]:
        """What other nodes have answered; nothing where they are late, which then counts for the next reading."""
        if self._asking is None:
            self._asking = self._loop.create_task(self._nodes.read_tallies(metrics))
        await asyncio.wait({self._asking}, timeout=PATIENCE_S)
        if not self._asking.done():
            return {}
        asked, self._asking = self._asking, None
        return asked.result()

    # On the thread

    def _take(self, others: dict[str, Counted], metrics: Metrics, at: float) -> Evidence:
        evidence = self._look(others, metrics, at)
        self._past.keep(evidence)
        return evidence

    def _look(self, others: dict[str, Counted], metrics: Metrics, at: float) -> Evidence:
        here = self._collector.collect()
        self._counts.heard("", Counted(here.began, here.tallies, metrics))
        for node, counted in others.items():
            self._counts.heard(node, counted)
        tallies = {key: tally for key, tally in self._counts.total().items() if self._exists(key)}
        forgotten = {key: tally for key, tally in self._newest.tallies.items() if key not in tallies}
        self._missing = {key: self._missing.get(key, at) for key in forgotten}
        for key, tally in forgotten.items():
            if at - self._missing[key] < KEPT_S and self._exists(key):
                tallies[key] = tally
        kept = {key: tallies[key] for key in newest(tallies, KEPT_VERSIONS)}
        return Evidence(at, kept, dict(self._pairs()), self._counts.metrics())
