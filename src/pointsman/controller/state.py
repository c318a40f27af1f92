"""The controller's state: all that is wanted, as one immutable value. Pure, as is everything that makes a new one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeVar

from pointsman.exceptions import InsufficientResourcesError
from pointsman.model import (
    Allocation,
    BackendSpec,
    Capacity,
    EndpointSpec,
    Pins,
    Resources,
    Struct,
    TrafficHistory,
)

SHOWN_NAMES = 5
"""Of those that exist, in the error about one that does not."""

V = TypeVar("V")


class Fallback(Struct, frozen=True):
    """What to go back to when a change of a backend does not come up.

    Attributes:
        spec: the last specification that worked; None when the backend is new.
        endpoint: the endpoint that a deploy made or changed together with the backend.
        before: that endpoint as it was; None when the deploy made it.
    """

    spec: BackendSpec | None
    endpoint: str | None = None
    before: EndpointSpec | None = None


class Desired(Struct, frozen=True):
    """All that is wanted. ``version`` grows with every change; ``pins`` and ``histories`` are by endpoint."""

    version: int = 0
    backends: dict[str, BackendSpec] = {}
    endpoints: dict[str, EndpointSpec] = {}
    fallbacks: dict[str, Fallback] = {}
    pins: dict[str, Pins] = {}
    histories: dict[str, TrafficHistory] = {}


class FreeCapacity(Struct, frozen=True):
    """What a change may use: the node's capacity, and what replicas hold now, by backend."""

    capacity: Capacity
    held: dict[str, tuple[Allocation, ...]] = {}


class NoCapacityError(InsufficientResourcesError):
    """The error that users see, with what would have to be there: resources of one replica, and how many of them."""

    def __init__(self, message: str, resources: Resources, count: int) -> None:
        super().__init__(message)
        self.resources = resources
        self.count = count


def find_backend(state: Desired, tag: str) -> BackendSpec:
    """The backend of that tag.

    Raises:
        ValueError: there is none.
    """
    spec = state.backends.get(tag)
    if spec is None:
        raise ValueError(f"backend {tag!r} does not exist{_nearest(tag, state.backends)}")
    return spec


def find_endpoint(state: Desired, name: str) -> EndpointSpec:
    """The endpoint of that name.

    Raises:
        ValueError: there is none.
    """
    endpoint = state.endpoints.get(name)
    if endpoint is None:
        raise ValueError(f"endpoint {name!r} does not exist{_nearest(name, state.endpoints)}")
    return endpoint


def check_usable(state: Desired, tag: str) -> None:
    """Refuse backends that may yet vanish: nothing but their own deploy may lean on them.

    Raises:
        ValueError: the backend does not exist, or has not come up yet.
    """
    find_backend(state, tag)
    if tag in state.fallbacks and state.fallbacks[tag].spec is None:
        raise ValueError(f"backend {tag!r} is still starting for the first time; use it once its create call returned")


def without(mapping: dict[str, V], key: str) -> dict[str, V]:
    """The mapping less one key, which need not be there."""
    return {name: value for name, value in mapping.items() if name != key}


def _nearest(name: str, known: Iterable[str]) -> str:
    """What may have been meant, or else what there is."""
    names = sorted(known)
    matches = difflib.get_close_matches(name, names, n=1)
    if matches:
        return f"; did you mean {matches[0]!r}?"
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return f"; existing: {', '.join(map(repr, names[:SHOWN_NAMES]))}{more}" if names else "; there is none yet"
