"""Commands from clients to the controller, and its replies. Schemas; no I/O."""

from __future__ import annotations

from typing import Any

from pointsman.model import (
    DEFAULT_SHARD_KEY,
    BackendConfigSpec,
    Comparison,
    CustomPolicy,
    Origin,
    Resources,
    Source,
    TargetTraits,
)
from pointsman.wire.apply import Plan
from pointsman.wire.messages import Command as Command
from pointsman.wire.messages import CommandHead as CommandHead
from pointsman.wire.messages import Message, Signed
from pointsman.wire.rollouts import AwaitRollout, QueryRollout, QueryTallies, RolloutCommand
from pointsman.wire.scaling import QueryModels, ScalingCommand
from pointsman.wire.shadows import QueryExamples, QueryShadow
from pointsman.wire.tokens import QueryConsoleKey, QueryHolder, QueryTokens, TokenCommand
from pointsman.wire.views import BackendList as BackendList
from pointsman.wire.views import BackendView as BackendView
from pointsman.wire.views import FailureList as FailureList
from pointsman.wire.views import FailureView as FailureView
from pointsman.wire.views import History as History
from pointsman.wire.views import IngressView as IngressView
from pointsman.wire.views import Moves as Moves
from pointsman.wire.views import PastFailure as PastFailure
from pointsman.wire.views import ReplicaView as ReplicaView
from pointsman.wire.views import Status as Status
from pointsman.wire.views import TrafficView as TrafficView


class CreateBackend(Signed, frozen=True, tag="create_backend"):
    """Create a backend. ``code`` is the digest of the code blob in the frame's body."""

    tag: str
    code: str
    origin: Origin
    traits: TargetTraits
    config: BackendConfigSpec
    resources: Resources
    source: Source = Source()


class UpdateBackendConfig(Signed, frozen=True, tag="update_backend_config"):
    """Change those fields of a backend's BackendConfigSpec that are in ``changes``."""

    tag: str
    changes: dict[str, Any]
    user_config: bytes | None = None


class DeleteBackend(Signed, frozen=True, tag="delete_backend"):
    tag: str
    force: bool


class CreateEndpoint(Signed, frozen=True, tag="create_endpoint"):
    name: str
    backend: str
    route: str | None
    methods: tuple[str, ...]
    idempotent: bool
    shard_key: str = DEFAULT_SHARD_KEY
    request_timeout_s: float | None = None
    max_body_bytes: float | None = None


class DeleteEndpoint(Signed, frozen=True, tag="delete_endpoint"):
    name: str


class SetTraffic(Signed, frozen=True, tag="set_traffic"):
    """Set an endpoint's weights and, unless ``keep_custom``, its custom policy; ``custom`` None is the built-in one.

    Attributes:
        weights: None leaves them as they are.
        shadows: all shadows from now on, with their proportions; None leaves them as they are.
    """

    name: str
    weights: dict[str, float] | None
    custom: CustomPolicy | None = None
    keep_custom: bool = True
    shadows: dict[str, float] | None = None


class ShadowTraffic(Signed, frozen=True, tag="shadow_traffic"):
    """Mirror a share of an endpoint's calls to a backend; ``proportion`` 0 removes the shadow. Its answers are compared
    by ``comparison``, or not if that is None; with ``keep_comparison`` as they were."""

    name: str
    backend: str
    proportion: float
    comparison: Comparison | None = None
    keep_comparison: bool = True


class RollbackTraffic(Signed, frozen=True, tag="rollback_traffic"):
    """Go back to an earlier traffic policy; ``version`` None: the one before the current."""

    name: str
    version: int | None


class Pin(Signed, frozen=True, tag="pin"):
    name: str
    shard_keys: tuple[str, ...]
    backend: str


class Unpin(Signed, frozen=True, tag="unpin"):
    name: str
    shard_keys: tuple[str, ...]


class Deploy(Signed, frozen=True, tag="deploy"):
    """Create or change a backend and an endpoint of one name. None keeps the present value, or else the default."""

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
    max_body_bytes: float | None = None
    source: Source = Source()


class ReplaceBackend(Signed, frozen=True, tag="replace_backend"):
    """Replace a backend's code, init args, environment or resources, replica by replica. None keeps the present value.
    The same code as before, with no change, touches no replica."""

    tag: str
    code: str
    origin: Origin
    traits: TargetTraits
    config_changes: dict[str, Any]
    user_config: bytes | None
    resources: Resources | None
    source: Source = Source()


class Apply(Signed, frozen=True, tag="apply"):
    """Carry out a configuration file: backends come up first, then all else changes in one commit; a failure before
    that takes everything back. It goes on if the sender dies; an AwaitOperation with its ``id`` learns how it ends.

    Attributes:
        owner: ``name`` of the file.
        base: the version of the state that the plan was made for.
        codes: the code blobs, by digest.
    """

    owner: str
    base: int
    plan: Plan
    codes: dict[str, bytes] = {}


class TakeBack(Signed, frozen=True, tag="take_back"):
    """Take a running apply back. One that has ended stays as it is, and the reply says so."""

    operation: str


class ComeUp(Signed, frozen=True, tag="come_up"):
    """Record that the instance has come up, so that ``/-/readyz`` says so until its end. ``instance`` is its id."""

    instance: str


TrafficCommand = SetTraffic | ShadowTraffic | RollbackTraffic | Pin | Unpin
BackendChange = CreateBackend | UpdateBackendConfig | ReplaceBackend | Deploy
"""A command that makes or changes a backend, which may need more replicas."""
BRINGS_CODE = (CreateBackend, ReplaceBackend, Deploy)
"""Those that say which code it runs."""
ObjectChange = BackendChange | DeleteBackend | CreateEndpoint | DeleteEndpoint | TrafficCommand
"""A command that changes one backend or endpoint, or both of one name."""
Change = ObjectChange | Apply | TakeBack | ComeUp | RolloutCommand | ScalingCommand | TokenCommand
"""A command that changes the desired state."""


def backend_of(command: BackendChange) -> str:
    """The tag of the backend that a command makes or changes."""
    return command.name if isinstance(command, Deploy) else command.tag


class Await(Command, frozen=True, tag="await"):
    """Wait until a change is in effect: ingresses and the caller's router use the newest table, and ``backend``, if
    given, is exactly as wanted (or ``gone``, deleted or unloaded). Progress is sent in CHUNK frames.

    Attributes:
        brings_code: the change was about the backend's code, so that it fails if other code has replaced that.
        woken: the change was to wake it, so that it fails if its replicas do not start.
        fixed: the change was to fix its number: as many replicas are waited for as there is room for, and it fails if
            they do not start.
    """

    version: int
    backend: str | None
    gone: bool
    timeout_s: float | None
    brings_code: bool = False
    woken: bool = False
    fixed: bool = False


class AwaitIngress(Command, frozen=True, tag="await_ingress"):
    """Wait until every ingress process serves."""

    timeout_s: float


class Query(Command, frozen=True, tag="query"):
    """Read the instance's status."""


class QueryBackends(Command, frozen=True, tag="query_backends"):
    """Read the specifications of one backend by its tag, or of all, ``user_config`` included."""

    tag: str | None = None


class QueryTraffic(Command, frozen=True, tag="query_traffic"):
    """Read one endpoint's specification, pins and traffic history."""

    name: str


class QueryHistory(Command, frozen=True, tag="query_history"):
    """Read who has changed what of the instance, and when."""


class QueryDeclared(Command, frozen=True, tag="query_declared"):
    """Read what a configuration file is compared with; the reply is a :class:`~pointsman.wire.apply.Declared`."""


class AwaitOperation(Command, frozen=True, tag="await_operation"):
    """Wait until an apply has ended; the reply is an :class:`~pointsman.wire.apply.OperationView`. Progress is sent in
    CHUNK frames."""

    operation: str


class QueryFailures(Command, frozen=True, tag="query_failures"):
    """Read the last failures of a backend's replicas; the reply is a FailureList. It is a ValueError if there is no
    such backend."""

    tag: str


class QueryMoves(Command, frozen=True, tag="query_moves"):
    """Read whether the status has changed; the reply is a :class:`~pointsman.wire.views.Moves`."""


class QueryMetrics(Command, frozen=True, tag="query_metrics"):
    """Read the metrics for a summary; the reply is a :class:`~pointsman.telemetry.reports.Reading`.

    Attributes:
        names: only these; all that a summary needs, if there are none.
    """

    names: tuple[str, ...] = ()


class Shutdown(Command, frozen=True, tag="shutdown"):
    """End the instance; with ``forget`` also delete its stored state. The reply is an :class:`Ending`."""

    forget: bool = True


AnyCommand = (
    Change
    | Await
    | AwaitIngress
    | AwaitOperation
    | AwaitRollout
    | Query
    | QueryBackends
    | QueryDeclared
    | QueryFailures
    | QueryHistory
    | QueryHolder
    | QueryModels
    | QueryMoves
    | QueryTraffic
    | QueryMetrics
    | QueryTallies
    | QueryTokens
    | QueryConsoleKey
    | QueryRollout
    | QueryShadow
    | QueryExamples
    | Shutdown
)


class Accepted(Message, frozen=True):
    """Reply to a change, which is stored as ``version``; of a backend that is as wanted already, the version of its
    last change. ``note`` is a warning for the client to log, or empty."""

    version: int
    note: str = ""


class Ending(Message, frozen=True):
    """Reply to a Shutdown, and head of a STOP frame: how long running requests may take, in seconds, and how long HTTP
    servers accept more before that."""

    drain_s: float
    delay_s: float = 0.0


class Progress(Message, frozen=True):
    """Number of ready and of wanted replicas of a backend."""

    backend: str
    ready: int
    wanted: int
