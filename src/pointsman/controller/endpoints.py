"""Changes of an endpoint's traffic: weights, shadows, pins, and their history. Pure.

Part of ``desired``: a state and a command in, a new state or an error out.
"""

from __future__ import annotations

import hashlib

import msgspec

from pointsman.controller.state import Desired, check_surface, check_usable, find_endpoint, without
from pointsman.model import EndpointSpec, Pins, TrafficChange, TrafficHistory, TrafficPolicy
from pointsman.policy.shardkey import MAX_PINS
from pointsman.policy.traffic import normalised as normalised
from pointsman.wire.commands import Pin, RollbackTraffic, SetTraffic, ShadowTraffic, TrafficCommand, Unpin

KEPT_POLICIES = 50


def apply(state: Desired, command: TrafficCommand, now: str) -> tuple[Desired, str]:
    """Carry out a command; see :func:`pointsman.controller.desired.apply`.

    Raises:
        ValueError: it cannot be carried out; nothing has changed.
    """
    if isinstance(command, SetTraffic):
        return _set_traffic(state, command, now), ""
    if isinstance(command, ShadowTraffic):
        return _shadow_traffic(state, command, now), ""
    if isinstance(command, RollbackTraffic):
        return _roll_back(state, command, now), ""
    if isinstance(command, Pin):
        return _pin(state, command), ""
    return _unpin(state, command)


def with_endpoint(state: Desired, endpoint: EndpointSpec, *, now: str, change: str, by: str) -> Desired:
    """The state with a new or changed endpoint. A new policy is added to its history."""
    histories = state.histories
    there = state.endpoints.get(endpoint.name)
    if there is None or there.policy != endpoint.policy:
        old = histories.get(endpoint.name, TrafficHistory()).changes
        new = (*old, TrafficChange(endpoint.policy, now, change, by))[-KEPT_POLICIES:]
        histories = {**histories, endpoint.name: TrafficHistory(new)}
    endpoints = {**state.endpoints, endpoint.name: endpoint}
    return msgspec.structs.replace(state, version=state.version + 1, endpoints=endpoints, histories=histories)


def without_endpoint(state: Desired, name: str) -> Desired:
    """The state without an endpoint, its pins and its history."""
    return msgspec.structs.replace(
        state,
        endpoints=without(state.endpoints, name),
        pins=without(state.pins, name),
        histories=without(state.histories, name),
    )


def users_of(state: Desired, tag: str) -> list[str]:
    """The quoted names of endpoints that use a backend, each with how, if not by a weight."""
    users = []
    for name, endpoint in sorted(state.endpoints.items()):
        pinned = sum(backend == tag for backend in state.pins.get(name, Pins()).keys.values())
        if tag in endpoint.policy.weights:
            users.append(repr(name))
        elif tag in endpoint.policy.shadows:
            users.append(f"{name!r} (as a shadow)")
        elif pinned:
            users.append(f"{name!r} (by {pinned} pinned shard key{'s' * (pinned > 1)})")
    return users


def _set_traffic(state: Desired, command: SetTraffic, now: str) -> Desired:
    endpoint = find_endpoint(state, command.name)
    policy = endpoint.policy
    for tag in (*(command.weights or ()), *(command.shadows or ())):
        check_usable(state, tag)
        check_surface(state, endpoint, tag)
    if command.weights is not None:
        policy = msgspec.structs.replace(policy, weights=normalised(command.weights))
    if command.shadows is not None:
        for tag, proportion in command.shadows.items():
            _check_proportion(tag, proportion)
        shadows = {tag: proportion for tag, proportion in command.shadows.items() if proportion}
        compared = {tag: comparison for tag, comparison in policy.compared.items() if tag in shadows}
        policy = msgspec.structs.replace(policy, shadows=shadows, compared=compared)
    if not command.keep_custom:
        policy = msgspec.structs.replace(policy, custom=command.custom)
    return _with_policy(state, endpoint, policy, now=now, change="set_traffic", by=command.by)


def _check_proportion(tag: str, proportion: float) -> None:
    if not 0 <= proportion <= 1:
        raise ValueError(f"proportion {proportion!r} of shadow {tag!r} must be between 0 and 1")


def _shadow_traffic(state: Desired, command: ShadowTraffic, now: str) -> Desired:
    endpoint = find_endpoint(state, command.name)
    check_usable(state, command.backend)
    check_surface(state, endpoint, command.backend)
    _check_proportion(command.backend, command.proportion)
    shadows = without(endpoint.policy.shadows, command.backend)
    compared = without(endpoint.policy.compared, command.backend)
    if command.proportion:
        shadows = {**endpoint.policy.shadows, command.backend: command.proportion}
        if command.keep_comparison:
            compared = endpoint.policy.compared
        elif command.comparison is not None:
            compared = {**endpoint.policy.compared, command.backend: command.comparison}
    policy = msgspec.structs.replace(endpoint.policy, shadows=shadows, compared=compared)
    return _with_policy(state, endpoint, policy, now=now, change="shadow_traffic", by=command.by)


def _roll_back(state: Desired, command: RollbackTraffic, now: str) -> Desired:
    endpoint = find_endpoint(state, command.name)
    changes = state.histories.get(command.name, TrafficHistory()).changes
    policies = {change.policy.version: change.policy for change in changes}
    if command.version is None:
        older = [version for version in policies if version < endpoint.policy.version]
        if not older:
            raise ValueError(f"endpoint {command.name!r} has had one traffic policy only; there is no older one")
        policy = policies[max(older)]
    elif command.version in policies:
        policy = policies[command.version]
    else:
        known = ", ".join(map(str, policies))
        raise ValueError(
            f"endpoint {command.name!r} has no traffic policy of version {command.version}; it has {known}"
        )
    for tag in (*policy.weights, *policy.shadows):
        if tag not in state.backends:
            raise ValueError(
                f"traffic policy {policy.version} of endpoint {command.name!r} needs backend {tag!r}, which does not"
                " exist any more"
            )
        check_usable(state, tag)
        check_surface(state, endpoint, tag)
    change = f"rollback_traffic to {policy.version}"
    return _with_policy(state, endpoint, policy, now=now, change=change, by=command.by)


def with_names(policy: TrafficPolicy, endpoint: EndpointSpec, *, version: int, now: str) -> TrafficPolicy:
    """A policy that is to follow the endpoint's, in which each comparison has a name: the one that it has already, if
    its options are the same, or a new one, under which nothing was counted yet.

    Args:
        version: of the state that has the policy.
        now: ISO 8601 in UTC.
    """
    compared = {}
    for tag, comparison in policy.compared.items():
        there = endpoint.policy.compared.get(tag)
        if there is not None and msgspec.structs.replace(comparison, name=there.name, since=there.since) == there:
            compared[tag] = there
        else:
            digest = hashlib.sha256(f"{endpoint.name}\0{tag}".encode()).hexdigest()[:8]
            compared[tag] = msgspec.structs.replace(comparison, name=f"{version}-{digest}", since=now)
    return msgspec.structs.replace(policy, compared=compared) if compared else policy


def _with_policy(
    state: Desired, endpoint: EndpointSpec, policy: TrafficPolicy, *, now: str, change: str, by: str
) -> Desired:
    """The state with another policy, under a new version; the same object if the policy does not differ."""
    policy = with_names(policy, endpoint, version=state.version + 1, now=now)
    if policy.same_as(endpoint.policy):
        return state
    policy = msgspec.structs.replace(policy, version=state.version + 1)
    return with_endpoint(state, msgspec.structs.replace(endpoint, policy=policy), now=now, change=change, by=by)


def _pin(state: Desired, command: Pin) -> Desired:
    endpoint = find_endpoint(state, command.name)
    check_usable(state, command.backend)
    check_surface(state, endpoint, command.backend)
    pins = state.pins.get(command.name, Pins()).keys
    new = {**pins, **dict.fromkeys(command.shard_keys, command.backend)}
    if new == pins:
        return state
    if len(new) > MAX_PINS:
        raise ValueError(
            f"endpoint {command.name!r} would have {len(new)} pinned shard keys, and may have {MAX_PINS} at most"
        )
    return _with_pins(state, command.name, new)


def _unpin(state: Desired, command: Unpin) -> tuple[Desired, str]:
    find_endpoint(state, command.name)
    pins = state.pins.get(command.name, Pins()).keys
    gone = set(command.shard_keys)
    new = {key: backend for key, backend in pins.items() if key not in gone}
    missing = [key for key in command.shard_keys if key not in pins]
    warning = ""
    if missing:
        more = f", nor are {len(missing) - 1} others that were given" if len(missing) > 1 else ""
        warning = f"shard key {missing[0]!r} of endpoint {command.name!r} is not pinned{more}"
    return (_with_pins(state, command.name, new) if new != pins else state), warning


def _with_pins(state: Desired, name: str, keys: dict[str, str]) -> Desired:
    pins = {**state.pins, name: Pins(keys)} if keys else without(state.pins, name)
    return msgspec.structs.replace(state, version=state.version + 1, pins=pins)
