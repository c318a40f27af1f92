"""Messages: what the heads of frames say. Schemas and their codecs; no I/O.

Heads are msgpack arrays checked against the class: a field that a newer peer added at the end is ignored, a value of
another type is an error. Nothing here can run code.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from pointsman.model import (
    Allocation,
    BackendConfigSpec,
    BackendSpec,
    Capacity,
    EndpointSpec,
    Origin,
    Reason,
    ReplicaConfig,
    Resources,
    TargetTraits,
)
from pointsman.wire.frames import WireError

T = TypeVar("T")

CODEC_HTTP = 0
"""Body: bytes as HTTP carries them. The reply is a status, headers and bytes."""
CODEC_OBJECT = 1
"""Body: a pickled Python object, only ever between authenticated processes of one instance."""


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base of all heads."""


# --- calls ------------------------------------------------------------------------------------------------------


class CallHead(Message, frozen=True):
    """A call on its way to a replica.

    Attributes:
        codec: how the body is packed and how the answer is wanted, CODEC_HTTP or CODEC_OBJECT.
        method_name: the method of the user's class; empty for the default, ``__call__``.
        http_method: upper case.
        path: raw path as received, percent-encoded.
        query: raw query string.
        headers: name and value as received, latin-1 bytes, names in lower case.
        path_params: decoded values of the route's template.
        budget_ms: time left until the deadline when the call was sent.
        request_id: names the request in logs and error bodies.
        client: address of the HTTP client, for user code.
    """

    endpoint: str
    codec: int
    method_name: str
    http_method: str
    path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    path_params: dict[str, str]
    budget_ms: int
    request_id: str
    client: tuple[str, int] | None = None


class ReplyHead(Message, frozen=True):
    """An answer. With ``stream`` the body is empty and CHUNK frames follow until END or FAILURE."""

    status: int
    headers: list[tuple[bytes, bytes]]
    load: int
    stream: bool = False


class FailureHead(Message, frozen=True):
    """Why there is no answer. The frame's body may hold the pickled exception of user code."""

    reason: Reason
    error: str
    """Class name of the exception."""
    text: str
    traceback: str = ""
    load: int = 0


class RefuseHead(Message, frozen=True):
    """The replica did not start the call; a router places it elsewhere."""

    reason: Reason
    load: int


class CreditHead(Message, frozen=True):
    chunks: int


# --- the life of a replica --------------------------------------------------------------------------------------


class Assignment(Message, frozen=True):
    """What a replica is to run. The frame's body is the stored code blob."""

    backend: str
    tag: str
    traits: TargetTraits
    config: ReplicaConfig
    config_version: int
    origin: Origin


class ConfigureHead(Message, frozen=True):
    """New configuration for a running replica. ``timeout_s`` bounds the wait for what runs before ``reconfigure``."""

    config: ReplicaConfig
    config_version: int
    timeout_s: float


class DrainHead(Message, frozen=True):
    timeout_s: float


class Report(Message, frozen=True):
    """A replica tells the controller how it is: on connecting, and after each thing it was told to do.

    ``state`` is ``fresh`` (wants its assignment), ``starting``, ``ready``, ``failed`` or ``drained``. For ``failed``
    the frame's body may hold the pickled exception of user code.
    """

    number: int
    state: str
    config_version: int = 0
    reason: Reason | None = None
    error: str = ""
    text: str = ""
    traceback: str = ""


# --- router's process and controller ----------------------------------------------------------------------------


class Subscribe(Message, frozen=True):
    """Sent by every process that has a router. ``ingress`` is true for HTTP processes: ``start`` waits for them."""

    ingress: bool
    pid: int


class Confirm(Message, frozen=True):
    version: int


# --- commands: client to controller -----------------------------------------------------------------------------


class Command(msgspec.Struct, frozen=True, tag_field="command"):
    """Base of the commands. ``id`` makes a repeated delivery harmless: it is carried out once."""

    id: str


class CreateBackend(Command, frozen=True, tag="create_backend"):
    """The frame's body is the code blob; ``code`` is its digest."""

    tag: str
    code: str
    origin: Origin
    traits: TargetTraits
    config: BackendConfigSpec
    resources: Resources


class UpdateBackendConfig(Command, frozen=True, tag="update_backend_config"):
    """``changes`` holds fields of BackendConfigSpec; only these change."""

    tag: str
    changes: dict[str, Any]
    user_config: bytes | None = None


class DeleteBackend(Command, frozen=True, tag="delete_backend"):
    tag: str
    force: bool


class CreateEndpoint(Command, frozen=True, tag="create_endpoint"):
    name: str
    backend: str
    route: str | None
    methods: tuple[str, ...]
    idempotent: bool


class DeleteEndpoint(Command, frozen=True, tag="delete_endpoint"):
    name: str


class SetTraffic(Command, frozen=True, tag="set_traffic"):
    name: str
    weights: dict[str, float]


class Deploy(Command, frozen=True, tag="deploy"):
    """Backend and endpoint under one name. ``None`` means: keep what is there, or the default when nothing is."""

    name: str
    code: str
    origin: Origin
    traits: TargetTraits
    config_changes: dict[str, Any]
    user_config: bytes | None
    resources: Resources | None
    route: str | None
    methods: tuple[str, ...] | None
    idempotent: bool | None


Change = CreateBackend | UpdateBackendConfig | DeleteBackend | CreateEndpoint | DeleteEndpoint | SetTraffic | Deploy
"""A command that changes the desired state."""


class Await(Command, frozen=True, tag="await"):
    """Wait until a change is in effect: the newest table at the ingresses and at the caller's router, and the backend,
    when one is named, exactly as wanted (or ``gone``). Progress comes as CHUNK frames."""

    version: int
    backend: str | None
    gone: bool
    timeout_s: float | None


class AwaitIngress(Command, frozen=True, tag="await_ingress"):
    """Wait until every ingress process serves."""

    timeout_s: float


class Query(Command, frozen=True, tag="query"):
    """Read the instance's status."""


class Shutdown(Command, frozen=True, tag="shutdown"):
    """End the instance for good, its stored state included."""


AnyCommand = Change | Await | AwaitIngress | Query | Shutdown


class Accepted(Message, frozen=True):
    """Reply to a change: durable as ``version``. ``note`` is a warning to log, empty when there is none."""

    version: int
    note: str = ""


class Progress(Message, frozen=True):
    """How many replicas of a backend are ready, of how many wanted."""

    backend: str
    ready: int
    wanted: int


class ReplicaView(msgspec.Struct, frozen=True):
    tag: str
    pid: int
    state: str
    gpus: tuple[int, ...]


class FailureView(msgspec.Struct, frozen=True):
    """The last failure of a backend, kept until it is as wanted again."""

    reason: Reason
    text: str
    traceback: str
    failures: int


class BackendView(msgspec.Struct, frozen=True):
    """``state`` is ``RUNNING``, ``UPDATING``, ``UNHEALTHY`` (not as wanted, for a reason) or ``DEPLOY_FAILED`` (the
    last change was taken back)."""

    spec: BackendSpec
    state: str
    ready: int
    failure: FailureView | None
    replicas: tuple[ReplicaView, ...]


class IngressView(msgspec.Struct, frozen=True):
    pid: int
    up_to_date: bool
    """Whether it uses the newest routing table."""


class Status(msgspec.Struct, frozen=True):
    """Everything that can be read; the reply to a Query."""

    version: int
    pid: int
    name: str
    http_host: str | None
    http_port: int
    endpoints: dict[str, EndpointSpec]
    backends: dict[str, BackendView]
    ingresses: tuple[IngressView, ...]


# --- controller and supervisor ----------------------------------------------------------------------------------


class Launch(Message, frozen=True):
    """Start a replica process.

    Attributes:
        label: prefixes its log lines.
        handover: written into its pipe unread.
        note: kept unread and given to the next controller in ``recovered``.
    """

    number: int
    label: str
    env: dict[str, str]
    handover: bytes
    note: bytes


class LaunchNote(Message, frozen=True):
    """What a controller must know of a replica that its predecessor launched."""

    backend: str
    version: int
    tag: str
    allocation: Allocation


class Stop(Message, frozen=True):
    number: int


class Kill(Message, frozen=True):
    number: int


class ProcessEvent(Message, frozen=True):
    """``started`` or ``exited`` for one replica, ``ingress_exited`` for one ingress, or ``recovered``, which a new
    controller gets before any other event: every replica process that lives."""

    event: str
    number: int = 0
    pid: int = 0
    exit: str = ""
    live: dict[int, tuple[int, bytes]] = {}
    """Number -> pid and note."""


class ShutdownOrder(Message, frozen=True):
    """End the instance; with ``forget`` for good, the stored state included."""

    drain_s: float
    forget: bool


# --- handed over at spawn ---------------------------------------------------------------------------------------


class ReplicaHandover(Message, frozen=True):
    """Travels through the inherited pipe of a new replica process. Keys never go by argv or environment."""

    instance: str
    number: int
    control_path: str
    control_key: bytes
    address: str
    data_key: bytes
    grant: bytes
    """Key of the client grant, which lets user code use a Client; empty when switched off."""
    request_timeout_s: float


class IngressHandover(Message, frozen=True):
    instance: str
    index: int
    control_path: str
    control_key: bytes
    http: HTTPSettings


class ControllerHandover(Message, frozen=True):
    instance: str
    name: str
    folder: str
    state_dir: str
    master_key: bytes
    capacity: Capacity
    ingresses: int
    request_timeout_s: float
    http_host: str | None
    http_port: int


class HTTPSettings(msgspec.Struct, frozen=True):
    """The part of HTTPOptions that an ingress acts on. ``middlewares`` is pickled by the operator's client."""

    host: str
    port: int
    debug: bool
    request_timeout_s: float
    max_body_bytes: int
    middlewares: bytes
    origin: Origin


class SupervisorOrder(msgspec.Struct, frozen=True):
    """All that a supervisor needs to raise an instance; written into its pipe by the driver."""

    instance: str
    name: str
    folder: str
    state_dir: str
    """Where the store and the logs live; empty: in the folder."""
    master_key: bytes
    python: str
    bound: bool
    """Whether the instance ends with the driver that started it."""
    echo: bool
    """Whether what the processes print also goes, with a prefix, to the driver's standard error."""
    ingresses: int
    http: HTTPSettings | None
    capacity: Capacity
    request_timeout_s: float


_encoder = msgspec.msgpack.Encoder()
pack = _encoder.encode
"""Encode a message."""

_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


def unpack(data: bytes, message: type[T]) -> T:
    """Decode a head.

    Raises:
        WireError: the bytes do not describe a ``message``.
    """
    decoder = _decoders.get(message)
    if decoder is None:
        decoder = _decoders[message] = msgspec.msgpack.Decoder(message)
    try:
        return decoder.decode(data)  # type: ignore[no-any-return]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"message is not a {getattr(message, '__name__', message)}: {error}") from None
