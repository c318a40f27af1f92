"""The client of an instance. ``start`` and ``connect`` make clients."""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Literal, NoReturn, overload

import msgspec

from pointsman import arguments
from pointsman.calling.session import Credentials, Session
from pointsman.client.backends import BackendOperations
from pointsman.client.endpoints import EndpointOperations, TrafficOperations
from pointsman.client.operations import START_TIMEOUT_S, StatisticsOperations, log, new_id, status_view, user
from pointsman.client.rollouts import RolloutOperations
from pointsman.client.scaling import ScalingOperations
from pointsman.client.shadows import ShadowOperations
from pointsman.client.signals import EndingSignals, StopWaiting
from pointsman.client.tokens import TokenOperations
from pointsman.context import replica_context
from pointsman.engine.base import Address, Raised, url
from pointsman.engine.instances import wait_for_end
from pointsman.exceptions import ServeException
from pointsman.handle import AsyncServeHandle, ServeHandle
from pointsman.model.tokens import OPERATE
from pointsman.progress import ProgressLine
from pointsman.wire.commands import AwaitIngress, ComeUp, Ending, History, Progress, QueryHistory, Shutdown
from pointsman.wire.handover import ConsoleHandover, ConsoleSettings
from pointsman.wire.messages import unpack
from pointsman.wire.tokens import ConsoleKey, QueryConsoleKey

#: An instance that has not ended this long after its drain limits have passed is killed.
SHUTDOWN_TIMEOUT_S = 60.0
#: The pid of the first process of a container: when it exits, all processes of the container are killed.
CONTAINER_INIT_PID = 1
WATCH_RETRY_S = 1.0
POLL_S = 0.05
#: How long a link to the console signs in.
LINK_TTL_S = 12 * 3600.0
#: How long the last processes of an instance may take to exit once it has ended or was released by its driver.
DRIVER_EXIT_TIMEOUT_S = 5.0
#: How long a driver that is about to exit waits for the controller's answer.
ANSWER_TIMEOUT_S = 5.0


class Client(
    EndpointOperations,
    TrafficOperations,
    ShadowOperations,
    RolloutOperations,
    BackendOperations,
    ScalingOperations,
    StatisticsOperations,
    TokenOperations,
):
    """Operates one instance. It is thread-safe; as a context manager it stops the instance at the end.

    Made by :func:`pointsman.start` and :func:`pointsman.connect`, not directly.
    """

    def __init__(
        self, credentials: Credentials, *, address: Address | None = None, raised: Raised | None = None
    ) -> None:
        super().__init__(credentials)
        self._address = address
        self._raised = raised
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._watch: threading.Thread | None = None
        if raised is not None and raised.bound:
            # Runs when the client is collected and at interpreter exit, whichever comes first.
            self._finalizer = weakref.finalize(self, _end_with_driver, raised, self._session)
            self._finalizer.atexit = True
            raised.before_exit(self._finalizer)

    @property
    def http_address(self) -> str | None:
        """Base URL of the instance's HTTP server; None without one, or inside a replica."""
        at = self._address
        return url(at.http_host, at.http_port, secure=at.secure) if at is not None else None

    @property
    def metrics_address(self) -> str | None:
        """Base URL of the instance's metrics, which are at ``/metrics``; None without them, or inside a replica."""
        return url(self._address.metrics_host, self._address.metrics_port) if self._address is not None else None

    @property
    def console_address(self) -> str | None:
        """Base URL of the instance's console; None without one, or inside a replica."""
        return (self._address.console or None) if self._address is not None else None

    def console_link(self, role: str = OPERATE, *, at: str | None = None) -> str:
        """A link to the console that signs in, for twelve hours.

        Args:
            role: what it allows: ``"view"``, ``"operate"`` (also traffic, and configuration of backends) or
                ``"deploy"`` (also code).
            at: base URL of a console elsewhere; None for that of the instance.

        Raises:
            ServeException: the instance has no console.
            ValueError: the role is unknown.
        """
        base = at or self.console_address
        if base is None:
            raise ServeException("this instance has no console; start one beside it with: pointsman console")
        token = self.create_token(f"{user()} (link {secrets.token_hex(3)})", role, ttl_s=LINK_TTL_S)
        return f"{base}/#token={token}"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Client of instance {self._credentials.instance}{' (shut down)' if self._shut_down else ''}>"

    def __reduce__(self) -> NoReturn:
        raise ServeException("a Client cannot be pickled; use connect() where it is needed, or pass a handle")

    def stop(self) -> None:
        """End the instance and keep its stored state: HTTP servers, replicas and controller stop, name and ports are
        free again.

        Requests under way are finished first, within the drain limits of their backends. ``start(detached=True)`` with
        the same ``state_dir`` brings everything back; of an instance without one nothing is kept. May be called again.
        """
        self._end(forget=False)

    def shutdown(self) -> None:
        """End the instance for good: as :meth:`stop`, and its stored state is forgotten.

        May be called again. After :meth:`stop` nothing is forgotten, since the controller has ended.
        """
        self._end(forget=True)

    def wait(self) -> None:
        """Block until the instance has ended, whoever ends it, or until SIGTERM, SIGINT (Ctrl-C) or SIGHUP comes.

        At a signal, an instance that ends with this process is stopped as by :meth:`stop`; a second signal cuts that
        short. A detached instance outlives its script and keeps running, unless this process is the first of its
        container (PID 1), with which all processes of the container end. Signals reach the main thread only: in another
        thread this returns when the instance has ended. No exception is raised for a signal.
        """
        if self._shut_down:
            return
        with EndingSignals(raising=False) as signals:
            self._watch = threading.Thread(target=self._watch_for_end, args=(signals.notify_end,), daemon=True)
            self._watch.start()
            if signals.wait() is None:
                self._after_end()
            elif self._raised is not None and (self._raised.bound or os.getpid() == CONTAINER_INIT_PID):
                try:
                    signals.raising = True
                    self.stop()
                    signals.raising = False
                except StopWaiting:
                    self._after_end()

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
            endpoint_name: name of the endpoint.
            missing_ok: allow an endpoint that does not exist yet; calls wait for it, within their deadline.
            sync: a handle for threads; False for one that is used with ``await`` in an event loop.

        Raises:
            KeyError: there is no such endpoint.
        """
        name = arguments.check_object_name(endpoint_name, "endpoint_name")
        self._check_alive()
        if not missing_ok and name not in self._session.table().endpoints and name not in self.list_endpoints():
            there = sorted(self.list_endpoints())
            raise KeyError(f"endpoint {name!r} does not exist; there are {there}; missing_ok=True waits for it")
        in_loop = _in_event_loop()
        # In a replica, code outside the loop may be a constructor that takes the handle for use in the loop later.
        in_constructor = not in_loop and replica_context() is not None
        if sync == in_loop and not in_constructor:
            kind, where = ("a sync", "inside") if sync else ("an async", "outside")
            log.warning("%s handle was taken %s a running event loop", kind, where)
        kind_of_handle = ServeHandle if sync else AsyncServeHandle
        return kind_of_handle(name, self._credentials, missing_ok=missing_ok)

    def status(self) -> dict[str, Any]:
        """What runs, what does not and why, as plain dicts that are ready for JSON.

        Per endpoint what ``list_endpoints`` shows, and how many calls are ``queued`` in routers (None where no metrics
        are recorded); per backend its state (``RUNNING``, ``UPDATING``, ``UNHEALTHY``, ``DEPLOY_FAILED``), replicas
        wanted and running, each replica's tag, pid (None before it has begun) and state, and the last failure with its
        traceback; its ``code`` (import path, or ``by value: NAME``), a ``digest`` that differs wherever code, init args
        or a module of your own do, your ``version``, the git ``commit`` of the code's folder (with ``+`` if that had
        changes; empty in no repository), and ``since`` when this code is wanted (ISO 8601 in UTC).

        ``release`` is the version of Pointsman that the instance runs.

        ``apply`` is the apply of a configuration file that runs: its ``owner``, the ``name`` of the file, ``by`` whom
        and ``since`` when; None if none does. ``rollouts`` has the newest rollout of each endpoint that has had one, as
        :meth:`rollout` returns it.
        """
        return status_view(self._status(), self.http_address)

    def history(self) -> list[dict[str, Any]]:
        """The last 200 changes of backends and endpoints, oldest first.

        Returns:
            For each ``{"version", "time", "by", "owner", "object", "change"}``: ``time`` is ISO 8601 in UTC, ``by``
            user, program and pid that asked for it, ``owner`` the name of the configuration file, empty if none was
            applied, ``object`` such as ``"backend/ranker"``, ``change`` what was done, in words.
        """
        self._check_alive()
        history = unpack(self._session.command(QueryHistory(new_id())), History)
        return [msgspec.structs.asdict(change) for change in history.changes]

    # Inside

    def _wait_until_ready(self) -> None:
        command = AwaitIngress(new_id(), START_TIMEOUT_S)
        self._session.command(command)

    def _wait_for_backends(self) -> None:
        """Return when no stored backend is starting any more. One that failed to start shows its failure in the
        status."""
        with ProgressLine() as line:
            while starting := [view for view in self._status().backends.values() if view.is_starting]:
                view = starting[0]
                line.show(Progress(view.spec.tag, view.ready, view.wanted))
                time.sleep(POLL_S)

    def _come_up(self, *, told: bool) -> None:
        """Return once the instance has come up; with ``told`` it is recorded that it has."""
        if told:
            self._session.command(ComeUp(new_id(), self._credentials.instance))
        while not self._status().came_up:
            time.sleep(POLL_S)

    def _console_handover(self, settings: ConsoleSettings) -> ConsoleHandover:
        """What a console in this process is given. Its key only reads."""
        key = unpack(self._session.command(QueryConsoleKey(new_id())), ConsoleKey).key
        at = self._credentials
        return ConsoleHandover(at.instance, self._status().name, at.control_path, key, settings)

    def _wait_for_end(self) -> None:
        wait_for_end(self._credentials.control_path)

    def _watch_for_end(self, on_end: Callable[[], None]) -> None:
        while True:
            try:
                self._wait_for_end()
                break
            except Exception as error:  # noqa: BLE001 - what Ray raises while its head is away has no common base
                # The instance may still run, so on_end must not be called: wait() would release the instance, which
                # ends it.
                log.warning("whether the instance has ended cannot be seen just now: %s", error)
                time.sleep(WATCH_RETRY_S)
        on_end()

    def _end(self, *, forget: bool) -> None:
        if self._shut_down:
            return
        self._shut_down = True
        try:
            ending = _request_end(self._session, forget=forget)
            if self._raised is not None:
                self._raised.wait_for_end(_end_timeout_s(ending))
            elif self._address is not None:
                self._wait_for_end()
        except BaseException:
            if self._raised is not None:
                self._raised.let_go()  # a Ctrl-C here means: do not wait for the requests under way
            raise
        self._after_end()

    def _after_end(self) -> None:
        self._shut_down = True
        if self._raised is not None:
            self._raised.wait_for_end(DRIVER_EXIT_TIMEOUT_S)
            self._raised.let_go()
        if self._watch is not None:
            self._watch.join(DRIVER_EXIT_TIMEOUT_S)
        self._session.close()
        if self._raised is not None:
            self._raised.release()
        if self._finalizer is not None:
            self._finalizer.detach()


def _request_end(session: Session, *, forget: bool, timeout_s: float | None = None) -> Ending:
    """Have the controller end the instance; returns the limits for that.

    Raises:
        TimeoutError: the controller does not answer.
    """
    try:
        return unpack(session.command(Shutdown(new_id(), forget), timeout_s=timeout_s), Ending)
    except ServeException as error:
        log.debug("the instance had ended already: %s", error)
        return Ending(0.0)


def _end_timeout_s(ending: Ending) -> float:
    # HTTP servers drain first, then replicas.
    return ending.delay_s + 2 * ending.drain_s + SHUTDOWN_TIMEOUT_S


def _end_with_driver(raised: Raised, session: Session) -> None:
    """End a bound instance in good order when its client is collected or the interpreter exits."""
    if session.is_on_own_thread:  # the collector ran there; waiting would block the session's own loop
        threading.Thread(target=_end_with_driver, args=(raised, session), name="pointsman-end").start()
        return
    with EndingSignals(raising=True) as signals:
        try:
            # The session is closed last: calls that this process has made are among the requests that are finished.
            if not raised.over:
                raised.wait_for_end(_end_timeout_s(_request_end(session, forget=False, timeout_s=ANSWER_TIMEOUT_S)))
        except (StopWaiting, TimeoutError):
            pass  # a signal asks for speed, or no controller answers: the instance is released at once
        finally:
            signals.raising = False
            raised.let_go()
            raised.wait_for_end(DRIVER_EXIT_TIMEOUT_S)
            session.close()
            raised.release()


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
