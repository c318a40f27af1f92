"""The new instance of an upgrade, as the command that upgrades sees it: started beside the old one, looked at until it
is up, told to take over and to keep the instance, or ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pointsman.calling.session import Session, operator
from pointsman.client.operations import new_id
from pointsman.client.upgraderoom import check_memory, check_room, share_capacity
from pointsman.engine.local.driver import Sockets, start_supervisor
from pointsman.engine.local.folder import REFUSAL, InstanceFolder
from pointsman.engine.local.lookup import address_in
from pointsman.engine.local.upgradelink import LinkLostError, RunningBackend, UpgradeLink
from pointsman.engine.memory import memory_left, own_memory
from pointsman.environments.resolve import caller
from pointsman.exceptions import ServeException
from pointsman.model import Allocation, Move, Resources
from pointsman.usercode.paths import PATH_VARIABLE, python_path
from pointsman.version import VERSION
from pointsman.wire.commands import ComeUp, Query, Status
from pointsman.wire.handover import SupervisorOrder
from pointsman.wire.messages import unpack

ANSWER_S = 30.0
"""How long a supervisor may take to answer a word: it waits for the end of a controller, and copies the state."""
TAKE_OVER_S = 60.0
"""How long the new controller may take with the state itself: what it needs is loaded already."""
END_S = 30.0
POLL_S = 0.1
MIN_DRAIN_S = 1.0
#: A backend that fails so often in its trial cannot come up.
TRIES = 3
#: Environment variables that say where a release is installed: they are this process's, all others the old one's.
OF_THE_RELEASE = ("PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME")

Tell = Callable[[str], None]


class TakenBackError(ServeException):
    """The new release could not come up, and the old one goes on as before.

    Attributes:
        backend: that failed; empty if it was something else.
        traceback: of user code, if that raised.
        runs_on: whether the old one goes on; False if somebody has ended it meanwhile.
    """

    def __init__(self, text: str, *, backend: str = "", traceback: str = "", runs_on: bool = True) -> None:
        super().__init__(text)
        self.runs_on = runs_on
        self.backend = backend
        self.traceback = traceback


class Lent(NamedTuple):
    """What an old supervisor has lent."""

    order: SupervisorOrder
    release: str
    prefix: str
    environ: dict[str, str]
    runs: dict[str, RunningBackend]
    descriptors: dict[str, int]

    def socket(self, name: str) -> socket.socket | None:
        """The socket of that name, of which this process has one more descriptor from now on."""
        fd = self.descriptors.get(name)
        return socket.socket(fileno=os.dup(fd)) if fd is not None else None

    def close(self) -> None:
        """Close the descriptors that this process has."""
        while self.descriptors:
            os.close(self.descriptors.popitem()[1])


class Heir:
    """The new instance.

    Args:
        lent: what the old one has lent.
        show: is shown how far it is.
        old: the connection to the old supervisor, whose end is the end of the old instance.

    Attributes:
        folder: of the new instance.
        failing: backends that fail in both.
        drain_s: how long requests may still run in the old one.
    """

    def __init__(self, lent: Lent, *, show: Tell, old: UpgradeLink) -> None:
        self._lent = lent
        self._old = old
        self._show = show
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        self._session: Session | None = None
        self._link: UpgradeLink | None = None
        self._needed: dict[str, RunningBackend] = {}
        self.folder = InstanceFolder.of_its_own()
        self.failing: tuple[str, ...] = ()
        self.drain_s = MIN_DRAIN_S
        self._order = lent.order

    def prepare(self, backends: Mapping[str, RunningBackend]) -> None:
        """Look whether there is room. Raises NoRoomError: there is not.

        Args:
            backends: of the old instance.
        """
        self._needed = {tag: view for tag, view in backends.items() if view.ready or not view.wanted}
        self.failing = tuple(tag for tag in backends if tag not in self._needed)
        self.drain_s = max([MIN_DRAIN_S, *(view.drain_s for view in backends.values())])
        needs = {tag: needs_of(view) for tag, view in backends.items()}
        held = [Allocation(needs[tag], one.gpus) for tag in needs for one in backends[tag].replicas]
        whole, free = share_capacity(self._lent.order.capacity, held)
        check_room(free, {tag: (needs[tag], view.wanted) for tag, view in self._needed.items()})
        check_memory(own_memory(one.pid for view in backends.values() for one in view.replicas), memory_left())
        old = self._lent.order.settings
        settings = msgspec.structs.replace(
            old,
            generation=old.generation + 1,
            move=Move(self._lent.prefix, caller(), tuple(_of_the_old(self._lent.environ))),
            ready_when_told=True,
            holds_connections=old.http is not None,
        )
        self._order = SupervisorOrder(
            settings, str(self.folder.path), sys.executable, bound=False, capacity=whole, trial=free
        )

    def start(self) -> None:
        """Start it, on a copy of the state."""
        from pointsman.controller.store.sqlite import copy_state

        lock = self.folder.create()
        sockets = Sockets(*(self._lent.socket(name) for name in ("http", "metrics", "console")))
        try:
            copy_state(Path(self._order.settings.state_dir) / "state.db", self.folder.path / "state.db")
            state_lock, pair = self._lent.descriptors["lock"], self._lent.descriptors["pair"]
            self._process, self._lifeline = start_supervisor(
                self._order, sockets, [lock],
                pair=pair, state_lock=state_lock, environment=environment_of(self._lent.environ, os.environ),
            )  # fmt: skip
        finally:
            os.close(lock)
            for one in sockets:
                if one is not None:
                    one.close()
        os.close(self._lent.descriptors.pop("pair"))  # so that the old one sees the end of the new one
        # Not the session of the old one, whose instance has the same id.
        session = Session(operator(address_in(self.folder)))
        session.start()
        self._session = session

    def wait_until_up(self, limit_s: float) -> None:
        """Return when all backends that run in the old one run here, and the HTTP servers know them.

        Raises:
            TakenBackError: one of them cannot come up.
            TimeoutError: they have not within the limit.
        """
        deadline = time.monotonic() + limit_s
        while True:
            if (self._process is not None and self._process.poll() is not None) or self._has_refused():
                raise TakenBackError(self._refusal())
            if not self._old.is_open:
                raise LinkLostError
            status = self._status(max(0.1, deadline - time.monotonic()))
            if self._is_up(status):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"not all backends were ready within {limit_s:g} s: {self._missing(status)}")
            self._show(self._missing(status))
            time.sleep(POLL_S)

    def take_over(self) -> None:
        """Go on with the state itself; the old controller has ended."""
        self._link = UpgradeLink.to(str(self.folder.upgrade_socket))
        ask(self._link, "take")
        for tag, view in self._status(TAKE_OVER_S).backends.items():  # also those that came during the trial
            if tag not in self.failing and view.failure is None:
                self._needed.setdefault(tag, RunningBackend(ready=view.wanted, wanted=view.wanted))
        self.wait_until_up(TAKE_OVER_S)
        assert self._session is not None
        self._session.command(ComeUp(new_id(), self._order.settings.start), timeout_s=TAKE_OVER_S)
        self.wait_until_up(TAKE_OVER_S)

    def keep(self) -> None:
        """The instance is the new one's from here on."""
        assert self._link is not None
        ask(self._link, "keep")

    @property
    def is_kept(self) -> bool:
        """Whether the name leads to it."""
        try:
            return os.readlink(self.folder.path.with_name(self._order.settings.name)) == self.folder.path.name
        except OSError:
            return False

    def let_go(self) -> None:
        """It goes on without this process."""
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._session is not None:
            self._session.close()
            self._session = None
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def end(self) -> None:
        """End it, unless it is kept; it has done nothing that anybody has seen."""
        self.let_go()
        if self._process is None:
            self.folder.remove()
            return
        if self.is_kept:
            return
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            if self.is_kept:
                return  # it has heard that after all
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self.folder.remove()

    def explained(self, error: Exception) -> TakenBackError:
        """The error for users."""
        if isinstance(error, TakenBackError):
            return error
        if not self._old.is_open:
            return TakenBackError("the running instance has ended, or was asked to", runs_on=False)
        return TakenBackError("the new supervisor is gone" if isinstance(error, LinkLostError) else str(error))

    def _status(self, timeout_s: float) -> Status:
        assert self._session is not None
        try:
            return unpack(self._session.command(Query(new_id()), timeout_s=timeout_s), Status)
        except ServeException as error:
            raise TakenBackError(self._refusal() or str(error)) from None

    def _has_refused(self) -> bool:
        return (self.folder.path / REFUSAL).exists()

    def _refusal(self) -> str:
        try:
            said = self.folder.read(REFUSAL).decode()
            return said.replace(str(self.folder.path), self._order.settings.state_dir)  # of which it has a copy
        except (OSError, ServeException):
            logs = Path(self._order.settings.state_dir) / "logs"
            return f"the supervisor of release {VERSION} has ended; {logs} may say why"

    def _is_up(self, status: Status) -> bool:
        for tag in self._needed:
            view = status.backends.get(tag)
            if view is None:  # it was deleted meanwhile
                continue
            if view.failure is not None and view.failure.failures >= TRIES and not view.ready:
                raise TakenBackError(
                    f"backend {tag!r} does not start with release {VERSION}: {view.failure.text}",
                    backend=tag,
                    traceback=view.failure.traceback,
                )
            if view.ready < min(self._needed[tag].ready, view.wanted):
                return False
        servers = status.ingresses
        return len(servers) == self._order.settings.ingresses and all(one.pid and one.up_to_date for one in servers)

    def _missing(self, status: Status) -> str:
        """How far loading is."""
        views = [status.backends[tag] for tag in self._needed if tag in status.backends]
        waited = [view for view in views if view.ready < min(self._needed[view.spec.tag].ready, view.wanted)]
        if not waited:
            return "waiting for the HTTP servers"
        return ", ".join(f"{view.spec.tag}: {view.ready}/{view.wanted} replicas ready" for view in waited)


def needs_of(backend: RunningBackend) -> Resources:
    """What one replica of it needs."""
    return Resources(backend.num_cpus, backend.num_gpus, backend.memory, backend.custom)


def environment_of(old: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """The environment variables of the new instance: the old one's, but for those that say where a release is.

    Args:
        own: this process's.
    """
    new = {**old, **{name: own[name] for name in OF_THE_RELEASE if name in own}}
    mine = [entry for entry in python_path().split(os.pathsep) if entry]
    left = _of_the_old(old)
    others = [entry for entry in old.get(PATH_VARIABLE, "").split(os.pathsep) if entry and entry not in mine]
    path = [*mine, *(entry for entry in others if entry not in left)]
    new.pop(PATH_VARIABLE, None)
    return {**new, PATH_VARIABLE: os.pathsep.join(path)} if path else new


def _of_the_old(environ: Mapping[str, str]) -> list[str]:
    """The folders on the old one's import path in which it finds its release, and this process not its own."""
    mine = python_path().split(os.pathsep)
    entries = [entry for entry in environ.get(PATH_VARIABLE, "").split(os.pathsep) if entry and entry not in mine]
    return [entry for entry in entries if (Path(entry) / "pointsman" / "__init__.py").exists()]


def ask(link: UpgradeLink, word: str, **fields: Any) -> None:
    link.ask(word, timeout_s=ANSWER_S, **fields)
