"""What a router counts, on its loop."""

from __future__ import annotations

from pointsman.telemetry import families
from pointsman.telemetry.book import Book, Cells, Counter, Gauge


class RouterMetrics:
    """Cells by endpoint and backend; those are configured names, so their number is bounded.

    Args:
        book: the process's.
    """

    def __init__(self, book: Book) -> None:
        self._requests: Cells[str, Counter] = Cells(lambda name: book.counter(families.ROUTER_REQUESTS, name))
        self._waiting: Cells[tuple[str, str], Gauge] = Cells(lambda names: book.gauge(families.ROUTER_QUEUED, *names))
        self._versions: Cells[str, Gauge] = Cells(lambda name: book.gauge(families.POLICY_VERSION, name))
        self._retries: Cells[tuple[str, str, str], Counter] = Cells(
            lambda names: book.counter(families.ROUTER_RETRIES, *names)
        )
        self._dropped: Cells[tuple[str, str], Counter] = Cells(
            lambda names: book.counter(families.SHADOW_DROPPED, *names)
        )

    def request(self, endpoint: str) -> None:
        """A call, before it is placed; no copy for a shadow."""
        counter = self._requests[endpoint]
        counter.values[counter.at] += 1.0

    def waits(self, endpoint: str, backend: str, change: int) -> None:
        """So many more calls wait for a replica, or fewer."""
        gauge = self._waiting[endpoint, backend]
        gauge.values[gauge.at] += change

    def retried(self, endpoint: str, backend: str, reason: str) -> None:
        """A call is placed again: its replica did not take it, or was lost with it."""
        self._retries[endpoint, backend, reason].inc()

    def dropped(self, endpoint: str, backend: str) -> None:
        """A copy for a shadow was not sent."""
        self._dropped[endpoint, backend].inc()

    def policy(self, endpoint: str, version: int) -> None:
        """This version of the endpoint's policy is in force here."""
        self._versions[endpoint].set(version)
