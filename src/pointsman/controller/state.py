"""The desired state of an instance as one immutable value. Pure, like the functions that derive a new one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from pointsman.exceptions import InsufficientResourcesError
from pointsman.model import (
    ASGI,
    PLAIN,
    Allocation,
    BackendSpec,
    Capacity,
    ChangeRecord,
    EndpointSpec,
    Pins,
    Resources,
    Struct,
    TrafficHistory,
)
from pointsman.wire.apply import RUNNING, Marks, Plan

#: How many existing names the error about an unknown one lists.
SHOWN_NAMES = 5

V = TypeVar("V")


class Fallback(Struct, frozen=True):
    """What a backend's unfinished change is rolled back to.

    Attributes:
        spec: the last specification that worked; None if the backend is new.
        endpoint: the endpoint that a deploy created or changed together with the backend.
        before: that endpoint before the deploy; None if the deploy created it.
        marks: those of the backend before the change.
    """

    spec: BackendSpec | None
    endpoint: str | None = None
    before: EndpointSpec | None = None
    marks: Marks = Marks()


class Before(Struct, frozen=True):
    """A backend before an apply: None, if there was none, and its fallback, if a change of it had not come up yet."""

    spec: BackendSpec | None
    fallback: Fallback | None = None


class Operation(Struct, frozen=True):
    """An apply of a configuration file, by the id of its command: it runs, or has ended.

    Attributes:
        owner: ``name`` of the file.
        by: who sent it.
        began: ISO 8601 in UTC.
        version: of the state that began it; of the one that it ended in, once it has.
        plan: what is left to do when the backends are up; none of them is in it any more.
        replicas: how many replicas each of the backends has in the end: a smaller number is for the end.
        backends: what it changes, as it was.
        endpoints: the same of endpoints; None for one that it creates.
        pins: the same of their pins.
        tags: the backends that it changes or deletes; kept when it has ended.
        state: ``running``, ``done`` or ``taken back``.
        object: what failed, such as ``backend/ranker``; empty if nothing did.
        text: why, in one sentence.
        traceback: of user code, if that raised.
    """

    id: str
    owner: str
    by: str
    began: str
    version: int
    plan: Plan = Plan()
    replicas: dict[str, int] = {}
    backends: dict[str, Before] = {}
    endpoints: dict[str, EndpointSpec | None] = {}
    pins: dict[str, Pins] = {}
    tags: tuple[str, ...] = ()
    state: str = RUNNING
    object: str = ""
    text: str = ""
    traceback: str = ""


class CameUp(Struct, frozen=True):
    """Says that an instance has come up; it is kept under the instance's id, which is new at each start."""


class Desired(Struct, frozen=True):
    """The desired state. ``version`` grows with every change.

    Attributes:
        fallbacks: by backend.
        pins: by endpoint.
        histories: of traffic policies, by endpoint.
        changes: by keys that grow; see :mod:`pointsman.controller.history`.
        marks: who has set each field, by object, such as ``backend/ranker`` or ``endpoint/rank``.
        operations: by id: the apply that runs, and those that ended last.
        came_up: by the id of the instance; empty until it has come up.
    """

    version: int = 0
    backends: dict[str, BackendSpec] = {}
    endpoints: dict[str, EndpointSpec] = {}
    fallbacks: dict[str, Fallback] = {}
    pins: dict[str, Pins] = {}
    histories: dict[str, TrafficHistory] = {}
    changes: dict[str, ChangeRecord] = {}
    marks: dict[str, Marks] = {}
    operations: dict[str, Operation] = {}
    came_up: dict[str, CameUp] = {}

    @property
    def running(self) -> Operation | None:
        """The apply that runs; None if none does."""
        return next((one for one in self.operations.values() if one.state == RUNNING), None)

    def codes(self) -> set[str]:
        """Digests of all code that the state refers to."""
        fallbacks = [*self.fallbacks.values()]
        for operation in self.operations.values():  # what a backend was is its fallback; what that was is here
            fallbacks += [before.fallback for before in operation.backends.values() if before.fallback]
        specs = [*self.backends.values(), *(fallback.spec for fallback in fallbacks if fallback.spec is not None)]
        return {spec.code for spec in specs}


def of_this_start(desired: Desired, instance: str) -> Desired:
    """The stored state without what earlier starts have recorded."""
    return desired if instance in desired.came_up else msgspec.structs.replace(desired, came_up={})


class FreeCapacity(Struct, frozen=True):
    """The capacity of the nodes, and what replicas hold of it now, by backend: a change may use the difference."""

    capacity: Capacity
    held: dict[str, tuple[Allocation, ...]] = {}


class NoCapacityError(InsufficientResourcesError):
    """Says what is missing: the resources of one replica, and the number of replicas. Users see the base class."""

    def __init__(self, message: str, resources: Resources, count: int) -> None:
        super().__init__(message)
        self.resources = resources
        self.count = count


def find_backend(state: Desired, tag: str) -> BackendSpec:
    """The specification of a backend.

    Raises:
        ValueError: the backend does not exist.
    """
    spec = state.backends.get(tag)
    if spec is None:
        raise ValueError(f"backend {tag!r} does not exist{_nearest(tag, state.backends)}")
    return spec


def find_endpoint(state: Desired, name: str) -> EndpointSpec:
    """The specification of an endpoint.

    Raises:
        ValueError: the endpoint does not exist.
    """
    endpoint = state.endpoints.get(name)
    if endpoint is None:
        raise ValueError(f"endpoint {name!r} does not exist{_nearest(name, state.endpoints)}")
    return endpoint


def check_usable(state: Desired, tag: str) -> None:
    """Check that traffic may be sent to a backend.

    Raises:
        ValueError: the backend does not exist, or its first deployment may still be rolled back.
    """
    find_backend(state, tag)
    if tag in state.fallbacks and state.fallbacks[tag].spec is None:
        raise ValueError(f"backend {tag!r} is still starting for the first time; use it once its create call returned")


def check_surface(state: Desired, endpoint: EndpointSpec, tag: str) -> None:
    """Check that a backend takes the same calls as the others of an endpoint.

    Raises:
        ValueError: it does not.
    """
    surface = find_backend(state, tag).traits.surface
    if surface != endpoint.surface:
        raise ValueError(
            f"backend {tag!r} is {_SURFACES[surface]}, and endpoint {endpoint.name!r} has backends that are"
            f" {_SURFACES[endpoint.surface]}; all backends and shadows of an endpoint must be of one kind"
        )


_SURFACES = {PLAIN: "called with requests", ASGI: "an ASGI app"}


def without(mapping: dict[str, V], key: str) -> dict[str, V]:
    """A copy of the mapping without one key, which may be missing."""
    return {name: value for name, value in mapping.items() if name != key}


def _nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the closest existing name, or the existing names."""
    names = sorted(known)
    matches = difflib.get_close_matches(name, names, n=1)
    if matches:
        return f"; did you mean {matches[0]!r}?"
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return f"; existing: {', '.join(map(repr, names[:SHOWN_NAMES]))}{more}" if names else "; there is none yet"
