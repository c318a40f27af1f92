"""The connections to the controller, and what each role may send.

    operator   commands, subscriptions; the driver and the command line
    grant      the same; the client of user code in a replica
    console    reads; with the token of a user, what that allows
    ingress    subscriptions
    replica    reports, and which models it holds; on a second connection, answers of its health thread

A replica's key is accepted for the role of that replica only, so a stolen one cannot give commands.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable

from pointsman.controller.commands import Commands
from pointsman.controller.controller import Controller
from pointsman.controller.models import Models
from pointsman.controller.orders import Subscription
from pointsman.controller.rights import Sender
from pointsman.controller.scaling.demand import Collector
from pointsman.controller.waiters import StartFailure
from pointsman.engine.instances import last_table
from pointsman.exceptions import ServeException, TooLargeError
from pointsman.limits import MAX_MESSAGE, MESSAGE_ROOM, check_size
from pointsman.model import RoutingTable
from pointsman.telemetry.logs import WarningBudget
from pointsman.wire.auth import (
    ROLE_CONSOLE,
    ROLE_GRANT,
    ROLE_INGRESS,
    ROLE_OPERATOR,
    ROLE_REPLICA,
    derive_key,
)
from pointsman.wire.commands import (
    AnyCommand,
    CommandHead,
    Progress,
)
from pointsman.wire.failures import describe_error
from pointsman.wire.frames import Frame, Kind, WireError
from pointsman.wire.handover import ControllerHandover
from pointsman.wire.messages import Confirm, HealthAnswer, Report, Subscribe, pack, unpack
from pointsman.wire.scaling import DemandHead, ModelDetails
from pointsman.wire.stream import Stream
from pointsman.wire.tables import TableChange

log = logging.getLogger(__name__)

SUBSCRIBERS = frozenset({ROLE_OPERATOR, ROLE_GRANT, ROLE_INGRESS})
COMMANDERS = frozenset({ROLE_OPERATOR, ROLE_GRANT, ROLE_CONSOLE})


class Connections:
    """Handles all accepted streams, and is the controller's :class:`~pointsman.controller.orders.Peers`.

    Args:
        handover: start arguments of this controller; the keys of all roles are derived from its master key.

    Attributes:
        demand: adds up what routers count of the calls for backends.
        models: asks replicas which models they hold.
    """

    def __init__(self, handover: ControllerHandover) -> None:
        self._settings = handover.settings
        self._packed = b""  # the newest table, if it was needed whole
        self._last_table = last_table(handover.control_path)
        self._controller: Controller | None = None
        self._commands: Commands
        self._disconnected: Callable[[int], None]
        self._subscriptions: dict[Stream, Subscription] = {}
        self._replicas: dict[int, Stream] = {}
        self._health: dict[int, Stream] = {}
        self._numbers = itertools.count(1)
        self._running: dict[tuple[Stream, int], asyncio.Task[None]] = {}
        self._warnings = WarningBudget(per_second=1)
        self.demand = Collector(asyncio.get_running_loop().time)
        self.models = Models(self._ask_for_models)

    def serve(self, controller: Controller, commands: Commands, *, disconnected: Callable[[int], None]) -> None:
        """Set who handles what is received. Called before any stream is accepted.

        Args:
            disconnected: called with the number of each replica whose connection is lost.
        """
        self._controller = controller
        self._commands = commands
        self._disconnected = disconnected

    @property
    def controller(self) -> Controller:
        assert self._controller is not None
        return self._controller

    def key_for(self, role: str, identity: str) -> bytes | None:
        """The key that a dialer of this role must prove; None if nobody may connect with it."""
        if role == ROLE_GRANT and not self._settings.client_in_replicas:
            return None
        if role in (ROLE_OPERATOR, ROLE_CONSOLE):
            identity = ""
        elif role not in (ROLE_GRANT, ROLE_INGRESS, ROLE_REPLICA):
            return None
        return derive_key(self._settings.master_key, role, identity)

    # Peers

    def send_to_replica(self, number: int, kind: Kind, head: bytes, body: bytes = b"") -> None:
        stream = self._replicas.get(number)
        if stream is not None:
            stream.send(kind, 0, head, body)

    def request_health(self, number: int) -> None:
        stream = self._health.get(number)
        if stream is not None:
            stream.send(Kind.HEALTH, number)

    def _ask_for_models(self, number: int, question: int) -> bool:
        stream = self._replicas.get(number)
        if stream is not None:
            stream.send(Kind.MODELS, question)
        return stream is not None

    def send_to_ingresses(self, kind: Kind, head: bytes = b"") -> None:
        for subscription in self.ingresses():
            subscription.stream.send(kind, 0, head)

    def is_connected(self, number: int) -> bool:
        return number in self._replicas

    def publish(self, table: RoutingTable, change: TableChange | None) -> None:
        self._packed = b""
        kind, body = (Kind.TABLE, self._whole()) if change is None else (Kind.TABLE_CHANGE, pack(change))
        if self._last_table is not None and (change is None or not self._last_table.add(body)):
            self._last_table.keep(self._whole())
        for subscription in self._subscriptions.values():
            _send_table(subscription.stream, kind, body)

    def _whole(self) -> bytes:
        """The newest table, packed once for all who subscribe before the next: after a restart of this process, that is
        every router."""
        self._packed = self._packed or pack(self.controller.table)
        return self._packed

    def ingress_routers(self) -> frozenset[int]:
        return frozenset(s.number for s in self._subscriptions.values() if s.ingress)

    def ingresses(self) -> list[Subscription]:
        return [s for s in self._subscriptions.values() if s.ingress]

    # StreamUser

    def stream_ready(self, stream: Stream) -> None:
        pass  # the dialer sends first

    def stream_frames(self, stream: Stream, frames: list[Frame]) -> None:
        for frame in frames:
            self._receive(stream, frame)

    def stream_lost(self, stream: Stream, error: Exception | None) -> None:
        if isinstance(error, WireError):
            held_back = self._warnings.take("closed", asyncio.get_running_loop().time())
            if held_back:  # a dialer that is refused may retry for ever
                log.warning("%d more lines like the next one were held back", held_back)
            if held_back is not None:
                log.warning("a connection was closed: %s", error)
        subscription = self._subscriptions.pop(stream, None)
        if subscription is not None:
            self.controller.router_lost(subscription.number)
            self.demand.lost(subscription.number)
        for number in [number for number, known in self._health.items() if known is stream]:
            del self._health[number]
        for number in [number for number, known in self._replicas.items() if known is stream]:
            del self._replicas[number]
            self.models.lost(number)
            self._disconnected(number)
        for key in [key for key in self._running if key[0] is stream]:
            self._running[key].cancel()

    def _receive(self, stream: Stream, frame: Frame) -> None:
        kind, role = frame.kind, stream.role
        if kind == Kind.COMMAND and role in COMMANDERS:
            self._start_command(stream, frame)
        elif kind == Kind.CANCEL and role in COMMANDERS:
            task = self._running.get((stream, frame.call_id))
            if task is not None:
                task.cancel()
        elif kind == Kind.SUBSCRIBE and role in SUBSCRIBERS:
            self._subscribe(stream, unpack(frame.head, Subscribe))
        elif kind == Kind.CONFIRM and stream in self._subscriptions:
            self._on_confirm(self._subscriptions[stream], unpack(frame.head, Confirm))
        elif kind == Kind.DEMAND and stream in self._subscriptions:
            self.demand.reported(self._subscriptions[stream].number, unpack(frame.head, DemandHead))
        elif kind == Kind.REPORT and role == ROLE_REPLICA:
            report = unpack(frame.head, Report)
            if str(report.number) != stream.identity:
                raise WireError(f"replica {stream.identity} reported for {report.number}")
            introduces = self._replicas.get(report.number) is not stream
            self._replicas[report.number] = stream
            self.controller.replica_reported(report, bytes(frame.body), introduces=introduces)
        elif kind == Kind.HEALTH and role == ROLE_REPLICA:
            number = int(stream.identity)
            self._health[number] = stream
            if frame.head:  # the first frame has none: it only identifies the connection
                self.controller.health.on_answer(number, unpack(frame.head, HealthAnswer))
        elif kind == Kind.MODELS and role == ROLE_REPLICA:
            self.models.told(int(stream.identity), frame.call_id, unpack(frame.head, ModelDetails))
        else:
            raise WireError(f"{Kind(kind).name} is forbidden for role {role!r}")

    def _subscribe(self, stream: Stream, message: Subscribe) -> None:
        if stream not in self._subscriptions:  # otherwise it lacks what a change is based on
            ingress = message.ingress and stream.role == ROLE_INGRESS
            subscription = Subscription(next(self._numbers), stream, ingress=ingress, pid=message.pid)
            self._subscriptions[stream] = subscription
            self.controller.router_confirmed(subscription.number, 0)
            if ingress:
                self.controller.ingress_subscribed(stream.identity)
        if self.controller.published:
            _send_table(stream, Kind.TABLE, self._whole())
        else:
            stream.send(Kind.CONFIRM, 0, pack(Confirm(0)))

    def _on_confirm(self, subscription: Subscription, message: Confirm) -> None:
        self.controller.router_confirmed(subscription.number, message.version, connected=message.connected)
        self._commands.router_confirmed()

    # Commands

    def _start_command(self, stream: Stream, frame: Frame) -> None:
        if self.controller.closing:
            return  # unanswered: whoever asks repeats it to the next controller
        head, body = unpack(frame.head, CommandHead), memoryview(frame.body)
        size, sender = head.size, Sender(stream.role, head.warrant)
        command: AnyCommand = unpack(body[:size], AnyCommand)  # type: ignore[arg-type]  # a union
        stream.send(Kind.TAKEN, frame.call_id)
        task = asyncio.get_running_loop().create_task(
            self._run_command(stream, frame.call_id, command, bytes(body[size:]), sender)
        )
        key = (stream, frame.call_id)
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key, None))

    async def _run_command(
        self, stream: Stream, call_id: int, command: AnyCommand, body: bytes, sender: Sender
    ) -> None:
        def progress(state: Progress) -> None:
            stream.send(Kind.CHUNK, call_id, pack(state))

        try:
            own = self._subscriptions.get(stream)
            reply = await self._commands.execute(
                command, body, progress, own_router=own.number if own else None, sender=sender
            )
            check_size("the answer takes", len(reply), MAX_MESSAGE, room=MESSAGE_ROOM)
        except (ServeException, ValueError, TimeoutError) as error:
            stream.send(Kind.FAILURE, call_id, *_describe(error))
        except Exception as error:  # a bug in a command fails that command, not the controller
            if self.controller.closing:
                return  # the store has closed before it; as in _start_command
            log.exception("command failed")
            stream.send(Kind.FAILURE, call_id, *_describe(ServeException(f"internal error: {error!r}")))
        else:
            stream.send(Kind.REPLY, call_id, b"", reply)


def _send_table(stream: Stream, kind: Kind, body: bytes) -> None:
    """Send a routing table, or a change of it."""
    try:
        stream.send(kind, 0, b"", body)
    except TooLargeError as error:  # a restart would not help; routers keep the table that they have
        log.error("the routing table cannot be sent, so changes do not take effect: %s", error)


def _describe(error: BaseException) -> tuple[bytes, bytes]:
    if isinstance(error, StartFailure):
        return pack(error.head()), error.pickled
    return pack(describe_error(error)), b""
