"""Changes that users ask for, and the states they lead to, for tests of :mod:`~pointsman.controller.desired`."""

from __future__ import annotations

import msgspec
import pytest

from pointsman.controller.desired import apply, confirm
from pointsman.controller.state import Desired, FreeCapacity
from pointsman.model import BackendConfigSpec, Capacity, Origin, Resources, Source, TargetTraits, TrafficPolicy
from pointsman.wire.commands import (
    Change,
    CreateBackend,
    CreateEndpoint,
    Deploy,
    Pin,
    ReplaceBackend,
    RollbackTraffic,
    SetTraffic,
    ShadowTraffic,
    UpdateBackendConfig,
)
from pointsman.wire.messages import pack

ORIGIN = Origin("/", ())
UNKNOWN = Source()

FUNCTION = TargetTraits(is_class=False)
CLASS = TargetTraits(is_class=True)
BATCHING = TargetTraits(is_class=False, batches=True)
BATCHING_METHOD = TargetTraits(is_class=True, has_batching_method=True)
RECONFIGURABLE = TargetTraits(is_class=True, has_reconfigure=True)
GPU = Resources(num_gpus=1)
ROOM = FreeCapacity(Capacity(num_gpus=2, memory=1000, custom={"tpu": 1}))


def create(
    tag: str,
    *,
    traits: TargetTraits = FUNCTION,
    resources: Resources | None = None,
    **config: object,
) -> CreateBackend:
    spec = msgspec.convert(config, BackendConfigSpec)
    return CreateBackend("id", tag, f"code of {tag}", ORIGIN, traits, spec, resources or Resources())


def update(tag: str, **changes: object) -> UpdateBackendConfig:
    user_config = changes.get("user_config")
    assert user_config is None or isinstance(user_config, bytes)
    return UpdateBackendConfig("id", tag, {**changes, **({"user_config": None} if user_config else {})}, user_config)


def endpoint(
    name: str, backend: str, *, route: str | None = None, methods: tuple[str, ...] = ("GET",), idempotent: bool = False
) -> CreateEndpoint:
    return CreateEndpoint("id", name, backend, route, methods, idempotent)


def deploy(
    name: str,
    *,
    code: str = "new code",
    traits: TargetTraits = FUNCTION,
    resources: Resources | None = None,
    route: str | None = None,
    methods: tuple[str, ...] | None = None,
    idempotent: bool | None = None,
    user_config: bytes | None = None,
    **changes: object,
) -> Deploy:
    if user_config is not None:
        changes["user_config"] = None
    return Deploy("id", name, code, ORIGIN, traits, changes, user_config, resources, route, methods, idempotent)


def replace(
    tag: str,
    *,
    code: str = "new code",
    origin: Origin = ORIGIN,
    traits: TargetTraits = FUNCTION,
    resources: Resources | None = None,
    source: Source = UNKNOWN,
    user_config: bytes | None = None,
    **changes: object,
) -> ReplaceBackend:
    if user_config is not None:
        changes["user_config"] = None
    return ReplaceBackend("id", tag, code, origin, traits, changes, user_config, resources, source)


def split(**weights: float) -> SetTraffic:
    """Traffic of endpoint ``e``."""
    return SetTraffic("id", "e", weights)


def shadow(backend: str, proportion: float) -> ShadowTraffic:
    return ShadowTraffic("id", "e", backend, proportion)


def rollback(version: int | None = None) -> RollbackTraffic:
    return RollbackTraffic("id", "e", version)


def pin(key: str, backend: str) -> Pin:
    return Pin("id", "e", (key,), backend)


def policy(state: Desired) -> TrafficPolicy:
    """What is in force at endpoint ``e``."""
    return state.endpoints["e"].policy


def versions(state: Desired) -> list[int]:
    return [change.policy.version for change in state.histories["e"].changes]


def done(state: Desired, *commands: Change, room: FreeCapacity = ROOM) -> Desired:
    """The state after these changes, each of which has come up."""
    for command in commands:
        state, note = apply(state, command, room)
        assert note == ""
        for tag in list(state.fallbacks):
            state = confirm(state, tag)
    return state


def refused(
    state: Desired,
    command: Change,
    *parts: str,
    error: type[Exception] = ValueError,
    room: FreeCapacity = ROOM,
) -> str:
    """Check that a command is refused in one sentence that holds these parts, and that nothing has changed."""
    before = pack(state)
    with pytest.raises(error) as caught:
        apply(state, command, room)
    assert pack(state) == before
    text = str(caught.value)
    assert "\n" not in text
    assert not text.endswith(".")
    for part in parts:
        assert part in text
    return text


EMPTY = Desired()
ONE = done(EMPTY, create("one"))
"""One backend, no endpoint."""
SERVED = done(ONE, create("two"), endpoint("e", "one", route="/e"))
"""Two backends and an endpoint of the first."""
