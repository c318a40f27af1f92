"""The link of one process to its controller: commands out, routing tables in.

Clients, ingresses and replicas each keep one. It dials again whenever the controller has died. On one machine the
supervisor holds the listening socket, so a dial during the restart waits instead of failing; on a cluster the engine is
asked each time where the controller is now. Commands that were under way are sent again; their id makes that harmless.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from pointsman.exceptions import ServeException
from pointsman.model import RoutingTable
from pointsman.routing.failures import failure_to_exception
from pointsman.wire import stream as wire_stream
from pointsman.wire.commands import AnyCommand, Progress
from pointsman.wire.frames import Frame, Kind, WireError
from pointsman.wire.messages import Confirm, FailureHead, Report, Subscribe, pack, unpack
from pointsman.wire.stream import Stream

log = logging.getLogger(__name__)

REDIAL_PAUSE_S = 0.05

Locate = Callable[[], Awaitable["str | None"]]
"""Finds the controller's present address; None when the instance has ended."""


class InstanceGoneError(ServeException):
    """The instance has ended: nobody holds its control socket any more."""


class _Pending:
    __slots__ = ("body", "command", "future", "progress")

    def __init__(
        self,
        command: bytes,
        body: bytes,
        future: asyncio.Future[bytes],
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.command = command
        self.body = body
        self.future = future
        self.progress = progress


class ControlLink:
    """A process's connection to the controller.

    Args:
        path: the control socket.
        locate: asked for the address before each dial, where that may change; ``path`` is then not looked at.
        instance: id of the instance.
        role: one of the roles of ``wire.auth``; with ``identity`` it says who this is.
        key: the key of that role.
        on_table: takes each newer routing table and returns when it is in use; the version is then confirmed.
        on_ready: called after each (re)connect, before anything else is sent: the place to introduce oneself.
        on_frame: takes frames that are neither replies nor tables (orders to a replica).
        on_gone: called once when the instance has ended.
    """

    def __init__(
        self,
        *,
        path: str,
        locate: Locate | None = None,
        instance: str,
        role: str,
        identity: str,
        key: bytes,
        on_table: Callable[[RoutingTable], object] | None = None,
        on_ready: Callable[[ControlLink], None] | None = None,
        on_frame: Callable[[Frame], None] | None = None,
        on_gone: Callable[[], None] | None = None,
    ) -> None:
        self._path = path
        self._locate = locate
        self._instance = instance
        self._role = role
        self._identity = identity
        self._key = key
        self.on_table = on_table
        self._on_ready = on_ready
        self._on_frame = on_frame
        self._on_gone = on_gone
        self._stream: Stream | None = None
        self._connected = asyncio.Event()
        self._lost = asyncio.Event()
        self._pending: dict[int, _Pending] = {}
        self._next_id = 0
        self._subscription: bytes | None = None
        self._task: asyncio.Task[None] | None = None
        self._gone: Exception | None = None

    async def start(self) -> None:
        """Connect, and stay connected until :meth:`aclose`.

        Raises:
            InstanceGoneError: nobody listens at the path.
            WireError: the controller does not hold our key, or we not its.
        """
        self._task = asyncio.get_running_loop().create_task(self._stay_connected())
        waiter = asyncio.ensure_future(self._connected.wait())
        try:
            await asyncio.wait({waiter, self._task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
        if self._gone is not None:
            raise self._gone

    async def aclose(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._stream is not None:
            self._stream.close()
        self._fail_pending(InstanceGoneError("the client was shut down"))

    def subscribe(self, *, ingress: bool, pid: int) -> None:
        """Ask for routing tables, from now on and after each reconnect."""
        self._subscription = pack(Subscribe(ingress, pid))
        if self._stream is not None and self._stream.ready:
            self._stream.send(Kind.SUBSCRIBE, 0, self._subscription)

    def report(self, report: Report, body: bytes = b"") -> None:
        """Tell the controller how this replica is; lost when there is no controller (it will ask again)."""
        if self._stream is not None:
            self._stream.send(Kind.REPORT, 0, pack(report), body)

    async def command(
        self, command: AnyCommand, body: bytes = b"", *, progress: Callable[[Progress], None] | None = None
    ) -> bytes:
        """Carry out a command and return the reply's head.

        Raises:
            ServeException, ValueError, TypeError, KeyError: as the controller says.
            InstanceGoneError: the instance ended meanwhile.
        """
        if self._gone is not None:
            raise self._gone
        self._next_id += 1
        call_id = self._next_id
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        pending = self._pending[call_id] = _Pending(pack(command), body, future, progress)
        if self._stream is not None and self._stream.ready:
            self._stream.send(Kind.COMMAND, call_id, pending.command, body)
        try:
            return await future
        except asyncio.CancelledError:
            if self._stream is not None:
                self._stream.send(Kind.CANCEL, call_id)
            raise
        finally:
            self._pending.pop(call_id, None)

    async def _stay_connected(self) -> None:
        while True:
            self._lost.clear()
            error: Exception | None = None
            try:
                address = await self._locate() if self._locate is not None else self._path
                if address is None:
                    self._give_up(InstanceGoneError("the instance has ended"))
                    return
                await wire_stream.dial(
                    address,
                    self,
                    instance=self._instance,
                    role=self._role,
                    identity=self._identity,
                    key=self._key,
                )
                await self._lost.wait()
            except (OSError, asyncio.TimeoutError) as os_error:
                if self._locate is None:
                    error = InstanceGoneError("the instance has ended")
                    error.__cause__ = os_error
                else:
                    log.debug("the controller is not reached yet: %s", os_error)
            if self._stream_error is not None and not self._connected.is_set():
                error = self._stream_error
            if error is not None:
                self._give_up(error)
                return
            await asyncio.sleep(REDIAL_PAUSE_S)

    _stream_error: Exception | None = None

    def _give_up(self, error: Exception) -> None:
        self._gone = error
        self._fail_pending(error)
        self._connected.set()
        if self._on_gone is not None:
            self._on_gone()

    def _fail_pending(self, error: Exception) -> None:
        for pending in list(self._pending.values()):
            if not pending.future.done():
                pending.future.set_exception(error)
                pending.future.exception()  # who was interrupted while waiting will not look at it

    # StreamUser

    def stream_ready(self, stream: Stream) -> None:
        self._stream = stream
        if self._on_ready is not None:
            self._on_ready(self)
        if self._subscription is not None:
            stream.send(Kind.SUBSCRIBE, 0, self._subscription)
        for call_id, pending in self._pending.items():
            stream.send(Kind.COMMAND, call_id, pending.command, pending.body)
        self._connected.set()

    def stream_frames(self, stream: Stream, frames: list[Frame]) -> None:
        for frame in frames:
            pending = self._pending.get(frame.call_id)
            if frame.kind == Kind.TABLE:
                self._receive_table(stream, frame)
            elif frame.kind == Kind.REPLY and pending is not None:
                if not pending.future.done():
                    pending.future.set_result(frame.head)
            elif frame.kind == Kind.FAILURE and pending is not None:
                failure = unpack(frame.head, FailureHead)
                if not pending.future.done():
                    pending.future.set_exception(failure_to_exception(failure, frame.body, trusted=True))
            elif frame.kind == Kind.CHUNK and pending is not None:
                if pending.progress is not None:
                    pending.progress(unpack(frame.head, Progress))
            elif self._on_frame is not None:
                self._on_frame(frame)

    def stream_lost(self, stream: Stream, error: Exception | None) -> None:
        if isinstance(error, WireError):
            self._stream_error = error
            log.warning("connection to the controller was refused: %s", error)
        self._lost.set()

    def _receive_table(self, stream: Stream, frame: Frame) -> None:
        table = unpack(frame.body, RoutingTable)
        if self.on_table is not None:
            self.on_table(table)
        stream.send(Kind.CONFIRM, 0, pack(Confirm(table.version)))
