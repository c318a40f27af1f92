"""What an apply of a configuration file does once its backends have come up: all the rest, in one version. Pure.

Part of ``applying``. It is done twice: when the apply begins, to find what cannot be done before anything is; and at
the end, on the state of that time.
"""

from __future__ import annotations

import msgspec

from pointsman.arguments import check_object_name
from pointsman.controller import endpoints as traffic
from pointsman.controller.desired import ENDPOINT_METHODS, check_route, max_body_of, methods_of, routed
from pointsman.controller.history import recorded
from pointsman.controller.marks import claimed, fields_of, marked
from pointsman.controller.scaling.following import with_specs
from pointsman.controller.state import Desired, Fallback, Operation, check_usable, find_backend, find_endpoint, without
from pointsman.model import ALL_METHODS, DEFAULT_SHARD_KEY, EndpointSpec, Pins, TrafficPolicy
from pointsman.policy.shardkey import MAX_PINS
from pointsman.policy.traffic import normalised
from pointsman.wire.apply import WantedEndpoint


def finished(state: Desired, operation: Operation, now: str) -> Desired:
    """The state after an apply, under one new version; the same object if there is nothing left to do.

    Args:
        state: has the operation's backends.
        now: ISO 8601 in UTC.

    Raises:
        ValueError: it cannot be done; nothing has changed.
    """
    plan, version = operation.plan, state.version + 1
    new = _with_numbers(state, operation)
    for name in plan.delete_endpoints:
        find_endpoint(new, name)
        new = traffic.without_endpoint(new, name)
    for name, wanted in plan.endpoints.items():
        new = _with_endpoint(new, name, wanted, operation, version, now)
    _check_routes(state, new, operation)
    for tag in plan.delete_backends:
        find_backend(new, tag)
        if users := traffic.users_of(new, tag):
            raise ValueError(f"backend {tag!r} cannot be deleted: it is in use by endpoint {', '.join(users)}")
        new = with_specs(new, {tag: None})
    new = msgspec.structs.replace(new, version=version, fallbacks=_fallbacks(new, operation))
    by, owner = operation.by, operation.owner
    new = recorded(state, new, by=by, now=now, owner=owner)  # that backends have changed is recorded already
    new = marked(before(state, operation), new, by=by, now=now, owner=owner)
    if unknown := [name for name in plan.claims if fields_of(new, name) is None]:
        raise ValueError(f"the plan has fields of {unknown[0]}, which does not exist")
    new = claimed(new, plan.claims, owner=owner, by=by, now=now)
    return state if msgspec.structs.replace(new, version=state.version) == state else new


def before(state: Desired, operation: Operation) -> Desired:
    """The state with the backends as they were before the operation; the rest is as it is."""
    backends = {tag: spec for tag, spec in state.backends.items() if tag not in operation.backends}
    old = {tag: was.spec for tag, was in operation.backends.items() if was.spec is not None}
    return msgspec.structs.replace(state, backends={**backends, **old})


def _with_numbers(state: Desired, operation: Operation) -> Desired:
    """The state in which backends that are to have fewer replicas have them."""
    specs = {}
    for tag, number in operation.replicas.items():
        spec = find_backend(state, tag)
        if spec.config.num_replicas != number:
            config = msgspec.structs.replace(spec.config, num_replicas=number)
            specs[tag] = msgspec.structs.replace(spec, config=config)  # replicas are sent nothing
    return with_specs(state, specs)


def _with_endpoint(
    state: Desired, name: str, wanted: WantedEndpoint, operation: Operation, version: int, now: str
) -> Desired:
    old = state.endpoints.get(name)
    surface = _check_backends(state, name, wanted, operation)
    compared = old.policy.compared if old is not None else {}  # a file does not say it, so it stays
    policy = TrafficPolicy(
        version=version,
        weights=normalised(wanted.weights),
        shadows={tag: share for tag, share in wanted.shadows.items() if share},
        custom=wanted.custom,
        compared={tag: how for tag, how in compared.items() if wanted.shadows.get(tag)},
    )
    methods = () if wanted.methods == (ALL_METHODS,) else wanted.methods
    endpoint = EndpointSpec(
        name=name,
        route=wanted.route,
        methods=methods_of(surface, methods, ENDPOINT_METHODS),
        policy=old.policy if old is not None and policy.same_as(old.policy) else policy,
        idempotent=wanted.idempotent,
        shard_key=wanted.shard_key or DEFAULT_SHARD_KEY,
        request_timeout_s=wanted.request_timeout_s,
        surface=surface,
        max_body_bytes=max_body_of(wanted.max_body_bytes, surface),
    )
    if endpoint != old:
        state = traffic.with_endpoint(state, endpoint, now=now, change="applied", by=operation.by)
    if wanted.pins != state.pins.get(name, Pins()).keys:
        if len(wanted.pins) > MAX_PINS:
            raise ValueError(
                f"endpoint {name!r} would have {len(wanted.pins)} pinned shard keys, and may have {MAX_PINS} at most"
            )
        pins = {**state.pins, name: Pins(wanted.pins)} if wanted.pins else without(state.pins, name)
        state = msgspec.structs.replace(state, pins=pins)
    return state


def _check_backends(state: Desired, name: str, wanted: WantedEndpoint, operation: Operation) -> str:
    """Check what an endpoint says of its backends, and return the kind that they are of."""
    check_object_name(name, "endpoint")
    used = dict.fromkeys((*wanted.weights, *wanted.shadows, *wanted.pins.values()))
    surfaces = {}
    for tag in used:
        if tag in operation.backends:  # it has come up by then
            find_backend(state, tag)
        else:
            check_usable(state, tag)
        surfaces[tag] = state.backends[tag].traits.surface
    if len(set(surfaces.values())) > 1:
        raise ValueError(
            f"endpoint {name!r} has backends of two kinds, {surfaces}; backends, shadows and pins must be of one"
        )
    for tag, share in wanted.shadows.items():
        if not 0 <= share <= 1:
            raise ValueError(f"proportion {share!r} of shadow {tag!r} must be between 0 and 1")
    normalised(wanted.weights)  # raises if there are none
    surface = next(iter(surfaces.values()))
    old = state.endpoints.get(name)
    if old is not None and old.surface != surface:
        raise ValueError(
            f"endpoint {name!r} has backends of another kind: either all of them are ASGI apps, before and after, or"
            " none is; give it another name"
        )
    return surface


def _check_routes(old: Desired, new: Desired, operation: Operation) -> None:
    """Check the routes that are new, now that all endpoints are known: two may have changed places."""
    for name in operation.plan.endpoints:
        endpoint, before = new.endpoints[name], old.endpoints.get(name)
        if before is None or before.route != endpoint.route:
            check_route(routed(new), name, endpoint.route, endpoint.surface)


def _fallbacks(state: Desired, operation: Operation) -> dict[str, Fallback]:
    """The fallbacks without those of the operation's backends. A deploy that is still under way takes back nothing of
    an endpoint that the plan has set since."""
    gone = {*operation.backends, *operation.plan.delete_backends}
    return {
        tag: msgspec.structs.replace(f, endpoint=None, before=None) if f.endpoint in operation.endpoints else f
        for tag, f in state.fallbacks.items()
        if tag not in gone
    }
