"""What the page shows of calls: one sample a second, the last ten seconds together, for all viewers. Pure."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple

from pointsman.model.evidence import Tally
from pointsman.telemetry.fresh import NO_GAUGES, Gauges
from pointsman.telemetry.values import middle_of

WINDOW_S = 10
"""What is shown together: of fewer calls a share of errors says little, and numbers would jump."""
_NEARLY_S = WINDOW_S - 0.5
"""Samples do not come to the millisecond."""


class Part(NamedTuple):
    """The calls of an endpoint that one backend has got; ``shadow`` for copies."""

    endpoint: str
    backend: str
    shadow: bool = False


class Sample(NamedTuple):
    """What has come since the sample before.

    Attributes:
        seconds: how long that was; 0 if what calls there were is not known yet.
    """

    seconds: float
    calls: Mapping[Part, Tally]
    gauges: Gauges


def added_up(tallies: Iterable[Tally]) -> Tally:
    """The requests, errors and latencies of these together; of one that is the only one nothing is copied."""
    several = list(tallies)
    if len(several) == 1:
        return several[0]
    latencies: dict[int, int] = {}
    requests = errors = 0
    for tally in several:
        requests += tally.requests
        errors += tally.errors
        for bucket, count in tally.latencies.items():
            latencies[bucket] = latencies.get(bucket, 0) + count
    return Tally(requests, errors, latencies)


_EXACTLY = 1 - 1e-12
"""Against rounding, as in :func:`~pointsman.stats.latency.quantile_bucket`."""


def p50_p99_s(latencies: Mapping[int, int]) -> tuple[float | None, float | None]:
    """Two percentiles in seconds of latencies by bucket, as :func:`~pointsman.telemetry.windows.quantile_s` gives them;
    None without any."""
    if not latencies:
        return None, None
    buckets = sorted(latencies)
    reached = list(accumulate(map(latencies.__getitem__, buckets)))
    median = bisect_left(reached, 0.5 * reached[-1])
    return middle_of(buckets[median]), middle_of(buckets[bisect_left(reached, 0.99 * reached[-1] * _EXACTLY, median)])


class _Recent:
    """What came to a part in the last samples: a sum that follows, so that a sample costs what is new in it."""

    __slots__ = ("errors", "latencies", "requests")

    def __init__(self) -> None:
        self.requests = self.errors = 0
        self.latencies: dict[int, int] = {}

    def add(self, tally: Tally) -> None:
        """Add what has come."""
        self.requests += tally.requests
        self.errors += tally.errors
        latencies = self.latencies
        for bucket, count in tally.latencies.items():
            latencies[bucket] = latencies.get(bucket, 0) + count

    def take(self, requests: int, errors: int, buckets: Sequence[int]) -> None:
        """Take away what has come long ago; ``buckets`` are followed by their counts."""
        self.requests -= requests
        self.errors -= errors
        latencies = self.latencies
        for bucket, count in zip(buckets[::2], buckets[1::2], strict=True):
            left = latencies[bucket] - count
            if left:
                latencies[bucket] = left
            else:
                del latencies[bucket]

    def tally(self) -> Tally:
        """What is added up now. It changes with the next sample."""
        return Tally(self.requests, self.errors, self.latencies)


class _Kept(NamedTuple):
    """A sample until it is taken away again. A thousand tallies would be half a megabyte, ten times.

    Attributes:
        counts: of each part: requests, errors, how many numbers follow, and these: buckets with their counts.
    """

    seconds: float
    gauges: Gauges
    parts: tuple[Part, ...]
    counts: array[int]

    @classmethod
    def of(cls, sample: Sample) -> _Kept:
        counts: list[int] = []
        for tally in sample.calls.values():
            counts += (tally.requests, tally.errors, 2 * len(tally.latencies))
            counts += chain.from_iterable(tally.latencies.items())
        return cls(sample.seconds, sample.gauges, tuple(sample.calls), array("q", counts))

    def calls(self) -> Iterator[tuple[Part, int, int, Sequence[int]]]:
        """What came to each part: requests, errors, and buckets, each followed by its count."""
        at, counts = 0, self.counts
        for part in self.parts:
            start = at + 3
            requests, errors, length = counts[at:start]
            at = start + length
            yield part, requests, errors, counts[start:at]


class Recent:
    """The numbers of the page: what came in the last ten seconds, and how things stand now."""

    def __init__(self) -> None:
        self._samples: deque[_Kept] = deque()
        self._parts: dict[Part, _Recent] = {}
        self._gauges = NO_GAUGES
        self._seconds = 0.0

    def push(self, sample: Sample) -> None:
        """Take the next sample."""
        self._samples.append(_Kept.of(sample))
        self._gauges = sample.gauges
        for part, tally in sample.calls.items():
            recent = self._parts.get(part)
            if recent is None:
                recent = self._parts[part] = _Recent()
            recent.add(tally)
        seconds = self._seconds + sample.seconds
        while seconds - self._samples[0].seconds > _NEARLY_S:
            oldest = self._samples.popleft()
            seconds -= oldest.seconds
            for part, requests, errors, buckets in oldest.calls():
                recent = self._parts[part]
                recent.take(requests, errors, buckets)
                if not recent.requests and not recent.latencies:
                    del self._parts[part]
        self._seconds = sum(one.seconds for one in self._samples)

    def view(self) -> dict[str, Any]:
        """``endpoints`` and ``backends`` by name, without those that are idle."""
        by_endpoint: dict[str, list[Part]] = {}
        by_backend: dict[str, list[Part]] = {}
        for part in self._parts:
            by_endpoint.setdefault(part.endpoint, []).append(part)
            by_backend.setdefault(part.backend, []).append(part)
        waiting = self._waiting(lambda key: key[0])
        queued = self._waiting(lambda key: key[1])
        for tag, count in self._gauges.queued.items():
            if count:
                queued[tag] = queued.get(tag, 0) + count
        busy = by_backend.keys() | queued.keys() | {tag for tag, count in self._gauges.processing.items() if count}
        return {
            "endpoints": {
                name: self._endpoint(by_endpoint.get(name, []), waiting.get(name, 0))
                for name in sorted(by_endpoint.keys() | waiting.keys())
            },
            "backends": {tag: self._backend(tag, by_backend.get(tag, []), queued.get(tag, 0)) for tag in sorted(busy)},
        }

    def _waiting(self, name_of: Callable[[tuple[str, str]], str]) -> dict[str, int]:
        waiting: dict[str, int] = {}
        for key, count in self._gauges.waiting.items():
            waiting[name_of(key)] = waiting.get(name_of(key), 0) + count
        return waiting

    def _endpoint(self, parts: list[Part], queued: int) -> dict[str, Any]:
        shadows = {part.backend: self._shadow(part) for part in parts if part.shadow}
        backends = {part.backend: self._calls([part]) for part in parts if not part.shadow}
        routed = [part for part in parts if not part.shadow]
        return {
            **(self._calls(routed) if len(routed) != 1 else backends[routed[0].backend]),
            "queued": queued,
            "backends": backends,
            **({"shadows": shadows} if shadows else {}),
        }

    def _shadow(self, part: Part) -> dict[str, Any]:
        dropped = sum(sample.gauges.dropped.get((part.endpoint, part.backend), 0) for sample in self._samples)
        return {**self._calls([part]), "dropped_per_second": shown(dropped / self._seconds)}

    def _backend(self, tag: str, parts: list[Part], queued: int) -> dict[str, Any]:
        batches = [one for sample in self._samples if (one := sample.gauges.batches.get(tag)) is not None]
        count = sum(one[0] for one in batches)
        return {
            **self._calls(parts),
            "batch_size": shown(sum(one[1] for one in batches) / count) if count else None,
            "processing": self._gauges.processing.get(tag, 0),
            "queued": queued,
            "replicas": len(self._gauges.replicas.get(tag, ())),
        }

    def _calls(self, parts: list[Part]) -> dict[str, Any]:
        tally = added_up(self._parts[part].tally() for part in parts)
        p50, p99 = p50_p99_s(tally.latencies)
        return {
            "per_second": shown(tally.requests / self._seconds),
            "error_share": shown(tally.errors / tally.requests) if tally.requests else None,
            "p50_ms": shown(1000 * p50) if p50 is not None else None,
            "p99_ms": shown(1000 * p99) if p99 is not None else None,
        }


def shown(value: float) -> float:
    """With three digits: more would only flicker."""
    rounded = float(f"{value:.3g}")
    return int(rounded) if rounded.is_integer() else rounded
