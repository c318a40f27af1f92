"""What a router counts, on its loop."""

from __future__ import annotations

from pointsman.telemetry import families
from pointsman.telemetry.writer import ByLabels, Counter, Gauge, MetricsWriter


class RouterMetrics:
    """Values by endpoint and backend; those are configured names, so their number is bounded.

    Args:
        writer: the process's.
    """

    def __init__(self, writer: MetricsWriter) -> None:
        self._requests: ByLabels[str, Counter] = ByLabels(lambda name: writer.counter(families.ROUTER_REQUESTS, name))
        self._waiting: ByLabels[tuple[str, str], Gauge] = ByLabels(
            lambda names: writer.gauge(families.ROUTER_QUEUED, *names)
        )
        self._versions: ByLabels[str, Gauge] = ByLabels(lambda name: writer.gauge(families.POLICY_VERSION, name))
        self._retries: ByLabels[tuple[str, str, str], Counter] = ByLabels(
            lambda names: writer.counter(families.ROUTER_RETRIES, *names)
        )
        self._dropped: ByLabels[tuple[str, str], Counter] = ByLabels(
            lambda names: writer.counter(families.SHADOW_DROPPED, *names)
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
