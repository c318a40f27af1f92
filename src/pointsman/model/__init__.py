"""Immutable types that are sent between processes and stored: what the user wants, and what routers need to know.

Every part imports this module; it imports no other of Pointsman. Users' input is validated in ``config`` (form)
and ``controller.desired`` (meaning); values of these types are valid.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from pointsman.model.comparison import Comparison as Comparison
from pointsman.model.origin import CALLER as CALLER
from pointsman.model.origin import Environment as Environment
from pointsman.model.origin import Move as Move
from pointsman.model.origin import Origin as Origin
from pointsman.model.origin import Source as Source
from pointsman.model.origin import Struct as Struct
from pointsman.model.resources import ANYWHERE as ANYWHERE
from pointsman.model.resources import Allocation as Allocation
from pointsman.model.resources import Capacity as Capacity
from pointsman.model.resources import NodeCapacity as NodeCapacity
from pointsman.model.resources import Placement as Placement
from pointsman.model.resources import Resources as Resources
from pointsman.model.scaling import Autoscaling as Autoscaling
from pointsman.model.scaling import Scale as Scale

DEFAULT_SHARD_KEY = "header:x-serve-shard-key"
#: In ``http_methods``: HTTP clients may choose every public method.
ALL_METHODS = "*"
#: What calls a backend takes: requests, or those of an ASGI app.
PLAIN, ASGI = "plain", "asgi"


class Reason(str, Enum):
    """Why something is not as wanted: one list for status, logs, metrics and error bodies."""

    CONSTRUCTOR_FAILED = "constructor_failed"
    RECONFIGURE_FAILED = "reconfigure_failed"
    RECONFIGURE_TIMEOUT = "reconfigure_timeout"
    REPLICA_DIED = "replica_died"
    UNRESPONSIVE = "unresponsive"
    HEALTH_CHECK_FAILED = "health_check_failed"
    INSUFFICIENT_RESOURCES = "insufficient_resources"
    START_TIMEOUT = "start_timeout"
    DEADLINE = "deadline"
    QUEUE_FULL = "queue_full"
    DRAINING = "draining"
    RECONFIGURING = "reconfiguring"
    NO_SUCH_ENDPOINT = "no_such_endpoint"
    REJECTED = "rejected"
    BAD_BODY = "bad_body"
    INVALID = "invalid"
    MEDIA_TYPE = "media_type"
    USER_CODE = "user_code"
    UNREACHABLE = "unreachable"
    CLIENT_GONE = "client_gone"
    STREAM_BROKEN = "stream_broken"
    RECALLED = "recalled"


class ReplicaConfig(Struct, frozen=True):
    """The part of a backend's configuration that its replicas use.

    Attributes:
        user_config: pickled, and opaque to the controller; None if the user gave none.
        http_methods: methods that HTTP clients may choose beside ``__call__``; ``*`` alone is every public one.
        drain_timeout_s: longest time for draining, and also for ``close``.
    """

    max_batch_size: int = 1
    batch_wait_timeout_s: float = 0.0
    max_concurrent_batches: int = 1
    max_concurrent_queries: int = 100
    target_latency_s: float | None = None
    user_config: bytes | None = None
    http_methods: tuple[str, ...] = ()
    reconfigure_while_running: bool = False
    drain_timeout_s: float = 20.0
    max_websockets: int = 1000


class BackendConfigSpec(Struct, frozen=True):
    """A backend's whole configuration, as the controller stores it. ``config.BackendConfig`` describes the fields.
    ``None`` for ``max_batch_size`` and ``max_concurrent_queries`` means "not set by the user". How many replicas are
    wanted now is not here: see :meth:`pointsman.controller.state.Desired.wanted`."""

    num_replicas: int = 1
    max_batch_size: int | None = None
    batch_wait_timeout_s: float = 0.0
    max_concurrent_batches: int = 1
    max_concurrent_queries: int | None = None
    max_queued_queries: int = 1000
    target_latency_ms: float | None = None
    user_config: bytes | None = None
    drain_confirm_s: float = 2.0
    drain_timeout_s: float = 20.0
    health_check_period_s: float = 2.0
    health_check_timeout_s: float = 3.0
    health_check_failures: int = 3
    max_surge: int | None = None
    max_unavailable: int = 0
    rollout_watch_s: float = 3.0
    http_methods: tuple[str, ...] = ()
    reconfigure_while_running: bool = False
    max_websockets: int = 1000
    autoscaling: Autoscaling | None = None
    idle_timeout_s: float | None = None

    @property
    def query_limit(self) -> int:
        """Requests that one replica runs at a time: the user's number, or ``max(100, 2 x max_batch_size)``."""
        if self.max_concurrent_queries is not None:
            return self.max_concurrent_queries
        return max(100, 2 * (self.max_batch_size or 1))

    def for_replica(self) -> ReplicaConfig:
        return ReplicaConfig(
            max_batch_size=self.max_batch_size or 1,
            batch_wait_timeout_s=self.batch_wait_timeout_s,
            max_concurrent_batches=self.max_concurrent_batches,
            max_concurrent_queries=self.query_limit,
            target_latency_s=self.target_latency_ms / 1000 if self.target_latency_ms is not None else None,
            user_config=self.user_config,
            http_methods=self.http_methods,
            reconfigure_while_running=self.reconfigure_while_running,
            drain_timeout_s=self.drain_timeout_s,
            max_websockets=self.max_websockets,
        )


class TargetTraits(Struct, frozen=True):
    """Facts about the user's function or class, which the client finds out before it sends the code.

    Attributes:
        batches: whether the function or ``__call__`` carries the batch marker; then every method takes lists.
        has_batching_method: whether another method carries the batch marker.
        one_at_a_time: every way in is sync and takes no list, so that a replica runs one request after the other.
        surface: PLAIN or ASGI.
        api: what a typed callable takes and gives, packed by :mod:`pointsman.usercode.describing`; empty for others.
        multiplexed: whether the class loads models by id, marked with ``serve.multiplexed``.
        mixed: ``__call__`` is sync, so that its calls run one after the other, and another way in is async.
    """

    is_class: bool
    batches: bool = False
    has_reconfigure: bool = False
    has_batching_method: bool = False
    has_close: bool = False
    one_at_a_time: bool = False
    surface: str = PLAIN
    api: bytes = b""
    multiplexed: bool = False
    mixed: bool = False


class BackendSpec(Struct, frozen=True):
    """Everything about one backend.

    Attributes:
        version: grows with every change of code, init args or resources; replicas of another version are replaced.
        config_version: grows with every change of ``config``; it is sent to the replicas, which stay.
        code: digest of the stored blob, the pickled function or class with its init args.
        since: when this version was made, ISO 8601 in UTC.
    """

    tag: str
    version: int
    config_version: int
    code: str
    origin: Origin
    traits: TargetTraits
    config: BackendConfigSpec
    resources: Resources
    source: Source = Source()
    since: str = ""


class CustomPolicy(Struct, frozen=True):
    """A custom traffic policy: the import path of an object with a method ``choose``, and folders to find it in."""

    path: str
    sys_path: tuple[str, ...] = ()


class TrafficPolicy(Struct, frozen=True):
    """Which backends answer an endpoint's calls, and which get shadow calls.

    Attributes:
        version: grows with every change.
        weights: by backend; they sum to 1.
        shadows: probability, by backend, that a call is also sent to it as a shadow call; never 0.
        custom: chooses instead of weights and shard keys; None for the built-in policy.
        compared: by backend, how a shadow's answers are compared; those of others are thrown away.
    """

    version: int
    weights: dict[str, float]
    shadows: dict[str, float] = {}
    custom: CustomPolicy | None = None
    compared: dict[str, Comparison] = {}

    def same_as(self, other: TrafficPolicy) -> bool:
        """Whether the two differ in nothing but their version."""
        return msgspec.structs.replace(self, version=other.version) == other


class TrafficChange(Struct, frozen=True):
    """One line of an endpoint's traffic history: ``time`` is ISO 8601 in UTC, ``change`` the operation in words, ``by``
    the process that asked for it, by its own account."""

    policy: TrafficPolicy
    time: str
    change: str
    by: str


class TrafficHistory(Struct, frozen=True):
    """An endpoint's newest policies, oldest first; the last one is in force."""

    changes: tuple[TrafficChange, ...] = ()


class ChangeRecord(Struct, frozen=True):
    """One line of an instance's history.

    Attributes:
        version: of the state that the change made.
        time: ISO 8601 in UTC.
        by: who asked for it, by their own account.
        owner: ``name`` of the configuration file that was applied; empty if none was.
        object: what changed, such as ``backend/ranker`` or ``endpoint/rank``.
        change: in words.
    """

    version: int
    time: str
    by: str
    owner: str
    object: str
    change: str


class Pins(Struct, frozen=True):
    """Shard keys of one endpoint that are pinned to a backend, regardless of the weights."""

    keys: dict[str, str] = {}


class EndpointSpec(Struct, frozen=True):
    """A name that can be called, with at most one HTTP route.

    Attributes:
        route: HTTP path or template; None for handles only.
        idempotent: whether a call may be repeated if its replica dies.
        shard_key: where an HTTP request carries its key; the syntax is that of :mod:`pointsman.policy.shardkey`.
        request_timeout_s: deadline of its calls in seconds; None for the instance's.
        surface: that of all its backends. The route of an app is a prefix.
        max_body_bytes: largest body of a request, infinite for none; None for the instance's.
    """

    name: str
    route: str | None
    methods: tuple[str, ...]
    policy: TrafficPolicy
    idempotent: bool = False
    shard_key: str = DEFAULT_SHARD_KEY
    request_timeout_s: float | None = None
    surface: str = PLAIN
    max_body_bytes: float | None = None


class ReplicaRef(Struct, frozen=True):
    """How a router reaches one replica.

    Attributes:
        number: unique in the instance; never reused.
        tag: ``<backend>#<6 letters>``, as users see it.
        address: path of the replica's Unix socket.
        key: the secret that this replica shares with routers.
        node: id of its node; empty if there is one node only.
        tcp: its address for other nodes; empty if there is one node only.
        version: of the backend's code that it runs.
    """

    number: int
    tag: str
    address: str
    key: bytes
    node: str = ""
    tcp: str = ""
    version: int = 0


class BackendRoute(Struct, frozen=True):
    """One backend as a router sees it; ``one_at_a_time`` and ``api`` are those of its :class:`TargetTraits`.

    Attributes:
        scales: whether its number of replicas follows what calls there are, so that routers report these.
        ready_at: where it has no replica and one starts: when that should be ready, in seconds since 1970; 0 if that is
            not known.
        refused_until: where its replicas fail to start: calls that find none are refused until then, in seconds since
            1970; 0 if they may wait.
        multiplexed: whether its calls may name a model.
    """

    tag: str
    replicas: tuple[ReplicaRef, ...]
    max_concurrent_queries: int
    max_queued_queries: int
    one_at_a_time: bool = False
    max_websockets: int = 1000
    api: bytes = b""
    scales: bool = False
    ready_at: float = 0.0
    refused_until: float = 0.0
    multiplexed: bool = False


class RoutingTable(Struct, frozen=True):
    """Everything that a router needs; a router takes it only if its version is higher.

    Attributes:
        pins: packed :class:`Pins` by endpoint; a router unpacks only those that changed (10,000 take a millisecond).
        came_up: whether the instance has come up since its start; stays True until its end.
    """

    version: int
    endpoints: dict[str, EndpointSpec]
    backends: dict[str, BackendRoute]
    pins: dict[str, bytes] = {}
    came_up: bool = False


EMPTY_TABLE = RoutingTable(version=0, endpoints={}, backends={})
