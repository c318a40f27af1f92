"""What an ingress counts, on its loop."""

from __future__ import annotations

from pointsman.telemetry import families
from pointsman.telemetry.book import Book, Counter, Histogram


class HTTPMetrics:
    """Cells by route, endpoint and backend; those are configured names, so their number is bounded.

    Args:
        book: the process's.
    """

    def __init__(self, book: Book) -> None:
        self._book = book
        self._arrived: dict[str, Counter] = {}
        self._outcomes: dict[tuple[str, str, str], Counter] = {}
        self._durations: dict[tuple[str, str], Histogram] = {}

    def arrived(self, route: str) -> None:
        """A request, by the template that it matched."""
        counter = self._arrived.get(route)
        if counter is None:
            counter = self._arrived[route] = self._book.counter(families.HTTP_REQUESTS, route)
        counter.inc()

    def ended(self, route: str, outcome: str, reason: str) -> None:
        """What became of a request."""
        key = (route, outcome, reason)
        counter = self._outcomes.get(key)
        if counter is None:
            counter = self._outcomes[key] = self._book.counter(families.HTTP_OUTCOMES, *key)
        counter.inc()

    def took(self, endpoint: str, backend: str, seconds: float) -> None:
        """How long a request took that had got as far as to a backend."""
        key = (endpoint, backend)
        histogram = self._durations.get(key)
        if histogram is None:
            histogram = self._durations[key] = self._book.histogram(families.HTTP_DURATION, *key)
        histogram.observe(seconds)
