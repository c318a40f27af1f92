"""The command that carries out a configuration file, its answers, and what a file is compared with. Schemas; no I/O."""

from __future__ import annotations

import msgspec

from pointsman.model import (
    BackendConfigSpec,
    BackendSpec,
    CustomPolicy,
    EndpointSpec,
    Origin,
    Pins,
    Resources,
    Source,
    Struct,
    TargetTraits,
)
from pointsman.wire.handover import HTTPSettings, StartOptions


class Mark(Struct, frozen=True):
    """Who has set a field last.

    Attributes:
        owner: the ``name`` of the configuration file that set it; empty if a call or command did.
        by: who sent that, by their own account.
        time: ISO 8601 in UTC.
        version: of the state that the change made.
    """

    owner: str
    by: str
    time: str
    version: int


class Marks(Struct, frozen=True):
    """The marks of one object, such as ``backend/ranker`` or ``endpoint/rank``, by field. ``owner`` is the file that
    made or adopted it; empty if none did."""

    owner: str = ""
    fields: dict[str, Mark] = {}


class WantedBackend(Struct, frozen=True):
    """A backend as a file wants it, whole. ``code`` is the digest of its code blob."""

    code: str
    origin: Origin
    traits: TargetTraits
    config: BackendConfigSpec
    resources: Resources
    source: Source


class WantedEndpoint(Struct, frozen=True):
    """An endpoint as a file wants it, whole. For the fields see :class:`~pointsman.model.EndpointSpec`."""

    route: str | None
    methods: tuple[str, ...]
    weights: dict[str, float]
    shadows: dict[str, float] = {}
    custom: CustomPolicy | None = None
    pins: dict[str, str] = {}
    idempotent: bool = False
    shard_key: str = ""
    request_timeout_s: float | None = None
    max_body_bytes: float | None = None


class Plan(Struct, frozen=True):
    """What an :class:`Apply` makes of the state.

    Attributes:
        backends: those that are created, updated or replaced.
        endpoints: those that are created or changed.
        delete_backends: names of those that are deleted.
        delete_endpoints: the same, of endpoints.
        claims: the fields that the file sets, by object, whether they change or not: they are the owner's afterwards.
    """

    backends: dict[str, WantedBackend] = {}
    endpoints: dict[str, WantedEndpoint] = {}
    delete_backends: tuple[str, ...] = ()
    delete_endpoints: tuple[str, ...] = ()
    claims: dict[str, tuple[str, ...]] = {}


class OperationView(Struct, frozen=True):
    """An apply that runs or has ended; the reply to an AwaitOperation.

    Attributes:
        id: of the command.
        owner: ``name`` of the file.
        by: who sent it.
        began: ISO 8601 in UTC.
        state: ``running``, ``done`` or ``taken back``.
        version: of the state; of the newest one while it runs.
        object: what failed, such as ``backend/ranker``; empty if nothing did.
        text: why, in one sentence.
        traceback: of user code, if that raised.
    """

    id: str
    owner: str
    by: str
    began: str
    state: str
    version: int
    object: str = ""
    text: str = ""
    traceback: str = ""


class Declared(msgspec.Struct, frozen=True):
    """What a file is compared with; the reply to a QueryDeclared.

    Attributes:
        version: of the state; an Apply whose ``base`` is another one is refused.
        marks: by object.
        operation: the apply that runs; None if none does.
        http: the options of the HTTP servers; None if there are none.
    """

    version: int
    backends: dict[str, BackendSpec]
    endpoints: dict[str, EndpointSpec]
    pins: dict[str, Pins]
    marks: dict[str, Marks]
    operation: OperationView | None
    http: HTTPSettings | None
    start_options: StartOptions
