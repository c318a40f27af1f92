"""What an ingress counts, on its loop."""

from __future__ import annotations

from pointsman.telemetry import families
from pointsman.telemetry.book import Book, Cells, Counter, Histogram


class HTTPMetrics:
    """Cells by route, endpoint and backend; those are configured names, so their number is bounded.

    Args:
        book: the process's.
    """

    def __init__(self, book: Book) -> None:
        self._arrived: Cells[str, Counter] = Cells(lambda route: book.counter(families.HTTP_REQUESTS, route))
        self._outcomes: Cells[tuple[str, str, str, str], Counter] = Cells(
            lambda labels: book.counter(families.HTTP_OUTCOMES, *labels)
        )
        self._durations: Cells[tuple[str, str], Histogram] = Cells(
            lambda names: book.histogram(families.HTTP_DURATION, *names)
        )

    def arrived(self, route: str) -> None:
        """A request, by the template that it matched."""
        counter = self._arrived[route]
        counter.values[counter.at] += 1.0

    def ended(self, endpoint: str, route: str, outcome: str, reason: str) -> None:
        """What became of a request; ``endpoint`` is empty where the route is none's."""
        counter = self._outcomes[endpoint, route, outcome, reason]
        counter.values[counter.at] += 1.0

    def took(self, endpoint: str, backend: str, seconds: float) -> None:
        """How long a request took that had got as far as to a backend."""
        self._durations[endpoint, backend].observe(seconds)
