"""What the controller answers about an instance: its status, backends, traffic and history. Schemas; no I/O."""

from __future__ import annotations

import msgspec

from pointsman.model import BackendSpec, ChangeRecord, EndpointSpec, Pins, Reason, TrafficHistory
from pointsman.model.evidence import Window
from pointsman.model.rollout import RolloutView
from pointsman.model.scaling import ScalingView
from pointsman.wire.apply import OperationView
from pointsman.wire.handover import StartOptions


class ReplicaView(msgspec.Struct, frozen=True):
    """One replica. ``remark`` is a warning about its health; empty if there is none."""

    tag: str
    pid: int
    state: str
    gpus: tuple[int, ...]
    remark: str = ""


class FailureView(msgspec.Struct, frozen=True):
    """The last failure of a backend, kept until it is as wanted again."""

    reason: Reason
    text: str
    traceback: str
    failures: int


class PastFailure(msgspec.Struct, frozen=True):
    """One of the last failures of a backend. ``time`` is ISO 8601 in UTC; ``replica`` is its tag."""

    time: str
    replica: str
    reason: Reason
    text: str
    traceback: str


class FailureList(msgspec.Struct, frozen=True):
    """The reply to a QueryFailures: the last ten, oldest first."""

    failures: tuple[PastFailure, ...]


class BackendView(msgspec.Struct, frozen=True):
    """One backend.

    Attributes:
        spec: without fields that may be large: ``user_config``, variables and import path.
        state: ``RUNNING``, ``UPDATING``, ``SCALING`` (only the number of replicas is not as wanted), ``IDLE`` (none is
            wanted), ``UNHEALTHY`` (not as wanted, for a reason) or ``DEPLOY_FAILED`` (the last change was rolled back).
        wanted: how many replicas it shall have now.
        scaling: None where it is not autoscaled and has no ``idle_timeout_s``.
        pythons: interpreters that it uses, or will use if its last change is rolled back.
    """

    spec: BackendSpec
    state: str
    ready: int
    failure: FailureView | None
    replicas: tuple[ReplicaView, ...]
    pythons: tuple[str, ...] = ()
    wanted: int = 1
    scaling: ScalingView | None = None

    @property
    def is_starting(self) -> bool:
        """True while replicas are missing and none has failed."""
        need = self.wanted if self.scaling is None else min(self.wanted, max(1, self.scaling.min))
        return self.state in ("UPDATING", "SCALING") and self.ready < need


class IngressView(msgspec.Struct, frozen=True):
    """One HTTP server. ``up_to_date``: it uses the newest routing table."""

    pid: int
    up_to_date: bool


class Status(msgspec.Struct, frozen=True):
    """Status of an instance; the reply to a Query.

    Attributes:
        metrics: base URLs of the metrics, by node.
        queued: calls that wait in routers, by endpoint; None if metrics are off.
        state_dir: where its state is stored; empty if the state ends with the instance.
        wants_key: whether HTTP clients are asked for an API key.
        secure: whether the HTTP port has TLS.
        came_up: whether it has come up since its start.
        operation: the apply that runs; None if none does.
        rollouts: the newest of each endpoint that has had one.
        last_minute: what was counted of calls.
        console: base URL of the console; empty without one.
        release: of Pointsman that the instance runs.
    """

    version: int
    pid: int
    name: str
    http_host: str | None
    http_port: int
    endpoints: dict[str, EndpointSpec]
    backends: dict[str, BackendView]
    ingresses: tuple[IngressView, ...]
    metrics: dict[str, str] = {}
    queued: dict[str, int] | None = None
    state_dir: str = ""
    start_options: StartOptions = StartOptions()
    wants_key: bool = False
    secure: bool = False
    came_up: bool = False
    operation: OperationView | None = None
    rollouts: dict[str, RolloutView] = {}
    last_minute: Window = Window(None, {})
    console: str = ""
    release: str = ""


class Moves(msgspec.Struct, frozen=True):
    """The reply to a QueryMoves: what moves by itself in the status, and whether anything else in it has changed.

    Attributes:
        mark: another number says that the status has changed in more than what is here.
        scaling: of backends whose number of replicas follows their calls, without those that have none.
        rollouts: those that have not ended, by endpoint.
    """

    mark: int
    scaling: dict[str, ScalingView]
    rollouts: dict[str, RolloutView]


class BackendList(msgspec.Struct, frozen=True):
    """The reply to a QueryBackends."""

    specs: dict[str, BackendSpec]


class History(msgspec.Struct, frozen=True):
    """The reply to a QueryHistory: the newest changes, oldest first."""

    changes: tuple[ChangeRecord, ...]


class TrafficView(msgspec.Struct, frozen=True):
    """The reply to a QueryTraffic."""

    endpoint: EndpointSpec
    pins: Pins
    history: TrafficHistory
