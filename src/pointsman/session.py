"""A process's attachment to one instance: a thread with an event loop, the control link and, once a handle is used, a
router. Clients and handles share it; user code of any thread, with or without a loop of its own, may call in.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, TypeVar, cast

from pointsman.context import replica_context
from pointsman.engine.base import Address
from pointsman.engine.child import new_event_loop
from pointsman.engine.instances import address_of, locator, metrics_folder
from pointsman.exceptions import ServeException
from pointsman.model import EndpointSpec
from pointsman.routing.call import Call
from pointsman.routing.control import ControlLink
from pointsman.routing.metrics import RouterMetrics
from pointsman.routing.router import Router
from pointsman.telemetry.book import Book, process_book
from pointsman.wire.auth import ROLE_GRANT, ROLE_OPERATOR
from pointsman.wire.commands import AnyCommand, Progress

T = TypeVar("T")

CALLS_UNDER_WAY_LIMIT = 1000
"""Calls handed to the loop and not taken up by it yet; a thread that is faster than the loop waits beyond this."""


class Credentials(NamedTuple):
    """Where an instance is, and as whom we come."""

    instance: str
    control_path: str
    role: str
    identity: str
    key: bytes
    request_timeout_s: float


class Session:
    """See the module. Made by :func:`session_for`; starts nothing before :meth:`start`."""

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self._loop = new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name="pointsman-client", daemon=True)
        self._link: ControlLink | None = None
        self._router: Router | None = None
        self._book: Book | None = None
        self._lock = threading.Lock()
        self._submitted: deque[tuple[Router, Call, bool]] = deque()
        self._submit_pending = False
        self._closed = False
        self._pid = os.getpid()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    @property
    def closed(self) -> bool:
        return self._closed

    def start(self) -> None:
        """Connect to the controller.

        Raises:
            ServeException: the instance has ended, or our key is not its.
        """
        self._thread.start()
        try:
            self.run(self._connect())
        except BaseException:
            self.close()
            raise

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the session's loop and wait for what it returns."""
        if self._closed:
            coroutine.close()
            raise ServeException("the client was shut down")
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("a client's method was called on the client's own thread")
        future = asyncio.run_coroutine_threadsafe(_outcome_of(coroutine), self._loop)
        try:
            value, error = future.result()
        except BaseException:
            future.cancel()  # Ctrl-C: the command need not be waited for any more
            raise
        if error is not None:
            raise error
        return cast(T, value)

    def command(
        self, command: AnyCommand, body: bytes = b"", *, progress: Callable[[Progress], None] | None = None
    ) -> bytes:
        """Have the controller carry out a command; returns the reply's head. Raises what the controller says."""
        assert self._link is not None
        return self.run(self._link.command(command, body, progress=progress))

    def router(self) -> Router:
        """The process's router for this instance; the first call waits for the routing table."""
        with self._lock:
            if self._router is None:
                self._router = self.run(self._start_router())
            return self._router

    def submit(self, call: Call, *, missing_ok: bool) -> None:
        """Give a call to the router, from any thread."""
        router = self.router()
        self._submitted.append((router, call, missing_ok))
        if not self._submit_pending:
            self._submit_pending = True
            self._loop.call_soon_threadsafe(self._take_submitted)

    def endpoint(self, name: str) -> EndpointSpec | None:
        """What the newest routing table says of an endpoint."""
        return self.router().table.endpoints.get(name)

    def is_crowded(self, endpoint: str) -> bool:
        """Whether a new call should wait before it is made."""
        return len(self._submitted) > CALLS_UNDER_WAY_LIMIT or self.router().would_wait(endpoint)

    def cancel(self, call: Call) -> None:
        """Give a call up, from any thread."""
        if self._router is not None and not self._closed:
            self._loop.call_soon_threadsafe(self._router.cancel, call)

    def close(self) -> None:
        """Disconnect and end the thread. Calls under way fail."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        _forget(self)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            asyncio.run_coroutine_threadsafe(self._disconnect(), self._loop)
            self._thread.join(timeout=5.0)

    def _take_submitted(self) -> None:
        self._submit_pending = False
        submitted = self._submitted
        while submitted:
            router, call, missing_ok = submitted.popleft()
            try:
                if missing_ok:
                    router.submit_when_there(call)
                else:
                    router.submit(call)
            except ServeException as error:
                call.fail(error)

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    async def _connect(self) -> None:
        credentials = self.credentials
        self._link = ControlLink(
            path=credentials.control_path,
            locate=locator(credentials.control_path),
            instance=credentials.instance,
            role=credentials.role,
            identity=credentials.identity,
            key=credentials.key,
        )
        await self._link.start()

    async def _start_router(self) -> Router:
        assert self._link is not None
        router = Router(instance=self.credentials.instance, metrics=self._open_metrics())
        first_table = asyncio.Event()
        link = self._link

        def apply(table: Any) -> None:
            router.apply(table)
            first_table.set()

        link.on_table = apply
        link.subscribe(ingress=False, pid=os.getpid())
        await first_table.wait()
        return router

    def _open_metrics(self) -> RouterMetrics | None:
        book = process_book()  # a replica has one of its own
        if book is None:
            book = self._book = Book.open(metrics_folder(self.credentials.control_path), "client")
        return RouterMetrics(book) if book is not None else None

    async def _disconnect(self) -> None:
        if self._link is not None:
            await self._link.aclose()
        if self._router is not None:
            await self._router.aclose()
        if self._book is not None:
            self._book.close()
        self._loop.stop()


async def _outcome_of(coroutine: Coroutine[Any, Any, T]) -> tuple[T | None, Exception | None]:
    """What a coroutine returned or raised. Never raises itself, so that asyncio finds nothing to complain about when
    nobody waits any more."""
    try:
        return await coroutine, None
    except Exception as error:  # noqa: BLE001 - passed on to the thread that asked
        return None, error


_sessions: dict[tuple[int, str, str], Session] = {}
_sessions_lock = threading.Lock()


def session_for(credentials: Credentials) -> Session:
    """This process's session with an instance; connects when there is none yet."""
    key = (os.getpid(), credentials.instance, credentials.role)
    with _sessions_lock:
        session = _sessions.get(key)
        if session is None or session.closed:
            session = Session(credentials)
            session.start()
            _sessions[key] = session
        return session


def credentials_here(control_path: str = "") -> Credentials:
    """Credentials for the instance of this replica, or for the one whose control socket is given.

    Raises:
        ServeException: outside a replica, and the instance is not this user's or has ended.
    """
    context = replica_context()
    if context is not None and control_path in ("", context.control_path):
        if not context.grant:
            raise ServeException("this instance does not let user code use a client")
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
    """Credentials of the operator of an instance."""
    return Credentials(
        address.instance, address.control_path, ROLE_OPERATOR, "", address.key, address.request_timeout_s
    )


def _forget(session: Session) -> None:
    for key in [key for key, known in list(_sessions.items()) if known is session]:
        _sessions.pop(key, None)
