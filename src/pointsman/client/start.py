"""``start`` and ``connect``: the two ways to a client."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from pointsman import actor_options as amounts
from pointsman import arguments
from pointsman import config as options
from pointsman.calling.session import credentials_here, operator
from pointsman.client.capacity import check_spares, cluster_amounts, cluster_options, local_capacity
from pointsman.client.client import DRIVER_EXIT_TIMEOUT_S, Client
from pointsman.client.listening import DEFAULT_METRICS_PORT, as_option, check_port, console_settings, metrics_port
from pointsman.client.locking import lock_settings, restart_options, warn_of_open_port
from pointsman.client.operations import origin_here
from pointsman.config import ConsoleOptions, DeploymentMode, HTTPOptions
from pointsman.context import replica_context
from pointsman.engine.base import ANY_CLUSTER, Address, Cluster, Plan
from pointsman.engine.folder import check_name
from pointsman.engine.instances import find_anywhere, find_instance, raise_instance
from pointsman.exceptions import ServeException
from pointsman.flags import START_FLAGS, words_of
from pointsman.lock.keys import ApiKey
from pointsman.model import Capacity
from pointsman.usercode.paths import absolute
from pointsman.wire.handover import ConsoleSettings, HTTPSettings, InstanceSettings, LockSettings, StartOptions

log = logging.getLogger("pointsman")


def check_log_format(log_format: str) -> str:
    """Check the format of log lines.

    Raises:
        ValueError: neither ``text`` nor ``json``.
    """
    if log_format not in ("text", "json"):
        raise ValueError(f"log_format {log_format!r} is unknown; use 'text' or 'json'")
    return log_format


def start(
    detached: bool = False,
    http_host: str | None = "127.0.0.1",
    http_port: int = 8000,
    http_middlewares: list[Any] | None = None,
    http_options: HTTPOptions | Mapping[str, Any] | None = None,
    *,
    engine: str = "local",
    name: str = "default",
    state_dir: str | os.PathLike[str] | None = None,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    memory: float | None = None,
    resources: Mapping[str, float] | None = None,
    metrics_export_port: int | None = DEFAULT_METRICS_PORT,
    address: str | None = None,
    wait_for_resources_s: float | None = None,
    allow_insecure_cluster: bool = False,
    log_format: str = "text",
    client_in_replicas: bool = True,
    api_keys: Sequence[ApiKey] | str | os.PathLike[str] | None = None,
    spare_replicas: int = 0,
    console_port: int | None = None,
    console_options: ConsoleOptions | Mapping[str, Any] | None = None,
) -> Client:
    """Start an instance and return a client for it once controller and HTTP server are ready.

    Args:
        detached: let the instance outlive this script; find it again with ``connect(name)``. Otherwise it ends with the
            script, however that ends.
        http_host, http_port, http_middlewares: deprecated; use ``http_options``.
        http_options: host, port, middlewares and limits of the HTTP server.
        engine: ``"local"``, this machine; or ``"ray"``, a Ray cluster.
        name: of a detached instance; others are anonymous.
        state_dir: folder for the state of a detached instance, which a later instance with the same folder restores.
        num_cpus: CPUs that replicas may use in all; by default they may request more than the machine has.
        num_gpus: GPUs that replicas may use; detected by default.
        memory: bytes that replicas may request in all; detected by default.
        resources: amounts of custom resources, by name.
        metrics_export_port: where Prometheus finds metrics, on the address of the HTTP server; 0 for any free port,
            None to record none. When the default port is in use, a free one is taken: see ``Client.metrics_address``.
        address: of the Ray cluster, ``"auto"`` for one that runs on this machine, ``"local"`` for a new one; by default
            the one that this process is in, else one that runs on this machine, else a new one, for which ``num_cpus``
            and the like are meant.
        wait_for_resources_s: seconds that a change may wait for nodes to join a Ray cluster that grows; 0 by default.
        allow_insecure_cluster: join a Ray cluster that other machines reach and that has no token authentication.
        log_format: ``"text"``, or ``"json"`` for log lines of one JSON object each.
        client_in_replicas: whether user code may use the instance that it runs in, by ``connect()`` and by handles.
            False restricts user code to answering requests.
        api_keys: keys of those who may use the HTTP port: a list of ``ApiKey``, or the path of a JSON file with mode
            0600, ``{"name": {"key": "...", "rate": 10}}``, which is read again within 2 s of a change. None: no keys.
        spare_replicas: how many processes wait for a backend, with all imported but user code, so that a replica starts
            some half a second earlier; each takes about 20 MB of memory. On the local engine. Default 0.
        console_port: of the page to look and steer by, and its API; 0 for any free port, None for none. See
            ``Client.console_address``; ``pointsman console`` gives a link that signs in.
        console_options: its host, file of tokens and certificate: a dict or ``ConsoleOptions``.

    Returns:
        A client of the instance. Keep a reference to it: an instance that is not detached ends with its client.

    Raises:
        ValueError, TypeError: an argument has a value that it cannot have, or ``PYTHONHASHSEED`` is 0.
        OSError: the port for HTTP, metrics or the console cannot be bound, or the host not resolved.
        ServeException: a live instance has that name, or the stored state is damaged; the text names the file.
        TimeoutError: not ready after 60 s.
    """
    arguments.check_engine(engine)
    if not isinstance(detached, bool):
        raise TypeError(f"detached must be True or False, not {detached!r}; an instance's name is given as name=...")
    http = _http_options(http_host, http_port, http_middlewares, http_options)
    if state_dir is not None and not detached:
        raise ValueError(
            f"state_dir {os.fspath(state_dir)!r} needs detached=True: other instances end with their script"
        )
    return start_named(
        check_name(name) if detached else "",
        bound=not detached,
        http_options=http,
        engine=engine,
        state_dir=state_dir,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        memory=memory,
        resources=resources,
        metrics_export_port=metrics_export_port,
        address=address,
        wait_for_resources_s=wait_for_resources_s,
        allow_insecure_cluster=allow_insecure_cluster,
        log_format=log_format,
        client_in_replicas=client_in_replicas,
        api_keys=api_keys,
        spare_replicas=spare_replicas,
        console_port=console_port,
        console_options=console_options,
    )


def start_named(
    name: str,
    *,
    bound: bool,
    http_options: HTTPOptions | Mapping[str, Any] | None = None,
    engine: str = "local",
    state_dir: str | os.PathLike[str] | None = None,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    memory: float | None = None,
    resources: Mapping[str, float] | None = None,
    metrics_export_port: int | None = DEFAULT_METRICS_PORT,
    address: str | None = None,
    wait_for_resources_s: float | None = None,
    allow_insecure_cluster: bool = False,
    log_format: str = "text",
    client_in_replicas: bool = True,
    api_keys: Sequence[ApiKey] | str | os.PathLike[str] | None = None,
    spare_replicas: int = 0,
    console_port: int | None = None,
    console_options: ConsoleOptions | Mapping[str, Any] | None = None,
    quiet_starts: bool = False,
    json_lines: bool = False,
    listener: socket.socket | None = None,
    ready_when_told: bool = False,
) -> Client:
    """:func:`start` of an instance that may have a name also if it ends with this process (``bound``).

    Args:
        name: empty for an anonymous instance.
        quiet_starts: replicas do not log the traceback of a failed constructor: the caller shows it.
        json_lines: each line that a bound instance prints is one JSON object, on standard output.
        listener: a listening socket for HTTP, closed here; the instance accepts nobody there before it has come up.
        ready_when_told: it has come up when ``Client._come_up(told=True)`` says so.
    """
    arguments.check_engine(engine)
    if listener is not None and engine != "local":
        raise ValueError(f"a socket was handed over (LISTEN_FDS), which engine {engine!r} cannot use")
    if not isinstance(client_in_replicas, bool):
        raise TypeError(f"client_in_replicas must be True or False, not {client_in_replicas!r}")
    cluster = cluster_options(engine, address, wait_for_resources_s, allow_insecure_cluster)
    given = {"num_cpus": num_cpus, "num_gpus": num_gpus, "memory": memory, "resources": resources}
    capacity = Capacity()
    if engine == "local":
        capacity = local_capacity(**given)  # type: ignore[arg-type]
    else:
        cluster = cluster._replace(amounts=cluster_amounts(**given))  # type: ignore[arg-type]
    spares = check_spares(spare_replicas, engine)
    console, of_console = console_settings(console_port, console_options)
    said: dict[str, Any] = {**given, **of_console, "wait_for_resources_s": wait_for_resources_s}
    said["log_format"] = None if log_format == "text" else log_format
    said["client_in_replicas"] = None if client_in_replicas else False
    said["spare_replicas"] = spares or None
    said["allow_insecure_cluster"] = allow_insecure_cluster or None
    return start_instance(
        name=check_name(name) if name else "",
        bound=bound,
        http=options.parse_http_options(http_options),
        state_dir=state_dir,
        capacity=capacity,
        metrics_at=check_port(metrics_export_port, "metrics_export_port"),
        engine=engine,
        cluster=cluster,
        log_format=check_log_format(log_format),
        client_in_replicas=client_in_replicas,
        api_keys=api_keys,
        spare_replicas=spares,
        console=console,
        words=words_of(START_FLAGS, said),
        quiet_starts=quiet_starts,
        json_lines=json_lines,
        listener=listener,
        ready_when_told=ready_when_told,
    )


def start_instance(
    *,
    name: str,
    bound: bool,
    http: HTTPOptions,
    state_dir: str | os.PathLike[str] | None,
    capacity: Capacity,
    metrics_at: int | None = DEFAULT_METRICS_PORT,
    engine: str = "local",
    cluster: Cluster = ANY_CLUSTER,
    log_format: str = "text",
    client_in_replicas: bool = True,
    api_keys: Any = None,
    spare_replicas: int = 0,
    console: ConsoleSettings | None = None,
    words: tuple[str, ...] = (),
    quiet_starts: bool = False,
    json_lines: bool = False,
    listener: socket.socket | None = None,
    ready_when_told: bool = False,
) -> Client:
    """Start an instance from checked arguments.

    Args:
        name: empty for an anonymous instance.
        bound: whether the instance ends with this process.
        words: of the command line that starts it again; those that follow from the other arguments are left out.
        json_lines, listener, ready_when_told: as of :func:`start_named`.

    Raises:
        OSError, ServeException, TimeoutError, ValueError: as :func:`start`.
    """
    every_node = http.location is DeploymentMode.EveryNode
    lock = lock_settings(http, api_keys)
    amounts.check_hash_seed(os.environ)  # the instance's processes inherit these variables
    settings = InstanceSettings(
        instance=secrets.token_hex(8),
        name=name,
        master_key=secrets.token_bytes(32),
        state_dir=absolute(state_dir, "state_dir") if state_dir is not None else "",
        http=http_settings(http, lock),
        ingresses=http.processes if http.serves else 0,
        request_timeout_s=http.request_timeout_s,
        metrics=metrics_port(http, metrics_at),
        log_format=log_format,
        client_in_replicas=client_in_replicas,
        quiet_starts=quiet_starts,
        start_options=StartOptions(engine, every_node, as_option(metrics_at), restart_options(http, lock), words),
        ready_when_told=ready_when_told,
        holds_connections=listener is not None,
        spare_replicas=spare_replicas,
        console=console,
    )
    plan = Plan(settings, bound, capacity, every_node, cluster, json_lines=json_lines, listener=listener)
    raised = raise_instance(plan, engine)
    try:
        client = Client(operator(raised.address), address=raised.address, raised=raised)
        client._wait_until_ready()
        raised.serves()
        if state_dir is not None:
            client._wait_for_backends()
    except BaseException as error:
        refusal = raised.refusal()
        raised.let_go()
        raised.wait_for_end(0.0 if not bound else DRIVER_EXIT_TIMEOUT_S)
        raised.release()
        if refusal and isinstance(error, Exception):
            raise ServeException(refusal) from None
        raise
    return client


def http_settings(http: HTTPOptions, lock: LockSettings) -> HTTPSettings | None:
    """The options as ingresses get them; None without HTTP servers."""
    if not http.serves:
        return None
    assert http.host is not None
    middlewares = options.pack_middlewares(http)
    warn_of_open_port(http, lock)
    made: dict[str, Any] = {"middlewares": middlewares, "origin": origin_here(), "lock": lock}
    taken: dict[str, Any] = {name: getattr(http, name) for name in HTTPSettings.__struct_fields__ if name not in made}
    return HTTPSettings(**taken, **made)


def connect(name: str = "default", *, engine: str | None = None, address: str | None = None) -> Client:
    """A client for a running instance: inside a replica the one that owns it, elsewhere the detached one of that name.

    Args:
        name: used outside replicas only.
        engine: where to look: ``"local"`` on this machine, ``"ray"`` in the Ray cluster that this process is in, or one
            that runs on this machine. By default on this machine and in the cluster that this process is in; where it
            is in none, in the one that ``RAY_ADDRESS`` names if there is no such instance on this machine.
        address: of the Ray cluster, where it is neither of these.

    Raises:
        ServeException: no such instance runs; or one here and one in the cluster, and none was chosen.
        ValueError: the name cannot name an instance.
    """
    chosen = engine or ("ray" if address is not None else "local")
    arguments.check_engine(chosen)
    cluster = cluster_options(chosen, address, None, False)
    if replica_context() is not None:
        return Client(credentials_here())
    if engine is None and address is None:
        return attach(find_anywhere(check_name(name)))
    return attach(find_instance(check_name(name), chosen, cluster.address))


def attach(address: Address) -> Client:
    """A client for a running instance of this user, named or not."""
    return Client(operator(address), address=address)


def _http_options(
    host: str | None,
    port: int,
    middlewares: list[Any] | None,
    http_options: HTTPOptions | Mapping[str, Any] | None,
) -> HTTPOptions:
    """HTTP options from ``http_options`` or from the deprecated arguments of ``start``."""
    given: dict[str, Any] = {
        name: value
        for name, value, default in (
            ("host", host, "127.0.0.1"),
            ("port", port, 8000),
            ("middlewares", middlewares or [], []),
        )
        if value != default
    }
    if not given:
        return options.parse_http_options(http_options)
    names = ", ".join(f"http_{name}" for name in given)
    if http_options is not None:
        raise ValueError(f"{names} and http_options were both given; put everything into http_options")
    warnings.warn(f"{names} of start(): deprecated, use http_options", DeprecationWarning, stacklevel=3)
    return HTTPOptions(**given)
