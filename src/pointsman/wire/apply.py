"""The command that carries out a configuration file, its answers, and what a file is compared with. Schemas; no I/O."""

from __future__ import annotations

from typing import Any

import msgspec

from pointsman.model import (
    DEFAULT_SHARD_KEY,
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


#: Fields of a backend whose change replaces its replicas.
REPLACING = ("code", "args", "env", "ray_actor_options", "version", "content")
#: ``num_replicas`` of a backend that is autoscaled.
AUTO = "auto"
#: The names of fields of a configuration that differ from those of :class:`~pointsman.model.BackendConfigSpec`.
FILE_NAMES = {
    "batch_wait_timeout_s": "batch_wait_timeout",
    "drain_confirm_s": "experimental_graceful_shutdown_wait_loop_s",
    "drain_timeout_s": "experimental_graceful_shutdown_timeout_s",
}


def backend_fields(backend: WantedBackend | BackendSpec) -> dict[str, Any]:
    """The fields of a backend under the names that they have in a file. ``args`` and ``env`` are JSON text; code sent
    by value, and arguments that are no JSON, are told apart by the digest of the blob that holds both."""
    source, config = backend.source, config_values(backend.config)
    by_digest = f"by value, {backend.code}"
    return {
        "code": source.path or by_digest,
        "args": source.args.decode() if source.args is not None else by_digest,
        "env": source.env.decode(),
        "ray_actor_options": backend.resources,
        "version": source.version,
        "content": source.content,
        **{f"config.{FILE_NAMES.get(name, name)}": value for name, value in config.items()},
    }


def config_values(config: BackendConfigSpec) -> dict[str, Any]:
    """The fields of a configuration; of one that is autoscaled ``num_replicas`` is :data:`AUTO`."""
    values = msgspec.structs.asdict(config)
    return values if config.autoscaling is None else {**values, "num_replicas": AUTO}


def is_replaced(old: WantedBackend | BackendSpec, new: WantedBackend | BackendSpec) -> bool:
    """Whether the change from one to the other takes new replicas (CF9)."""
    before, after = backend_fields(old), backend_fields(new)
    return any(before[field] != after[field] for field in REPLACING)


def declared_endpoint(endpoint: EndpointSpec, pins: Pins | None) -> WantedEndpoint:
    """An endpoint that there is, in the form in which a file wants one."""
    return WantedEndpoint(
        route=endpoint.route,
        methods=endpoint.methods,
        weights=endpoint.policy.weights,
        shadows=endpoint.policy.shadows,
        custom=endpoint.policy.custom,
        pins=pins.keys if pins is not None else {},
        idempotent=endpoint.idempotent,
        shard_key=endpoint.shard_key,
        request_timeout_s=endpoint.request_timeout_s,
        max_body_bytes=endpoint.max_body_bytes,
    )


def endpoint_fields(endpoint: WantedEndpoint) -> dict[str, Any]:
    """The fields of an endpoint under the names that they have in a file."""
    fields = {**msgspec.structs.asdict(endpoint), "shard_key": endpoint.shard_key or DEFAULT_SHARD_KEY}
    return {"traffic": fields.pop("weights"), **fields}


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


#: What an apply is in.
RUNNING, DONE, TAKEN_BACK = "running", "done", "taken back"


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

    def owner_of(self, name: str) -> str:
        """The file that has made an object such as ``backend/ranker``; empty if none has."""
        return self.marks.get(name, Marks()).owner
