"""An engine without processes: it records its orders, and simulates replicas by a plan.

    Controller -> FakeEngine.launch -> started, fresh -> (assignment) -> ready | failed -> drained -> exited

Used by tests of the controller under :func:`~pointsman.testing.virtual_time.run`. Like a supervisor, the engine
outlives controllers: the next controller gets the live replicas in ``recovered``. User code is never loaded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

from pointsman.controller.observed import LaunchMetadata
from pointsman.engine.base import ONE_NODE, OneNode
from pointsman.engine.orders import LaunchOrder, ProcessEvent, ShutdownOrder
from pointsman.model import Reason
from pointsman.wire.frames import Body, Kind
from pointsman.wire.messages import Assignment, ConfigureHead, DrainHead, HealthAnswer, Report, unpack


class HealthEvents(Protocol):
    """The controller's health watch, as it receives answers."""

    def on_answer(self, number: int, answer: HealthAnswer) -> None: ...


class ControllerEvents(Protocol):
    """The controller, as an engine, replicas and routers see it."""

    @property
    def health(self) -> HealthEvents: ...

    def process_event(self, event: ProcessEvent) -> None: ...

    def replica_reported(self, report: Report, pickled: bytes) -> None: ...

    def router_confirmed(self, router: int, version: int, *, connected: bool = True) -> None: ...

    def router_lost(self, router: int) -> None: ...


@dataclass
class ReplicaPlan:
    """How a replica behaves. Durations are in seconds of the loop's clock; None means never.

    Attributes:
        start_s: from the launch order to the process's first report.
        ready_s: from the assignment to the end of the constructor.
        constructor_error: text of the exception that the constructor raises; empty if it raises none.
        reconfigure_s: how long a new configuration takes.
        reconfigure_error: text of the exception that ``reconfigure`` raises; empty if it raises none.
        drain_s: how long running calls take after the order to drain.
        stop_s: from the order to stop to the exit.
        health: the answer of its health thread; None if it is silent.
        stopped: whether the process is stopped by a signal.
    """

    start_s: float | None = 0.1
    ready_s: float | None = 1.0
    constructor_error: str = ""
    reconfigure_s: float = 0.0
    reconfigure_error: str = ""
    drain_s: float | None = 0.0
    stop_s: float | None = 0.0
    health: HealthAnswer | None = field(default_factory=lambda: HealthAnswer(0))
    stopped: bool = False


class Order(NamedTuple):
    """An entry of the engine's history.

    ``launch``, ``configure``, ``drain``, ``stop``, ``kill`` and ``exit`` have the number of a replica, ``publish`` and
    ``confirm`` the version of a table, ``shutdown`` has 0.

    Attributes:
        time: when, in seconds of the loop's clock.
        what: its kind.
        number: of a replica, or the version of a table.
    """

    time: float
    what: str
    number: int = 0


@dataclass
class FakeReplica:
    """A simulated replica process. Made by :class:`FakeEngine`.

    Attributes:
        number: of the replica.
        pid: of the process, made up.
        note: what the controller wrote down with its launch.
        packed_note: the same, packed.
        plan: how it behaves.
        report: its last report.
        assigned: whether it has been told what to run.
        config_versions: the configurations that it has taken, in order.
        timers: what it does next.
    """

    number: int
    pid: int
    note: LaunchMetadata
    packed_note: bytes
    plan: ReplicaPlan
    report: Report
    assigned: bool = False
    config_versions: list[int] = field(default_factory=list)
    timers: list[asyncio.TimerHandle] = field(default_factory=list)


class FakeEngine:
    """Implements :class:`pointsman.engine.base.Engine`.

    Args:
        plan: returns the behaviour of a new replica, given its launch metadata; by default it never fails.

    Attributes:
        orders: all orders and what followed, in order; :meth:`history` returns them without the times.
        live: the live replicas, by number.
        launched: all replicas that were ever launched.
        shut_down: the order to shut down; None before it came.
    """

    def __init__(self, plan: Callable[[LaunchMetadata], ReplicaPlan] = lambda note: ReplicaPlan()) -> None:
        self.plan = plan
        self.orders: list[Order] = []
        self.live: dict[int, FakeReplica] = {}
        self.launched: list[FakeReplica] = []
        self.shut_down: ShutdownOrder | None = None
        self._controller: ControllerEvents | None = None
        self._loop = asyncio.get_running_loop()

    def attach(self, controller: ControllerEvents | None, *, reconnect_s: float = 0.05) -> None:
        """Serve this controller from now on; None while there is none.

        It gets ``recovered``, and ``reconnect_s`` seconds later the first report of each live replica.

        Args:
            controller: the controller.
            reconnect_s: seconds after which replicas report to it.
        """
        self._controller = controller
        if controller is None:
            return
        live = {replica.number: (replica.pid, replica.packed_note) for replica in self.live.values()}
        controller.process_event(ProcessEvent("recovered", live=live))
        for replica in self.live.values():
            self._later(replica, reconnect_s, partial(self._introduce, replica))

    def of(self, backend: str) -> list[FakeReplica]:
        """The live replicas of a backend, oldest first.

        Args:
            backend: its tag.
        """
        return [replica for replica in self.live.values() if replica.note.backend == backend]

    def history(self, *kinds: str) -> list[tuple[str, int]]:
        """The history, or its entries of these kinds.

        Args:
            kinds: such as ``"launch"``; none for all.
        """
        return [(order.what, order.number) for order in self.orders if not kinds or order.what in kinds]

    def exit(self, number: int, text: str = "killed by SIGKILL") -> None:
        """Let a process exit by itself.

        Args:
            number: of the replica.
            text: what the engine says of the end.
        """
        replica = self.live.pop(number, None)
        if replica is not None:
            for timer in replica.timers:
                timer.cancel()
            self.note("exit", number)
            self._event(ProcessEvent("exited", number, replica.pid, exit=text))

    def note(self, what: str, number: int = 0) -> None:
        """Add an entry to the history.

        Args:
            what: its kind.
            number: of a replica, or the version of a table.
        """
        self.orders.append(Order(self._loop.time(), what, number))

    # Engine

    def launch(self, order: LaunchOrder) -> None:
        """Start a replica, as its plan says.

        Args:
            order: of the controller.
        """
        self.note("launch", order.number)
        note = unpack(order.metadata, LaunchMetadata)
        replica = FakeReplica(
            number=order.number,
            pid=10_000 + order.number % 10_000,
            note=note,
            packed_note=order.metadata,
            plan=self.plan(note),
            report=Report(order.number, "fresh"),
        )
        self.live[order.number] = replica
        self.launched.append(replica)
        self._later(replica, replica.plan.start_s, lambda: self._started(replica))

    def kill(self, number: int) -> None:
        """Have a replica exit at once.

        Args:
            number: of the replica.
        """
        self.note("kill", number)
        if number in self.live:
            self._later(self.live[number], 0.0, lambda: self.exit(number))

    def is_stopped(self, pid: int) -> bool:
        """Whether a process is stopped by a signal, as its plan says.

        Args:
            pid: of the process.
        """
        return any(replica.plan.stopped for replica in self.live.values() if replica.pid == pid)

    def shutdown(self, order: ShutdownOrder) -> None:
        """Note the order, and end nothing.

        Args:
            order: of the controller.
        """
        self.note("shutdown")
        self.shut_down = order

    async def start(self) -> None:
        """Returns at once."""

    async def aclose(self) -> None:
        """Returns at once."""

    @property
    def nodes(self) -> OneNode:
        """The one node that there is."""
        return ONE_NODE

    @property
    def ingresses_wanted(self) -> int:
        """How many HTTP servers there are: none."""
        return 0

    # Replicas

    def tell(self, number: int, kind: Kind, head: bytes, body: Body = b"") -> None:
        """Handle a message of the controller to a replica.

        Args:
            number: of the replica.
            kind: of the message.
            head: of the message, packed.
            body: of the message.
        """
        replica = self.live.get(number)
        if replica is None:
            return
        self.note(kind.name.lower(), number)
        plan = replica.plan
        if kind is Kind.STOP:
            self._later(replica, plan.stop_s, lambda: self.exit(number, "exited with code 0"))
        elif kind is Kind.DRAIN:
            patient = unpack(head, DrainHead).timeout_s is None
            self._report(replica, Report(number, "draining", replica.report.config_version, patient=patient))
            self._later(replica, plan.drain_s, lambda: self._becomes(replica, "drained", replica.report.config_version))
        elif kind is Kind.ASSIGN and not replica.assigned:
            replica.assigned = True
            replica.report = Report(number, "starting")
            version = unpack(head, Assignment).config_version
            self._later(replica, plan.ready_s, lambda: self._constructed(replica, version))
        elif kind is Kind.CONFIGURE:
            version = unpack(head, ConfigureHead).config_version
            self._later(replica, plan.reconfigure_s, lambda: self._reconfigured(replica, version))

    def ask(self, number: int) -> None:
        """Handle a request of the controller to a replica's health thread.

        Args:
            number: of the replica.
        """
        replica = self.live.get(number)
        if replica is not None and self._controller is not None and replica.plan.health is not None:
            self._controller.health.on_answer(number, replica.plan.health)

    def _introduce(self, replica: FakeReplica) -> None:
        self._report(replica, replica.report)

    def _started(self, replica: FakeReplica) -> None:
        self._event(ProcessEvent("started", replica.number, replica.pid))
        self._report(replica, replica.report)

    def _constructed(self, replica: FakeReplica, version: int) -> None:
        if replica.plan.constructor_error:
            self._fails(replica, Reason.CONSTRUCTOR_FAILED, replica.plan.constructor_error, 0)
        else:
            self._becomes(replica, "ready", version)

    def _reconfigured(self, replica: FakeReplica, version: int) -> None:
        if replica.plan.reconfigure_error:
            self._fails(replica, Reason.RECONFIGURE_FAILED, replica.plan.reconfigure_error, version)
        else:
            self._becomes(replica, "ready", version)

    def _becomes(self, replica: FakeReplica, state: str, version: int) -> None:
        if state == "ready":
            replica.config_versions.append(version)
        self._report(replica, Report(replica.number, state, version))

    def _fails(self, replica: FakeReplica, reason: Reason, text: str, version: int) -> None:
        traceback = f"Traceback (most recent call last):\nRuntimeError: {text}\n"
        self._report(replica, Report(replica.number, "failed", version, reason, "RuntimeError", text, traceback))

    def _report(self, replica: FakeReplica, report: Report) -> None:
        replica.report = report
        if self._controller is not None:
            self._controller.replica_reported(report, b"")

    def _event(self, event: ProcessEvent) -> None:
        if self._controller is not None:
            self._controller.process_event(event)

    def _later(self, replica: FakeReplica, delay_s: float | None, action: Callable[[], None]) -> None:
        if delay_s is not None:
            replica.timers.append(self._loop.call_later(delay_s, action))
