"""The client: one method per operation on an instance. ``start`` and ``connect`` make clients."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sys
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Literal, NoReturn, overload

from pointsman import config as options
from pointsman.config import BackendConfig
from pointsman.engine.local import Address, Raised
from pointsman.exceptions import ServeException
from pointsman.handle import AsyncServeHandle, ServeHandle
from pointsman.model import Origin
from pointsman.progress import ProgressLine
from pointsman.resources import parse_actor_options
from pointsman.session import Credentials, Session, session_for
from pointsman.statusview import endpoint_view, status_view
from pointsman.usercode import code_digest, look_at, pack_code
from pointsman.wire.commands import (
    Accepted,
    Await,
    AwaitIngress,
    Change,
    CreateBackend,
    CreateEndpoint,
    DeleteBackend,
    DeleteEndpoint,
    Deploy,
    Query,
    SetTraffic,
    Shutdown,
    Status,
    UpdateBackendConfig,
)
from pointsman.wire.messages import unpack

log = logging.getLogger("pointsman")

START_TIMEOUT_S = 60.0
SHUTDOWN_TIMEOUT_S = 60.0
DRIVER_EXIT_TIMEOUT_S = 5.0


class Client:
    """Operates one instance. Use it from any thread; as a context manager it shuts the instance down at the end.

    Not for direct use: :func:`pointsman.start` and :func:`pointsman.connect` make clients.
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
        route = options.check_route(route)
        command = CreateEndpoint(
            _new_id(), name, backend, route, options.check_methods(methods, ("GET",)), bool(idempotent)
        )
        self._change(command)

    def delete_endpoint(self, endpoint: str) -> None:
        """Remove an endpoint; its backends stay. An unknown one is logged and ignored."""
        self._change(DeleteEndpoint(_new_id(), options.check_object_name(endpoint, "endpoint")))

    def list_endpoints(self) -> dict[str, dict[str, Any]]:
        """``{name: {"route", "methods", "traffic", "shadows"}}``."""
        return {name: endpoint_view(spec) for name, spec in self._status().endpoints.items()}

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
        resources = parse_actor_options(ray_actor_options)
        traits = look_at(func_or_class, actor_init_args)
        blob = pack_code(func_or_class, actor_init_args)
        command = CreateBackend(_new_id(), tag, code_digest(blob), origin_here(), traits, spec, resources)
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
        resources = parse_actor_options(ray_actor_options) if ray_actor_options is not None else None
        traits = look_at(func_or_class, init_args)
        blob = pack_code(func_or_class, init_args)
        command = Deploy(
            _new_id(),
            name,
            code_digest(blob),
            origin_here(),
            traits,
            changes,
            user_config,
            resources,
            options.check_route(route),
            options.check_methods(methods, None),
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
            kind, where = ("a sync", "inside") if sync else ("an async", "outside")
            log.warning("%s handle was taken %s a running event loop", kind, where)
        kind_of_handle = ServeHandle if sync else AsyncServeHandle
        return kind_of_handle(name, self._credentials, missing_ok=missing_ok)

    def status(self) -> dict[str, Any]:
        """What runs and what does not, and why: plain dicts, ready for JSON.

        Per backend its state (``RUNNING``, ``UPDATING``, ``UNHEALTHY``, ``DEPLOY_FAILED``), replicas wanted and
        running, each replica's tag, pid and state, and the last failure with its traceback.
        """
        return status_view(self._status(), self.http_address)

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


def _end_with_driver(raised: Raised, session: Session) -> None:
    """A bound instance ends with its client: called when that is collected, and at interpreter exit."""
    session.close()
    raised.let_go()
    raised.wait_for_end(DRIVER_EXIT_TIMEOUT_S)


def origin_here() -> Origin:
    """This process's folder and import path."""
    return Origin(os.getcwd(), tuple(os.path.abspath(entry) for entry in sys.path))


def _new_id() -> str:
    return secrets.token_hex(8)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
