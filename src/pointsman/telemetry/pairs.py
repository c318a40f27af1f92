"""Counts of compared answers: a folder for each comparison, with a file of counters of each process that compares, in
the format of metrics (decision 0080). They are added up like metrics, and Prometheus does not see them.

    folder/<comparison>/n/           the counts
    folder/<comparison>/x/<code>/    examples, for each backend that answers users and the code on both sides
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pointsman.comparing.examples import read_examples, remove_examples
from pointsman.comparing.report import MAX_ROUTES, OTHER_ROUTES
from pointsman.telemetry.collector import Collector
from pointsman.telemetry.families import Family
from pointsman.telemetry.values import Counter
from pointsman.telemetry.writer import ByLabels, MetricsWriter

MATCHED, MISMATCHED, UNCOMPARED, RATIO = "matched", "mismatched", "uncompared", "ratio"
"""What a count is of. Its detail is nothing, the kind, the reason, or the bucket of the shadow's time over the
primary's."""
COUNTS, EXAMPLES, LOCK = "n", "x", "lock"
_FAMILY = Family(
    "pairs",
    "counter",
    "Pairs of compared answers.",
    ("primary", "primary_version", "shadow_version", "noise", "route", "what", "detail"),
)


class CountKey(NamedTuple):
    """What is counted.

    Attributes:
        primary, primary_version, shadow_version: the backend that has answered the user, and the versions of the code.
        noise: whether both answers are of that backend.
        route: on which the calls came; empty for counts that are not told apart by it.
        what: one of the constants above.
    """

    primary: str
    primary_version: int
    shadow_version: int
    noise: bool
    route: str
    what: str
    detail: str = ""


PairCounts = dict[str, dict[CountKey, int]]
"""Counts by the names of comparisons."""


PackedCounts = dict[str, list[tuple[CountKey, int]]]
"""The same as a message."""


def as_counts(packed: PackedCounts) -> PairCounts:
    """The counts of a message."""
    return {name: dict(counts) for name, counts in packed.items()}


Wanted = Mapping[str, Collection[str]]
"""The names of comparisons, and the code of which they have examples."""


def code_of(primary: str, primary_version: int, shadow_version: int) -> str:
    """The name of a folder of examples."""
    return f"{primary_version}-{shadow_version}-{hashlib.sha256(primary.encode()).hexdigest()[:12]}"


class PairCounter:
    """Counts the pairs of one comparison in this process. Thread-safe.

    Args:
        folder: of the comparison.
    """

    def __init__(self, folder: Path) -> None:
        for place in (folder.parent, folder, folder / COUNTS):
            place.mkdir(mode=0o700, exist_ok=True)
        self._writer = MetricsWriter(folder / COUNTS, "comparer")
        self._counters: ByLabels[CountKey, Counter] = ByLabels(self._counter)
        self._routes: set[str] = set()
        self._lock = threading.Lock()

    def count(self, key: CountKey, by: int = 1) -> None:
        with self._lock:
            if key.route not in self._routes:
                if len(self._routes) >= MAX_ROUTES:
                    key = key._replace(route=OTHER_ROUTES)
                self._routes.add(key.route)
            self._counters[key].inc(by)

    def close(self) -> None:
        self._writer.close()

    def _counter(self, key: CountKey) -> Counter:
        return self._writer.counter(_FAMILY, *(str(int(v)) if isinstance(v, bool) else str(v) for v in key))


class PairReader:
    """Reads what all processes of this node have counted. One for each folder; not thread-safe.

    Args:
        folder: with a folder for each comparison; need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._collectors: dict[str, Collector] = {}

    def read(self, wanted: Wanted) -> PairCounts:
        """The counts of these comparisons; those of no other exist afterwards, nor examples of other code.

        Raises:
            OSError: a folder cannot be read.
        """
        try:
            there = set(os.listdir(self._folder))
        except FileNotFoundError:
            there = set()
        for name in (there | set(self._collectors)) - set(wanted):
            self._forget(name)
        for name in there & set(wanted):
            self._forget_examples(name, wanted[name])
        return {name: self._counts(name) for name in wanted if name in there}

    def examples(self, name: str, codes: Collection[str], limit: int) -> list[dict[str, Any]]:
        """Examples of a comparison, the worst first."""
        folders = [self._folder / name / EXAMPLES / code for code in codes]
        found = [example for folder in folders for example in read_examples(str(folder), limit)]
        return sorted(found, key=lambda example: example["score"])[:limit]

    def close(self) -> None:
        for collector in self._collectors.values():
            collector.close()
        self._collectors.clear()

    def _counts(self, name: str) -> dict[CountKey, int]:
        collector = self._collectors.get(name)
        if collector is None:
            collector = self._collectors[name] = Collector(self._folder / name / COUNTS, clock=time.monotonic)
        try:
            metric = collector.collect().get(_FAMILY.name)
        except FileNotFoundError:
            return {}  # just made, and still empty
        return {_key(dict(labels)): int(values[0]) for labels, values in metric.series.items()} if metric else {}

    def _forget_examples(self, name: str, codes: Collection[str]) -> None:
        folder = self._folder / name / EXAMPLES
        try:
            there = os.listdir(folder)
        except FileNotFoundError:
            return
        for code in set(there) - set(codes) - {LOCK}:
            remove_examples(str(folder / code))

    def _forget(self, name: str) -> None:
        collector = self._collectors.pop(name, None)
        if collector is not None:
            collector.close()
        shutil.rmtree(self._folder / name, ignore_errors=True)


def _key(labels: dict[str, str]) -> CountKey:
    return CountKey(
        labels["primary"],
        int(labels["primary_version"]),
        int(labels["shadow_version"]),
        labels["noise"] == "1",
        labels["route"],
        labels["what"],
        labels["detail"],
    )
