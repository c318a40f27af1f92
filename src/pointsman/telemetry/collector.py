"""All books of a node, merged; those whose process has ended are folded into one. One collector per folder.

    folder/<role>-<random>   a book each, of the living and the dead
    folder/retired           what the dead have left that were folded

Counts of the dead go on counting: sums never fall. Their gauges do not: nothing waits in a process that is gone. Five
minutes after a replica has ended its label is given up too, and its counts are added to ``replica="retired"``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pointsman.telemetry.book import NEW, Book, Series
from pointsman.telemetry.shelf import BrokenBookError, Shelf

log = logging.getLogger(__name__)

RETIRE_AFTER_S = 300.0
RETIRED = "retired"
MAX_USER_SERIES = 2000
OVERFLOW = "overflow"

Labels = tuple[tuple[str, str], ...]
Numbers = tuple[float, ...]


class Metric(NamedTuple):
    """One metric of the node: what it is, as its first writer said, and its values by labels."""

    about: Series
    series: dict[Labels, Numbers]


def merge(entries: Iterable[tuple[Series, Numbers]]) -> dict[str, Metric]:
    """Put series of many processes together, by name. Pure.

    Where two disagree on what a name means, the first is right. A metric of user code keeps 2000 series; further ones
    share one.
    """
    metrics: dict[str, Metric] = {}
    for about, numbers in entries:
        metric = metrics.get(about.name)
        if metric is None:
            metric = metrics[about.name] = Metric(about, {})
        elif (metric.about.kind, metric.about.bounds) != (about.kind, about.bounds):
            continue
        series, labels = metric.series, about.labels
        before = series.get(labels)
        if before is None and about.user and len(series) >= MAX_USER_SERIES:
            labels = tuple((name, OVERFLOW) for name, _ in labels)
            before = series.get(labels)
        if before is None:
            series[labels] = numbers
        elif about.kind == "largest":
            series[labels] = max(before, numbers)
        else:
            series[labels] = tuple(map(float.__add__, before, numbers))
    return metrics


class Collector:
    """See the module. Not for several threads at a time.

    Args:
        folder: where the books lie.
        clock: seconds that only grow.
        retire_after_s: how long the dead keep their labels.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float], retire_after_s: float = RETIRE_AFTER_S) -> None:
        self._folder = folder
        self._clock = clock
        self._retire_after_s = retire_after_s
        self._shelves: dict[str, Shelf] = {}
        self._ended: dict[str, float] = {}
        self._unreadable: set[str] = set()

    def collect(self) -> dict[str, Metric]:
        """Everything as it is now, by name."""
        self._look()
        self._retire()
        return merge(self._entries())

    def close(self) -> None:
        for shelf in self._shelves.values():
            shelf.close()
        self._shelves.clear()

    def _entries(self) -> Iterator[tuple[Series, Numbers]]:
        for name, shelf in self._shelves.items():
            for series, numbers in shelf.read():
                if name not in self._ended or series.kind in ("counter", "histogram"):
                    yield series, numbers

    def _look(self) -> None:
        """Open new books, forget those that are gone, and note who has ended."""
        names = [name for name in sorted(os.listdir(self._folder)) if not name.startswith(NEW)]
        for name in self._shelves.keys() - set(names):
            self._shelves.pop(name).close()
            self._ended.pop(name, None)
        for name in names:
            if name not in self._shelves and name not in self._unreadable:
                self._open(name)
        retired = self._shelves.get(RETIRED)
        if retired is not None:
            for name in retired.owner.folded:  # somebody was killed between the two steps of folding
                if name in self._shelves:
                    self._forget(name)
        now = self._clock()
        for name, shelf in self._shelves.items():
            if name not in self._ended and shelf.ended:
                self._ended[name] = now

    def _open(self, name: str) -> None:
        try:
            self._shelves[name] = Shelf(self._folder / name)
        except FileNotFoundError:
            pass  # another one has folded it just now
        except (OSError, BrokenBookError) as error:
            self._unreadable.add(name)
            log.warning("metrics file %s cannot be read: %s", name, error)

    def _retire(self) -> None:
        """Fold those that have ended long enough ago; at once where no label names them."""
        now = self._clock()
        due = [
            name
            for name, ended in self._ended.items()
            if name != RETIRED
            and (now >= ended + self._retire_after_s or self._shelves[name].owner.role not in ("replica", RETIRED))
        ]
        if not due:
            return
        kept = [name for name in (RETIRED, *due) if name in self._shelves]
        entries = [(_retired(series), numbers) for name in kept for series, numbers in self._shelves[name].read()]
        book = Book(self._folder, RETIRED, folded=tuple(due), hidden=True)
        for metric in merge(entry for entry in entries if entry[0].kind in ("counter", "histogram")).values():
            for labels, numbers in metric.series.items():
                book.series(_with_labels(metric.about, labels)).fill(numbers)
        book.close()
        book.path.replace(self._folder / RETIRED)
        for name in (RETIRED, *due):
            self._forget(name, unlink=name != RETIRED)
        self._open(RETIRED)
        self._ended[RETIRED] = now

    def _forget(self, name: str, *, unlink: bool = True) -> None:
        if unlink:
            (self._folder / name).unlink(missing_ok=True)
        shelf = self._shelves.pop(name, None)
        if shelf is not None:
            shelf.close()
        self._ended.pop(name, None)


def _retired(series: Series) -> Series:
    return _with_labels(series, tuple((k, RETIRED if k == "replica" else v) for k, v in series.labels))


def _with_labels(series: Series, labels: Labels) -> Series:
    return Series(series.name, series.kind, series.help, labels, series.bounds, series.user)
