"""A traffic policy made ready for choosing: by weight, or by shard key. Pure: the random number is an argument."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from types import MappingProxyType
from typing import NamedTuple, Protocol

from pointsman.model import TrafficPolicy
from pointsman.policy.rendezvous import Rendezvous


class TrafficSplit:
    """Weights and shard keys of one endpoint.

    Args:
        endpoint: its name.
        policy: weights that sum to 1, at least one of them above 0.

    The choice looks at weights only: a backend that is down does not hand its share to the others. One of weight 0 is
    never chosen.
    """

    __slots__ = ("_bounds", "_last", "_rendezvous", "endpoint", "version", "weights")

    def __init__(self, endpoint: str, policy: TrafficPolicy) -> None:
        self.endpoint = endpoint
        self.version = policy.version
        self.weights: Mapping[str, float] = MappingProxyType(policy.weights)
        shares = [(tag, weight) for tag, weight in sorted(policy.weights.items()) if weight > 0]
        bounds = accumulate(weight for _, weight in shares)
        # The sum of floats may end just below 1: the last backend takes what is left.
        self._last = shares[-1][0]
        self._bounds = tuple(zip(bounds, (tag for tag, _ in shares), strict=True))[:-1]
        self._rendezvous = Rendezvous(endpoint, policy.weights)

    @property
    def draws(self) -> bool:
        """Whether there is a choice: more than one backend has a weight above 0."""
        return bool(self._bounds)

    def by_weight(self, draw: float) -> str:
        """The backend for a ``draw`` that is uniform in [0, 1), by inversion of the cumulative weights."""
        for bound, tag in self._bounds:
            if draw < bound:
                return tag
        return self._last

    def by_key(self, shard_key: str) -> str:
        """The backend that a shard key belongs to, by weighted rendezvous hashing."""
        return self._rendezvous.owner(shard_key) if self._bounds else self._last

    def numbers(self, shard_key: str) -> dict[str, float]:
        """What each backend draws for a key; the smallest wins."""
        return self._rendezvous.numbers(shard_key)


class CallInfo(NamedTuple):
    """What a policy may know of a call.

    Attributes:
        endpoint: name.
        shard_key: None when the call has none; such calls need not stay with a backend.
        number: how many calls this router has asked the policy about before, since the endpoint last changed.
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
    """A way to choose of the user's own; ``pointsman.testing.check_traffic_policy`` checks one."""

    def choose(self, call: CallInfo, split: TrafficSplit, draw: float) -> str:
        """The backend that answers a call.

        A pure function: the same arguments give the same answer, in every process. It runs for each call on the loop
        that serves requests, so it must be quick and must not wait for anything.

        Args:
            call: what is known of it.
            split: ``weights`` by backend, and the built-in ways to choose: ``by_weight(draw)``, ``by_key(key)``.
            draw: random, uniform in [0, 1).

        Returns:
            One of the backends in ``split.weights``.
        """
