"""The supervisor's part in an upgrade: the old one lends its sockets, yields the state, and leaves or takes it back;
the new one tries on a copy, takes the state, and keeps the instance (decision 0104).

    old   IDLE ── begin ──► ASKED ── what runs ──► LENT
          LENT ── yield ──► YIELDING ── controller gone ──► YIELDED ── "kept" ──► GIVEN
            │ link ends         │                              │ resume, link ends
          IDLE ◄────────────────┴──── new one gone ──── RETURNING
    new   TRIAL ── take ──► TAKING ── controller gone ──► TAKEN ── keep ──► IDLE

The pair whose ends the two supervisors hold says both: "kept" that the instance has changed hands, and its end that the
new supervisor and its controller are gone, so that nobody else writes the state.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pointsman.engine.aside import bring_back, keep_state
from pointsman.engine.folder import DATABASE
from pointsman.engine.local.folder import InstanceFolder
from pointsman.engine.local.upgradelink import PROTOCOL, LinkLostError, UpgradeLink, is_of_this_user
from pointsman.version import VERSION
from pointsman.wire.handover import SupervisorOrder
from pointsman.wire.messages import pack

#: How long a controller may take to exit before it is killed: its store survives that.
EXIT_LIMIT_S = 5.0
KEPT = b"kept\n"
#: What is lent, by the names that the other end knows.
LENT = ("http", "metrics", "console", "lock")


class Inherited(NamedTuple):
    """The sockets that a supervisor has from whoever started it.

    Attributes:
        control: listening socket of the controller.
        http: listening socket of the ingresses, or None.
        metrics: listening socket of the controller's exporter, or None.
        console: listening socket of the console, or None.
        upgrade: listening socket of whoever takes the instance over; None where nobody can.
        pair: its end of the pair by which an older supervisor sees it live, or -1.
        lock: descriptor that holds the lock of the state folder, or -1.
    """

    control: socket.socket
    http: socket.socket | None
    metrics: socket.socket | None
    console: socket.socket | None
    upgrade: socket.socket | None
    pair: int
    lock: int

    @classmethod
    def of(cls, numbers: Sequence[str]) -> Inherited:
        """By the numbers of their descriptors, in this order; -1 for what there is not."""
        *sockets, pair, lock = map(int, numbers)
        control, http, metrics, console, upgrade = (socket.socket(fileno=fd) if fd >= 0 else None for fd in sockets)
        assert control is not None
        return cls(control, http, metrics, console, upgrade, pair, lock)

    @property
    def lent(self) -> tuple[int, ...]:
        """Descriptors of the sockets of HTTP, metrics and console, and of the lock; -1 for what there is not."""
        listening = (self.http, self.metrics, self.console)
        return (*(one.fileno() if one is not None else -1 for one in listening), self.lock)


class Phase(Enum):
    """See the module."""

    IDLE = auto()
    ASKED = auto()
    LENT = auto()
    YIELDING = auto()
    YIELDED = auto()
    RETURNING = auto()
    GIVEN = auto()
    TRIAL = auto()
    TAKING = auto()
    TAKEN = auto()


class Host(Protocol):
    """The supervisor."""

    @property
    def is_ending(self) -> bool: ...

    def end_controller(self, signum: int) -> bool:
        """Send the controller a signal; False if none runs."""

    def start_controller(self) -> None: ...

    def ask_what_runs(self) -> None:
        """Have the controller say it."""

    def use_state(self) -> None:
        """Use the state itself, and all resources, from the next controller on."""

    def go_on_alone(self) -> None:
        """Do not end with whoever started this process, and do what was left for later."""

    def leave(self, drain_s: float) -> None:
        """End: the instance is another's."""


class Upgrade:
    """See the module.

    Args:
        order: of this supervisor.
        inherited: its sockets; those that are listened on are lent, with the lock of the state folder.
        host: the supervisor.
        selector: of the supervisor's loop.
        after: calls a function after so many seconds.
        log: takes warnings.
    """

    def __init__(
        self,
        order: SupervisorOrder,
        inherited: Inherited,
        *,
        host: Host,
        selector: selectors.BaseSelector,
        after: Callable[[float, Callable[[], None]], None],
        log: Callable[[str], None],
    ) -> None:
        self._order = order
        self._listener = inherited.upgrade
        self._lent = inherited.lent
        self._pair = inherited.pair
        self._host = host
        self._selector = selector
        self._after = after
        self._log = log
        self._folder = InstanceFolder(Path(order.folder))
        self._phase = Phase.IDLE if order.trial is None else Phase.TRIAL
        self._link: UpgradeLink | None = None
        self._other: socket.socket | None = None  # our end of the pair, while an instance is lent
        self._heir = self._folder
        self._drain_s = 0.0
        self._answers = False

    def listen(self) -> None:
        """Begin to listen; does nothing for an instance that cannot be taken over."""
        listener = self._listener
        if listener is not None:
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ, lambda: self._accept(listener))

    @property
    def rests(self) -> bool:
        """Whether there shall be no controller for now."""
        return self._phase in (Phase.YIELDING, Phase.YIELDED, Phase.RETURNING, Phase.GIVEN)

    @property
    def tries(self) -> bool:
        """Whether this process is still one that tries: what fails in it ends it."""
        return self._phase in (Phase.TRIAL, Phase.TAKING, Phase.TAKEN)

    def controller_exited(self) -> bool:
        """A controller has exited. Returns whether that was wanted, or is no matter now."""
        if self._phase is Phase.YIELDING:
            self._controller_is_gone()
        elif self._phase is Phase.TAKING:
            self._phase = Phase.TAKEN
            self._host.use_state()
            self._host.start_controller()
            self._answer()
        else:
            return self.rests
        return True

    # Connections

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # it has gone again
        link = UpgradeLink(connection)
        if not is_of_this_user(connection):
            link.close()
        elif self._link is not None or self._other is not None or self._phase not in (Phase.IDLE, Phase.TRIAL):
            self._refuse(link, "another upgrade of this instance is under way; wait for its end", busy=True)
            connection.setblocking(False)
            self._selector.register(connection, selectors.EVENT_READ, lambda: self._wait_for_goodbye(connection))
        else:
            self._link = link
            self._selector.register(connection, selectors.EVENT_READ, self._read)

    def _wait_for_goodbye(self, connection: socket.socket) -> None:
        # Closed at once, the answer could be lost to who is still writing.
        try:
            said = connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:
            self._selector.unregister(connection)
            connection.close()

    def _read(self) -> None:
        assert self._link is not None
        link = self._link
        link.connection.setblocking(False)
        try:
            message = link.read()
        except LinkLostError:
            self._link_is_lost()
            return
        if message is not None:
            self._hear(link, message)

    def _hear(self, link: UpgradeLink, message: dict[str, Any]) -> None:
        word = message.get("word")
        if self._host.is_ending:  # a trial that has failed must not be told to keep the instance
            self._refuse(link, f"the supervisor of release {VERSION} is ending; its log says why")
        elif word == "begin" and self._phase is Phase.IDLE:
            self._phase = Phase.ASKED
            self._host.ask_what_runs()
        elif word == "yield" and self._phase is Phase.LENT:
            self._yield(link, message.get("folder"), message.get("drain_s"))
        elif word == "resume" and self._phase in (Phase.ASKED, Phase.LENT, Phase.YIELDING, Phase.YIELDED):
            self._answers = True
            self._take_back()
        elif word == "take" and self._phase is Phase.TRIAL:
            self._phase = Phase.TAKING
            self._end_controller(Phase.TAKING)
        elif word == "keep" and self._phase is Phase.TAKEN:
            self._keep()
        else:
            self._refuse(link, f"the word {word!r} is not known, or makes no sense now; this is release {VERSION}")

    def _link_is_lost(self) -> None:
        self._drop_link()
        self._answers = False
        if self._phase in (Phase.ASKED, Phase.LENT, Phase.YIELDING, Phase.YIELDED):
            self._take_back()

    def _drop_link(self) -> None:
        if self._link is not None:
            self._selector.unregister(self._link.connection)
            self._link.close()
            self._link = None

    def _answer(self, descriptors: Sequence[int] = (), **fields: Any) -> None:
        if self._link is not None:
            with contextlib.suppress(LinkLostError):  # which is noticed when it is read
                self._link.send({"ok": True, **fields}, descriptors)

    def _refuse(self, link: UpgradeLink, error: str, *, busy: bool = False) -> None:
        with contextlib.suppress(LinkLostError):
            link.send({"ok": False, "error": error, "busy": busy})

    # The old one

    @property
    def asks(self) -> bool:
        """Whether the controller shall say what runs."""
        return self._phase is Phase.ASKED

    def lend(self, runs: bytes) -> None:
        """Lend everything; the controller has said what runs."""
        link = self._link
        if self._phase is not Phase.ASKED or link is None:
            return  # whoever has asked is gone
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            self._phase = Phase.IDLE
            self._refuse(link, f"the instance has no descriptor left: {error.strerror}")
            return
        self._other = ours
        ours.setblocking(False)
        self._selector.register(ours, selectors.EVENT_READ, self._hear_other)
        self._phase = Phase.LENT
        order = base64.b64encode(pack(self._order)).decode()
        lent = {name: fd for name, fd in zip(LENT, self._lent, strict=True) if fd >= 0}
        with theirs:
            self._answer(
                [*lent.values(), theirs.fileno()],
                protocol=PROTOCOL, release=VERSION, pid=os.getpid(), order=order, environ=dict(os.environ),
                prefix=sys.prefix, names=[*lent, "pair"], runs=json.loads(runs),
            )  # fmt: skip

    def _yield(self, link: UpgradeLink, folder: Any, drain_s: Any) -> None:
        if not isinstance(folder, str) or not Path(folder).name or not isinstance(drain_s, (int, float)):
            self._refuse(link, f"'yield' needs a folder and drain_s in seconds, not {folder!r} and {drain_s!r}")
            return
        self._heir, self._drain_s = InstanceFolder(self._folder.path.with_name(Path(folder).name)), float(drain_s)
        self._phase = Phase.YIELDING
        self._end_controller(Phase.YIELDING)

    def _end_controller(self, phase: Phase) -> None:
        if not self._host.end_controller(signal.SIGTERM):
            self.controller_exited()
            return
        self._after(EXIT_LIMIT_S, lambda: self._kill_controller(phase))

    def _kill_controller(self, phase: Phase) -> None:
        if self._phase is phase:
            self._host.end_controller(signal.SIGKILL)

    def _controller_is_gone(self) -> None:
        try:
            keep_state(Path(self._order.settings.state_dir))
        except OSError as error:
            if self._link is not None:
                self._refuse(self._link, f"the state could not be kept aside: {error}")
            self._phase = Phase.LENT
            self._host.start_controller()
            return
        self._phase = Phase.YIELDED
        self._answer()

    def _hear_other(self) -> None:
        assert self._other is not None
        try:
            data = self._other.recv(len(KEPT))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data == KEPT and self._phase in (Phase.YIELDED, Phase.RETURNING):  # whoever upgraded may be dead by now
            self._give()
        elif not data:
            self._selector.unregister(self._other)
            self._other.close()
            self._other = None
            self._come_back()

    def _give(self) -> None:
        self._phase = Phase.GIVEN
        self._heir.take_name(self._order.settings.name)
        self._host.leave(self._drain_s)

    def _take_back(self) -> None:
        if self._phase is Phase.YIELDING:  # its controller is on its way out, and is waited for
            self._after(0.05, self._take_back)
            return
        if self._phase in (Phase.ASKED, Phase.LENT):
            self._phase = Phase.IDLE
            if self._answers:
                self._answer()
            self._answers = False
        elif self._phase is Phase.YIELDED:
            self._phase = Phase.RETURNING
            self._folder.take_name(self._order.settings.name)
            self._come_back()

    def _come_back(self) -> None:
        """Go on as before, once the new supervisor and its controller are gone."""
        if self._phase is not Phase.RETURNING or self._other is not None:
            return
        try:
            bring_back(Path(self._order.settings.state_dir))
        except OSError as error:
            self._log(f"the state is as the other release has left it, since it could not be brought back: {error}")
        self._phase = Phase.IDLE
        self._host.start_controller()
        if self._answers:
            self._answer()
        self._answers = False

    # The new one

    def _keep(self) -> None:
        self._phase = Phase.IDLE
        if self._pair >= 0:
            with contextlib.suppress(BrokenPipeError):  # the old one was killed: then nobody else has the instance
                os.write(self._pair, KEPT)
            os.close(self._pair)
            self._pair = -1
        self._folder.take_name(self._order.settings.name)
        for path in self._folder.path.glob(DATABASE):  # the copy of the trial, which lies in memory as a rule
            path.unlink()
        self._host.go_on_alone()
        self._answer()
