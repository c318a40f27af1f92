"""Changes of backends: their code, config and resources. Pure.

Part of ``desired``: a state and a command in, a new state or an error out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from pointsman.controller import endpoints as traffic
from pointsman.controller.allocation import CapacityLedger, describe_request
from pointsman.controller.scaling.following import needs, reserved, with_specs
from pointsman.controller.scaling.room import held_against
from pointsman.controller.state import Desired, Fallback, FreeCapacity, NoCapacityError, find_backend, without
from pointsman.limits import MAX_DESCRIPTION, check_size
from pointsman.model import BackendConfigSpec, BackendSpec, EndpointSpec, Resources, TargetTraits
from pointsman.wire.commands import CreateBackend, DeleteBackend, Deploy, ReplaceBackend, UpdateBackendConfig
from pointsman.wire.messages import pack


def create(state: Desired, command: CreateBackend, free: FreeCapacity, now: str) -> Desired:
    """The state with a new backend. Raises ValueError if there is one of its name, or something is wrong with it."""
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
        source=command.source,
        since=now,
    )
    return with_backend(state, spec, free, now=now)


def update_config(state: Desired, command: UpdateBackendConfig, free: FreeCapacity, now: str = "") -> Desired:
    """The state in which fields of a backend's config are changed; the same object if none of them differs."""
    old = find_backend(state, command.tag)
    config = _changed_config(state, old, command.changes, command.user_config)
    if config == old.config:
        return state
    spec = msgspec.structs.replace(old, config=config, config_version=state.version + 1)
    return with_backend(state, spec, free, now=now)


def delete(state: Desired, command: DeleteBackend) -> tuple[Desired, str]:
    """The state without a backend, and a note if there was none. Raises ValueError if an endpoint uses it."""
    tag = command.tag
    if tag not in state.backends:
        return state, f"backend {tag!r} does not exist, so there is nothing to delete"
    users = traffic.users_of(state, tag)
    if users:
        raise ValueError(
            f"backend {tag!r} is in use by endpoint {', '.join(users)}; take it out of their traffic, shadows and pins"
            " first"
        )
    fallbacks = without(state.fallbacks, tag)
    return with_specs(msgspec.structs.replace(state, version=state.version + 1, fallbacks=fallbacks), {tag: None}), ""


def replace(state: Desired, command: ReplaceBackend, free: FreeCapacity, now: str) -> Desired:
    """The state with a backend as a command wants it; the same object if it is so already."""
    old = find_backend(state, command.tag)
    spec = revised(state, command.tag, command, now)
    return state if spec is old else with_backend(state, spec, free, now=now)


def revised(state: Desired, tag: str, command: Deploy | ReplaceBackend, now: str) -> BackendSpec:
    """A backend as a command wants it, new or changed.

    Code that is the same as before keeps its version, so that its replicas stay; then only the config may be new. The
    result is the present specification itself if nothing differs.

    Raises:
        ValueError: it would be another kind of backend.
    """
    old, version = state.backends.get(tag), state.version + 1
    check_kind(old, command.traits.surface)
    config = _changed_config(state, old, command.config_changes, command.user_config)
    new = BackendSpec(
        tag=tag,
        version=version,
        config_version=version,
        code=command.code,
        origin=command.origin,
        traits=command.traits,
        config=config,
        resources=command.resources or (old.resources if old else Resources()),
        source=command.source,
        since=now,
    )
    if old is None or not is_same_version(old, new):
        return new
    return old if config == old.config else msgspec.structs.replace(old, config=config, config_version=version)


def check_kind(old: BackendSpec | None, surface: str) -> None:
    """Check that a new version of a backend takes the same calls as the present one.

    Raises:
        ValueError: it does not.
    """
    if old is not None and old.traits.surface != surface:
        raise ValueError(
            f"backend {old.tag!r} is of another kind: both versions are ASGI apps, or none is; deploy under another"
            " name"
        )


def is_same_version(old: BackendSpec, new: BackendSpec) -> bool:
    """Whether replicas of one specification can serve for the other: all is equal but for the config, and for the git
    commit, which may have moved on without a change of these files."""
    return (
        old.code == new.code
        and old.origin == new.origin
        and old.traits == new.traits
        and old.resources == new.resources
        and msgspec.structs.replace(old.source, commit=new.source.commit) == new.source
    )


def with_backend(
    state: Desired,
    spec: BackendSpec,
    free: FreeCapacity,
    *,
    now: str = "",
    endpoint: str | None = None,
    before: EndpointSpec | None = None,
) -> Desired:
    """Check a new or changed backend and add it to the state."""
    check_config(spec.tag, spec.config, spec.traits)
    check_description(spec)
    tag, old = spec.tag, state.backends.get(spec.tag)
    new = with_specs(state, {tag: spec}, free.default_max, now)
    number = needs(state, new, tag, len(free.held.get(tag, ())))
    _check_capacity(state, spec, number, free)
    fallbacks = state.fallbacks
    needs_replicas = (
        old is None
        or spec.version != old.version
        or new.wanted(tag) > state.wanted(tag)
        or spec.config.user_config != old.config.user_config
    )
    fixed = number if new.is_scaled(tag) else None
    # A second change before the first is complete keeps the first fallback: nothing newer is known to work.
    if needs_replicas and tag not in fallbacks:
        fallbacks = {**fallbacks, tag: Fallback(old, endpoint, before, replicas=fixed)}
    elif endpoint is not None:
        fallbacks = with_endpoint_of(fallbacks, tag, endpoint, before)
    if tag in fallbacks and fallbacks[tag].replicas != fixed:
        fallbacks = {**fallbacks, tag: msgspec.structs.replace(fallbacks[tag], replicas=fixed)}
    return msgspec.structs.replace(new, version=state.version + 1, fallbacks=fallbacks)


def with_endpoint_of(
    fallbacks: dict[str, Fallback], tag: str, endpoint: str, before: EndpointSpec | None
) -> dict[str, Fallback]:
    """The fallbacks, where that of a backend also takes back what is done to an endpoint now, unless it has one."""
    there = fallbacks.get(tag)
    if there is None or there.endpoint is not None:
        return fallbacks
    return {**fallbacks, tag: msgspec.structs.replace(there, endpoint=endpoint, before=before)}


def _changed_config(
    state: Desired, old: BackendSpec | None, changes: Mapping[str, Any], user_config: bytes | None
) -> BackendConfigSpec:
    config = old.config if old is not None else BackendConfigSpec()
    values = {**msgspec.structs.asdict(config), **changes}
    if old is not None and config.autoscaling is not None:
        if "autoscaling" not in changes and "num_replicas" in changes:
            raise ValueError(
                f"backend {old.tag!r} is autoscaled, so that num_replicas {changes['num_replicas']} means nothing; give"
                " autoscaling None with it, or fix the number for a while (client.scale, pointsman autoscale hold)"
            )
        if values["autoscaling"] is None and "num_replicas" not in changes:
            values["num_replicas"] = max(1, state.wanted(old.tag))  # as many as there are now
    if "user_config" in changes:
        values["user_config"] = user_config
    return msgspec.convert(values, BackendConfigSpec)


def check_config(tag: str, config: BackendConfigSpec, traits: TargetTraits) -> None:
    """Check that a config is in itself possible, and fits the code. Raises ValueError."""
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
    slots = config.query_limit
    if config.autoscaling is not None and (config.autoscaling.target_ongoing_requests or 0) > slots:
        raise ValueError(
            f"target_ongoing_requests {config.autoscaling.target_ongoing_requests:g} of backend {tag!r} is over"
            f" max_concurrent_queries, {slots}, so that no replica could ever have so many; make it at most {slots}"
        )
    if config.max_surge == 0 and config.max_unavailable == 0:
        raise ValueError(
            f"max_surge and max_unavailable of backend {tag!r} are both 0, so no replica could ever be replaced;"
            " set one of them to at least 1"
        )
    if config.user_config is not None and not traits.has_reconfigure:
        raise ValueError(f"user_config was given for backend {tag!r}, whose code has no reconfigure method")


def check_description(spec: BackendSpec) -> None:
    """Check that a backend's description, without its config for the user's code, is not too large to be sent."""
    bare = msgspec.structs.replace(spec, config=msgspec.structs.replace(spec.config, user_config=None))
    what = f"what describes backend {spec.tag!r}, such as its environment variables and import path, takes"
    check_size(what, len(pack(bare)), MAX_DESCRIPTION)


def _check_capacity(state: Desired, spec: BackendSpec, number: int, free: FreeCapacity) -> None:
    """Raise if so many replicas of the backend can never be placed beside those of other backends.

    What its own old version holds does not count: those replicas are removed one by one as new ones start.
    """
    old = state.backends.get(spec.tag)
    if old is not None and old.resources == spec.resources and number <= state.wanted(spec.tag):
        return
    held = held_against([spec], state, free)
    others = [a for tag, allocations in held.items() if tag != spec.tag for a in allocations]
    own = list(free.held.get(spec.tag, ())) if old is not None and old.version == spec.version else []
    ledger = CapacityLedger(free.capacity, [*others, *own])
    missing = number - len(own)
    for other in state.backends.values():  # replicas that are wanted and not launched yet need their share too
        if other.tag != spec.tag:
            for _ in range(reserved(state, other.tag) - len(free.held.get(other.tag, ()))):
                ledger.place(other.resources)
    left = ledger.describe()
    if any(ledger.place(spec.resources) is None for _ in range(missing)):
        raise NoCapacityError(
            f"Cannot scale backend {spec.tag!r} to {number} replicas: asked for"
            f" {describe_request(spec.resources, missing)} more, free: {left}",
            spec.resources,
            missing,
        )
