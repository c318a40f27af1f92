"""The words by which one release of Pointsman takes an instance over from another (decision 0104): a line of JSON each,
with descriptors beside it, on a Unix socket of the supervisor.

    begin                   the order that the instance was started with, its environment, its sockets, and what runs
    yield {folder, drain_s} the controller ends, so that the state is quiet; its files are kept aside
    resume                  take back what was yielded; answered once it is. The end of the connection says the same
    take                    to the new supervisor: use the state itself instead of the copy
    keep                    to the new supervisor: the instance is yours, and goes on without whoever started you

Each is answered by ``{"ok": true, ...}``, or by ``{"ok": false, "error": text}``, with ``"busy": true`` where another
upgrade is under way. Releases differ at the two ends: a word is never taken away, and what is not known is an error or
ignored.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from pointsman.exceptions import BusyError, ServeException

PROTOCOL = 1
#: Of a line, in bytes. What runs may be thousands of replicas, and an environment may have megabytes.
LIMIT = 1 << 24
MAX_DESCRIPTORS = 16
WRITE_TIMEOUT_S = 5.0


class RunningReplica(msgspec.Struct, frozen=True):
    """One replica of the old instance: its process, 0 for none yet, and the indices of the GPUs that it holds."""

    pid: int = 0
    gpus: tuple[int, ...] = ()


class RunningBackend(msgspec.Struct, frozen=True):
    """One backend of the old instance, in words that every release knows. Numbers of CPUs and GPUs, ``memory`` and
    ``custom`` are what one replica needs."""

    ready: int = 0
    wanted: int = 0
    drain_s: float = 0.0
    num_cpus: float = 0.0
    num_gpus: float = 0.0
    memory: float = 0.0
    custom: dict[str, float] = {}
    replicas: tuple[RunningReplica, ...] = ()


class LinkLostError(ServeException):
    """The other end has closed the connection."""


class UpgradeLink:
    """One end of a connection.

    Args:
        connection: the socket; closed by :meth:`close`.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._received = b""
        self._descriptors: list[int] = []

    @classmethod
    def to(cls, path: str) -> UpgradeLink:
        """Connect to a supervisor. Raises OSError: none listens there."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(path)
        except BaseException:
            connection.close()
            raise
        return cls(connection)

    def ask(self, word: str, *, timeout_s: float, **fields: Any) -> tuple[dict[str, Any], list[int]]:
        """Say a word, and return the answer and the descriptors that came with it.

        Raises:
            BusyError: another upgrade is under way.
            LinkLostError: the other end is gone.
            ServeException: it was refused; the text says why.
            TimeoutError: no answer.
        """
        self.send({"word": word, "protocol": PROTOCOL, **fields})
        self.connection.settimeout(timeout_s)
        while (message := self.read()) is None:
            continue
        if not message.get("ok"):
            error = str(message.get("error") or f"the word {word!r} was refused")
            raise BusyError(error) if message.get("busy") else ServeException(error)
        descriptors, self._descriptors = self._descriptors, []
        return message, descriptors

    def send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send a message. Raises LinkLostError: the other end is gone, or does not read."""
        # Not by msgspec: variables of an environment that are no UTF-8 have surrogates, which that refuses.
        data = json.dumps(message).encode() + b"\n"
        self.connection.settimeout(WRITE_TIMEOUT_S)
        try:
            sent = socket.send_fds(self.connection, [data], list(descriptors)) if descriptors else 0
            self.connection.sendall(data[sent:])
        except OSError as error:
            raise LinkLostError(f"the other supervisor is gone: {error.strerror or error}") from None

    def read(self) -> dict[str, Any] | None:
        """What has come, once it is whole; waits as long as the connection's timeout says.

        Raises:
            LinkLostError: the other end has closed the connection, or has sent what is no message.
            TimeoutError: nothing has come in time.
        """
        if b"\n" not in self._received:
            try:
                data, descriptors, *_ = socket.recv_fds(self.connection, 1 << 16, MAX_DESCRIPTORS)
            except TimeoutError:
                raise TimeoutError("the supervisor has not answered in time") from None
            except OSError as error:
                raise LinkLostError(f"the supervisor is gone: {error.strerror}") from None
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
            self._descriptors += descriptors
            self._received += data
            if not data or len(self._received) > LIMIT:
                raise LinkLostError("the supervisor has closed the connection")
        line, whole, rest = self._received.partition(b"\n")
        if not whole:
            return None
        self._received = rest
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise LinkLostError(f"what came is no message: {error}") from None
        if not isinstance(message, dict):
            raise LinkLostError(f"what came is no message, but a {type(message).__name__}")
        return message

    @property
    def is_open(self) -> bool:
        """Whether the other end has not closed it."""
        self.connection.setblocking(False)  # until the next word
        try:
            return bool(self.connection.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def close(self) -> None:
        """Close it, and descriptors that came and nobody has taken."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []
        self.connection.close()


def is_of_this_user(connection: socket.socket) -> bool:
    """Whether the process at the other end is this user's; True where the system does not say, since only this user can
    enter the folder."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    layout = struct.Struct("3i")
    _, uid, _ = layout.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, layout.size))
    return bool(uid == os.getuid())
