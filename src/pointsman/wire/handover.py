"""What processes are given when they start. Schemas; no I/O."""

from __future__ import annotations

import msgspec

from pointsman.lock.hosts import ANY
from pointsman.lock.keys import KeySpec
from pointsman.lock.origins import CorsSpec
from pointsman.lock.tls import TLSSpec
from pointsman.model import Capacity, Move, Origin
from pointsman.wire.auth import ROLE_CONSOLE, ROLE_INGRESS, derive_key
from pointsman.wire.messages import Message


class LockSettings(msgspec.Struct, frozen=True):
    """What is asked of HTTP clients; by default nothing. Keys are in it as hashes.

    Attributes:
        keys: API keys of a list.
        key_file: path of the file with the API keys; empty if there is none.
        tls: None for plain HTTP.
        cors: None for no CORS.
        allowed_hosts: names of this server.
        trusted_proxies: whose ``X-Forwarded-*`` headers count.
    """

    keys: tuple[KeySpec, ...] = ()
    key_file: str = ""
    tls: TLSSpec | None = None
    cors: CorsSpec | None = None
    allowed_hosts: tuple[str, ...] = (ANY,)
    trusted_proxies: tuple[str, ...] = ()

    @property
    def wants_key(self) -> bool:
        return bool(self.keys or self.key_file)

    @property
    def is_open(self) -> bool:
        """Whether nothing at all is asked, and nobody believed."""
        return self == LockSettings()


OPEN = LockSettings()


class HTTPSettings(msgspec.Struct, frozen=True):
    """The part of HTTPOptions that an ingress needs. ``middlewares`` was pickled by the operator's client."""

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
    ws_max_message_bytes: int = 16 * 1024 * 1024
    lock: LockSettings = OPEN
    docs: bool = True
    drain_delay_s: float = 0.0


class ConsoleSettings(msgspec.Struct, frozen=True):
    """Where the console listens, and what it asks of its users.

    Attributes:
        port: 0 for any free one.
        strict: whether a port in use is an error; otherwise another is taken.
        read_only: whether it refuses every change.
        token_file: absolute path of a file of tokens; empty if there is none.
        tls: None for plain HTTP.
        plain: plain HTTP is meant, since something in front has TLS.
        hosts: further names of this server.
    """

    host: str
    port: int
    strict: bool = True
    read_only: bool = False
    token_file: str = ""
    tls: TLSSpec | None = None
    plain: bool = False
    hosts: tuple[str, ...] = ()

    def at(self, port: int) -> ConsoleSettings:
        """These settings with the port that was bound."""
        return msgspec.structs.replace(self, port=port)

    @property
    def url(self) -> str:
        """Its base URL, for a browser on this machine."""
        host = LOOPBACKS.get(self.host, self.host)
        return f"http{'s' if self.tls else ''}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def names(self) -> tuple[str, ...]:
        """What it is called in the ``Host`` header, beside the names of the loopback."""
        own = () if self.host in LOOPBACKS else (self.host.partition("%")[0],)
        return (*own, *self.hosts)


#: The address on this machine of what listens on every address.
LOOPBACKS = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}


class MetricsPort(msgspec.Struct, frozen=True):
    """Where metrics are served. If the port is in use, ``strict`` makes that an error; otherwise another is taken."""

    host: str
    port: int
    strict: bool = True


class StartOptions(msgspec.Struct, frozen=True):
    """Options of ``start`` that the command line needs to print how an instance is started again.

    Attributes:
        engine: ``local`` or ``ray``.
        every_node: whether each node has HTTP servers.
        metrics_port: 0 for any free one, -1 for no metrics, None for the default.
        locks: further options of the command line about HTTP servers, as words.
        others: further options of the command line, as words.
    """

    engine: str = "local"
    every_node: bool = False
    metrics_port: int | None = None
    locks: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


class InstanceSettings(msgspec.Struct, frozen=True):
    """Settings of an instance, from its ``start``. Held by its driver, supervisor and controller. Replicas and HTTP
    servers do not get it, since it has the master key.

    Attributes:
        instance: id; new at each start.
        name: of a detached or foreground instance; empty for an anonymous one.
        master_key: the keys of all roles are derived from it.
        state_dir: folder of the store and the logs; empty: the instance's folder, or the cluster's store.
        http: settings of its HTTP servers; None for no HTTP.
        ingresses: number of HTTP server processes, on each node that has any.
        request_timeout_s: default timeout of a call.
        metrics: where metrics are served; None to record none.
        log_format: ``text`` or ``json``.
        client_in_replicas: whether user code in replicas may use a client of this instance.
        quiet_starts: replicas log a failed constructor in one line, since whoever deploys shows the traceback.
        start_options: options to compare with, or to repeat, when the instance is started again.
        ready_when_told: it has come up when a ComeUp command says so, and not by itself.
        holds_connections: its HTTP servers accept none before it has come up.
        spare_replicas: how many processes wait for a backend; on the local engine.
        console: None for no console.
        generation: how often another release has taken it over, and ``move`` what that means for its backends.
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
    quiet_starts: bool = False
    start_options: StartOptions = StartOptions()
    ready_when_told: bool = False
    holds_connections: bool = False
    spare_replicas: int = 0
    console: ConsoleSettings | None = None
    generation: int = 0
    move: Move | None = None

    @property
    def start(self) -> str:
        """Tells its starts apart: with another release it starts anew, under the id by which clients know it."""
        return f"{self.instance}.{self.generation}" if self.generation else self.instance

    @property
    def http_host(self) -> str | None:
        return self.http.host if self.http is not None else None

    @property
    def http_port(self) -> int:
        return self.http.port if self.http is not None else 0

    @property
    def http_lock(self) -> LockSettings:
        return self.http.lock if self.http is not None else OPEN

    @property
    def drain_delay_s(self) -> float:
        return self.http.drain_delay_s if self.http is not None else 0.0

    def on_port(self, port: int) -> InstanceSettings:
        """These settings with the HTTP port that was bound."""
        assert self.http is not None
        return msgspec.structs.replace(self, http=msgspec.structs.replace(self.http, port=port))

    def with_console_at(self, port: int) -> InstanceSettings:
        """These settings with the port of the console that was bound."""
        assert self.console is not None
        return msgspec.structs.replace(self, console=self.console.at(port))

    @property
    def console_url(self) -> str:
        """Base URL of the console; empty without one."""
        return self.console.url if self.console is not None else ""

    def for_ingress(self, identity: str, control_path: str) -> IngressHandover:
        """The handover of one HTTP server process."""
        assert self.http is not None
        return IngressHandover(
            instance=self.instance,
            identity=identity,
            control_path=control_path,
            control_key=derive_key(self.master_key, ROLE_INGRESS, identity),
            http=self.http,
            log_format=self.log_format,
            processes=self.ingresses,
            holds_connections=self.holds_connections,
        )

    def for_console(self, control_path: str) -> ConsoleHandover:
        """The handover of the console."""
        assert self.console is not None
        return ConsoleHandover(
            instance=self.instance,
            name=self.name,
            control_path=control_path,
            control_key=derive_key(self.master_key, ROLE_CONSOLE),
            settings=self.console,
            log_format=self.log_format,
        )


EPOCHS_PER_GENERATION = 2000  # so many controllers may an instance have until another release takes it over


class SupervisorOrder(msgspec.Struct, frozen=True):
    """What a supervisor needs to start an instance; written into its pipe by the driver.

    Attributes:
        folder: of the instance.
        python: interpreter of its processes.
        bound: whether the instance ends with the driver that started it, and prints its processes' output there.
        json_lines: whether each line of that is one JSON object, on standard output.
        trial: the resources that it may use while it only tries, on a copy of the state in its folder, whether it can
            take over from another release; None if it does not try. Until it is told to keep the instance, it ends
            with whoever started it.
    """

    settings: InstanceSettings
    folder: str
    python: str
    bound: bool
    capacity: Capacity
    json_lines: bool = False
    trial: Capacity | None = None

    def for_controller(self, control_path: str, *, on_copy: bool) -> ControllerHandover:
        """The handover of a controller, which uses the state itself or the copy in the instance's folder.

        Its number is beyond those that an older release has used, and that were used on the copy: numbers of replicas
        and of routing tables are made of it.
        """
        settings, epochs = self.settings, self.settings.generation * EPOCHS_PER_GENERATION
        if not on_copy or self.trial is None:
            return ControllerHandover(settings, self.folder, control_path, self.capacity, epochs=epochs)
        settings, epochs = msgspec.structs.replace(settings, state_dir=""), epochs - EPOCHS_PER_GENERATION // 2
        return ControllerHandover(settings, self.folder, control_path, self.trial, trial=True, epochs=epochs)


class ClusterHandover(msgspec.Struct, frozen=True):
    """What a controller needs to start an instance on a Ray cluster; an argument of its actor.

    Attributes:
        namespace: Ray namespace of the instance's actors.
        home: the node where the instance was started.
        every_node: whether each node has ingresses, or only ``home``.
        environ: environment variables of the operator that replicas get.
        wait_for_resources_s: how long a change may wait for nodes to join.
    """

    settings: InstanceSettings
    namespace: str
    home: str
    every_node: bool
    environ: dict[str, str]
    wait_for_resources_s: float


class ControllerHandover(Message, frozen=True):
    """What a controller is given, on either engine.

    Attributes:
        folder: of the instance, on this node.
        control_path: the control socket, of this controller and the next one.
        capacity: resources that it may allocate to replicas.
        trial: it has a copy of the state, and changes no numbers of replicas and no rollout by itself.
        epochs: added to the number of controllers that the store has counted.
    """

    settings: InstanceSettings
    folder: str
    control_path: str
    capacity: Capacity
    trial: bool = False
    epochs: int = 0


class ReplicaHandover(Message, frozen=True):
    """What a new replica process is given, through an inherited pipe: keys must not be in argv or the environment.

    Attributes:
        grant: key of the role in which user code may use a client; empty if that is switched off.
        tcp_host: address of the node, if there are others; the replica then listens there as well.
        relay: socket of the host process that is asked for the controller's address, if this process cannot reach its
            cluster.
        quiet_starts: see :class:`InstanceSettings`.
    """

    instance: str
    number: int
    control_path: str
    control_key: bytes
    address: str
    data_key: bytes
    grant: bytes
    request_timeout_s: float
    node: str = ""
    tcp_host: str = ""
    relay: str = ""
    log_format: str = "text"
    quiet_starts: bool = False


class SpareHandover(Message, frozen=True):
    """What makes a process that waits for a backend a replica.

    Attributes:
        variables: environment variables that it did not start with, or with other values.
        unset: names of those that it shall not have.
        handover: of the replica, packed.
    """

    variables: dict[str, str]
    unset: tuple[str, ...]
    handover: bytes


class IngressHandover(Message, frozen=True):
    """What a new HTTP server process is given.

    Attributes:
        identity: tells the ingresses of an instance apart; the first number in it, those of a node.
        processes: ingresses of its node.
        holds_connections: accept none before the instance has come up.
    """

    instance: str
    identity: str
    control_path: str
    control_key: bytes
    http: HTTPSettings
    log_format: str = "text"
    processes: int = 1
    holds_connections: bool = False


class ConsoleHandover(Message, frozen=True):
    """What a console is given. ``name`` is the instance's."""

    instance: str
    name: str
    control_path: str
    control_key: bytes
    settings: ConsoleSettings
    log_format: str = "text"


class MetricsHandover(Message, frozen=True):
    """What the metrics exporter of a node without the controller is given. ``namespace`` is the instance's."""

    instance: str
    namespace: str
    host: str
    port: int
    log_format: str = "text"
