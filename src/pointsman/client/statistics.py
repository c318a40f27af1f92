"""What a client can tell of an instance's load."""

from __future__ import annotations

import time
from typing import Any

from pointsman.arguments import check_timeout
from pointsman.client.operations import Operations, new_id
from pointsman.telemetry.summary import Reading, summarise
from pointsman.wire.commands import QueryMetrics
from pointsman.wire.messages import unpack


class StatisticsOperations(Operations):
    """Reads, and changes nothing."""

    def stats(self, over_s: float | None = None) -> dict[str, Any]:
        """Requests, errors, latencies and queues, by endpoint and backend: plain dicts, ready for JSON.

        Per endpoint ``requests``, ``per_second``, ``queued`` in routers, ``http_latency_ms`` as p50, p95 and p99, and
        ``http_outcomes``: how many requests by HTTP were ``delivered``, ``refused``, ``failed`` and ``aborted``;
        per backend also ``errors``, the ``latency_ms`` of calls of user code, queries in ``processing``, ``queued`` in
        routers and replicas, the mean ``batch_size``, and live ``replicas``.

        Args:
            over_s: watch for so many seconds, and tell what happened meanwhile. None: everything since the start, and
                no rates.

        Raises:
            ServeException: the instance records no metrics.
            ValueError, TypeError: ``over_s`` is no number above 0.
        """
        check_timeout(over_s, "over_s")
        before = self._read_metrics()
        if over_s is None:
            return summarise(before)
        time.sleep(over_s)
        return summarise(self._read_metrics(), before)

    def _read_metrics(self) -> Reading:
        self._check_alive()
        return unpack(self._session.command(QueryMetrics(new_id())), Reading)
