"""Evidence of an instance that has no routers."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pointsman.model.evidence import ROUTED, Evidence, MetricKey, MetricTally, PairKey, PairTally, Tally, TallyKey
from pointsman.stats.latency import bucket_of


class FakeEvidence:
    """A source of evidence (:class:`pointsman.controller.evidence.EvidenceSource`) that a test fills.

    What is counted is known from the next :meth:`tick` on, as with routers.
    """

    def __init__(self) -> None:
        self._tallies: dict[TallyKey, Tally] = {}
        self._pairs: dict[PairKey, PairTally] = {}
        self._metrics: dict[MetricKey, MetricTally] = {}
        self._readings = [Evidence(at=0.0)]
        self._heard: list[Callable[[Evidence], object]] = []

    def count(
        self,
        endpoint: str,
        backend: str,
        *,
        version: int = 1,
        kind: str = ROUTED,
        requests: int | None = None,
        errors: int = 0,
        latencies: Iterable[float] = (),
    ) -> None:
        """Count calls.

        Args:
            endpoint: name of the endpoint.
            backend: tag of the backend that answered.
            version: of the endpoint's traffic policy.
            kind: how the calls came there: routed by the policy, unless another kind is named.
            requests: how many have ended; by default one for each latency.
            errors: how many of them failed.
            latencies: how long they took, in seconds.
        """
        buckets: dict[int, int] = {}
        seconds, number = 0.0, 0
        for latency in latencies:
            bucket = bucket_of(latency)
            buckets[bucket] = buckets.get(bucket, 0) + 1
            seconds, number = seconds + latency, number + 1
        key = TallyKey(endpoint, version, backend, kind)
        more = Tally(number if requests is None else requests, errors, buckets, seconds)
        self._tallies[key] = self._tallies.get(key, Tally()).plus(more)

    def count_pairs(self, key: PairKey, pairs: int, mismatched: int = 0) -> None:
        """Count pairs of answers.

        Args:
            key: whose pairs.
            pairs: how many more.
            mismatched: how many of these do not match.
        """
        before = self._pairs.get(key, PairTally())
        self._pairs[key] = PairTally(before.pairs + pairs, before.mismatched + mismatched)

    def set_metrics(self, metrics: dict[MetricKey, MetricTally]) -> None:
        """Replace what metrics of user code have summed up.

        Args:
            metrics: the sums.
        """
        self._metrics = dict(metrics)

    def forget(self, endpoint: str) -> None:
        """Forget what was counted of an endpoint.

        Args:
            endpoint: name of the endpoint.
        """
        self._tallies = {key: tally for key, tally in self._tallies.items() if key.endpoint != endpoint}

    def tick(self, at: float | None = None) -> Evidence:
        """Read what was counted, at this time; by default a second after the reading before. Whoever has subscribed
        hears of it.

        Args:
            at: the time in seconds.

        Returns:
            What has been counted.
        """
        at = self._readings[-1].at + 1.0 if at is None else at
        reading = Evidence(at, dict(self._tallies), dict(self._pairs), dict(self._metrics))
        self._readings.append(reading)
        for heard in list(self._heard):
            heard(reading)
        return reading

    # EvidenceSource

    def evidence(self) -> Evidence:
        """The last reading."""
        return self._readings[-1]

    def earlier(self, age_s: float) -> Evidence:
        """The last reading that is at least so old; the first one where none is.

        Args:
            age_s: in seconds.
        """
        then = self._readings[-1].at - age_s
        return next((reading for reading in reversed(self._readings) if reading.at <= then), self._readings[0])

    def subscribe(self, heard: Callable[[Evidence], object]) -> Callable[[], None]:
        """Hear of each reading.

        Args:
            heard: is called with it.

        Returns:
            A function that ends this.
        """
        self._heard.append(heard)
        return lambda: self._heard.remove(heard)
