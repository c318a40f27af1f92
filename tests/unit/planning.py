"""Configuration files as plans, and the states they lead to, for tests of :mod:`~pointsman.controller.applying`."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pointsman.controller.applying import begin, complete
from pointsman.controller.marks import fields_of
from pointsman.controller.state import Desired, FreeCapacity
from pointsman.model import BackendConfigSpec, Origin, Resources, Source, TargetTraits
from pointsman.wire.apply import (
    Plan,
    WantedBackend,
    WantedEndpoint,
    backend_fields,
    declared_endpoint,
    endpoint_fields,
)
from pointsman.wire.commands import Apply
from tests.unit.desiring import CLASS, ROOM

NOW, LATER = "2026-11-28T12:00:00.000+00:00", "2026-11-28T12:01:00.000+00:00"
ORIGIN = Origin("/", ())


def wanted(
    code: str = "models:Model",
    *,
    args: bytes = b"[]",
    version: str = "",
    content: str = "",
    traits: TargetTraits = CLASS,
    resources: Resources | None = None,
    **config: object,
) -> WantedBackend:
    """A backend of a file."""
    source = Source(path=code, args=args, version=version, content=content)
    spec = msgspec.convert(config, BackendConfigSpec)
    return WantedBackend(f"blob of {code}{args.decode()}", ORIGIN, traits, spec, resources or Resources(), source)


def served(route: str | None = None, /, *, pins: Mapping[str, str] | None = None, **weights: float) -> WantedEndpoint:
    """An endpoint of a file."""
    return WantedEndpoint(route, ("GET",), weights, pins=dict(pins or {}))


def plan_for(
    state: Desired, backends: Mapping[str, WantedBackend], endpoints: Mapping[str, WantedEndpoint] = {}
) -> Plan:
    """What a file with exactly these objects makes of a state: nothing else stays."""
    live = {tag: backend_fields(spec) for tag, spec in state.backends.items()}
    there = {name: endpoint_fields(declared_endpoint(e, state.pins.get(name))) for name, e in state.endpoints.items()}
    claims = {f"backend/{tag}": tuple(backend_fields(one)) for tag, one in backends.items()}
    claims.update({f"endpoint/{name}": tuple(endpoint_fields(one)) for name, one in endpoints.items()})
    return Plan(
        backends={tag: one for tag, one in backends.items() if live.get(tag) != backend_fields(one)},
        endpoints={name: one for name, one in endpoints.items() if there.get(name) != endpoint_fields(one)},
        delete_backends=tuple(tag for tag in state.backends if tag not in backends),
        delete_endpoints=tuple(name for name in state.endpoints if name not in endpoints),
        claims=claims,
    )


def apply_of(state: Desired, plan: Plan, *, owner: str = "shop", by: str = "anna", name: str = "op") -> Apply:
    """The command that carries a plan out."""
    codes = {one.code: b"code" for one in plan.backends.values()}
    return Apply(id=name, owner=owner, base=state.version, plan=plan, codes=codes, by=by)


def begun(
    state: Desired,
    backends: Mapping[str, WantedBackend],
    endpoints: Mapping[str, WantedEndpoint] = {},
    *,
    room: FreeCapacity = ROOM,
    owner: str = "shop",
    by: str = "anna",
    name: str = "op",
) -> Desired:
    """The state in which the apply of a file with exactly these objects has begun."""
    command = apply_of(state, plan_for(state, backends, endpoints), owner=owner, by=by, name=name)
    return begin(state, command, room, NOW)


def applied(
    state: Desired,
    backends: Mapping[str, WantedBackend],
    endpoints: Mapping[str, WantedEndpoint] = {},
    *,
    owner: str = "shop",
    by: str = "anna",
    name: str = "op",
) -> Desired:
    """The state after it, where everything has come up."""
    new = begun(state, backends, endpoints, owner=owner, by=by, name=name)
    return complete(new, LATER) if new.running is not None else new


def everything(state: Desired) -> dict[str, object]:
    """All objects by their fields, as a file has them."""
    names = [f"backend/{tag}" for tag in state.backends] + [f"endpoint/{name}" for name in state.endpoints]
    return {name: fields_of(state, name) for name in names}


def of_file(backends: Mapping[str, WantedBackend], endpoints: Mapping[str, WantedEndpoint] = {}) -> dict[str, object]:
    """The same of a file."""
    found: dict[str, object] = {f"backend/{tag}": backend_fields(one) for tag, one in backends.items()}
    return {**found, **{f"endpoint/{name}": endpoint_fields(one) for name, one in endpoints.items()}}
