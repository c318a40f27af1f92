"""Changes of desired state. Pure: a state and a command in, a new state or an error out.

All validation that depends on existing backends and endpoints is here. A change that needs new replicas or a new
``user_config`` leaves a *fallback*: the last specification that is known to work. The controller removes it when the
change is complete, and rolls back to it when the change fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from pointsman.controller import backends
from pointsman.controller import endpoints as traffic
from pointsman.controller.history import CONTROLLER, recorded
from pointsman.controller.scaling.following import with_specs
from pointsman.controller.state import Desired, FreeCapacity, check_usable, without
from pointsman.limits import MAX_BODY
from pointsman.model import (
    ALL_METHODS,
    ASGI,
    DEFAULT_SHARD_KEY,
    PLAIN,
    Capacity,
    EndpointSpec,
    TrafficPolicy,
)
from pointsman.policy.routes import matches_same_paths, parse_route, prefix_of
from pointsman.wire.commands import (
    BackendChange,
    Change,
    CreateBackend,
    CreateEndpoint,
    DeleteBackend,
    DeleteEndpoint,
    Deploy,
    ObjectChange,
    ReplaceBackend,
    UpdateBackendConfig,
    backend_of,
)

ENDPOINT_METHODS, DEPLOY_METHODS = ("GET",), ("GET", "POST")


def apply(state: Desired, command: ObjectChange, free: FreeCapacity, now: str = "") -> tuple[Desired, str]:
    """Carry out a command.

    Args:
        free: what replicas may use.
        now: time of day, for the history.

    Returns:
        The new state, and a warning for the caller (empty if there is none). The state is the same object if nothing
        had to change.

    Raises:
        ValueError, InsufficientResourcesError: the command cannot be carried out; nothing has changed.
    """
    new, note = _carry_out(state, command, free, now)
    return (state if new is state else recorded(state, new, by=command.by, now=now)), note


def _carry_out(state: Desired, command: ObjectChange, free: FreeCapacity, now: str) -> tuple[Desired, str]:
    if isinstance(command, CreateBackend):
        return backends.create(state, command, free, now), ""
    if isinstance(command, UpdateBackendConfig):
        return backends.update_config(state, command, free, now), ""
    if isinstance(command, ReplaceBackend):
        return backends.replace(state, command, free, now), ""
    if isinstance(command, DeleteBackend):
        return backends.delete(state, command)
    if isinstance(command, CreateEndpoint):
        return _create_endpoint(state, command, now), ""
    if isinstance(command, DeleteEndpoint):
        return _delete_endpoint(state, command)
    if isinstance(command, Deploy):
        return _deploy(state, command, free, now), ""
    return traffic.apply(state, command, now)


def confirm(state: Desired, tag: str) -> Desired:
    """The state after a backend's last change has completed: without its fallback."""
    return msgspec.structs.replace(state, fallbacks=without(state.fallbacks, tag))


def revert(state: Desired, tag: str, now: str = "") -> Desired:
    """The state after a backend's last change has failed: its fallback is restored, or a new backend removed."""
    failed, fallback = state, state.fallbacks[tag]
    version = state.version + 1
    if fallback.endpoint is not None:
        if fallback.before is None:
            state = traffic.without_endpoint(state, fallback.endpoint)
        else:
            # The policy stays: traffic may have been changed since the deploy, on purpose.
            policy = state.endpoints[fallback.endpoint].policy
            before = msgspec.structs.replace(fallback.before, policy=policy)
            state = msgspec.structs.replace(state, endpoints={**state.endpoints, fallback.endpoint: before})
    # A new config version, so that replicas that have applied the failed configuration are sent the old one.
    spec = msgspec.structs.replace(fallback.spec, config_version=version) if fallback.spec is not None else None
    new = msgspec.structs.replace(state, version=version, fallbacks=without(state.fallbacks, tag))
    new = with_specs(new, {tag: spec}, now=now)
    return recorded(failed, new, by=CONTROLLER, now=now, because="taken back")


# --- endpoints ------------------------------------------------------------------------------------------------


def _create_endpoint(state: Desired, command: CreateEndpoint, now: str) -> Desired:
    old = state.endpoints.get(command.name)
    surface = state.backends[command.backend].traits.surface if command.backend in state.backends else PLAIN
    methods = methods_of(surface, command.methods, ENDPOINT_METHODS)
    if old is not None and old.route == command.route and old.methods == methods:
        raise ValueError(f"endpoint {command.name!r} exists already, with the same route and methods")
    check_usable(state, command.backend)
    check_route(routed(state), command.name, command.route, surface)
    if old is not None:
        raise ValueError(
            f"endpoint {command.name!r} exists already, with route {old.route!r} and methods {old.methods}"
        )
    endpoint = EndpointSpec(
        name=command.name,
        route=command.route,
        methods=methods,
        policy=TrafficPolicy(state.version + 1, {command.backend: 1.0}),
        idempotent=command.idempotent,
        shard_key=command.shard_key,
        request_timeout_s=command.request_timeout_s,
        surface=surface,
        max_body_bytes=max_body_of(command.max_body_bytes, surface),
    )
    return traffic.with_endpoint(state, endpoint, now=now, change="created", by=command.by)


def _delete_endpoint(state: Desired, command: DeleteEndpoint) -> tuple[Desired, str]:
    if command.name not in state.endpoints:
        return state, f"endpoint {command.name!r} does not exist, so there is nothing to delete"
    fallbacks = {
        tag: msgspec.structs.replace(f, endpoint=None, before=None) if f.endpoint == command.name else f
        for tag, f in state.fallbacks.items()
    }
    state = traffic.without_endpoint(state, command.name)
    return msgspec.structs.replace(state, version=state.version + 1, fallbacks=fallbacks), ""


def routed(state: Desired) -> list[EndpointSpec]:
    """Endpoints whose routes are taken: the existing ones, and those that a rollback would restore."""
    return [*state.endpoints.values(), *(f.before for f in state.fallbacks.values() if f.before is not None)]


def methods_of(surface: str, given: Sequence[str] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    """The HTTP methods of an endpoint. An app decides itself about those."""
    if surface == PLAIN:
        return tuple(given or default)
    if given:
        raise ValueError(
            f"methods {list(given)} were given for an ASGI app, which gets requests of all methods; leave them out"
        )
    return (ALL_METHODS,)


def max_body_of(size: float | None, surface: str) -> float | None:
    """The largest body of an endpoint. That of a backend which is no app travels as one message."""
    if size is not None and surface == PLAIN and size > MAX_BODY:
        raise ValueError(f"max_body_bytes {size} is over {MAX_BODY}, and only ASGI apps take larger bodies")
    return size


def check_route(endpoints: Iterable[EndpointSpec], name: str, route: str | None, surface: str) -> None:
    if route is None:
        return
    parse_route(route)  # raises if it is malformed
    prefix = prefix_of(route) if surface == ASGI else None
    for other in endpoints:
        if other.route is None or other.name == name:
            continue
        same_prefix = prefix is not None and other.surface == ASGI and prefix_of(other.route) == prefix
        if same_prefix or matches_same_paths(route, other.route):
            raise ValueError(f"route {route!r} is taken by endpoint {other.name!r} (its route: {other.route!r})")


# --- deploy ---------------------------------------------------------------------------------------------------


def _deploy(state: Desired, command: Deploy, free: FreeCapacity, now: str) -> Desired:
    name = command.name
    backend, endpoint = state.backends.get(name), state.endpoints.get(name)
    surface = command.traits.surface
    backends.check_kind(backend, surface)
    if endpoint is not None and name not in endpoint.policy.weights:
        raise ValueError(f"endpoint {name!r} exists and does not use a backend {name!r}; deploy under another name")
    if endpoint is None:
        methods = methods_of(surface, command.methods, DEPLOY_METHODS)
        policy = TrafficPolicy(state.version + 1, {name: 1.0})
        new_endpoint = EndpointSpec(
            name,
            command.route,
            methods,
            policy,
            bool(command.idempotent),
            command.shard_key or DEFAULT_SHARD_KEY,
            command.request_timeout_s,
            surface,
            max_body_of(command.max_body_bytes, surface),
        )
    else:
        new_endpoint = msgspec.structs.replace(
            endpoint,
            route=command.route or endpoint.route,
            methods=methods_of(surface, command.methods, endpoint.methods),
            idempotent=endpoint.idempotent if command.idempotent is None else command.idempotent,
            shard_key=command.shard_key or endpoint.shard_key,
            request_timeout_s=command.request_timeout_s or endpoint.request_timeout_s,
            max_body_bytes=endpoint.max_body_bytes
            if command.max_body_bytes is None
            else max_body_of(command.max_body_bytes, surface),
        )
    check_route(routed(state), name, new_endpoint.route, surface)
    spec = backends.revised(state, name, command, now)
    if spec is backend and new_endpoint == endpoint:
        return state
    version = state.version + 1
    if spec is backend:
        fallbacks = backends.with_endpoint_of(state.fallbacks, name, name, endpoint)
        state = msgspec.structs.replace(state, fallbacks=fallbacks)
    else:
        state = backends.with_backend(state, spec, free, now=now, endpoint=name, before=endpoint)
    state = traffic.with_endpoint(state, new_endpoint, now=now, change="deployed", by=command.by)
    return msgspec.structs.replace(state, version=version)


def version_of(old: Desired, new: Desired, command: Change) -> int:
    """The version whose fate a command's sender waits for.

    Where nothing is new about a backend, that is the version of its last change, which may be another sender's and may
    still fail.
    """
    if new is old and isinstance(command, BackendChange):
        return old.backends[backend_of(command)].config_version
    return new.version


def cpu_warning(desired: Desired, capacity: Capacity, machine_cpus: int) -> str:
    """A warning if replicas need more CPUs than the machine has and CPUs are not reserved; empty otherwise."""
    asked = sum(desired.wanted(tag) * spec.resources.num_cpus for tag, spec in desired.backends.items())
    if capacity.num_cpus is not None or asked <= machine_cpus:
        return ""
    return (
        f"replicas ask for {asked:g} CPUs and this machine has {machine_cpus}: they share them (num_cpus=N is strict)"
    )
