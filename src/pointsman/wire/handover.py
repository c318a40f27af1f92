"""What processes are given when they start. Schemas; no I/O."""

from __future__ import annotations

import msgspec

from pointsman.model import Capacity, Origin, StartOptions
from pointsman.wire.auth import ROLE_INGRESS, derive_key
from pointsman.wire.messages import Message


class HTTPSettings(msgspec.Struct, frozen=True):
    """The part of HTTPOptions that an ingress acts on, by the same names; a test compares the defaults.

    Attributes:
        middlewares: pickled by the operator's client.
        origin: where their modules are found.
    """

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


class MetricsPort(msgspec.Struct, frozen=True):
    """Where metrics are served. With ``strict`` a port in use is an error; otherwise another one is taken."""

    host: str
    port: int
    strict: bool = True


class InstanceSettings(msgspec.Struct, frozen=True):
    """What an instance was told when it was started. Whoever acts for the whole of it holds this; replicas and HTTP
    servers do not, since it has the key from which all others come.

    Attributes:
        instance: id; another one at each start.
        name: of a detached or foreground instance; empty for an anonymous one.
        master_key: from which the keys of all roles are derived.
        state_dir: where the store and the logs are; empty: in the instance's folder, or in the cluster.
        http: of its HTTP servers; None for none.
        ingresses: processes of the HTTP server, on each node that has any.
        request_timeout_s: how long a call may take where nothing else is said.
        metrics: where they are served; None to record nothing.
        log_format: ``text`` or ``json``.
        client_in_replicas: whether user code may use a client of the instance that it runs in.
        start_options: what the instance says of itself to who wants to start it again.
    """

    instance: str
    name: str
    master_key: bytes
    state_dir: str = ""
    http: HTTPSettings | None = None
    ingresses: int = 0
    request_timeout_s: float = 60.0
    metrics: MetricsPort | None = None
    log_format: str = "text"
    client_in_replicas: bool = True
    start_options: StartOptions = StartOptions()

    @property
    def http_host(self) -> str | None:
        return self.http.host if self.http is not None else None

    @property
    def http_port(self) -> int:
        return self.http.port if self.http is not None else 0

    def on_port(self, port: int) -> InstanceSettings:
        """The same, with the HTTP port that was found free."""
        assert self.http is not None
        return msgspec.structs.replace(self, http=msgspec.structs.replace(self.http, port=port))

    def for_ingress(self, identity: str, control_path: str) -> IngressHandover:
        """What one process of the HTTP server is given."""
        assert self.http is not None
        return IngressHandover(
            instance=self.instance,
            identity=identity,
            control_path=control_path,
            control_key=derive_key(self.master_key, ROLE_INGRESS, identity),
            http=self.http,
            log_format=self.log_format,
        )


class SupervisorOrder(msgspec.Struct, frozen=True):
    """What a supervisor needs to raise an instance; written into its pipe by the driver.

    Attributes:
        folder: the instance's.
        python: interpreter of its processes.
        bound: whether the instance ends with the driver that started it, and shows there what its processes print.
    """

    settings: InstanceSettings
    folder: str
    python: str
    bound: bool
    capacity: Capacity


class ClusterHandover(msgspec.Struct, frozen=True):
    """What a controller needs to raise an instance on a Ray cluster; travels with its actor's creation.

    Attributes:
        namespace: of the instance's actors in the cluster.
        home: the node where the instance was started.
        every_node: whether each node has ingresses, or only ``home``.
        environ: what the operator has set of the variables that replicas get.
        wait_for_resources_s: how long a change may wait for nodes to join.
    """

    settings: InstanceSettings
    namespace: str
    home: str
    every_node: bool
    environ: dict[str, str]
    wait_for_resources_s: float


class ControllerHandover(Message, frozen=True):
    """What a controller is given, whichever engine hosts it.

    Attributes:
        folder: the instance's, on this node.
        control_path: where everyone finds this controller, and the next one.
        capacity: what it may hand out.
    """

    settings: InstanceSettings
    folder: str
    control_path: str
    capacity: Capacity


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
