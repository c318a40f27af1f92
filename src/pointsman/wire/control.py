"""The link of one process to its controller: commands out, routing tables in.

Clients, ingresses and replicas each keep one. It reconnects when the controller dies. On one machine the supervisor
holds the listening socket, so a dial during the restart waits instead of failing; on a cluster the engine is asked for
the controller's address before each dial. Commands in flight are sent again; their id makes that harmless. The
controller confirms at once that a command has arrived (decision 0044): a command whose link breaks before that, several
times in a row, is given up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from pointsman.exceptions import ServeException
from pointsman.limits import MAX_CODE, MAX_MESSAGE, MESSAGE_ROOM, check_size, cut
from pointsman.model import EMPTY_TABLE, RoutingTable
from pointsman.version import VERSION
from pointsman.wire import stream as wire_stream
from pointsman.wire.auth import ROLE_CONSOLE
from pointsman.wire.failures import failure_to_exception
from pointsman.wire.frames import PROTOCOL_VERSION, Body, Frame, Kind, WireError
from pointsman.wire.messages import Confirm, FailureHead, Report, Subscribe, Warrant, pack, unpack
from pointsman.wire.stream import SilentPeerError, Stream
from pointsman.wire.tables import TableChange, WrongBaseError, apply_change

if TYPE_CHECKING:  # their schemas cost a process memory and time to start, and replicas send none
    from pointsman.wire.commands import AnyCommand, Progress

log = logging.getLogger(__name__)

REDIAL_PAUSE_S = 0.05
CLOSED_EARLY = 10
"""Connections in a row that the other end may close before it has sent anything."""
MAX_LOST = 5
"""Links in a row that may be lost before the controller has confirmed a command. It confirms within milliseconds, so
occasional deaths of controllers do not add up to this."""

_COMMAND_KINDS = frozenset({Kind.TAKEN, Kind.CHUNK, Kind.REPLY, Kind.FAILURE})

Locate = Callable[[], Awaitable["str | None"]]
"""Returns the controller's current address; None if the instance has ended."""
OnProgress = Callable[["Progress"], None]
OnTable = Callable[[RoutingTable, "TableChange | None"], "Awaitable[object] | None"]


class InstanceGoneError(ServeException):
    """The instance has ended: no process holds its control socket any more."""


class _Pending:
    """A command in flight. ``losses`` counts the links in a row that broke while it was ``unconfirmed``: sent, but not
    known to have arrived."""

    __slots__ = ("body", "future", "head", "losses", "name", "progress", "unconfirmed")

    def __init__(
        self, name: str, head: bytes, body: bytes, future: asyncio.Future[Body], progress: OnProgress | None
    ) -> None:
        self.name = name
        self.head = head
        self.body = body
        self.future = future
        self.progress = progress
        self.losses = 0
        self.unconfirmed = False

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # marks it as retrieved: a caller that was interrupted will not read it


class ControlLink:
    """A process's connection to the controller.

    Args:
        path: the control socket; not used where ``locate`` is called for its address before each dial.
        instance: id of the instance.
        role: one of the roles of ``wire.auth``; ``identity`` tells processes of one role apart.
        key: the key of that role.
        patient: whether to reconnect for as long as the controller accepts connections but does not answer, since its
            process may be suspended. Otherwise that is an error.
        on_table: called with each newer routing table, and with what differs from the one before, None if it came
            whole; when it returns the table is in use, and is confirmed. What it may return is done once the table's
            replicas are connected, which is confirmed separately.
        on_ready: called after each (re)connect, before any other frame is sent, to report who this process is.
        on_frame: called with frames that are neither replies nor tables, such as orders to a replica.
        on_gone: called once when the instance has ended.

    Attributes:
        links: how many connections there have been.
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
        on_table: OnTable | None = None,
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
        self._table = EMPTY_TABLE
        self._lacks_whole = False
        """Whether a change did not fit the table, and the whole one has been asked for."""
        self._task: asyncio.Task[None] | None = None
        self._connecting: set[asyncio.Task[None]] = set()
        self._gone: Exception | None = None
        self.links = 0

    async def start(self) -> None:
        """Connect, and stay connected until :meth:`aclose`.

        Raises:
            InstanceGoneError: no process listens at the path.
            WireError: the two ends do not hold the same key, or are of different versions.
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
        for confirming in self._connecting:
            confirming.cancel()
        if self._stream is not None:
            await wire_stream.close_streams([self._stream])
        self._fail_pending(InstanceGoneError("the client was shut down"))

    @property
    def is_up(self) -> bool:
        """Whether there is a connection to a controller now."""
        return self._stream is not None and self._stream.ready and not self._stream.closed

    def subscribe(self, *, ingress: bool, pid: int) -> None:
        """Subscribe to routing tables, now and after each reconnect."""
        self._subscription = pack(Subscribe(ingress, pid))
        if self._stream is not None and self._stream.ready:
            self._stream.send(Kind.SUBSCRIBE, 0, self._subscription)

    def report(self, report: Report, body: bytes = b"") -> None:
        """Send the controller a report, its texts cut to the limit. Lost while there is no controller: ``on_ready``
        reports to the next one."""
        if self._stream is not None:
            texts = {name: cut(getattr(report, name)) for name in ("error", "text", "traceback")}
            self._stream.send(Kind.REPORT, 0, pack(msgspec.structs.replace(report, **texts)), body)

    def tell(self, kind: Kind, head: bytes) -> bool:
        """Send a subscriber's word. False if there is no controller now: then it was not sent."""
        stream = self._stream
        if stream is None or not stream.ready or stream.closed or self._subscription is None:
            return False
        stream.send(kind, 0, head)
        return True

    def answer(self, question: Frame, head: bytes) -> None:
        """Send the controller the answer to a frame that it has sent. Lost while there is no controller."""
        if self._stream is not None:
            self._stream.send(Kind(question.kind), question.call_id, head)

    async def command(
        self,
        command: AnyCommand,
        body: bytes = b"",
        *,
        progress: Callable[[Progress], None] | None = None,
        warrant: Warrant | None = None,
    ) -> Body:
        """Send a command, of a console by the ``warrant`` of its user, and return the reply.

        Raises:
            ServeException, ValueError, TypeError, KeyError: as the controller has refused it.
            TooLargeError: its arguments or code are too large. It was not sent.
            InstanceGoneError: the instance has ended.
        """
        from pointsman.wire.commands import CommandHead

        if self._gone is not None:
            raise self._gone
        packed, name = pack(command), str(command.__struct_config__.tag)
        check_size(f"the arguments of {name} take", len(packed), MAX_MESSAGE, room=MESSAGE_ROOM)
        check_size(f"the code of {name} takes", len(body), MAX_CODE)
        self._next_id += 1
        call_id = self._next_id
        future: asyncio.Future[Body] = asyncio.get_running_loop().create_future()
        pending = _Pending(name, pack(CommandHead(len(packed), warrant)), packed + body, future, progress)
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
                    address, self, instance=self._instance, role=self._role, identity=self._identity, key=self._key
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
    """Times in a row that the other end has closed the connection before the handshake was complete."""

    def _refusal(self) -> Exception | None:
        """The error for a controller of another wire version, which closes every connection; None before that is
        certain, since a controller that dies closes one or two."""
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
            pending.unconfirmed = True

    def _send_suspect(self, stream: Stream) -> None:
        """Send the first of the commands that were unconfirmed when a link was lost. These are sent one at a time, so
        that a command which breaks links does not count as a loss for others."""
        for call_id, pending in self._pending.items():
            if pending.losses and not pending.future.done():
                if not pending.unconfirmed:
                    self._send(stream, call_id, pending)
                return

    def _confirm_received(self, stream: Stream, pending: _Pending) -> None:
        """Record that the controller has received a command."""
        pending.unconfirmed = False
        if pending.losses:
            pending.losses = 0
            self._send_suspect(stream)

    def _count_losses(self) -> None:
        for pending in [pending for pending in self._pending.values() if pending.unconfirmed]:
            pending.unconfirmed = False
            pending.losses += 1
            if pending.losses >= MAX_LOST:
                pending.fail(
                    ServeException(
                        f"{pending.name} was given up: {MAX_LOST} times in a row the connection to the controller broke"
                        f" as this command, {len(pending.body)} bytes, was sent; the controller's log may say why"
                    )
                )

    # StreamUser

    def stream_ready(self, stream: Stream) -> None:
        self._stream, self._lacks_whole = stream, False
        self.links += 1
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
                self._use_table(stream, unpack(frame.body, RoutingTable), None)
            elif frame.kind == Kind.TABLE_CHANGE:
                self._receive_change(stream, unpack(frame.body, TableChange))
            elif frame.kind in _COMMAND_KINDS:
                if pending is not None:
                    self._receive_for_command(stream, pending, frame)
            elif self._on_frame is not None:
                self._on_frame(frame)

    def _receive_for_command(self, stream: Stream, pending: _Pending, frame: Frame) -> None:
        if pending.unconfirmed:
            self._confirm_received(stream, pending)
        if frame.kind == Kind.CHUNK:
            if pending.progress is not None:
                from pointsman.wire.commands import Progress

                pending.progress(unpack(frame.head, Progress))
        elif pending.future.done():
            return
        elif frame.kind == Kind.REPLY:
            pending.future.set_result(frame.body)
        elif frame.kind == Kind.FAILURE:
            failure = unpack(frame.head, FailureHead)
            pickled = b"" if self._role == ROLE_CONSOLE else frame.body  # unpickling imports code of users
            pending.future.set_exception(failure_to_exception(failure, pickled, trusted=True))

    def stream_lost(self, stream: Stream, error: Exception | None) -> None:
        if isinstance(error, WireError) and not (self._patient and isinstance(error, SilentPeerError)):
            self._stream_error = error
            log.warning("connection to the controller was refused: %s", error)
        self._closed_early = 0 if stream.ready or isinstance(error, WireError) else self._closed_early + 1
        self._count_losses()
        self._lost.set()

    def _receive_change(self, stream: Stream, change: TableChange) -> None:
        if self._lacks_whole or change.version <= self._table.version:
            return
        try:
            table = apply_change(self._table, change)
        except WrongBaseError as error:
            log.warning("%s: the whole table is asked for", error)
            self._lacks_whole = True
            assert self._subscription is not None
            stream.send(Kind.SUBSCRIBE, 0, self._subscription)
            return
        self._use_table(stream, table, change)

    def _use_table(self, stream: Stream, table: RoutingTable, change: TableChange | None) -> None:
        self._table, self._lacks_whole = table, False
        connecting = self.on_table(table, change) if self.on_table is not None else None
        stream.send(Kind.CONFIRM, 0, pack(Confirm(table.version, connected=connecting is None)))
        if connecting is not None:
            task = asyncio.get_running_loop().create_task(_confirm_later(stream, table.version, connecting))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)


async def _confirm_later(stream: Stream, version: int, connecting: Awaitable[object]) -> None:
    await connecting
    stream.send(Kind.CONFIRM, 0, pack(Confirm(version)))
