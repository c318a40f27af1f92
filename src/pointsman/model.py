"""The frozen nouns that cross process borders: what is wanted, and what a router needs to know.

Everyone imports this module; it imports nothing of ours. Validation of what users write is in ``config`` (shape) and
``controller.desired`` (meaning); a value of these types is taken as valid.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import msgspec

DEFAULT_SHARD_KEY = "header:x-serve-shard-key"
ALL_METHODS = "*"
"""Among the methods that HTTP clients may choose: every public one."""
CALLER = "caller"
"""The kind of environment that a backend is in when it names none: that of the process which shipped the code."""


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """Base of the nouns: immutable, compared by value, unknown fields from a newer peer tolerated."""


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
    USER_CODE = "user_code"
    UNREACHABLE = "unreachable"
    CLIENT_GONE = "client_gone"
    STREAM_BROKEN = "stream_broken"


class Placement(Struct, frozen=True):
    """On which nodes of a cluster replicas may run.

    Attributes:
        node: the only one; with ``prefer`` the first, where it lives and has room.
        labels: what a node's labels must be, by their names; of several the first that some node meets.
        group: a placement group's id, in which all amounts are counted; ``bundle`` -1 is any of its bundles.
        capture: whether what user code starts in the cluster runs in the group too.
    """

    node: str = ""
    prefer: bool = False
    labels: tuple[dict[str, str], ...] = ()
    group: str = ""
    bundle: int = -1
    capture: bool = False

    def __str__(self) -> str:
        if self.group:
            return f"placement group {self.group}" + (f", bundle {self.bundle}" if self.bundle >= 0 else "")
        if self.labels:
            return "nodes with labels " + " or ".join(str(selector) for selector in self.labels)
        return f"node {self.node}"


ANYWHERE = Placement()


class Resources(Struct, frozen=True):
    """What one replica needs. Amounts may be fractions; ``memory`` is in bytes.

    Attributes:
        env_vars: variables of its process; they win over all others.
        working_dir: folder that it works in, and that comes first in its import path; empty for the shipper's.
        py_modules: packages and modules that it can import, by absolute path.
        placement: where on a cluster.
    """

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    memory: float = 0.0
    custom: dict[str, float] = {}
    env_vars: dict[str, str] = {}
    working_dir: str = ""
    py_modules: tuple[str, ...] = ()
    placement: Placement = ANYWHERE


class ReplicaConfig(Struct, frozen=True):
    """The part of a backend's configuration that its replicas act on."""

    max_batch_size: int = 1
    batch_wait_timeout_s: float = 0.0
    max_concurrent_batches: int = 1
    max_concurrent_queries: int = 100
    target_latency_s: float | None = None
    user_config: bytes | None = None
    """Pickled, opaque to the controller; None when the user gave none."""
    http_methods: tuple[str, ...] = ()
    reconfigure_while_running: bool = False
    drain_timeout_s: float = 20.0
    """Also the longest time that ``close`` may take."""


class BackendConfigSpec(Struct, frozen=True):
    """A backend's whole configuration, as the controller stores it.

    ``None`` for ``max_batch_size`` and ``max_concurrent_queries`` means "not set by the user".
    """

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
    """What HTTP clients may choose beside ``__call__``; ``*`` alone is every public method."""
    reconfigure_while_running: bool = False

    @property
    def query_limit(self) -> int:
        """Queries that one replica runs at a time: the user's number, or ``max(100, 2 x max_batch_size)``."""
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
        )


class TargetTraits(Struct, frozen=True):
    """What the client learned by looking at the user's function or class before shipping it."""

    is_class: bool
    batches: bool = False
    """The batch marker stands on the function or on ``__call__``: every method takes lists."""
    has_reconfigure: bool = False
    has_batching_method: bool = False
    """Some method other than ``__call__`` carries the batch marker."""
    has_close: bool = False


class Environment(Struct, frozen=True):
    """A Python environment, resolved to what starts a process in it.

    Attributes:
        kind: :data:`CALLER`, ``virtualenv``, ``conda`` or ``requirements``.
        name: what its user calls it.
        python: absolute path of its interpreter.
        version: of its Python, such as ``3.12.1``.
        variables: set in its processes.
        unset: names of variables that its processes do not inherit.
        path: folders that come first in their ``PATH``.
    """

    kind: str
    name: str
    python: str
    version: str
    variables: dict[str, str] = {}
    unset: tuple[str, ...] = ()
    path: tuple[str, ...] = ()

    def over(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """All variables of a process of this environment whose parent has ``inherited``."""
        kept = {name: value for name, value in inherited.items() if name not in self.unset}
        variables = {**kept, **self.variables}
        folders = [*self.path, *([variables["PATH"]] if variables.get("PATH") else [])]
        return {**variables, "PATH": ":".join(folders)} if folders else variables

    def __str__(self) -> str:
        return f"{self.kind} environment {self.name!r}"


class Origin(Struct, frozen=True):
    """Where code was shipped from: its replicas work in that folder, find modules as the shipping process does, and
    run in that environment; None is the instance's own."""

    cwd: str
    sys_path: tuple[str, ...]
    environment: Environment | None = None


class BackendSpec(Struct, frozen=True):
    """Everything about one backend.

    Attributes:
        version: grows with every change of code, init args, or resources; replicas of another version are replaced.
        config_version: grows with every change of ``config``; replicas are told, not replaced.
        code: digest of the stored blob that holds the pickled function or class with its init args.
    """

    tag: str
    version: int
    config_version: int
    code: str
    origin: Origin
    traits: TargetTraits
    config: BackendConfigSpec
    resources: Resources


class CustomPolicy(Struct, frozen=True):
    """A user's own way to choose: the import path of an object with a method ``choose``, and where to look for it."""

    path: str
    sys_path: tuple[str, ...] = ()


class TrafficPolicy(Struct, frozen=True):
    """Who answers an endpoint's calls, and who gets copies of them.

    Attributes:
        version: grows with every change.
        weights: by backend; they sum to 1.
        shadows: probability that a backend gets a copy of a call, by backend; never 0.
        custom: chooses in place of weights and keys; None for the built-in way.
    """

    version: int
    weights: dict[str, float]
    shadows: dict[str, float] = {}
    custom: CustomPolicy | None = None

    def same_as(self, other: TrafficPolicy) -> bool:
        """Whether the two differ in nothing but their version."""
        return msgspec.structs.replace(self, version=other.version) == other


class TrafficChange(Struct, frozen=True):
    """One line of an endpoint's traffic history.

    Attributes:
        policy: as it was from then on.
        time: when, as ISO 8601 in UTC.
        change: what made it, in words.
        by: who, as they call themselves.
    """

    policy: TrafficPolicy
    time: str
    change: str
    by: str


class TrafficHistory(Struct, frozen=True):
    """An endpoint's newest policies, oldest first; the last one is in force."""

    changes: tuple[TrafficChange, ...] = ()


class Pins(Struct, frozen=True):
    """Shard keys of one endpoint that are forced to a backend, whatever the weights say."""

    keys: dict[str, str] = {}


class EndpointSpec(Struct, frozen=True):
    """A name that can be called, with at most one HTTP route.

    ``shard_key`` says where an HTTP request carries its key, as :mod:`pointsman.policy.shardkey` reads it.
    """

    name: str
    route: str | None
    methods: tuple[str, ...]
    policy: TrafficPolicy
    idempotent: bool = False
    shard_key: str = DEFAULT_SHARD_KEY
    request_timeout_s: float | None = None
    """None for the instance's."""


class ReplicaRef(Struct, frozen=True):
    """How a router reaches one replica.

    Attributes:
        number: unique in the instance, never used again.
        tag: ``<backend>#<6 letters>``, as users see it.
        address: path of the replica's Unix socket.
        key: the secret that this replica shares with routers.
        node: where it runs; empty where there is one node only.
        tcp: its address for other nodes; empty where there are none.
    """

    number: int
    tag: str
    address: str
    key: bytes
    node: str = ""
    tcp: str = ""


class BackendRoute(Struct, frozen=True):
    """One backend as a router sees it."""

    tag: str
    replicas: tuple[ReplicaRef, ...]
    max_concurrent_queries: int
    max_queued_queries: int


class RoutingTable(Struct, frozen=True):
    """All that a router needs, whole. A table replaces another only when its version is higher.

    ``pins`` has packed :class:`Pins` by endpoint: ten thousand of them take a millisecond to unpack, and a router need
    not do that for each table, only for those that changed them.
    """

    version: int
    endpoints: dict[str, EndpointSpec]
    backends: dict[str, BackendRoute]
    pins: dict[str, bytes] = {}


EMPTY_TABLE = RoutingTable(version=0, endpoints={}, backends={})


class Allocation(Struct, frozen=True):
    """What one replica holds of its node, and which GPUs by index. ``node`` is empty where there is only one."""

    resources: Resources
    gpus: tuple[int, ...] = ()
    node: str = ""


class NodeCapacity(Struct, frozen=True):
    """What the instance may hand out on one node.

    ``num_cpus`` is None where CPUs are soft (local engine without ``start(num_cpus=...)``).
    """

    num_cpus: float | None = None
    num_gpus: int = 0
    memory: float = 0.0
    custom: dict[str, float] = {}
    labels: dict[str, str] = {}
    gpu_ids: tuple[str, ...] = ()
    """What ``CUDA_VISIBLE_DEVICES`` calls the GPUs, in order; empty means 0, 1, 2, ..."""


class Capacity(NodeCapacity, frozen=True):
    """What the instance may hand out in all: on its one node, or, where ``nodes`` is not None, on each of those."""

    nodes: dict[str, NodeCapacity] | None = None


class StartOptions(Struct, frozen=True):
    """With what an instance was started, as far as the command line has options for it that nothing else tells.

    Attributes:
        engine: ``local`` or ``ray``.
        every_node: whether each node has HTTP servers.
        metrics_port: 0 for any free one, -1 for no metrics, None for the default.
    """

    engine: str = "local"
    every_node: bool = False
    metrics_port: int | None = None
