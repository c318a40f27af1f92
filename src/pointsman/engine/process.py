"""Starts and ends processes of an instance (in the parent), and sets them up (in the child): lifeline, logs, loop.

The lifeline is an inherited pipe. It carries the start arguments, keys included, and stays open: its end of file means
that the parent has exited, and then the child exits too, whatever user code is doing.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Coroutine
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, Any, TypeVar

from pointsman.limits import check_size
from pointsman.model import Environment
from pointsman.telemetry import logs, tracing
from pointsman.wire.messages import pack, unpack

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

_LENGTH = Struct("<I")
#: Fits the 64 KiB buffer of a pipe, so that a parent never blocks on a child that does not read yet.
MAX_HANDOVER = 60 * 1024
PR_SET_PDEATHSIG = 1
#: The function that an actor runs, by role; the local engine runs ``python -m pointsman.<role>``.
MAINS = {
    "console": "pointsman.console.__main__:serve",
    "controller": "pointsman.controller.main_ray:serve_on_ray",
    "ingress": "pointsman.ingress.__main__:run",
    "replica": "pointsman.replica.__main__:run",
}
#: Role of a replica's process that waits for a backend, and the environment variable that tells it so.
SPARE = "spare"
SPARE_VARIABLE = "POINTSMAN_SPARE"
#: Of the console: requests go first.
CONSOLE_NICENESS = 19
#: What an ingress gets when another release has taken over its socket, and there is no controller to say its limit.
HANDED_OVER = signal.SIGUSR2
#: How long requests may still run in a process whose instance has ended without it.
ORPHANED_DRAIN_S = 1.0
#: Exit code of a controller that refuses to start because its store is damaged, and has written down why.
EXIT_REFUSED = 3


def pack_handover(message: object, *, limit: int = MAX_HANDOVER) -> bytes:
    """The bytes to write into a child's lifeline.

    Args:
        limit: in bytes; may be larger if they do not go through a pipe.

    Raises:
        TooLargeError: they are over the limit.
    """
    data = pack(message)
    check_size(f"what a new process is given ({type(message).__name__}) takes", len(data), limit)
    return _LENGTH.pack(len(data)) + data


def unpack_handover(data: bytes, message: type[T]) -> T:
    """Unpack what :func:`pack_handover` has packed, if it did not come through a pipe."""
    return unpack(data[_LENGTH.size :], message)


class Lifeline:
    """The child's end of the pipe.

    Args:
        fd: the pipe's read end.
        extra_fd: another inherited descriptor; -1 if there is none.
    """

    def __init__(self, fd: int, extra_fd: int = -1) -> None:
        self._fd = fd
        self.extra_fd = extra_fd

    @classmethod
    def from_argv(cls) -> Lifeline:
        """From this process's command line: the number of the descriptor, then that of the extra one."""
        return cls(*(int(argument) for argument in sys.argv[1:3]))

    def read(self, message: type[T]) -> T:
        """Read the handover, and exit with the parent from now on. A SIGINT that came before ends this process now."""
        take_interrupts()
        handover = self.read_only(message)
        # Both, since neither suffices: the kernel's signal exists on Linux only, and the thread needs the interpreter.
        die_with_parent()
        self.watch(lambda: os._exit(1))
        return handover

    def read_only(self, message: type[T]) -> T:
        """Read the handover."""
        size = _LENGTH.unpack(self._read_exactly(_LENGTH.size))[0]
        return unpack(self._read_exactly(size), message)

    def watch(self, on_end: Callable[[], object]) -> None:
        """Call ``on_end`` on a side thread when the parent has exited."""
        threading.Thread(target=self._wait_for_end, args=(on_end,), name="pointsman-lifeline", daemon=True).start()

    def _read_exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = os.read(self._fd, size - len(data))
            if not more:
                sys.exit("the parent process ended before it handed over")
            data += more
        return data

    def _wait_for_end(self, on_end: Callable[[], object]) -> None:
        while os.read(self._fd, 4096):
            continue
        on_end()


def take_interrupts() -> None:
    """Let SIGINT end this process, without a traceback, until it has a handler of its own.

    :func:`spawn` has blocked it: in the middle of an import Python would raise KeyboardInterrupt.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def die_with_parent() -> None:
    """Linux: have the kernel kill this process with its parent, in case user code holds the GIL at that moment."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A uvloop loop if uvloop is installed, else one of asyncio."""
    try:
        import uvloop
    except ImportError:
        import asyncio

        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def run_process(main: Coroutine[Any, Any, None], *, process: str, log_format: str) -> None:
    """Run a process's main coroutine to its end, with logs going to standard error, one line per event.

    Raises:
        SystemExit: this process has ``PYTHONHASHSEED=0``.
    """
    import asyncio  # not above: the supervisor has no loop, and is what the start of an instance waits for first

    if not sys.flags.hash_randomization:
        # With predictable hashes a client could choose keys that all collide in a dict, such as names of headers.
        main.close()
        sys.exit(f"the {process} does not start with PYTHONHASHSEED=0; unset it, or give another number")
    logs.set_up(log_format, process)
    tracing.set_up(process)
    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(main)
    finally:
        leftovers = asyncio.all_tasks(loop)
        for task in leftovers:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(asyncio.gather(*leftovers, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        _warn_without_raising()
        loop.close()
        tracing.close()


def _warn_without_raising() -> None:
    """Keep ResourceWarnings about what user code left open from being raised: uvloop would stop closing the loop at the
    first one, and wait for ever."""
    if any(action == "error" and issubclass(ResourceWarning, category) for action, _, category, *_ in warnings.filters):
        warnings.simplefilter("default", ResourceWarning)


def main_of(role: str) -> Callable[..., Any]:
    """The main function of a role. It is imported by name, since an engine must not import what it starts; this is the
    only place that imports our own modules by name."""
    module, _, function = MAINS[role].partition(":")
    main: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return main


class Child:
    """A process that was started with :func:`spawn`, seen from its parent."""

    def __init__(
        self, process: subprocess.Popen[bytes], lifeline: int, role: str, number: int, metadata: bytes = b""
    ) -> None:
        self.process = process
        self.lifeline = lifeline
        self.role = role
        self.number = number
        self.metadata = metadata
        self.started = time.monotonic()

    def signal(self, signum: int) -> None:
        """Send a signal to the process; SIGKILL to its whole group, which includes processes that user code forked.

        Other signals do not go to those: requests that the process finishes may still need them. Does nothing once the
        process has exited, since its pid may be reused.
        """
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if signum == signal.SIGKILL:
                    os.killpg(self.process.pid, signum)
                else:
                    self.process.send_signal(signum)

    def reap(self) -> str:
        """Clean up after its exit: kill what user code forked, close the lifeline. Returns how it ended, in words."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        os.close(self.lifeline)
        code = self.process.returncode
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def spawn(
    python: str,
    role: str,
    number: int,
    handover: bytes,
    *,
    env: dict[str, str],
    fds: tuple[int, ...],
    environment: Environment | None = None,
    held: tuple[int, ...] = (),
) -> tuple[Child, int]:
    """Start ``python -m pointsman.<role>`` with a lifeline that carries ``handover``; SIGINT waits until it reads that.

    Args:
        env: environment variables; they override inherited ones and those of ``environment``.
        held: descriptors that it inherits besides ``fds``, and is not told of.
        environment: provides the interpreter in place of ``python``, and environment variables.

    Returns:
        The child, and the read end of the pipe for its output.

    Raises:
        OSError: the process could not be started.
    """
    read_end, write_end = os.pipe()
    try:
        output_read, output_write = os.pipe()
    except OSError:
        os.close(read_end)
        os.close(write_end)
        raise
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # inherited, until ``take_interrupts``
    try:
        process = subprocess.Popen(
            [environment.python if environment else python, "-m", f"pointsman.{role}", str(read_end), *map(str, fds)],
            stdin=subprocess.DEVNULL,
            stdout=output_write,
            stderr=output_write,
            cwd="/",  # so that no module in the user's working directory shadows one that we import
            env={**(environment.over(os.environ) if environment else os.environ), **env},
            pass_fds=(read_end, *fds, *held),
            start_new_session=True,
        )
    except BaseException:
        os.close(write_end)
        os.close(output_read)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(read_end)
        os.close(output_write)
    with contextlib.suppress(BrokenPipeError):  # it has exited already, which its parent will notice
        os.write(write_end, handover)
    return Child(process, write_end, role, number), output_read


def is_stopped(pid: int) -> bool:
    """True if a process is known to be stopped by a signal; False if that is unknown."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False  # it has exited, or this system has no /proc
    # The state follows the command's name, which is in parentheses and may contain any character.
    return status.rpartition(b") ")[2][:1] in (b"T", b"t")
