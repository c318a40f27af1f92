"""Chooses the backend of a call by weight or by shard key. Pure: the random number is an argument."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import accumulate
from types import MappingProxyType
from typing import NamedTuple, Protocol

from pointsman.model import TrafficPolicy
from pointsman.policy.rendezvous import Rendezvous

WEIGHT_TOLERANCE = 1e-5


def normalised(weights: Mapping[str, float]) -> dict[str, float]:
    """The weights, scaled so that they sum to 1.

    Raises:
        ValueError: there are none, one is negative or not finite, or they do not sum to 1 within 1e-5.
    """
    if not weights:
        raise ValueError("the traffic policy is empty; give at least one backend a weight above 0")
    for tag, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weight {weight!r} of backend {tag!r} must be a finite number of at least 0")
    # fsum is exactly rounded, so that the order of the dict cannot move a shard key; it raises where sums overflow.
    total = math.fsum(weights.values()) if max(weights.values()) < 2 else sum(weights.values())
    if abs(total - 1) > WEIGHT_TOLERANCE:
        raise ValueError(f"traffic weights must sum to 1, and these sum to {total:g}: {dict(weights)}")
    return {tag: float(weight) / total + 0.0 for tag, weight in weights.items()}


class TrafficSplit:
    """The traffic split of one endpoint.

    Args:
        endpoint: name of the endpoint.
        policy: weights that sum to 1, at least one of them above 0.

    Only the weights decide: the share of a backend that is down does not go to others. A backend of weight 0 is never
    chosen.
    """

    __slots__ = ("_bounds", "_last", "_rendezvous", "endpoint", "version", "weights")

    def __init__(self, endpoint: str, policy: TrafficPolicy) -> None:
        self.endpoint = endpoint
        self.version = policy.version
        self.weights: Mapping[str, float] = MappingProxyType(policy.weights)
        shares = [(tag, weight) for tag, weight in sorted(policy.weights.items()) if weight > 0]
        bounds = accumulate(weight for _, weight in shares)
        # A sum of floats may be just below 1, so the last backend gets the remainder instead of a bound.
        self._last = shares[-1][0]
        self._bounds = tuple(zip(bounds, (tag for tag, _ in shares), strict=True))[:-1]
        self._rendezvous = Rendezvous(endpoint, policy.weights)

    @property
    def draws(self) -> bool:
        """True if there is a choice: more than one backend has a weight above 0."""
        return bool(self._bounds)

    def by_weight(self, draw: float) -> str:
        """The backend for a ``draw`` uniform in [0, 1), by inversion of the cumulative weights."""
        for bound, tag in self._bounds:
            if draw < bound:
                return tag
        return self._last

    def by_key(self, shard_key: str) -> str:
        """The backend that a shard key belongs to, by weighted rendezvous hashing."""
        return self._rendezvous.owner(shard_key) if self._bounds else self._last

    def numbers(self, shard_key: str) -> dict[str, float]:
        """The number that each backend draws for a key; the smallest wins."""
        return self._rendezvous.numbers(shard_key)


class CallInfo(NamedTuple):
    """What a custom policy is given of a call.

    Attributes:
        endpoint: name of the endpoint.
        shard_key: None if the call has none; such calls may go to any backend.
        number: how many calls this router has passed to the policy before, since the endpoint last changed.
        http_method: upper case.
        path: raw, percent-encoded; empty through a handle.
        query: raw query string; empty through a handle.
        headers: names in lower case, and values, as bytes.
    """

    endpoint: str
    shard_key: str | None
    number: int
    http_method: str
    path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]


class Policy(Protocol):
    """A custom traffic policy; ``pointsman.testing.check_traffic_policy`` checks one."""

    def choose(self, call: CallInfo, split: TrafficSplit, draw: float) -> str:
        """The backend that answers a call.

        It must be a pure function: the same arguments give the same result in every process. It runs for each call on
        the loop that serves requests, so it must be quick and must not wait.

        Args:
            call: the call.
            split: ``weights`` by backend, and the built-in choices: ``by_weight(draw)``, ``by_key(key)``.
            draw: random, uniform in [0, 1).

        Returns:
            One of the backends in ``split.weights``.
        """
