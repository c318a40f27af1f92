"""The client of an instance. ``start`` and ``connect`` make clients."""

from __future__ import annotations

import asyncio
import time
import weakref
from typing import Any, Literal, NoReturn, overload

from pointsman import config as options
from pointsman.client.backends import BackendOperations
from pointsman.client.endpoints import EndpointOperations
from pointsman.client.operations import START_TIMEOUT_S, log, new_id
from pointsman.client.statistics import StatisticsOperations
from pointsman.client.traffic import TrafficOperations
from pointsman.context import replica_context
from pointsman.engine.base import Address, Raised, url
from pointsman.engine.instances import wait_for_end
from pointsman.exceptions import ServeException
from pointsman.handle import AsyncServeHandle, ServeHandle
from pointsman.progress import ProgressLine
from pointsman.session import Credentials, Session
from pointsman.statusview import status_view
from pointsman.wire.commands import AwaitIngress, Progress, Shutdown

SHUTDOWN_TIMEOUT_S = 60.0
LOOK_AGAIN_S = 0.05
DRIVER_EXIT_TIMEOUT_S = 5.0


class Client(EndpointOperations, TrafficOperations, BackendOperations, StatisticsOperations):
    """Operates one instance. Use it from any thread; as a context manager it shuts the instance down at the end.

    Not for direct use: :func:`pointsman.start` and :func:`pointsman.connect` make clients.
    """

    def __init__(
        self, credentials: Credentials, *, address: Address | None = None, raised: Raised | None = None
    ) -> None:
        super().__init__(credentials)
        self._address = address
        self._raised = raised
        self._finalizer: weakref.finalize[..., Any] | None = None
        if raised is not None and raised.bound:
            self._finalizer = weakref.finalize(self, _end_with_driver, raised, self._session)
            self._finalizer.atexit = True

    @property
    def http_address(self) -> str | None:
        """Base URL of the instance's HTTP server; None without one, or inside a replica."""
        return url(self._address.http_host, self._address.http_port) if self._address is not None else None

    @property
    def metrics_address(self) -> str | None:
        """Base URL of the instance's metrics, which are at ``/metrics``; None without them, or inside a replica."""
        return url(self._address.metrics_host, self._address.metrics_port) if self._address is not None else None

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
            self._session.command(Shutdown(new_id()))
        except ServeException as error:
            log.debug("the instance had ended already: %s", error)
        if self._address is not None:
            self._await_end(self._address)
        self._session.close()
        if self._raised is not None:
            self._raised.release()
        if self._finalizer is not None:
            self._finalizer.detach()

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
        if not missing_ok and name not in self._session.table().endpoints and name not in self.list_endpoints():
            raise KeyError(f"endpoint {name!r} does not exist; there are {sorted(self.list_endpoints())}")
        in_loop = _in_event_loop()
        in_constructor = not in_loop and replica_context() is not None  # of a backend that will use it in its loop
        if sync == in_loop and not in_constructor:
            kind, where = ("a sync", "inside") if sync else ("an async", "outside")
            log.warning("%s handle was taken %s a running event loop", kind, where)
        kind_of_handle = ServeHandle if sync else AsyncServeHandle
        return kind_of_handle(name, self._credentials, missing_ok=missing_ok)

    def status(self) -> dict[str, Any]:
        """What runs and what does not, and why: plain dicts, ready for JSON.

        Per endpoint what ``list_endpoints`` shows, and how many calls are ``queued`` in routers (None where no metrics
        are recorded); per backend its state (``RUNNING``, ``UPDATING``, ``UNHEALTHY``, ``DEPLOY_FAILED``), replicas
        wanted and running, each replica's tag, pid (None before it has begun) and state, and the last failure with its
        traceback.
        """
        return status_view(self._status(), self.http_address)

    # Inside

    def _wait_until_ready(self) -> None:
        command = AwaitIngress(new_id(), START_TIMEOUT_S)
        self._session.command(command)

    def _wait_for_backends(self) -> None:
        """Return when what was stored runs again; what cannot start any more is not waited for, since the status has
        it."""
        with ProgressLine() as line:
            while starting := [view for view in self._status().backends.values() if view.is_starting]:
                view = starting[0]
                line.show(Progress(view.spec.tag, view.ready, view.spec.config.num_replicas))
                time.sleep(LOOK_AGAIN_S)

    def _wait_for_end(self) -> None:
        """Return when the instance has ended, whoever ends it."""
        assert self._address is not None
        wait_for_end(self._address.control_path)

    def _await_end(self, address: Address) -> None:
        if self._raised is not None:
            self._raised.wait_for_end(SHUTDOWN_TIMEOUT_S)
            self._raised.let_go()
        else:
            wait_for_end(address.control_path)


def _end_with_driver(raised: Raised, session: Session) -> None:
    """A bound instance ends with its client: called when that is collected, and at interpreter exit."""
    session.close()
    raised.let_go()
    raised.wait_for_end(DRIVER_EXIT_TIMEOUT_S)
    raised.release()


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
