"""Changes of desired state. Pure: a state and a command in, a new state or an error out.

All validation that depends on existing backends and endpoints is here. A change that needs new replicas or a new
``user_config`` leaves a *fallback*: the last specification that is known to work. The controller removes it when the
change is complete, and rolls back to it when the change fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from pointsman.controller import endpoints as traffic
from pointsman.controller.allocation import CapacityLedger, describe_request
from pointsman.controller.state import (
    Desired,
    Fallback,
    FreeCapacity,
    NoCapacityError,
    check_usable,
    find_backend,
    without,
)
from pointsman.limits import MAX_BODY, MAX_DESCRIPTION, check_size
from pointsman.model import (
    ALL_METHODS,
    ASGI,
    DEFAULT_SHARD_KEY,
    PLAIN,
    BackendConfigSpec,
    BackendSpec,
    Capacity,
    EndpointSpec,
    Resources,
    TargetTraits,
    TrafficPolicy,
)
from pointsman.policy.routes import matches_same_paths, parse_route, prefix_of
from pointsman.wire.commands import (
    Change,
    CreateBackend,
    CreateEndpoint,
    DeleteBackend,
    DeleteEndpoint,
    Deploy,
    UpdateBackendConfig,
)
from pointsman.wire.messages import pack

ENDPOINT_METHODS, DEPLOY_METHODS = ("GET",), ("GET", "POST")


def apply(state: Desired, command: Change, free: FreeCapacity, now: str = "") -> tuple[Desired, str]:
    """Carry out a command.

    Args:
        free: what replicas may use.
        now: time of day, for the history of traffic policies.

    Returns:
        The new state, and a warning for the caller (empty if there is none). The state is the same object if nothing
        had to change.

    Raises:
        ValueError, InsufficientResourcesError: the command cannot be carried out; nothing has changed.
    """
    if isinstance(command, CreateBackend):
        return _create_backend(state, command, free), ""
    if isinstance(command, UpdateBackendConfig):
        return _update_config(state, command, free), ""
    if isinstance(command, DeleteBackend):
        return _delete_backend(state, command)
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


def revert(state: Desired, tag: str) -> Desired:
    """The state after a backend's last change has failed: its fallback is restored, or a new backend removed."""
    fallback = state.fallbacks[tag]
    version = state.version + 1
    backends = state.backends
    if fallback.endpoint is not None:
        if fallback.before is None:
            state = traffic.without_endpoint(state, fallback.endpoint)
        else:
            # The policy stays: traffic may have been changed since the deploy, on purpose.
            policy = state.endpoints[fallback.endpoint].policy
            before = msgspec.structs.replace(fallback.before, policy=policy)
            state = msgspec.structs.replace(state, endpoints={**state.endpoints, fallback.endpoint: before})
    if fallback.spec is None:
        backends = without(backends, tag)
    else:
        # A new config version, so that replicas that have applied the failed configuration are sent the old one.
        backends = {**backends, tag: msgspec.structs.replace(fallback.spec, config_version=version)}
    return msgspec.structs.replace(state, version=version, backends=backends, fallbacks=without(state.fallbacks, tag))


# --- backends -------------------------------------------------------------------------------------------------


def _create_backend(state: Desired, command: CreateBackend, free: FreeCapacity) -> Desired:
    if command.tag in state.backends:
        raise ValueError(
            f"backend {command.tag!r} exists already; delete it first, or use deploy() to replace its code"
        )
    version = state.version + 1
    spec = BackendSpec(
        tag=command.tag,
        version=version,
        config_version=version,
        code=command.code,
        origin=command.origin,
        traits=command.traits,
        config=command.config,
        resources=command.resources,
    )
    return _with_backend(state, spec, free)


def _update_config(state: Desired, command: UpdateBackendConfig, free: FreeCapacity) -> Desired:
    old = find_backend(state, command.tag)
    config = _changed_config(old.config, command.changes, command.user_config)
    if config == old.config:
        return state
    spec = msgspec.structs.replace(old, config=config, config_version=state.version + 1)
    return _with_backend(state, spec, free)


def _delete_backend(state: Desired, command: DeleteBackend) -> tuple[Desired, str]:
    tag = command.tag
    if tag not in state.backends:
        return state, f"backend {tag!r} does not exist, so there is nothing to delete"
    users = traffic.users_of(state, tag)
    if users:
        raise ValueError(
            f"backend {tag!r} is in use by endpoint {', '.join(users)}; take it out of their traffic, shadows and pins"
            " first"
        )
    return (
        msgspec.structs.replace(
            state,
            version=state.version + 1,
            backends=without(state.backends, tag),
            fallbacks=without(state.fallbacks, tag),
        ),
        "",
    )


def _with_backend(
    state: Desired,
    spec: BackendSpec,
    free: FreeCapacity,
    *,
    endpoint: str | None = None,
    before: EndpointSpec | None = None,
) -> Desired:
    """Check a new or changed backend and add it to the state."""
    _check_config(spec.tag, spec.config, spec.traits)
    _check_description(spec)
    old = state.backends.get(spec.tag)
    _check_capacity(state, spec, old, free)
    fallbacks = state.fallbacks
    needs_replicas = (
        old is None
        or spec.version != old.version
        or spec.config.num_replicas > old.config.num_replicas
        or spec.config.user_config != old.config.user_config
    )
    # A second change before the first is complete keeps the first fallback: nothing newer is known to work.
    if needs_replicas and spec.tag not in fallbacks:
        fallbacks = {**fallbacks, spec.tag: Fallback(old, endpoint, before)}
    elif endpoint is not None and fallbacks[spec.tag].endpoint is None:
        there = msgspec.structs.replace(fallbacks[spec.tag], endpoint=endpoint, before=before)
        fallbacks = {**fallbacks, spec.tag: there}
    return msgspec.structs.replace(
        state,
        version=state.version + 1,
        backends={**state.backends, spec.tag: spec},
        fallbacks=fallbacks,
    )


def _changed_config(
    config: BackendConfigSpec, changes: Mapping[str, Any], user_config: bytes | None
) -> BackendConfigSpec:
    values = {**msgspec.structs.asdict(config), **changes}
    if "user_config" in changes:
        values["user_config"] = user_config
    return msgspec.convert(values, BackendConfigSpec)


def _check_config(tag: str, config: BackendConfigSpec, traits: TargetTraits) -> None:
    if (config.max_batch_size or 1) > 1 and not traits.batches and not traits.has_batching_method:
        raise ValueError(
            f"max_batch_size {config.max_batch_size} of backend {tag!r} needs code that takes a list of requests;"
            " mark it with @accept_batch"
        )
    if config.target_latency_ms is not None and config.batch_wait_timeout_s:
        raise ValueError(
            f"backend {tag!r} has both batch_wait_timeout {config.batch_wait_timeout_s:g} and target_latency_ms"
            f" {config.target_latency_ms:g}; set one of them to 0 or None"
        )
    if config.max_surge == 0 and config.max_unavailable == 0:
        raise ValueError(
            f"max_surge and max_unavailable of backend {tag!r} are both 0, so no replica could ever be replaced;"
            " set one of them to at least 1"
        )
    if config.user_config is not None and not traits.has_reconfigure:
        raise ValueError(f"user_config was given for backend {tag!r}, whose code has no reconfigure method")


def _check_description(spec: BackendSpec) -> None:
    bare = msgspec.structs.replace(spec, config=msgspec.structs.replace(spec.config, user_config=None))
    what = f"what describes backend {spec.tag!r}, such as its environment variables and import path, takes"
    check_size(what, len(pack(bare)), MAX_DESCRIPTION)


def _check_capacity(state: Desired, spec: BackendSpec, old: BackendSpec | None, free: FreeCapacity) -> None:
    """Raise if the backend's replicas can never be placed beside those of other backends.

    What its own old version holds does not count: those replicas are removed one by one as new ones start.
    """
    if old is not None and old.resources == spec.resources and spec.config.num_replicas <= old.config.num_replicas:
        return
    others = [a for tag, allocations in free.held.items() if tag != spec.tag for a in allocations]
    own = list(free.held.get(spec.tag, ())) if old is not None and old.version == spec.version else []
    ledger = CapacityLedger(free.capacity, [*others, *own])
    missing = spec.config.num_replicas - len(own)
    for other in state.backends.values():  # replicas that are wanted and not launched yet need their share too
        if other.tag != spec.tag:
            for _ in range(other.config.num_replicas - len(free.held.get(other.tag, ()))):
                ledger.place(other.resources)
    left = ledger.describe()
    if any(ledger.place(spec.resources) is None for _ in range(missing)):
        raise NoCapacityError(
            f"Cannot scale backend {spec.tag!r} to {spec.config.num_replicas} replicas: asked for"
            f" {describe_request(spec.resources, missing)} more, free: {left}",
            spec.resources,
            missing,
        )


# --- endpoints ------------------------------------------------------------------------------------------------


def _create_endpoint(state: Desired, command: CreateEndpoint, now: str) -> Desired:
    old = state.endpoints.get(command.name)
    surface = state.backends[command.backend].traits.surface if command.backend in state.backends else PLAIN
    methods = _methods_of(surface, command.methods, ENDPOINT_METHODS)
    if old is not None and old.route == command.route and old.methods == methods:
        raise ValueError(f"endpoint {command.name!r} exists already, with the same route and methods")
    check_usable(state, command.backend)
    _check_route(_routed(state), command.name, command.route, surface)
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
        max_body_bytes=_max_body(command.max_body_bytes, surface),
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


def _routed(state: Desired) -> list[EndpointSpec]:
    """Endpoints whose routes are taken: the existing ones, and those that a rollback would restore."""
    return [*state.endpoints.values(), *(f.before for f in state.fallbacks.values() if f.before is not None)]


def _methods_of(surface: str, given: Sequence[str] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    """The HTTP methods of an endpoint. An app decides itself about those."""
    if surface == PLAIN:
        return tuple(given or default)
    if given:
        raise ValueError(f"methods {list(given)} were given for an ASGI app, which gets requests of all methods")
    return (ALL_METHODS,)


def _max_body(size: float | None, surface: str) -> float | None:
    """The largest body of an endpoint. That of a backend which is no app travels as one message."""
    if size is not None and surface == PLAIN and size > MAX_BODY:
        raise ValueError(f"max_body_bytes {size} is over {MAX_BODY}, and only ASGI apps take larger bodies")
    return size


def _check_route(endpoints: Iterable[EndpointSpec], name: str, route: str | None, surface: str) -> None:
    if route is None:
        return
    parse_route(route)  # raises if it is malformed
    if surface == ASGI:
        prefix_of(route)
    for other in endpoints:
        if other.route is not None and matches_same_paths(route, other.route) and other.name != name:
            raise ValueError(f"route {route!r} is taken by endpoint {other.name!r} (its route: {other.route!r})")


# --- deploy ---------------------------------------------------------------------------------------------------


def _deploy(state: Desired, command: Deploy, free: FreeCapacity, now: str) -> Desired:
    name = command.name
    backend, endpoint = state.backends.get(name), state.endpoints.get(name)
    surface = command.traits.surface
    if backend is not None and backend.traits.surface != surface:
        raise ValueError(
            f"backend {name!r} is of another kind: both versions are ASGI apps, or none is; deploy under another name"
        )
    if endpoint is not None and name not in endpoint.policy.weights:
        raise ValueError(f"endpoint {name!r} exists and does not use a backend {name!r}; deploy under another name")
    if endpoint is None:
        methods = _methods_of(surface, command.methods, DEPLOY_METHODS)
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
            _max_body(command.max_body_bytes, surface),
        )
    else:
        new_endpoint = msgspec.structs.replace(
            endpoint,
            route=command.route or endpoint.route,
            methods=_methods_of(surface, command.methods, endpoint.methods),
            idempotent=endpoint.idempotent if command.idempotent is None else command.idempotent,
            shard_key=command.shard_key or endpoint.shard_key,
            request_timeout_s=command.request_timeout_s or endpoint.request_timeout_s,
            max_body_bytes=endpoint.max_body_bytes
            if command.max_body_bytes is None
            else _max_body(command.max_body_bytes, surface),
        )
    _check_route(_routed(state), name, new_endpoint.route, surface)
    version = state.version + 1
    old_config = backend.config if backend else BackendConfigSpec()
    spec = BackendSpec(
        tag=name,
        version=version,
        config_version=version,
        code=command.code,
        origin=command.origin,
        traits=command.traits,
        config=_changed_config(old_config, command.config_changes, command.user_config),
        resources=command.resources or (backend.resources if backend else Resources()),
    )
    with_backend = _with_backend(state, spec, free, endpoint=name, before=endpoint)
    state = traffic.with_endpoint(with_backend, new_endpoint, now=now, change="deployed", by=command.by)
    return msgspec.structs.replace(state, version=version)


def cpu_warning(desired: Desired, capacity: Capacity, machine_cpus: int) -> str:
    """A warning if replicas need more CPUs than the machine has and CPUs are not reserved; empty otherwise."""
    asked = sum(spec.config.num_replicas * spec.resources.num_cpus for spec in desired.backends.values())
    if capacity.num_cpus is not None or asked <= machine_cpus:
        return ""
    return (
        f"replicas ask for {asked:g} CPUs and this machine has {machine_cpus}: they share them (num_cpus=N is strict)"
    )
