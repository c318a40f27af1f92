"""What an ingress counts, on its loop."""

from __future__ import annotations

from pointsman.telemetry import families
from pointsman.telemetry.book import Book, Cells, Counter, Histogram

End = tuple[str, str, str, str, str]
"""Endpoint, route, outcome and reason of a request, and its backend; the first is empty where the route is none's, and
the last where it has not got as far as that."""


class HTTPMetrics:
    """Cells by route, endpoint and backend; those are configured names, so their number is bounded.

    Args:
        book: the process's.
    """

    def __init__(self, book: Book) -> None:
        self._book = book
        self._arrived: Cells[str, Counter] = Cells(lambda route: book.counter(families.HTTP_REQUESTS, route))
        self._ends: Cells[End, tuple[Counter, Histogram | None]] = Cells(self._end)

    def arrived(self, route: str) -> None:
        """A request, by the template that it matched."""
        counter = self._arrived[route]
        counter.values[counter.at] += 1.0

    def ended(self, end: End, seconds: float) -> None:
        """What became of a request, and how long it took if it had got as far as to a backend."""
        counter, duration = self._ends[end]
        counter.values[counter.at] += 1.0
        if duration is not None:
            duration.observe(seconds)

    def _end(self, end: End) -> tuple[Counter, Histogram | None]:
        endpoint, *_, backend = end
        counter = self._book.counter(families.HTTP_OUTCOMES, *end[:-1])
        return counter, self._book.histogram(families.HTTP_DURATION, endpoint, backend) if backend else None
