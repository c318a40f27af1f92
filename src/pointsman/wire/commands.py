"""What clients say to the controller, and what it answers. Schemas; no I/O."""

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
    Reason,
    Resources,
    StartOptions,
    TargetTraits,
    TrafficHistory,
)
from pointsman.wire.messages import Message


class CommandHead(Message, frozen=True):
    """The frame's body is the packed command, ``size`` bytes, and then the code blob, where the command has one."""

    size: int


class Command(msgspec.Struct, frozen=True, tag_field="command"):
    """Base of the commands. ``id`` makes a repeated delivery harmless: it is carried out once."""

    id: str


class CreateBackend(Command, frozen=True, tag="create_backend"):
    """With a code blob; ``code`` is its digest."""

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


class Signed(Command, frozen=True, kw_only=True):
    """Base of the commands that an endpoint's traffic history records. ``by`` says who sends it, in words."""

    by: str = ""


class CreateEndpoint(Signed, frozen=True, tag="create_endpoint"):
    name: str
    backend: str
    route: str | None
    methods: tuple[str, ...]
    idempotent: bool
    shard_key: str = DEFAULT_SHARD_KEY
    request_timeout_s: float | None = None


class DeleteEndpoint(Command, frozen=True, tag="delete_endpoint"):
    name: str


class SetTraffic(Signed, frozen=True, tag="set_traffic"):
    """``keep_custom`` leaves the way to choose as it is; otherwise it becomes ``custom``, None for the built-in one."""

    name: str
    weights: dict[str, float]
    custom: CustomPolicy | None = None
    keep_custom: bool = True


class ShadowTraffic(Signed, frozen=True, tag="shadow_traffic"):
    """``proportion`` 0 removes the shadow."""

    name: str
    backend: str
    proportion: float


class RollbackTraffic(Signed, frozen=True, tag="rollback_traffic"):
    """``version`` None: the policy before the one in force."""

    name: str
    version: int | None


class Pin(Command, frozen=True, tag="pin"):
    name: str
    shard_keys: tuple[str, ...]
    backend: str


class Unpin(Command, frozen=True, tag="unpin"):
    name: str
    shard_keys: tuple[str, ...]


class Deploy(Signed, frozen=True, tag="deploy"):
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
    shard_key: str | None = None
    request_timeout_s: float | None = None


TrafficCommand = SetTraffic | ShadowTraffic | RollbackTraffic | Pin | Unpin
Change = CreateBackend | UpdateBackendConfig | DeleteBackend | CreateEndpoint | DeleteEndpoint | Deploy | TrafficCommand
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


class QueryBackends(Command, frozen=True, tag="query_backends"):
    """Read what backends are to be, ``user_config`` included: of one by its tag, or of all."""

    tag: str | None = None


class QueryTraffic(Command, frozen=True, tag="query_traffic"):
    """Read all about one endpoint's traffic."""

    name: str


class QueryMetrics(Command, frozen=True, tag="query_metrics"):
    """Read the metrics that a summary needs; the reply is a :class:`~pointsman.telemetry.reports.Reading`."""


class Shutdown(Command, frozen=True, tag="shutdown"):
    """End the instance; with ``forget`` for good, its stored state included. The reply is an :class:`Ending`."""

    forget: bool = True


AnyCommand = Change | Await | AwaitIngress | Query | QueryBackends | QueryTraffic | QueryMetrics | Shutdown


class Accepted(Message, frozen=True):
    """Reply to a change: durable as ``version``. ``note`` is a warning to log, empty when there is none."""

    version: int
    note: str = ""


class Ending(Message, frozen=True):
    """Reply to a Shutdown: how long each kind of process may take to finish what runs."""

    drain_s: float


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
    remark: str = ""
    """What is odd about its health; empty when nothing is."""


class FailureView(msgspec.Struct, frozen=True):
    """The last failure of a backend, kept until it is as wanted again."""

    reason: Reason
    text: str
    traceback: str
    failures: int


class BackendView(msgspec.Struct, frozen=True):
    """``spec`` is without what may be large: ``user_config``, variables and import path. ``state`` is ``RUNNING``,
    ``UPDATING``, ``UNHEALTHY`` (not as wanted, for a reason) or ``DEPLOY_FAILED`` (the last change was taken back)."""

    spec: BackendSpec
    state: str
    ready: int
    failure: FailureView | None
    replicas: tuple[ReplicaView, ...]
    pythons: tuple[str, ...] = ()
    """Interpreters that it uses, or would go back to if its last change does not come up."""

    @property
    def is_starting(self) -> bool:
        """Whether replicas are missing, and none has failed."""
        return self.state == "UPDATING" and self.ready < self.spec.config.num_replicas


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
    metrics: dict[str, str] = {}
    """Node -> base URL of its metrics."""
    queued: dict[str, int] | None = None
    """Calls that wait in routers, by endpoint; None where nothing is recorded."""
    state_dir: str = ""
    """Where its state is stored; empty where a stop keeps none."""
    start_options: StartOptions = StartOptions()


class BackendList(msgspec.Struct, frozen=True):
    """The reply to a QueryBackends."""

    specs: dict[str, BackendSpec]


class TrafficView(msgspec.Struct, frozen=True):
    """The reply to a QueryTraffic."""

    endpoint: EndpointSpec
    pins: Pins
    history: TrafficHistory
