"""The desired state of an instance as one immutable value. Pure, like the functions that derive a new one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, TypeVar

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
    Scale,
    Struct,
    TrafficHistory,
)
from pointsman.model.evidence import MetricTally, PairTally, Tally
from pointsman.model.rollout import ENDED, RolloutPlan
from pointsman.model.rollout import RUNNING as ROLLING
from pointsman.model.tokens import Token
from pointsman.wire.apply import RUNNING, Marks, Plan

#: How many existing names the error about an unknown one lists.
SHOWN_NAMES = 5
#: The largest number of an autoscaled backend's replicas on a cluster, where its configuration gives none.
DEFAULT_MAX = 100

V = TypeVar("V")


class Fallback(Struct, frozen=True):
    """What a backend's unfinished change is rolled back to.

    Attributes:
        spec: the last specification that worked; None if the backend is new.
        endpoint: the endpoint that a deploy created or changed together with the backend.
        before: that endpoint before the deploy; None if the deploy created it.
        marks: those of the backend before the change.
        replicas: so many have to come up; None for as many as are wanted, which autoscaling may change meanwhile.
    """

    spec: BackendSpec | None
    endpoint: str | None = None
    before: EndpointSpec | None = None
    marks: Marks = Marks()
    replicas: int | None = None


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


class Arms(Struct, frozen=True):
    """What was counted of both arms of a rollout: of its backend, and of all others together."""

    baseline: Tally = Tally()
    canary: Tally = Tally()

    def plus(self, other: Arms) -> Arms:
        """The two together."""
        return Arms(self.baseline.plus(other.baseline), self.canary.plus(other.canary))


class Means(Struct, frozen=True):
    """The same of one metric of user code."""

    baseline: MetricTally = MetricTally()
    canary: MetricTally = MetricTally()

    def plus(self, other: Means) -> Means:
        """The two together."""
        return Means(self.baseline.plus(other.baseline), self.canary.plus(other.canary))


class Pairs(Struct, frozen=True):
    """Answers that were compared: of the shadow with the endpoint's own backend, and of that with itself."""

    compared: PairTally = PairTally()
    noise: PairTally = PairTally()

    def plus(self, other: Pairs) -> Pairs:
        """The two together."""
        return Pairs(self.compared.plus(other.compared), self.noise.plus(other.noise))

    def since(self, earlier: Pairs) -> Pairs:
        """What has come after an earlier state of the same."""
        return Pairs(self.compared.since(earlier.compared), self.noise.since(earlier.noise))


class Counted(Struct, frozen=True):
    """What of the evidence a rollout was judged by already, so that nothing counts twice.

    Attributes:
        calls: by version of the policy, and backend.
        pairs: by the comparison that they are of.
        metrics: by name, and backend.
    """

    calls: dict[int, dict[str, Tally]] = {}
    pairs: dict[str, Pairs] = {}
    metrics: dict[str, dict[str, MetricTally]] = {}


class Rollout(Struct, frozen=True):
    """A rollout, and what of the evidence it was judged by.

    Attributes:
        plan: with all options of its gates.
        former: the weights before it.
        former_policy: version of the traffic policy that it began with; 0 once that was about other code.
        policies: versions of its traffic policies whose calls count, oldest first; the last one is in force.
        codes: version of each backend's code, by tag.
        state: see :class:`~pointsman.model.rollout.RolloutView`, as for all that is not here.
        samples: requests of the baseline and of the canary in this step.
        gates: state of each gate, by name; empty before the first evidence.
        counted: None before the first evidence.
        instance: the id of the instance that this was counted in; another start of it counts from 0.
        totals, pairs, metrics: all that counts so far.
        known: requests and errors of the baseline under the former policy.
        forgets: whether the evidence is about other code, and is forgotten when the rollout goes on.
    """

    id: int
    plan: RolloutPlan
    former: dict[str, float]
    policies: tuple[int, ...]
    codes: dict[str, int]
    by: str
    began: str
    state: str = ROLLING
    step: int = 0
    held_s: float = 0.0
    samples: tuple[int, int] = (0, 0)
    exposed: int = 0
    gates: dict[str, dict[str, Any]] = {}
    counted: Counted | None = None
    instance: str = ""
    totals: Arms = Arms()
    pairs: Pairs = Pairs()
    metrics: dict[str, Means] = {}
    known: Tally = Tally()
    former_policy: int = 0
    forgets: bool = False
    reason: str = ""
    ended: str = ""

    @property
    def is_live(self) -> bool:
        """Whether it has not ended."""
        return self.state not in ENDED

    @property
    def weight(self) -> float:
        """The share of its step."""
        return self.plan.steps[self.step]

    @property
    def baseline(self) -> Tally:
        """What was counted of the baseline in all steps; if it never had a request in them, before the first one."""
        return self.totals.baseline if self.totals.baseline.requests else self.known


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
        rollouts: by id: those that run, and those that ended last.
        scales: by backend: of those whose number of replicas is not just what their configuration says.
        tokens: by name: who may use the console.
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
    rollouts: dict[str, Rollout] = {}
    scales: dict[str, Scale] = {}
    tokens: dict[str, Token] = {}

    def wanted(self, tag: str) -> int:
        """How many replicas a backend shall have now. A new version of one that has none is tried by one."""
        config, scale = self.backends[tag].config, self.scales.get(tag)
        number = config.num_replicas
        if scale is not None and scale.unloaded:
            number = 0
        elif config.autoscaling is not None:
            number = scale.wanted if scale is not None else config.autoscaling.first_replicas
        return number or int(self.tries(tag))

    def tries(self, tag: str) -> bool:
        """Whether code of a backend that wants no replicas has to come up once: a new version beside an earlier one, or
        what was unloaded before it had ever run."""
        fallback = self.fallbacks.get(tag)
        if fallback is None:
            return False
        if fallback.spec is None:
            return tag in self.scales and self.scales[tag].unloaded
        return fallback.spec.version != self.backends[tag].version

    def is_scaled(self, tag: str) -> bool:
        """Whether something else than a backend's ``num_replicas`` says how many replicas it shall have."""
        scale = self.scales.get(tag)
        return self.backends[tag].config.autoscaling is not None or (scale is not None and scale.unloaded)

    def needed(self, tag: str) -> int:
        """How many replicas have to come up until a backend's last change is complete."""
        fallback, wanted = self.fallbacks.get(tag), self.wanted(tag)
        return wanted if fallback is None or fallback.replicas is None else min(fallback.replicas, wanted)

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
    """The stored state without what earlier starts have recorded. What routers count begins anew with each start."""
    rollouts = {
        name: msgspec.structs.replace(one, counted=Counted()) if one.counted and one.instance != instance else one
        for name, one in desired.rollouts.items()
    }
    came_up = desired.came_up if instance in desired.came_up else {}
    return msgspec.structs.replace(desired, came_up=came_up, rollouts=rollouts)


class FreeCapacity(Struct, frozen=True):
    """The capacity of the nodes, and what replicas hold of it now, by backend: a change may use the difference.

    Attributes:
        default_max: the largest number of an autoscaled backend's replicas where its configuration gives none.
        idle: backends that may be unloaded for others.
    """

    capacity: Capacity
    held: dict[str, tuple[Allocation, ...]] = {}
    default_max: int = DEFAULT_MAX
    idle: frozenset[str] = frozenset()


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


def rollout_of(state: Desired, endpoint: str) -> Rollout | None:
    """The newest rollout of an endpoint that is known."""
    mine = [one for one in state.rollouts.values() if one.plan.endpoint == endpoint]
    return max(mine, key=lambda one: one.id, default=None)


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
