"""What is counted of a run, and whether it can be trusted. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from pointsman.stats.latency import bucket_of, quantile_bucket
from pointsman.telemetry.values import middle_of

OPEN, CLOSED = "open", "closed"
LATE_S = 0.010
"""Seconds after it was due from which a request counts as late."""
MAX_LATE = 0.01
"""Share of requests that may be late before the figures say more about this tool's machine than about the server."""
FIRST_BAD_STATUS = 400
UNSENT = "unsent"
"""Error of a request that found no connection for as long as a request may take."""


class Ended(NamedTuple):
    """One request that is over. Times are in seconds since the run began.

    Attributes:
        due: when it was meant to be sent. Latency counts from here, not from when it was sent.
        at: when its answer was complete, or when it failed.
        status: 0 without an answer.
        what: the backend that answered, "" if the answer names none; without an answer, the kind of error.
    """

    due: float
    at: float
    status: int
    what: str = ""


class Latencies:
    """Counts of latencies, by the buckets of :mod:`pointsman.stats.latency`, of which there are 1,273 at most.

    Attributes:
        counts: by bucket.
        longest_s: the longest one, exactly; 0.0 without any.
    """

    __slots__ = ("counts", "longest_s")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.longest_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.add_to(bucket_of(seconds), seconds)

    def add_to(self, bucket: int, seconds: float) -> None:
        """Count one whose bucket is known."""
        self.counts[bucket] = self.counts.get(bucket, 0) + 1
        if seconds > self.longest_s:
            self.longest_s = seconds

    @property
    def count(self) -> int:
        return sum(self.counts.values())

    def quantile_s(self, quantile: float) -> float | None:
        """A quantile in seconds, at most 1 % off and never above the longest; None without any."""
        if not self.counts:
            return None
        return min(middle_of(quantile_bucket(self.counts, quantile)), self.longest_s)

    def quantile_ms(self, quantile: float) -> float | None:
        """The same in milliseconds, to the microsecond."""
        seconds = self.quantile_s(quantile)
        return None if seconds is None else round(1000 * seconds, 3)

    def longest_ms(self) -> float | None:
        """The longest one in milliseconds; None without any."""
        return round(1000 * self.longest_s, 3) if self.counts else None


class OfBackend:
    """What one backend has answered."""

    __slots__ = ("latencies", "ok", "sent")

    def __init__(self) -> None:
        self.sent = self.ok = 0
        self.latencies = Latencies()


class Sample(NamedTuple):
    """What has happened since the sample before, and all in all.

    Attributes:
        at: seconds since the run began.
        seconds: since the sample before.
        ended, ok: requests since then.
        p50_ms, p99_ms: of the good answers since then.
        total, total_ok: requests so far.
        late: whether the run is not trustworthy so far.
    """

    at: float
    seconds: float
    ended: int
    ok: int
    p50_ms: float | None
    p99_ms: float | None
    total: int
    total_ok: int
    late: bool


class Tally:
    """Counts of a run. Percentiles are those of good answers, whose status is below 400.

    Args:
        mode: ``open`` or ``closed``.
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.sent = self.ok = 0
        self.statuses: Counter[int] = Counter()
        self.errors: Counter[str] = Counter()
        self.latencies = Latencies()
        self.lateness = Latencies()
        self.late = self.begun = 0
        self.backends: dict[str, OfBackend] = {}
        self.last_at = 0.0
        self._recent, self._recent_sent, self._sampled_at = Latencies(), 0, 0.0

    def began(self, due: float, at: float) -> None:
        """A request is being sent at this time; a closed loop has none that are late."""
        self.begun += 1
        if self.mode == CLOSED:
            return
        late_s = at - due
        self.lateness.add(late_s)
        if late_s > LATE_S:
            self.late += 1

    def ended(self, one: Ended) -> None:
        """A request is over."""
        due, at, status, what = one
        self.sent += 1
        self._recent_sent += 1
        if at > self.last_at:
            self.last_at = at
        if not status:
            self.errors[what] += 1
            return
        self.statuses[status] += 1
        backend = self.backends.get(what) if what else None
        if what and backend is None:
            backend = self.backends[what] = OfBackend()
        if backend is not None:
            backend.sent += 1
        if status >= FIRST_BAD_STATUS:
            return
        self.ok += 1
        took_s = at - due
        bucket = bucket_of(took_s)
        self.latencies.add_to(bucket, took_s)
        self._recent.add_to(bucket, took_s)
        if backend is not None:
            backend.ok += 1
            backend.latencies.add_to(bucket, took_s)

    @property
    def answered(self) -> int:
        """Requests that got an answer, whatever its status."""
        return sum(self.statuses.values())

    @property
    def trustworthy(self) -> bool:
        """Whether at most 1 % of the requests were sent 10 ms late or later, or not at all."""
        unsent = self.errors[UNSENT]
        return self.late + unsent <= MAX_LATE * (self.begun + unsent)

    def sample(self, at: float) -> Sample:
        """What has happened since the last call."""
        recent, seconds = self._recent, at - self._sampled_at
        sample = Sample(
            at,
            seconds,
            self._recent_sent,
            recent.count,
            recent.quantile_ms(0.5),
            recent.quantile_ms(0.99),
            self.sent,
            self.ok,
            not self.trustworthy,
        )
        self._recent, self._recent_sent, self._sampled_at = Latencies(), 0, at
        return sample

    def report(self) -> dict[str, Any]:
        """All of it as plain values, with the names of ``pointsman load --json``."""
        took = self.latencies
        return {
            "mode": self.mode,
            "sent": self.sent,
            "ok": self.ok,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "errors": dict(sorted(self.errors.items())),
            "rate": round(self.ok / self.last_at, 2) if self.last_at else 0.0,
            "p50_ms": took.quantile_ms(0.5),
            "p90_ms": took.quantile_ms(0.9),
            "p95_ms": took.quantile_ms(0.95),
            "p99_ms": took.quantile_ms(0.99),
            "max_ms": took.longest_ms(),
            "late_p99_ms": self.lateness.quantile_ms(0.99) if self.mode == OPEN else None,
            "trustworthy": self.trustworthy,
            "backends": dict(self._backends()),
        }

    def _backends(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for tag, one in sorted(self.backends.items()):
            p50_ms, p99_ms = one.latencies.quantile_ms(0.5), one.latencies.quantile_ms(0.99)
            yield tag, {"sent": one.sent, "ok": one.ok, "p50_ms": p50_ms, "p99_ms": p99_ms}
