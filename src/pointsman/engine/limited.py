"""A process for a function of the user's that another process of ours asks: limited in memory, and killed by whoever
asks if an answer takes too long.

Both ends are here. What is sent is bytes, each message after its length; what they mean is the business of who sends
them. Everything blocks: whoever asks does that on a thread.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from struct import Struct

from pointsman.engine.process import die_with_parent
from pointsman.usercode.paths import PATH_VARIABLE, python_path

MAX_MEMORY = 2 * 1024**3
"""Bytes of address space of such a process."""
START_S = 20.0
"""How long the import of a user's function may take."""
LENGTH = Struct("<I")
READY = b"ready"


class LimitedProcess:
    """A process that has imported a user's function, or is about to.

    Args:
        module: what it runs, with the number of its end of a socket as argument.
        first: its first message.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, module: str, first: bytes) -> None:
        self._ours, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                cwd="/",
                env={**os.environ, PATH_VARIABLE: python_path()},
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # so that what user code forks is killed, too
            )
        finally:
            theirs.close()
        with contextlib.suppress(OSError):  # it has ended already, which is seen at the next read
            self._ours.sendall(LENGTH.pack(len(first)) + first)

    def ask(self, data: bytes, limit_s: float) -> bytes | None:
        """The answer to some bytes, which say where they end; nothing if the process has died, None if it took too
        long."""
        deadline = time.monotonic() + limit_s
        try:
            self._ours.settimeout(limit_s)
            self._ours.sendall(data)
        except TimeoutError:
            return None
        except OSError:
            return b""
        return self.read(deadline - time.monotonic())

    def ask_message(self, message: bytes, limit_s: float) -> bytes | None:
        """The same for a message, which the process reads by :func:`read_message`."""
        return self.ask(LENGTH.pack(len(message)) + message, limit_s)

    def read(self, limit_s: float) -> bytes | None:
        """What it says next; nothing if it has died, None if it took too long."""
        deadline, data = time.monotonic() + limit_s, b""
        while len(data) < LENGTH.size or len(data) < LENGTH.size + LENGTH.unpack_from(data)[0]:
            if not select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            try:
                more = self._ours.recv(65536)
            except OSError:
                return b""
            if not more:
                return b""
            data += more
        return data[LENGTH.size :]

    def signal_end(self) -> None:
        """Kill it, from any thread: whoever reads gets nothing then, and calls :meth:`kill`."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """Kill it, and all that it has forked."""
        self._ours.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


# --- the other end -----------------------------------------------------------------------------------------------


def connected() -> socket.socket:
    """The socket of such a process, which is limited from here on, and ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    limit_memory()
    return socket.socket(fileno=int(sys.argv[1]))


def limit_memory() -> None:
    """Limit the memory of this process to :data:`MAX_MEMORY`."""
    with contextlib.suppress(ValueError, OSError):  # a lower limit holds already
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))


def read_message(connection: socket.socket) -> bytes:
    """The next message. The process ends if there is none: the parent has ended."""
    return _exactly(connection, LENGTH.unpack(_exactly(connection, LENGTH.size))[0])


def write_message(connection: socket.socket, message: bytes) -> None:
    """Send a message."""
    connection.sendall(LENGTH.pack(len(message)) + message)


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            os._exit(0)  # the parent has ended
        data += more
    return data
