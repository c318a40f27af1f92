"""What routers have counted of each version of a traffic policy: the evidence by which versions are compared."""

from __future__ import annotations

from typing import NamedTuple

from pointsman.model.origin import Struct

ROUTED = "routed"
"""A call that the policy's weights, a shard key or the user's own policy gave to its backend."""
PINNED = "pinned"
"""A call whose shard key is pinned to its backend."""
SHADOW = "shadow"
"""A copy of a call."""


class TallyKey(NamedTuple):
    """Which calls a tally counts.

    Attributes:
        policy_version: of the endpoint's traffic policy that routed them.
        kind: :data:`ROUTED`, :data:`PINNED` or :data:`SHADOW`.
    """

    endpoint: str
    policy_version: int
    backend: str
    kind: str = ROUTED


class Tally(Struct, frozen=True):
    """What became of calls, since it was begun. Tallies of several processes are added up.

    Attributes:
        requests: those that have ended. Only these can be errors.
        errors: those that failed by the fault of the backend or of Pointsman: status 500 and above, exceptions, and
            streams that were cut. Not those that the client is to blame for, nor those whose client left.
        latencies: how many took how long, from arrival to the first byte of the answer, by bucket of
            :func:`pointsman.stats.latency.bucket_of`. A client that left counts with the time that it waited.
        seconds: the sum of these times, by the middles of their buckets.
    """

    requests: int = 0
    errors: int = 0
    latencies: dict[int, int] = {}
    seconds: float = 0.0

    def plus(self, other: Tally) -> Tally:
        """The two together."""
        latencies = dict(self.latencies)
        for bucket, count in other.latencies.items():
            latencies[bucket] = latencies.get(bucket, 0) + count
        return Tally(
            self.requests + other.requests, self.errors + other.errors, latencies, self.seconds + other.seconds
        )

    def since(self, earlier: Tally) -> Tally:
        """What has come after an earlier state of the same tally."""
        latencies = {
            bucket: more
            for bucket, count in self.latencies.items()
            if (more := count - earlier.latencies.get(bucket, 0)) > 0
        }
        return Tally(
            max(0, self.requests - earlier.requests),
            max(0, self.errors - earlier.errors),
            latencies,
            max(0.0, self.seconds - earlier.seconds),
        )


class PairKey(NamedTuple):
    """Which compared answers a :class:`PairTally` counts.

    Attributes:
        backend: the shadow.
        began: names the comparison and the code on both sides, ``<comparison>/<backend>@<version>/<shadow's version>``;
            another one begins afresh. An endpoint that several backends answer has one for each.
        noise: whether both answers are of the endpoint's own backend, which shows how often it disagrees with itself.
    """

    endpoint: str
    backend: str
    began: str
    noise: bool = False


class PairTally(Struct, frozen=True):
    """How many pairs of answers were compared, and how many did not match, since the comparison began."""

    pairs: int = 0
    mismatched: int = 0

    def plus(self, other: PairTally) -> PairTally:
        """The two together."""
        return PairTally(self.pairs + other.pairs, self.mismatched + other.mismatched)

    def since(self, earlier: PairTally) -> PairTally:
        """What has come after an earlier state of the same tally. When a node is left out of one of the two, the
        mismatches of others may stand against its pairs: there are never more of them than pairs."""
        pairs = max(0, self.pairs - earlier.pairs)
        return PairTally(pairs, min(pairs, max(0, self.mismatched - earlier.mismatched)))


class MetricKey(NamedTuple):
    """Which values of a metric of user code a :class:`MetricTally` sums up. ``name`` is that of a histogram."""

    backend: str
    name: str


class MetricTally(Struct, frozen=True):
    """How many values were observed, and their sum."""

    count: int = 0
    sum: float = 0.0

    def plus(self, other: MetricTally) -> MetricTally:
        """The two together."""
        return MetricTally(self.count + other.count, self.sum + other.sum)

    def since(self, earlier: MetricTally) -> MetricTally:
        """What has come after an earlier state of the same tally."""
        return MetricTally(max(0, self.count - earlier.count), self.sum - earlier.sum)


class Evidence(Struct, frozen=True):
    """All that was counted up to one moment. Counts never fall, whatever process ends.

    Attributes:
        at: seconds of a clock that is not set by anybody.
        metrics: of user code; only those that a rollout watches.
    """

    at: float
    tallies: dict[TallyKey, Tally] = {}
    pairs: dict[PairKey, PairTally] = {}
    metrics: dict[MetricKey, MetricTally] = {}


class Window(Struct, frozen=True):
    """What was counted in the last seconds.

    Attributes:
        seconds: how long that is in fact; None if it is all that is known.
        tallies: of all versions of a policy together, under version 0.
    """

    seconds: float | None
    tallies: dict[TallyKey, Tally]


class Numbers(Struct, frozen=True):
    """What was counted of an instance's calls, in several windows.

    Attributes:
        windows: in the order in which they were asked for.
        policies: what was counted since each endpoint's policy is in force, under its version.
        policy_s: for how many seconds that is, by endpoint.
        at: when it was counted, in seconds of the controller's monotonic clock.
    """

    windows: tuple[Window, ...]
    policies: dict[TallyKey, Tally]
    policy_s: dict[str, float]
    at: float = 0.0
