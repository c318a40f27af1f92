"""The link of one process to its controller: commands out, routing tables in.

Clients, ingresses and replicas each keep one. It dials again whenever the controller has died. On one machine the
supervisor holds the listening socket, so a dial during the restart waits instead of failing; on a cluster the engine is
asked each time where the controller is now. Commands that were under way are sent again; their id makes that harmless.
The controller says at once that a command has arrived: one whose link breaks before that, time after time, is given up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from pointsman.exceptions import ServeException
from pointsman.limits import MAX_CODE, MAX_MESSAGE, MESSAGE_ROOM, check_size, cut
from pointsman.model import RoutingTable
from pointsman.version import VERSION
from pointsman.wire import stream as wire_stream
from pointsman.wire.commands import AnyCommand, CommandHead, Progress
from pointsman.wire.failures import failure_to_exception
from pointsman.wire.frames import PROTOCOL_VERSION, Body, Frame, Kind, WireError
from pointsman.wire.messages import Confirm, FailureHead, Report, Subscribe, pack, unpack
from pointsman.wire.stream import SilentPeerError, Stream

log = logging.getLogger(__name__)

REDIAL_PAUSE_S = 0.05
CLOSED_EARLY = 10
"""Connections that the other end may close in a row before it has said anything."""
SENDINGS = 5
"""Links in a row that may be lost before the controller has said that it has a command. It says so within milliseconds,
so that what ends controllers now and then does not do this."""

_ABOUT_COMMANDS = frozenset({Kind.TAKEN, Kind.CHUNK, Kind.REPLY, Kind.FAILURE})

Locate = Callable[[], Awaitable["str | None"]]
"""Finds the controller's present address; None when the instance has ended."""


class InstanceGoneError(ServeException):
    """The instance has ended: nobody holds its control socket any more."""


class _Pending:
    """A command under way. ``losses`` counts the links that broke while it was ``unheard``: sent, and not known to have
    arrived."""

    __slots__ = ("body", "future", "head", "losses", "name", "progress", "unheard")

    def __init__(
        self,
        name: str,
        head: bytes,
        body: bytes,
        future: asyncio.Future[Body],
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.name = name
        self.head = head
        self.body = body
        self.future = future
        self.progress = progress
        self.losses = 0
        self.unheard = False

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # who was interrupted while waiting will not look at it


class ControlLink:
    """A process's connection to the controller.

    Args:
        path: the control socket.
        locate: asked for the address before each dial, where that may change; ``path`` is then not looked at.
        instance: id of the instance.
        role: one of the roles of ``wire.auth``; with ``identity`` it says who this is.
        key: the key of that role.
        patient: whether a controller that takes the connection and says nothing is waited for, again and again: it may
            be stopped. Otherwise that is an error.
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
        patient: bool = False,
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
        self._patient = patient
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
            WireError: the controller does not hold our key, or we not its, or it is of another version.
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
            await wire_stream.close_streams([self._stream])
        self._fail_pending(InstanceGoneError("the client was shut down"))

    def subscribe(self, *, ingress: bool, pid: int) -> None:
        """Ask for routing tables, from now on and after each reconnect."""
        self._subscription = pack(Subscribe(ingress, pid))
        if self._stream is not None and self._stream.ready:
            self._stream.send(Kind.SUBSCRIBE, 0, self._subscription)

    def report(self, report: Report, body: bytes = b"") -> None:
        """Tell the controller how this replica is, with texts cut to what may be sent; lost when there is none, and the
        next one asks."""
        if self._stream is not None:
            texts = {name: cut(getattr(report, name)) for name in ("error", "text", "traceback")}
            self._stream.send(Kind.REPORT, 0, pack(msgspec.structs.replace(report, **texts)), body)

    async def command(
        self, command: AnyCommand, body: bytes = b"", *, progress: Callable[[Progress], None] | None = None
    ) -> Body:
        """Carry out a command and return the reply.

        Raises:
            ServeException, ValueError, TypeError, KeyError: as the controller says.
            TooLargeError: the command's arguments are, and it was not sent.
            InstanceGoneError: the instance ended meanwhile.
        """
        if self._gone is not None:
            raise self._gone
        packed, name = pack(command), str(command.__struct_config__.tag)
        check_size(f"the arguments of {name} take", len(packed), MAX_MESSAGE, room=MESSAGE_ROOM)
        check_size(f"the code of {name} takes", len(body), MAX_CODE)
        self._next_id += 1
        call_id = self._next_id
        future: asyncio.Future[Body] = asyncio.get_running_loop().create_future()
        pending = _Pending(name, pack(CommandHead(len(packed))), packed + body, future, progress)
        self._pending[call_id] = pending
        if self._stream is not None and self._stream.ready:
            self._send(self._stream, call_id, pending)
        try:
            return await future
        except asyncio.CancelledError:
            if self._stream is not None:
                self._stream.send(Kind.CANCEL, call_id)
            raise
        finally:
            self._pending.pop(call_id, None)
            if pending.losses and self._stream is not None:
                self._send_suspect(self._stream)

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
            if not self._connected.is_set():
                error = error or self._stream_error or self._refusal()
            if error is not None:
                self._give_up(error)
                return
            await asyncio.sleep(REDIAL_PAUSE_S)

    _stream_error: Exception | None = None
    _closed_early = 0
    """Times in a row that the other end has closed the connection before either had proven itself."""

    def _refusal(self) -> Exception | None:
        """One that dies closes a connection once or twice; one of another wire version closes each."""
        if self._closed_early < CLOSED_EARLY:
            return None
        return WireError(
            f"the controller closed {self._closed_early} connections in a row before any word was said: it is most"
            f" likely of another version of Pointsman than this one, {VERSION} (wire version {PROTOCOL_VERSION}); use"
            " the version that the instance was started with"
        )

    def _give_up(self, error: Exception) -> None:
        self._gone = error
        self._fail_pending(error)
        self._connected.set()
        if self._on_gone is not None:
            self._on_gone()

    def _fail_pending(self, error: Exception) -> None:
        for pending in list(self._pending.values()):
            pending.fail(error)

    def _send(self, stream: Stream, call_id: int, pending: _Pending) -> None:
        if not stream.closed:
            stream.send(Kind.COMMAND, call_id, pending.head, pending.body)
            pending.unheard = True

    def _send_suspect(self, stream: Stream) -> None:
        """Send the first of the commands that were unheard when a link was lost. One after the other, so that one which
        breaks links does not take others with it."""
        for call_id, pending in self._pending.items():
            if pending.losses and not pending.future.done():
                if not pending.unheard:
                    self._send(stream, call_id, pending)
                return

    def _heard(self, stream: Stream, pending: _Pending) -> None:
        """The controller has a command."""
        pending.unheard = False
        if pending.losses:
            pending.losses = 0
            self._send_suspect(stream)

    def _count_losses(self) -> None:
        for pending in [pending for pending in self._pending.values() if pending.unheard]:
            pending.unheard = False
            pending.losses += 1
            if pending.losses >= SENDINGS:
                pending.fail(
                    ServeException(
                        f"{pending.name} was given up: {SENDINGS} times in a row the connection to the controller broke"
                        f" as this command, {len(pending.body)} bytes, was sent; the controller's log may say why"
                    )
                )

    # StreamUser

    def stream_ready(self, stream: Stream) -> None:
        self._stream = stream
        if self._on_ready is not None:
            self._on_ready(self)
        if self._subscription is not None:
            stream.send(Kind.SUBSCRIBE, 0, self._subscription)
        for call_id, pending in self._pending.items():
            if not pending.losses:
                self._send(stream, call_id, pending)
        self._send_suspect(stream)
        self._connected.set()

    def stream_frames(self, stream: Stream, frames: list[Frame]) -> None:
        for frame in frames:
            pending = self._pending.get(frame.call_id)
            if frame.kind == Kind.TABLE:
                self._receive_table(stream, frame)
            elif frame.kind in _ABOUT_COMMANDS:
                if pending is not None:
                    self._receive_about(stream, pending, frame)
            elif self._on_frame is not None:
                self._on_frame(frame)

    def _receive_about(self, stream: Stream, pending: _Pending, frame: Frame) -> None:
        if pending.unheard:
            self._heard(stream, pending)
        if frame.kind == Kind.CHUNK:
            if pending.progress is not None:
                pending.progress(unpack(frame.head, Progress))
        elif pending.future.done():
            return
        elif frame.kind == Kind.REPLY:
            pending.future.set_result(frame.body)
        elif frame.kind == Kind.FAILURE:
            failure = unpack(frame.head, FailureHead)
            pending.future.set_exception(failure_to_exception(failure, frame.body, trusted=True))

    def stream_lost(self, stream: Stream, error: Exception | None) -> None:
        if isinstance(error, WireError) and not (self._patient and isinstance(error, SilentPeerError)):
            self._stream_error = error
            log.warning("connection to the controller was refused: %s", error)
        self._closed_early = 0 if stream.ready or isinstance(error, WireError) else self._closed_early + 1
        self._count_losses()
        self._lost.set()

    def _receive_table(self, stream: Stream, frame: Frame) -> None:
        table = unpack(frame.body, RoutingTable)
        if self.on_table is not None:
            self.on_table(table)
        stream.send(Kind.CONFIRM, 0, pack(Confirm(table.version)))
