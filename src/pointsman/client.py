"""``start``, ``connect`` and the client: one method per operation on an instance."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sys
import warnings
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn, overload

from pointsman import config as options
from pointsman.config import BackendConfig, HTTPOptions
from pointsman.context import replica_context
from pointsman.engine.folder import check_name
from pointsman.engine.local import Address, Plan, Raised, find_instance, raise_instance
from pointsman.exceptions import ServeException
from pointsman.handle import AsyncServeHandle, ServeHandle
from pointsman.model import Capacity, EndpointSpec, Origin
from pointsman.policy.routes import parse_route
from pointsman.progress import ProgressLine
from pointsman.session import Credentials, Session, credentials_here, session_for
from pointsman.usercode import code_digest, look_at, pack_code
from pointsman.wire.auth import ROLE_OPERATOR
from pointsman.wire.messages import (
    Accepted,
    Await,
    AwaitIngress,
    Change,
    CreateBackend,
    CreateEndpoint,
    DeleteBackend,
    DeleteEndpoint,
    Deploy,
    HTTPSettings,
    Query,
    SetTraffic,
    Shutdown,
    Status,
    UpdateBackendConfig,
    unpack,
)

log = logging.getLogger("pointsman")

START_TIMEOUT_S = 60.0
SHUTDOWN_TIMEOUT_S = 60.0
DRIVER_EXIT_TIMEOUT_S = 5.0


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
) -> Client:
    """Start an instance and return a client for it once controller and HTTP server are ready.

    Args:
        detached: let the instance outlive this script; find it again with ``connect(name)``. Otherwise it ends with the
            script, however that ends.
        http_host, http_port, http_middlewares: deprecated; use ``http_options``.
        http_options: host, port, middlewares and limits of the HTTP server.
        engine: ``"local"``.
        name: of a detached instance; others are anonymous.
        state_dir: folder for the state of a detached instance, which then also survives a restart of the whole.
        num_cpus: CPUs that replicas may use in all; without it more may be asked for than the machine has.
        num_gpus: GPUs that replicas may use; detected by default.
        memory: bytes that replicas may ask for in all; detected by default.
        resources: custom resources, name -> amount.

    Raises:
        ValueError, TypeError: an argument has a value that it cannot have.
        OSError: the HTTP port cannot be bound, or the host not resolved.
        ServeException: a live instance has that name.
        TimeoutError: not ready after 60 s.
    """
    options.check_engine(engine)
    http = _http_options(http_host, http_port, http_middlewares, http_options)
    if state_dir is not None and not detached:
        raise ValueError(
            f"state_dir {os.fspath(state_dir)!r} needs detached=True: other instances end with their script"
        )
    return start_instance(
        name=check_name(name) if detached else "",
        bound=not detached,
        http=http,
        state_dir=state_dir,
        capacity=local_capacity(num_cpus, num_gpus, memory, resources),
    )


def start_instance(
    *, name: str, bound: bool, http: HTTPOptions, state_dir: str | os.PathLike[str] | None, capacity: Capacity
) -> Client:
    """:func:`start` after its arguments were checked; the command line also starts named instances that are bound."""
    settings = None
    if http.serves:
        assert http.host is not None
        settings = HTTPSettings(
            host=http.host,
            port=http.port,
            debug=http.debug,
            request_timeout_s=http.request_timeout_s,
            max_body_bytes=http.max_body_bytes,
            middlewares=options.pack_middlewares(http),
            origin=_origin(),
        )
    raised = raise_instance(
        Plan(
            name=name,
            bound=bound,
            state_dir=str(Path(state_dir).absolute()) if state_dir is not None else "",
            http=settings,
            ingresses=http.processes,
            capacity=capacity,
            request_timeout_s=http.request_timeout_s,
        )
    )
    try:
        client = Client(_operator(raised.address), address=raised.address, raised=raised)
        client._wait_until_ready()
    except BaseException:
        raised.let_go()
        raised.wait_for_end(0.0 if not bound else DRIVER_EXIT_TIMEOUT_S)
        raise
    return client


def connect(name: str = "default", *, engine: str | None = None) -> Client:
    """A client for a running instance: inside a replica the one that owns it, elsewhere the detached one of that name.

    Args:
        name: looked at outside replicas only.
        engine: ``"local"`` or None.

    Raises:
        ServeException: no such instance runs.
        ValueError: the name cannot name an instance.
    """
    if engine is not None:
        options.check_engine(engine)
    if replica_context() is not None:
        return Client(credentials_here())
    address = find_instance(check_name(name))
    return Client(_operator(address), address=address)


class Client:
    """Operates one instance. Use it from any thread; as a context manager it shuts the instance down at the end.

    Not for direct use: :func:`start` and :func:`connect` make clients.
    """

    def __init__(
        self, credentials: Credentials, *, address: Address | None = None, raised: Raised | None = None
    ) -> None:
        self._credentials = credentials
        self._address = address
        self._raised = raised
        self._shut_down = False
        self._session: Session = session_for(credentials)
        self._finalizer: weakref.finalize[..., Any] | None = None
        if raised is not None and raised.bound:
            self._finalizer = weakref.finalize(self, _end_with_driver, raised, self._session)
            self._finalizer.atexit = True

    @property
    def http_address(self) -> str | None:
        """Base URL of the instance's HTTP server; None without one, or inside a replica."""
        if self._address is None or self._address.http_host is None:
            return None
        host = self._address.http_host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._address.http_port}"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        return f"<Client of instance {self._credentials.instance}{' (shut down)' if self._shut_down else ''}>"

    def __reduce__(self) -> NoReturn:
        raise ServeException("a Client cannot be pickled; use connect() where it is needed, or pass a handle")

    def shutdown(self) -> None:
        """End the instance for good: HTTP servers, replicas and controller stop, its stored state is forgotten.

        Requests under way are finished first. May be called again.
        """
        if self._shut_down:
            return
        self._shut_down = True
        try:
            self._session.command(Shutdown(_new_id()))
        except ServeException as error:
            log.debug("the instance had ended already: %s", error)
        if self._address is not None:
            self._await_end(self._address)
        self._session.close()
        if self._finalizer is not None:
            self._finalizer.detach()

    # Endpoints

    def create_endpoint(
        self,
        endpoint_name: str,
        *,
        backend: str | None = None,
        route: str | None = None,
        methods: list[str] | None = None,
        idempotent: bool = False,
    ) -> None:
        """Give a backend a name that can be called, and perhaps an HTTP route.

        Args:
            endpoint_name: 1-200 printable characters without ``/``.
            backend: tag of the backend that gets all traffic at first.
            route: HTTP path, exact (``/digits``) or a template (``/x/{id}``, ``/files/{rest:path}``); None for
                handles only.
            methods: HTTP methods; default ``["GET"]``.
            idempotent: whether a request that had started may be repeated when its replica dies.

        Raises:
            TypeError, ValueError: an argument is wrong, the backend unknown, or name or route taken.
            TimeoutError: not every HTTP server serves the route after 60 s.
        """
        name = options.check_object_name(endpoint_name, "endpoint_name")
        if not isinstance(backend, str):
            raise TypeError(f"backend must be the tag of a backend, a str, not {backend!r}")
        route = _check_route(route)
        command = CreateEndpoint(_new_id(), name, backend, route, _check_methods(methods, ("GET",)), bool(idempotent))
        self._change(command)

    def delete_endpoint(self, endpoint: str) -> None:
        """Remove an endpoint; its backends stay. An unknown one is logged and ignored."""
        self._change(DeleteEndpoint(_new_id(), options.check_object_name(endpoint, "endpoint")))

    def list_endpoints(self) -> dict[str, dict[str, Any]]:
        """``{name: {"route", "methods", "traffic", "shadows"}}``."""
        return {name: _endpoint_view(spec) for name, spec in self._status().endpoints.items()}

    def set_traffic(self, endpoint_name: str, traffic_policy_dictionary: Mapping[str, float]) -> None:
        """Split an endpoint's traffic between backends, from the next request on.

        Args:
            traffic_policy_dictionary: backend tag -> weight; weights are at least 0 and sum to 1.

        Raises:
            TypeError: not a dict, or a weight that is no number.
            ValueError: a bad weight or sum, an unknown endpoint or backend. Nothing has changed.
        """
        weights = traffic_policy_dictionary
        if not isinstance(weights, dict):
            raise TypeError(f"the traffic policy must be a dict of backend to weight, not {weights!r}")
        for tag, weight in weights.items():
            if isinstance(weight, bool) or not isinstance(weight, (int, float)):
                raise TypeError(f"weight of backend {tag!r} must be a number, not {weight!r}")
            if not isinstance(tag, str):
                raise TypeError(f"the traffic policy has the key {tag!r}, which is not a str")
        name = options.check_object_name(endpoint_name, "endpoint_name")
        self._change(SetTraffic(_new_id(), name, {tag: float(weight) for tag, weight in weights.items()}))

    # Backends

    def create_backend(
        self,
        backend_tag: str,
        func_or_class: Callable[..., Any] | type,
        *actor_init_args: Any,
        ray_actor_options: Mapping[str, Any] | None = None,
        config: BackendConfig | Mapping[str, Any] | None = None,
    ) -> None:
        """Start replicas of a function or class; returns when all of them are ready.

        Args:
            backend_tag: 1-200 printable characters without ``/``.
            func_or_class: called with one request (or a list of them, when marked by ``@accept_batch``).
            actor_init_args: positional arguments of the class's constructor.
            ray_actor_options: resources of each replica: ``num_cpus``, ``num_gpus``, ``memory``, ``resources``,
                ``env_vars``.
            config: a :class:`BackendConfig` or a dict of its fields.

        Raises:
            TypeError, ValueError: an argument is wrong, or the tag is taken.
            InsufficientResourcesError: there is not enough for all replicas.
            BackendStartError: the constructor failed on every try; its cause is the user's exception.
        """
        tag = options.check_object_name(backend_tag, "backend_tag")
        spec = options.config_spec(config)
        resources = options.parse_actor_options(ray_actor_options)
        traits = look_at(func_or_class, actor_init_args)
        blob = pack_code(func_or_class, actor_init_args)
        command = CreateBackend(_new_id(), tag, code_digest(blob), _origin(), traits, spec, resources)
        self._change(command, blob, backend=tag)

    def update_backend_config(self, backend_tag: str, config_options: BackendConfig | Mapping[str, Any]) -> None:
        """Change fields of a backend's config; returns when every replica has the change.

        Only fields that are given change. Replicas are started and stopped only for ``num_replicas``.

        Raises:
            TypeError, ValueError: an argument is wrong, or the backend unknown.
            InsufficientResourcesError, BackendStartError: the change cannot be made; the old config is in force.
        """
        if config_options is None:
            raise TypeError("config_options must be a dict or a BackendConfig, not None")
        changes, user_config = options.config_changes(config_options, "config_options")
        tag = options.check_object_name(backend_tag, "backend_tag")
        self._change(UpdateBackendConfig(_new_id(), tag, changes, user_config), backend=tag)

    def get_backend_config(self, backend_tag: str) -> BackendConfig:
        """A backend's config.

        Raises:
            ValueError: there is no such backend.
        """
        backends = self.list_backends()
        if backend_tag not in backends:
            raise ValueError(f"backend {backend_tag!r} does not exist; there are {sorted(backends)}")
        return backends[backend_tag]

    def list_backends(self) -> dict[str, BackendConfig]:
        """Each backend's config, by tag."""
        return {tag: options.config_from_spec(view.spec.config) for tag, view in self._status().backends.items()}

    def delete_backend(self, backend_tag: str, force: bool = False) -> None:
        """Remove a backend that no endpoint uses; returns when its replicas are gone. An unknown one is logged and
        ignored.

        Args:
            force: kill the replicas at once instead of letting them finish what they run.

        Raises:
            ValueError: an endpoint uses it.
        """
        tag = options.check_object_name(backend_tag, "backend_tag")
        self._change(DeleteBackend(_new_id(), tag, bool(force)), backend=tag, gone=True)

    def deploy(
        self,
        name: str,
        func_or_class: Callable[..., Any] | type,
        *init_args: Any,
        route: str | None = None,
        methods: list[str] | None = None,
        config: BackendConfig | Mapping[str, Any] | None = None,
        ray_actor_options: Mapping[str, Any] | None = None,
        idempotent: bool | None = None,
    ) -> None:
        """Make backend and endpoint under one name; on a name that exists, replace the code without losing a request.

        What is left out keeps its present value on a re-deploy; on a new name ``methods`` are GET and POST, and without
        ``route`` the endpoint is for handles only.

        Raises:
            TypeError, ValueError: an argument is wrong, or the endpoint of that name uses other backends.
            InsufficientResourcesError, BackendStartError: the new version cannot come up; all is as it was.
        """
        options.check_object_name(name, "name")
        changes, user_config = options.config_changes(config, "config")
        resources = options.parse_actor_options(ray_actor_options) if ray_actor_options is not None else None
        traits = look_at(func_or_class, init_args)
        blob = pack_code(func_or_class, init_args)
        command = Deploy(
            _new_id(),
            name,
            code_digest(blob),
            _origin(),
            traits,
            changes,
            user_config,
            resources,
            _check_route(route),
            _check_methods(methods, None),
            idempotent,
        )
        self._change(command, blob, backend=name)

    # Handles and status

    @overload
    def get_handle(self, endpoint_name: str, missing_ok: bool = ..., sync: Literal[True] = ...) -> ServeHandle: ...

    @overload
    def get_handle(self, endpoint_name: str, missing_ok: bool = ..., *, sync: Literal[False]) -> AsyncServeHandle: ...

    def get_handle(
        self, endpoint_name: str, missing_ok: bool = False, sync: bool = True
    ) -> ServeHandle | AsyncServeHandle:
        """A handle that calls an endpoint.

        Args:
            missing_ok: allow an endpoint that does not exist yet; calls wait for it, within their deadline.
            sync: a handle for threads; False for one that is used with ``await`` in an event loop.

        Raises:
            KeyError: there is no such endpoint.
        """
        name = options.check_object_name(endpoint_name, "endpoint_name")
        self._check_alive()
        if not missing_ok and name not in self._session.router().table.endpoints and name not in self.list_endpoints():
            raise KeyError(f"endpoint {name!r} does not exist; there are {sorted(self.list_endpoints())}")
        in_loop = _in_event_loop()
        if sync == in_loop:
            kind, other = ("sync", "inside") if sync else ("async", "outside")
            log.warning("a %s handle was taken %s a running event loop", kind, other)
        kind_of_handle = ServeHandle if sync else AsyncServeHandle
        return kind_of_handle(name, self._credentials, missing_ok=missing_ok)

    def status(self) -> dict[str, Any]:
        """What runs and what does not, and why: plain dicts, ready for JSON.

        Per backend its state (``RUNNING``, ``UPDATING``, ``UNHEALTHY``, ``DEPLOY_FAILED``), replicas wanted and
        running, each replica's tag, pid and state, and the last failure with its traceback.
        """
        status = self._status()
        return {
            "name": status.name,
            "version": status.version,
            "controller_pid": status.pid,
            "http": {
                "address": self.http_address,
                "ingresses": [{"pid": i.pid, "up_to_date": i.up_to_date} for i in status.ingresses],
            },
            "endpoints": {name: _endpoint_view(spec) for name, spec in status.endpoints.items()},
            "backends": {
                tag: {
                    "state": view.state,
                    "replicas_wanted": view.spec.config.num_replicas,
                    "replicas_running": view.ready,
                    "replicas": [
                        {"tag": r.tag, "pid": r.pid, "state": r.state, "gpus": list(r.gpus)} for r in view.replicas
                    ],
                    "failure": None
                    if view.failure is None
                    else {
                        "reason": view.failure.reason.value,
                        "text": view.failure.text,
                        "traceback": view.failure.traceback,
                        "failures": view.failure.failures,
                    },
                }
                for tag, view in status.backends.items()
            },
        }

    # Inside

    def _wait_until_ready(self) -> None:
        command = AwaitIngress(_new_id(), START_TIMEOUT_S)
        self._session.command(command)

    def _status(self) -> Status:
        self._check_alive()
        return unpack(self._session.command(Query(_new_id())), Status)

    def _change(self, command: Change, blob: bytes = b"", *, backend: str | None = None, gone: bool = False) -> None:
        """Have a change accepted, then wait until it is in effect."""
        self._check_alive()
        accepted = unpack(self._session.command(command, blob), Accepted)
        if accepted.note:
            log.warning("%s", accepted.note)
        timeout_s = None if backend is not None else START_TIMEOUT_S
        wait = Await(_new_id(), accepted.version, backend, gone, timeout_s)
        with ProgressLine() as line:
            self._session.command(wait, progress=line.show)

    def _check_alive(self) -> None:
        if self._shut_down:
            raise ServeException("the client was shut down")

    def _await_end(self, address: Address) -> None:
        if self._raised is not None:
            self._raised.wait_for_end(SHUTDOWN_TIMEOUT_S)
            self._raised.let_go()
        else:
            address.folder.wait_for_end()


def _operator(address: Address) -> Credentials:
    return Credentials(
        address.instance, address.control_path, ROLE_OPERATOR, "", address.key, address.request_timeout_s
    )


def _end_with_driver(raised: Raised, session: Session) -> None:
    """A bound instance ends with its client: called when that is collected, and at interpreter exit."""
    session.close()
    raised.let_go()
    raised.wait_for_end(DRIVER_EXIT_TIMEOUT_S)


def _http_options(
    host: str | None,
    port: int,
    middlewares: list[Any] | None,
    http_options: HTTPOptions | Mapping[str, Any] | None,
) -> HTTPOptions:
    """HTTP options from either of the two ways to give them."""
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
    warnings.warn(f"{names} of start() is deprecated; use http_options", DeprecationWarning, stacklevel=3)
    return HTTPOptions(**given)


def local_capacity(
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    memory: float | None = None,
    resources: Mapping[str, float] | None = None,
) -> Capacity:
    """What the local engine may hand out; what is not given is detected, and CPUs are then soft.

    Raises:
        TypeError, ValueError: an amount is wrong.
    """
    gpus = options.detect_gpus()
    asked = options.check_capacity("num_gpus", num_gpus)
    if asked is not None and asked % 1:
        raise ValueError(f"num_gpus {num_gpus!r} of start() must be a whole number")
    count = len(gpus) if asked is None else int(asked)
    given_memory = options.check_capacity("memory", memory)
    return Capacity(
        num_cpus=options.check_capacity("num_cpus", num_cpus),
        num_gpus=count,
        memory=options.detect_memory() if given_memory is None else given_memory,
        custom=options.parse_custom_resources(resources, "resources"),
        gpu_ids=gpus[:count] if len(gpus) >= count else (),
    )


def _check_route(route: Any) -> str | None:
    if route is None:
        return None
    if not isinstance(route, str) or not route.startswith("/"):
        raise TypeError(f"route must be a str that starts with '/', not {route!r}")
    parse_route(route)
    return route


@overload
def _check_methods(methods: Any, default: tuple[str, ...]) -> tuple[str, ...]: ...


@overload
def _check_methods(methods: Any, default: None) -> tuple[str, ...] | None: ...


def _check_methods(methods: Any, default: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if methods is None:
        return default
    if not isinstance(methods, list):
        raise TypeError(f"methods must be a list of str, not {methods!r}")
    for method in methods:
        if not isinstance(method, str):
            raise TypeError(f"methods must be a list of str, and it has {method!r}")
    if not methods:
        raise ValueError("methods [] allows no request; name at least one, such as 'GET'")
    return tuple(dict.fromkeys(method.upper() for method in methods))


def _endpoint_view(spec: EndpointSpec) -> dict[str, Any]:
    return {
        "route": spec.route,
        "methods": list(spec.methods),
        "traffic": dict(spec.policy.weights),
        "shadows": {},
    }


def _origin() -> Origin:
    return Origin(os.getcwd(), tuple(os.path.abspath(entry) for entry in sys.path))


def _new_id() -> str:
    return secrets.token_hex(8)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
