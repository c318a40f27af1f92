"""A service manager, such as systemd: the listening socket that it hands over, by the protocol of ``sd_listen_fds``,
and what it is told, by that of ``sd_notify``.

Over a restart the manager keeps the socket, and clients wait in its backlog. So whoever takes it accepts nobody before
there is something to answer with.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping

FIRST_FD = 3
NAME = "http"
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
NOTIFY_VARIABLE = "NOTIFY_SOCKET"


def without_manager(environ: Mapping[str, str]) -> dict[str, str]:
    """The same variables without those that are for one process alone: its children are not what they speak of."""
    return {name: value for name, value in environ.items() if name not in (*VARIABLES, NOTIFY_VARIABLE)}


def take_listener(environ: MutableMapping[str, str], pid: int, *, first_fd: int = FIRST_FD) -> socket.socket | None:
    """The socket for HTTP that was handed over to this process; None if none was. Its variables are removed.

    Args:
        environ: the variables of this process.
        pid: of this process.
        first_fd: number of the first descriptor that is handed over.

    Raises:
        ValueError: what was handed over is not one listening TCP socket, or several of which one is named ``http``.
    """
    for_pid, count, names = (environ.pop(name, "") for name in VARIABLES)
    if for_pid != str(pid) or not count.isdecimal() or not int(count):
        return None
    padded = [*names.split(":"), *[""] * int(count)]
    found = {first_fd + index: padded[index] for index in range(int(count))}
    chosen = list(found) if len(found) == 1 else [fd for fd, name in found.items() if name == NAME]
    if len(chosen) != 1:
        raise ValueError(
            f"{count} sockets were handed over (LISTEN_FDS), named {names!r}; hand over one, or name one of them"
            f" {NAME!r} (FileDescriptorName={NAME})"
        )
    for fd in found:
        os.set_inheritable(fd, False)
        if fd not in chosen:
            os.close(fd)
    return _listening(chosen[0])


def _listening(fd: int) -> socket.socket:
    try:
        taken = socket.socket(fileno=fd)
    except OSError as error:
        raise ValueError(
            f"descriptor {fd}, which was handed over (LISTEN_FDS), is no socket: {error.strerror}"
        ) from None
    if taken.family not in (socket.AF_INET, socket.AF_INET6) or taken.type != socket.SOCK_STREAM:
        raise ValueError(f"the socket that was handed over (LISTEN_FDS) is {taken.family.name}, not TCP")
    if not taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ValueError("the socket that was handed over (LISTEN_FDS) does not listen; say Accept=no in its unit")
    return taken


class ServiceManager:
    """Whoever started this process and wants to know when it is ready.

    Args:
        address: of its datagram socket, ``@`` at the beginning for an abstract one; empty if nobody wants to know.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    @classmethod
    def of(cls, environ: MutableMapping[str, str]) -> ServiceManager:
        """The one that the variables name. They are removed, since children are not to speak for this process."""
        return cls(environ.pop(NOTIFY_VARIABLE, ""))

    def ready(self, status: str) -> None:
        """This process serves; ``status`` says so in words."""
        self._send(f"READY=1\nSTATUS={status}")

    def starting(self, status: str) -> None:
        """What is done until this process serves."""
        self._send(f"STATUS={status}")

    def stopping(self) -> None:
        """This process has begun to end."""
        self._send("STOPPING=1\nSTATUS=Stopping")

    def _send(self, message: str) -> None:
        if self._address[:1] not in ("/", "@"):
            return
        to = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.connect(to)
                sender.sendall(message.encode())
        except OSError:
            pass  # a manager that has gone, or does not listen, must not keep this process from serving
