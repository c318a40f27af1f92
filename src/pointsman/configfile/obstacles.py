"""Why the controller would refuse a plan although no field conflicts: routes and backends that others use. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pointsman.configfile.plan import Outcome
from pointsman.configfile.tree import Keys
from pointsman.model import ASGI, PLAIN, EndpointSpec
from pointsman.policy.routes import matches_same_paths, prefix_of
from pointsman.wire.apply import Declared, WantedEndpoint, declared_endpoint


class Obstacle(NamedTuple):
    """What keeps a plan from being carried out.

    Attributes:
        keys: of the value in the file that is at fault, if there is one.
        text: one sentence.
    """

    keys: Keys
    text: str


def obstacles(outcome: Outcome, declared: Declared) -> list[Obstacle]:
    """What the controller would refuse the plan for, in the state that it was made for."""
    plan = outcome.plan
    there = {name: declared_endpoint(spec, declared.pins.get(name)) for name, spec in declared.endpoints.items()}
    after = {name: endpoint for name, endpoint in there.items() if name not in plan.delete_endpoints}
    after.update(plan.endpoints)
    surfaces = {tag: spec.traits.surface for tag, spec in declared.backends.items()}
    surfaces.update({tag: backend.traits.surface for tag, backend in plan.backends.items()})
    return [*_of_routes(plan.endpoints, declared.endpoints, after, surfaces), *_of_deletes(outcome, after)]


def _of_routes(
    planned: Mapping[str, WantedEndpoint],
    there: Mapping[str, EndpointSpec],
    after: Mapping[str, WantedEndpoint],
    surfaces: Mapping[str, str],
) -> Iterator[Obstacle]:
    """Routes that are new and taken. All are compared as they will be, since two may change places."""
    for name, endpoint in planned.items():
        before = there.get(name)
        if endpoint.route is None or (before is not None and before.route == endpoint.route):
            continue
        for other, one in after.items():
            if other != name and one.route is not None and _is_same(endpoint, one, surfaces):
                text = f"route {endpoint.route!r} of endpoint {name!r} is taken by endpoint {other!r}"
                whose = "" if other in planned else ", which is not in this file"
                yield Obstacle(("endpoints", name, "route"), f"{text}{whose}; give it another")
                break


def _is_same(one: WantedEndpoint, other: WantedEndpoint, surfaces: Mapping[str, str]) -> bool:
    assert one.route is not None
    assert other.route is not None
    if matches_same_paths(one.route, other.route):
        return True
    if any(_surface(endpoint, surfaces) != ASGI or "{" in (endpoint.route or "") for endpoint in (one, other)):
        return False
    return prefix_of(one.route) == prefix_of(other.route)


def _surface(endpoint: WantedEndpoint, surfaces: Mapping[str, str]) -> str:
    return next((surfaces[tag] for tag in endpoint.weights if tag in surfaces), PLAIN)


def _of_deletes(outcome: Outcome, after: Mapping[str, WantedEndpoint]) -> Iterator[Obstacle]:
    """Backends that have gone from the file and that endpoints use on."""
    for tag in outcome.plan.delete_backends:
        for name, endpoint in sorted(after.items()):
            if tag in (*endpoint.weights, *endpoint.shadows, *endpoint.pins.values()):
                text = f"backend {tag!r} has gone from this file and cannot be deleted: endpoint {name!r} uses it"
                yield Obstacle(("endpoints", name), f"{text} in its traffic, shadows or pins")
