"""What processes are given when they start. Schemas; no I/O."""

from __future__ import annotations

import msgspec

from pointsman.model import Capacity, Origin, StartOptions
from pointsman.wire.messages import Message


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
    node: str = ""
    tcp_host: str = ""
    """The node's address, where there are others, to which this replica listens as well."""
    relay: str = ""
    """Socket of the host that is asked where the controller is, when this process cannot ask its cluster."""
    log_format: str = "text"


class IngressHandover(Message, frozen=True):
    """``identity`` tells ingresses of one instance apart."""

    instance: str
    identity: str
    control_path: str
    control_key: bytes
    http: HTTPSettings
    log_format: str = "text"


class MetricsHandover(Message, frozen=True):
    """For who serves the metrics of a node of a cluster, where the controller of ``namespace`` is on another one."""

    instance: str
    namespace: str
    host: str
    port: int
    log_format: str = "text"


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
    control_path: str = ""
    """Where everyone finds this controller, and the next one."""
    log_format: str = "text"
    client_in_replicas: bool = True
    """Whether user code may use a client of the instance that it runs in."""
    start_options: StartOptions = StartOptions()


class HTTPSettings(msgspec.Struct, frozen=True):
    """The part of HTTPOptions that an ingress acts on. ``middlewares`` is pickled by the operator's client."""

    host: str
    port: int
    debug: bool
    request_timeout_s: float
    max_body_bytes: int
    expose_headers: bool
    middlewares: bytes
    origin: Origin
    access_log: float = 0.0
    slow_request_s: float | None = None
    keep_alive_s: float = 60.0
    head_timeout_s: float = 10.0
    body_idle_timeout_s: float = 30.0
    body_min_bytes_per_s: int = 1024


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
    log_format: str = "text"
    client_in_replicas: bool = True
    start_options: StartOptions = StartOptions()


class ClusterHandover(msgspec.Struct, frozen=True):
    """All that a controller needs to raise an instance on a Ray cluster; travels with its actor's creation.

    Attributes:
        namespace: of the instance's actors in the cluster.
        home: the node where the instance was started.
        ingresses: processes on each node that has any.
        every_node: whether each node has ingresses, or only ``home``.
        environ: what the operator has set of the variables that replicas get.
        wait_for_resources_s: how long a change may wait for nodes to join.
        metrics_host: where each node's metrics are served; None to record nothing.
        metrics_strict: whether a port in use is an error, or another one is taken.
    """

    instance: str
    name: str
    namespace: str
    state_dir: str
    master_key: bytes
    home: str
    http: HTTPSettings | None
    ingresses: int
    every_node: bool
    environ: dict[str, str]
    request_timeout_s: float
    wait_for_resources_s: float
    metrics_host: str | None = None
    metrics_port: int = 0
    metrics_strict: bool = True
    log_format: str = "text"
    client_in_replicas: bool = True
    start_options: StartOptions = StartOptions()
