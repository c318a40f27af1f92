"""What has come of comparing shadows' answers: read once a second on all nodes, while there are shadows that compare.

Pairs are counted by the comparison's name and the versions of the code on both sides (decision 0081). Those of code
that is not wanted any more are left out, so that a comparison begins afresh with new code.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from pointsman.comparing.report import above_noise, noise_gate
from pointsman.controller.state import Desired, find_endpoint
from pointsman.engine.base import Nodes
from pointsman.model import Comparison, Pins
from pointsman.model.evidence import PairKey, PairTally
from pointsman.telemetry.pairs import MATCHED, MISMATCHED, CountKey, PairReader, code_of
from pointsman.wire.shadows import NoiseView, PairCount, ShadowView

log = logging.getLogger(__name__)

EVERY_S = 1.0
SWEEPS = 30
"""After the last shadow has ended, so many readings remove what a router that is behind has still had compared."""


class Watched(NamedTuple):
    """A shadow that is compared, and the code that is wanted on both sides.

    Attributes:
        versions: of all backends.
        weighted: the backends that answer users by their weight.
        answering: those that may answer users.
    """

    endpoint: str
    backend: str
    comparison: Comparison
    versions: Mapping[str, int]
    weighted: tuple[str, ...]
    answering: frozenset[str]

    def has(self, key: CountKey) -> bool:
        """Whether a count is of that code; 0 is a version that was not known."""
        primary = self.versions.get(key.primary, 0)
        second = self.versions.get(self.backend, 0)
        return key.primary_version in (0, primary) and key.shadow_version in (0, second)

    @property
    def code(self) -> tuple[tuple[str, int], ...]:
        """The backends on both sides, and their versions."""
        return tuple((tag, self.versions.get(tag, 0)) for tag in (self.backend, *self.weighted))

    @property
    def codes(self) -> list[str]:
        """The names of the folders with examples of this code."""
        version = self.versions.get(self.backend, 0)
        return [code_of(tag, self.versions.get(tag, 0), version) for tag in sorted(self.answering)]


def watched(desired: Desired) -> Iterator[Watched]:
    """All shadows that are compared."""
    versions = {tag: spec.version for tag, spec in desired.backends.items()}
    for name, endpoint in desired.endpoints.items():
        for backend, comparison in endpoint.policy.compared.items():
            weighted = tuple(sorted(tag for tag, weight in endpoint.policy.weights.items() if weight))
            pinned = desired.pins.get(name, Pins()).keys.values()
            answering = frozenset((*endpoint.policy.weights, *pinned))
            yield Watched(name, backend, comparison, versions, weighted, answering)


def since(desired: Desired, one: Watched) -> str:
    """When this comparison of this code began, ISO 8601 in UTC."""
    return max([one.comparison.since, *(desired.backends[tag].since for tag, version in one.code if version)])


def pairs_of(one: Watched, counts: Mapping[CountKey, int]) -> dict[PairKey, PairTally]:
    """The pairs of a shadow, for each backend that it was compared with."""
    found: dict[PairKey, PairTally] = {}
    for key, count in counts.items():
        if one.has(key) and key.what in (MATCHED, MISMATCHED):
            began = f"{one.comparison.name}/{key.primary}@{key.primary_version}/{key.shadow_version}"
            pair = PairKey(one.endpoint, one.backend, began, key.noise)
            before = found.get(pair, PairTally())
            found[pair] = PairTally(before.pairs + count, before.mismatched + count * (key.what == MISMATCHED))
    return found


class Shadows:
    """Knows what has come of comparing shadows' answers.

    Args:
        folder: of the counts on this node.
        nodes: the others.
        desired: returns the desired state.

    Attributes:
        pairs: at the last reading.
        was_read: whether there was one.
    """

    def __init__(self, folder: Path, nodes: Nodes, desired: Callable[[], Desired]) -> None:
        self._reader = PairReader(folder)
        self._nodes = nodes
        self._desired = desired
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pointsman-pairs")
        self._turn = asyncio.Lock()
        self._counts: dict[str, Counter[CountKey]] = {}
        self._gates: dict[str, _Gate] = {}
        self._sweeps = 0
        self.was_read = False
        self.pairs: dict[PairKey, PairTally] = {}

    async def run(self) -> None:
        """Read once a second, until cancelled."""
        failed = False
        while True:
            try:
                await self.read()
                failed = False
            except Exception as error:
                # Mostly of the disk; else a bug, or what user code has made of its counts. Reports and gates stay as
                # they are, it is tried again, and the rest of the controller works.
                if not failed:
                    known = isinstance(error, OSError)
                    log.warning("compared answers cannot be counted now: %s", error, exc_info=not known)
                failed = True
            await asyncio.sleep(EVERY_S)

    async def read(self) -> None:
        """Read what was counted until now. Folders of comparisons that are over are removed.

        Raises:
            OSError: it cannot be read.
        """
        async with self._turn:
            shadows = list(watched(self._desired()))
            if not shadows and self._sweeps >= SWEEPS:
                return
            wanted = {one.comparison.name: one.codes for one in shadows}
            here = await asyncio.get_running_loop().run_in_executor(self._thread, self._reader.read, wanted)
            counts: dict[str, Counter[CountKey]] = {name: Counter() for name in wanted}
            for node in (here, *await self._nodes.read_pairs(wanted)):
                for name, found in node.items():
                    if name in counts:
                        counts[name].update(found)
            self._counts, self._sweeps = counts, 0 if shadows else self._sweeps + 1
            self.pairs = {}
            for one in shadows:
                self.pairs.update(pairs_of(one, counts[one.comparison.name]))
            self.was_read = True
            self._judge(shadows)

    def view(self, endpoint: str, backend: str) -> ShadowView:
        """What has come of one shadow, at the last reading.

        Raises:
            ValueError: there is no such endpoint, or no such shadow whose answers are compared.
        """
        one = self._find(endpoint, backend)
        sums: Counter[tuple[bool, str, str, str]] = Counter()
        for key, count in self._counts.get(one.comparison.name, Counter[CountKey]()).items():
            if one.has(key):
                sums[key.noise, key.route, key.what, key.detail] += count
        gate = self._gates.get(one.comparison.name) or _Gate(one)
        counts = tuple(PairCount(*what, count) for what, count in sorted(sums.items()))
        return ShadowView(since(self._desired(), one), counts, gate.state() if one.comparison.noise else None)

    async def examples(self, endpoint: str, backend: str, limit: int) -> bytes:
        """Examples of answers that do not match, the worst first: a list in JSON.

        Raises:
            ValueError: as of :meth:`view`.
        """
        one = self._find(endpoint, backend)
        which = one.comparison.name, one.codes, limit
        here = await asyncio.get_running_loop().run_in_executor(self._thread, self._reader.examples, *which)
        others = [json.loads(node) for node in await self._nodes.read_examples(*which)]
        found = sorted((example for node in (here, *others) for example in node), key=lambda one: float(one["score"]))
        return json.dumps(found[:limit]).encode()

    def _find(self, endpoint: str, backend: str) -> Watched:
        desired = self._desired()
        find_endpoint(desired, endpoint)
        for one in watched(desired):
            if (one.endpoint, one.backend) == (endpoint, backend):
                return one
        raise ValueError(
            f"endpoint {endpoint!r} has no shadow {backend!r} whose answers are compared; shadow_traffic() with"
            " compare= makes one"
        )

    def above_noise(self) -> dict[tuple[str, str], NoiseView]:
        """Of each shadow, by endpoint and backend, whether it differs too often, at the last reading."""
        shadows = {one.comparison.name: (one.endpoint, one.backend) for one in watched(self._desired())}
        return {shadows[name]: gate.view() for name, gate in self._gates.items() if name in shadows}

    async def aclose(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._reader.close)
        self._thread.shutdown()

    def _judge(self, shadows: list[Watched]) -> None:
        """Give each gate what has come since the last reading; one begins afresh with other code."""
        gates = {}
        for one in shadows:
            gate = self._gates.get(one.comparison.name)
            if gate is None or gate.code != one.code:
                gate = _Gate(one)
            gate.tick(one, self.pairs)
            gates[one.comparison.name] = gate
        self._gates = gates


class _Gate:
    """Whether a shadow mismatches more often than the endpoint's backend does with itself, in this code."""

    def __init__(self, one: Watched) -> None:
        self._gate = noise_gate()
        self._seen: dict[PairKey, PairTally] = {}
        self.code = one.code

    def tick(self, one: Watched, pairs: Mapping[PairKey, PairTally]) -> None:
        mine = {
            key: tally for key, tally in pairs.items() if (key.endpoint, key.backend) == (one.endpoint, one.backend)
        }
        new = {False: [0, 0], True: [0, 0]}
        for key, tally in mine.items():
            before = self._seen.get(key, PairTally())
            if tally.pairs < before.pairs:
                continue  # a node does not answer; when it is back, its pairs must not count again
            more = tally.pairs - before.pairs
            new[key.noise][0] += more
            new[key.noise][1] += min(more, max(0, tally.mismatched - before.mismatched))
            self._seen[key] = tally
        self._gate.add(*new[True], *new[False])

    def state(self) -> dict[str, Any]:
        return self._gate.state()

    def view(self) -> NoiseView:
        return NoiseView(**above_noise(self._gate))
