"""Starts an instance on this machine: everything that the driver does before the supervisor runs.

Sockets are bound here, so that a port in use raises ``OSError`` in the caller (decision 0004); the supervisor inherits
them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from pointsman.engine.aside import finish_return
from pointsman.engine.base import Address, Plan
from pointsman.engine.folder import lock_state_folder, logs_of, missing_folders, remove_new
from pointsman.engine.listening import listen, listen_for_console, listen_for_metrics
from pointsman.engine.local.folder import ANONYMOUS_PREFIX, REFUSAL, About, InstanceFolder, folder_of, sweep_anonymous
from pointsman.engine.local.lookup import address_in
from pointsman.engine.manager import without_manager
from pointsman.engine.process import pack_handover
from pointsman.exceptions import ServeException
from pointsman.usercode.paths import PATH_VARIABLE, python_path
from pointsman.version import VERSION
from pointsman.wire.auth import ROLE_OPERATOR, derive_key
from pointsman.wire.descriptors import is_for_output, keep_standard_descriptors
from pointsman.wire.handover import SupervisorOrder
from pointsman.wire.stream import listen_private

log = logging.getLogger(__name__)

#: How often the end of an instance that another release has taken over is looked for.
POLL_S = 0.02
_Bound = subprocess.Popen[bytes]


class LocalInstance:
    """An instance that this process has started: the local engine's :class:`~pointsman.engine.base.Raised`.

    Args:
        address: the operator's address.
        process: the supervisor.
        lifeline: the write end of the pipe whose end of file ends a bound instance; None for a detached one.
    """

    def __init__(self, address: Address, process: subprocess.Popen[bytes], lifeline: int | None) -> None:
        self.address = address
        self._process = process
        self._lifeline = lifeline
        # A forked child of the driver must not keep the lifeline open after the driver has exited.
        self._owner = os.getpid()
        os.register_at_fork(after_in_child=self._close_lifeline)

    @property
    def bound(self) -> bool:
        return self._lifeline is not None

    def serves(self) -> None:
        """Does nothing: the port needs no reservation, since the ingresses inherit the listening socket."""

    def refusal(self) -> str:
        try:
            return folder_of(self.address.control_path).read(REFUSAL).decode()
        except (OSError, ServeException):
            return ""

    def release(self) -> None:
        """Does nothing: all that this process held is closed."""

    @property
    def over(self) -> bool:
        return self._process.returncode is not None

    def before_exit(self, action: Callable[[], object]) -> None:
        """Does nothing: the instance can be reached until this process exits, and ``action`` is a finalizer too."""

    def let_go(self) -> None:
        """End a bound instance by closing its lifeline."""
        if os.getpid() == self._owner:
            self._close_lifeline()

    def wait_for_end(self, timeout_s: float) -> bool:
        if os.getpid() != self._owner:
            return True
        deadline = time.monotonic() + timeout_s
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._remove_rest()
            return False
        if self._process.returncode < 0:
            self._remove_rest()
        while self._is_taken_over():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True

    def _remove_rest(self) -> None:
        """Remove what a killed supervisor could not remove itself, unless another release runs the instance now."""
        folder = folder_of(self.address.control_path)
        if not folder.is_alive():
            folder.remove()

    def _is_taken_over(self) -> bool:
        """Whether another release runs the instance now."""
        folder = folder_of(self.address.control_path)
        try:
            return folder.is_alive() and folder.about().instance == self.address.instance
        except (OSError, ServeException):
            return False  # it has ended, or another one of its name has only begun to start

    def _close_lifeline(self) -> None:
        lifeline, self._lifeline = self._lifeline, None
        if lifeline is not None:
            os.close(lifeline)


def raise_instance(plan: Plan) -> LocalInstance:
    """Lock the folders, bind the sockets, start the supervisor. Returns before the instance is ready.

    The sockets come last: where an instance with this name or state folder runs already, its port is taken as well, and
    the error about the name helps more.

    Raises:
        OSError: the port cannot be bound, or the host not resolved; names both.
        ServeException: a live instance has that name or state folder, or the state folder cannot be used.
    """
    keep_standard_descriptors()
    settings = plan.settings
    # ``finally_`` closes this process's descriptors in any case, as the supervisor has inherited them; ``undo`` runs
    # after an error only.
    with contextlib.ExitStack() as finally_, contextlib.ExitStack() as undo:
        sweep_anonymous()
        locks: list[int] = []
        if settings.state_dir:
            undo.callback(remove_new, missing_folders(Path(settings.state_dir)))
            locks.append(lock_state_folder(Path(settings.state_dir)))
            finally_.callback(os.close, locks[0])
            finish_return(Path(settings.state_dir))
        upgradable = bool(settings.name and settings.state_dir) and not plan.bound
        name = settings.name or f"{ANONYMOUS_PREFIX}{secrets.token_hex(6)}"
        folder = InstanceFolder.of_its_own() if upgradable else InstanceFolder.of(name)
        locks.append(folder.create())
        finally_.callback(os.close, locks[-1])
        undo.callback(folder.remove)
        if upgradable:
            folder.claim(name)
        listener = plan.listener
        if listener is None and settings.http is not None:
            listener = listen(settings.http.host, settings.http.port)
        if listener is not None:
            finally_.callback(listener.close)
        metrics = listen_for_metrics(settings.metrics) if settings.metrics else None
        if metrics is not None:
            finally_.callback(metrics.close)
        console = listen_for_console(settings.console) if settings.console else None
        if console is not None:
            finally_.callback(console.close)
        if listener is not None:
            settings = settings.on_port(listener.getsockname()[1])
        if console is not None:
            settings = settings.with_console_at(console.getsockname()[1])
        order = SupervisorOrder(
            settings, str(folder.path), sys.executable, plan.bound, plan.capacity, json_lines=plan.json_lines
        )
        process, lifeline = start_supervisor(
            order, Sockets(listener, metrics, console), locks, state_lock=locks[0] if settings.state_dir else -1
        )
        if not plan.bound:
            os.close(lifeline)
        # By its name, which leads to another folder once another release has taken it over.
        address = address_in(InstanceFolder.of(name))
        undo.pop_all()
        return LocalInstance(address, process, lifeline if plan.bound else None)


class Sockets(NamedTuple):
    """The listening sockets of an instance; None for those that it has not."""

    http: socket.socket | None
    metrics: socket.socket | None
    console: socket.socket | None


def start_supervisor(
    order: SupervisorOrder,
    sockets: Sockets,
    locks: Sequence[int],
    *,
    pair: int = -1,
    state_lock: int = -1,
    environment: Mapping[str, str] | None = None,
) -> tuple[_Bound, int]:
    """Start a supervisor in its folder, which exists.

    Args:
        sockets: are inherited, and remain open here.
        locks: descriptors that the supervisor inherits and never uses: they are released when it exits, however that
            happens.
        pair: see :class:`~pointsman.engine.local.upgrade.Upgrade`; -1 without one.
        state_lock: the one of ``locks`` that is of the state folder; -1 without one.
        environment: its environment variables; by default those of this process.

    Returns:
        Its process, and the write end of its lifeline.
    """
    settings, folder = order.settings, InstanceFolder(Path(order.folder))
    handover = pack_handover(order)
    control = listen_private(str(folder.control_socket))
    read_end, write_end = os.pipe()
    upgrade = listen_private(str(folder.upgrade_socket)) if _can_be_taken_over(order) else None
    listening = (control, *sockets, upgrade)
    fds = (read_end, *(one.fileno() if one is not None else -1 for one in listening), pair, state_lock)
    if sockets.metrics is not None:
        folder.metrics.mkdir(mode=0o700)
    try:
        process = _spawn_supervisor(fds, locks, echo=order.bound, environment=environment)
    except BaseException:
        os.close(write_end)
        raise
    finally:
        os.close(read_end)
        control.close()
        if upgrade is not None:
            upgrade.close()
    os.write(write_end, handover)
    about = About(
        instance=settings.instance,
        name=settings.name,
        pid=process.pid,
        http_host=settings.http_host,
        http_port=settings.http_port,
        request_timeout_s=settings.request_timeout_s,
        ingresses=settings.ingresses,
        metrics_host=settings.metrics.host if settings.metrics else None,
        metrics_port=sockets.metrics.getsockname()[1] if sockets.metrics is not None else 0,
        logs=str(logs_of(order.folder, settings.state_dir)),
        secure=settings.http_lock.tls is not None,
        console=settings.console_url,
        release=VERSION,
    )
    folder.write("key", derive_key(settings.master_key, ROLE_OPERATOR))
    folder.write("about", msgspec.json.encode(about))
    return process, write_end


def _can_be_taken_over(order: SupervisorOrder) -> bool:
    """Whether another release can take the instance over (decision 0104)."""
    return bool(order.settings.name and order.settings.state_dir) and not order.bound


class _DetachedProcess(_Bound):
    """A process that is left running on purpose: the destructor of Popen would warn of that."""

    def __del__(self) -> None:
        pass


def _spawn_supervisor(
    fds: Sequence[int], locks: Sequence[int], *, echo: bool, environment: Mapping[str, str] | None
) -> _Bound:
    output, errors = (
        None if echo and is_for_output(stream) else subprocess.DEVNULL for stream in (sys.__stdout__, sys.__stderr__)
    )
    return (_Bound if echo else _DetachedProcess)(
        [sys.executable, "-m", "pointsman.engine.local.supervisor", *map(str, fds)],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        cwd="/",
        env=process_environment() if environment is None else environment,
        pass_fds=[*(fd for fd in fds if fd >= 0), *locks],
        start_new_session=True,
    )


def process_environment() -> dict[str, str]:
    """The driver's environment variables, so that children import this same package and do not buffer output; without
    those that a service manager has set for the driver alone."""
    environment = without_manager({**os.environ, "PYTHONUNBUFFERED": "1"})
    path = python_path()
    return {**environment, PATH_VARIABLE: path} if path else environment
