"""What a router counts, on its loop."""

from __future__ import annotations

from pointsman.telemetry import families
from pointsman.telemetry.book import Book, Counter, Gauge


class RouterMetrics:
    """Cells by endpoint and backend; those are configured names, so their number is bounded.

    Args:
        book: the process's.
    """

    def __init__(self, book: Book) -> None:
        self._book = book
        self._requests: dict[str, Counter] = {}
        self._waiting: dict[tuple[str, str], Gauge] = {}
        self._versions: dict[str, Gauge] = {}
        self._others: dict[tuple[families.Family, tuple[str, ...]], Counter] = {}

    def request(self, endpoint: str) -> None:
        """A call, before it is placed; no copy for a shadow."""
        counter = self._requests.get(endpoint)
        if counter is None:
            counter = self._requests[endpoint] = self._book.counter(families.ROUTER_REQUESTS, endpoint)
        counter.inc()

    def waits(self, endpoint: str, backend: str, change: int) -> None:
        """So many more calls wait for a replica, or fewer."""
        gauge = self._waiting.get((endpoint, backend))
        if gauge is None:
            gauge = self._book.gauge(families.ROUTER_QUEUED, endpoint, backend)
            self._waiting[endpoint, backend] = gauge
        gauge.add(change)

    def retried(self, endpoint: str, backend: str, reason: str) -> None:
        """A call is placed again: its replica did not take it, or was lost with it."""
        self._count(families.ROUTER_RETRIES, endpoint, backend, reason)

    def dropped(self, endpoint: str, backend: str) -> None:
        """A copy for a shadow was not sent."""
        self._count(families.SHADOW_DROPPED, endpoint, backend)

    def policy(self, endpoint: str, version: int) -> None:
        """This version of the endpoint's policy is in force here."""
        gauge = self._versions.get(endpoint)
        if gauge is None:
            gauge = self._versions[endpoint] = self._book.gauge(families.POLICY_VERSION, endpoint)
        gauge.set(version)

    def _count(self, family: families.Family, *labels: str) -> None:
        counter = self._others.get((family, labels))
        if counter is None:
            counter = self._others[family, labels] = self._book.counter(family, *labels)
        counter.inc()
