"""The supervisor: root process of an instance on this machine.

It owns the listening sockets and the lock, spawns and reaps every other process, restarts controller and ingresses, and
ends the instance when the driver's end of the lifeline closes. Must not run user code or HTTP, nor plan for backends.

    argv: lifeline fd, then those of its sockets; see ``upgrade.Inherited``

It also inherits the descriptor that holds the lock of the instance's folder, and does not use it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pointsman.engine.folder import forget_state, logs_of
from pointsman.engine.local.controllerlink import ControllerLink
from pointsman.engine.local.ending import Ending
from pointsman.engine.local.folder import REFUSAL, InstanceFolder
from pointsman.engine.local.output import OutputPump
from pointsman.engine.local.spares import Spare, Spares
from pointsman.engine.local.upgrade import Inherited, Upgrade
from pointsman.engine.lognames import name_of
from pointsman.engine.orders import DRIVER_GONE_DRAIN_S, KillOrder, LaunchOrder, ProcessEvent, ShutdownOrder
from pointsman.engine.process import (
    CONSOLE_NICENESS,
    EXIT_REFUSED,
    SPARE,
    SPARE_VARIABLE,
    Child,
    Lifeline,
    pack_handover,
    spawn,
)
from pointsman.model import Environment
from pointsman.policy.backoff import Backoff, Restarts
from pointsman.version import VERSION
from pointsman.wire.descriptors import keep_standard_descriptors
from pointsman.wire.frames import Frame, Kind
from pointsman.wire.handover import SupervisorOrder
from pointsman.wire.messages import unpack

#: The first signal shuts the instance down and keeps its stored state, a second one kills what still drains.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: How long running requests may take after a signal if no controller answers with their limit.
SIGNALLED_DRAIN_S = 20.0
#: How long the controller may take to answer after a signal.
ANSWER_S = 1.0
#: Of controller, ingresses and console. The longest wait is short, since without them there is no service, and what
#: keeps ending them may be over by now.
BACKOFF = Backoff(first_s=0.1, last_s=2.0)
#: Pause before a start is repeated that the system refused, such as for want of descriptors.
RESTART_PAUSE_S = 0.5
#: How long the folder of an instance that cannot start is kept, for ``start()`` to read the reason.
GIVE_UP_S = 5.0
#: A process that lived this long is restarted without delay. With a larger value, a machine that kills something every
#: few seconds would be without controller and ingress for much of the time.
STEADY_S = 2.0


class Supervisor:
    """The root process.

    Args:
        order: the instance to start.
        lifeline: the pipe from the driver.
        inherited: its sockets.
    """

    def __init__(self, order: SupervisorOrder, lifeline: Lifeline, inherited: Inherited) -> None:
        self._order = order
        self._control = inherited.control
        self._http = inherited.http
        self._metrics = inherited.metrics
        self._console = inherited.console
        self._pair = inherited.pair
        self._on_copy = order.trial is not None
        self._folder = InstanceFolder(Path(order.folder))
        self._logs = logs_of(order.folder, order.settings.state_dir)
        self._logs.mkdir(mode=0o700, exist_ok=True)
        self._pump = OutputPump(
            self._logs, echo=order.bound, log_format=order.settings.log_format, json_lines=order.json_lines
        )
        self._selector = selectors.DefaultSelector()
        self._children: dict[int, Child] = {}
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self._restarts = Restarts(BACKOFF, STEADY_S)
        self._controller = ControllerLink(self._selector, self._on_frame)
        self._ending = Ending(lambda: self._children.values(), self._after)
        self._forget = self._shutdown_requested = self._is_alone = self._gave_up = False
        self._spares = Spares(
            order.settings.spare_replicas, order.python, self._start_spare, after=self._after, log=self._log
        )
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._upgrade = Upgrade(order, inherited, host=self, selector=self._selector, after=self._after, log=self._log)
        if order.bound or order.trial is not None:
            lifeline.watch(lambda: os.write(self._wake_write, b"E"))

    def run(self) -> None:
        """Start the instance and watch it until it has ended."""
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._on_wake)
        signal.set_wakeup_fd(self._wake_write)
        for signum in (*SIGNALS, signal.SIGCHLD):
            # The handler only has to exist: Python then writes the signal's number to the wake-up descriptor.
            signal.signal(signum, lambda *_: None)
        self._spawn_controller()
        for index in range(self._order.settings.ingresses):
            self._spawn_ingress(index)
        if self._console is not None and not self._on_copy:
            self._start_again(self._spawn_console, "console")
        self._spares.fill()
        self._upgrade.listen()
        while not self._ending.is_over or self._children:
            timeout = max(0.0, min(t for t, _ in self._timers) - time.monotonic()) if self._timers else None
            for key, _ in self._selector.select(timeout):
                key.data()
            self._run_timers()
            self._ending.advance()
        self._pump.close()
        self._folder.remove()
        if self._forget and self._order.settings.state_dir:
            forget_state(Path(self._order.settings.state_dir))

    # Processes

    def _spawn(
        self,
        role: str,
        number: int,
        label: str,
        handover: bytes,
        *,
        env: dict[str, str],
        fds: tuple[int, ...] = (),
        environment: Environment | None = None,
    ) -> Child:
        # Whoever can write the state is seen to live by the older supervisor.
        held = (self._pair,) if role == "controller" and self._upgrade.tries else ()
        child, output = spawn(
            self._order.python, role, number, handover, env=env, fds=fds, environment=environment, held=held
        )
        self._children[child.process.pid] = child
        self._pump.add(output, label, name_of(role, number, label), child.process.pid)
        return child

    def _spawn_controller(self) -> None:
        ours, theirs = socket.socketpair()
        handover = self._order.for_controller(str(self._folder.control_socket), on_copy=self._on_copy)
        metrics = [self._metrics.fileno()] if self._metrics and not self._on_copy else []
        fds = (self._control.fileno(), theirs.fileno(), *metrics)
        try:
            self._spawn("controller", 0, "controller", pack_handover(handover), env={}, fds=fds)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._controller.open(ours)
        live = {c.number: (c.process.pid, c.metadata) for c in self._children.values() if c.role == "replica"}
        ingresses = tuple(str(child.number) for child in self._children.values() if child.role == "ingress")
        self._controller.send(ProcessEvent("recovered", live=live, ingresses=ingresses))
        if self._upgrade.asks:
            self.ask_what_runs()

    def _spawn_ingress(self, index: int) -> None:
        assert self._http is not None
        handover = self._order.settings.for_ingress(str(index), str(self._folder.control_socket))
        self._spawn("ingress", index, "ingress", pack_handover(handover), env={}, fds=(self._http.fileno(),))

    def _spawn_console(self) -> None:
        assert self._console is not None
        handover = self._order.settings.for_console(str(self._folder.control_socket))
        fds = (self._console.fileno(),)
        child = self._spawn("console", 0, "console", pack_handover(handover), env={}, fds=fds)
        with contextlib.suppress(OSError):  # it runs all the same, and must not be started twice
            os.setpriority(os.PRIO_PROCESS, child.process.pid, CONSOLE_NICENESS)  # also its imports give way

    def _reap(self) -> None:
        for pid, child in list(self._children.items()):
            if child.process.poll() is None:
                continue
            how = child.reap()
            del self._children[pid]
            if self._ending.has_begun:
                continue  # during a shutdown exits are expected, and no event is sent
            if child.role == SPARE:
                self._log(f"a spare process {how}; starting another one")
                self._spares.lost(child, self._restarts.after((SPARE, 0), time.monotonic() - child.started))
            elif child.role == "replica":
                self._folder.forget_replica(child.number)
                self._controller.send(ProcessEvent("exited", child.number, pid, how))
            elif child.role == "controller" and self._upgrade.controller_exited():
                continue
            elif self._upgrade.tries or (
                child.process.returncode == EXIT_REFUSED and (child.role, child.number) not in self._restarts
            ):
                self._give_up(f"the {child.role} of release {VERSION} does not start: {how}; its log says why")
            else:
                self._log(f"{child.role} {how}; starting it again")
                self._restart(child)
                if child.role == "ingress":
                    self._controller.send(
                        ProcessEvent("ingress_exited", child.number, pid, how, ingresses=(str(child.number),))
                    )

    def _give_up(self, why: str) -> None:
        # Either this supervisor only tries whether it can take over; or the first controller has exited with
        # EXIT_REFUSED. Its socket is closed so that ``start()`` fails at once, and the folder is kept for a while so
        # that the reason can be read. A later controller that refuses is restarted instead: ingresses and replicas
        # serve without it.
        if not (self._folder.path / REFUSAL).exists():
            self._folder.write(REFUSAL, why.encode())
        self._gave_up = True
        self._control.close()
        if not self._upgrade.tries:  # which ends with whoever has started it
            self._after(GIVE_UP_S, lambda: self._begin_shutdown(0.0))

    def _restart(self, child: Child) -> None:
        delay_s = self._restarts.after((child.role, child.number), time.monotonic() - child.started)
        starts = {"controller": self._spawn_controller, "console": self._spawn_console}
        start = starts.get(child.role, lambda: self._spawn_ingress(child.number))
        self._after(delay_s, lambda: self._start_again(start, child.role))

    def _start_again(self, start: Callable[[], None], role: str) -> None:
        # Tried again and again: a system without a free process or descriptor may have one later, and the other
        # processes serve meanwhile.
        if self._ending.has_begun or (role == "controller" and (self._upgrade.rests or self._has(role))):
            return
        try:
            start()
        except OSError as error:
            self._log(f"the {role} could not be started, and is tried again: {error}")
            self._after(RESTART_PAUSE_S, lambda: self._start_again(start, role))

    def _start_spare(self) -> Spare:
        child, output = spawn(self._order.python, "replica", 0, b"", env={SPARE_VARIABLE: "1"}, fds=())
        child.role = SPARE
        self._children[child.process.pid] = child
        return Spare(child, output)

    # For upgrades

    @property
    def is_ending(self) -> bool:
        return self._ending.has_begun or self._gave_up

    def end_controller(self, signum: int) -> bool:
        """Send the controller a signal; False if none runs."""
        for child in self._children.values():
            if child.role == "controller":
                child.signal(signum)
        return self._has("controller")

    def start_controller(self) -> None:
        self._start_again(self._spawn_controller, "controller")

    def ask_what_runs(self) -> None:
        self._controller.send(ProcessEvent("asked_what_runs"))

    def use_state(self) -> None:
        """Use the state itself, and all resources, from the next controller on."""
        self._on_copy = False

    def go_on_alone(self) -> None:
        """Do not end with whoever started this process, and do what was left for later."""
        self._is_alone = True
        if self._console is not None:
            self._start_again(self._spawn_console, "console")

    def leave(self, drain_s: float) -> None:
        """End: the instance is another's. Its console's pages are served by that one from now on."""
        self._turn_away()
        for child in self._children.values():
            if child.role == "console":
                child.signal(signal.SIGTERM)
        self._spares.close()
        self._ending.begin(drain_s, handed_over=True)

    def _turn_away(self) -> None:
        # Clients that wait for the controller that ended dial again, by the instance's name.
        self._control.setblocking(False)
        with contextlib.suppress(OSError):
            while True:
                self._control.accept()[0].close()

    def _has(self, role: str) -> bool:
        return any(child.role == role for child in self._children.values())

    # Controller

    def _on_frame(self, frame: Frame) -> None:
        if frame.kind == Kind.LAUNCH:
            self._launch(unpack(frame.head, LaunchOrder))
        elif frame.kind == Kind.KILL:
            number = unpack(frame.head, KillOrder).number
            self._signal_replica(number, signal.SIGKILL)
        elif frame.kind == Kind.REPORT:
            self._upgrade.lend(bytes(frame.body))
        elif frame.kind == Kind.SHUTDOWN:
            order = unpack(frame.head, ShutdownOrder)
            self._forget = self._forget or order.forget
            self._begin_shutdown(order.drain_s, delay_s=order.delay_s)

    def _launch(self, order: LaunchOrder) -> None:
        if self._ending.has_begun:
            return
        try:
            child = self._spawn_replica(order)
        except OSError as error:
            self._controller.send(ProcessEvent("exited", order.number, 0, f"could not be started: {error}"))
        else:
            child.metadata = order.metadata
            self._controller.send(ProcessEvent("started", order.number, child.process.pid))
        self._spares.fill()

    def _spawn_replica(self, order: LaunchOrder) -> Child:
        spare = self._spares.take(order)
        if spare is None:
            env = {**order.env, **order.own_env}
            return self._spawn(
                "replica", order.number, order.label, order.handover, env=env, environment=order.environment
            )
        name = name_of("replica", order.number, order.label)
        self._pump.add(spare.output, order.label, name, spare.child.process.pid)
        return spare.child

    def _signal_replica(self, number: int, signum: int) -> None:
        for child in self._children.values():
            if child.role == "replica" and child.number == number:
                child.signal(signum)

    # Shutdown

    def _begin_shutdown(self, drain_s: float, *, delay_s: float = 0.0) -> None:
        self._spares.close()
        self._ending.begin(drain_s, delay_s=delay_s)

    def _request_shutdown(self) -> None:
        # The controller knows the drain limits of backends, and answers with a shutdown order.
        self._shutdown_requested = True
        self._controller.send(ProcessEvent("asked_to_end"))
        self._after(ANSWER_S, self._end_unanswered)

    def _end_unanswered(self) -> None:
        if not self._ending.has_begun:
            self._begin_shutdown(SIGNALLED_DRAIN_S, delay_s=self._order.settings.drain_delay_s)

    # Loop

    def _on_wake(self) -> None:
        for byte in os.read(self._wake_read, 4096):
            if byte == ord("E"):  # written at the lifeline's end of file
                self._on_lifeline_end()
            elif byte in SIGNALS:
                if not self._ending.has_begun and not self._shutdown_requested:
                    self._request_shutdown()
                else:  # a second signal
                    self._begin_shutdown(0.0)
                    self._ending.hurry()
        self._reap()

    def _on_lifeline_end(self) -> None:
        if self._order.trial is None or self._on_copy:
            self._begin_shutdown(DRIVER_GONE_DRAIN_S)
        elif not self._is_alone:  # it may have accepted already, and gives the sockets back
            self._spares.close()
            self._ending.begin(SIGNALLED_DRAIN_S, handed_over=True)

    def _after(self, delay_s: float, action: Callable[[], None]) -> None:
        self._timers.append((time.monotonic() + delay_s, action))

    def _run_timers(self) -> None:
        now = time.monotonic()
        due = [timer for timer in self._timers if timer[0] <= now]
        self._timers = [timer for timer in self._timers if timer[0] > now]
        for _, action in due:
            action()

    def _log(self, text: str) -> None:
        self._pump.write(text)


def main() -> None:
    keep_standard_descriptors()
    lifeline = Lifeline(int(sys.argv[1]))
    order = lifeline.read_only(SupervisorOrder)
    Supervisor(order, lifeline, Inherited.of(sys.argv[2:])).run()


if __name__ == "__main__":
    main()
