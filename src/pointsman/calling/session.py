"""This process's connection to one instance: a thread with an event loop and the control link. Once handles are used,
also the routing table, a dispatcher for threads, and one for each event loop that calls.

Clients and handles share the session. Its public methods may be called from any thread.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, NamedTuple, TypeVar, cast

from pointsman.calling.dispatch import LoopDispatcher, ThreadDispatcher
from pointsman.context import in_trial_import, replica_context
from pointsman.engine.base import Address
from pointsman.engine.comparer import Comparer
from pointsman.engine.instances import address_of, locator, metrics_folder, pairs_folder, tallies_folder
from pointsman.engine.process import new_event_loop
from pointsman.exceptions import ServeException
from pointsman.model import EMPTY_TABLE, RoutingTable
from pointsman.routing.metrics import RouterMetrics
from pointsman.routing.remote import CONNECT_S
from pointsman.routing.reports import Reports
from pointsman.routing.router import Router
from pointsman.telemetry.tallies import Tallies, TallyFile
from pointsman.telemetry.writer import MetricsWriter, process_writer
from pointsman.wire.auth import ROLE_GRANT, ROLE_OPERATOR
from pointsman.wire.commands import AnyCommand, Progress
from pointsman.wire.control import ControlLink
from pointsman.wire.descriptors import keep_standard_descriptors
from pointsman.wire.frames import Body
from pointsman.wire.messages import Warrant
from pointsman.wire.tables import TableChange

T = TypeVar("T")


class Credentials(NamedTuple):
    """Where an instance is, and the role and key with which this process connects to it."""

    instance: str
    control_path: str
    role: str
    identity: str
    key: bytes
    request_timeout_s: float


class Session:
    """A connection to an instance. Made by :func:`session_for`; does nothing before :meth:`start`.

    Attributes:
        closed: the session was closed, or its process forked; another one must be made.
        link: to the controller; None before :meth:`start`.
    """

    def __init__(self, credentials: Credentials) -> None:
        keep_standard_descriptors()
        self.credentials = credentials
        self._loop = new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name="pointsman-client", daemon=True)
        self.link: ControlLink | None = None
        self._reports: Reports
        self._writer: MetricsWriter | None = None
        self._tally_file: TallyFile | None = None
        self._unused_metrics: list[tuple[RouterMetrics | None, Tallies]] = []
        self._lock = threading.Lock()
        self._metrics_lock = threading.Lock()
        self._table: RoutingTable | None = None
        self._thread_dispatcher: ThreadDispatcher | None = None
        self._loop_dispatchers: dict[asyncio.AbstractEventLoop, tuple[LoopDispatcher, AsyncGenerator[None, None]]] = {}
        self._blocked: set[asyncio.AbstractEventLoop | None] = set()
        """Loops on whose thread somebody waits for this one's; None for threads that have none."""
        self.closed = False

    def start(self) -> None:
        """Connect to the controller.

        Raises:
            ServeException: the instance has ended, or the key is wrong.
        """
        self._thread.start()
        try:
            self.run(self._connect())
        except BaseException:
            self.close()
            raise

    def run(self, coroutine: Coroutine[Any, Any, T], *, timeout_s: float | None = None) -> T:
        """Run a coroutine on the session's loop and return its result. Blocks.

        Raises:
            TimeoutError: it took longer than ``timeout_s`` seconds, and was cancelled.
            ServeException: the session is closed.
            RuntimeError: called on the session's own thread.
        """
        if self.closed:
            coroutine.close()
            raise ServeException("the client was shut down")
        if self.is_on_own_thread:
            coroutine.close()
            raise RuntimeError("a client's method was called on the client's own thread")
        future = asyncio.run_coroutine_threadsafe(_without_raising(coroutine), self._loop)
        blocked = asyncio._get_running_loop()
        self._blocked.add(blocked)
        try:
            value, error = future.result(timeout_s)
        except BaseException as interruption:
            future.cancel()  # also on Ctrl-C: the command must not go on unattended
            if isinstance(interruption, concurrent.futures.TimeoutError):
                raise TimeoutError(f"no answer within {timeout_s:g} s") from None  # its own class before Python 3.11
            raise
        finally:
            self._blocked.discard(blocked)
        if error is not None:
            raise error
        return cast(T, value)

    @property
    def is_on_own_thread(self) -> bool:
        """True on the session's own thread, where waiting would block the loop that brings the answer."""
        return threading.current_thread() is self._thread

    def command(
        self,
        command: AnyCommand,
        body: bytes = b"",
        *,
        progress: Callable[[Progress], None] | None = None,
        timeout_s: float | None = None,
        warrant: Warrant | None = None,
    ) -> Body:
        """Send the controller a command, of a console by the ``warrant`` of its user, and return the reply. Raises
        TimeoutError if none comes within ``timeout_s`` seconds, and as :meth:`ControlLink.command
        <pointsman.wire.control.ControlLink.command>`."""
        assert self.link is not None
        return self.run(self.link.command(command, body, progress=progress, warrant=warrant), timeout_s=timeout_s)

    def table(self) -> RoutingTable:
        """The newest routing table. The first call subscribes to tables, and waits for one."""
        if self._table is None:
            with self._lock:
                if self._table is None:
                    self.run(self._subscribe())
        assert self._table is not None
        return self._table

    def thread_dispatcher(self) -> ThreadDispatcher:
        """The dispatcher for calls from threads, opened by the first call."""
        if self._thread_dispatcher is None:
            self.table()
            with self._lock:
                if self._thread_dispatcher is None:
                    self.run(self._open_thread_dispatcher())
        assert self._thread_dispatcher is not None
        return self._thread_dispatcher

    def loop_dispatcher(self) -> LoopDispatcher | None:
        """The dispatcher of the running loop, with the newest routing table; None before
        :meth:`open_loop_dispatcher`."""
        known = self._loop_dispatchers.get(asyncio.get_running_loop())
        if known is None:
            return None
        dispatcher = known[0]
        if dispatcher.router.table is not self._table and self._table is not None:
            dispatcher.router.apply(self._table)
        return dispatcher

    async def open_loop_dispatcher(self) -> LoopDispatcher:
        """The dispatcher of the running loop, opened if there is none yet. It ends with the loop."""
        table = await asyncio.to_thread(self.table)
        dispatcher = self.loop_dispatcher()
        if dispatcher is None:
            for loop in [loop for loop in self._loop_dispatchers if loop.is_closed()]:
                self._forget_dispatcher(loop)  # closed without `shutdown_asyncgens`, so `_keep` did not run
            dispatcher = LoopDispatcher(self._new_router())
            dispatcher.router.apply(table)
            keeper = self._keep(dispatcher)
            await keeper.__anext__()
            self._loop_dispatchers[dispatcher.loop] = dispatcher, keeper
            await dispatcher.router.connected()
        return self.loop_dispatcher() or dispatcher

    async def _keep(self, dispatcher: LoopDispatcher) -> AsyncGenerator[None, None]:
        """Closes the dispatcher before its loop closes. An async generator that was iterated once is a hook for that:
        ``asyncio.run`` closes such generators last."""
        try:
            yield
        finally:
            await dispatcher.router.aclose()
            self._forget_dispatcher(dispatcher.loop)

    def _forget_dispatcher(self, loop: asyncio.AbstractEventLoop) -> None:
        known = self._loop_dispatchers.pop(loop, None)
        if known is not None and known[0].router.tallies is not None:
            with self._metrics_lock:
                self._unused_metrics.append((known[0].router.metrics, known[0].router.tallies))

    def close(self) -> None:
        """Disconnect and end the thread. Calls in flight fail."""
        if self.closed:
            return
        self.closed = True
        _forget(self)
        for dispatcher, keeper in self._loop_dispatchers.values():
            with contextlib.suppress(RuntimeError):  # that loop is closed already
                dispatcher.loop.call_soon_threadsafe(_end_dispatcher, dispatcher.loop, keeper)
        if self._thread.is_alive() and not self.is_on_own_thread:
            asyncio.run_coroutine_threadsafe(self._disconnect(), self._loop)
            self._thread.join(timeout=5.0)

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    async def _connect(self) -> None:
        credentials = self.credentials
        self.link = ControlLink(
            path=credentials.control_path,
            locate=locator(credentials.control_path),
            instance=credentials.instance,
            role=credentials.role,
            identity=credentials.identity,
            key=credentials.key,
        )
        self._reports = Reports(self.link)
        await self.link.start()

    async def _subscribe(self) -> None:
        assert self.link is not None
        first_table = asyncio.Event()

        def apply(table: RoutingTable, change: TableChange | None) -> Awaitable[object] | None:
            self._apply(table, change)
            first_table.set()
            return self._connected() if self._thread_dispatcher is not None or self._loop_dispatchers else None

        self.link.on_table = apply
        self.link.subscribe(ingress=False, pid=os.getpid())
        await first_table.wait()

    def _apply(self, table: RoutingTable, change: TableChange | None) -> None:
        """Give a new table to all routers. A dispatcher of another loop checks for a new table before each call, but
        calls that wait there for an endpoint or a replica would not notice."""
        if self._table is not None and table.version <= self._table.version:
            return
        self._table = table
        if self._thread_dispatcher is not None:
            self._thread_dispatcher.router.apply(table, change)
        for dispatcher, _ in list(self._loop_dispatchers.values()):
            dispatcher.apply(table, change)

    async def _connected(self) -> None:
        """Return when the routers of this process are connected, but for those on loops that wait for this or stand
        still, as between two ``run_until_complete``."""
        routers = [] if self._thread_dispatcher is None else [self._thread_dispatcher.router.connected()]
        for dispatcher, _ in list(self._loop_dispatchers.values()):
            if dispatcher.loop.is_running() and dispatcher.loop not in self._blocked:
                routers.append(dispatcher.connected())
        if routers:
            waiting = [asyncio.ensure_future(router) for router in routers]
            try:
                await asyncio.wait(waiting, timeout=CONNECT_S)
            finally:  # also when the client is shut down
                for one in waiting:
                    one.cancel()

    async def _open_thread_dispatcher(self) -> None:
        dispatcher = ThreadDispatcher(self._new_router())
        dispatcher.router.apply(self.table())
        self._thread_dispatcher = dispatcher  # this runs on the loop, so no table can arrive in between
        await dispatcher.router.connected()  # the first calls are spread like all others

    def _new_router(self) -> Router:
        """A router for the running loop. Each has its own metrics and tallies, since a value has one writing thread;
        those of closed dispatchers are used again."""
        path = self.credentials.control_path
        with self._metrics_lock:
            if self._unused_metrics:
                metrics, tallies = self._unused_metrics.pop()
                table = self._table or EMPTY_TABLE
                tallies.forget(lambda key: key.endpoint not in table.endpoints or key.backend not in table.backends)
            else:
                writer = process_writer() or self._writer  # a replica counts in its own file
                if writer is None:
                    writer = self._writer = MetricsWriter.open(metrics_folder(path), "client")
                metrics = RouterMetrics(writer) if writer is not None else None
                self._tally_file = self._tally_file or TallyFile.open(tallies_folder(path), "client")
                tallies = Tallies(self._tally_file)
        return Router(
            instance=self.credentials.instance, metrics=metrics, pairs=Comparer(pairs_folder(path)), tallies=tallies,
            reporter=self._reports.reporter(),
        )  # fmt: skip

    async def _disconnect(self) -> None:
        if self.link is not None:
            await self.link.aclose()
        if self._thread_dispatcher is not None:
            await self._thread_dispatcher.router.aclose()
        if self._writer is not None:
            self._writer.close()
        if self._tally_file is not None:
            self._tally_file.close()
        self._loop.stop()


def _end_dispatcher(loop: asyncio.AbstractEventLoop, keeper: AsyncGenerator[None, None]) -> None:
    task = loop.create_task(keeper.aclose())
    _ending.add(task)
    task.add_done_callback(_ending.discard)


_ending: set[asyncio.Task[None]] = set()


async def _without_raising(coroutine: Coroutine[Any, Any, T]) -> tuple[T | None, Exception | None]:
    """The coroutine's result or error. Raises nothing, since asyncio logs an error that no caller retrieves."""
    try:
        return await coroutine, None
    except Exception as error:  # noqa: BLE001 - passed on to the thread that asked
        return None, error


_sessions: dict[tuple[str, str], Session] = {}
_sessions_lock = threading.Lock()


def session_for(credentials: Credentials) -> Session:
    """This process's session with an instance; connects if there is none yet. Blocks."""
    session = existing_session(credentials)
    if session is not None:
        return session
    with _sessions_lock:
        session = existing_session(credentials)
        if session is None:
            session = Session(credentials)
            session.start()
            _sessions[credentials.instance, credentials.role] = session
        return session


def existing_session(credentials: Credentials) -> Session | None:
    """This process's open session with an instance; None if there is none."""
    session = _sessions.get((credentials.instance, credentials.role))
    return session if session is not None and not session.closed else None


def credentials_here(control_path: str = "") -> Credentials:
    """Credentials for the instance of this replica, or for the one whose control socket is given.

    Raises:
        ServeException: outside a replica, and the instance is not this user's or has ended.
    """
    if in_trial_import():  # code is loaded for validation only, by a process that may not reach the instance
        return Credentials("", control_path, ROLE_GRANT, "", b"", 0.0)
    context = replica_context()
    if context is not None and control_path in ("", context.control_path):
        if not context.grant:
            raise ServeException(
                "user code may not use this instance: it was started with client_in_replicas=False, which shuts out"
                " connect() and handles"
            )
        return Credentials(
            context.instance,
            context.control_path,
            ROLE_GRANT,
            context.grant_identity,
            context.grant,
            context.request_timeout_s,
        )
    return operator(address_of(control_path))


def operator(address: Address) -> Credentials:
    """Credentials with which the user who started an instance may change it."""
    return Credentials(
        address.instance, address.control_path, ROLE_OPERATOR, "", address.key, address.request_timeout_s
    )


def _forget(session: Session) -> None:
    for key in [key for key, known in list(_sessions.items()) if known is session]:
        _sessions.pop(key, None)


def _after_fork() -> None:
    """Close all sessions in a forked child, where their threads do not exist. Handles connect again."""
    global _sessions_lock
    _sessions_lock = threading.Lock()
    for session in _sessions.values():
        session.closed = True
    _sessions.clear()


os.register_at_fork(after_in_child=_after_fork)
