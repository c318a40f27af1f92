"""Metrics of a router. Written on its loop only."""

from __future__ import annotations

import msgspec

from pointsman.telemetry import families
from pointsman.telemetry.values import Counter, Gauge
from pointsman.telemetry.writer import ByLabels, MetricsWriter


class RouterMetrics:
    """Router metrics by endpoint and backend. These are configured names, so the number of series is bounded.

    Args:
        writer: metrics writer of this process.
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
        """Count a call before it is placed. Mirrored calls are not counted."""
        counter = self._requests[endpoint]
        # hot: written in place; `inc()` is one more method call for each call (decision 0020)
        counter.values[counter.at] += 1.0

    def waits(self, endpoint: str, backend: str, change: int) -> None:
        """Add ``change`` to the number of calls that wait for a replica."""
        gauge = self._waiting[endpoint, backend]
        gauge.values[gauge.at] += change

    def retried(self, endpoint: str, backend: str, reason: str) -> None:
        """Count a call that is placed again, since its replica refused it or died."""
        self._retries[endpoint, backend, reason].inc()

    def dropped(self, endpoint: str, backend: str) -> None:
        """Count a mirrored call that was not sent."""
        self._dropped[endpoint, backend].inc()

    def policy(self, endpoint: str, version: int) -> None:
        """Record the version of the endpoint's policy that this router uses."""
        self._versions[endpoint].set(version)


class PoolStatistics(msgspec.Struct, frozen=True):
    """Snapshot of a pool."""

    backend: str
    waiting: int
    shadows_waiting: int
    inflight: int
    replicas: int
    open_replicas: int


class ShadowStatistics(msgspec.Struct, frozen=True):
    """Snapshot of a shadow in one router."""

    endpoint: str
    backend: str
    inflight: int
    answered: int
    failed: int
    dropped: int
